//! `dreamc run --entry forward` and `encode_image`: tensors in, results and probed values out.

use super::device::failure;
use super::error::Failure;
use super::output::{note, output_path, write_whole};
use dream::{Forward, Grid, Model, Output, Patches, Visual};
use dreamc::output_path::OutputPath;
use dreamc_front::VisionTokens;
use dreamc_front::image::PATCH_FEATURES;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct TensorArgs {
    /// Tensors of `--entry forward`: input_ids, attention_mask, position_ids, pixel_values, image_grid_thw; of
    /// `encode_image` the last two
    #[arg(long, value_name = "IN.safetensors")]
    inputs: Option<PathBuf>,
    /// Where these entries write their results and probed values
    #[arg(long, value_name = "OUT.safetensors")]
    outputs: Option<PathBuf>,
    /// Values to write too, by their path: `hidden.*`, `model.layers.0.mlp`
    #[arg(long, value_name = "PATTERN")]
    probe: Vec<String>,
}

/// Where the tensors come from and go to.
pub(crate) struct Files<'a> {
    inputs: &'a Path,
    outputs: OutputPath,
}

impl TensorArgs {
    /// Whether any of these flags is given.
    pub(crate) fn any(&self) -> bool {
        self.inputs.is_some() || self.outputs.is_some() || !self.probe.is_empty()
    }

    /// The files of a request to `artifact`.
    pub(crate) fn files(&self, artifact: &Path) -> Result<Files<'_>, Failure> {
        match (&self.inputs, &self.outputs) {
            (Some(inputs), Some(outputs)) => {
                let outputs = output_path("--outputs", outputs, &[inputs.as_path(), artifact])?;
                Ok(Files { inputs, outputs })
            }
            _ => Err(Failure::usage(
                "the entries `forward` and `encode_image` need --inputs and --outputs",
                "give `--inputs IN.safetensors --outputs OUT.safetensors`",
            )),
        }
    }

    pub(crate) fn probes(&self) -> &[String] {
        &self.probe
    }
}

/// Ids, and images where there are some, to logits.
pub(crate) fn run(model: &mut Model, files: &Files<'_>, probes: &[String]) -> Result<(), Failure> {
    let request = read(files.inputs, model)?;
    let outputs = model.forward(&request, &names(probes)).map_err(failure)?;
    write(&files.outputs, outputs)
}

/// A request from a file of tensors.
pub(crate) fn read(path: &Path, model: &Model) -> Result<Forward, Failure> {
    let inputs = Inputs::read(path, &[IDS.as_slice(), &IMAGES].concat())?;
    let input_ids = inputs.rows("input_ids")?.ok_or_else(|| inputs.wrong("has no tensor `input_ids`"))?;
    let visuals = match (model.settings(), inputs.has("pixel_values") || inputs.has("pixel_values_videos")) {
        (_, false) => Vec::new(),
        (Some(settings), true) => inputs.visuals(&settings.images.tokens, &input_ids.concat())?,
        (None, true) => return Err(failure(dream::Error::NoImages)),
    };
    Ok(Forward {
        input_ids,
        attention_mask: inputs.rows("attention_mask")?,
        position_ids: inputs.planes("position_ids")?,
        visuals,
    })
}

/// Images to the rows that stand for them.
pub(crate) fn encode_image(model: &mut Model, files: &Files<'_>, probes: &[String]) -> Result<(), Failure> {
    let inputs = Inputs::read(files.inputs, &IMAGES[..2])?;
    if !inputs.has("pixel_values") {
        return Err(inputs.wrong("has no tensor `pixel_values`"));
    }
    let visuals = inputs.patches("pixel_values", "image_grid_thw")?;
    let visuals: Vec<Visual> = visuals.into_iter().map(Visual::ImagePatches).collect();
    let outputs = model.encode_image(&visuals, &names(probes)).map_err(failure)?;
    write(&files.outputs, outputs)
}

fn names(probes: &[String]) -> Vec<&str> {
    probes.iter().map(String::as_str).collect()
}

fn write(output: &OutputPath, outputs: Vec<Output>) -> Result<(), Failure> {
    let bug = |error| {
        Failure::failed("the results make no safetensors file: this is a bug in dreamc", "report it")
            .because(error)
    };
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = outputs
        .into_iter()
        .map(|o| (o.name, o.dims, o.data.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::new();
    for (name, dims, bytes) in &stored {
        let view = TensorView::new(Dtype::F32, dims.clone(), bytes).map_err(bug)?;
        views.push((name.as_str(), view));
    }
    let file = safetensors::serialize(views, None).map_err(bug)?;
    write_whole(output, &file)?;
    for (name, dims, _) in &stored {
        note(&format!("{name} f32{dims:?}"));
    }
    Ok(())
}

/// The tensors that the entries take.
const IDS: [&str; 3] = ["input_ids", "attention_mask", "position_ids"];
const IMAGES: [&str; 4] = ["pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"];

/// A file of tensors.
struct Inputs<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    help: String,
}

impl<'a> Inputs<'a> {
    /// Reads a file that may hold tensors of these names.
    fn read(path: &'a Path, allowed: &[&str]) -> Result<Inputs<'a>, Failure> {
        let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
        let help = format!(
            "the tensors are {}: ids, masks and grids int64, pixels float32; all but input_ids may be left out",
            allowed.join(", ")
        );
        let inputs = Inputs { path, bytes, help };
        let file = inputs.file()?;
        if let Some(name) = file.names().into_iter().find(|name| !allowed.contains(name)) {
            return Err(inputs.wrong(&format!("has a tensor `{name}` that this entry does not take")));
        }
        Ok(inputs)
    }

    fn file(&self) -> Result<SafeTensors<'_>, Failure> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| {
            let message = format!("`{}` is no safetensors file", self.path.display());
            Failure::failed(message, "write it with the safetensors library").because(error)
        })
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::failed(format!("`{}` {what}", self.path.display()), self.help.clone())
    }

    fn has(&self, name: &str) -> bool {
        self.file().is_ok_and(|file| file.tensor(name).is_ok())
    }

    /// A tensor, as `read` understands it.
    fn get<T>(
        &self,
        name: &str,
        read: impl Fn(&TensorView<'_>) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        let file = self.file()?;
        let Ok(view) = file.tensor(name) else { return Ok(None) };
        let wrong = |problem| self.wrong(&format!("holds `{name}` that {problem}"));
        read(&view).map(Some).map_err(wrong)
    }

    fn rows(&self, name: &str) -> Result<Option<Vec<Vec<i32>>>, Failure> {
        self.get(name, |view| match view.shape() {
            [_, columns] => Ok(integers(view)?.chunks((*columns).max(1)).map(<[i32]>::to_vec).collect()),
            shape => Err(format!("is {shape:?}, not [B, L]")),
        })
    }

    fn planes(&self, name: &str) -> Result<Option<Vec<Vec<Vec<i32>>>>, Failure> {
        self.get(name, |view| {
            let (rows, columns) = match view.shape() {
                [rows, columns] | [3, rows, columns] => (*rows, (*columns).max(1)),
                shape => return Err(format!("is {shape:?}, not [B, L] or [3, B, L]")),
            };
            let rows_of = |plane: &[i32]| plane.chunks(columns).map(<[i32]>::to_vec).collect();
            Ok(integers(view)?.chunks((rows * columns).max(1)).map(rows_of).collect())
        })
    }

    /// Images or videos, cut into patches.
    fn patches(&self, pixels: &str, grids: &str) -> Result<Vec<Patches>, Failure> {
        let Some(pixels) = self.get(pixels, floats)? else { return Ok(Vec::new()) };
        let grids = self.get(grids, |view| match view.shape() {
            [_, 3] => Ok(integers(view)?.chunks(3).map(|g| [g[0], g[1], g[2]].map(i64::from)).collect()),
            shape => Err(format!("is {shape:?}, not [images, 3]")),
        })?;
        let grids: Vec<[i64; 3]> = grids.ok_or_else(|| self.wrong("has pixels without their grids"))?;
        let (mut left, mut all) = (pixels.as_slice(), Vec::new());
        for grid in grids {
            let grid = Grid::from_thw(grid)?;
            let numbers = grid.patches().saturating_mul(PATCH_FEATURES);
            let (own, rest) = left
                .split_at_checked(numbers)
                .ok_or_else(|| self.wrong("has fewer pixels than its grids have patches"))?;
            all.push(Patches { values: own.to_vec(), grid });
            left = rest;
        }
        if left.is_empty() { Ok(all) } else { Err(self.wrong("has more pixels than its grids have patches")) }
    }

    /// Images and videos in the order in which the ids stand for them.
    fn visuals(&self, tokens: &VisionTokens, ids: &[i32]) -> Result<Vec<Visual>, Failure> {
        let mut images = self.patches("pixel_values", "image_grid_thw")?.into_iter();
        let mut videos = self.patches("pixel_values_videos", "video_grid_thw")?.into_iter();
        let (mut visuals, mut skip) = (Vec::new(), 0);
        for id in ids.iter().filter(|id| tokens.is_placeholder(**id)) {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let next = if *id == tokens.image {
                images.next().map(Visual::ImagePatches)
            } else {
                videos.next().map(Visual::VideoPatches)
            };
            // Too few are for the model to complain about, which knows how many are needed.
            let Some(visual) = next else { break };
            if let Visual::ImagePatches(p) | Visual::VideoPatches(p) = &visual {
                skip = p.grid.tokens() - 1;
            }
            visuals.push(visual);
        }
        visuals.extend(images.map(Visual::ImagePatches).chain(videos.map(Visual::VideoPatches)));
        Ok(visuals)
    }
}

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("is {:?}, not float32", view.dtype()));
    }
    Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn integers(view: &TensorView<'_>) -> Result<Vec<i32>, String> {
    if view.dtype() != Dtype::I64 {
        return Err(format!("is {:?}, not int64", view.dtype()));
    }
    let narrow = |bytes: &[u8; 8]| {
        let id = i64::from_le_bytes(*bytes);
        i32::try_from(id).map_err(|_| format!("holds {id}, which no token id or position can be"))
    };
    view.data().as_chunks::<8>().0.iter().map(narrow).collect()
}

//! Recorded cases: requests, and what an artifact made of them, as a safetensors file. The metadata say in JSON what each case
//! is; the tensors of case `forward.0` are `forward.0/input_ids`, .., those of its answer `forward.0/out/logits`, ..

use super::super::error::Failure;
use super::super::requests::{Request, Seen};
use dream::{ActOptions, Forward, Generate, Grid, Image, Manifest, Output, Patches, Visual};
use dreamc::compile::Entry;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The key of the metadata, and the version of what it says.
const KEY: &str = "dreamc.golden";
const VERSION: u32 = 1;
/// Larger files are no cases: refused before memory is taken.
pub(in crate::cli) const CASES_BYTES_MAX: u64 = 256 << 20;
/// The same of their number.
const CASE_COUNT_MAX: usize = 256;

/// Cases of one checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Cases {
    /// Of the checkpoint, as in the manifest of the artifact that was asked.
    pub(in crate::cli) source_hash: String,
    /// What that artifact was, in words.
    pub(in crate::cli) about: String,
    /// Build options that its answers depend on.
    pub(in crate::cli) built: Built,
    pub(in crate::cli) list: Vec<Case>,
}

/// Settings without which tokens and actions are not the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Built {
    pub(in crate::cli) steps: u32,
    pub(in crate::cli) alg: String,
    pub(in crate::cli) eps: f32,
    /// Mode and chunk of actions.
    pub(in crate::cli) act: Option<(String, u32)>,
}

/// A request and its answer.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Case {
    /// `forward.0`
    pub(in crate::cli) name: String,
    pub(in crate::cli) request: Request,
    pub(in crate::cli) answer: Answered,
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::cli) struct Answered {
    /// Logits and hidden states, or normalised actions.
    pub(in crate::cli) values: Vec<Output>,
    /// Rows of token ids: whole sequences, or the tokens of the actions.
    pub(in crate::cli) tokens: Option<Vec<Vec<i32>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u32,
    source_hash: String,
    about: String,
    built: Built,
    cases: Vec<CaseHead>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseHead {
    name: String,
    entry: String,
    /// Of an observation.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    /// Its images.
    images: usize,
    /// Names of the answer's values, in order.
    values: Vec<String>,
}

impl Built {
    /// Of an artifact.
    pub(in crate::cli) fn of(manifest: &Manifest, settings: Option<&dream::Settings>) -> Built {
        let model = &manifest.model;
        let act = settings.and_then(|s| s.actions.as_ref());
        let act = act.map(|a| (a.mode.name().to_owned(), a.chunk));
        Built { steps: model.steps, alg: model.alg.clone(), eps: model.eps, act }
    }
}

/// A tensor as the file has it.
struct Stored {
    name: String,
    dtype: Dtype,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

fn longs<'a>(name: String, dims: &[usize], ids: impl IntoIterator<Item = &'a i32>) -> Stored {
    let bytes = ids.into_iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect();
    Stored { name, dtype: Dtype::I64, dims: dims.to_vec(), bytes }
}

fn rows(name: String, rows: &[Vec<i32>]) -> Stored {
    longs(name, &[rows.len(), rows.first().map_or(0, Vec::len)], rows.iter().flatten())
}

fn floats(name: String, dims: &[usize], values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Stored { name, dtype: Dtype::F32, dims: dims.to_vec(), bytes }
}

impl Cases {
    /// The bytes of the file: the same for the same cases.
    pub(in crate::cli) fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        let bug = |error: &dyn std::fmt::Display| {
            let help = "this is a bug in dreamc; report it with the command line";
            Failure::failed("the cases make no safetensors file", help).because(error)
        };
        let head = Head {
            version: VERSION,
            source_hash: self.source_hash.clone(),
            about: self.about.clone(),
            built: self.built.clone(),
            cases: self.list.iter().map(Case::head).collect(),
        };
        let text = serde_json::to_string(&head).map_err(|error| bug(&error))?;
        let stored: Vec<Stored> = self.list.iter().flat_map(Case::stored).collect();
        let mut views = Vec::new();
        for s in &stored {
            let view = TensorView::new(s.dtype, s.dims.clone(), &s.bytes).map_err(|error| bug(&error))?;
            views.push((s.name.as_str(), view));
        }
        let metadata = [(KEY.to_owned(), text)].into_iter().collect();
        safetensors::serialize(views, Some(metadata)).map_err(|error| bug(&error))
    }

    /// Reads a file of cases.
    pub(in crate::cli) fn read(path: &Path) -> Result<Cases, Failure> {
        let bytes = read_bounded(path)?;
        Cases::from_bytes(&bytes, &format!("`{}`", path.display()))
    }

    /// Cases from the bytes of `whose` file, which may be hostile.
    pub(in crate::cli) fn from_bytes(bytes: &[u8], whose: &str) -> Result<Cases, Failure> {
        let help = "record them with `dreamc golden record`";
        let wrong = |what: &str| Failure::failed(format!("{whose} {what}"), help);
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|error| wrong("is neither an artifact nor a file of cases").because(error))?;
        let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let text = text.ok_or_else(|| wrong("is a safetensors file, but holds no cases"))?;
        let head: Head = serde_json::from_str(text)
            .map_err(|error| wrong("says something else about its cases").because(error))?;
        if head.version != VERSION || head.cases.len() > CASE_COUNT_MAX {
            return Err(wrong("holds cases of another version of dreamc, or too many"));
        }
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| wrong("is no safetensors file").because(error))?;
        let read = |case: CaseHead| {
            let name = case.name.clone();
            Case::read(case, &file).map_err(|what| wrong(&format!("holds a damaged case `{name}`: {what}")))
        };
        let list = head.cases.into_iter().map(read).collect::<Result<Vec<Case>, Failure>>()?;
        Ok(Cases { source_hash: head.source_hash, about: head.about, built: head.built, list })
    }
}

/// The bytes of a file that may be one of cases.
pub(in crate::cli) fn read_bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    let io = |error: std::io::Error| Failure::io("read", path, &error);
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > CASES_BYTES_MAX {
        let message = format!("`{}` has {length} bytes, and cases at most {CASES_BYTES_MAX}", path.display());
        return Err(Failure::failed(message, "record fewer or shorter ones: --cases, --prompt-tokens"));
    }
    std::fs::read(path).map_err(io)
}

impl Case {
    pub(in crate::cli) fn entry(&self) -> Entry {
        match self.request {
            Request::Forward(_) => Entry::Forward,
            Request::EncodeImage(_) => Entry::EncodeImage,
            Request::Generate(_) => Entry::Generate,
            Request::Act(_) => Entry::Act,
        }
    }

    fn head(&self) -> CaseHead {
        let (task, images) = match &self.request {
            Request::Act(seen) => (Some(seen.task.clone()), seen.images.len()),
            Request::Forward(_) | Request::EncodeImage(_) | Request::Generate(_) => (None, 0),
        };
        let values = self.answer.values.iter().map(|value| value.name.clone()).collect();
        CaseHead { name: self.name.clone(), entry: self.entry().name().to_owned(), task, images, values }
    }

    fn stored(&self) -> Vec<Stored> {
        let named = |name: &str| format!("{}/{name}", self.name);
        let mut list = Vec::new();
        match &self.request {
            Request::Forward(f) => {
                list.push(rows(named("input_ids"), &f.input_ids));
                list.extend(f.attention_mask.as_ref().map(|mask| rows(named("attention_mask"), mask)));
                if let Some(planes) = &f.position_ids {
                    let first = planes.first().map_or(&[][..], Vec::as_slice);
                    let dims = [planes.len(), first.len(), first.first().map_or(0, Vec::len)];
                    list.push(longs(named("position_ids"), &dims, planes.iter().flatten().flatten()));
                }
                list.extend(patches(&f.visuals, &named));
            }
            Request::Generate(g) => {
                list.push(rows(named("input_ids"), &g.prompt));
                list.extend(g.attention_mask.as_ref().map(|mask| rows(named("attention_mask"), mask)));
                list.extend(g.canvas.as_ref().map(|ids| longs(named("canvas"), &[ids.len()], ids)));
                list.extend(patches(&g.visuals, &named));
            }
            Request::EncodeImage(visuals) => list.extend(patches(visuals, &named)),
            Request::Act(seen) => {
                for (i, image) in seen.images.iter().enumerate() {
                    let dims = vec![image.height() as usize, image.width() as usize, 3];
                    let (name, bytes) = (named(&format!("image.{i}")), image.pixels().to_vec());
                    list.push(Stored { name, dtype: Dtype::U8, dims, bytes });
                }
                list.extend(seen.proprio.as_ref().map(|state| Stored {
                    name: named("proprio"),
                    dtype: Dtype::F64,
                    dims: vec![state.len()],
                    bytes: state.iter().flat_map(|x| x.to_le_bytes()).collect(),
                }));
            }
        }
        for value in &self.answer.values {
            list.push(floats(named(&format!("out/{}", value.name)), &value.dims, &value.data));
        }
        list.extend(self.answer.tokens.as_ref().map(|tokens| rows(named("out/tokens"), tokens)));
        list
    }

    fn read(head: CaseHead, file: &SafeTensors<'_>) -> Result<Case, String> {
        let case = Tensors { file, name: &head.name };
        let request = match Entry::ALL.into_iter().find(|entry| entry.name() == head.entry) {
            Some(Entry::Forward) => Request::Forward(Forward {
                input_ids: case.rows("input_ids")?.ok_or("it has no input_ids")?,
                attention_mask: case.rows("attention_mask")?,
                position_ids: case.planes("position_ids")?,
                visuals: case.patches()?,
            }),
            Some(Entry::Generate) => Request::Generate(Generate {
                prompt: case.rows("input_ids")?.ok_or("it has no input_ids")?,
                attention_mask: case.rows("attention_mask")?,
                canvas: case.longs("canvas")?.map(|(_, ids)| ids),
                visuals: case.patches()?,
                ..Generate::default()
            }),
            Some(Entry::EncodeImage) => Request::EncodeImage(case.patches()?),
            Some(Entry::Act) => {
                let images = (0..head.images.min(CASE_COUNT_MAX)).map(|i| case.image(&format!("image.{i}")));
                Request::Act(Seen {
                    images: images.collect::<Result<_, _>>()?,
                    task: head.task.clone().ok_or("it has no task")?,
                    proprio: case.doubles("proprio")?,
                    options: ActOptions::default(),
                })
            }
            None => return Err(format!("there is no entry `{}`", head.entry)),
        };
        let value = |name: &String| {
            let (dims, data) = case.floats(&format!("out/{name}"))?.ok_or(format!("it has no {name}"))?;
            Ok::<_, String>(Output { name: name.clone(), dims, data })
        };
        let values = head.values.iter().map(value).collect::<Result<_, _>>()?;
        let answer = Answered { values, tokens: case.rows("out/tokens")? };
        Ok(Case { name: head.name, request, answer })
    }
}

/// Images as they are handed to the vision tower; other forms are made into this one before they are recorded.
fn patches(visuals: &[Visual], named: &dyn Fn(&str) -> String) -> Vec<Stored> {
    let of = |visual: &Visual| match visual {
        Visual::ImagePatches(patches) => Some(patches.clone()),
        Visual::Image(_) | Visual::Video(_) | Visual::VideoPatches(_) => None,
    };
    let all: Vec<Patches> = visuals.iter().filter_map(of).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let grid = |p: &Patches| [p.grid.t, p.grid.h, p.grid.w].map(|n| n as i32);
    let grids: Vec<i32> = all.iter().flat_map(grid).collect();
    let values: Vec<f32> = all.iter().flat_map(|p| p.values.iter().copied()).collect();
    let count = all.iter().map(|p| p.grid.patches()).sum::<usize>();
    let dims = [count, values.len() / count.max(1)];
    let grids = longs(named("image_grid_thw"), &[all.len(), 3], &grids);
    vec![floats(named("pixel_values"), &dims, &values), grids]
}

/// Dimensions and elements of a tensor that may be there, or what is wrong with it.
type Found<T> = Result<Option<(Vec<usize>, Vec<T>)>, String>;

/// The tensors of a case. Shapes are those of the file, whose reader has compared them with the bytes.
struct Tensors<'a> {
    file: &'a SafeTensors<'a>,
    name: &'a str,
}

impl Tensors<'_> {
    fn get(&self, name: &str, dtype: Dtype) -> Result<Option<TensorView<'_>>, String> {
        let Ok(view) = self.file.tensor(&format!("{}/{name}", self.name)) else { return Ok(None) };
        if view.dtype() == dtype { Ok(Some(view)) } else { Err(format!("{name} is {:?}", view.dtype())) }
    }

    fn longs(&self, name: &str) -> Found<i32> {
        let Some(view) = self.get(name, Dtype::I64)? else { return Ok(None) };
        let narrow = |b: &[u8; 8]| i32::try_from(i64::from_le_bytes(*b));
        let ids = view.data().as_chunks::<8>().0.iter().map(narrow).collect::<Result<_, _>>();
        Ok(Some((view.shape().to_vec(), ids.map_err(|_| format!("{name} holds a number that is no id"))?)))
    }

    fn rows(&self, name: &str) -> Result<Option<Vec<Vec<i32>>>, String> {
        match self.longs(name)? {
            None => Ok(None),
            Some((dims, ids)) if dims.len() == 2 => {
                Ok(Some(ids.chunks(dims[1].max(1)).map(<[i32]>::to_vec).collect()))
            }
            Some((dims, _)) => Err(format!("{name} is {dims:?}, not [rows, tokens]")),
        }
    }

    fn planes(&self, name: &str) -> Result<Option<Vec<Vec<Vec<i32>>>>, String> {
        match self.longs(name)? {
            None => Ok(None),
            Some((dims, ids)) if dims.len() == 3 => {
                let rows = |plane: &[i32]| plane.chunks(dims[2].max(1)).map(<[i32]>::to_vec).collect();
                Ok(Some(ids.chunks(dims[1].saturating_mul(dims[2]).max(1)).map(rows).collect()))
            }
            Some((dims, _)) => Err(format!("{name} is {dims:?}, not [planes, rows, tokens]")),
        }
    }

    fn floats(&self, name: &str) -> Found<f32> {
        let Some(view) = self.get(name, Dtype::F32)? else { return Ok(None) };
        let data = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(Some((view.shape().to_vec(), data)))
    }

    fn doubles(&self, name: &str) -> Result<Option<Vec<f64>>, String> {
        let Some(view) = self.get(name, Dtype::F64)? else { return Ok(None) };
        Ok(Some(view.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()))
    }

    fn image(&self, name: &str) -> Result<Image, String> {
        let view = self.get(name, Dtype::U8)?.ok_or(format!("it has no {name}"))?;
        let side = |n: usize| u32::try_from(n).map_err(|_| format!("{name} is too large"));
        match view.shape() {
            [height, width, 3] => Image::from_rgb8(side(*width)?, side(*height)?, view.data().to_vec())
                .map_err(|error| format!("{name}: {error}")),
            dims => Err(format!("{name} is {dims:?}, not [height, width, 3]")),
        }
    }

    fn patches(&self) -> Result<Vec<Visual>, String> {
        let (pixels, grids) = (self.floats("pixel_values")?, self.longs("image_grid_thw")?);
        let (Some((_, pixels)), Some((_, grids))) = (pixels, grids) else { return Ok(Vec::new()) };
        let (mut left, mut all) = (pixels.as_slice(), Vec::new());
        for thw in grids.as_chunks::<3>().0 {
            let grid = Grid::from_thw(thw.map(i64::from)).map_err(|error| error.to_string())?;
            let numbers = grid.patches().saturating_mul(dreamc_front::image::PATCH_FEATURES);
            let (own, rest) =
                left.split_at_checked(numbers).ok_or("it has fewer pixels than its grids say")?;
            all.push(Visual::ImagePatches(Patches { values: own.to_vec(), grid }));
            left = rest;
        }
        if left.is_empty() { Ok(all) } else { Err("it has more pixels than its grids say".to_owned()) }
    }
}

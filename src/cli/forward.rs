//! `dreamc run --entry forward`: tensors in, logits and probed values out.

use super::device::failure;
use super::error::Failure;
use super::output::{note, write_whole};
use dream::{Forward, Model};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct TensorArgs {
    /// Tensors of `--entry forward`: input_ids, attention_mask, position_ids
    #[arg(long, value_name = "IN.safetensors")]
    inputs: Option<PathBuf>,
    /// Where `--entry forward` writes logits and probed values
    #[arg(long, value_name = "OUT.safetensors")]
    outputs: Option<PathBuf>,
    /// Values to write too, by their path: `hidden.*`, `model.layers.0.mlp`
    #[arg(long, value_name = "PATTERN")]
    probe: Vec<String>,
}

/// Where the tensors come from and go to.
pub(crate) struct Files<'a> {
    inputs: &'a Path,
    outputs: &'a Path,
}

impl TensorArgs {
    /// Whether any of these flags is given.
    pub(crate) fn any(&self) -> bool {
        self.inputs.is_some() || self.outputs.is_some() || !self.probe.is_empty()
    }

    pub(crate) fn files(&self) -> Result<Files<'_>, Failure> {
        match (&self.inputs, &self.outputs) {
            (Some(inputs), Some(outputs)) => Ok(Files { inputs, outputs }),
            _ => Err(Failure::usage(
                "`--entry forward` needs --inputs and --outputs",
                "give `--inputs IN.safetensors --outputs OUT.safetensors`",
            )),
        }
    }

    pub(crate) fn probes(&self) -> &[String] {
        &self.probe
    }
}

pub(crate) fn run(model: &mut Model, files: &Files<'_>, probes: &[String]) -> Result<(), Failure> {
    let request = read(files.inputs)?;
    let probes: Vec<&str> = probes.iter().map(String::as_str).collect();
    let outputs = model.forward(&request, &probes).map_err(failure)?;

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
    write_whole(files.outputs, &file)?;
    for (name, dims, _) in &stored {
        note(&format!("{name} f32{dims:?}"));
    }
    Ok(())
}

/// The tensors that the entry takes.
const NAMES: [&str; 3] = ["input_ids", "attention_mask", "position_ids"];

fn read(path: &Path) -> Result<Forward, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        let message = format!("`{}` is no safetensors file", path.display());
        Failure::failed(message, "write it with the safetensors library").because(error)
    })?;
    let help = || format!("the tensors are {}, int64 [B, L]; the last two may be left out", NAMES.join(", "));
    if let Some(name) = file.names().into_iter().find(|name| !NAMES.contains(name)) {
        return Err(Failure::failed(
            format!("`{}` has a tensor `{name}` that text models do not take", path.display()),
            help(),
        ));
    }
    let rows = |name: &str| match file.tensor(name) {
        Ok(view) => integers(&view).map(Some).map_err(|problem| {
            Failure::failed(format!("tensor `{name}` in `{}` {problem}", path.display()), help())
        }),
        Err(_) => Ok(None),
    };
    let [input_ids, attention_mask, position_ids] = NAMES.map(rows);
    let input_ids = input_ids?
        .ok_or_else(|| Failure::failed(format!("`{}` has no tensor `input_ids`", path.display()), help()))?;
    Ok(Forward { input_ids, attention_mask: attention_mask?, position_ids: position_ids? })
}

/// The rows of a matrix of integers, or what is wrong with it.
fn integers(view: &TensorView<'_>) -> Result<Vec<Vec<i32>>, String> {
    let [_, columns] = view.shape() else { return Err(format!("is {:?}, not [B, L]", view.shape())) };
    if view.dtype() != Dtype::I64 {
        return Err(format!("is {:?}, not int64", view.dtype()));
    }
    let narrow = |bytes: &[u8; 8]| {
        let id = i64::from_le_bytes(*bytes);
        i32::try_from(id).map_err(|_| format!("holds {id}, which no token id or position can be"))
    };
    let ids: Vec<i32> = view.data().as_chunks::<8>().0.iter().map(narrow).collect::<Result<_, _>>()?;
    Ok(ids.chunks((*columns).max(1)).map(<[i32]>::to_vec).collect())
}

//! Synthetic checkpoints: made-up weights in the layout of the released models.
//!
//! The weights depend on the seed and on the tensor's name only, and come out the same on every host: integer
//! arithmetic picks entries of a table of normal quantiles. Files are written under temporary names and renamed
//! once all are complete. Models that see have a tokenizer, of bytes, and settings for images; action models also have
//! statistics, and heads and projectors as safetensors, so that every mode builds.

mod json;
mod output;
mod size;
mod tokenizer;
mod values;
mod writer;

pub use size::Size;

use crate::heads::head_tensors;
use crate::{HeadKind, HeadPart, ImportError, Variant, expected_tensors};
use dreamc_num::DType;
use output::{Output, check_free, io_error};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use values::Tables;
use writer::{Planned, Writer};

/// Numbers of a synthetic model's action: three of motion, three of rotation, the gripper.
const ACTION_DIM: u64 = 7;
/// Numbers of its own state.
const PROPRIO_DIM: u64 = 8;
/// Room for headers, index, configs and tokenizer when free space is checked.
const OVERHEAD_BYTES: u64 = 1 << 24;

/// What to make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synth {
    /// Which member of the family.
    pub variant: Variant,
    /// How large.
    pub size: Size,
    /// What the weights depend on.
    pub seed: u64,
    /// The kind of action head of an action model; without effect on the others. `None` for a model that has action
    /// tokens alone.
    pub head: Option<HeadKind>,
}

/// How far [`synth`] is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written.
    pub tensor: &'a str,
    /// Bytes of weights written so far.
    pub done_bytes: u64,
    /// Bytes of weights in all.
    pub total_bytes: u64,
}

/// Writes a synthetic text checkpoint into a directory, which is created if need be.
pub fn synth_text(
    size: Size,
    seed: u64,
    dir: impl AsRef<Path>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ImportError> {
    synth(&Synth { variant: Variant::Text, size, seed, head: None }, dir, progress)
}

/// Writes a synthetic checkpoint into a directory, which is created if need be.
pub fn synth(
    what: &Synth,
    dir: impl AsRef<Path>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ImportError> {
    let dir = dir.as_ref();
    let config = what.size.model_config(what.variant);
    let mut shards = vec![Vec::new(); what.size.shard_count()];
    for (name, shape) in expected_tensors(&config) {
        shards[what.size.shard_of(&name)].push(Planned::new(name, shape, DType::BF16));
    }
    for shard in &mut shards {
        // The order of the library that writes the released files.
        shard.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let heads = heads(what, config.text.hidden_size)?;
    let bytes = |shard: &Vec<Planned>| shard.iter().map(Planned::bytes).sum::<u64>();
    let model_bytes: u64 = shards.iter().map(bytes).sum();
    let total_bytes = model_bytes + heads.iter().map(|(_, tensors)| bytes(tensors)).sum::<u64>();
    let mut texts = vec![("generation_config.json", json::generation(&config))];
    if what.variant.sees() {
        texts.push(("preprocessor_config.json", json::preprocessor(what.variant)));
        texts.extend(tokenizer::files(&config));
    }
    if what.variant == Variant::Vla {
        texts.push(("dataset_statistics.json", json::statistics(ACTION_DIM, PROPRIO_DIM)));
    }

    std::fs::create_dir_all(dir).map_err(|source| io_error(dir, source))?;
    let mut names: Vec<&str> = texts.iter().map(|(name, _)| *name).collect();
    names.extend(heads.iter().map(|(name, _)| name.as_str()));
    let mut output = Output::new(dir, &names)?;
    check_free(dir, total_bytes + OVERHEAD_BYTES)?;

    let mut writer = Writer { seed: what.seed, tables: Tables::new(), done_bytes: 0, total_bytes, progress };
    let mut weight_map = Map::new();
    for (number, shard) in (1..).zip(&shards) {
        let file = match shards.len() {
            1 => dreamc_weights::SINGLE_FILE.to_owned(),
            count => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        for tensor in shard {
            weight_map.insert(tensor.name.clone(), Value::from(file.as_str()));
        }
        output.write(&file, |out| writer.write_shard("", shard, out))?;
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": model_bytes }, "weight_map": weight_map });
        output.write_json(dreamc_weights::INDEX_FILE, &index)?;
    }
    for (file, tensors) in &heads {
        output.write(file, |out| writer.write_shard(&format!("{file}/"), tensors, out))?;
    }
    for (file, value) in &texts {
        output.write_json(file, value)?;
    }
    if what.variant.sees() {
        output.write("merges.txt", |out| out.write_all(tokenizer::MERGES.as_bytes()))?;
    }
    // Last, so that a directory with a config.json is complete.
    output.write_json(crate::config::CONFIG_FILE, &json::config(&config))?;
    output.commit()
}

/// The files of heads and projectors, with their tensors. As in training, all are bf16 but the projector of the state.
fn heads(what: &Synth, hidden_size: u64) -> Result<Vec<(String, Vec<Planned>)>, ImportError> {
    let mut files = Vec::new();
    let (Variant::Vla, Some(kind)) = (what.variant, what.head) else { return Ok(files) };
    for (part, inputs, dtype) in [
        (HeadPart::ActionHead, ACTION_DIM, DType::BF16),
        (HeadPart::NoisyActionProjector, 1, DType::BF16),
        (HeadPart::ProprioProjector, PROPRIO_DIM, DType::F32),
    ] {
        if part == HeadPart::NoisyActionProjector && !kind.from_noise() {
            continue;
        }
        let tensors = head_tensors(part, kind, hidden_size, inputs)?;
        let mut tensors: Vec<Planned> =
            tensors.into_iter().map(|(name, shape)| Planned::new(name, shape, dtype)).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        files.push((format!("{}.safetensors", part.name()), tensors));
    }
    Ok(files)
}

//! LoRA adapters: low-rank updates of a base model's matrices, folded in while the base is read.
//!
//! An adapter is a folder as `peft` saves it: `adapter_config.json`, and `adapter_model.safetensors` with two matrices
//! for each target, `base_model.model.PATH.lora_A.weight` of shape `[r, in]` and `.lora_B.weight` of `[out, r]`. The
//! weight becomes `W + (lora_alpha / r) B A`. Every variant that means something else is refused by its name.

mod config;
mod error;
mod fold;

pub use error::AdapterError;
pub(crate) use fold::Folded;

use crate::shard::Shard;
use crate::tensor::Entry;
use crate::{Checkpoint, TensorRef, WeightsError};
use config::Config;
use std::collections::BTreeMap;
use std::path::Path;

/// The name of an adapter's settings.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The name of an adapter's weights.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// Before every name.
const PREFIX: &str = "base_model.model.";
/// The two matrices of a target.
const SUFFIXES: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// A mapped adapter that fits the checkpoint it was opened for.
///
/// The files must not be changed while this exists.
#[derive(Debug)]
pub struct Adapter {
    config: Config,
    shard: Shard,
    tensors: BTreeMap<String, Entry>,
    /// Name of each changed weight, with the names of A and B.
    targets: BTreeMap<String, [String; 2]>,
}

impl Adapter {
    /// Opens an adapter folder and compares it with the weights that it changes.
    pub fn open(dir: impl AsRef<Path>, base: &Checkpoint) -> Result<Adapter, WeightsError> {
        let dir = dir.as_ref();
        let config = Config::read(dir)?;
        let (shard, entries) = Shard::open(dir, ADAPTER_FILE)?;
        let mut tensors = BTreeMap::new();
        for entry in entries {
            let (name, entry) = Entry::new(entry, ADAPTER_FILE)?;
            tensors.insert(name, entry);
        }
        let mut adapter = Adapter { config, shard, tensors, targets: BTreeMap::new() };
        adapter.targets = adapter.find_targets()?;
        for (weight, pair) in &adapter.targets {
            adapter.check(base, weight, pair)?;
        }
        Ok(adapter)
    }

    /// What is multiplied with the product of the two matrices: `lora_alpha / r`.
    pub fn scale(&self) -> f32 {
        self.config.scale()
    }

    /// The rank.
    pub fn rank(&self) -> u64 {
        self.config.r
    }

    /// The names of the weights that it changes, sorted.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.targets.keys().map(String::as_str)
    }

    /// Whether it changes a weight.
    pub fn changes(&self, weight: &str) -> bool {
        self.targets.contains_key(weight)
    }

    /// Its own tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorRef<'_>> {
        self.tensors.iter().map(|(name, entry)| entry.view(name, &self.shard))
    }

    /// The two matrices of a weight, ready to be folded in.
    pub(crate) fn folded(&self, weight: &str) -> Option<Folded> {
        let (_, [a, b]) = self.targets.get_key_value(weight)?;
        Some(Folded::new(self.own(a)?, self.own(b)?, self.scale()))
    }

    fn own(&self, name: &str) -> Option<TensorRef<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        Some(entry.view(name, &self.shard))
    }

    fn find_targets(&self) -> Result<BTreeMap<String, [String; 2]>, AdapterError> {
        if self.tensors.is_empty() {
            return Err(AdapterError::Empty);
        }
        let mut targets = BTreeMap::new();
        for name in self.tensors.keys() {
            let unknown = || AdapterError::UnknownTensor { tensor: name.clone() };
            let inner = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
            let found = SUFFIXES.iter().find_map(|s| Some((inner.strip_suffix(s)?, *s)));
            let (path, suffix) = found.ok_or_else(unknown)?;
            let pair = SUFFIXES.map(|s| format!("{PREFIX}{path}{s}"));
            if let Some(absent) = pair.iter().find(|n| !self.tensors.contains_key(*n)) {
                return Err(AdapterError::Unpaired { tensor: name.clone(), absent: absent.clone() });
            }
            if !self.config.targets(path) {
                return Err(AdapterError::NotTargeted { tensor: name.clone() });
            }
            if suffix == SUFFIXES[0] {
                targets.insert(format!("{path}.weight"), pair);
            }
        }
        Ok(targets)
    }

    fn check(&self, base: &Checkpoint, weight: &str, [a, b]: &[String; 2]) -> Result<(), WeightsError> {
        if !base.contains(weight) {
            let (tensor, weight) = (a.clone(), weight.to_owned());
            return Err(AdapterError::UnknownTarget { tensor, weight }.into());
        }
        let &[out, inner] = base.get(weight)?.shape else {
            let (tensor, weight) = (a.clone(), weight.to_owned());
            return Err(AdapterError::NotMatrix { tensor, weight }.into());
        };
        for (name, expected) in [(a, [self.config.r, inner]), (b, [out, self.config.r])] {
            let found = self.own(name).map_or(&[][..], |t| t.shape);
            if found != expected {
                let (tensor, weight) = (name.clone(), weight.to_owned());
                let (found, expected) = (found.to_vec(), expected.to_vec());
                return Err(AdapterError::Shape { tensor, weight, found, expected }.into());
            }
        }
        Ok(())
    }
}

//! Opening a checkpoint directory and finding tensors in it.

use crate::index::Index;
use crate::names::check_name;
use crate::shard::Shard;
use crate::tensor::Entry;
use crate::{INDEX_FILE, SINGLE_FILE, TensorRef, WeightsError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files and folders that tell of a LoRA adapter.
const ADAPTERS: [&str; 3] = ["lora_adapter", "adapter_config.json", "adapter_model.safetensors"];

/// The weights of a checkpoint, mapped and checked for consistency.
///
/// The files must not be changed while this exists.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    /// Each with the number of its shard.
    tensors: BTreeMap<String, (usize, Entry)>,
    warnings: Vec<String>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint, WeightsError> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(WeightsError::NoDirectory { path: dir.to_owned() });
        }
        let mut checkpoint = Checkpoint {
            dir: dir.to_owned(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            warnings: Vec::new(),
        };
        let single = dir.join(SINGLE_FILE).is_file();
        let indexed = dir.join(INDEX_FILE).is_file();
        match (single, indexed) {
            (true, _) => {
                if indexed {
                    checkpoint.warnings.push(format!(
                        "both {SINGLE_FILE} and {INDEX_FILE} exist; {SINGLE_FILE} is used, remove the one not meant"
                    ));
                }
                checkpoint.add_shard(SINGLE_FILE)?;
            }
            (false, true) => checkpoint.open_indexed(&Index::read(dir)?)?,
            (false, false) => {
                let path = dir.to_owned();
                return Err(match adapter(dir) {
                    Some(_) => WeightsError::AdapterOnly { path },
                    None => WeightsError::NoWeights { path },
                });
            }
        }
        if let Some(name) = adapter(dir) {
            checkpoint.warnings.push(format!(
                "an adapter beside merged weights is ignored: folding it would apply it twice; remove `{name}`, or \
                 give it with `--lora` if the weights are those of the base model"
            ));
        }
        Ok(checkpoint)
    }

    /// The checkpoint directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The sum of the sizes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, e)| e.bytes() as u64).sum()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Result<TensorRef<'_>, WeightsError> {
        let (name, (shard, entry)) = self
            .tensors
            .get_key_value(name)
            .ok_or_else(|| WeightsError::Absent { tensor: name.to_owned() })?;
        Ok(entry.view(name, &self.shards[*shard]))
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorRef<'_>> {
        self.names().filter_map(|name| self.get(name).ok())
    }

    /// What is odd about the files but does no harm.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn open_indexed(&mut self, index: &Index) -> Result<(), WeightsError> {
        let mut files = BTreeSet::new();
        for (tensor, file) in &index.weight_map {
            check_name(tensor)?;
            if files.insert(file.as_str()) && !self.dir.join(file).is_file() {
                let (file, tensor, dir) = (file.clone(), tensor.clone(), self.dir.clone());
                return Err(WeightsError::ShardAbsent { file, tensor, dir });
            }
        }
        for file in files {
            self.add_shard(file)?;
        }
        for (tensor, (shard, _)) in &self.tensors {
            let file = &self.shards[*shard].file;
            match index.weight_map.get(tensor) {
                None => {
                    return Err(WeightsError::NotInIndex { tensor: tensor.clone(), file: file.clone() });
                }
                // It lies in another shard than the index says.
                Some(named) if named != file => return Err(not_in_shard(tensor, named)),
                Some(_) => {}
            }
        }
        if let Some((tensor, file)) = index.weight_map.iter().find(|(t, _)| !self.contains(t)) {
            return Err(not_in_shard(tensor, file));
        }
        let total = self.total_bytes();
        if let Some(named) = index.total_size.filter(|&n| n != total) {
            self.warnings.push(format!(
                "{INDEX_FILE} gives a total_size of {named} bytes but the tensors have {total}; the index may belong to another save"
            ));
        }
        Ok(())
    }

    fn add_shard(&mut self, file: &str) -> Result<(), WeightsError> {
        let (shard, entries) = Shard::open(&self.dir, file)?;
        let number = self.shards.len();
        self.shards.push(shard);
        for entry in entries {
            check_name(&entry.name)?;
            if let Some((first, _)) = self.tensors.get(&entry.name) {
                return Err(WeightsError::Duplicate {
                    tensor: entry.name,
                    first: self.shards[*first].file.clone(),
                    second: file.to_owned(),
                });
            }
            let (name, entry) = Entry::new(entry, file)?;
            self.tensors.insert(name, (number, entry));
        }
        Ok(())
    }
}

/// A LoRA adapter in a checkpoint directory.
fn adapter(dir: &Path) -> Option<&'static str> {
    ADAPTERS.into_iter().find(|name| dir.join(name).exists())
}

fn not_in_shard(tensor: &str, file: &str) -> WeightsError {
    WeightsError::NotInShard { tensor: tensor.to_owned(), file: file.to_owned() }
}

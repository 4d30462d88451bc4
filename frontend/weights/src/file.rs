//! One file of tensors beside a checkpoint: safetensors, or a PyTorch archive.

use crate::shard::Shard;
use crate::tensor::Entry;
use crate::{TensorRef, WeightsError, archive};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// The ending of a PyTorch archive.
const ARCHIVE_EXTENSION: &str = "pt";

/// A mapped file of tensors, checked. Both forms give the same tensors.
///
/// The file must not be changed while this exists.
#[derive(Debug)]
pub struct TensorFile {
    shard: Shard,
    tensors: BTreeMap<String, Entry>,
}

impl TensorFile {
    /// Opens a file: an archive if its name ends in `.pt`, or else safetensors.
    pub fn open(path: impl AsRef<Path>) -> Result<TensorFile, WeightsError> {
        let path = path.as_ref();
        let (Some(dir), Some(file)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            let source = io::Error::other("not the name of a file");
            return Err(WeightsError::Io { path: path.to_owned(), source });
        };
        let (shard, entries) = if path.extension().is_some_and(|e| e == ARCHIVE_EXTENSION) {
            let shard = Shard::map(dir, file)?;
            let entries = archive::entries(&shard, path)?;
            (shard, entries)
        } else {
            Shard::open(dir, file)?
        };
        let mut tensors = BTreeMap::new();
        for entry in entries {
            let (name, entry) = Entry::new(entry, file)?;
            tensors.insert(name, entry);
        }
        Ok(TensorFile { shard, tensors })
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.shard.file
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<TensorRef<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        Some(entry.view(name, &self.shard))
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorRef<'_>> {
        self.tensors.iter().map(|(name, entry)| entry.view(name, &self.shard))
    }
}

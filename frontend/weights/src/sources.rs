//! All weights of a build under one roof: the checkpoint, files beside it, and an adapter folded in.

use crate::lora::Folded;
use crate::{Adapter, Checkpoint, TensorFile, TensorRef, WeightsError};
use std::fmt;

/// Tensors by name.
pub trait TensorLookup: fmt::Debug {
    /// The tensor of that name, if it is here.
    fn tensor(&self, name: &str) -> Option<TensorRef<'_>>;
}

impl TensorLookup for Checkpoint {
    fn tensor(&self, name: &str) -> Option<TensorRef<'_>> {
        self.get(name).ok()
    }
}

impl TensorLookup for TensorFile {
    fn tensor(&self, name: &str) -> Option<TensorRef<'_>> {
        self.get(name)
    }
}

/// Weights for a build, as it reads them: in order, piece by piece, in f32.
///
/// ```no_run
/// # fn main() -> Result<(), dreamc_weights::WeightsError> {
/// # use dreamc_weights::{Adapter, Checkpoint, Sources};
/// let base = Checkpoint::open("dream-vla")?;
/// let adapter = Adapter::open("run/lora_adapter", &base)?;
/// let mut sources = Sources::new(&base).with_adapter(&adapter);
/// let mut piece = vec![0.0; 4096];
/// sources.read("model.layers.0.self_attn.q_proj.weight", 0, &mut piece)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sources<'a> {
    parts: Vec<&'a dyn TensorLookup>,
    adapter: Option<&'a Adapter>,
    /// The weight last read, if an adapter changes it: its matrices are converted once and not for every piece.
    folded: Option<(String, Folded)>,
}

impl<'a> Sources<'a> {
    /// Weights of one part alone, as a rule of a [`Checkpoint`].
    pub fn new(part: &'a dyn TensorLookup) -> Sources<'a> {
        Sources { parts: vec![part], adapter: None, folded: None }
    }

    /// With another part, which is asked for what the ones before it do not have.
    #[must_use]
    pub fn with(mut self, part: &'a dyn TensorLookup) -> Sources<'a> {
        self.parts.push(part);
        self
    }

    /// With an adapter folded into what is read.
    #[must_use]
    pub fn with_adapter(mut self, adapter: &'a Adapter) -> Sources<'a> {
        self.adapter = Some(adapter);
        self
    }

    /// The adapter. Its tensors are sources of the build too.
    pub fn adapter(&self) -> Option<&'a Adapter> {
        self.adapter
    }

    /// The tensor as it is stored, without the adapter.
    pub fn get(&self, name: &str) -> Result<TensorRef<'a>, WeightsError> {
        let found = self.parts.iter().find_map(|part| part.tensor(name));
        found.ok_or_else(|| WeightsError::Absent { tensor: name.to_owned() })
    }

    /// The number of elements of a tensor, if there is one of that name.
    pub fn elements(&self, name: &str) -> Option<u64> {
        self.get(name).ok().map(|t| t.len() as u64)
    }

    /// Reads elements from `start` on, in row-major order, with the adapter folded in.
    ///
    /// # Panics
    /// If the range ends beyond the tensor.
    pub fn read(&mut self, name: &str, start: u64, out: &mut [f32]) -> Result<(), WeightsError> {
        let tensor = self.get(name)?;
        let start = start as usize;
        tensor.to_f32(start..start + out.len(), out);
        let Some(adapter) = self.adapter.filter(|a| a.changes(name)) else { return Ok(()) };
        if self.folded.as_ref().is_none_or(|(last, _)| last != name) {
            // The one before goes first, so that there is never more than one in memory.
            self.folded = None;
            self.folded = adapter.folded(name).map(|folded| (name.to_owned(), folded));
        }
        if let Some((_, folded)) = &mut self.folded {
            folded.add(start, out);
        }
        Ok(())
    }
}

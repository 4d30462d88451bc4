//! Reads the checkpoint for the packer: hashes what it reads, and looks for numbers that are none.

use dreamc_backend::WeightReader;
use dreamc_passes::quantize::as_quotient;
use dreamc_weights::{Sources, TensorRef};
use std::collections::BTreeMap;
use std::error::Error;

/// Mapped pages of a tensor are given back whenever this much more of it has been read.
const RELEASE_BYTES: usize = 32 << 20;

/// A weight that is NaN or infinite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "tensor `{tensor}` holds {value} at element {index}; the checkpoint is damaged (give --allow-non-finite to build it all the same)"
)]
pub struct NonFinite {
    /// Its tensor.
    pub tensor: String,
    /// Its place in row-major order.
    pub index: u64,
    /// The value.
    pub value: f32,
}

pub(super) struct CheckpointReader<'a> {
    sources: Sources<'a>,
    allow_non_finite: bool,
    /// Hash of config.json.
    config: blake3::Hash,
    /// Hash of each tensor's bytes so far, and how many elements that is.
    hashes: BTreeMap<String, (blake3::Hasher, u64)>,
    /// Vectors that calibration adds to the checkpoint, and that its hash leaves out.
    calibrated: BTreeMap<String, Vec<f32>>,
}

impl<'a> CheckpointReader<'a> {
    pub(super) fn new(sources: Sources<'a>, config: &[u8], allow_non_finite: bool) -> CheckpointReader<'a> {
        let config = blake3::hash(config);
        let (hashes, calibrated) = (BTreeMap::new(), BTreeMap::new());
        CheckpointReader { sources, allow_non_finite, config, hashes, calibrated }
    }

    /// With vectors beside the checkpoint, and what can be divided by them.
    pub(super) fn with(self, calibrated: BTreeMap<String, Vec<f32>>) -> CheckpointReader<'a> {
        CheckpointReader { calibrated, ..self }
    }
}

impl WeightReader for CheckpointReader<'_> {
    fn elements(&self, name: &str) -> Option<u64> {
        let vector = |name: &str| self.calibrated.get(name).map(|vector| vector.len() as u64);
        match as_quotient(name) {
            Some((of, by)) => {
                let by = vector(by)?;
                of.is_none_or(|of| self.sources.elements(of) == Some(by)).then_some(by)
            }
            None => vector(name).or_else(|| self.sources.elements(name)),
        }
    }

    fn read(&mut self, name: &str, start: u64, out: &mut [f32]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let part = |vector: &[f32]| {
            let range = start as usize..start as usize + out.len();
            vector.get(range).map(<[f32]>::to_vec)
        };
        if let Some(part) = self.calibrated.get(name).and_then(|vector| part(vector)) {
            out.copy_from_slice(&part);
            return Ok(());
        }
        if let Some((of, by)) = as_quotient(name)
            && let Some(part) = self.calibrated.get(by).and_then(|vector| part(vector))
        {
            match of {
                Some(of) => self.read(of, start, out)?,
                None => out.fill(1.0),
            }
            out.iter_mut().zip(&part).for_each(|(x, factor)| *x /= factor);
            return Ok(());
        }
        let tensor = self.sources.get(name)?;
        let range = start as usize..start as usize + out.len();
        self.sources.read(name, start, out)?;
        if !self.allow_non_finite
            && let Some(i) = out.iter().position(|x| !x.is_finite())
        {
            let found = NonFinite { tensor: name.to_owned(), index: start + i as u64, value: out[i] };
            return Err(found.into());
        }
        let size = tensor.dtype.bytes();
        let (hasher, hashed) = self.hashes.entry(name.to_owned()).or_default();
        if *hashed == start {
            // A tensor that is stored twice is read twice and hashed once.
            hasher.update(&tensor.bytes[range.start * size..range.end * size]);
            *hashed += out.len() as u64;
        }
        // The system maps pages around the one touched, also some already given back: so not each piece is given
        // back alone, but now and then all of the tensor read so far.
        let passed = |element: usize| element * size / RELEASE_BYTES;
        if passed(range.end) > passed(range.start) || range.end == tensor.len() {
            tensor.release_range(0..range.end);
        }
        Ok(())
    }

    fn source_hash(&mut self) -> String {
        let mut all = blake3::Hasher::new();
        all.update(self.config.as_bytes());
        let mut add = |name: &str, elements: u64, hash: blake3::Hash| {
            all.update(&(name.len() as u64).to_le_bytes());
            all.update(name.as_bytes());
            all.update(&elements.to_le_bytes());
            all.update(hash.as_bytes());
        };
        for (name, (hasher, elements)) in &self.hashes {
            add(name, *elements, hasher.finalize());
        }
        // An adapter is small, and its pieces are not read in any order of their own.
        let adapted = self.sources.adapter().map(|a| a.tensors().collect::<Vec<TensorRef<'_>>>());
        for tensor in adapted.into_iter().flatten() {
            add(tensor.name, tensor.len() as u64, blake3::hash(tensor.bytes));
        }
        all.finalize().to_hex().to_string()
    }
}

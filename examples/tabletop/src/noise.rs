//! Recorded noise, for runs that are to be compared.

use anyhow::{Context, Result, bail};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;
use tabletop::episode::{ACTION_DIM, QUERIES_MAX};

/// Name of the tensor.
const TENSOR: &str = "episode_noise";

/// Noise of episodes, one after the other.
pub(crate) struct Noise {
    values: Vec<f32>,
    per_episode: usize,
}

impl Noise {
    /// Reads a file that has noise for at least so many episodes.
    pub(crate) fn read(path: &Path, episodes: usize, chunk: usize) -> Result<Noise> {
        let name = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read `{name}`"))?;
        let file = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("`{name}` is no safetensors file; --noise takes one"))?;
        let Ok(tensor) = file.tensor(TENSOR) else {
            bail!("`{name}` has no tensor `{TENSOR}`, which --noise needs");
        };
        let wanted = [QUERIES_MAX, chunk, ACTION_DIM];
        match (tensor.dtype(), tensor.shape()) {
            (Dtype::F32, [rows, rest @ ..]) if *rest == wanted && *rows >= episodes => {}
            (dtype, shape) => bail!(
                "`{name}` holds `{TENSOR}` as {dtype:?} {shape:?}; it must be F32 {:?}, or have more episodes",
                [&[episodes], wanted.as_slice()].concat()
            ),
        }
        let values = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(Noise { values, per_episode: wanted.iter().product() })
    }

    /// That of the episode at a place of the run, for all its queries.
    pub(crate) fn of_episode(&self, at: usize) -> &[f32] {
        &self.values[at * self.per_episode..][..self.per_episode]
    }
}

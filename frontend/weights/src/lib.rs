//! Checkpoint weights: safetensors shards, memory-mapped and checked.
//!
//! A checkpoint is a directory with either one `model.safetensors` or a
//! `model.safetensors.index.json` and the shards that it names. Everything in it may be hostile: headers are
//! validated before a byte of data is believed, and every error names the file or tensor and what to do.
//!
//! ```no_run
//! # fn main() -> Result<(), dreamc_weights::WeightsError> {
//! let checkpoint = dreamc_weights::Checkpoint::open("dream-7b")?;
//! let norm = checkpoint.get("model.norm.weight")?;
//! let mut row = vec![0.0; norm.len()];
//! norm.to_f32(0..norm.len(), &mut row);
//! norm.release();
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod error;
mod index;
mod names;
mod shard;
mod tensor;
mod text;

pub use checkpoint::Checkpoint;
pub use error::WeightsError;
pub use tensor::TensorRef;
pub use text::read_limited;

/// The name of an unsharded weight file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The name of the file that maps tensors to shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

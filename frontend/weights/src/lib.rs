//! Checkpoint weights: safetensors shards, PyTorch archives and LoRA adapters, memory-mapped and checked.
//!
//! A checkpoint is a directory with either one `model.safetensors` or a
//! `model.safetensors.index.json` and the shards that it names ([`Checkpoint`]). Beside it, single files of tensors
//! are read ([`TensorFile`]: safetensors, or a `.pt` archive, of which nothing is executed), and a LoRA adapter is
//! folded into the weights while they are read ([`Adapter`]). [`Sources`] puts these together for whoever consumes
//! weights. Everything may be hostile: headers are validated before a byte of data is believed, and every error names
//! the file or tensor and what to do.
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

mod archive;
mod checkpoint;
mod error;
mod file;
mod index;
mod lora;
mod names;
mod pickle;
mod shard;
mod sources;
mod tensor;
mod text;

pub use archive::ArchiveError;
pub use checkpoint::Checkpoint;
pub use error::WeightsError;
pub use file::TensorFile;
pub use lora::{ADAPTER_CONFIG_FILE, ADAPTER_FILE, Adapter, AdapterError};
pub use sources::{Sources, TensorLookup};
pub use tensor::TensorRef;
pub use text::read_limited;

/// The name of an unsharded weight file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The name of the file that maps tensors to shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

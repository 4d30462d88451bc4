//! Imports Dream checkpoints: config and weights to a graph.
//!
//! [`TextConfig::read`] checks config.json, [`check_tensors`] compares the stored tensors with what the config
//! implies, [`check_vocabulary`] does the same for the tokenizer files. [`synth_text`] writes checkpoints with
//! made-up weights in the same layout, to test and measure with.

mod builder;
pub mod clock;
pub mod config;
mod entries;
pub mod error;
mod heads;
pub mod layout;
mod lm;
pub mod module;
pub mod sampler;
pub mod synth;
mod vision_config;
mod vl;
pub mod vla;
pub mod vocabulary;

pub use config::TextConfig;
pub use error::{ImportError, Misshapen, TensorProblems};
pub use layout::{EMBEDDING, LM_HEAD, Layout, check_tensors, expected_tensors};
pub use synth::{Progress, Size, synth_text};
pub use vocabulary::check_vocabulary;

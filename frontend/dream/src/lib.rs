//! Imports Dream checkpoints: config and weights to a graph.
//!
//! [`TextConfig::read`] checks config.json, [`check_tensors`] compares the stored tensors with what the config
//! implies, [`check_vocabulary`] does the same for the tokenizer files. [`synth_text`] writes checkpoints with
//! made-up weights in the same layout, to test and measure with.

pub mod config;
pub mod error;
pub mod layout;
pub mod lm;
pub mod synth;
pub mod vocabulary;

pub use config::TextConfig;
pub use error::{ImportError, Misshapen, TensorProblems};
pub use layout::{EMBEDDING, LM_HEAD, Layout, check_tensors, expected_tensors};
pub use synth::{Progress, Size, synth_text};
pub use vocabulary::check_vocabulary;

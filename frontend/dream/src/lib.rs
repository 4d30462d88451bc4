//! Imports Dream checkpoints: config and weights to a graph.
//!
//! [`ModelConfig::read`] checks config.json of any variant, [`check_tensors`] compares the stored tensors with what the
//! config implies, [`check_vocabulary`] does the same for the tokenizer files, and [`HeadSet`] finds and checks the
//! action heads beside a checkpoint. [`synth`](synth::synth) writes checkpoints with made-up weights in the same
//! layout, to test and measure with.

mod action_head;
mod builder;
pub mod clock;
pub mod config;
mod entries;
pub mod error;
pub mod heads;
pub mod layout;
mod lm;
pub mod module;
pub mod sampler;
pub mod synth;
mod vl;
pub mod vla;
pub mod vocabulary;

pub use config::{ActionConfig, ModelConfig, ModelRef, TextConfig, Variant, VisionConfig};
pub use error::{ImportError, Misshapen, TensorProblems, VisionError};
pub use heads::{HeadError, HeadKind, HeadPart, HeadRequest, HeadSet, find_head_kind};
pub use layout::{EMBEDDING, LM_HEAD, Layout, check_tensors, expected_tensors};
pub use synth::{Progress, Size, Synth, synth, synth_text};
pub use vl::PATCH_SEGMENTS;
pub use vocabulary::{ACTION_TOKENS, Vocabulary, check_vocabulary};

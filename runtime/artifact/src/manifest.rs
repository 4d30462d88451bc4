//! The manifest: what an artifact is, readable without touching anything else.

use crate::Tuned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What an artifact is and where it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the compiler that wrote the file.
    pub compiler_version: String,
    /// `cpu`, ..; target `i` runs the `i`-th plan section.
    pub targets: Vec<String>,
    /// Hash of the source checkpoint, in hexadecimal.
    pub source_hash: String,
    /// Build options, named as on the command line.
    pub options: BTreeMap<String, String>,
    /// The model and the settings that were fixed at build time.
    pub model: Model,
    /// `forward`, `generate`, ..: what the artifact can be asked for.
    pub entries: Vec<String>,
    /// Pairs of a probe's name and the origin whose result it shows, such as `hidden.0`.
    pub aliases: Vec<(String, String)>,
    /// What one run of an entry would cost as the reference computes it, at the maxima, by the entry's name; empty where it
    /// is not known.
    #[serde(default)]
    pub reference: BTreeMap<String, Work>,
    /// Prompts, in tokens, whose runs a device that records runs is to record when the file is opened; mostly none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warm: Vec<u32>,
    /// What `dreamc tune` found, at most once for each target; empty before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned: Vec<Tuned>,
}

/// Arithmetic and memory traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Floating-point operations.
    pub flop: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

/// The model and the settings that were fixed at build time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// `text`, `vl`, `vla`.
    pub variant: String,
    /// Element type of the weights and activations.
    pub dtype: String,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Decoder layers.
    pub layers: u32,
    /// The token that stands for "not yet decided".
    pub mask_token_id: u32,
    /// The token that fills up rows.
    pub pad_token_id: u32,
    /// The token that ends an answer.
    pub eos_token_id: u32,
    /// Longest prompt in tokens.
    pub max_prompt: u32,
    /// Tokens that `generate` appends.
    pub new_tokens: u32,
    /// Rows computed at a time.
    pub max_batch: u32,
    /// Denoising steps.
    pub steps: u32,
    /// `origin`, `maskgit_plus`, `topk_margin`, `entropy`.
    pub alg: String,
    /// End of the schedule.
    pub eps: f32,
}

impl Manifest {
    /// The section's bytes: JSON text with keys in a fixed order. `None` if a number is not finite.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        // JSON has no word for infinities; serde_json would write `null`.
        if !self.model.eps.is_finite() || !self.tuned.iter().all(Tuned::is_finite) {
            return None;
        }
        serde_json::to_vec_pretty(self).ok()
    }

    /// Inverse of [`Manifest::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Manifest> {
        serde_json::from_slice(bytes).ok()
    }
}

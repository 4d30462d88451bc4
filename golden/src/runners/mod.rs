//! Who computes the cases: the interpreter, and the whole product.

mod act;
mod compiled;
mod interpreter;
mod values;

pub use act::CompiledPolicy;
pub use compiled::{Built, Compiled, Place};
pub use interpreter::Interpreter;
pub use values::{bytes_of, tensor_of};

use crate::spy::Spy;
use dream::{Forward, Generate, Visual};
use dreamc::compile::{ActOptions, BuildOptions, BuildTarget, Entry};
use dreamc_frontend::sampler::Alg;
use dreamc_interp::Tensor;
use dreamc_num::DType;
use std::path::{Path, PathBuf};

/// Tensors by name.
pub type Values = Vec<(String, Tensor)>;

/// Computes cases of text and images.
pub trait Runner {
    /// `logits`, once or more, and the values of the paths in `probes` that there are, in any order.
    fn forward(&mut self, request: &Forward, probes: &[&str]) -> Values;

    /// The same of the vision tower: `image_features`.
    fn encode_image(&mut self, visuals: &[Visual], probes: &[&str]) -> Values;

    /// The final canvas and the history. Every value that `spy` wants is shown to it.
    fn generate(&mut self, request: &Generate, spy: &mut dyn Spy) -> [Tensor; 2];
}

/// Makes all runners that shall compute the cases of a build.
pub type Make<'a> = &'a dyn Fn(&BuildOptions) -> Vec<Box<dyn Runner>>;

/// A build in f32 that takes 12 tokens and appends 4 in one step, for changes. The output is chosen by the runner.
pub fn build_options(checkpoint: &Path) -> BuildOptions {
    BuildOptions {
        checkpoint: checkpoint.to_owned(),
        output: PathBuf::new(),
        targets: vec![BuildTarget::cpu()],
        emit: None,
        cache: None,
        sources: false,
        dtype: DType::F32,
        steps: 1,
        eps: 1e-3,
        alg: Alg::Entropy,
        new_tokens: 4,
        max_slots: None,
        max_prompt: 12,
        max_batch: 2,
        entries: vec![Entry::Forward, Entry::Generate],
        image: None,
        act: ActOptions::default(),
        lora: None,
        quant: None,
        allow_non_finite: false,
        candidates: None,
        verify_each: true,
        without: vec![],
        golden: None,
        warm: vec![],
    }
}

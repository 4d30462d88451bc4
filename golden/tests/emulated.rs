//! The path of CUDA and ROCm without a GPU: the artifact's own kernels run on an emulated driver, and the fixtures are
//! judged as everywhere else.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

use dream::DeviceKind::{Cuda, Rocm};
use dreamc_golden::emulator::Emulator;
use dreamc_golden::runners::Compiled;
use dreamc_golden::text;
use std::path::Path;
use std::sync::LazyLock;

static EMULATOR: LazyLock<Emulator> = LazyLock::new(|| Emulator::new(Path::new(env!("CARGO_TARGET_TMPDIR"))));

#[test]
fn text_forward_on_cuda() {
    text::judge_forward(&|options| Compiled::emulated(&EMULATOR, Cuda, options));
}

#[test]
fn text_forward_on_rocm() {
    text::judge_forward(&|options| Compiled::emulated(&EMULATOR, Rocm, options));
}

#[test]
fn text_sampling_on_cuda() {
    text::judge_sampling(&|options| Compiled::emulated(&EMULATOR, Cuda, options));
}

#[test]
fn text_sampling_on_rocm() {
    text::judge_sampling(&|options| Compiled::emulated(&EMULATOR, Rocm, options));
}

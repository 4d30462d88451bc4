//! `fixtures/tiny-vla`: every case through every runner.

use dreamc_frontend::vla::Mode;
use dreamc_golden::runners::{Compiled, CompiledPolicy, Interpreter};
use dreamc_golden::vla::{HeadFiles, judge_forward, judge_predict};

/// Modes that give tokens: they compute the logits of the whole vocabulary.
const TOKENS: [Mode; 2] = [Mode::Discrete, Mode::OneStep];
/// Modes with a head.
const HEADS: [Mode; 3] = [Mode::L1, Mode::Flow, Mode::Ddim];

#[test]
fn forward_in_the_interpreter() {
    judge_forward(&|options| Interpreter::boxed(options, false), false);
}

#[test]
fn forward_in_the_interpreter_after_all_passes() {
    judge_forward(&|options| Interpreter::boxed(options, true), true);
}

#[test]
fn forward_on_the_cpu() {
    judge_forward(&Compiled::all, false);
}

#[test]
fn forward_on_wgpu() {
    judge_forward(&Compiled::wgpu, false);
}

#[test]
fn tokens_in_the_interpreter() {
    let make = |options: &_| Interpreter::actor(options, false);
    judge_predict(&TOKENS, HeadFiles::Safetensors, &make, false);
}

#[test]
fn tokens_in_the_interpreter_after_all_passes() {
    let make = |options: &_| Interpreter::actor(options, true);
    judge_predict(&TOKENS, HeadFiles::Safetensors, &make, true);
}

#[test]
fn tokens_on_the_cpu() {
    judge_predict(&TOKENS, HeadFiles::Archives, &CompiledPolicy::all, true);
}

#[test]
fn tokens_on_wgpu() {
    judge_predict(&TOKENS, HeadFiles::Safetensors, &CompiledPolicy::wgpu, true);
}

#[test]
fn heads_in_the_interpreter() {
    let make = |options: &_| Interpreter::actor(options, false);
    judge_predict(&HEADS, HeadFiles::Safetensors, &make, false);
}

#[test]
fn heads_in_the_interpreter_after_all_passes() {
    let make = |options: &_| Interpreter::actor(options, true);
    judge_predict(&HEADS, HeadFiles::Safetensors, &make, true);
}

#[test]
fn heads_on_the_cpu() {
    judge_predict(&HEADS, HeadFiles::Archives, &CompiledPolicy::all, true);
}

#[test]
fn heads_on_wgpu() {
    judge_predict(&HEADS, HeadFiles::Safetensors, &CompiledPolicy::wgpu, true);
}

//! The trained checkpoints of the fixtures, compiled for tests of what is embedded.

use crate::Fixture;
use dreamc::compile::{ActOptions, BuildOptions, BuildTarget, Entry, build};
use dreamc_frontend::clock::FlowClock;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_num::DType;
use std::path::Path;

/// The robot of `examples/tabletop`, in f32: acts in one step, and generates 5 tokens.
///
/// # Panics
///
/// Where the build fails.
pub fn tabletop(output: &Path) {
    let act = ActOptions { chunk: 5, ..ActOptions::default() };
    compile("tabletop-vla", output, &[Entry::Generate, Entry::Act], act, [1, 5, 64], Alg::MaskgitPlus);
}

/// The same by a flow of 8 steps from noise, with the robot's state.
///
/// # Panics
///
/// Where the build fails.
pub fn tabletop_flow(output: &Path) {
    let (mode, flow_clock) = (Mode::Flow, FlowClock::Exact);
    let act = ActOptions { mode, flow_clock, chunk: 5, proprio: true, ..ActOptions::default() };
    compile("tabletop-vla-flow", output, &[Entry::Act], act, [8, 5, 64], Alg::MaskgitPlus);
}

/// The solver of sudokus, in f32 and 16 steps.
///
/// # Panics
///
/// Where the build fails.
pub fn sudoku(output: &Path) {
    let act = ActOptions::default();
    compile("sudoku-text", output, &[Entry::Generate], act, [16, 16, 32], Alg::Entropy);
}

fn compile(
    fixture: &str,
    output: &Path,
    entries: &[Entry],
    act: ActOptions,
    [steps, new_tokens, max_prompt]: [u32; 3],
    alg: Alg,
) {
    let options = BuildOptions {
        targets: vec![BuildTarget::cpu()],
        emit: None,
        cache: None,
        sources: false,
        checkpoint: Fixture::open(fixture).path("checkpoint"),
        output: output.to_owned(),
        dtype: DType::F32,
        steps,
        eps: 1e-3,
        alg,
        new_tokens,
        max_slots: None,
        max_prompt,
        max_batch: 1,
        entries: entries.to_vec(),
        image: None,
        act,
        lora: None,
        quant: None,
        allow_non_finite: false,
        candidates: None,
        verify_each: true,
        without: vec![],
        golden: None,
        warm: vec![],
    };
    build(&options, &mut ()).unwrap_or_else(|e| panic!("{e}"));
}

//! `--quant fp8`: the trained checkpoint solves as much, and what a GPU runs computes what the interpreter does.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; they print how much succeeds")]

use dreamc::compile::{BuildOptions, Keep};
use dreamc_frontend::sampler::Alg;
use dreamc_golden::fp8::{quantized, sudoku_answers};
use dreamc_golden::runners::{Interpreter, build_options};
use dreamc_golden::{Fixture, sudoku};
#[cfg(target_os = "linux")]
use {
    dream::DeviceKind,
    dreamc_golden::emulator::Emulator,
    dreamc_golden::fp8::judge_forward,
    dreamc_golden::runners::{Compiled, Place},
    dreamc_num::DType,
    std::path::Path,
    std::sync::LazyLock,
};

#[cfg(target_os = "linux")]
static EMULATOR: LazyLock<Emulator> = LazyLock::new(|| Emulator::new(Path::new(env!("CARGO_TARGET_TMPDIR"))));

/// Puzzles that the interpreter solves.
const PUZZLES: usize = 24;

/// As many as the reference in f32, less two at most; by the interpreter, which means what a GPU computes.
#[test]
fn solves_as_many_puzzles() {
    let fixture = Fixture::open("sudoku-text");
    let puzzles = &fixture.json["puzzles"].as_array().unwrap()[..PUZZLES];
    for (setting, alg, steps, keep) in [
        ("entropy-8", Alg::Entropy, 8, Keep::Nothing),
        ("entropy-4", Alg::Entropy, 4, Keep::Rule),
        ("maskgit_plus-1", Alg::MaskgitPlus, 1, Keep::Nothing),
    ] {
        let base = BuildOptions {
            steps,
            alg,
            new_tokens: 16,
            max_prompt: 17,
            max_batch: PUZZLES as u32,
            ..build_options(&fixture.path("checkpoint"))
        };
        let by_reference = puzzles.iter().filter(|p| p["answers"][setting]["solved"] == true).count();
        let options = quantized(keep.clone(), base);
        let answers = sudoku_answers(&options, PUZZLES, &mut Interpreter::new(&options, true));
        let solves = |(p, answer): &(&serde_json::Value, &String)| {
            sudoku::solves(p["puzzle"].as_str().unwrap(), answer)
        };
        let solved = puzzles.iter().zip(&answers).filter(solves).count();
        println!("fp8, {keep:?}, {setting}: {solved} of {PUZZLES} solved, {by_reference} by the reference");
        assert!(solved + 2 >= by_reference, "{keep:?}, {setting}: {solved} of {by_reference}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn text_on_an_emulated_gpu() {
    let ada = |options: &BuildOptions| Compiled::emulated(&EMULATOR, DeviceKind::Cuda, options);
    let hopper = |options: &BuildOptions| Compiled::of(Place::Hopper(&EMULATOR), options);
    for dtype in [DType::F32, DType::BF16] {
        judge_forward(dtype, &ada).iter().for_each(|line| println!("sm_89: {line}"));
        judge_forward(dtype, &hopper).iter().for_each(|line| println!("sm_90a: {line}"));
    }
}

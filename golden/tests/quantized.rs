//! The trained checkpoints with weights in few bits: they must still solve their tasks.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; they print how much succeeds")]

use dream::Generate;
use dreamc::compile::{Bits, BuildOptions, Quantization};
use dreamc_frontend::sampler::Alg;
use dreamc_golden::graph::{On, execute_given, interpret_given};
use dreamc_golden::runners::{Built, build_options};
use dreamc_golden::tabletop::Trained;
use dreamc_golden::{Fixture, sudoku};
use dreamc_interp::Tensor;
use dreamc_ir::{Type, parse};
use dreamc_num::DType;
use serde_json::Value;

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i32).collect()
}

/// `fewer`: of 200 puzzles, how many less than by the reference may be solved.
fn judge_sudoku(bits: Bits, fewer: usize) {
    let fixture = Fixture::open("sudoku-text");
    let puzzles = fixture.json["puzzles"].as_array().unwrap();
    for (setting, alg, steps) in [
        ("entropy-16", Alg::Entropy, 16),
        ("entropy-4", Alg::Entropy, 4),
        ("maskgit_plus-1", Alg::MaskgitPlus, 1),
    ] {
        let options = BuildOptions {
            quant: Some(Quantization::new(bits)),
            steps,
            alg,
            new_tokens: 16,
            max_prompt: 17,
            max_batch: 32,
            ..build_options(&fixture.path("checkpoint"))
        };
        let prompt = puzzles.iter().map(|p| ids(&p["prompt_ids"])).collect();
        let request = Generate { prompt, ..Generate::default() };
        let mut model = Built::new(&options).open(1, None);
        let generated = model.generate(&request, &mut |_, _| true).unwrap();
        let answers = model.answers(&generated).unwrap();
        let solves = |(p, answer): &(&Value, &String)| sudoku::solves(p["puzzle"].as_str().unwrap(), answer);
        let solved = puzzles.iter().zip(&answers).filter(solves).count();
        let by_reference = puzzles.iter().filter(|p| p["answers"][setting]["solved"] == true).count();
        println!("{}, {setting}: {solved} of 200 solved, {by_reference} by the reference", bits.name());
        assert!(solved + fewer >= by_reference, "{}, {setting}: {solved} of {by_reference}", bits.name());
    }
}

/// `least`: of 100 episodes, how many must succeed.
fn judge_tabletop(bits: Bits, steps: u32, least: u32) {
    let trained = Trained::open("tabletop-vla").stored(Quantization::new(bits));
    let mut robot = trained.robot(steps, DType::F32);
    let list = trained.fixture.json["episodes"].as_array().unwrap();
    let ran = list.iter().map(|e| robot.episode(e["seed"].as_u64().unwrap(), None, |_| ()).unwrap().outcome);
    let (mut success, mut exact) = (0, 0);
    ran.for_each(|outcome| {
        success += u32::from(outcome.success);
        exact += u32::from(outcome.is_exact());
    });
    println!("{}, {steps} steps: {success} of 100 episodes, {exact} within 2 pixels", bits.name());
    assert!(success >= least, "{}, {steps} steps: {success} of 100", bits.name());
}

/// Within 2 points of f32.
#[test]
fn sudoku_w8a8() {
    judge_sudoku(Bits::W8A8, 4);
}

/// Within 1 point of f32.
#[test]
fn sudoku_w4a16() {
    judge_sudoku(Bits::W4A16, 2);
}

/// Within 1 point of f32.
#[test]
fn sudoku_w4a8() {
    judge_sudoku(Bits::W4A8, 2);
}

/// Within 2 points of f32: 99 and 100.
#[test]
fn tabletop_w8a8() {
    judge_tabletop(Bits::W8A8, 1, 97);
    judge_tabletop(Bits::W8A8, 8, 98);
}

/// Rounded plainly in groups of 32, 83 succeed.
#[test]
fn tabletop_w4a16() {
    judge_tabletop(Bits::W4A16, 1, 94);
    judge_tabletop(Bits::W4A16, 8, 94);
}

#[test]
fn tabletop_w4a8() {
    judge_tabletop(Bits::W4A8, 1, 94);
}

/// Factors, importance and feedback of columns mean the same to the packer and the device as to the interpreter.
#[test]
fn columns_in_both_places() {
    let text = r#"graph @f(%0: f32[1, 5, 72]) {
      %1 = weight {name="gain"} : f32[72]
      %2 = weight {name="inverse"} : f32[72]
      %3 = weight {name="a", columns="factors", bits=4, group=32, zero=1, importance="importance", feedback="feedback"} : f32[20, 72]
      %4 = weight {name="b", columns="factors", bits=8} : f32[20, 72]
      %5 = linear %0, %1, %2, %3 {norm_eps=1e-6, smooth=1, int8=1} : f32[1, 5, 20]
      %6 = linear %0, %2, %4 {smooth=1, int8=1} : f32[1, 5, 20]
      %7 = linear %0, %2, %3 {first=3, len=9, smooth=1} : f32[1, 5, 9]
      return %5 "a", %6 "b", %7 "rows"
    }"#;
    let module = parse(text).unwrap();
    let random =
        |seed: usize, n: usize| (0..n).map(move |i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0);
    let weights = |name: &str, ty: &Type| {
        let dims: Vec<usize> = ty.dims.iter().map(|d| d.as_constant().unwrap() as usize).collect();
        let n = dims.iter().product();
        let factor = |i: usize| [0.25, 1.0, 8.0, 2.0, 0.5][i % 5];
        Tensor::f32(
            &dims,
            match name {
                "factors" => (0..n).map(factor).collect(),
                "inverse" => (0..n).map(|i| 1.0 / factor(i)).collect(),
                "feedback" => (0..n).map(|i| [0.0, 0.5, -0.25][i % 3]).collect(),
                "importance" => (0..n).map(|i| if i % 7 == 0 { 50.0 } else { 0.5 }).collect(),
                _ => random(name.len() + usize::from(name.as_bytes()[0]), n).collect(),
            },
        )
    };
    let inputs = [Tensor::f32(&[1, 5, 72], random(5, 360).collect())];
    let wanted = interpret_given(&module, "f", &inputs, &weights, &mut ());
    for on in On::cpus() {
        let found = execute_given(&module, "f", &inputs, on, &weights);
        for (found, wanted) in found.iter().zip(&wanted) {
            let pairs = found.floats().iter().zip(wanted.floats());
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{on}: {worst}");
        }
    }
}

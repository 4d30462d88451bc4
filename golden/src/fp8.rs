//! Builds of `--quant fp8`, judged by the interpreter on weights and rows that are rounded as they are.

use crate::Fixture;
use crate::fixture::{assert_within, rows};
use crate::runners::{Interpreter, Make, Runner, build_options};
use dream::{Forward, Generate};
use dreamc::compile::{Bits, BuildOptions, Entry, Keep, Quantization};
use dreamc_interp::Tensor;
use dreamc_num::DType;

/// How far logits may be from the interpreter's, as the root of the mean square relative to theirs. A row that differs in its
/// last bits is rounded to other codes where it is next to a tie, and one code is a sixteenth from the next: in 16 bits one
/// element of 32 or so.
fn limit(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 | DType::F16 => 0.1,
        DType::F32 | DType::I32 | DType::U32 | DType::Bool => 0.02,
    }
}

/// A build in fp8 of which nothing or what the rule says is kept.
pub fn quantized(keep: Keep, base: BuildOptions) -> BuildOptions {
    BuildOptions { quant: Some(Quantization { keep, ..Quantization::new(Bits::Fp8) }), ..base }
}

/// Logits of the tiny text model, by the rule of what is kept and with nothing kept: within the limit, and nearer than those
/// of what is not rounded. Says how near.
pub fn judge_forward(dtype: DType, make: Make<'_>) -> Vec<String> {
    let fixture = Fixture::open("tiny-text");
    let base = build_options(&fixture.path("checkpoint"));
    let base = BuildOptions { max_prompt: 20, entries: vec![Entry::Forward], dtype, ..base };
    let request =
        Forward { input_ids: rows(&fixture.tensor("forward/full_b1/input_ids")), ..Forward::default() };
    let logits = |runner: &mut dyn Runner| runner.forward(&request, &[]).remove(0).1;
    let plain = logits(&mut Interpreter::new(&base, true));
    let mut lines = Vec::new();
    for keep in [Keep::Rule, Keep::Nothing] {
        let options = quantized(keep.clone(), base.clone());
        let wanted = logits(&mut Interpreter::new(&options, true));
        let effect = distance(&plain, &wanted);
        for mut runner in make(&options) {
            let off = distance(&logits(runner.as_mut()), &wanted);
            assert_within(off as f32, limit(dtype) as f32, &format!("{dtype}, {keep:?}: logits in fp8"));
            let line = format!("fp8, {dtype}, {keep:?}: off by {off:.5}, rounding by {effect:.5}");
            assert!(off < effect, "{line}");
            lines.push(line);
        }
    }
    lines
}

/// Root of the mean squared difference relative to what is wanted.
fn distance(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.dims, wanted.dims);
    let square = |x: f32| f64::from(x).powi(2);
    let pairs = found.floats().iter().zip(wanted.floats());
    let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
    (error / wanted.floats().iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// The first `count` puzzles of the trained checkpoint in one request: the digits that are put in the slots of each.
pub fn sudoku_answers(options: &BuildOptions, count: usize, runner: &mut dyn Runner) -> Vec<String> {
    const DIGITS: usize = 16;
    let fixture = Fixture::open("sudoku-text");
    let puzzles = &fixture.json["puzzles"].as_array().expect("there are puzzles")[..count];
    let ids = |i: usize| -> Vec<i32> {
        let list = puzzles[i]["prompt_ids"].as_array().expect("every puzzle has a prompt");
        list.iter().map(|id| id.as_i64().expect("ids are integers") as i32).collect()
    };
    let config = std::fs::read_to_string(options.checkpoint.join("config.json")).expect("it is there");
    let config: serde_json::Value = serde_json::from_str(&config).expect("it is JSON");
    let mask_token = config["mask_token_id"].as_i64().expect("the config states it") as i32;
    let request = Generate {
        prompt: (0..count).map(ids).collect(),
        canvas: Some(vec![mask_token; DIGITS]),
        ..Generate::default()
    };
    let [canvas, _] = runner.generate(&request, &mut ());
    // A prompt is the puzzle's digits and the end of the line.
    let zero = puzzles.iter().zip(&request.prompt).find_map(|(puzzle, ids)| {
        let at = puzzle["puzzle"].as_str()?.find('0')?;
        ids.get(at).copied()
    });
    let zero = zero.expect("puzzles have open cells");
    let text = |row: &[i32]| -> String {
        let digit = |id: &i32| char::from_digit((id - zero) as u32, 10).unwrap_or('?');
        row[row.len() - DIGITS..].iter().map(digit).collect()
    };
    canvas.ints().chunks(canvas.columns()).map(text).collect()
}

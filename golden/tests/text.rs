//! `fixtures/tiny-text`: every case through every runner.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_golden::Fixture;
use dreamc_golden::fixture::{max_difference, rows};
use dreamc_golden::graph::{On, execute, interpret};
use dreamc_golden::runners::{Compiled, Interpreter};
use dreamc_golden::text::{judge_16_bits, judge_forward, judge_sampling};
use dreamc_interp::Tensor;
use dreamc_ir::parse;
use dreamc_num::{DType, schedule};
use dreamc_runtime::{Canvas, CanvasError};

#[test]
fn forward_in_the_interpreter() {
    judge_forward(&|options| Interpreter::boxed(options, false));
}

#[test]
fn sampling_in_the_interpreter() {
    judge_sampling(&|options| Interpreter::boxed(options, false));
}

#[test]
fn sampling_in_the_interpreter_after_all_passes() {
    judge_sampling(&|options| Interpreter::boxed(options, true));
}

#[test]
fn forward_on_the_cpu() {
    judge_forward(&Compiled::all);
}

#[test]
fn forward_on_wgpu() {
    judge_forward(&Compiled::wgpu);
}

#[test]
fn forward_in_16_bits() {
    judge_16_bits(DType::BF16, &Compiled::all);
    judge_16_bits(DType::BF16, &Compiled::wgpu);
    judge_16_bits(DType::F16, &Compiled::wgpu);
}

#[test]
fn sampling_on_wgpu() {
    judge_sampling(&Compiled::wgpu);
}

#[test]
fn sampling_on_the_cpu() {
    judge_sampling(&Compiled::all);
}

/// The reference overwrites prompt tokens there; we refuse.
#[test]
fn uneven_masks_are_refused() {
    let fixture = Fixture::open("tiny-text");
    let prompt = rows(&fixture.tensor("sampling/quirk_uneven_masks/input_ids"));
    let canvas = Canvas::for_generation(&prompt, None, &[502; 4], 502);
    assert!(matches!(canvas, Err(CanvasError::UnevenMasks { .. })), "{canvas:?}");
}

/// The whole schedule table, exact.
#[test]
fn schedule_table() {
    let fixture = Fixture::open("tiny-text");
    let table = std::fs::read(fixture.path("schedule.json")).unwrap();
    let table: Vec<serde_json::Value> = serde_json::from_slice(&table).unwrap();
    assert!(table.len() > 100);
    for row in table {
        let (steps, masks) = (row["steps"].as_u64().unwrap() as u32, row["masks"].as_u64().unwrap() as u32);
        let eps = row["eps"].as_f64().unwrap() as f32;
        let mut left = masks;
        for (step, wanted) in row["reveal"].as_array().unwrap().iter().enumerate() {
            let count = schedule::transfer_count(left, step as u32, steps, eps);
            assert_eq!(
                u64::from(count),
                wanted.as_u64().unwrap(),
                "{masks} masks, step {step} of {steps}, eps {eps}"
            );
            left -= count;
        }
        assert_eq!(left, 0);
    }
}

/// Timesteps to the bit.
#[test]
fn timesteps() {
    let fixture = Fixture::open("tiny-text");
    let names: Vec<String> =
        fixture.names().into_iter().filter(|n| n.starts_with("schedule/timesteps")).collect();
    assert!(!names.is_empty());
    for name in names {
        let wanted = fixture.tensor(&name);
        let steps = wanted.floats().len() as u32 - 1;
        let eps = *wanted.floats().last().unwrap();
        for (k, t) in wanted.floats().iter().enumerate() {
            assert_eq!(schedule::timestep(k as u32, steps, eps), *t, "{name}: element {k}");
        }
    }
}

const FILTER: &str = "
graph @filter(%0: f32[1, 6, 512] \"logits\", %1: bool[1, 6] \"active\", %2: f32[] \"temperature\", %3: f32[] \"top_p\",
    %4: i32[] \"top_k\", %5: u32[1, 6] \"bits\", %6: i32[1, 6] \"token\") {
  %7 = sampling_probs %0, %1, %2, %3, %4 : f32[1, 6, 512]
  %8 = draw_token %7, %1, %2, %5 : i32[1, 6]
  %9 = confidence %7, %1, %6 {kind=probability} : f32[1, 6]
  %10 = confidence %7, %1, %6 {kind=margin} : f32[1, 6]
  %11 = confidence %7, %1, %6 {kind=negative_entropy} : f32[1, 6]
  return %7 \"probs\", %8 \"drawn\", %9 \"probability\", %10 \"margin\", %11 \"negative_entropy\"
}
";

/// All filter cases: the distribution, the token, the confidence; in the interpreter and on the device.
#[test]
fn filters() {
    let fixture = Fixture::open("tiny-text");
    let module = parse(FILTER).unwrap();
    let limit = fixture.json["tolerance"]["confidence_abs"].as_f64().unwrap() as f32;
    for case in fixture.cases("filters") {
        let settings = &fixture.json["filters"][&case];
        let number = |key: &str, absent: f64| settings[key].as_f64().unwrap_or(absent);
        let golden = |name: &str| fixture.find(&format!("filters/{case}/{name}"));
        let token = golden("token").or_else(|| golden("drawn_token")).unwrap();
        let scalar = |x: f64| Tensor::f32(&[], vec![x as f32]);
        let mut logits = fixture.tensor("filters/logits");
        logits.dims = vec![1, 6, 512];
        let inputs = [
            logits,
            Tensor::bool(&[1, 6], vec![true; 6]),
            scalar(number("temperature", 0.0)),
            scalar(number("top_p", 1.0)),
            Tensor::i32(&[], vec![number("top_k", 0.0) as i32]),
            Tensor::u32(&[1, 6], vec![12345; 6]),
            Tensor::i32(&[1, 6], token.ints().to_vec()),
        ];
        let kind = match (settings["margin_confidence"].as_bool(), settings["neg_entropy"].as_bool()) {
            (Some(true), _) => 3,
            (_, Some(true)) => 4,
            _ => 2,
        };
        let executed = On::all().into_iter().map(|on| execute(&module, "filter", &inputs, on));
        for results in [interpret(&module, "filter", &inputs)].into_iter().chain(executed) {
            if golden("token").is_some() {
                assert_eq!(results[1].ints(), token.ints(), "case {case}");
            }
            if let Some(mut probs) = golden("probs") {
                probs.dims = vec![1, 6, 512];
                assert!(max_difference(&results[0], &probs, |_| true) < limit, "case {case}");
            }
            let mut confidence = golden("confidence").unwrap();
            confidence.dims = vec![1, 6];
            let off = max_difference(&results[kind], &confidence, |_| true);
            assert!(off < limit, "case {case}: off by {off}");
        }
    }
}

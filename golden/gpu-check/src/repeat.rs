//! The same request again: every bit of every answer, recorded runs included.

use crate::fixtures::Make;
use crate::report::Checks;
use dream::{ActOptions, DeviceChoice, Forward, Generate, Model, OpenOptions, Sampling};
use dreamc::compile::{BuildOptions, Entry};
use dreamc_golden::Fixture;
use dreamc_golden::fixture::rows;
use dreamc_golden::runners::{Built, build_options};
use dreamc_golden::tabletop::Trained;
use dreamc_num::DType;
use serde_json::{Map, Value};
use tabletop::Scene;

/// How often a request is made. The second run of some lengths is a replay where the device records.
const TIMES: usize = 5;

/// Judges text in all types, and actions from noise.
pub(crate) fn judge(section: &str, make: Make, checks: &mut Checks) {
    for dtype in [DType::F32, DType::BF16] {
        checks.check(section, &format!("text, {dtype}"), || text(make, dtype));
        checks.check(section, &format!("actions, {dtype}"), || actions(make, dtype));
    }
}

fn text(make: Make, dtype: DType) -> Map<String, Value> {
    let fixture = Fixture::open("tiny-text");
    let built = Built::new(&BuildOptions {
        targets: vec![make.place.target(dtype)],
        dtype,
        steps: 4,
        ..build_options(&fixture.path("checkpoint"))
    });
    if !make.runs {
        return Map::new();
    }
    let device = DeviceChoice::Only(make.place.device());
    let mut model: Model = built.open_with(&OpenOptions { device, ..OpenOptions::default() });
    let ids = rows(&fixture.tensor("forward/full_b1/input_ids"));
    let ids: Vec<Vec<i32>> = ids.into_iter().map(|row| row.into_iter().take(11).collect()).collect();
    let forward = Forward { input_ids: ids.clone(), ..Forward::default() };
    let sampling = Sampling { temperature: 0.8, seed: 11, ..Sampling::default() };
    let generate = Generate { prompt: ids, sampling, history: true, ..Generate::default() };
    same(|| {
        let logits = model.forward(&forward, &[]).unwrap_or_else(|e| panic!("{e}")).remove(0).data;
        let answer = model.generate(&generate, &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
        let bits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
        (bits, answer.sequences, answer.history)
    })
}

fn actions(make: Make, dtype: DType) -> Map<String, Value> {
    let built = Trained::open("tabletop-vla-flow").on(make.place).build(4, dtype, &[Entry::Act]);
    if !make.runs {
        return Map::new();
    }
    let mut robot = built.robot(1);
    let sampling = Sampling { seed: 5, ..Sampling::default() };
    let options = ActOptions { sampling, noise: None };
    same(|| {
        let chunk = robot.act(&Scene::new(3), &options).unwrap_or_else(|e| panic!("{e}"));
        chunk.actions.concat().iter().map(|x| x.to_bits()).collect::<Vec<u64>>()
    })
}

fn same<T: PartialEq>(mut run: impl FnMut() -> T) -> Map<String, Value> {
    let first = run();
    for time in 1..TIMES {
        assert!(run() == first, "run {} differs from the first", time + 1);
    }
    Map::from_iter([("runs".to_owned(), Value::from(TIMES))])
}

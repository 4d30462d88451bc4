//! `fixtures/sudoku-text`: the trained model must solve what the reference solves.
#![allow(clippy::unwrap_used, reason = "tests")]

use dream::Generate;
use dreamc::compile::BuildOptions;
use dreamc_frontend::sampler::Alg;
use dreamc_golden::runners::{Built, build_options};
use dreamc_golden::{Fixture, sudoku::solves};
use dreamc_num::DType;
use serde_json::Value;

fn judge(dtype: DType, exact: bool) {
    let fixture = Fixture::open("sudoku-text");
    let puzzles = fixture.json["puzzles"].as_array().unwrap();
    let mut differing = Vec::new();
    assert_eq!(puzzles.len(), 200);
    for setting in fixture.cases("settings") {
        let about = &fixture.json["settings"][&setting];
        let steps = about["steps"].as_u64().unwrap() as u32;
        let alg = Alg::from_name(about["alg"].as_str().unwrap()).unwrap();
        let built = Built::new(&BuildOptions {
            dtype,
            steps,
            alg,
            new_tokens: 16,
            max_prompt: 17,
            max_batch: 32,
            ..build_options(&fixture.path("checkpoint"))
        });
        let mut model = built.open(1, None);
        let encode = |p: &Value| model.encode(&format!("{}\n", p["puzzle"].as_str().unwrap())).unwrap();
        let prompt: Vec<Vec<i32>> = puzzles.iter().map(encode).collect();
        let ids =
            |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i32).collect::<Vec<_>>();
        for (row, puzzle) in prompt.iter().zip(puzzles) {
            assert_eq!(*row, ids(&puzzle["prompt_ids"]));
        }
        let generated =
            model.generate(&Generate { prompt, ..Generate::default() }, &mut |_, _| true).unwrap();
        let answers = model.answers(&generated).unwrap();
        let mut solved = 0_i64;
        for ((puzzle, row), answer) in puzzles.iter().zip(&generated.sequences).zip(&answers) {
            solved += i64::from(solves(puzzle["puzzle"].as_str().unwrap(), answer));
            let wanted = &puzzle["answers"][&setting];
            let clear = wanted["stable_1e-3"].as_bool().unwrap()
                && (steps > 1 || wanted["tok_margin"].as_f64().unwrap() > 1e-3);
            if exact && clear && row[17..] != ids(&wanted["ids"]) {
                differing.push(format!("{setting}: {}", puzzle["puzzle"]));
            }
        }
        let wanted = about["solved"].as_i64().unwrap();
        // Two points of a hundred; there are 200 puzzles.
        assert!(
            (solved - wanted).abs() <= 4,
            "{dtype}, {setting}: {solved} solved, the reference solves {wanted}"
        );
    }
}

#[test]
fn solves_as_the_reference_in_f32() {
    judge(DType::F32, true);
}

#[test]
fn solves_as_the_reference_in_bf16() {
    judge(DType::BF16, false);
}

//! The trained checkpoints with weights in few bits: they must still solve their tasks.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; they print how much succeeds")]

use dream::{Forward, Generate, Image, Visual};
use dreamc::compile::{Bits, BuildOptions, Entry, Quantization};
use dreamc_frontend::sampler::Alg;
use dreamc_golden::runners::{Built, Interpreter, Runner, build_options};
use dreamc_golden::tabletop::Trained;
use dreamc_golden::{Fixture, sudoku};
use dreamc_num::DType;
use serde_json::Value;
use tabletop::Scene;

/// Whether the CPU device has kernels for weights in few bits. Without them the interpreter computes a few cases.
const KERNELS: bool = false;
/// Puzzles and observations that the interpreter computes.
const FEW: usize = 4;
/// Mask tokens of the text model and of the policy.
const MASKS: [i32; 2] = [307, 352];
/// Of 100 episodes, where weights have 8 bits: as in f32, to two points.
const EPISODES_W8: u32 = 97;
/// Where they have 4; rounded plainly in groups of 32, 83 succeed.
const EPISODES_W4: u32 = 94;

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i32).collect()
}

/// `fewer`: of 200 puzzles, how many less than the reference may be solved.
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
        let of = |some: &[Value]| Generate {
            prompt: some.iter().map(|p| ids(&p["prompt_ids"])).collect(),
            ..Generate::default()
        };
        let by_reference =
            |some: &[Value]| some.iter().filter(|p| p["answers"][setting]["solved"] == true).count();
        let puzzle = |p: &Value| p["puzzle"].as_str().unwrap().to_owned();
        if KERNELS {
            let mut model = Built::new(&options).open(1, None);
            let generated = model.generate(&of(puzzles), &mut |_, _| true).unwrap();
            let answers = model.answers(&generated).unwrap();
            let solved = puzzles.iter().zip(&answers).filter(|(p, a)| sudoku::solves(&puzzle(p), a)).count();
            println!("{}, {setting}: {solved} of 200 solved", bits.name());
            // More may be luck as well, but is no fault.
            let enough = solved + fewer >= by_reference(puzzles);
            assert!(enough, "{}, {setting}: {solved} solved", bits.name());
            continue;
        }
        // Puzzles with one solution and the reference's own tokens for it.
        let clear: Vec<Value> = puzzles
            .iter()
            .filter(|p| {
                p["answers"][setting]["stable_5e-2"] == true && p["answers"][setting]["solved"] == true
            })
            .take(FEW)
            .cloned()
            .collect();
        let mut interpreter = Interpreter::new(&options, true);
        let request = Generate { canvas: Some(vec![MASKS[0]; 16]), ..of(&clear) };
        let [canvas, _] = interpreter.generate(&request, &mut ());
        let same = canvas
            .ints()
            .chunks(33)
            .zip(&clear)
            .filter(|(row, p)| row[17..] == ids(&p["answers"][setting]["ids"]))
            .count();
        assert!(same + 1 >= FEW, "{}, {setting}: {same} of {FEW} as the reference", bits.name());
    }
}

/// `cosine` of the logits with those of the reference, at least.
fn judge_tabletop(bits: Bits, episodes: u32, cosine: f64) {
    let trained = Trained::open("tabletop-vla").stored(Quantization::new(bits));
    if KERNELS {
        let mut robot = trained.robot(1, DType::F32);
        let list = trained.fixture.json["episodes"].as_array().unwrap();
        let ran =
            list.iter().map(|e| robot.episode(e["seed"].as_u64().unwrap(), None, |_| ()).unwrap().outcome);
        let (mut success, mut exact) = (0, 0);
        ran.for_each(|outcome| {
            success += u32::from(outcome.success);
            exact += u32::from(outcome.is_exact());
        });
        println!("{}: {success} of 100 episodes, {exact} within 2 pixels", bits.name());
        assert!(success >= episodes, "{}: {success}", bits.name());
        return;
    }
    let mut interpreter = Interpreter::new(&trained.options(1, DType::F32, &[Entry::Forward]), true);
    let wanted = trained.fixture.tensor("canvas_logits");
    let [_, slots, columns] = *wanted.dims.as_slice() else { panic!("three axes") };
    let observations = trained.fixture.json["observations"].as_array().unwrap();
    for (k, about) in observations.iter().take(FEW).enumerate() {
        let scene = Scene::new(about["seed"].as_u64().unwrap());
        let side = tabletop::scene::SIDE as u32;
        let visuals = vec![Visual::Image(Image::from_rgb8(side, side, scene.frame()).unwrap())];
        let prompt = ids(&about["prompt_ids"]);
        let canvas = [prompt.clone(), vec![MASKS[1]; slots]].concat();
        let request = Forward { input_ids: vec![canvas], visuals, ..Forward::default() };
        let logits = interpreter.forward(&request, &[]).remove(0).1;
        let found = &logits.floats()[(prompt.len() - 1) * columns..][..slots * columns];
        let wanted = &wanted.floats()[k * slots * columns..][..slots * columns];
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let same = dot(found, wanted) / (dot(found, found) * dot(wanted, wanted)).sqrt();
        println!("{}, observation {k}: cosine {same:.6}", bits.name());
        assert!(same >= cosine, "{}, observation {k}: {same}", bits.name());
    }
}

#[test]
fn sudoku_w8a8() {
    judge_sudoku(Bits::W8A8, 4);
}

#[test]
fn sudoku_w4a16() {
    judge_sudoku(Bits::W4A16, 2);
}

#[test]
fn tabletop_w8a8() {
    judge_tabletop(Bits::W8A8, EPISODES_W8, 0.9995);
}

#[test]
fn tabletop_w4a16() {
    judge_tabletop(Bits::W4A16, EPISODES_W4, 0.99);
}

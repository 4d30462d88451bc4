//! The trained checkpoints with weights in few bits that were calibrated: they must still solve their tasks, also where they
//! have outlier channels, with which rounding without calibration fails.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; they print how much succeeds")]

use dream::{ActOptions, Generate, Model, OpenOptions, Policy};
use dreamc::compile::{Bits, BuildOptions, Entry, Keep, Parent, Quantization, Statistics};
use dreamc_frontend::sampler::Alg;
use dreamc_golden::outliers::plant;
use dreamc_golden::runners::{Built, build_options};
use dreamc_golden::tabletop::Trained;
use dreamc_golden::{Fixture, sudoku};
use dreamc_num::DType;
use serde_json::Value;
use std::path::Path;
use tabletop::{Robot, Scene};
use tempfile::TempDir;

/// Requests that are shown to the parent.
const REQUESTS: usize = 32;
/// The first scene that is shown; none of them is judged.
const FIRST_SCENE: u64 = 5000;
/// What outlier channels are larger by.
const OUTLIER: f32 = 256.0;

/// A checkpoint, with outliers if it is a copy.
struct Checkpoint {
    fixture: Fixture,
    planted: Option<TempDir>,
}

impl Checkpoint {
    fn of(fixture: &str) -> Checkpoint {
        Checkpoint { fixture: Fixture::open(fixture), planted: None }
    }

    fn with_outliers(fixture: &str) -> Checkpoint {
        let (fixture, folder) = (Fixture::open(fixture), tempfile::tempdir().unwrap());
        plant(&fixture.path("checkpoint"), folder.path(), OUTLIER);
        Checkpoint { fixture, planted: Some(folder) }
    }

    fn sudoku(&self, steps: u32, alg: Alg) -> BuildOptions {
        let checkpoint =
            self.planted.as_ref().map_or(self.fixture.path("checkpoint"), |p| p.path().to_owned());
        let lengths =
            BuildOptions { new_tokens: 16, max_prompt: 17, max_batch: 32, ..build_options(&checkpoint) };
        BuildOptions { entries: vec![Entry::Generate], steps, alg, ..lengths }
    }

    fn tabletop(&self) -> BuildOptions {
        let options = Trained::open("tabletop-vla").options(1, DType::F32, &[Entry::Act]);
        match &self.planted {
            Some(folder) => BuildOptions { checkpoint: folder.path().to_owned(), ..options },
            None => options,
        }
    }

    /// What the first puzzles show.
    fn seen_in_puzzles(&self, options: &BuildOptions, threads: usize) -> Statistics {
        let puzzles = self.fixture.json["puzzles"].as_array().unwrap();
        let prompt = puzzles.iter().take(REQUESTS).map(|p| ids(&p["prompt_ids"])).collect();
        let request = Generate { prompt, ..Generate::default() };
        observe(options, threads, |mut model, collector| {
            model.generate_with(&request, collector).unwrap();
        })
    }

    fn seen_in_scenes(options: &BuildOptions, threads: usize) -> Statistics {
        observe(options, threads, |model, collector| {
            let mut robot = Robot::new(Policy::of(model).unwrap()).unwrap();
            for seed in (FIRST_SCENE..).take(REQUESTS) {
                robot.act_with(&Scene::new(seed), &ActOptions::default(), collector).unwrap();
            }
        })
    }

    /// How many of 200 puzzles are solved.
    fn solved(&self, options: &BuildOptions) -> usize {
        let puzzles = self.fixture.json["puzzles"].as_array().unwrap();
        let prompt = puzzles.iter().map(|p| ids(&p["prompt_ids"])).collect();
        let mut model = Built::new(options).open(1, None);
        let generated =
            model.generate(&Generate { prompt, ..Generate::default() }, &mut |_, _| true).unwrap();
        let answers = model.answers(&generated).unwrap();
        let solves = |(p, answer): &(&Value, &String)| sudoku::solves(p["puzzle"].as_str().unwrap(), answer);
        puzzles.iter().zip(&answers).filter(solves).count()
    }

    /// How many of 100 episodes succeed.
    fn succeeded(&self, options: &BuildOptions) -> usize {
        let mut robot = Robot::new(Policy::of(Built::new(options).open(1, None)).unwrap()).unwrap();
        let episodes = self.fixture.json["episodes"].as_array().unwrap();
        let seeds = episodes.iter().map(|e| e["seed"].as_u64().unwrap());
        let mut ran = seeds.map(|seed| robot.episode(seed, None, |_| ()).unwrap().outcome);
        ran.by_ref().filter(|outcome| outcome.success).count()
    }
}

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i32).collect()
}

fn observe(
    options: &BuildOptions,
    threads: usize,
    ask: impl FnOnce(Model, &mut dyn dream::Observer),
) -> Statistics {
    let folder = tempfile::tempdir().unwrap();
    // For the fewest bits the most is collected.
    let quant = Some(Quantization::new(Bits::W4A8));
    let options = BuildOptions { output: beside(folder.path()), quant, ..options.clone() };
    let parent = Parent::build(&options, &mut ());
    let parent = parent.unwrap_or_else(|e| panic!("{e}"));
    let mut collector = parent.collector();
    let open = OpenOptions { threads, ..OpenOptions::default() };
    ask(Model::open(parent.path(), &open).unwrap(), &mut collector);
    collector.finish(REQUESTS as u64)
}

fn beside(folder: &Path) -> std::path::PathBuf {
    folder.join("model.dream")
}

fn quantized(options: &BuildOptions, bits: Bits, keep: Keep, seen: Option<&Statistics>) -> BuildOptions {
    let calibration = seen.cloned();
    let quant = Some(Quantization { keep, calibration, ..Quantization::new(bits) });
    BuildOptions { quant, ..options.clone() }
}

/// `fewer`: of 200 puzzles, how many less than by the reference may be solved. Those that keep nothing are printed alone.
fn judge_sudoku(bits: Bits, fewer: usize) {
    let checkpoint = Checkpoint::of("sudoku-text");
    let seen = checkpoint.seen_in_puzzles(&checkpoint.sudoku(16, Alg::Entropy), 1);
    for (setting, alg, steps) in [
        ("entropy-16", Alg::Entropy, 16),
        ("entropy-4", Alg::Entropy, 4),
        ("maskgit_plus-1", Alg::MaskgitPlus, 1),
    ] {
        let puzzles = checkpoint.fixture.json["puzzles"].as_array().unwrap();
        let by_reference = puzzles.iter().filter(|p| p["answers"][setting]["solved"] == true).count();
        for keep in [Keep::Rule, Keep::Nothing] {
            let options = quantized(&checkpoint.sudoku(steps, alg), bits, keep.clone(), Some(&seen));
            let solved = checkpoint.solved(&options);
            println!(
                "{} {keep:?}, {setting}: {solved} of 200 solved, {by_reference} by the reference",
                bits.name()
            );
            assert!(keep == Keep::Nothing || solved + fewer >= by_reference, "{setting}: {solved}");
        }
    }
}

/// `least`: of 100 episodes, how many must succeed with the tensors of the rule kept; 90 with none.
fn judge_tabletop(bits: Bits, least: usize) {
    let checkpoint = Checkpoint::of("tabletop-vla");
    let seen = Checkpoint::seen_in_scenes(&checkpoint.tabletop(), 1);
    for keep in [Keep::Rule, Keep::Nothing] {
        let options = quantized(&checkpoint.tabletop(), bits, keep.clone(), Some(&seen));
        let success = checkpoint.succeeded(&options);
        println!("{} {keep:?}: {success} of 100 episodes", bits.name());
        let least = if keep == Keep::Rule { least } else { 90 };
        assert!(success >= least, "{} {keep:?}: {success} of 100", bits.name());
    }
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

/// Within 2 points of f32, which is 99.
#[test]
fn tabletop_w8a8() {
    judge_tabletop(Bits::W8A8, 97);
}

#[test]
fn tabletop_w4a16() {
    judge_tabletop(Bits::W4A16, 94);
}

#[test]
fn tabletop_w4a8() {
    judge_tabletop(Bits::W4A8, 94);
}

/// With outlier channels 8 bits by themselves fail the task, and calibrated ones are within 2 points of f32.
#[test]
fn outliers_sudoku() {
    let checkpoint = Checkpoint::with_outliers("sudoku-text");
    let wide = checkpoint.sudoku(16, Alg::Entropy);
    let plain = checkpoint.solved(&wide);
    assert_eq!(
        plain,
        Checkpoint::of("sudoku-text").solved(&Checkpoint::of("sudoku-text").sudoku(16, Alg::Entropy))
    );
    let seen = checkpoint.seen_in_puzzles(&wide, 1);
    for bits in [Bits::W8A8, Bits::W4A8] {
        let by_themselves = checkpoint.solved(&quantized(&wide, bits, Keep::Nothing, None));
        let calibrated = checkpoint.solved(&quantized(&wide, bits, Keep::Nothing, Some(&seen)));
        println!(
            "{} of 200 puzzles: {plain} in f32, {by_themselves} by themselves, {calibrated} calibrated",
            bits.name()
        );
        assert!(by_themselves < 150 && calibrated + 4 >= plain, "{by_themselves} {calibrated}");
    }
}

/// The same of the robot.
#[test]
fn outliers_tabletop() {
    let checkpoint = Checkpoint::with_outliers("tabletop-vla");
    let wide = checkpoint.tabletop();
    let plain = checkpoint.succeeded(&wide);
    let seen = Checkpoint::seen_in_scenes(&wide, 1);
    let by_themselves = checkpoint.succeeded(&quantized(&wide, Bits::W8A8, Keep::Nothing, None));
    let calibrated = checkpoint.succeeded(&quantized(&wide, Bits::W8A8, Keep::Nothing, Some(&seen)));
    println!("w8a8 of 100 episodes: {plain} in f32, {by_themselves} by themselves, {calibrated} calibrated");
    assert!(by_themselves < 80 && calibrated + 2 >= plain, "{by_themselves} {calibrated}");
}

/// The same bytes, whatever the number of threads of the parent.
#[test]
fn same_bytes_with_any_threads() {
    let checkpoint = Checkpoint::of("sudoku-text");
    let options = checkpoint.sudoku(4, Alg::Entropy);
    let of = |threads: usize| {
        let seen = checkpoint.seen_in_puzzles(&options, threads);
        let built = Built::new(&quantized(&options, Bits::W4A8, Keep::Rule, Some(&seen)));
        std::fs::read(built.path()).unwrap()
    };
    let once = of(1);
    assert!([1, 3].into_iter().all(|threads| of(threads) == once));
}

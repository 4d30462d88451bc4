//! `fixtures/tabletop-*`: the trained policies must see, choose and pick up what the reference does.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; they print how many episodes succeed")]

use dream::{ActOptions, Actions, Sampling};
use dreamc::compile::Entry;
use dreamc_artifact::plan::Dispatch;
use dreamc_frontend::clock::{FlowClock, flow_times};
use dreamc_golden::runners::Place;
use dreamc_golden::tabletop::{Trained, judge_episodes, judge_observations, judge_vision};
use dreamc_num::DType;
use dreamc_runtime::{Observer, Shown};
use tabletop::Scene;

const DISCRETE: &str = "tabletop-vla";
const FLOW: &str = "tabletop-vla-flow";
const L1: &str = "tabletop-vla-l1";

/// In f32, everything that the reference has.
fn judge(name: &str, steps: &[u32]) {
    let trained = Trained::open(name);
    assert_eq!(trained.steps(), steps);
    for steps in steps {
        let mut robot = trained.robot(*steps, DType::F32);
        judge_observations(&trained, *steps, &mut robot);
        println!("f32, {}", judge_episodes(&trained, *steps, &mut robot, true));
    }
}

/// In bf16, success alone.
fn judge_bf16(name: &str, steps: &[u32]) {
    let trained = Trained::open(name);
    for steps in steps {
        let mut robot = trained.robot(*steps, DType::BF16);
        println!("bf16, {}", judge_episodes(&trained, *steps, &mut robot, false));
    }
}

#[test]
fn prompts_pixels_image_rows_and_logits() {
    for name in [DISCRETE, FLOW, L1] {
        judge_vision(&Trained::open(name));
    }
}

#[test]
fn discrete_as_the_reference_in_f32() {
    judge(DISCRETE, &[1, 2, 4, 8]);
}

#[test]
fn flow_as_the_reference_in_f32() {
    for steps in [1, 2, 4, 8] {
        // The fixture counts exactly; for these steps the reference's clock does too.
        assert_eq!(flow_times(steps, FlowClock::Reference), flow_times(steps, FlowClock::Exact));
    }
    judge(FLOW, &[1, 2, 4, 8]);
}

#[test]
fn l1_as_the_reference_in_f32() {
    judge(L1, &[1]);
}

#[test]
fn success_as_the_reference_in_bf16() {
    judge_bf16(DISCRETE, &[1, 4]);
    judge_bf16(FLOW, &[4]);
    judge_bf16(L1, &[1]);
}

/// Sees and chooses as the reference in f32, and picks up as much in f16.
#[test]
fn on_wgpu() {
    for (name, steps) in [(DISCRETE, 4), (FLOW, 4), (L1, 1)] {
        let trained = Trained::open(name).on(Place::Wgpu);
        judge_vision(&trained);
        judge_observations(&trained, steps, &mut trained.robot(steps, DType::F32));
    }
    let trained = Trained::open(L1).on(Place::Wgpu);
    let mut robot = trained.robot(1, DType::F16);
    println!("f16 on wgpu, {}", judge_episodes(&trained, 1, &mut robot, false));
}

fn seeded(seed: u64, temperature: f32) -> ActOptions {
    ActOptions { sampling: Sampling { seed, temperature, ..Sampling::default() }, noise: None }
}

/// Bits, since floats that are equal may differ in sign.
fn bits(chunk: &Actions) -> Vec<u64> {
    chunk.actions.concat().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn same_seed_same_actions_on_any_number_of_threads() {
    for (name, steps, temperature) in [(DISCRETE, 4, 2.0), (FLOW, 4, 0.0), (L1, 1, 0.0)] {
        for dtype in [DType::F32, DType::BF16] {
            let artifact = Trained::open(name).build(steps, dtype, &[Entry::Act]);
            let [mut one, mut two] = [1, 2].map(|threads| artifact.robot(threads));
            let mut differ = false;
            for seed in 0..5 {
                let (scene, options) = (Scene::new(seed), seeded(seed, temperature));
                let first = one.act(&scene, &options).unwrap();
                assert_eq!(bits(&one.act(&scene, &options).unwrap()), bits(&first), "{name}, {dtype}, again");
                assert_eq!(
                    bits(&two.act(&scene, &options).unwrap()),
                    bits(&first),
                    "{name}, {dtype}, threads"
                );
                let other = one.act(&scene, &seeded(seed + 1, temperature)).unwrap();
                differ |= bits(&other) != bits(&first);
            }
            assert_eq!(differ, name != L1, "{name}, {dtype}: another seed");
        }
    }
}

/// Counts what belongs to the vision tower, and passes of the decoder.
#[derive(Debug, Default, PartialEq)]
struct Count {
    vision: usize,
    decoder: usize,
}

/// The first layer's norm: once for each pass.
const PASS: &str = "model.layers.0.input_layernorm";

impl Observer for Count {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        dispatch.origin.iter().any(|path| path.starts_with("visual.") || path == PASS)
    }

    fn after(&mut self, shown: Shown<'_>) {
        if shown.result == 0 {
            let pass = shown.dispatch.origin.iter().any(|path| path == PASS);
            *if pass { &mut self.decoder } else { &mut self.vision } += 1;
        }
    }
}

#[test]
fn images_are_looked_at_once_whatever_the_steps() {
    for name in [DISCRETE, FLOW] {
        let trained = Trained::open(name);
        let counts = [1, 4, 8].map(|steps| {
            let mut count = Count::default();
            let mut robot = trained.robot(steps, DType::F32);
            let chunk = robot.act_with(&Scene::new(0), &ActOptions::default(), &mut count).unwrap();
            assert_eq!((count.decoder, chunk.forwards), (steps as usize, steps), "{name}");
            count.vision
        });
        assert!(counts[0] > 10, "{name}: {counts:?}");
        assert_eq!(counts, [counts[0]; 3], "{name}");
    }
}

//! How far answers in bf16 differ between the CPU's instruction sets, over the trained tasks.
//!
//! Products of bf16 pairs add two at a time where the processor has an instruction for it (AVX-512 BF16, NEON's products of
//! matrices), and attention multiplies in bf16 there and in f32 elsewhere. All round what is stored to bf16 alike. In f32 only
//! the order of sums differs.
#![allow(clippy::print_stdout, reason = "tests; they print how far answers differ")]

use dream::{ActOptions, Actions, Isa, Model, OpenOptions, Policy};
use dreamc::compile::Entry;
use dreamc_golden::tabletop::Trained;
use dreamc_num::DType;
use tabletop::{Robot, Scene};

/// First views of as many episodes; `DREAM_SCENES` names more, for the table in ARCHITECTURE.md.
const SCENES: u64 = 6;

/// What is found for one policy.
#[derive(Debug, Default)]
struct Spread {
    /// Largest difference of a normalized action.
    normalized: f64,
    /// Largest difference in the robot's units, pixels.
    pixels: f64,
    /// Tokens that differ, and all.
    tokens: [usize; 2],
}

fn scenes() -> u64 {
    std::env::var("DREAM_SCENES").ok().and_then(|n| n.parse().ok()).unwrap_or(SCENES)
}

fn chunks(name: &str, steps: u32, dtype: DType) -> Vec<(Isa, Vec<Actions>)> {
    let built = Trained::open(name).build(steps, dtype, &[Entry::Act]);
    let of = |isa: Isa| {
        let options = OpenOptions { isa: Some(isa), threads: 2, ..OpenOptions::default() };
        let model = Model::open(&built.path(), &options).unwrap_or_else(|e| panic!("{e}"));
        let policy = Policy::of(model).unwrap_or_else(|e| panic!("{e}"));
        let mut robot = Robot::new(policy).unwrap_or_else(|e| panic!("{e}"));
        let mut one = |seed: u64| {
            robot.act(&Scene::new(1000 + seed), &ActOptions::default()).unwrap_or_else(|e| panic!("{e}"))
        };
        (isa, (0..scenes()).map(&mut one).collect())
    };
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(of).collect()
}

fn spread(name: &str, steps: u32, dtype: DType) -> Spread {
    let all = chunks(name, steps, dtype);
    let mut spread = Spread::default();
    let most = |max: &mut f64, a: &[Vec<f64>], b: &[Vec<f64>]| {
        let off = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs());
        *max = off.fold(*max, f64::max);
    };
    for (i, (isa, a)) in all.iter().enumerate() {
        for (other, b) in &all[i + 1..] {
            let mut of_pair = 0.0;
            for (a, b) in a.iter().zip(b) {
                most(&mut of_pair, &a.normalized, &b.normalized);
                most(&mut spread.pixels, &a.actions, &b.actions);
                let ids = a.token_ids.iter().flatten().zip(b.token_ids.iter().flatten());
                for (a, b) in ids {
                    spread.tokens[0] += usize::from(a != b);
                    spread.tokens[1] += 1;
                }
            }
            println!("{name}, {dtype}: {isa} and {other} differ by {of_pair:.1e}");
            spread.normalized = spread.normalized.max(of_pair);
        }
    }
    let sets: Vec<String> = all.iter().map(|(isa, _)| isa.to_string()).collect();
    println!("{name}, {steps} steps, {dtype}, {} scenes, {}: {spread:?}", scenes(), sets.join(" "));
    spread
}

/// What ARCHITECTURE.md says of actions: of a hundred scenes the worst differs by less.
#[test]
fn actions_in_bf16() {
    let l1 = spread("tabletop-vla-l1", 1, DType::BF16);
    assert!(l1.normalized < 0.1, "{l1:?}");
    let flow = spread("tabletop-vla-flow", 4, DType::BF16);
    assert!(flow.normalized < 0.1, "{flow:?}");
    let tokens = spread("tabletop-vla", 1, DType::BF16);
    assert!(tokens.tokens[0] * 50 <= tokens.tokens[1], "{tokens:?}");
}

#[test]
fn actions_in_f32() {
    for (name, steps) in [("tabletop-vla-l1", 1), ("tabletop-vla-flow", 4)] {
        let spread = spread(name, steps, DType::F32);
        assert!(spread.normalized < 1e-4, "{spread:?}");
    }
    assert_eq!(spread("tabletop-vla", 1, DType::F32).tokens[0], 0);
}

//! The sampler on open slots only, and steps that are left out: nothing that a request gives may change.
#![allow(clippy::unwrap_used, reason = "tests")]

use dream::{Error, Generate, Generated, Sampling};
use dreamc::compile::BuildOptions;
use dreamc_frontend::sampler::Alg;
use dreamc_golden::Fixture;
use dreamc_golden::runners::{Built, Compiled, Interpreter, Runner, build_options};
use dreamc_golden::spy::Spy;
use dreamc_interp::{Data, Tensor};
use dreamc_num::schedule::transfer_count;

/// Mask token, and a prompt, of `fixtures/tiny-text`.
const MASK: i32 = 502;
const PROMPT: [i32; 5] = [17, 80, 3, 250, 9];

fn options(alg: Alg, steps: u32, new_tokens: u32) -> BuildOptions {
    let checkpoint = Fixture::open("tiny-text").path("checkpoint");
    BuildOptions { alg, steps, new_tokens, ..build_options(&checkpoint) }
}

fn request(rows: usize, sampling: Sampling) -> Generate {
    Generate { prompt: vec![PROMPT.to_vec(); rows], sampling, history: true, ..Generate::default() }
}

fn run(options: &BuildOptions, request: &Generate) -> Generated {
    Built::new(options).open(2, None).generate(request, &mut |_, _| true).unwrap()
}

/// Steps in which `masks` slots of a row are filled.
fn busy(masks: u32, steps: u32) -> u32 {
    let mut left = masks;
    let filled = (0..steps).map(|step| {
        let count = transfer_count(left, step, steps, 1e-3);
        left -= count;
        u32::from(count > 0)
    });
    filled.sum()
}

/// Without randomness a pass is run for each step that fills slots, and for no other.
#[test]
fn steps_that_fill_no_slot_are_left_out() {
    assert_eq!((busy(4, 8), busy(16, 4), busy(1, 5)), (3, 4, 1));
    for (new_tokens, steps) in [(4, 8), (16, 4), (1, 5), (8, 8)] {
        let options = options(Alg::Entropy, steps, new_tokens);
        for rows in [1, 2, 3] {
            let batches = u32::from(rows > 2) + 1;
            let generated = run(&options, &request(rows, Sampling::default()));
            assert_eq!(generated.forwards, batches * busy(new_tokens, steps), "{new_tokens} in {steps}");
            // As many canvases as steps, those of the steps left out too.
            let history = generated.history.unwrap();
            assert_eq!(history.len(), steps as usize);
            let mut left = new_tokens;
            for (step, canvas) in (0..).zip(&history) {
                left -= transfer_count(left, step, steps, 1e-3);
                let masks = |row: &Vec<i32>| row.iter().filter(|t| **t == MASK).count();
                assert!(canvas.iter().all(|row| masks(row) == left as usize), "step {step}");
            }
        }
    }
}

/// Draws move on in every step, chance fills slots in any, and rows that are ranked together have no count of their own.
#[test]
fn steps_of_chance_are_all_run() {
    let temperature = Sampling { temperature: 0.5, ..Sampling::default() };
    let alg_temp = Sampling { alg_temp: Some(0.5), ..Sampling::default() };
    let joint = Sampling { joint: true, ..Sampling::default() };
    for sampling in [temperature, alg_temp, joint] {
        assert_eq!(run(&options(Alg::MaskgitPlus, 8, 4), &request(1, sampling)).forwards % 8, 0);
    }
    assert_eq!(run(&options(Alg::Origin, 8, 4), &request(1, Sampling::default())).forwards, 8);
}

#[test]
fn more_slots_than_planned_are_refused() {
    let built = Built::new(&BuildOptions { max_slots: Some(6), ..options(Alg::Entropy, 2, 4) });
    let mut model = built.open(1, None);
    let with = |masks: usize| Generate {
        prompt: vec![[vec![MASK; masks], PROMPT.to_vec()].concat()],
        ..Generate::default()
    };
    model.generate(&with(2), &mut |_, _| true).unwrap();
    let error = model.generate(&with(3), &mut |_, _| true).unwrap_err();
    assert!(matches!(error, Error::TooManySlots { found: 7, max: 6 }));
    let text = error.to_string();
    assert!(
        text.contains("7 slots") && text.contains("at most 6") && text.contains("--max-slots 7"),
        "{text}"
    );
}

/// Lets all slots, or every other one, take the mask token in some steps.
struct Masking {
    steps: Vec<u32>,
    every: usize,
    shown: u32,
}

impl Spy for Masking {
    fn wants(&self, path: &str) -> bool {
        path == "sampler.token"
    }

    fn value(&mut self, _: &str, step: u32, value: &mut Tensor) {
        self.shown += 1;
        let Data::I32(tokens) = &mut value.data else { panic!("tokens are i32") };
        if self.steps.contains(&step) {
            // By their order among the slots, which is the same with and without the other positions.
            let active = tokens.iter_mut().filter(|token| **token >= 0);
            active.step_by(self.every).for_each(|token| *token = MASK);
        }
    }
}

/// Slots that take the mask token stay open, more of them than the schedule says: the request is run again with all.
#[test]
fn slots_that_stay_open_are_exact() {
    let cases: [(u32, u32, &[u32], usize, bool); 5] = [
        (4, 16, &[1], 1, true),
        (4, 16, &[0, 2], 2, true),
        (8, 4, &[5, 6], 1, true),
        // What is open after the last step concerns nobody.
        (4, 16, &[3], 1, false),
        (4, 16, &[], 1, false),
    ];
    for alg in [Alg::Entropy, Alg::TopkMargin, Alg::Origin] {
        for (steps, new_tokens, masked, every, again) in cases {
            let options = options(alg, steps, new_tokens);
            let request =
                Generate { canvas: Some(vec![MASK; new_tokens as usize]), ..request(2, Sampling::default()) };
            let spied = |runner: &mut dyn Runner| {
                let mut spy = Masking { steps: masked.to_vec(), every, shown: 0 };
                (runner.generate(&request, &mut spy), spy.shown)
            };
            let (wanted, _) = spied(Interpreter::boxed(&options, false).remove(0).as_mut());
            for mut runner in Compiled::all(&options) {
                let (found, shown) = spied(runner.as_mut());
                assert_eq!(
                    found, wanted,
                    "{alg:?}: {new_tokens} slots in {steps} steps, masked in {masked:?}"
                );
                let again = again && alg != Alg::Origin;
                assert_eq!(shown, steps * (1 + u32::from(again)), "{alg:?}: masked in {masked:?}");
            }
        }
    }
}

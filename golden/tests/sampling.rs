//! Random requests to random models, and the ops of the sampler: the device does what the interpreter does, and both
//! keep the rules of the schedule and of chance.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_frontend::module::{Architecture, GENERATE, Options, module};
use dreamc_frontend::sampler::{Alg, Sampler};
use dreamc_frontend::{LM_HEAD, Layout, TextConfig};
use dreamc_golden::fixture::max_difference;
use dreamc_golden::graph::{On, execute, interpret, interpret_with, ordered};
use dreamc_interp::{Data, Event, Tensor};
use dreamc_ir::{Confidence, Dim, Graph, Module, Op, Origin, Port, Type, parse};
use dreamc_num::stream::{StreamState, philox4x32_10};
use dreamc_num::{DType, schedule};
use dreamc_passes::{PIPELINE, run_passes};
use dreamc_runtime::Canvas;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use std::cell::Cell;
use std::collections::BTreeMap;

/// The same cases every time, so that a rare tie does not fail somebody else's change.
fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(2027), ..Config::default() }
}

/// A model and a request to it.
#[derive(Clone, Debug)]
struct Request {
    layers: u64,
    heads: (u64, u64),
    vocabulary: u32,
    steps: u32,
    alg: Alg,
    eps: f32,
    prompt: usize,
    new_tokens: usize,
    /// Pads of each row.
    pads: Vec<usize>,
    seed: u64,
    temperature: f32,
    top_p: f32,
    top_k: i32,
    alg_temp: f32,
    eos_penalty: f32,
    /// Whether the slots of all rows are ranked together.
    joint: bool,
}

fn requests() -> impl Strategy<Value = Request> {
    let model = (1_u64..3, prop::sample::select(vec![(2, 1), (4, 2), (3, 3)]), 12_u32..40);
    let alg = prop::sample::select(Alg::ALL.to_vec());
    let loops = (1_u32..8, alg, prop::sample::select(vec![1e-3_f32, 0.05, 0.4]));
    let canvas = (2_usize..6, 1_usize..9, prop::collection::vec(0_usize..2, 1..4), any::<u64>());
    let sampling = (
        prop::sample::select(vec![0.0_f32, 0.0, 0.3, 1.0, 3.0]),
        prop::sample::select(vec![1.0_f32, 0.9, 0.4]),
        prop::sample::select(vec![0, 1, 5, 1000]),
        prop::sample::select(vec![0.0_f32, 0.0, 0.2, 2.0]),
        prop::sample::select(vec![0.0_f32, 1.0, -2.0]),
        any::<bool>(),
    );
    (model, loops, canvas, sampling).prop_map(|(model, loops, canvas, sampling)| {
        let ((layers, heads, vocabulary), (steps, alg, eps)) = (model, loops);
        let ((prompt, new_tokens, pads, seed), (temperature, top_p, top_k, alg_temp, eos_penalty, joint)) =
            (canvas, sampling);
        Request {
            layers,
            heads,
            vocabulary,
            steps,
            alg,
            eps,
            prompt,
            new_tokens,
            pads,
            seed,
            temperature,
            top_p,
            top_k,
            alg_temp,
            eos_penalty,
            joint,
        }
    })
}

impl Request {
    fn mask(&self) -> i32 {
        self.vocabulary as i32 - 1
    }

    fn module(&self) -> Module {
        let (heads, kv_heads) = self.heads;
        let pad = self.vocabulary - 3;
        let config = TextConfig {
            vocab_size: self.vocabulary.into(),
            hidden_size: heads * 6,
            intermediate_size: 19,
            num_hidden_layers: self.layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            max_position_embeddings: 64,
            tie_word_embeddings: false,
            mask_token_id: self.mask() as u32,
            pad_token_id: pad,
            eos_token_id: pad,
        };
        let layout = Layout { lm_head: LM_HEAD };
        let options = Options {
            dtype: DType::F32,
            max_batch: 3,
            max_length: 16,
            max_slots: 16,
            max_image_tokens: 1,
            sampler: Sampler { steps: self.steps.into(), eps: self.eps, alg: self.alg },
            act: None,
        };
        let of = Architecture { text: &config, vision: None, mrope_section: None, layout: &layout };
        module(&of, &options)
    }

    /// The canvas before the first step.
    fn canvas(&self) -> Canvas {
        let row = |(i, pads): (usize, &usize)| {
            let token = |p: usize| match p {
                p if p < *pads => self.vocabulary as i32 - 3,
                p => (self.seed as usize + 7 * p + 3 * i) as i32 & 7,
            };
            (0..self.prompt).map(token).collect::<Vec<i32>>()
        };
        let prompt: Vec<Vec<i32>> = self.pads.iter().enumerate().map(row).collect();
        let mask: Vec<Vec<i32>> =
            self.pads.iter().map(|n| (0..self.prompt).map(|p| i32::from(p >= *n)).collect()).collect();
        Canvas::for_generation(&prompt, Some(&mask), &vec![self.mask(); self.new_tokens], self.mask())
            .unwrap()
    }

    /// How many places of the canvas are counted together: a row, or all.
    fn group(&self, canvas: &Canvas) -> usize {
        if self.joint { canvas.tokens.len() } else { canvas.length }
    }

    fn inputs(&self) -> Vec<Tensor> {
        let canvas = self.canvas();
        let dims = [canvas.rows, canvas.length];
        let ints = |v: &Vec<i32>| Tensor::i32(&dims, v.clone());
        let scalar = |x: f32| Tensor::f32(&[], vec![x]);
        let stream = StreamState { seed: self.seed, first_row: 2, step: 0 };
        let named = [
            ("canvas", ints(&canvas.tokens)),
            ("attention_mask", ints(&canvas.attention_mask)),
            ("position_ids", ints(&canvas.position_ids)),
            ("stream", Tensor::u32(&[4], stream.words().to_vec())),
            ("temperature", scalar(self.temperature)),
            ("top_p", scalar(self.top_p)),
            ("top_k", Tensor::i32(&[], vec![self.top_k])),
            ("alg_temp", scalar(self.alg_temp)),
            ("eos_penalty", scalar(self.eos_penalty)),
            ("joint", Tensor::i32(&[], vec![self.joint.into()])),
        ];
        ordered(&self.module(), GENERATE, &named)
    }
}

/// Moves every logit a little, and notes whether the mask token was drawn in a step.
struct Nudge {
    by: f32,
    seed: u32,
    mask: i32,
    drew_mask: Vec<bool>,
}

impl dreamc_interp::Observer for Nudge {
    fn after(&mut self, event: &Event<'_>, value: &mut Tensor) {
        match (event.node.origin.0.last().map(String::as_str), &mut value.data) {
            (Some("sampler.logits"), Data::F32(logits)) => {
                for (z, i) in logits.iter_mut().zip(0_u32..) {
                    let word = philox4x32_10([i, event.step, 0, 0], [self.seed, 0])[0];
                    *z += self.by * (word as f32 / 2_147_483_648.0 - 1.0);
                }
            }
            (Some("sampler.token"), Data::I32(tokens)) => self.drew_mask.push(tokens.contains(&self.mask)),
            _ => {}
        }
    }
}

/// What every history must be, whatever was drawn.
fn check_history(request: &Request, results: &[Tensor]) -> Result<(), TestCaseError> {
    let canvas = request.canvas();
    let [last, history] = results else { panic!("two results") };
    prop_assert_eq!(&history.dims, &[request.steps as usize, canvas.rows, canvas.length]);
    let group = request.group(&canvas);
    let mut before = canvas.tokens;
    for (step, after) in history.ints().chunks(before.len()).enumerate() {
        for (old, new) in before.chunks(group).zip(after.chunks(group)) {
            let masks = |row: &[i32]| row.iter().filter(|t| **t == request.mask()).count() as u32;
            prop_assert!(old.iter().zip(new).all(|(a, b)| *a == request.mask() || a == b), "step {step}");
            prop_assert!(new.iter().all(|t| (0..request.vocabulary as i32).contains(t)), "step {step}");
            let most = match request.alg {
                Alg::Origin => masks(old),
                Alg::MaskgitPlus | Alg::TopkMargin | Alg::Entropy => {
                    schedule::transfer_count(masks(old), step as u32, request.steps, request.eps)
                }
            };
            prop_assert!(masks(old) - masks(new) <= most, "step {step}");
        }
        before = after.to_vec();
    }
    prop_assert_eq!(last.ints(), before);
    Ok(())
}

/// With as many slots filled as the schedule says, where the mask token itself was not drawn.
fn check_counts(request: &Request, history: &Tensor, drew_mask: &[bool]) -> Result<(), TestCaseError> {
    let canvas = request.canvas();
    let masks = |row: &[i32]| row.iter().filter(|t| **t == request.mask()).count() as u32;
    let group = request.group(&canvas);
    let mut left: Vec<u32> = canvas.tokens.chunks(group).map(masks).collect();
    let steps = history.ints().chunks(canvas.tokens.len());
    for (step, (after, drew_mask)) in steps.zip(drew_mask).enumerate() {
        for (left, row) in left.iter_mut().zip(after.chunks(group)) {
            if request.alg != Alg::Origin && !drew_mask {
                *left -= schedule::transfer_count(*left, step as u32, request.steps, request.eps);
                prop_assert_eq!(masks(row), *left, "step {}", step);
            }
            *left = masks(row);
        }
    }
    prop_assert!(*drew_mask.last().unwrap() || left.iter().all(|n| *n == 0), "slots are left");
    Ok(())
}

/// Whole requests on a random model. Where small changes of the logits change nothing, the device must give what the
/// interpreter gives, at every temperature: draws compare fixed-point sums, whose terms differ as little as logits do.
#[test]
fn random_requests() {
    judge_requests(128, &On::cpus());
}

#[test]
fn random_requests_on_wgpu() {
    judge_requests(12, &[On::Wgpu]);
}

fn judge_requests(cases: u32, places: &[On]) {
    let (clear, all) = (Cell::new(0), Cell::new(0));
    let judge = |request: Request| {
        let (before, inputs) = (request.module(), request.inputs());
        let run = |by: f32, seed: u32| {
            let mut nudge = Nudge { by, seed, mask: request.mask(), drew_mask: vec![] };
            let results = interpret_with(&before, GENERATE, &inputs, &mut nudge);
            (results, nudge.drew_mask)
        };
        let (wanted, drew_mask) = run(0.0, 0);
        check_history(&request, &wanted)?;
        check_counts(&request, &wanted[1], &drew_mask)?;
        let is_clear = (1..4).all(|seed| run(1e-4, seed).0 == wanted);
        all.set(all.get() + 1);
        clear.set(clear.get() + u32::from(is_clear));
        let mut after = before.clone();
        dreamc_passes::optimize(&mut after, &mut |_, _, _| ());
        for module in [&before, &after] {
            for on in places {
                let found = execute(module, GENERATE, &inputs, *on);
                check_history(&request, &found)?;
                prop_assert!(!is_clear || found == wanted, "{on}: another answer");
            }
        }
        Ok(())
    };
    TestRunner::new(config(cases)).run(&requests(), judge).unwrap();
    assert!(clear.get() * 4 > all.get() * 3, "only {clear:?} of {all:?} cases could be compared");
}

/// The same tokens whether the sampler looks at open slots or at all positions, and whether idle steps are run.
#[test]
fn open_slots_change_nothing() {
    const OURS: [&str; 2] = ["open-slots", "drop-idle-steps"];
    let on = On::cpus().pop().unwrap();
    let judge = |request: Request| {
        let inputs = request.inputs();
        let run = |left_out: &[&str]| {
            let kept = PIPELINE.iter().filter(|pass| !left_out.contains(&pass.name));
            let mut module = request.module();
            run_passes(&kept.copied().collect::<Vec<_>>(), &mut module, &mut |_, _, _| ());
            let [counted, idle] = ["open_slots", "drop_idle"].map(|op| module.to_string().contains(op));
            assert_eq!(counted, !left_out.contains(&OURS[0]));
            // A single step is no loop.
            let may_idle = request.alg != Alg::Origin && request.steps > 1;
            assert_eq!(idle, !left_out.contains(&OURS[1]) && may_idle);
            execute(&module, GENERATE, &inputs, on)
        };
        let wanted = run(&OURS);
        for left_out in [&[][..], &OURS[..1], &OURS[1..]] {
            prop_assert_eq!(&run(left_out), &wanted, "without {:?}", left_out);
        }
        Ok(())
    };
    TestRunner::new(config(48)).run(&requests(), judge).unwrap();
}

const DRAW: &str = "
graph @draw(%0: i32[1, 20000] \"canvas\", %1: u32[4] \"stream\", %2: f32[1, 20000, 6] \"logits\", %3: f32[] \"temperature\",
    %4: f32[] \"top_p\", %5: i32[] \"top_k\") {
  %6 = is_token %0 {token=1} : bool[1, 20000]
  %7 = sampling_probs %2, %6, %3, %4, %5 : f32[1, 20000, 6]
  %8 = random_bits %0, %1 {lane=token} : u32[1, 20000]
  %9 = draw_token %7, %6, %3, %8 : i32[1, 20000]
  return %9 \"token\"
}
";

/// 20000 draws: every token comes as often as its probability says, within 4 standard deviations, and so it does in
/// each half and after each other token.
#[test]
fn draws_follow_the_distribution() {
    let module = parse(DRAW).unwrap();
    let probabilities = [0.4_f64, 0.3, 0.15, 0.1, 0.049, 0.001];
    let n = 20_000;
    let logits: Vec<f32> = (0..n).flat_map(|_| probabilities.map(|p| (p.ln() * 0.7) as f32)).collect();
    for (seed, top_k) in [(1, 0), (0xdead_beef_0000_0002, 0), (3, 3)] {
        let kept: f64 = if top_k == 0 { 1.0 } else { probabilities[..top_k].iter().sum() };
        let inputs = [
            Tensor::i32(&[1, n], vec![1; n]),
            Tensor::u32(&[4], StreamState { seed, first_row: 0, step: 5 }.words().to_vec()),
            Tensor::f32(&[1, n, 6], logits.clone()),
            // Undoes the factor of the logits.
            Tensor::f32(&[], vec![0.7]),
            Tensor::f32(&[], vec![1.0]),
            Tensor::i32(&[], vec![top_k as i32]),
        ];
        let tokens = interpret(&module, "draw", &inputs).remove(0);
        for on in On::all() {
            assert_eq!(execute(&module, "draw", &inputs, on)[0], tokens, "{on}, seed {seed}");
        }
        let tokens = tokens.ints();
        let within = |of: &[i32], what: &str| {
            for (token, p) in probabilities.iter().enumerate() {
                let p = if top_k == 0 || token < top_k { p / kept } else { 0.0 };
                let expected = p * of.len() as f64;
                let sigma = (expected * (1.0 - p)).sqrt();
                let found = of.iter().filter(|t| **t == token as i32).count() as f64;
                let off = (found - expected).abs();
                assert!(
                    off <= 4.0 * sigma,
                    "seed {seed}, {what}: token {token} {found} times, not {expected}"
                );
            }
        };
        within(tokens, "all");
        within(&tokens[..n / 2], "the first half");
        within(&tokens[n / 2..], "the second half");
        let after: Vec<i32> = tokens.windows(2).filter(|w| w[0] == 1).map(|w| w[1]).collect();
        within(&after, "after token 1");
    }
}

/// All confidences on random distributions, with ties.
#[test]
fn confidences() {
    let kinds = [Confidence::Probability, Confidence::Margin, Confidence::NegativeEntropy];
    let mut graph = Graph::new("f");
    let logits = Type::new(DType::F32, [Dim::from(1), 8.into(), 33.into()]);
    let rows = |dtype| Type::new(dtype, [Dim::from(1), 8.into()]);
    let probs = graph.param("probs", logits);
    let active = graph.param("active", rows(DType::Bool));
    let token = graph.param("token", rows(DType::I32));
    for kind in kinds {
        let node = graph.push(
            Op::Confidence(kind),
            vec![probs, active, token],
            vec![rows(DType::F32)],
            Origin::default(),
        );
        let value = graph.node(node).outputs[0];
        graph.results.push(Port { value, name: format!("{kind:?}") });
    }
    let module = Module { symbols: BTreeMap::new(), graphs: vec![graph] };
    let distribution = |seed: usize| {
        let weights = (0..33).map(|i| ((seed * 31 + i * 17) % 7) as f32 * (1 + i % 2) as f32);
        let weights: Vec<f32> = weights.collect();
        let total: f32 = weights.iter().sum();
        weights.into_iter().map(move |w| w / total).collect::<Vec<_>>()
    };
    let inputs = [
        Tensor::f32(&[1, 8, 33], (0..8).flat_map(distribution).collect()),
        Tensor::bool(&[1, 8], (0..8).map(|i| i != 3).collect()),
        Tensor::i32(&[1, 8], (0..8).map(|i| if i == 3 { -1 } else { 4 * i }).collect()),
    ];
    let wanted = interpret(&module, "f", &inputs);
    for on in On::all() {
        for (found, wanted) in execute(&module, "f", &inputs, on).iter().zip(&wanted) {
            let off = max_difference(found, wanted, |_| true);
            assert!(off < 1e-5, "{on}: {found:?}, not {wanted:?}");
        }
    }
}

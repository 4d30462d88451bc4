//! From logits to tokens, against the interpreter.

use crate::common::{Launch, Runner, everywhere, runners};
use crate::judge::{floats, interpret, near};
use dreamc_interp::Tensor;
use dreamc_kernels::{Behind, Confidence, Greedy, Groups, Kernel, Sampler};
use dreamc_num::schedule;

/// Rows and columns: one column, fewer than units, more, a vocabulary.
const SHAPES: [[usize; 2]; 4] = [[1, 1], [5, 7], [4, 300], [2, 5003]];

const KINDS: [(Confidence, &str); 3] = [
    (Confidence::Probability, "probability"),
    (Confidence::Margin, "margin"),
    (Confidence::NegativeEntropy, "negative_entropy"),
];

fn of(on: &'static Runner, kernel: Sampler) -> Launch {
    Launch::of(on, &Kernel::Sampler(kernel))
}

fn scaled(dims: &[usize], seed: u32, scale: f32) -> Tensor {
    let list = floats(dims.iter().product(), seed);
    Tensor::f32(dims, list.iter().map(|x| x * scale).collect())
}

/// All but every fourth row.
fn active(b: usize) -> Tensor {
    Tensor::bool(&[1, b], (0..b).map(|i| i % 4 != 3).collect())
}

#[test]
fn penalty_and_kept_tokens() {
    for [b, v] in SHAPES {
        let logits = scaled(&[1, b, v], 1, 4.0);
        let marks = Tensor::i32(&[1, b], (0..b).map(|i| i as i32 % 3 - 1).collect());
        let (penalty, index) = (Tensor::f32(&[], vec![-1.3]), Tensor::i32(&[], vec![1]));
        let (first, len) = (v / 3, v / 2);
        let text = format!(
            "graph @f(%0: f32[1, {b}, {v}], %1: i32[1, {b}], %2: f32[], %3: i32[]) {{
              %4 = eos_penalty %0, %2, %3 {{token={token}, steps=4, eps=0.001}} : f32[1, {b}, {v}]
              %5 = keep_tokens %0, %1 {{first={first}, len={kept}}} : f32[1, {b}, {v}]
              return %4, %5
            }}",
            token = v - 1,
            kept = len.max(1),
        );
        let wanted = interpret(&text, &[&logits, &marks, &penalty, &index]);
        let factors: Vec<f32> = (0..4).map(|k| schedule::eos_penalty_factor(k, 4, 0.001)).collect();
        for on in everywhere() {
            let launch = of(on, Sampler::EosPenalty).tensor("y", &logits).tensor("penalty", &penalty);
            let launch = launch.tensor("index", &index).floats("factors", &factors);
            let y = launch.int("rows", b).int("columns", v).int("token", v - 1).run();
            y.near("y", wanted[0].floats(), 1e-6);
            let launch = of(on, Sampler::KeepTokens).tensor("y", &logits).tensor("marks", &marks);
            let launch = launch.int("rows", b).int("columns", v).int("first", first);
            launch.int("length", len.max(1)).run().same("y", wanted[1].floats());
        }
    }
}

/// What the interpreter computes, and the kernels; only active rows count.
fn probs(logits: &Tensor, temperature: f32, top_p: f32, top_k: i32) -> Vec<[Vec<f32>; 2]> {
    let [_, b, v] = logits.dims[..] else { panic!("three dimensions") };
    let active = active(b);
    let text = format!(
        "graph @f(%0: f32[1, {b}, {v}], %1: bool[1, {b}], %2: f32[], %3: f32[], %4: i32[]) {{
          %5 = sampling_probs %0, %1, %2, %3, %4 : f32[1, {b}, {v}]
          return %5
        }}"
    );
    let (temperature, top_p) = (Tensor::f32(&[], vec![temperature]), Tensor::f32(&[], vec![top_p]));
    let top_k = Tensor::i32(&[], vec![top_k]);
    let wanted = interpret(&text, &[logits, &active, &temperature, &top_p, &top_k]).remove(0);
    let rows = |list: &[f32]| {
        let all = list.chunks(v).zip(active.bools()).filter(|(_, active)| **active);
        all.flat_map(|(row, _)| row.to_vec()).collect()
    };
    let found = |on| {
        let launch =
            of(on, Sampler::SamplingProbs(Behind::Nothing)).tensor("y", logits).tensor("active", &active);
        let launch = launch.tensor("temperature", &temperature).tensor("top_p", &top_p);
        let found = launch.tensor("top_k", &top_k).int("rows", b).int("columns", v).run().floats("y");
        // Rows that are not active stay.
        let kept = found.chunks(v).zip(logits.floats().chunks(v)).zip(active.bools());
        assert!(kept.filter(|(_, active)| !**active).all(|((y, x), _)| y == x));
        [rows(wanted.floats()), rows(&found)]
    };
    everywhere().into_iter().map(found).collect()
}

#[test]
fn distributions() {
    for [b, v] in SHAPES {
        let logits = scaled(&[1, b, v], 2, 9.0);
        for (temperature, top_p, top_k) in [
            (0.0, 0.0, 0),
            (0.7, 1.0, 0),
            (0.7, 0.9, 0),
            (1.5, 0.3, 0),
            (0.0, 0.000_1, 0),
            (1.0, 0.0, 1),
            (1.0, 0.0, 5),
            (1.0, 0.95, 40),
            (1.0, 0.2, 100_000),
        ] {
            for [wanted, found] in probs(&logits, temperature, top_p, top_k) {
                assert_eq!(
                    wanted.iter().map(|p| *p > 0.0).collect::<Vec<_>>(),
                    found.iter().map(|p| *p > 0.0).collect::<Vec<_>>(),
                    "kept of {v} at {temperature} {top_p} {top_k}"
                );
                near(&found, &wanted, 2e-6);
            }
        }
    }
}

/// Equal logits: the lowest ids win at the edge of top-p; those that tie with the k-th stay.
#[test]
fn ties() {
    let rows: [[f32; 8]; 3] =
        [[0.0; 8], [1.0, 1.0, 3.0, 3.0, 1.0, 3.0, 3.0, -5.0], [-0.0, 0.0, 0.0, -0.0, 0.0, 0.0, -0.0, 0.0]];
    let logits = Tensor::f32(&[1, 3, 8], rows.concat());
    for (top_p, top_k) in [(0.5, 0), (0.45, 0), (0.0, 3), (0.99, 6), (0.3, 2)] {
        for [wanted, found] in probs(&logits, 1.0, top_p, top_k) {
            // The interpreter orders -0 after 0; here they are equal.
            let compared = if top_p > 0.0 { 16 } else { 24 };
            near(&found[..compared], &wanted[..compared], 1e-6);
        }
    }
}

#[test]
fn draws() {
    for [b, v] in SHAPES {
        let logits = scaled(&[1, b, v], 3, 5.0);
        let active = active(b);
        let text = format!(
            "graph @f(%0: f32[1, {b}, {v}], %1: bool[1, {b}], %2: f32[], %3: f32[], %4: i32[]) {{
              %5 = sampling_probs %0, %1, %2, %3, %4 : f32[1, {b}, {v}]
              return %5
            }}"
        );
        let (one, zero) = (Tensor::f32(&[], vec![1.0]), Tensor::f32(&[], vec![0.0]));
        let off = Tensor::i32(&[], vec![0]);
        let mut probs = interpret(&text, &[&logits, &active, &one, &zero, &off]).remove(0);
        for seed in 0..6 {
            if seed == 5 {
                // A sure thing: a weight of 2^32, which needs 33 bits.
                let mut row = vec![0.0; b * v];
                row.chunks_mut(v).for_each(|row| row[v / 2] = 1.0);
                probs = Tensor::f32(&[1, b, v], row);
            }
            let words = match seed {
                0 => vec![0; b],
                1 => vec![u32::MAX; b],
                _ => (0..b).map(|i| ((i + seed) as u32).wrapping_mul(0x9E37_79B9)).collect(),
            };
            let bits = Tensor::u32(&[1, b], words);
            for temperature in [&zero, &one] {
                let text = format!(
                    "graph @f(%0: f32[1, {b}, {v}], %1: bool[1, {b}], %2: f32[], %3: u32[1, {b}]) {{
                      %4 = draw_token %0, %1, %2, %3 {{first=900}} : i32[1, {b}]
                      return %4
                    }}"
                );
                let wanted = interpret(&text, &[&probs, &active, temperature, &bits]).remove(0);
                for on in everywhere() {
                    let launch = of(on, Sampler::DrawToken(Behind::Nothing))
                        .tensor("probs", &probs)
                        .tensor("active", &active);
                    let launch = launch.tensor("temperature", temperature).tensor("bits", &bits);
                    let y = launch.result("y", b).int("rows", b).int("columns", v).int("first", 900).run();
                    assert_eq!(y.ints("y"), wanted.ints(), "{}", y.label());
                }
            }
        }
    }
}

/// Nothing to draw from: the lowest id of the largest.
#[test]
fn draws_of_nothing() {
    for on in everywhere() {
        let launch =
            of(on, Sampler::DrawToken(Behind::Nothing)).floats("probs", &[0.0; 5]).bools("active", &[true]);
        let launch = launch.floats("temperature", &[1.0]).words("bits", vec![77]).result("y", 1);
        assert_eq!(launch.int("rows", 1).int("columns", 5).int("first", 0).run().ints("y"), [0]);
    }
}

#[test]
fn confidences() {
    for [b, v] in SHAPES {
        let raw = scaled(&[1, b, v], 4, 3.0);
        let row = |row: &[f32]| {
            let exps: Vec<f32> = row.iter().map(|x| x.exp()).collect();
            let sum: f32 = exps.iter().sum();
            exps.iter().map(|e| e / sum).collect::<Vec<_>>()
        };
        let mut list: Vec<f32> = raw.floats().chunks(v).flat_map(row).collect();
        if v > 2 {
            // Two that are equally large: a margin of 0.
            (list[1], list[2]) = (0.75, 0.75);
        }
        let probs = Tensor::f32(&[1, b, v], list);
        let active = active(b);
        let token = Tensor::i32(&[1, b], (0..b).map(|i| (i * 3 % v) as i32).collect());
        for (kind, name) in KINDS {
            let text = format!(
                "graph @f(%0: f32[1, {b}, {v}], %1: bool[1, {b}], %2: i32[1, {b}]) {{
                  %3 = confidence %0, %1, %2 {{kind={name}}} : f32[1, {b}]
                  return %3
                }}"
            );
            let wanted = interpret(&text, &[&probs, &active, &token]).remove(0);
            for on in everywhere() {
                let launch = of(on, Sampler::Confidence(kind, Behind::Nothing)).tensor("probs", &probs);
                let launch = launch.tensor("active", &active).tensor("token", &token).result("y", b);
                launch.int("rows", b).int("columns", v).run().near("y", wanted.floats(), 2e-6);
            }
        }
    }
}

/// Distribution, token and confidence as a request asks for them, with a look at greedy rows before; and as the interpreter
/// has them. Rows that are greedy stay logits.
fn after_a_look(logits: &Tensor, [temperature, top_p]: [f32; 2], top_k: i32, greedy: bool) {
    let [_, b, v] = logits.dims[..] else { panic!("three dimensions") };
    let active = active(b);
    let bits = Tensor::u32(&[1, b], (0..b).map(|i| (i as u32 + 3).wrapping_mul(0x9E37_79B9)).collect());
    let (temperature, top_p) = (Tensor::f32(&[], vec![temperature]), Tensor::f32(&[], vec![top_p]));
    let top_k = Tensor::i32(&[], vec![top_k]);
    for (kind, name) in KINDS {
        let first = if kind == Confidence::Probability { 0 } else { 900 };
        let text = format!(
            "graph @f(%0: f32[1, {b}, {v}], %1: bool[1, {b}], %2: f32[], %3: f32[], %4: i32[], %5: u32[1, {b}]) {{
              %6 = sampling_probs %0, %1, %2, %3, %4 : f32[1, {b}, {v}]
              %7 = draw_token %6, %1, %2, %5 {{first={first}}} : i32[1, {b}]
              %8 = confidence %6, %1, %7 {{kind={name}}} : f32[1, {b}]
              return %7, %8
            }}"
        );
        let wanted = interpret(&text, &[logits, &active, &temperature, &top_p, &top_k, &bits]);
        let groups = Groups(3);
        let look = Kernel::Greedy(Greedy::Statistics(groups));
        for on in runners(&look) {
            let sized = |launch: Launch| launch.int("rows", b).int("columns", v);
            let room = b * Greedy::ROW as usize;
            let asked = |launch: Launch| {
                let launch = launch.tensor("active", &active).tensor("temperature", &temperature);
                launch.tensor("top_p", &top_p).tensor("top_k", &top_k)
            };
            let launch = asked(Launch::of(on, &look).tensor("logits", logits));
            let statistics = sized(launch.result("statistics", room)).run().bytes("statistics");
            let behind = |kernel| of(on, kernel).bytes("statistics", statistics.clone());
            let launch = asked(behind(Sampler::SamplingProbs(Behind::Greedy)).tensor("y", logits));
            let probs = sized(launch).run().floats("y");
            let alike = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
            let stayed = probs.iter().zip(logits.floats()).all(alike);
            assert_eq!(stayed, greedy, "{temperature:?} {top_p:?} {top_k:?}");
            let launch = Launch::of(on, &Kernel::Greedy(Greedy::Candidates(kind, groups)));
            let launch = launch.floats("logits", &probs).tensor("active", &active);
            let launch = launch.bytes("statistics", statistics.clone()).result("candidates", room);
            let candidates = sized(launch).run().bytes("candidates");
            let behind = |kernel| behind(kernel).bytes("candidates", candidates.clone());
            let launch = behind(Sampler::DrawToken(Behind::Greedy)).floats("probs", &probs);
            let launch = launch.tensor("active", &active).tensor("temperature", &temperature);
            let launch = launch.tensor("bits", &bits).result("y", b).int("first", first);
            let token = sized(launch).run();
            assert_eq!(token.ints("y"), wanted[0].ints(), "{}", token.label());
            let launch = behind(Sampler::Confidence(kind, Behind::Greedy)).floats("probs", &probs);
            let launch = launch.tensor("active", &active).tensor("token", &wanted[0]).result("y", b);
            sized(launch).run().near("y", wanted[1].floats(), 2e-6);
        }
    }
}

#[test]
fn greedy_rows() {
    // More rows than parts, fewer, and parts of no column at all.
    for [b, v] in [[1, 4], [3, 8], [40, 40], [2, 5004]] {
        let logits = scaled(&[1, b, v], 5, 9.0);
        after_a_look(&logits, [0.0, 0.0], 0, true);
        after_a_look(&logits, [0.0, 1.0], v as i32, true);
        after_a_look(&logits, [0.0, 0.9], 0, false);
        after_a_look(&logits, [0.0, 0.0], v as i32 - 1, false);
        after_a_look(&logits, [0.7, 0.0], 0, false);
    }
}

/// Of equal logits the lowest id, wherever its part; what is nearly as large is as probable once it is rounded. A row that is
/// not finite is no distribution, and columns that are put out do not count.
#[test]
fn greedy_ties_and_spoiled_rows() {
    let v = 4000;
    let row = |edits: &[(usize, f32)]| {
        let mut row = floats(v, 6);
        edits.iter().for_each(|(i, x)| row[*i] = *x);
        row
    };
    let lowest = f32::MIN;
    let rows = [
        row(&[(3999, 7.0), (1234, 7.0), (1235, 7.0)]),
        vec![2.5; v],
        row(&[(3000, 6.0), (17, 6.0 - 2e-8), (18, 5.999_999)]),
        vec![0.0; v],
        row(&[(2000, f32::NAN)]),
        row(&[(0, f32::NEG_INFINITY)]),
        vec![lowest; v],
        vec![0.0; v],
        (0..v).map(|i| if i == 777 { 3.0 } else { lowest }).collect(),
        (0..v).map(|i| if i % 2 == 1 { -3.0e38 } else { lowest }).collect(),
        row(&[(3999, 80.0)]),
    ];
    let logits = Tensor::f32(&[1, rows.len(), v], rows.concat());
    let [_, b, _] = logits.dims[..] else { panic!("three dimensions") };
    assert!(b > 4);
    after_a_look(&logits, [0.0, 0.0], 0, true);
}

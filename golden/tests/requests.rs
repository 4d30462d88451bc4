//! Requests to the trained model: what may change an answer and what must not.
#![allow(clippy::unwrap_used, reason = "tests")]

use dream::{Error, Forward, Generate, Generated, Model, Sampling};
use dreamc::compile::BuildOptions;
use dreamc_artifact::plan::Dispatch;
use dreamc_frontend::sampler::Alg;
use dreamc_golden::Fixture;
use dreamc_golden::runners::{Built, build_options};
use dreamc_num::{DType, schedule};
use dreamc_runtime::{CanvasError, Observer, Shown};

const MASK: i32 = 307;
const PAD: i32 = 284;
const NEW_TOKENS: usize = 16;
const PROMPT: usize = 17;
const STEPS: u32 = 8;

fn built(alg: Alg, max_batch: u32) -> Built {
    built_as(DType::F32, alg, max_batch)
}

fn built_as(dtype: DType, alg: Alg, max_batch: u32) -> Built {
    let fixture = Fixture::open("sudoku-text");
    Built::new(&BuildOptions {
        dtype,
        alg,
        steps: STEPS,
        new_tokens: NEW_TOKENS as u32,
        max_prompt: 24,
        max_batch,
        ..build_options(&fixture.path("checkpoint"))
    })
}

/// The first `count` puzzles that the reference answers with a clear margin.
fn prompts(count: usize) -> Vec<Vec<i32>> {
    let fixture = Fixture::open("sudoku-text");
    let puzzles = fixture.json["puzzles"].as_array().unwrap();
    let clear = |p: &&serde_json::Value| {
        let answer = &p["answers"]["entropy-8"];
        answer["stable_5e-2"] == true && answer["tok_margin"].as_f64().unwrap() > 1.0
    };
    let ids = |p: &serde_json::Value| {
        p["prompt_ids"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i32).collect()
    };
    puzzles.iter().filter(clear).take(count).map(ids).collect()
}

/// Randomness in tokens, and in slots where the algorithm has it.
fn random(seed: u64) -> Sampling {
    Sampling { seed, temperature: 0.8, alg_temp: Some(0.3), ..Sampling::default() }
}

fn generate(model: &mut Model, prompt: &[Vec<i32>], sampling: &Sampling) -> Generated {
    let request = Generate {
        prompt: prompt.to_vec(),
        sampling: sampling.clone(),
        history: true,
        ..Generate::default()
    };
    let generated = model.generate(&request, &mut |_, _| true).unwrap();
    check(prompt, &generated);
    generated
}

/// What holds for every answer.
fn check(prompt: &[Vec<i32>], generated: &Generated) {
    let history = generated.history.as_ref().unwrap();
    assert_eq!(history.len(), STEPS as usize);
    assert_eq!(history.last(), Some(&generated.sequences));
    for (row, tokens) in prompt.iter().enumerate() {
        let mut before = [tokens.as_slice(), &[MASK; NEW_TOKENS]].concat();
        for rows in history {
            // A token that has been chosen stays.
            assert!(before.iter().zip(&rows[row]).all(|(old, new)| *old == MASK || old == new));
            before.clone_from(&rows[row]);
        }
        assert!(!before.contains(&MASK), "row {row} has slots left: {before:?}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let prompt = prompts(3);
    for (dtype, alg) in [(DType::F32, Alg::Entropy), (DType::BF16, Alg::Origin)] {
        let built = built_as(dtype, alg, 2);
        let run = |threads: usize| {
            let mut model = built.open(threads, None);
            let request = Forward { input_ids: prompt.clone(), ..Forward::default() };
            let logits = model.forward(&request, &[]).unwrap().remove(0);
            let probed = model.forward(&request, &["model.layers.*"]).unwrap();
            let floats = logits.data.iter().chain(probed.iter().flat_map(|o| &o.data));
            let bits: Vec<u32> = floats.map(|x| x.to_bits()).collect();
            let answers =
                [Sampling::default(), random(5)].map(|sampling| generate(&mut model, &prompt, &sampling));
            (bits, answers)
        };
        let one = run(1);
        assert!(one == run(2), "{alg:?}: 2 threads");
        assert!(one == run(3), "{alg:?}: 3 threads");
    }
}

#[test]
fn rows_do_not_depend_on_their_batch() {
    let prompt = prompts(20);
    for (dtype, alg, sampling) in [
        (DType::F32, Alg::Entropy, Sampling::default()),
        (DType::F32, Alg::Entropy, random(7)),
        (DType::F32, Alg::Origin, random(7)),
        (DType::BF16, Alg::Entropy, random(7)),
    ] {
        let run = |max_batch| {
            let mut model = built_as(dtype, alg, max_batch).open(2, None);
            let request = Forward { input_ids: prompt.clone(), ..Forward::default() };
            let logits = model.forward(&request, &[]).unwrap().remove(0);
            let bits: Vec<u32> = logits.data.iter().map(|x| x.to_bits()).collect();
            (bits, generate(&mut model, &prompt, &sampling))
        };
        let all = run(32);
        for max_batch in [1, 3] {
            let found = run(max_batch);
            assert!(found.0 == all.0, "{dtype}, {max_batch} rows at a time: other logits");
            assert_eq!(found.1.sequences, all.1.sequences, "{dtype}, {alg:?}, {max_batch} rows at a time");
            assert_eq!(found.1.history, all.1.history, "{dtype}, {alg:?}, {max_batch} rows at a time");
        }
    }
}

/// A row's number is part of the stream, so the first row alone is the first row of many.
#[test]
fn first_row_alone() {
    let prompt = prompts(4);
    let mut model = built(Alg::Entropy, 4).open(1, None);
    for sampling in [Sampling::default(), random(3)] {
        let alone = generate(&mut model, &prompt[..1], &sampling);
        assert_eq!(alone.sequences[0], generate(&mut model, &prompt, &sampling).sequences[0]);
    }
}

#[test]
fn seeds() {
    let prompt = prompts(8);
    for alg in [Alg::Entropy, Alg::Origin] {
        let mut model = built(alg, 8).open(2, None);
        let mut run = |seed| generate(&mut model, &prompt, &random(seed));
        let first = run(1);
        assert_eq!(first, run(1), "{alg:?}: the same seed twice");
        assert_ne!(first.history, run(2).history, "{alg:?}: another seed");
        assert_ne!(first.history, run(1 << 32 | 1).history, "{alg:?}: a seed that differs in its upper half");
    }
    // Without randomness the seed is nothing to the answer.
    let mut model = built(Alg::Entropy, 8).open(2, None);
    let mut run = |seed| generate(&mut model, &prompt, &Sampling { seed, ..Sampling::default() });
    assert_eq!(run(1), run(2));
}

/// Rows of a request do not share their draws.
#[test]
fn equal_rows_draw_differently() {
    let prompt = vec![prompts(1).remove(0); 8];
    let mut model = built(Alg::Origin, 8).open(1, None);
    let history = generate(&mut model, &prompt, &random(9)).history.unwrap();
    assert!(history[1].iter().any(|row| *row != history[1][0]));
}

fn padded(rows: &[Vec<i32>], pads: usize, left: bool) -> (Vec<Vec<i32>>, Vec<Vec<i32>>) {
    let join = |row: &[i32], pad: i32| {
        let pads = vec![pad; pads];
        if left { [&pads, row].concat() } else { [row, &pads].concat() }
    };
    let mask = rows.iter().map(|r| join(&vec![1; r.len()], 0)).collect();
    (rows.iter().map(|r| join(r, PAD)).collect(), mask)
}

#[test]
fn left_padding_does_not_change_answers() {
    let prompt = prompts(6);
    let mut model = built(Alg::Entropy, 6).open(2, None);
    let plain = generate(&mut model, &prompt, &Sampling::default());
    for pads in [1, 7] {
        let (rows, mask) = padded(&prompt, pads, true);
        let request = Generate { prompt: rows, attention_mask: Some(mask), ..Generate::default() };
        let found = model.generate(&request, &mut |_, _| true).unwrap();
        for (found, plain) in found.sequences.iter().zip(&plain.sequences) {
            assert_eq!(found[pads..], plain[..], "{pads} pads");
            assert_eq!(found[..pads], vec![PAD; pads]);
        }
    }
    // Padded and unpadded rows side by side.
    let (mut rows, mut mask) = padded(&prompt[..1], 1, true);
    let mut longer = prompt[1].clone();
    longer.insert(0, prompt[1][0]);
    rows.push(longer);
    mask.push(vec![1; PROMPT + 1]);
    let request = Generate { prompt: rows, attention_mask: Some(mask), ..Generate::default() };
    let found = model.generate(&request, &mut |_, _| true).unwrap();
    assert_eq!(found.sequences[0][1..], plain.sequences[0][..]);
}

/// Logits of real tokens, with padding on either side. The first slot behind padding on the right reads the logits
/// of a pad, so there an answer changes, as in the reference.
#[test]
fn padding_does_not_change_logits() {
    let prompt = prompts(4);
    let mut model = built(Alg::Entropy, 4).open(2, None);
    let mut run = |rows: &[Vec<i32>], mask: Option<Vec<Vec<i32>>>| {
        let request = Forward { input_ids: rows.to_vec(), attention_mask: mask, ..Forward::default() };
        model.forward(&request, &[]).unwrap().remove(0)
    };
    let plain = run(&prompt, None);
    let v = plain.dims[2];
    for (pads, left) in [(1, true), (6, true), (1, false), (6, false)] {
        let (rows, mask) = padded(&prompt, pads, left);
        let found = run(&rows, Some(mask));
        let skip = if left { pads } else { 0 };
        for row in 0..prompt.len() {
            let of = |all: &[f32], length: usize, skip: usize| {
                all[(row * length + skip) * v..][..PROMPT * v].to_vec()
            };
            let (found, plain) = (of(&found.data, PROMPT + pads, skip), of(&plain.data, PROMPT, 0));
            let off = found.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "row {row}, {pads} pads, left {left}: off by {off}");
        }
    }
}

#[test]
fn infilling_keeps_what_is_given() {
    let fixture = Fixture::open("sudoku-text");
    let mut prompt = prompts(4);
    // The newline and two digits are asked for too.
    for row in &mut prompt {
        for at in [2, 9, PROMPT - 1] {
            row[at] = MASK;
        }
    }
    let mut model = built(Alg::Entropy, 4).open(1, None);
    for sampling in [Sampling::default(), random(4)] {
        let generated = generate(&mut model, &prompt, &sampling);
        for (row, given) in generated.sequences.iter().zip(&prompt) {
            assert!(given.iter().zip(row).all(|(g, r)| *g == MASK || g == r));
        }
        let history = generated.history.unwrap();
        let mut left = (NEW_TOKENS + 3) as u32;
        for (step, rows) in history.iter().enumerate() {
            left -= schedule::transfer_count(left, step as u32, STEPS, 1e-3);
            for row in rows {
                assert_eq!(row.iter().filter(|t| **t == MASK).count(), left as usize, "step {step}");
            }
        }
    }
    // Nothing but slots, as a prompt of one mask token gives.
    assert_eq!(fixture.json["max_new_tokens"], NEW_TOKENS);
    generate(&mut model, &[vec![MASK]], &Sampling::default());
}

/// Keeps the logits that the sampler sees.
#[derive(Default)]
struct Logits {
    steps: Vec<Vec<f32>>,
}

impl Observer for Logits {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        dispatch.origin.last().is_some_and(|path| path == "sampler.logits")
    }

    fn after(&mut self, shown: Shown<'_>) {
        let floats = shown.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        self.steps.push(floats.collect());
    }
}

#[test]
fn eos_penalty_moves_the_pad_logit_alone() {
    let prompt = prompts(2);
    let mut model = built(Alg::Entropy, 2).open(1, None);
    let vocabulary = model.manifest().model.vocab_size as usize;
    let mut run = |eos_penalty: f32| {
        let sampling = Sampling { eos_penalty, ..Sampling::default() };
        let request = Generate { prompt: prompt.clone(), sampling, ..Generate::default() };
        let mut seen = Logits::default();
        let generated = model.generate_with(&request, &mut seen).unwrap();
        (generated.sequences, seen.steps)
    };
    let (plain_answer, plain) = run(0.0);
    assert_eq!(plain.len(), STEPS as usize);
    for penalty in [1.5, 20.0, -0.01] {
        let (answer, penalized) = run(penalty);
        // Digits win over the pad by far, so every step sees the same canvas.
        assert_eq!(answer, plain_answer);
        for (step, (found, plain)) in penalized.iter().zip(&plain).enumerate() {
            let t = schedule::timestep(step as u32, STEPS, 1e-3);
            let added = penalty * (1.0 - t + 1e-3).ln();
            for (i, (found, plain)) in found.iter().zip(plain).enumerate() {
                if i % vocabulary == PAD as usize {
                    assert!(
                        (found - plain - added).abs() < 1e-4,
                        "step {step}: {plain} to {found}, not {added}"
                    );
                } else {
                    assert_eq!(found, plain, "step {step}, column {}", i % vocabulary);
                }
            }
        }
    }
}

#[track_caller]
fn refused(model: &mut Model, request: &Generate, parts: &[&str]) -> Error {
    let error = model.generate(request, &mut |_, _| true).unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    error
}

#[test]
fn bad_requests_have_their_own_errors() {
    let mut model = built(Alg::Entropy, 2).open(1, None);
    let of = |prompt: Vec<Vec<i32>>| Generate { prompt, ..Generate::default() };
    let masked = |prompt, mask| Generate { prompt, attention_mask: Some(mask), ..Generate::default() };
    let sampled = |sampling| Generate { prompt: vec![vec![1, 2]], sampling, ..Generate::default() };

    let error = refused(&mut model, &of(vec![vec![1; 25]]), &["25 tokens", "at most 24", "--max-prompt 25"]);
    assert!(matches!(error, Error::PromptTooLong { found: 25, max: 24 }));
    for empty in [vec![], vec![vec![]], vec![vec![], vec![]]] {
        let error = refused(&mut model, &of(empty), &["empty"]);
        assert!(matches!(error, Error::Canvas(CanvasError::Empty)));
    }
    let error = refused(&mut model, &of(vec![vec![1, 2], vec![1]]), &["row 1 has 1"]);
    assert!(matches!(error, Error::Canvas(CanvasError::Ragged { row: 1, found: 1, expected: 2 })));
    let error = refused(&mut model, &of(vec![vec![1], vec![1, 2], vec![1]]), &["row 1 has 2"]);
    assert!(matches!(error, Error::Canvas(CanvasError::Ragged { row: 1, .. })));
    for mask in [vec![], vec![vec![1]], vec![vec![1, 1], vec![1, 1]]] {
        let error = refused(&mut model, &masked(vec![vec![1, 2]], mask), &["row "]);
        assert!(matches!(error, Error::Canvas(CanvasError::Ragged { .. })), "{error}");
    }
    for value in [2, -1, i32::MIN] {
        let error = refused(&mut model, &masked(vec![vec![1, 2]], vec![vec![1, value]]), &["mask"]);
        assert!(matches!(error, Error::Canvas(CanvasError::Mask { row: 0, .. })));
    }
    let uneven = refused(&mut model, &of(vec![vec![1, 2], vec![1, MASK]]), &["row 1", "mask tokens"]);
    assert!(matches!(uneven, Error::Canvas(CanvasError::UnevenMasks { row: 1, found: 1, expected: 0 })));
    for (id, row, position) in [(320, 1, 0), (-1, 0, 1), (i32::MAX, 1, 1), (i32::MIN, 0, 0)] {
        let mut prompt = vec![vec![1, 2], vec![3, 4]];
        prompt[row][position] = id;
        let error = refused(&mut model, &of(prompt), &[&id.to_string(), "vocabulary of 320"]);
        assert!(
            matches!(error, Error::TokenOutOfRange { row: r, position: p, .. } if (r, p) == (row, position)),
            "{error}"
        );
    }
    let none = Sampling::default();
    let settings = [
        ("temperature", [f32::NAN, -0.5, f32::INFINITY].map(|t| Sampling { temperature: t, ..none.clone() })),
        ("top_p", [0.0, 1.5, f32::NAN].map(|p| Sampling { top_p: Some(p), ..none.clone() })),
        ("top_k", [0, 0, 0].map(|k| Sampling { top_k: Some(k), ..none.clone() })),
        ("alg_temp", [f32::NAN, -1.0, f32::INFINITY].map(|t| Sampling { alg_temp: Some(t), ..none.clone() })),
        (
            "eos_penalty",
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|p| Sampling { eos_penalty: p, ..none.clone() }),
        ),
    ];
    for (name, samplings) in settings {
        for sampling in samplings {
            let error = refused(&mut model, &sampled(sampling), &[&format!("`{name}`")]);
            assert!(matches!(error, Error::Setting { setting, .. } if setting == name));
        }
    }
    // And it still works.
    generate(&mut model, &prompts(1), &none);
}

/// The ends of the allowed ranges.
#[test]
fn extreme_settings_run() {
    let mut model = built(Alg::Entropy, 2).open(2, None);
    let prompt = prompts(2);
    let plain = generate(&mut model, &prompt, &Sampling::default());
    let tiny = f32::MIN_POSITIVE;
    let one_token = [
        Sampling { temperature: 5.0, top_k: Some(1), ..Sampling::default() },
        Sampling { temperature: 5.0, top_p: Some(tiny), ..Sampling::default() },
    ];
    for sampling in one_token {
        // One token is left in each distribution: all confidences are equal, and digits are digits.
        generate(&mut model, &prompt, &sampling);
    }
    let same = [
        Sampling { top_k: Some(u32::MAX), top_p: Some(1.0), ..Sampling::default() },
        Sampling { temperature: -0.0, alg_temp: Some(0.0), ..Sampling::default() },
        Sampling { top_k: Some(320), ..Sampling::default() },
    ];
    for sampling in same {
        assert_eq!(generate(&mut model, &prompt, &sampling), plain, "{sampling:?}");
    }
    let mut run = |sampling: Sampling| {
        let request = Generate { prompt: prompt.clone(), sampling, history: true, ..Generate::default() };
        model.generate(&request, &mut |_, _| true).unwrap();
    };
    for temperature in [tiny, 1e-30, 1e30, f32::MAX] {
        run(Sampling { temperature, ..Sampling::default() });
        run(Sampling { temperature, top_p: Some(0.5), top_k: Some(7), ..Sampling::default() });
        run(Sampling { alg_temp: Some(temperature), ..Sampling::default() });
    }
    for eos_penalty in [f32::MAX, f32::MIN] {
        run(Sampling { eos_penalty, ..Sampling::default() });
        run(Sampling { eos_penalty, temperature: 1.0, ..Sampling::default() });
    }
}

#[test]
fn a_stopped_request_leaves_the_model_usable() {
    let mut model = built(Alg::Entropy, 2).open(2, None);
    let prompt = prompts(2);
    let plain = generate(&mut model, &prompt, &Sampling::default());
    let request = Generate { prompt: prompt.clone(), ..Generate::default() };
    let mut seen = Vec::new();
    let stopped = model.generate(&request, &mut |done, steps| {
        seen.push((done, steps));
        done < 3
    });
    assert!(matches!(stopped, Err(Error::Step(dreamc_runtime::StepError::Stopped))), "{stopped:?}");
    assert_eq!(seen, [(1, STEPS), (2, STEPS), (3, STEPS)]);
    assert_eq!(generate(&mut model, &prompt, &Sampling::default()), plain);
}

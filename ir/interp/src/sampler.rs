//! Ops of the sampler (`spec/sampling.md` sections 3 to 5), in f32.

use crate::tensor::Tensor;
use dreamc_ir::Confidence;
use dreamc_num::distribution::{NO_DISTRIBUTION, NO_TOKEN, is_distribution, overflow_shift};
use dreamc_num::schedule;
use dreamc_num::stream::{Lane, StreamState, draw_target, gumbel, uniform, weight};

pub(crate) fn eos_penalty(
    logits: &Tensor,
    penalty: &Tensor,
    step: &Tensor,
    token: usize,
    steps: u32,
    eps: f32,
) -> Tensor {
    let n = logits.columns();
    let added = penalty.floats()[0] * schedule::eos_penalty_factor(step.ints()[0] as u32, steps, eps);
    // A penalty that overflows is as large as it can be.
    let added = added.clamp(f32::MIN, f32::MAX);
    let mut out = logits.floats().to_vec();
    for row in out.chunks_mut(n) {
        row[token] += added;
    }
    Tensor::f32(&logits.dims, out)
}

pub(crate) fn sampling_probs(
    logits: &Tensor,
    temperature: &Tensor,
    top_p: &Tensor,
    top_k: &Tensor,
) -> Tensor {
    let (temperature, top_p, top_k) = (temperature.floats()[0], top_p.floats()[0], top_k.ints()[0]);
    let probs = |row: &[f32]| {
        if row.iter().any(|z| !z.is_finite()) {
            return vec![NO_DISTRIBUTION; row.len()];
        }
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut z = row.to_vec();
        if temperature > 0.0 {
            let shift = overflow_shift(largest, temperature);
            z.iter_mut().for_each(|z| *z = (*z - shift) / temperature);
        }
        if 0.0 < top_p && top_p < 1.0 {
            drop_top_p(&mut z, top_p);
        }
        if top_k > 0 {
            drop_top_k(&mut z, top_k as usize);
        }
        softmax(&z)
    };
    let n = logits.columns();
    Tensor::f32(&logits.dims, logits.floats().chunks(n).flat_map(probs).collect())
}

fn softmax(z: &[f32]) -> Vec<f32> {
    let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = z.iter().map(|z| (z - largest).exp()).collect();
    let total: f64 = exps.iter().map(|e| f64::from(*e)).sum();
    exps.iter().map(|e| (f64::from(*e) / total) as f32).collect()
}

/// Indices from the largest to the smallest, the lower index first on a tie.
fn descending(z: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
    order
}

/// Keeps the largest entries up to and including the one whose running probability crosses `top_p`.
fn drop_top_p(z: &mut [f32], top_p: f32) {
    let (probs, mut before) = (softmax(z), 0.0_f32);
    for (place, i) in descending(z).into_iter().enumerate() {
        if place > 0 && before > top_p {
            z[i] = f32::NEG_INFINITY;
        }
        before += probs[i];
    }
}

/// Drops what is below the k-th largest; ties with it stay.
fn drop_top_k(z: &mut [f32], top_k: usize) {
    let threshold = z[descending(z)[top_k.min(z.len()) - 1]];
    for z in z.iter_mut().filter(|z| **z < threshold) {
        *z = f32::NEG_INFINITY;
    }
}

pub(crate) fn random_bits(canvas: &Tensor, stream: &Tensor, lane: Lane) -> Tensor {
    let words = stream.words();
    let state = StreamState::from_words([words[0], words[1], words[2], words[3]]);
    let s = canvas.dims[1];
    let bits = (0..canvas.dims[0] * s).map(|i| state.bits((i / s) as u32, (i % s) as u32, lane));
    Tensor::u32(&canvas.dims, bits.collect())
}

fn argmax(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// The token of each row; column 0 is the token `first`.
pub(crate) fn draw_token(
    first: u64,
    probs: &Tensor,
    active: &Tensor,
    temperature: &Tensor,
    bits: &Tensor,
) -> Tensor {
    let draw = |(i, row): (usize, &[f32])| {
        if !active.bools()[i] {
            return -1;
        }
        if !is_distribution(row[0]) {
            return NO_TOKEN;
        }
        let total: u64 = row.iter().map(|p| weight(*p)).sum();
        if temperature.floats()[0] <= 0.0 || total == 0 {
            return first as i32 + argmax(row) as i32;
        }
        let target = draw_target(bits.words()[i], total);
        let mut sum = 0;
        let crosses = |p: &f32| {
            sum += weight(*p);
            sum > target
        };
        first as i32 + row.iter().position(crosses).unwrap_or_else(|| argmax(row)) as i32
    };
    Tensor::i32(&active.dims, probs.floats().chunks(probs.columns()).enumerate().map(draw).collect())
}

pub(crate) fn confidence(kind: Confidence, probs: &Tensor, active: &Tensor, token: &Tensor) -> Tensor {
    let of = |(i, row): (usize, &[f32])| {
        if !active.bools()[i] || !is_distribution(row[0]) {
            return 0.0;
        }
        match kind {
            Confidence::Probability => row.get(token.ints()[i] as usize).copied().unwrap_or(0.0),
            Confidence::Margin => {
                let order = descending(row);
                row[order[0]] - order.get(1).map_or(0.0, |i| row[*i])
            }
            Confidence::NegativeEntropy => {
                row.iter().map(|p| f64::from(p * (p + 1e-10).ln())).sum::<f64>() as f32
            }
        }
    };
    Tensor::f32(&active.dims, probs.floats().chunks(probs.columns()).enumerate().map(of).collect())
}

pub(crate) fn keep_tokens(logits: &Tensor, rows: &Tensor, kept: std::ops::Range<usize>) -> Tensor {
    let mut out = logits.floats().to_vec();
    for (row, marked) in out.chunks_mut(logits.columns()).zip(rows.ints()) {
        if *marked >= 0 {
            let others = row.iter_mut().enumerate().filter(|(i, _)| !kept.contains(i));
            others.for_each(|(_, z)| *z = f32::MIN);
        }
    }
    Tensor::f32(&logits.dims, out)
}

pub(crate) fn transfer_count(active: &Tensor, step: &Tensor, joint: &Tensor, steps: u32, eps: f32) -> Tensor {
    let count = |row: &[bool]| {
        let masks = row.iter().filter(|a| **a).count() as u32;
        schedule::transfer_count(masks, step.ints()[0] as u32, steps, eps) as i32
    };
    let mut counts: Vec<i32> = active.bools().chunks(active.columns()).map(count).collect();
    if joint.ints()[0] != 0 {
        counts.fill(0);
        counts[0] = count(active.bools());
    }
    Tensor::i32(&[active.dims[0]], counts)
}

pub(crate) fn select_slots(
    confidence: &Tensor,
    active: &Tensor,
    count: &Tensor,
    alg_temp: &Tensor,
    bits: &Tensor,
    joint: &Tensor,
) -> Tensor {
    let (mut s, alg_temp) = (active.columns(), alg_temp.floats()[0]);
    let mut counts = count.ints().to_vec();
    if joint.ints()[0] != 0 {
        // All rows are one long row.
        s = active.bools().len();
        counts = vec![counts.iter().sum()];
    }
    let mut selected = vec![false; active.bools().len()];
    for (row, count) in counts.iter().enumerate() {
        let score = |p: usize| {
            let i = row * s + p;
            let noise = if alg_temp > 0.0 { gumbel(bits.words()[i]) } else { 0.0 };
            let scale = if alg_temp > 0.0 { alg_temp } else { 1.0 };
            confidence.floats()[i] / scale + noise
        };
        let mut slots: Vec<usize> = (0..s).filter(|p| active.bools()[row * s + p]).collect();
        slots.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
        for p in slots.into_iter().take(*count as usize) {
            selected[row * s + p] = true;
        }
    }
    Tensor::bool(&active.dims, selected)
}

pub(crate) fn origin_slots(active: &Tensor, step: &Tensor, bits: &Tensor, steps: u32, eps: f32) -> Tensor {
    let share = schedule::transfer_share(step.ints()[0] as u32, steps, eps);
    let selected =
        active.bools().iter().zip(bits.words()).map(|(active, bits)| *active && uniform(*bits) < share);
    Tensor::bool(&active.dims, selected.collect())
}

//! From logits to tokens: the distribution, the draw, the confidence.

use crate::context::Context;
use crate::isa::per_isa;
use crate::math::{exp, ln};
use crate::memory::{Buf, Shared};
use dreamc_artifact::plan::Confidence;
use dreamc_num::distribution::{NO_DISTRIBUTION, NO_TOKEN, is_distribution, overflow_shift};
use dreamc_num::stream::{draw_target, weight};
use dreamc_runtime::DeviceError;

/// What an exponential or a logarithm costs, in elements that are moved.
const PROBABILITY_WORK: usize = 8;

/// Where row `row` of `buf`, an f32 tensor, begins; aligned.
fn start_of(buf: &Buf, row: usize) -> *mut f32 {
    assert!(buf.dtype == dreamc_num::DType::F32 && row < buf.rows() && buf.start().addr().is_multiple_of(4));
    buf.start().cast::<f32>().wrapping_add(row * buf.columns())
}

/// The row of `buf`, an f32 tensor, that task `row` owns.
///
/// # Safety
///
/// Nothing writes this row while the result lives.
unsafe fn row_of(buf: &Buf, row: usize) -> &[f32] {
    // SAFETY: inside the tensor; not written by the contract.
    unsafe { std::slice::from_raw_parts(start_of(buf, row), buf.columns()) }
}

/// The same, to be written.
///
/// # Safety
///
/// Nothing else reads or writes this row while the result lives.
#[expect(clippy::mut_from_ref, reason = "every task has its own row")]
unsafe fn row_of_mut(buf: &Buf, row: usize) -> &mut [f32] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(start_of(buf, row), buf.columns()) }
}

/// Floats of a worker for a vocabulary of `v`: keys of two words each.
pub(crate) fn need(v: usize) -> usize {
    2 * v
}

/// Temperature, top-p, top-k, softmax for every active row; `out` may be the logits.
pub(crate) fn probs(
    context: &Context<'_>,
    logits: &Buf,
    active: &Buf,
    temperature: f32,
    top_p: f32,
    top_k: i32,
    out: &Buf,
) {
    let v = logits.columns();
    context.pool.run_rows(logits.rows(), PROBABILITY_WORK * v, &|row, worker| {
        if active.get::<u8>(row) == 0 {
            return;
        }
        // SAFETY: this task's worker; the last task's borrow has ended.
        let keys = unsafe { context.worker(worker, need(v)) };
        crate::rows::copy(logits, row * v, out, row * v, v);
        // SAFETY: this task's row, which may be that of the logits as well; they are not looked at again.
        let values = unsafe { row_of_mut(out, row) };
        // SAFETY: two floats are as large as a u64, aligned since a worker's scratch is aligned to a cache line; every
        // pattern of bits is a u64; the borrow is passed on.
        let keys = unsafe { std::slice::from_raw_parts_mut(keys.as_mut_ptr().cast::<u64>(), v) };
        let mut largest = largest_finite(context.isa, values);
        if largest.is_nan() {
            values.fill(NO_DISTRIBUTION);
            return;
        }
        if temperature > 0.0 {
            let shift = overflow_shift(largest, temperature);
            values.iter_mut().for_each(|x| *x = (*x - shift) / temperature);
            largest = (largest - shift) / temperature;
        }
        if top_p > 0.0 && top_p < 1.0 {
            keep_top_p(context, values, keys, top_p);
        }
        if top_k > 0 && (top_k as usize) < v {
            keep_top_k(values, keys, top_k as usize);
        }
        softmax(context.isa, values, largest);
    });
}

/// A key whose order is that of [`f32::total_cmp`], and on a tie the lower id is the larger key.
fn key(value: f32, id: usize) -> u64 {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!(id as u32))
}

/// Sets to minus infinity what lies beyond the first entries whose probabilities exceed `top_p`.
///
/// Few entries are kept as a rule, so only the largest are put in order, more of them if they do not suffice.
fn keep_top_p(context: &Context<'_>, values: &mut [f32], keys: &mut [u64], top_p: f32) {
    keys.iter_mut().zip(&*values).enumerate().for_each(|(id, (key, v))| *key = self::key(*v, id));
    let (mut rest, mut count, mut largest, mut total, mut cumulative) = (keys, 512, 0.0, 0.0, 0.0_f32);
    while !rest.is_empty() {
        if count < rest.len() {
            rest.select_nth_unstable_by(count, |a, b| b.cmp(a));
        }
        let (sorted, left) = rest.split_at_mut(count.min(rest.len()));
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        if total == 0.0 {
            largest = values[!(sorted[0] as u32) as usize];
            total = exp_sum(context.isa, values, largest);
        }
        for (i, key) in sorted.iter().enumerate() {
            let value = &mut values[!(*key as u32) as usize];
            let p = exp(*value - largest) / total;
            if cumulative > top_p {
                for key in sorted[i..].iter().chain(&*left) {
                    values[!(*key as u32) as usize] = f32::NEG_INFINITY;
                }
                return;
            }
            cumulative += p;
        }
        (rest, count) = (left, count * 8);
    }
}

/// Sets to minus infinity what is smaller than the `k`-th largest.
fn keep_top_k(values: &mut [f32], keys: &mut [u64], k: usize) {
    keys.iter_mut().zip(&*values).enumerate().for_each(|(id, (key, v))| *key = self::key(*v, id));
    let (_, kth, _) = keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    let threshold = values[!(*kth as u32) as usize];
    values.iter_mut().filter(|v| **v < threshold).for_each(|v| *v = f32::NEG_INFINITY);
}

per_isa! {
    /// Sum of `exp(value - largest)` in sixteen lanes.
    fn exp_sum(values: &[f32], largest: f32) -> f32 {
        let mut lanes = [0.0_f32; 16];
        let chunks = values.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(l, v)| *l += exp(*v - largest));
        }
        lanes.iter_mut().zip(rest).for_each(|(l, v)| *l += exp(*v - largest));
        lanes.iter().sum()
    }
}

per_isa! {
    /// The largest logit; NaN where one of them is not finite.
    fn largest_finite(values: &[f32]) -> f32 {
        const INFINITY: u32 = f32::INFINITY.to_bits();
        let mut largest = [f32::NEG_INFINITY; 16];
        let mut magnitudes = [0_u32; 16];
        let mut step = |values: &[f32]| {
            let lanes = largest.iter_mut().zip(&mut magnitudes);
            for (v, (largest, most)) in values.iter().zip(lanes) {
                *most = (*most).max(v.to_bits() & !(1 << 31));
                *largest = if *v > *largest { *v } else { *largest };
            }
        };
        let (chunks, rest) = values.as_chunks::<16>();
        chunks.iter().for_each(|chunk| step(chunk));
        step(rest);
        if magnitudes.iter().any(|m| *m >= INFINITY) {
            return f32::NAN;
        }
        largest.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))
    }
}

per_isa! {
    /// Of values of which `largest` is the largest.
    fn softmax(values: &mut [f32], largest: f32) {
        let mut lanes = [0.0_f32; 16];
        let (chunks, rest) = values.as_chunks_mut::<16>();
        for chunk in chunks {
            for (l, v) in lanes.iter_mut().zip(chunk) {
                *v = exp(*v - largest);
                *l += *v;
            }
        }
        for (l, v) in lanes.iter_mut().zip(rest) {
            *v = exp(*v - largest);
            *l += *v;
        }
        let total = lanes.iter().sum::<f32>();
        values.iter_mut().for_each(|v| *v /= total);
    }
}

per_isa! {
    /// The lowest id of the largest value; 0 if the first one is not a number.
    fn argmax(values: &[f32]) -> usize {
        const CHUNK: usize = 64;
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let mut lanes = [values.first().copied().unwrap_or(0.0); 16];
        let chunks = values.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(l, v)| *l = larger(*l, *v));
        }
        lanes.iter_mut().zip(rest).for_each(|(l, v)| *l = larger(*l, *v));
        let largest = lanes.into_iter().fold(lanes[0], larger);
        let of_chunk = |chunk: &[f32]| chunk.iter().fold(false, |found, v| found | (*v == largest));
        let from = values.chunks(CHUNK).position(of_chunk).map_or(0, |chunk| chunk * CHUNK);
        from + values[from..].iter().position(|v| *v == largest).unwrap_or(0)
    }
}

/// One token per active row.
///
/// # Errors
///
/// Names the first row that is no distribution.
pub(crate) fn draw(
    context: &Context<'_>,
    first: u32,
    probs: &Buf,
    active: &Buf,
    temperature: f32,
    bits: &Buf,
    out: &Buf,
) -> Result<(), DeviceError> {
    context.pool.run_rows(probs.rows(), PROBABILITY_WORK * probs.columns(), &|row, _| {
        if active.get::<u8>(row) == 0 {
            out.set(row, -1_i32);
            return;
        }
        // SAFETY: only read, by this task.
        let values = unsafe { row_of(probs, row) };
        if !is_distribution(values[0]) {
            out.set(row, NO_TOKEN);
            return;
        }
        // Sums of probabilities cannot overflow; of what is handed in instead they may, and must not panic.
        let add = |sum: u64, p: &f32| sum.wrapping_add(weight(*p));
        let total = if temperature > 0.0 { values.iter().fold(0, add) } else { 0 };
        let token = if total > 0 {
            let target = draw_target(bits.get(row), total);
            let mut sum = 0;
            values.iter().position(|p| {
                sum = add(sum, p);
                sum > target
            })
        } else {
            None
        };
        out.set(row, (first as usize + token.unwrap_or_else(|| argmax(context.isa, values))) as i32);
    });
    match (0..out.elements()).find(|i| out.get::<i32>(*i) == NO_TOKEN) {
        None => Ok(()),
        Some(i) => Err(DeviceError::NoDistribution { row: (i / out.columns()) as u32 }),
    }
}

per_isa! {
    /// Sum of `p ln(p + 1e-10)`, in sixteen lanes.
    fn negative_entropy(values: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; 16];
        let chunks = values.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(l, p)| *l += p * ln(p + 1e-10));
        }
        lanes.iter_mut().zip(rest).for_each(|(l, p)| *l += p * ln(p + 1e-10));
        lanes.iter().sum()
    }
}

/// How certain the token of each active row is.
pub(crate) fn confidence(
    context: &Context<'_>,
    kind: Confidence,
    probs: &Buf,
    active: &Buf,
    token: &Buf,
    out: &Buf,
) {
    context.pool.run_rows(probs.rows(), PROBABILITY_WORK * probs.columns(), &|row, _| {
        if active.get::<u8>(row) == 0 {
            out.set(row, 0.0_f32);
            return;
        }
        // SAFETY: only read, by this task.
        let values = unsafe { row_of(probs, row) };
        let value = match kind {
            _ if !is_distribution(values[0]) => 0.0,
            Confidence::Probability => {
                usize::try_from(token.get::<i32>(row)).ok().and_then(|t| values.get(t)).map_or(0.0, |p| *p)
            }
            Confidence::Margin => {
                let (mut first, mut second) = (0.0_f32, 0.0_f32);
                for p in values.iter() {
                    if *p > first {
                        (first, second) = (*p, first);
                    } else if *p > second {
                        second = *p;
                    }
                }
                first - second
            }
            Confidence::NegativeEntropy => negative_entropy(context.isa, values),
        };
        out.set(row, value);
    });
}

/// Adds `amount` to column `token` of every row; `out` may be the logits.
pub(crate) fn penalise(context: &Context<'_>, logits: &Buf, token: usize, amount: f32, out: &Buf) {
    let v = logits.columns();
    context.pool.run_rows(logits.rows(), v, &|row, _| {
        let value = logits.get::<f32>(row * v + token) + amount;
        crate::rows::copy(logits, row * v, out, row * v, v);
        out.set(row * v + token, value);
    });
}

/// Every column but those of `kept` becomes the lowest number in the rows that are chosen; `out` may be the logits.
pub(crate) fn keep_tokens(
    context: &Context<'_>,
    logits: &Buf,
    chosen: &Buf,
    kept: std::ops::Range<usize>,
    out: &Buf,
) {
    let v = logits.columns();
    context.pool.run_rows(logits.rows(), v, &|row, _| {
        crate::rows::copy(logits, row * v, out, row * v, v);
        if chosen.get::<i32>(row) >= 0 {
            (0..kept.start).chain(kept.end..v).for_each(|i| out.set(row * v + i, f32::MIN));
        }
    });
}

/// Ids of a scratch as u32, for the other sampler file.
pub(crate) fn as_u32(floats: &mut [f32]) -> &mut [u32] {
    let pointer = Shared(floats.as_mut_ptr().cast::<u32>());
    // SAFETY: u32 and f32 have the same size and alignment; the borrow is passed on.
    unsafe { std::slice::from_raw_parts_mut(pointer.get(), floats.len()) }
}

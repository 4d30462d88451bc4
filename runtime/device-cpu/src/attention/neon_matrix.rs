//! The steps of attention on NEON with products of matrices of bf16: products of pairs, softmax, packing.

use super::KEYS;
use super::pairs::{Product, Softmax};
use crate::math::EXP2;
pub(super) use crate::math::sum;
use crate::matmul::neon_matrix::{self, ROWS as TILE, Sums, ZEROS, add_products, swap};
use crate::memory::{from_bf16, to_bf16};
use std::arch::aarch64::*;
use std::arch::asm;

/// Rows of a strip at most: two tiles, so that a panel is read twice from the nearest cache.
pub(super) const ROWS: usize = 12;

/// Runs it; rows of `a` are `STRIDE` words apart, and end with a zero where `steps` is odd.
///
/// # Safety
///
/// The product's pointers cover what it says, `rows` is 1 to [`ROWS`], `panels` 1 or 2.
#[inline]
#[target_feature(enable = "neon,bf16")]
pub(super) unsafe fn multiply<const STRIDE: usize>(product: &Product) {
    for (panel, b) in product.b.into_iter().enumerate().take(product.panels) {
        for first in (0..product.rows).step_by(TILE) {
            // SAFETY: a part of the product, which the caller vouches for.
            unsafe {
                let part = Product {
                    a: product.a.add(first * STRIDE),
                    b: [b; 2],
                    c: product.c.add(first * product.c_stride + panel * 16),
                    shrink: product.shrink.wrapping_add(if product.shrink.is_null() { 0 } else { first }),
                    ..*product
                };
                match product.rows - first {
                    1 => tile::<STRIDE, 1>(&part),
                    2 => tile::<STRIDE, 2>(&part),
                    3 => tile::<STRIDE, 3>(&part),
                    4 => tile::<STRIDE, 4>(&part),
                    5 => tile::<STRIDE, 5>(&part),
                    _ => tile::<STRIDE, TILE>(&part),
                }
            }
        }
    }
}

/// # Safety
///
/// As for [`multiply`], of one panel.
#[target_feature(enable = "neon,bf16")]
unsafe fn tile<const STRIDE: usize, const R: usize>(product: &Product) {
    // SAFETY: every access below is inside the product, which the caller vouches for, or to zeros.
    unsafe {
        let zero = vdupq_n_u32(0);
        let mut sums: Sums = [[zero; 8]; TILE / 2];
        if !product.shrink.is_null() {
            let row = |r: usize, q: usize| {
                let c = vld1q_f32(product.c.add(r * product.c_stride + q * 4));
                vreinterpretq_u32_f32(vmulq_n_f32(c, *product.shrink.add(r)))
            };
            for (p, pair) in sums.iter_mut().enumerate().take(R.div_ceil(2)) {
                for (q, two) in pair.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let second = if 2 * p + 1 < R { row(2 * p + 1, q) } else { zero };
                    *two = swap([row(2 * p, q), second]);
                }
            }
        }
        for step in (0..product.steps).step_by(2) {
            let b = product.b[0].add(step * 16);
            let next = if step + 1 < product.steps { b.add(16) } else { ZEROS.as_ptr() };
            let mut a = [zero; TILE / 2];
            for (p, two) in a.iter_mut().enumerate().take(R.div_ceil(2)) {
                let row = |r: usize| vld1_u32(product.a.add(r * STRIDE + step));
                let second = if 2 * p + 1 < R { row(2 * p + 1) } else { vdup_n_u32(0) };
                *two = vcombine_u32(row(2 * p), second);
            }
            add_products!("bfmmla {v:v}.4s, {a:v}.8h, {b:v}.8h", sums, R, a, [b, next]);
        }
        neon_matrix::finish::<R>(product.c, product.c_stride, &sums);
    }
}

/// `2^x`, relative error below 9e-5, far less than rounding to bf16 adds; 0 far below, NaN for NaN.
///
/// `2^x = 2^floor(x) * 2^r` with a polynomial in `r`, which is 1 at 0.
#[inline(always)]
fn exp2(x: float32x4_t) -> float32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe {
        // An exponent of -127 in bits is 0.
        let x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-127.0)), vdupq_n_f32(127.0));
        let whole = vrndmq_f32(x);
        let r = vsubq_f32(x, whole);
        let [a, b, c] = EXP2.map(|v| vdupq_n_f32(v));
        let p = vfmaq_f32(b, c, r);
        let p = vfmaq_f32(a, p, r);
        let p = vfmaq_f32(vdupq_n_f32(1.0), p, r);
        let exponent = vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127));
        vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
    }
}

/// Rounds eight numbers to bf16.
///
/// # Safety
///
/// The host has the instructions.
#[inline]
#[target_feature(enable = "neon,bf16")]
unsafe fn round(low: float32x4_t, high: float32x4_t) -> uint32x4_t {
    let words;
    // SAFETY: passed on from the caller. The intrinsics are not stable.
    unsafe {
        asm!(
            "bfcvtn {words:v}.4h, {low:v}.4s",
            "bfcvtn2 {words:v}.8h, {high:v}.4s",
            words = out(vreg) words,
            low = in(vreg) low,
            high = in(vreg) high,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    words
}

/// The largest of some scores, those of other segments than `own` being made minus infinity; what is not a number is left out.
#[inline(always)]
fn largest(scores: &mut [f32], segments: Option<(i32, &[i32; KEYS])>) -> f32 {
    let mut most = [f32::NEG_INFINITY; 16];
    if let Some((own, theirs)) = segments {
        for (score, segment) in scores.iter_mut().zip(theirs) {
            *score = if *segment == own { *score } else { f32::NEG_INFINITY };
        }
    }
    for scores in scores.as_chunks::<16>().0 {
        for (most, score) in most.iter_mut().zip(scores) {
            *most = if *score > *most { *score } else { *most };
        }
    }
    most.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Softmax of a strip, not divided by its sum: `2^(scale * (score - largest))` rounded to bf16, `STRIDE` words from row
/// to row of `p`. The sums are those of the rounded weights, so that the weights of a row sum up to 1.
///
/// # Safety
///
/// The host has the instructions; `p` holds a row of `count / 2` words for each of `softmax.largest`.
#[target_feature(enable = "neon,bf16")]
pub(super) unsafe fn weigh<const STRIDE: usize>(softmax: &mut Softmax<'_>, p: *mut u32) {
    let (rows, scale) = (softmax.largest.len(), softmax.scale);
    let strips = softmax.scores.chunks_exact_mut(KEYS).zip(softmax.totals.iter_mut());
    for (r, (scores, total)) in strips.enumerate().take(rows) {
        let scores = &mut scores[..softmax.count];
        let old = softmax.largest[r];
        let new = old.max(largest(scores, softmax.segments.map(|(own, theirs)| (own[r], theirs))));
        softmax.largest[r] = new;
        // All scores may be minus infinity: then there is nothing to subtract.
        let base = if new == f32::NEG_INFINITY { 0.0 } else { new * scale };
        // SAFETY: the four totals of a quarter, sixteen words of thirty-two scores, which the row of `p` has room for.
        unsafe {
            let shrink = exp2(vdupq_n_f32(old * scale - base));
            softmax.shrink[r] = vgetq_lane_f32::<0>(shrink);
            let base = vdupq_n_f32(-base);
            let ones = vdupq_n_u32(0x3f80_3f80);
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (q, sum) in sums.iter_mut().enumerate() {
                *sum = vmulq_f32(vld1q_f32(total.as_ptr().add(q * 4)), shrink);
            }
            for (i, scores) in scores.chunks_exact(32).enumerate() {
                for (q, sum) in sums.iter_mut().enumerate() {
                    let weight = |at: usize| {
                        exp2(vfmaq_n_f32(base, vld1q_f32(scores.as_ptr().add(q * 8 + at)), scale))
                    };
                    let weights = round(weight(0), weight(4));
                    asm!(
                        "bfdot {sum:v}.4s, {weights:v}.8h, {ones:v}.8h",
                        sum = inout(vreg) *sum,
                        weights = in(vreg) weights,
                        ones = in(vreg) ones,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                    vst1q_u32(p.add(r * STRIDE + i * 16 + q * 4), weights);
                }
            }
            for (q, sum) in sums.iter().enumerate() {
                vst1q_f32(total.as_mut_ptr().add(q * 4), *sum);
            }
        }
    }
}

/// One head of a row, its two halves of `half` elements rotated by the cosines and sines of `angles`.
///
/// # Safety
///
/// `from` holds and `to` has room for two halves, each of `angles` holds a half.
#[inline(always)]
pub(super) unsafe fn rotate(
    from: *const u16,
    half: usize,
    angles: Option<(*const f32, *const f32)>,
    to: *mut u16,
) {
    let Some((cos, sin)) = angles else {
        // SAFETY: by the contract; `to` is memory of its own.
        unsafe { std::ptr::copy_nonoverlapping(from, to, 2 * half) };
        return;
    };
    for i in 0..half {
        // SAFETY: element `i` of both halves.
        unsafe {
            let (x, y) = (from_bf16(*from.add(i)), from_bf16(*from.add(half + i)));
            let (c, s) = (*cos.add(i), *sin.add(i));
            *to.add(i) = to_bf16(x.mul_add(c, -(y * s)));
            *to.add(half + i) = to_bf16(y.mul_add(c, x * s));
        }
    }
}

/// One head of a result: `columns` sums times `by`, rounded.
///
/// # Safety
///
/// There are as many sums, and room for as many results.
#[inline(always)]
pub(super) unsafe fn finish(sums: *const f32, columns: usize, by: f32, to: *mut u16) {
    for i in 0..columns {
        // SAFETY: sum and result `i`.
        unsafe { *to.add(i) = to_bf16(*sums.add(i) * by) };
    }
}

/// Words `[16][16]` with rows `stride` words apart become their first `columns` columns, each of 16 words.
///
/// # Safety
///
/// `from` holds the rows, `to` has room for the columns.
#[inline(always)]
pub(super) unsafe fn transpose(from: *const u32, stride: usize, to: *mut u32, columns: usize) {
    for column in (0..columns).step_by(4) {
        for r in (0..16).step_by(4) {
            // SAFETY: four words of four rows, and of as many columns as there are.
            unsafe {
                let row = |i: usize| vld1q_u32(from.add((r + i) * stride + column));
                let [a, b] = [row(0), row(1)].map(|v| vreinterpretq_u64_u32(v));
                let [c, d] = [row(2), row(3)].map(|v| vreinterpretq_u64_u32(v));
                let words = [vzip1q_u64(a, c), vzip2q_u64(a, c), vzip1q_u64(b, d), vzip2q_u64(b, d)];
                let [ac_low, ac_high, bd_low, bd_high] = words.map(|v| vreinterpretq_u32_u64(v));
                let of_columns = [
                    vtrn1q_u32(ac_low, bd_low),
                    vtrn2q_u32(ac_low, bd_low),
                    vtrn1q_u32(ac_high, bd_high),
                    vtrn2q_u32(ac_high, bd_high),
                ];
                for (i, words) in of_columns.into_iter().enumerate().take(columns - column) {
                    vst1q_u32(to.add((column + i) * 16 + r), words);
                }
            }
        }
    }
}

/// Sixteen words of elements of two rows, `columns` of them: `low[i] | high[i] << 16`; null is a row of zeros.
///
/// # Safety
///
/// The rows hold `columns` elements, `to` has room for sixteen words.
#[inline(always)]
pub(super) unsafe fn interleave(low: *const u16, high: *const u16, columns: usize, to: *mut u32) {
    let row = |from: *const u16| {
        let mut row = [0_u16; 16];
        if !from.is_null() {
            // SAFETY: by the contract.
            unsafe { std::ptr::copy_nonoverlapping(from, row.as_mut_ptr(), columns.min(16)) };
        }
        row
    };
    let (low, high) = (row(low), row(high));
    for (i, (low, high)) in low.into_iter().zip(high).enumerate() {
        // SAFETY: one of sixteen words.
        unsafe { *to.add(i) = u32::from(low) | u32::from(high) << 16 };
    }
}

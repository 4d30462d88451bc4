//! Attention of bf16: pairs of bf16 are multiplied and added to f32, on AVX-512 with BF16 and on NEON with products of
//! matrices.
//!
//! Queries and keys are rotated in f32 and rounded, as a model in bf16 rounds them. The weights of the softmax are
//! rounded to bf16 as well, `w (1 + e)` with `|e| < 2.1e-3`: rounding is off by up to 2^-9, the power of 2 before it by
//! 9e-5. They are divided by the sum of what they were rounded to, so that a row's weights sum up to 1. Its result `o` is
//! then off by `sum w e (v - o)` to first order: by no more than 2.1e-3 of the values' mean distance from it.

#[cfg(target_arch = "x86_64")]
use super::avx512::{ROWS, finish, interleave, multiply, rotate, sum, transpose, weigh};
#[cfg(target_arch = "aarch64")]
use super::neon_matrix::{ROWS, finish, interleave, multiply, rotate, sum, transpose, weigh};
use super::{Attention, Block, CHUNK, KEYS, QUERIES, Sight, tile_keys};
use crate::matmul::micro::ask;
use crate::memory::{Buf, Shared};
use dreamc_num::DType;

/// Columns of a head at most.
pub(super) const HEAD_DIM_MAX: usize = 256;
/// Words from one query to the next: no multiple of a page's lines, so that rows do not share places in the cache.
const Q_STRIDE: usize = HEAD_DIM_MAX / 2 + 16;
/// Words from the weights of one query to those of the next.
const P_STRIDE: usize = KEYS / 2 + 16;

/// Rows that are asked for before they are used.
const AHEAD: usize = 8;

/// One product `c = a b`, or `c = c * shrink + a b`.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Row-major words of two bf16. Not transposed: a word is read for all lanes at once wherever it lies.
    pub(super) a: *const u32,
    /// Words of a row times columns of pairs: one or two panels of `[steps][16]` words.
    pub(super) b: [*const u32; 2],
    pub(super) panels: usize,
    /// Words of a row of `a` that are multiplied.
    pub(super) steps: usize,
    pub(super) rows: usize,
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    /// A factor for each row of what `c` holds; null to start from 0.
    pub(super) shrink: *const f32,
}

/// What the softmax of a strip works on.
pub(super) struct Softmax<'s> {
    /// Rows of [`KEYS`] scores.
    pub(super) scores: &'s mut [f32],
    /// Keys, a multiple of 32.
    pub(super) count: usize,
    /// What scores are multiplied with before `2^x`.
    pub(super) scale: f32,
    /// The segment of each row and of each key, unless every row sees every key.
    pub(super) segments: Option<(&'s [i32], &'s [i32; KEYS])>,
    /// The largest score of each row so far.
    pub(super) largest: &'s mut [f32],
    /// Sixteen sums of each row so far.
    pub(super) totals: &'s mut [[f32; 16]],
    /// By how much what was summed up so far shrinks, for each row.
    pub(super) shrink: &'s mut [f32; 16],
}

/// Floats of a worker: queries, scores and weights of a strip, sums, sixteen totals per query, and the largest
/// score of each. As much serves packing, which takes sixteen rows of keys.
pub(super) fn worker_floats(d: usize) -> usize {
    QUERIES * (Q_STRIDE + d.next_multiple_of(16) + 16 + 1) + ROWS * (KEYS + P_STRIDE)
}

/// Packs one chunk of keys as `[keys / 16][d / 2][16]` pairs of neighbouring columns and of values as
/// `[d / 16][keys / 2][16]` pairs of neighbouring keys.
///
/// # Safety
///
/// The host has the instructions; `to` has room for the head, whose chunk at `first` no other task touches.
#[cfg_attr(
    target_arch = "x86_64",
    target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
)]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon,bf16"))]
pub(super) unsafe fn pack(
    attention: &Attention,
    b: usize,
    head: usize,
    first: usize,
    to: Shared<f32>,
    scratch: &mut [f32],
) {
    let (d, s) = (attention.head_dim, attention.positions());
    let (keys, width) = (s.next_multiple_of(CHUNK), (d / 2).next_multiple_of(16));
    let rows = scratch[..16 * width].as_mut_ptr().cast::<u32>();
    let to = to.get().cast::<u32>();
    (0..AHEAD).for_each(|j| prefetch(attention, &attention.k, b * s + first + j, head));
    for key in (first..first + CHUNK).step_by(16) {
        for j in 0..16 {
            prefetch(attention, &attention.k, b * s + key + j + AHEAD, head);
            let at = b * s + key + j;
            let at = (key + j < s).then_some((at, at));
            // SAFETY: row `j` of sixteen.
            unsafe { load(attention, &attention.k, at, head, rows.add(j * width)) };
        }
        for column in (0..d / 2).step_by(16) {
            // SAFETY: the keys are the first `keys * d / 2` words of the head.
            unsafe {
                let to = to.add((key / 16 * (d / 2) + column) * 16);
                transpose(rows.add(column), width, to, 16.min(d / 2 - column));
            }
        }
    }
    // SAFETY: the values are the words after them.
    let to = unsafe { to.add(keys * d / 2) };
    (0..AHEAD).for_each(|j| prefetch(attention, &attention.v, b * s + first + j, head));
    for key in (first..first + CHUNK).step_by(2) {
        prefetch(attention, &attention.v, b * s + key + AHEAD, head);
        prefetch(attention, &attention.v, b * s + key + 1 + AHEAD, head);
        let (low, high) = (value(attention, b, key, head), value(attention, b, key + 1, head));
        for column in (0..d).step_by(16) {
            let at = |row: *const u16| if row.is_null() { row } else { row.wrapping_add(column) };
            // SAFETY: the rows end with the head, the word is that of the two keys in the panel of the columns.
            unsafe {
                let to = to.add((column / 16 * keys + key) / 2 * 16);
                interleave(at(low), at(high), d - column, to);
            }
        }
    }
}

/// The head's values of a key; null where there is none or it is masked.
#[inline(always)]
fn value(attention: &Attention, b: usize, key: usize, head: usize) -> *const u16 {
    let (s, row) = (attention.positions(), b * attention.positions() + key);
    if key >= s || attention.mask.get::<i32>(row) == 0 {
        return std::ptr::null();
    }
    elements(attention, &attention.v, row, head)
}

/// The elements of a head of a row.
#[inline(always)]
fn elements(attention: &Attention, (x, column): &(Buf, usize), row: usize, head: usize) -> *const u16 {
    let (d, at) = (attention.head_dim, row * x.columns() + column + head * attention.head_dim);
    assert!(x.dtype == DType::BF16 && at + d <= x.elements());
    x.start().cast::<u16>().wrapping_add(at).cast_const()
}

/// Asks for a head of a row. The rows of a head lie far apart, so the processor does not foresee them; asking for more
/// than there are does no harm.
#[inline(always)]
fn prefetch(attention: &Attention, (x, column): &(Buf, usize), row: usize, head: usize) {
    let at = row * x.columns() + column + head * attention.head_dim;
    let from = x.start().cast::<u16>().wrapping_add(at).cast_const();
    for line in (0..attention.head_dim).step_by(32) {
        ask(from.wrapping_add(line).cast());
    }
}

/// Head `head` of a row, which stands at a position, rotated; zeros where there is none or it is masked, and up to an even
/// number of words.
///
/// # Safety
///
/// The host has the instructions; `to` has room for the words.
#[inline]
#[cfg_attr(
    target_arch = "x86_64",
    target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
)]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon,bf16"))]
unsafe fn load(
    attention: &Attention,
    x: &(Buf, usize),
    row_at: Option<(usize, usize)>,
    head: usize,
    to: *mut u32,
) {
    let half = attention.head_dim / 2;
    if !half.is_multiple_of(2) {
        // SAFETY: the last word.
        unsafe { *to.add(half) = 0 };
    }
    let Some((row, at)) = row_at.filter(|(_, at)| attention.mask.get::<i32>(*at) != 0) else {
        // SAFETY: a word for two columns.
        unsafe { to.write_bytes(0, half) };
        return;
    };
    let table = |x: &Buf| {
        assert!(x.dtype == DType::F32 && (at + 1) * half <= x.elements());
        x.start().cast::<f32>().wrapping_add(at * half).cast_const()
    };
    let angles = attention.rope.as_ref().map(|(cos, sin)| (table(cos), table(sin)));
    // SAFETY: inside the tensors by the assertions; the room by the contract.
    unsafe { rotate(elements(attention, x, row, head), half, angles, to.cast()) };
}

/// One block of queries of one head over all keys.
///
/// # Safety
///
/// The host has the instructions; `keys` is the packed head.
#[cfg_attr(
    target_arch = "x86_64",
    target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
)]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon,bf16"))]
pub(super) unsafe fn queries(
    attention: &Attention,
    block: &Block<'_>,
    keys: Shared<f32>,
    scratch: &mut [f32],
) {
    let (d, s, rows) = (attention.head_dim, attention.positions(), block.rows);
    let (padded, keys_max) = (d.next_multiple_of(16), s.next_multiple_of(CHUNK));
    let (q, scratch) = scratch.split_at_mut(QUERIES * Q_STRIDE);
    let (scores, scratch) = scratch.split_at_mut(ROWS * KEYS);
    let (p, scratch) = scratch.split_at_mut(ROWS * P_STRIDE);
    let (sums, scratch) = scratch.split_at_mut(QUERIES * padded);
    let (totals, scratch) = scratch.split_at_mut(QUERIES * 16);
    let largest = &mut scratch[..QUERIES];
    let (totals, _) = totals.as_chunks_mut::<16>();
    let (q, p) = (q.as_mut_ptr().cast::<u32>(), p.as_mut_ptr().cast::<u32>());

    let row = block.row(attention, 0);
    (0..AHEAD).for_each(|r| prefetch(attention, &attention.q, row + r, block.head));
    for r in 0..rows {
        prefetch(attention, &attention.q, row + r + AHEAD, block.head);
        prefetch(attention, &(attention.out, 0), row + r, block.head);
        // SAFETY: row `r` of the queries.
        unsafe { load(attention, &attention.q, block.query(attention, r), block.head, q.add(r * Q_STRIDE)) };
    }
    totals.fill([0.0; 16]);
    largest.fill(f32::NEG_INFINITY);
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    // As even as may be: a short strip would wait for its products.
    let strip = rows.div_ceil(rows.div_ceil(ROWS));
    let keys = keys.get().cast::<u32>().cast_const();
    let mut theirs = [0_i32; KEYS];
    let mut begun = false;
    for key in (0..s).step_by(KEYS) {
        let sight = block.sees(attention, key, &mut theirs);
        if sight == Sight::Nothing {
            continue;
        }
        let count = tile_keys(s, key);
        for first in (0..rows).step_by(strip) {
            let rows = strip.min(rows - first);
            for panel in (0..count / 16).step_by(2) {
                // SAFETY: panels of the packed keys, which are a multiple of two; rows of the queries and scores.
                unsafe {
                    let b = |i: usize| keys.add((key / 16 + panel + i) * (d / 2) * 16);
                    multiply::<Q_STRIDE>(&Product {
                        a: q.add(first * Q_STRIDE),
                        b: [b(0), b(1)],
                        panels: 2,
                        steps: d / 2,
                        rows,
                        c: scores.as_mut_ptr().add(panel * 16),
                        c_stride: KEYS,
                        shrink: std::ptr::null(),
                    });
                }
            }
            let mut shrink = [0.0_f32; 16];
            let segments = (sight == Sight::Some).then_some((&block.segments[first..], &theirs));
            let mut softmax = Softmax {
                scores: &mut *scores,
                count,
                scale,
                segments,
                largest: &mut largest[first..first + rows],
                totals: &mut totals[first..first + rows],
                shrink: &mut shrink,
            };
            // SAFETY: the weights have room for a strip.
            unsafe { weigh::<P_STRIDE>(&mut softmax, p) };
            for panel in (0..padded / 16).step_by(2) {
                let panels = 2.min(padded / 16 - panel);
                // SAFETY: the tile's keys in panels of the packed values; rows of the weights and sums.
                unsafe {
                    let b = |i: usize| keys.add(keys_max * d / 2 + ((panel + i) * keys_max + key) / 2 * 16);
                    multiply::<P_STRIDE>(&Product {
                        a: p,
                        b: [b(0), b(panels - 1)],
                        panels,
                        steps: count / 2,
                        rows,
                        c: sums.as_mut_ptr().add(first * padded + panel * 16),
                        c_stride: padded,
                        shrink: if begun { shrink.as_ptr() } else { std::ptr::null() },
                    });
                }
            }
        }
        begun = true;
    }
    if !begun {
        sums.fill(0.0);
    }
    for r in 0..rows {
        let total = sum(&totals[r]);
        let to = elements(attention, &(attention.out, 0), block.row(attention, r), block.head).cast_mut();
        // SAFETY: the sums of a query, and its head of the result.
        unsafe {
            if block.is_empty(r, total) {
                to.write_bytes(0, d);
            } else {
                finish(sums[r * padded..][..padded].as_ptr(), d, 1.0 / total, to);
            }
        }
    }
}

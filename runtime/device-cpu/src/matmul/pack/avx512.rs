//! Rows in registers of AVX-512; all but words of f32. The same bits as in [`super::any`].

use super::{Before, CHUNK, Factors, Pack, Rows, Strip, chunks};
use crate::lanes::{LANES, first, load, to_bf16};
use crate::matmul::micro::ask;
use crate::memory::{Buf, Window};
use dreamc_num::DType;
use dreamc_num::quant::INT8_MAX;
use std::arch::x86_64::*;

/// As [`super::any::square_sum`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn square_sum(x: &Buf, row: usize) -> f32 {
    let k = x.columns();
    let row = Row { x: &x.window(row..row + 1, 0..k), r: 0, from: 0 };
    if row.x.bf16 { row.square_sum::<true>(k) } else { row.square_sum::<false>(k) }
}

/// As [`super::any::largest`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn largest(strip: &Strip<'_>, rms: &[f32; 16]) -> [f32; 16] {
    let x = strip.window();
    let mut largest = [_mm512_setzero_ps(); 16];
    for (from, n) in chunks(strip.x.columns()) {
        let factors = strip.before.factors(from, n);
        for (r, max) in largest.iter_mut().enumerate().take(strip.rows) {
            let row = Row { x: &x, r, from };
            let values = Values { before: strip.before, rms: rms[r], factors: &factors };
            *max = if x.bf16 {
                row.largest::<true>(n, &values, *max)
            } else {
                row.largest::<false>(n, &values, *max)
            };
        }
    }
    largest.map(|lanes| _mm512_reduce_max_ps(lanes))
}

/// As [`super::any::words_of`], for pairs and codes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn words_of(
    strip: &Strip<'_>,
    from: usize,
    n: usize,
    rms: &[f32; 16],
    inverse: &[f32; 16],
    pack: Pack,
    words: &mut Rows,
) {
    let x = strip.window();
    let factors = strip.before.factors(from, n);
    for (r, words) in words.iter_mut().enumerate().take(strip.rows) {
        let row = Row { x: &x, r, from };
        let values = Values { before: strip.before, rms: rms[r], factors: &factors };
        let to = words.as_mut_ptr().cast::<u8>();
        let shift = if pack == Pack::ShiftedCodes { 0x80 } else { 0 };
        // SAFETY: there are words for as many elements as make a chunk.
        unsafe {
            match (pack, x.bf16) {
                (Pack::Pairs, true) => row.pairs::<true>(n, &values, to),
                (Pack::Pairs, false) => row.pairs::<false>(n, &values, to),
                (_, true) => row.codes::<true>(n, &values, inverse[r], shift, to),
                (_, false) => row.codes::<false>(n, &values, inverse[r], shift, to),
            }
        }
    }
}

/// A row of a strip from some column on.
struct Row<'r> {
    x: &'r Window,
    r: usize,
    from: usize,
}

/// What is done to its elements.
struct Values<'v> {
    before: &'v Before,
    rms: f32,
    factors: &'v Factors,
}

impl Row<'_> {
    /// The elements of `mask` from element `at` on. Those behind the chunk are asked for: other rows may come before them, so
    /// the processor does not foresee them.
    ///
    /// # Safety
    ///
    /// The row has them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load<const BF16: bool>(&self, at: usize, mask: u16) -> __m512 {
        ask(self.at::<BF16>(at + CHUNK).cast_const());
        // SAFETY: passed on from the caller.
        unsafe { load::<BF16>(self.at::<BF16>(at), mask) }
    }

    /// Where element `at` is, if there is one.
    #[inline]
    fn at<const BF16: bool>(&self, at: usize) -> *mut u8 {
        let dtype = if BF16 { DType::BF16 } else { DType::F32 };
        self.x.row(self.r).wrapping_add((self.from + at) * dtype.bytes())
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn square_sum<const BF16: bool>(&self, n: usize) -> f32 {
        let mut sums = _mm512_setzero_ps();
        for at in (0..n).step_by(LANES) {
            // SAFETY: the row has `n`.
            let v = unsafe { self.load::<BF16>(at, first(n - at)) };
            sums = _mm512_add_ps(sums, _mm512_mul_ps(v, v));
        }
        let mut lanes = [0.0_f32; LANES];
        // SAFETY: sixteen of them.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) };
        lanes.iter().sum()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn largest<const BF16: bool>(&self, n: usize, values: &Values<'_>, mut max: __m512) -> __m512 {
        for at in (0..n).step_by(LANES) {
            // SAFETY: the row has `n`, at most a chunk of them.
            let v = unsafe { values.of(self.load::<BF16>(at, first(n - at)), at) };
            // The second operand is the result where one is not a number.
            max = _mm512_max_ps(_mm512_abs_ps(v), max);
        }
        max
    }

    /// # Safety
    ///
    /// `to` has room for a chunk of bf16, the row has `n <= CHUNK` elements.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn pairs<const BF16: bool>(&self, n: usize, values: &Values<'_>, to: *mut u8) {
        let copies = BF16 && !values.before.any();
        for at in (0..n).step_by(LANES) {
            let mask = first(n - at);
            // SAFETY: by the contract.
            unsafe {
                let halves = if copies {
                    ask(self.at::<BF16>(at + CHUNK).cast_const());
                    _mm256_maskz_loadu_epi16(mask, self.at::<BF16>(at).cast())
                } else {
                    to_bf16(values.of(self.load::<BF16>(at, mask), at))
                };
                _mm256_storeu_si256(to.add(2 * at).cast(), halves);
            }
        }
    }

    /// # Safety
    ///
    /// `to` has room for a chunk of bytes, the row has `n <= CHUNK` elements.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn codes<const BF16: bool>(
        &self,
        n: usize,
        values: &Values<'_>,
        inverse: f32,
        shift: i32,
        to: *mut u8,
    ) {
        let (inverse, shift) = (_mm512_set1_ps(inverse), _mm512_set1_epi32(shift));
        let (least, most) = (_mm512_set1_ps(-INT8_MAX), _mm512_set1_ps(INT8_MAX));
        for at in (0..n).step_by(LANES) {
            let mask = first(n - at);
            // SAFETY: by the contract.
            unsafe {
                let v = _mm512_mul_ps(values.of(self.load::<BF16>(at, mask), at), inverse);
                // What is not a number stays so, and becomes an integer whose last byte is 0.
                let v = _mm512_cvtps_epi32(_mm512_max_ps(least, _mm512_min_ps(most, v)));
                let codes = _mm512_maskz_cvtepi32_epi8(mask, _mm512_xor_si512(v, shift));
                _mm_storeu_si128(to.add(at).cast(), codes);
            }
        }
    }
}

impl Values<'_> {
    /// Norm and smoothing of the elements from `at` on.
    ///
    /// # Safety
    ///
    /// `at + LANES <= CHUNK`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn of(&self, x: __m512, at: usize) -> __m512 {
        const { assert!(CHUNK.is_multiple_of(LANES)) };
        let mut v = x;
        // SAFETY: there are factors for a chunk.
        unsafe {
            if self.before.norm.is_some() {
                let gain = _mm512_loadu_ps(self.factors.gain.as_ptr().add(at));
                v = _mm512_mul_ps(_mm512_mul_ps(v, _mm512_set1_ps(self.rms)), gain);
            }
            if self.before.smooth.is_some() {
                v = _mm512_mul_ps(v, _mm512_loadu_ps(self.factors.smooth.as_ptr().add(at)));
            }
        }
        v
    }
}

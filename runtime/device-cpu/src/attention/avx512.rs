//! The steps of attention on AVX-512 with BF16: products of pairs, softmax, packing.

use super::KEYS;
use super::pairs::{Product, Softmax};
use crate::lanes::{self, exp2, first, store_halves, to_bf16_at_once};
use std::arch::x86_64::*;

/// Rows of a strip at most: with two panels 24 sums, which hide the latency of a product.
pub(super) const ROWS: usize = 12;

/// Runs it; rows of `a` are `STRIDE` words apart.
///
/// # Safety
///
/// The product's pointers cover what it says, `rows` is 1 to [`ROWS`], `panels` 1 or 2.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply<const STRIDE: usize>(product: &Product) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match (product.rows, product.panels) {
                // SAFETY: passed on from the caller.
                $(($rows, 2) => unsafe { tile::<STRIDE, $rows, 2>(product) },)*
                // SAFETY: as above.
                $(($rows, _) => unsafe { tile::<STRIDE, $rows, 1>(product) },)*
                // SAFETY: as above.
                (_, 2) => unsafe { tile::<STRIDE, ROWS, 2>(product) },
                // SAFETY: as above.
                _ => unsafe { tile::<STRIDE, ROWS, 1>(product) },
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11)
}

/// # Safety
///
/// As for [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const STRIDE: usize, const R: usize, const P: usize>(product: &Product) {
    // SAFETY: every access below is inside the product, which the caller vouches for.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        if !product.shrink.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                let shrink = _mm512_set1_ps(*product.shrink.add(r));
                for (p, v) in row.iter_mut().enumerate() {
                    let c = _mm512_loadu_ps(product.c.add(r * product.c_stride + p * 16));
                    *v = _mm512_mul_ps(c, shrink);
                }
            }
        }
        for step in 0..product.steps {
            let mut b = [_mm512_setzero_si512(); P];
            for (p, v) in b.iter_mut().enumerate() {
                *v = _mm512_loadu_si512(product.b[p].add(step * 16).cast());
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(*product.a.add(r * STRIDE + step) as i32);
                for (v, b) in row.iter_mut().zip(b) {
                    *v = _mm512_dpbf16_ps(*v, pairs(a), pairs(b));
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (p, v) in row.iter().enumerate() {
                _mm512_storeu_ps(product.c.add(r * product.c_stride + p * 16), *v);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and every pattern of bits is a value.
    unsafe { std::mem::transmute(words) }
}

/// Softmax of a strip, not divided by its sum: `2^(scale * (score - largest))` rounded to bf16, `STRIDE` words from row
/// to row of `p`. The sums are those of the rounded weights, so that the weights of a row sum up to 1.
///
/// # Safety
///
/// `p` holds a row of `count / 2` words for each of `softmax.largest`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn weigh<const STRIDE: usize>(softmax: &mut Softmax<'_>, p: *mut u32) {
    let rows = softmax.largest.len();
    let infinity = _mm512_set1_ps(f32::NEG_INFINITY);
    let (mut old, mut new) = ([f32::NEG_INFINITY; 16], [f32::NEG_INFINITY; 16]);
    let strips = softmax.scores.chunks_exact_mut(KEYS).take(rows);
    for (r, scores) in strips.enumerate() {
        let scores = &mut scores[..softmax.count];
        let mut most = infinity;
        if let Some((own, theirs)) = softmax.segments {
            let own = _mm512_set1_epi32(own[r]);
            for (scores, theirs) in scores.chunks_exact_mut(16).zip(theirs.chunks_exact(16)) {
                // SAFETY: sixteen of each.
                unsafe {
                    let same = _mm512_cmpeq_epi32_mask(own, _mm512_loadu_si512(theirs.as_ptr().cast()));
                    let v = _mm512_mask_loadu_ps(infinity, same, scores.as_ptr());
                    _mm512_storeu_ps(scores.as_mut_ptr(), v);
                    most = _mm512_max_ps(most, v);
                }
            }
        } else {
            let mut others = infinity;
            for scores in scores.chunks_exact(32) {
                // SAFETY: two times sixteen of them.
                unsafe {
                    most = _mm512_max_ps(most, _mm512_loadu_ps(scores.as_ptr()));
                    others = _mm512_max_ps(others, _mm512_loadu_ps(scores.as_ptr().add(16)));
                }
            }
            most = _mm512_max_ps(most, others);
        }
        old[r] = softmax.largest[r];
        new[r] = old[r].max(_mm512_reduce_max_ps(most));
        softmax.largest[r] = new[r];
    }
    let scale = _mm512_set1_ps(softmax.scale);
    let mut base = [0.0_f32; 16];
    // SAFETY: sixteen of each.
    unsafe {
        let (old, new) = (_mm512_loadu_ps(old.as_ptr()), _mm512_loadu_ps(new.as_ptr()));
        // All scores may be minus infinity: then there is nothing to subtract.
        let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(new, infinity);
        let scaled = _mm512_maskz_mul_ps(some, new, scale);
        _mm512_storeu_ps(base.as_mut_ptr(), scaled);
        let shrink = exp2(_mm512_sub_ps(_mm512_mul_ps(old, scale), scaled));
        _mm512_storeu_ps(softmax.shrink.as_mut_ptr(), shrink);
    }
    let ones = pairs(_mm512_set1_epi32(0x3f80_3f80));
    let strips = softmax.scores.chunks_exact(KEYS).zip(softmax.totals.iter_mut());
    for (r, (scores, total)) in strips.take(rows).enumerate() {
        let base = _mm512_set1_ps(base[r]);
        // SAFETY: sixteen of each; the row of `p` by the contract.
        unsafe {
            let start = _mm512_loadu_ps(total.as_ptr());
            let mut sum = _mm512_mul_ps(start, _mm512_set1_ps(softmax.shrink[r]));
            for (i, scores) in scores[..softmax.count].chunks_exact(32).enumerate() {
                let low = _mm512_fmsub_ps(_mm512_loadu_ps(scores.as_ptr()), scale, base);
                let high = _mm512_fmsub_ps(_mm512_loadu_ps(scores.as_ptr().add(16)), scale, base);
                let weights = _mm512_cvtne2ps_pbh(exp2(high), exp2(low));
                sum = _mm512_dpbf16_ps(sum, weights, ones);
                let words = std::mem::transmute::<__m512bh, __m512i>(weights);
                _mm512_storeu_si512(p.add(r * STRIDE + i * 16).cast(), words);
            }
            _mm512_storeu_ps(total.as_mut_ptr(), sum);
        }
    }
}

/// One head of a row, its two halves of `half` elements rotated by the cosines and sines of `angles`.
///
/// # Safety
///
/// `from` holds and `to` has room for two halves, each of `angles` holds a half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn rotate(
    from: *const u16,
    half: usize,
    angles: Option<(*const f32, *const f32)>,
    to: *mut u16,
) {
    for i in (0..half).step_by(16) {
        let mask = first(half - i);
        // SAFETY: only elements of the mask are touched, which are inside the halves.
        unsafe {
            let load = |from: *const u16| _mm256_maskz_loadu_epi16(mask, from.cast());
            let (mut a, mut b) = (load(from.add(i)), load(from.add(half + i)));
            if let Some((cos, sin)) = angles {
                let wide = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)));
                let (c, s) =
                    (_mm512_maskz_loadu_ps(mask, cos.add(i)), _mm512_maskz_loadu_ps(mask, sin.add(i)));
                let (x, y) = (wide(a), wide(b));
                a = to_bf16_at_once(_mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
                b = to_bf16_at_once(_mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)));
            }
            store_halves(to.add(i), mask, a);
            store_halves(to.add(half + i), mask, b);
        }
    }
}

/// The sum of sixteen, in the order of [`crate::math::sum`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn sum(of: &[f32; 16]) -> f32 {
    // SAFETY: sixteen of them.
    lanes::sum(unsafe { _mm512_loadu_ps(of.as_ptr()) })
}

/// One head of a result: `columns` sums times `by`, rounded.
///
/// # Safety
///
/// There are as many sums, up to a multiple of 16, and room for as many results.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn finish(sums: *const f32, columns: usize, by: f32, to: *mut u16) {
    for i in (0..columns).step_by(16) {
        // SAFETY: sixteen sums, and as many results as there are.
        unsafe {
            let v = _mm512_mul_ps(_mm512_loadu_ps(sums.add(i)), _mm512_set1_ps(by));
            store_halves(to.add(i), first(columns - i), to_bf16_at_once(v));
        }
    }
}

/// Words `[16][16]` with rows `stride` words apart become their first `columns` columns, each of 16 words.
///
/// # Safety
///
/// `from` holds the rows, `to` has room for the columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(from: *const u32, stride: usize, to: *mut u32, columns: usize) {
    // SAFETY: inside the rows and the columns.
    unsafe {
        let mut v = [_mm512_setzero_si512(); 16];
        for (r, v) in v.iter_mut().enumerate() {
            *v = _mm512_loadu_si512(from.add(r * stride).cast());
        }
        // Rows 4i to 4i + 3 become, in each quarter of a register, columns of four words.
        let mut t = v;
        for i in (0..16).step_by(4) {
            let (ab, cd) = (_mm512_unpacklo_epi32(v[i], v[i + 1]), _mm512_unpacklo_epi32(v[i + 2], v[i + 3]));
            let (ef, gh) = (_mm512_unpackhi_epi32(v[i], v[i + 1]), _mm512_unpackhi_epi32(v[i + 2], v[i + 3]));
            t[i] = _mm512_unpacklo_epi64(ab, cd);
            t[i + 1] = _mm512_unpackhi_epi64(ab, cd);
            t[i + 2] = _mm512_unpacklo_epi64(ef, gh);
            t[i + 3] = _mm512_unpackhi_epi64(ef, gh);
        }
        // Register i + 4j holds of column 4q + i the words 4j to 4j + 3 in quarter q.
        for i in 0..4 {
            let (a, b, c, d) = (t[i], t[i + 4], t[i + 8], t[i + 12]);
            let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
            let (ef, gh) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
            v[i] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
            v[i + 4] = _mm512_shuffle_i32x4::<0x88>(ef, gh);
            v[i + 8] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
            v[i + 12] = _mm512_shuffle_i32x4::<0xdd>(ef, gh);
        }
        for (column, v) in v.iter().enumerate().take(columns) {
            _mm512_storeu_si512(to.add(column * 16).cast(), *v);
        }
    }
}

/// Sixteen words of elements of two rows, `columns` of them: `low[i] | high[i] << 16`; null is a row of zeros.
///
/// # Safety
///
/// The rows hold `columns` elements, `to` has room for sixteen words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn interleave(low: *const u16, high: *const u16, columns: usize, to: *mut u32) {
    let mask = first(columns);
    let row = |from: *const u16| {
        let mask = if from.is_null() { 0 } else { mask };
        // SAFETY: nothing is read where the mask is 0.
        _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
    };
    let words = _mm512_or_si512(row(low), _mm512_slli_epi32::<16>(row(high)));
    // SAFETY: by the contract.
    unsafe { _mm512_storeu_si512(to.cast(), words) };
}

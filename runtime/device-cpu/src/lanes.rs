//! Sixteen numbers in a register of AVX-512.

use crate::math::EXP2;
use std::arch::x86_64::*;

/// Numbers of a register.
pub(crate) const LANES: usize = 16;

/// The first `n` lanes, or all of them.
pub(crate) fn first(n: usize) -> u16 {
    ((1_u32 << n.min(LANES)) - 1) as u16
}

/// The elements of `mask` from `start` on, bf16 or f32; 0 in the other lanes.
///
/// # Safety
///
/// There are such elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn load<const BF16: bool>(start: *const u8, mask: u16) -> __m512 {
    // SAFETY: passed on from the caller.
    unsafe {
        if BF16 {
            let bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, start.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        } else {
            _mm512_maskz_loadu_ps(mask, start.cast())
        }
    }
}

/// The first `n` of 32 lanes of 16 bits, or all of them.
pub(crate) fn first_two(n: usize) -> u32 {
    ((1_u64 << n.min(2 * LANES)) - 1) as u32
}

/// The high half of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn high() -> __m512i {
    _mm512_set1_epi32(0xffff_0000_u32 as i32)
}

/// The elements of `mask` from `start` on, of 32: of bf16 the even ones and the odd ones, of f32 the first sixteen and the
/// others; 0 in the other lanes.
///
/// # Safety
///
/// There are such elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn load_two<const BF16: bool>(start: *const u8, mask: u32) -> [__m512; 2] {
    // SAFETY: passed on from the caller.
    unsafe {
        if BF16 {
            let words = _mm512_maskz_loadu_epi16(mask, start.cast());
            let (even, odd) = (_mm512_slli_epi32::<16>(words), _mm512_and_si512(words, high()));
            [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
        } else {
            let start = start.cast::<f32>();
            let first = _mm512_maskz_loadu_ps(mask as u16, start);
            [first, _mm512_maskz_loadu_ps((mask >> LANES) as u16, start.wrapping_add(LANES))]
        }
    }
}

/// Of 32 elements, the first sixteen and the others, the even ones and the odd ones.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn even_odd([first, others]: [__m512; 2]) -> [__m512; 2] {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    [_mm512_permutex2var_ps(first, even, others), _mm512_permutex2var_ps(first, odd, others)]
}

/// As [`crate::math::sum`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(crate) fn sum(of: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(of), _mm512_extractf32x8_ps::<1>(of));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// Rounds as [`crate::memory::to_bf16`] does, to the high half of each lane; anything may be in the low one.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn to_bf16_high(v: __m512) -> __m512i {
    let bits = _mm512_castps_si512(v);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    _mm512_mask_or_epi32(_mm512_add_epi32(bits, half), nan, bits, _mm512_set1_epi32(0x40_0000))
}

/// Rounds as [`crate::memory::to_bf16`] does.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn to_bf16(v: __m512) -> __m256i {
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(to_bf16_high(v)))
}

/// The same in one instruction, but that numbers too small for bf16's exponent become 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn to_bf16_at_once(v: __m512) -> __m256i {
    // SAFETY: both are 32 bytes, and every pattern of bits is a value.
    unsafe { std::mem::transmute(_mm512_cvtneps_pbh(v)) }
}

/// Writes the halves of `mask`. Narrowing into memory under a mask is many times slower than the two apart, and a whole register is
/// stored faster.
///
/// # Safety
///
/// There is room for them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn store_halves(to: *mut u16, mask: u16, halves: __m256i) {
    // SAFETY: passed on from the caller.
    unsafe {
        match mask {
            u16::MAX => _mm256_storeu_si256(to.cast(), halves),
            _ => _mm256_mask_storeu_epi16(to.cast(), mask, halves),
        }
    }
}

/// `2^x`, relative error below 9e-5, far less than rounding to bf16 adds; 0 far below, NaN for NaN.
///
/// `2^x = 2^floor(x) * 2^r` with a polynomial in `r`, which is 1 at 0.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn exp2(x: __m512) -> __m512 {
    // x - floor(x), 0 for an infinity; no exception raised.
    let r = _mm512_reduce_ps::<0b1001>(x);
    let [a, b, c] = EXP2.map(|v| _mm512_set1_ps(v));
    let p = _mm512_fmadd_ps(c, r, b);
    let p = _mm512_fmadd_ps(p, r, a);
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0));
    _mm512_scalef_ps(p, x)
}

/// What [`exp2_of_tile`] reads: `2^(i/16)` times `1.000117 + 0.6931195 r`, which is `2^r` up to 1.2e-4 where `|r| <= 1/32`.
#[repr(C, align(64))]
struct Roots {
    value: [f32; LANES],
    slope: [f32; LANES],
    /// Added to a number, leaves its sixteenths in the lowest bits.
    shift: f32,
}

static ROOTS: Roots = {
    let mut value = [
        1.0,
        1.044_273_8,
        1.090_507_7,
        1.138_788_6,
        1.189_207_1,
        1.241_857_8,
        1.296_839_6,
        1.354_255_6,
        std::f32::consts::SQRT_2,
        1.476_826_2,
        1.542_210_8,
        1.610_490_3,
        1.681_792_9,
        1.756_252_2,
        1.834_008_1,
        1.915_206_6_f32,
    ];
    let mut slope = value;
    let mut i = 0;
    while i < LANES {
        slope[i] *= 0.693_119_5;
        value[i] *= 1.000_117;
        i += 1;
    }
    Roots { value, slope, shift: 1.5 * (1 << 19) as f32 }
};

/// `2^x`, relative error below 1.2e-4; 0 far below, NaN for NaN.
///
/// With a single operation on the units that multiply, which on Zen 4 are others than those that add and permute: products of
/// a tile keep them busy. And its constants stay in memory, as a tile takes all registers.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn exp2_of_tile(x: __m512) -> __m512 {
    let roots = std::hint::black_box(&ROOTS);
    let shift = _mm512_set1_ps(roots.shift);
    let shifted = _mm512_add_ps(x, shift);
    let sixteenths = _mm512_castps_si512(shifted);
    // SAFETY: sixteen of each, at multiples of 64 bytes.
    let (value, slope) =
        unsafe { (_mm512_load_ps(roots.value.as_ptr()), _mm512_load_ps(roots.slope.as_ptr())) };
    let value = _mm512_permutexvar_ps(sixteenths, value);
    let slope = _mm512_permutexvar_ps(sixteenths, slope);
    // From the nearest sixteenth, 0 for an infinity; no exception raised.
    let r = _mm512_reduce_ps::<0b100_1000>(x);
    _mm512_scalef_ps(_mm512_fmadd_ps(slope, r, value), _mm512_sub_ps(shifted, shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn powers_are_accurate() {
        if !Isa::Avx512.is_available() {
            return;
        }
        let of = |x: f32| {
            let mut to = [0.0_f32; LANES];
            // SAFETY: the host has the instructions.
            unsafe { fill(x, &mut to) };
            to[3]
        };
        #[target_feature(enable = "avx512f,avx512dq")]
        unsafe fn fill(x: f32, to: &mut [f32; LANES]) {
            // SAFETY: sixteen of them.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), exp2_of_tile(_mm512_set1_ps(x))) };
        }
        let mut x = -125.0_f32;
        while x < 127.0 {
            let (got, want) = (f64::from(of(x)), f64::from(x).exp2());
            assert!((got / want - 1.0).abs() < 1.2e-4, "{x}: {got} {want}");
            x += 0.001_37;
        }
        assert!(of(f32::NAN).is_nan());
        assert_eq!([-1e9, f32::NEG_INFINITY].map(of), [0.0; 2]);
        assert_eq!([1e9, f32::INFINITY].map(of), [f32::INFINITY; 2]);
    }
}

//! The most that one core can multiply: products of registers alone.

use dreamc_num::DType;

/// Floating-point operations of one call of [`run`].
pub(crate) fn flop(dtype: DType) -> u64 {
    let lanes = if dtype == DType::BF16 { 32 } else { 16 };
    2 * lanes * (ROUNDS * ACCUMULATORS) as u64
}

const ROUNDS: usize = 100_000;
/// As many sums as hide the latency of a product.
const ACCUMULATORS: usize = 24;

/// Multiplies and adds in registers; `false` if this host has no AVX-512 for `dtype`.
pub(crate) fn run(dtype: DType) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        if dtype == DType::F32 && is_x86_feature_detected!("avx512f") {
            // SAFETY: the host has the instructions.
            unsafe { f32_products() };
            return true;
        }
        if dtype == DType::BF16 && is_x86_feature_detected!("avx512bf16") {
            // SAFETY: as above.
            unsafe { bf16_products() };
            return true;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (ROUNDS, dtype);
    false
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn f32_products() {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_setzero_ps(); ACCUMULATORS];
    let factor = std::hint::black_box(_mm512_set1_ps(0.5));
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(factor, factor, *sum);
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_products() {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_setzero_ps(); ACCUMULATORS];
    let factor = std::hint::black_box(_mm512_castps_si512(_mm512_set1_ps(0.5)));
    // SAFETY: both are 64 bytes, and every pattern of bits is a value.
    let factor = unsafe { std::mem::transmute::<__m512i, __m512bh>(factor) };
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, factor, factor);
        }
    }
    std::hint::black_box(sums);
}

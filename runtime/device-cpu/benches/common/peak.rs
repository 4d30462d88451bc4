//! What a core can do at most: the instructions of the tile kernels in registers, without any memory.
#![allow(unsafe_code, reason = "instructions of the host")]

use dreamc_device_cpu::Isa;
use std::hint::black_box;
use std::time::Duration;

/// The time for which this thread has run: other programs on the machine do not count. Elsewhere than on Linux it is the time
/// on the clock.
pub(crate) fn thread_time() -> Duration {
    #[cfg(target_os = "linux")]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the clock is always there; the time is ours.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
    #[cfg(not(target_os = "linux"))]
    {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }
}

/// What is multiplied and summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    F32,
    Bf16,
    Int8,
}

/// Operations a second of one thread, a product and a sum being two; `None` where there is no loop for this host.
pub(crate) fn peak(product: Product) -> Option<f64> {
    let (run, operations): (unsafe fn(u32), u64) = match (product, Isa::detect()) {
        #[cfg(target_arch = "x86_64")]
        (Product::F32, Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512) => (x86::f32, 16 * 2),
        #[cfg(target_arch = "x86_64")]
        (Product::Bf16, Isa::Avx512Bf16) => (x86::bf16, 32 * 2),
        #[cfg(target_arch = "x86_64")]
        (Product::Int8, Isa::Avx512Bf16 | Isa::Avx512Vnni) => (x86::int8, 64 * 2),
        #[cfg(target_arch = "aarch64")]
        (Product::F32, Isa::NeonMatrix | Isa::NeonDot | Isa::Neon) => (arm::f32, 4 * 2),
        #[cfg(target_arch = "aarch64")]
        (Product::Bf16, Isa::NeonMatrix) => (arm::bf16, 16 * 2),
        #[cfg(target_arch = "aarch64")]
        (Product::Int8, Isa::NeonMatrix) => (arm::int8, 32 * 2),
        _ => return None,
    };
    const TIMES: u32 = 400_000;
    let start = thread_time();
    // SAFETY: the host has the instructions.
    unsafe { run(black_box(TIMES)) };
    Some(f64::from(TIMES) * 24.0 * operations as f64 / (thread_time() - start).as_secs_f64())
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn f32(times: u32) {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let mut acc = [_mm512_setzero_ps(); 24];
        for _ in 0..times {
            acc.iter_mut().for_each(|v| *v = _mm512_fmadd_ps(a, b, *v));
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn bf16(times: u32) {
        let word = _mm512_set1_epi32(black_box(0x3f00_3e80));
        // SAFETY: the same bits.
        let word = unsafe { std::mem::transmute::<__m512i, __m512bh>(word) };
        let mut acc = [_mm512_setzero_ps(); 24];
        for _ in 0..times {
            acc.iter_mut().for_each(|v| *v = _mm512_dpbf16_ps(*v, word, word));
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn int8(times: u32) {
        let (a, b) = (_mm512_set1_epi32(black_box(0x0102_0304)), _mm512_set1_epi32(black_box(0x0403_0201)));
        let mut acc = [_mm512_setzero_si512(); 24];
        for _ in 0..times {
            acc.iter_mut().for_each(|v| *v = _mm512_dpbusd_epi32(*v, a, b));
        }
        black_box(acc);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::hint::black_box;

    #[target_feature(enable = "neon")]
    pub(super) unsafe fn f32(times: u32) {
        let (a, b) = (vdupq_n_f32(black_box(0.5)), vdupq_n_f32(black_box(0.25)));
        let mut acc = [vdupq_n_f32(0.0); 24];
        for _ in 0..times {
            acc.iter_mut().for_each(|v| *v = vfmaq_f32(*v, a, b));
        }
        black_box(acc);
    }

    macro_rules! products {
        ($name:ident, $features:literal, $product:literal, $word:literal) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(times: u32) {
                let word = vdupq_n_u32(black_box($word));
                let mut acc = [vdupq_n_u32(0); 24];
                for _ in 0..times {
                    for v in &mut acc {
                        // SAFETY: the host has the instruction, which is no stable intrinsic.
                        unsafe {
                            asm!(
                                $product,
                                v = inout(vreg) *v,
                                word = in(vreg) word,
                                options(pure, nomem, nostack, preserves_flags),
                            );
                        }
                    }
                }
                black_box(acc);
            }
        };
    }
    products!(bf16, "neon,bf16", "bfmmla {v:v}.4s, {word:v}.8h, {word:v}.8h", 0x3f00_3e80);
    products!(int8, "neon,i8mm", "smmla {v:v}.4s, {word:v}.16b, {word:v}.16b", 0x0102_0304);
}

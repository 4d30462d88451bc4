//! Tile kernels of codes of 8 bits with sums in i32, the same bits on every instruction set.
//!
//! A word of a panel holds four columns of one feature, a word of the packed rows the same columns of one row. No product of
//! two codes is lost: rows have codes of -127 to 127, and `k` is at most [`dreamc_artifact::INT8_COLUMNS_MAX`], so that even
//! the sums of shifted rows, at most `255 * 127 * k`, fit an i32.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_matrix;
mod plain;

use super::micro::Micro;
use crate::isa::Isa;

/// The kernel of an instruction set.
pub(super) fn micro(isa: Isa) -> Micro {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512Vnni => avx512::micro(isa),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx2::vnni_micro(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx2 => avx2::micro(),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonMatrix => neon_matrix::micro(),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => neon::dot_micro(),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::micro(),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 | Isa::AvxVnni | Isa::Avx2 => plain::micro(),
        #[cfg(not(target_arch = "aarch64"))]
        Isa::NeonMatrix | Isa::NeonDot | Isa::Neon => plain::micro(),
        Isa::Plain => plain::micro(),
    }
}

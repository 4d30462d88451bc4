//! How packed weights lie in the artifact. Written by the compiler's packer, streamed by the CPU
//! device's matmuls: both sides use the arithmetic of this file.
//!
//! A matrix `[n, k]` (row `i` holds the weights of output feature `i`, as checkpoints store it) is cut
//! into panels of [`PANEL`] output features; the last panel is filled up with zero rows.
//!
//! ```text
//! Panels      [n / 16][k][16]            f32: one k step is 16 neighbouring floats
//! PanelPairs  [n / 16][k / 2][16][2]     bf16: two k steps of a feature share a 32-bit word, as
//!                                        AVX-512 `vdpbf16ps` and NEON `bfdot` take them; k is filled
//!                                        up to even with zeros
//! ```
//!
//! Matrices in few bits hold their scales: a panel is
//!
//! ```text
//! Quantized, 8 bits   [16] f32        scale of each row
//!                     [16] i32        sum of the codes of each row
//!                     [k / 4][16][4]  i8 codes: four k steps of a feature share a 32-bit word, as AVX-512 `vpdpbusd` and
//!                                     NEON `sdot` take them; k is filled up to a multiple of 4 with zeros
//! Quantized, 4 bits   [16] f32, [16] i32  scale and sum of the 8-bit codes that each row has where codes are multiplied
//!                     per group of columns:
//!                     [16] bf16       scale
//!                     [16] bf16       value of code 0, if groups have one
//!                     [group / 8][16][4]  codes: the lower half of byte `j` is column `j` of the eight, the upper half
//!                                     column `j + 4`
//! ```
//!
//! Matrices in fp8 are no panels: GPUs multiply them, row by row.
//!
//! ```text
//! Quantized, fp8      [n][k] u8       codes; rows are filled up to multiples of 16 with zeros, and all of them to a multiple of
//!                                     256, where a buffer may begin
//!                     [n] f32         scale of each row
//! ```
//!
//! `k` is filled up to whole groups with codes that nobody may rely on; sums are over the columns that exist. How codes come
//! about is in [`dreamc_num::quant`].
//!
//! The same bytes serve AVX-512, AVX2, NEON and the plain path, so an artifact is the same on every host.

use crate::plan::ARENA_ALIGN;
use dreamc_num::{DType, Quant};
use serde::{Deserialize, Serialize};

/// Output features in a panel: one AVX-512 register of f32, two of AVX2, four of NEON.
pub const PANEL: usize = 16;

/// How the elements of a stored tensor are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// As in the checkpoint: last axis fastest.
    RowMajor,
    /// Panels of 16 rows, see the module documentation. Matrices of f32.
    Panels,
    /// Panels of 16 rows with pairs along k, see the module documentation. Matrices of bf16.
    PanelPairs,
    /// In few bits, with scales: panels of 16 rows, or of fp8 rows; see the module documentation.
    Quantized(Quant),
}

/// Bytes before the codes of a panel in few bits: scales and sums.
pub const QUANTIZED_HEAD: usize = PANEL * 8;

/// Bytes from row to row of codes of fp8, for `k` columns: whole loads of 16.
pub const fn fp8_pitch(k: u64) -> Option<u64> {
    k.checked_next_multiple_of(16)
}

/// Where the scales of a matrix `[n, k]` in fp8 begin.
pub fn fp8_scales_at(n: u64, k: u64) -> Option<u64> {
    n.checked_mul(fp8_pitch(k)?)?.checked_next_multiple_of(ARENA_ALIGN)
}

/// Bytes of one panel of a matrix of `k` columns in few bits; `None` on overflow, for groups that are no multiple of 8, and for
/// fp8, which has no panels.
pub fn quantized_panel_bytes(quant: Quant, k: u64) -> Option<u64> {
    let codes = match quant {
        Quant::Int8 => k.div_ceil(4).checked_mul(4 * PANEL as u64)?,
        Quant::Fp8 => return None,
        Quant::Int4 { group, zero } => {
            let group = u64::from(group);
            if group == 0 || !group.is_multiple_of(8) {
                return None;
            }
            let scales = 2 * PANEL as u64 * if zero { 2 } else { 1 };
            k.div_ceil(group).checked_mul(group * PANEL as u64 / 2 + scales)?
        }
    };
    codes.checked_add(QUANTIZED_HEAD as u64)
}

impl Layout {
    /// The layout in which a matmul streams weights of `dtype`, if it can at all.
    pub const fn of_matmul(dtype: DType) -> Option<Layout> {
        match dtype {
            DType::F32 => Some(Layout::Panels),
            DType::BF16 => Some(Layout::PanelPairs),
            DType::F16 | DType::I32 | DType::U32 | DType::Bool => None,
        }
    }

    /// Stored bytes of a tensor of these dimensions, or `None` where that overflows or the layout does
    /// not fit the tensor.
    pub fn stored_bytes(self, dtype: DType, dims: &[u64]) -> Option<u64> {
        let elements = match (self, dims) {
            (Layout::RowMajor, _) => dims.iter().try_fold(1_u64, |n, d| n.checked_mul(*d))?,
            (Layout::Panels, [n, k]) => panel_rows(*n)?.checked_mul(*k)?,
            (Layout::PanelPairs, [n, k]) => panel_rows(*n)?.checked_mul(k.checked_next_multiple_of(2)?)?,
            (Layout::Quantized(Quant::Fp8), [n, k]) => {
                return fp8_scales_at(*n, *k)?.checked_add(n.checked_mul(4)?);
            }
            (Layout::Quantized(quant), [n, k]) => {
                return (panel_rows(*n)? / PANEL as u64).checked_mul(quantized_panel_bytes(quant, *k)?);
            }
            (Layout::Panels | Layout::PanelPairs | Layout::Quantized(_), _) => return None,
        };
        elements.checked_mul(dtype.bytes() as u64)
    }

    /// Where element `[row, column]` of an `[n, k]` matrix lies: in elements from the start, or for 8-bit codes in bytes, for
    /// those of 4 bits in halves of bytes.
    pub const fn index(self, k: usize, row: usize, column: usize) -> usize {
        let (panel, lane) = (row / PANEL, row % PANEL);
        match self {
            Layout::RowMajor => row * k + column,
            Layout::Panels => (panel * k + column) * PANEL + lane,
            Layout::PanelPairs => {
                (panel * k.next_multiple_of(2) + column / 2 * 2) * PANEL + lane * 2 + column % 2
            }
            Layout::Quantized(Quant::Int8) => {
                let codes = k.next_multiple_of(4) * PANEL + QUANTIZED_HEAD;
                panel * codes + QUANTIZED_HEAD + (column / 4 * PANEL + lane) * 4 + column % 4
            }
            Layout::Quantized(Quant::Fp8) => row * k.next_multiple_of(16) + column,
            Layout::Quantized(Quant::Int4 { group, zero }) => {
                let scales = if zero { 4 * PANEL } else { 2 * PANEL };
                let (group, of_group) = (group as usize, group as usize * PANEL / 2 + scales);
                let panel_bytes = QUANTIZED_HEAD + k.div_ceil(group) * of_group;
                let eight = column % group / 8;
                let byte = panel * panel_bytes
                    + QUANTIZED_HEAD
                    + column / group * of_group
                    + scales
                    + (eight * PANEL + lane) * 4
                    + column % 4;
                byte * 2 + column % 8 / 4
            }
        }
    }
}

/// Rows including those that fill up the last panel.
fn panel_rows(n: u64) -> Option<u64> {
    n.checked_next_multiple_of(PANEL as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate alloc;
    use alloc::vec;

    /// Every element has a place of its own inside the stored bytes.
    #[test]
    fn places_are_distinct() {
        for layout in [Layout::RowMajor, Layout::Panels, Layout::PanelPairs] {
            for (n, k) in [(1, 1), (16, 2), (17, 3), (33, 8)] {
                let len = layout.stored_bytes(DType::F32, &[n as u64, k as u64]).unwrap() as usize / 4;
                let mut taken = vec![false; len];
                for row in 0..n {
                    for column in 0..k {
                        assert!(!core::mem::replace(&mut taken[layout.index(k, row, column)], true));
                    }
                }
            }
        }
    }

    #[test]
    fn overflow_is_none() {
        assert_eq!(Layout::Panels.stored_bytes(DType::F32, &[u64::MAX, 2]), None);
        assert_eq!(Layout::RowMajor.stored_bytes(DType::F32, &[1 << 40, 1 << 40]), None);
        assert_eq!(Layout::Panels.stored_bytes(DType::F32, &[4]), None);
        for dims in [[u64::MAX, 2], [2, u64::MAX], [1 << 62, 1], [4, u64::MAX / 4]] {
            assert_eq!(Layout::Quantized(Quant::Fp8).stored_bytes(DType::F32, &dims), None);
        }
    }
}

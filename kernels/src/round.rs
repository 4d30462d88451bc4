//! Rows rounded to codes of fp8, for matmuls of such codes (`fp8.rs`).
//!
//! Buffers `x` `[rows, columns]`, `codes` `[rows, pitch]` of OCP's e4m3, four in a word, the first in the lowest byte, `scales`
//! f32 `[rows]`; scalars `rows`, `columns`. Rows of codes are filled up with zeros to a multiple of 16 bytes. A scale is the
//! largest magnitude of the row over 448, a code the nearest to an element over the scale, the even one on a tie, 0 for what
//! is not a number; the scale of a row with NaN or infinity is that: to the bit what `dreamc_num::quant` says, in integers, since conversions of the hardware differ. A
//! workgroup per row. Made for `[rows, 3584]` and `[rows, 18944]` of the decoder.

use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::math::{UNITS, max_all};
use crate::record::Recorder;
use crate::target::Target;
use crate::tile::MatrixTile;
use cubecl::prelude::*;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundRows {
    /// Type of the rows.
    pub x: Dtype,
}

impl RoundRows {
    pub(crate) fn name(&self) -> String {
        format!("{}_round_rows_to_e4m3_rowwise", self.x.name())
    }

    /// What `target` lacks: codes are for matrix units.
    pub(crate) fn lacks(target: &Target) -> Option<String> {
        let capabilities = target.capabilities();
        let has = capabilities.multiplies_fp8() && MatrixTile::runs(target);
        (!has).then(|| "matrices of fp8".to_owned())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let grid = [Extent::Ceil { of: "rows", per: 1, any: true }, Extent::Constant(1), Extent::Constant(1)];
        floats!((self.x => X) => round_rows::launch_unchecked::<X>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(UNITS),
            r.buffer("x", self.x.element()),
            r.buffer("codes", Element::U32),
            r.buffer("scales", Element::F32),
            r.int("rows"),
            r.int("columns"),
        ));
    }
}

#[cube(launch_unchecked)]
fn round_rows<X: Float>(x: &[X], codes: &mut [u32], scales: &mut [f32], rows: u32, columns: u32) {
    let mut scratch = Shared::<[u32]>::new_slice(UNITS as usize);
    let words = (columns + 15u32) / 16u32 * 4u32;
    let mut row = CUBE_POS_X;
    while row < rows {
        let start = row * columns;
        let mut most = 0u32;
        let mut i = UNIT_POS_X;
        while i < columns {
            // Bits without a sign are in order, NaN behind infinity.
            most = max(most, u32::reinterpret(f32::cast_from(x[(start + i) as usize])) & 0x7fff_ffffu32);
            i += UNITS;
        }
        let scale = f32::reinterpret(max_all(most, &mut scratch, UNITS)) / 448.0f32;
        let inverse = select(scale > 0.0f32, 1.0f32 / scale, 0.0f32);
        let mut i = UNIT_POS_X;
        while i < words {
            let mut word = 0u32;
            #[unroll]
            for j in 0..4u32 {
                let column = i * 4u32 + j;
                if column < columns {
                    let scaled = f32::cast_from(x[(start + column) as usize]) * inverse;
                    word |= code(u32::reinterpret(scaled)) << comptime!(8 * j);
                }
            }
            codes[(row * words + i) as usize] = word;
            i += UNITS;
        }
        if UNIT_POS_X == 0u32 {
            scales[row as usize] = scale;
        }
        row += CUBE_COUNT_X;
    }
}

/// The code of the f32 of these bits; 0 for what is not a number.
#[cube]
fn code(bits: u32) -> u32 {
    let magnitude = bits & 0x7fff_ffffu32;
    let normal = (magnitude + 0x7_ffffu32 + ((magnitude >> 20u32) & 1u32)) - 0x3c00_0000u32;
    // Below 2^-6 stand multiples of 2^-9; below half of one, none is nearer than 0.
    let shift = min(141u32 - min(magnitude >> 23u32, 120u32), 25u32);
    let mantissa = (magnitude & 0x007f_ffffu32) | 0x0080_0000u32;
    let half = (1u32 << (shift - 1u32)) - 1u32;
    let small = (mantissa + half + ((mantissa >> shift) & 1u32)) >> shift;
    let nearest = select(magnitude < 0x3c80_0000u32, small, min(normal >> 20u32, 0x7eu32));
    select(magnitude > 0x7f80_0000u32, 0u32, nearest | ((bits >> 24u32) & 0x80u32))
}

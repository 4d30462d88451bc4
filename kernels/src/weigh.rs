//! Rows left for an RMS norm behind them, as a matmul on matrix units leaves its result (`Linear::weighted`): for devices
//! whose matmul is by units.
//!
//! Buffers `y` `[rows, columns]`, `gain` f32 `[columns]`, `weighted` bf16 `[rows, columns]`, which is `y * gain`, `squares`
//! f32 `[rows, Linear::squares(columns)]`, sums of the squares of [`Linear::SQUARES`] neighbours, in order; scalars `rows`,
//! `columns`. A workgroup per row. Made for `[rows, 3584]` of the decoder.

use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::linear::Linear;
use crate::math::UNITS;
use crate::record::Recorder;
use cubecl::prelude::*;
use half::bf16;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weigh {
    /// Type of the rows.
    pub y: Dtype,
}

impl Weigh {
    pub(crate) fn name(&self) -> String {
        format!("{}_weigh_to_bf16_rowwise", self.y.name())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let grid = [Extent::Ceil { of: "rows", per: 1, any: true }, Extent::Constant(1), Extent::Constant(1)];
        floats!((self.y => Y) => weigh::launch_unchecked::<Y>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(UNITS),
            r.buffer("y", self.y.element()),
            r.buffer("gain", Element::F32),
            r.buffer("weighted", Element::BF16),
            r.buffer("squares", Element::F32),
            r.int("rows"),
            r.int("columns"),
        ));
    }
}

#[cube(launch_unchecked)]
fn weigh<Y: Float>(
    y: &[Y],
    gain: &[f32],
    weighted: &mut [bf16],
    squares: &mut [f32],
    rows: u32,
    columns: u32,
) {
    let sums = (columns + comptime!(Linear::SQUARES - 1)) / comptime!(Linear::SQUARES);
    let pitch = (sums + 3u32) / 4u32 * 4u32;
    let mut row = CUBE_POS_X;
    while row < rows {
        let mut sum = UNIT_POS_X;
        while sum < sums {
            let mut total = 0.0f32;
            for i in 0..comptime!(Linear::SQUARES).runtime() {
                let column = sum * comptime!(Linear::SQUARES) + i;
                if column < columns {
                    let own = f32::cast_from(y[(row * columns + column) as usize]);
                    weighted[(row * columns + column) as usize] =
                        bf16::cast_from(own * gain[column as usize]);
                    total += own * own;
                }
            }
            squares[(row * pitch + sum) as usize] = total;
            sum += UNITS;
        }
        row += CUBE_COUNT_X;
    }
}

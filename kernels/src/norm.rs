//! Norms over the last axis.
//!
//! Buffers `x` `[rows, columns]`, `gain` f32 `[columns]`, for a layer norm `bias` f32 `[columns]`, `y`; scalars `rows`,
//! `columns`, `eps`. A workgroup per row; sums in f32, per unit and then in a tree. `y` may not be `x`. Made for
//! `[rows, 3584]` of the decoder, `[patches, 1280]` of the tower, `[1, 1, 4096]` of action heads.

use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::math::{UNITS, sum_all};
use crate::record::Recorder;
use cubecl::prelude::*;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Norm {
    /// What rows are divided by.
    pub statistic: Statistic,
    /// Type of the rows.
    pub x: Dtype,
    /// Type of the result.
    pub y: Dtype,
}

/// What rows are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statistic {
    /// `x / sqrt(mean(x^2) + eps) * gain`.
    RootMeanSquare,
    /// `(x - mean) / sqrt(variance + eps) * gain + bias`; the variance is that of the differences, in a second pass.
    Variance,
}

impl Norm {
    pub(crate) fn name(&self) -> String {
        let op = match self.statistic {
            Statistic::RootMeanSquare => "rms_norm",
            Statistic::Variance => "layer_norm",
        };
        format!("{}_{op}_to_{}_rowwise", self.x.name(), self.y.name())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let grid = [Extent::Ceil { of: "rows", per: 1, any: true }, Extent::Constant(1), Extent::Constant(1)];
        let centred = self.statistic == Statistic::Variance;
        floats!((self.x => X, self.y => Y) => norm::launch_unchecked::<X, Y>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(UNITS),
            r.buffer("x", self.x.element()),
            r.buffer("gain", Element::F32),
            centred.then(|| r.buffer("bias", Element::F32)).into(),
            r.buffer("y", self.y.element()),
            r.int("rows"),
            r.int("columns"),
            r.float("eps"),
        ));
    }
}

#[cube(launch_unchecked)]
fn norm<X: Float, Y: Float>(
    x: &[X],
    gain: &[f32],
    bias: ComptimeOption<Box<[f32]>>,
    y: &mut [Y],
    rows: u32,
    columns: u32,
    eps: f32,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut row = CUBE_POS_X;
    while row < rows {
        let start = row * columns;
        let mut mean = 0.0f32;
        if comptime!(bias.is_some()) {
            let mut sum = 0.0f32;
            let mut i = UNIT_POS_X;
            while i < columns {
                sum += f32::cast_from(x[(start + i) as usize]);
                i += UNITS;
            }
            mean = sum_all(sum, &mut scratch, UNITS) / columns as f32;
        }
        let mut squares = 0.0f32;
        let mut i = UNIT_POS_X;
        while i < columns {
            let d = f32::cast_from(x[(start + i) as usize]) - mean;
            squares += d * d;
            i += UNITS;
        }
        let variance = sum_all(squares, &mut scratch, UNITS) / columns as f32;
        let scale = 1.0f32 / f32::sqrt(variance + eps);
        let mut i = UNIT_POS_X;
        while i < columns {
            let d = f32::cast_from(x[(start + i) as usize]) - mean;
            let scaled = d * scale * gain[i as usize];
            #[comptime]
            let shifted = match &bias {
                ComptimeOption::Some(bias) => scaled + bias[i as usize],
                ComptimeOption::None => scaled,
            };
            y[(start + i) as usize] = Y::cast_from(shifted);
            i += UNITS;
        }
        row += CUBE_COUNT_X;
    }
}

//! Rotary positions: the table of angles, and the rotation.

use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::math::UNITS;
use crate::record::Recorder;
use cubecl::prelude::*;

/// Cosines and sines of `position * frequency`.
///
/// Buffers `positions` i32 `[planes, rows]`, `frequencies` f32 `[columns]`, `planes` i32 `[columns]` (by whose positions
/// a frequency turns), `cos` and `sin` f32 `[rows, columns]`; scalars `rows`, `columns`. So sections and axes are
/// constants of the caller, computed at build time.
///
/// Angles are f32, as the reference's; their sine is taken by a polynomial of degree 9 after they are reduced by
/// multiples of pi/2 in three parts, to 2e-7 up to angles of 1e5: a driver's own sine may be off by 5e-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RopeTable;

/// Rotates the halves of every head: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`.
///
/// Buffers `x` (left out in place) `[rows, stride]`, `cos` and `sin` f32 `[rows, head_dim / 2]`, `y`; scalars `rows`,
/// `heads` (from column 0 on), `stride`. So the queries and keys of packed rows are turned together. Columns behind the
/// heads are not written. Computed in f32. Made for 28 + 4 heads of 128 and 16 heads of 80.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rope {
    /// Type of `x`.
    pub float: Dtype,
    /// Dimensions of a head, even.
    pub head_dim: u32,
    /// Whether `y` holds what is rotated.
    pub in_place: bool,
}

/// Sines, then cosines of the times of some steps: buffers `index` i32 `[rows]`, `times` f32 `[steps]`, `frequencies` f32
/// `[half]`, `y` f32 `[rows, 2 * half]`; scalars `rows`, `steps`, `half`. Times and frequencies are constants of the caller; a
/// step that has no time counts as time 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimestepEmbed;

impl TimestepEmbed {
    pub(crate) fn name(self) -> String {
        "f32_timestep_embed_flat".into()
    }

    pub(crate) fn launch(self, r: &Recorder) {
        let grid = [
            Extent::Ceil { of: "half", per: 64, any: true },
            Extent::Ceil { of: "rows", per: 1, any: true },
            Extent::Constant(1),
        ];
        floats!(() => timestep_embed::launch_unchecked(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(64),
            r.buffer("index", Element::I32),
            r.buffer("times", Element::F32),
            r.buffer("frequencies", Element::F32),
            r.buffer("y", Element::F32),
            r.int("rows"),
            r.int("steps"),
            r.int("half"),
        ));
    }
}

#[cube(launch_unchecked)]
fn timestep_embed(
    index: &[i32],
    times: &[f32],
    frequencies: &[f32],
    y: &mut [f32],
    rows: u32,
    steps: u32,
    half: u32,
) {
    let mut row = CUBE_POS_Y;
    while row < rows {
        let step = u32::cast_from(index[row as usize]);
        let mut time = 0.0f32;
        if step < steps {
            time = times[step as usize];
        }
        let start = row * 2 * half;
        let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
        while i < half {
            let angle = time * frequencies[i as usize];
            y[(start + i) as usize] = sine(angle, 0.0f32);
            y[(start + half + i) as usize] = sine(angle, 1.0f32);
            i += CUBE_DIM_X * CUBE_COUNT_X;
        }
        row += CUBE_COUNT_Y;
    }
}

impl RopeTable {
    pub(crate) fn name(self) -> String {
        "f32_rope_table_flat".into()
    }

    pub(crate) fn launch(self, r: &Recorder) {
        let grid = [Extent::Ceil { of: "rows", per: 1, any: true }, Extent::Constant(1), Extent::Constant(1)];
        floats!(() => table::launch_unchecked(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(64),
            r.buffer("positions", Element::I32),
            r.buffer("frequencies", Element::F32),
            r.buffer("planes", Element::I32),
            r.buffer("cos", Element::F32),
            r.buffer("sin", Element::F32),
            r.int("rows"),
            r.int("columns"),
        ));
    }
}

impl Rope {
    pub(crate) fn name(&self) -> String {
        let variant = if self.in_place { "inplace" } else { "apart" };
        format!("{}_rope_{variant}_d{}", self.float.name(), self.head_dim)
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let element = self.float.element();
        let grid = [Extent::Ceil { of: "rows", per: 1, any: true }, Extent::Constant(1), Extent::Constant(1)];
        floats!((self.float => F) => rope::launch_unchecked::<F>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(UNITS),
            (!self.in_place).then(|| r.buffer("x", element)).into(),
            r.buffer("cos", Element::F32),
            r.buffer("sin", Element::F32),
            r.buffer("y", element),
            r.int("rows"),
            r.int("heads"),
            r.int("stride"),
            self.head_dim / 2,
        ));
    }
}

#[cube(launch_unchecked)]
fn table(
    positions: &[i32],
    frequencies: &[f32],
    planes: &[i32],
    cos: &mut [f32],
    sin: &mut [f32],
    rows: u32,
    columns: u32,
) {
    let mut row = CUBE_POS_X;
    while row < rows {
        let mut i = UNIT_POS_X;
        while i < columns {
            let plane = planes[i as usize] as u32;
            let position = f32::cast_from(positions[(plane * rows + row) as usize]);
            let angle = position * frequencies[i as usize];
            let at = (row * columns + i) as usize;
            cos[at] = sine(angle, 1.0f32);
            sin[at] = sine(angle, 0.0f32);
            i += CUBE_DIM_X;
        }
        row += CUBE_COUNT_X;
    }
}

/// Sine of `angle + quarters * pi/2`.
#[cube]
pub(crate) fn sine(angle: f32, quarters: f32) -> f32 {
    let turns = f32::floor(angle * std::f32::consts::FRAC_2_PI + 0.5f32);
    // pi/2 in parts of few bits: products with up to 2^16 turns are exact.
    let r = angle - turns * 1.570_312_5f32;
    let r = r - turns * 0.000_483_751_3f32;
    let r = r - turns * 7.549_79e-8f32;
    let quadrant = u32::cast_from(i32::cast_from(turns + quarters) & 3);
    let s = r * r;
    let sine = r + r
        * s
        * (-0.166_666_67f32 + s * (0.008_333_334f32 + s * (-0.000_198_412_7f32 + s * 2.755_732e-6f32)));
    let cosine = 1.0f32
        + s * (-0.5f32
            + s * (0.041_666_668f32
                + s * (-0.001_388_888_9f32 + s * (2.480_158e-5f32 + s * -2.755_73e-7f32))));
    let magnitude = select(quadrant & 1 == 1, cosine, sine);
    select(quadrant >= 2, -magnitude, magnitude)
}

#[cube(launch_unchecked)]
fn rope<F: Float>(
    x: ComptimeOption<Box<[F]>>,
    cos: &[f32],
    sin: &[f32],
    y: &mut [F],
    rows: u32,
    heads: u32,
    stride: u32,
    #[comptime] half: u32,
) {
    let mut row = CUBE_POS_X;
    while row < rows {
        let mut i = UNIT_POS_X;
        while i < heads * half {
            let j = i % half;
            let low = (row * stride + i / half * (2 * half) + j) as usize;
            let high = low + half as usize;
            let c = cos[(row * half + j) as usize];
            let s = sin[(row * half + j) as usize];
            #[comptime]
            let a = match &x {
                ComptimeOption::Some(x) => f32::cast_from(x[low]),
                ComptimeOption::None => f32::cast_from(y[low]),
            };
            #[comptime]
            let b = match &x {
                ComptimeOption::Some(x) => f32::cast_from(x[high]),
                ComptimeOption::None => f32::cast_from(y[high]),
            };
            y[low] = F::cast_from(a * c - b * s);
            y[high] = F::cast_from(b * c + a * s);
            i += CUBE_DIM_X;
        }
        row += CUBE_COUNT_X;
    }
}

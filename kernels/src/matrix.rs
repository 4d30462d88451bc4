//! Matmuls on matrix units: what [`crate::Linear`] computes, with the same buffers and scalars, where `x` has the weights'
//! type and the target multiplies matrices of it. Products are exact in f32; the order of a sum is the hardware's.
//!
//! A workgroup computes a tile of `rows x columns`, a warp of 32 units `warp_rows x warp_columns` of it in fragments of 16 x
//! 16. Rows of `x` and of the weights come through shared memory in steps of `depth` along K, in two stages: while the
//! warps multiply what one holds, units hold the next step's elements in registers, and put them into the other; one barrier
//! a step. Behind the last row of either, the last one stands again: its results are left out. Behind K stand zeros. A
//! load has 16 bytes where K is a multiple of 8, which all shapes of the models are.
//!
//! # The floor
//!
//! A step costs `2 * rows * columns * depth` FLOP, `2 * (rows + columns) * depth` bytes from memory, as many into shared
//! memory, and `2 * (warp_rows + warp_columns) * depth` out of it for each warp:
//!
//! | tile | warps of | FLOP a byte from memory | into shared memory | out of it | for |
//! | --- | --- | --- | --- | --- | --- |
//! | 128 x 128 x 32 | 64 x 64 | 64 | 64 | 32 | many rows |
//! | 64 x 64 x 64 | 32 x 32 | 32 | 32 | 16 | what would be too few of these to go round |
//! | 32 x 64 x 64 | 16 x 32 | 21 | 21 | 11 | up to 32 rows |
//! | 16 x 64 x 128 | 16 x 32 | 13 | 13 | 11 | up to 16 rows |
//!
//! A multiprocessor of an A100 has 2048 FLOP and 128 bytes of shared memory a clock. So the largest tile needs 32 + 64
//! bytes a clock and can keep the matrix units busy; warps of 64 x 32 would need 32 + 96 and nothing could be late. The
//! second needs 64 + 128 and reaches two thirds. The last two read every weight once and multiply it with so few rows that
//! memory is what they wait for: 32 rows are 32 FLOP a byte, and the A100 has 200. They are deep to have much under way: a
//! workgroup asks for 8 and 16 KiB of weights at once.
//!
//! For bf16 and N = K = 3584, ptxas 12.9 gives the tiles 240, 127, 79 and 168 registers and spills none, on sm_80 and on
//! sm_90a. No device has been measured.
//!
//! Rows of a stage are 8 elements longer than `depth`, so that eight rows that are read together lie in different banks.
//! Both stages and a place for each warp's fragment stay below the 48 KiB that every launch may have. Along the grid, tiles
//! of rows come first: those that run at the same time share weights, which are then read from memory about once.
//!
//! SwiGLU has `columns / 2` rows of each weight in a tile, and a warp half of its fragments for each.
//!
//! Not there: fragments of Metal (8 x 8, no bf16), and AMD's (their header is rocWMMA's, which is no part of the toolchain).
//! Both keep the kernel of `linear.rs`.

use crate::emit::{Element, Extent};
use crate::kernel::floats;
use crate::linear::{Linear, Residual};
use crate::math::{Activation, activate, silu};
use crate::record::Recorder;
use crate::rows::Table;
use crate::stage::{load, operand, put};
use crate::target::{Capabilities, Target};
use cubecl::cmma;
use cubecl::prelude::*;

/// Units of a warp: those that have a fragment together.
pub(crate) const WARP: u32 = 32;

/// Rows and columns of a fragment.
const SIDE: u32 = 16;

/// Elements between the rows of a stage, beside `depth`. 16 bytes, which also keeps the rows aligned.
const APART: u32 = 8;

/// Loads of bf16 fragments that say that they load from shared memory, as all here do. NVRTC knows that of f16 by itself; of
/// bf16 it does not, and loads each fragment with four instructions in place of one. Better matches than the header's,
/// whose pointers are to constants.
pub(crate) const SHARED_LOADS: &str = include_str!("shared_loads.cuh");

/// What a workgroup computes at once on matrix units. Sides of a warp are multiples of 16 and divide those of the tile; with
/// SwiGLU, half of `warp_columns` is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MatrixTile {
    /// Rows of the result.
    pub rows: u32,
    /// Rows of the weights, with SwiGLU of both together.
    pub columns: u32,
    /// Steps along K between two barriers, a multiple of 16.
    pub depth: u32,
    /// Rows of a warp.
    pub warp_rows: u32,
    /// Columns of a warp.
    pub warp_columns: u32,
}

/// What the kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) n: u32,
    pub(crate) k: u32,
    pub(crate) tile: MatrixTile,
    /// Elements between the rows of a stage, beside the tile's depth.
    pub(crate) apart: u32,
    /// Weights.
    pub(crate) weights: u32,
    /// Elements that are loaded at once.
    pub(crate) vector: u32,
    pub(crate) activation: Option<Activation>,
    pub(crate) in_place: bool,
}

impl MatrixTile {
    /// For many rows.
    pub const WIDE: MatrixTile =
        MatrixTile { rows: 128, columns: 128, depth: 32, warp_rows: 64, warp_columns: 64 };
    /// Where there are too few of the wide ones to go round.
    pub const MIDDLE: MatrixTile =
        MatrixTile { rows: 64, columns: 64, depth: 64, warp_rows: 32, warp_columns: 32 };
    /// For up to 32 rows.
    pub const LOW: MatrixTile =
        MatrixTile { rows: 32, columns: 64, depth: 64, warp_rows: 16, warp_columns: 32 };
    /// For up to 16 rows.
    pub const FLAT: MatrixTile =
        MatrixTile { rows: 16, columns: 64, depth: 128, warp_rows: 16, warp_columns: 32 };

    /// The tile for up to `rows_max` rows of `weights` weights of `n` rows.
    pub(crate) fn best(rows_max: u32, n: u32, weights: u32) -> MatrixTile {
        /// So many workgroups give each multiprocessor of the larger devices one.
        const GROUPS_MIN: u32 = 128;
        let wide = MatrixTile::WIDE;
        let groups = rows_max.div_ceil(wide.rows).saturating_mul((n * weights).div_ceil(wide.columns));
        match rows_max {
            0..=16 => MatrixTile::FLAT,
            17..=32 => MatrixTile::LOW,
            _ if groups < GROUPS_MIN => MatrixTile::MIDDLE,
            _ => wide,
        }
    }

    /// Warps of a workgroup.
    pub(crate) const fn warps(self) -> u32 {
        self.rows / self.warp_rows * (self.columns / self.warp_columns)
    }

    /// Elements of both stages.
    const fn staged(self) -> u32 {
        2 * (self.rows + self.columns) * (self.depth + APART)
    }

    pub(crate) fn name(self) -> String {
        let MatrixTile { rows, columns, depth, warp_rows, warp_columns } = self;
        format!("matrix{rows}x{columns}x{depth}by{warp_rows}x{warp_columns}")
    }

    /// What `target` lacks for matrices of these types.
    pub(crate) fn lacks(linear: &Linear, target: &Target) -> Option<String> {
        let capabilities = target.capabilities();
        let has = linear.weights == Table::Floats(linear.x)
            && capabilities.matrix.contains(&linear.x)
            && capabilities.plane_units == [WARP; 2];
        (!has).then(|| format!("matrices of {} by {}", linear.x.name(), linear.weights.name()))
    }

    pub(crate) fn check(self, weights: u32, capabilities: &Capabilities) -> Result<(), String> {
        let MatrixTile { rows, columns, depth, warp_rows, warp_columns } = self;
        let whole = |n: u32, of: u32| of > 0 && n > 0 && n % of == 0;
        let sides = whole(warp_rows, SIDE) && whole(warp_columns, SIDE * weights);
        let fits = sides && whole(rows, warp_rows) && whole(columns, warp_columns) && whole(depth, SIDE);
        let even = || {
            let units = self.warps() * WARP;
            units <= capabilities.units_max
                && whole(rows * depth, 8 * units)
                && whole(columns * depth, 8 * units)
        };
        if !fits || !even() {
            return Err(format!("its warps cannot share a tile of {rows}x{columns}x{depth}"));
        }
        let bytes = 2 * self.staged() + 4 * SIDE * SIDE * weights * self.warps();
        if bytes > capabilities.shared_bytes {
            return Err(format!(
                "{bytes} bytes of shared memory, the target has {}",
                capabilities.shared_bytes
            ));
        }
        Ok(())
    }

    pub(crate) fn launch(self, linear: &Linear, r: &Recorder) {
        let Linear { x, y, n, k, bias, swiglu, activation, residual, .. } = *linear;
        let weights = if swiglu { 2 } else { 1 };
        let vector = [8, 4, 2].into_iter().find(|v| k % v == 0).unwrap_or(1);
        let in_place = residual == Residual::InPlace;
        let shape = Shape { n, k, tile: self, apart: APART, weights, vector, activation, in_place };
        let grid = [
            Extent::Ceil { of: "rows", per: self.rows, any: false },
            Extent::Constant(n.div_ceil(self.columns / weights)),
            Extent::Constant(1),
        ];
        floats!((x => X, y => Y) => linear_matrix::launch_unchecked::<X, Y>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(self.warps() * WARP),
            r.buffer("x", x.element()),
            r.buffer("weight", x.element()),
            swiglu.then(|| r.buffer("up", x.element())).into(),
            bias.then(|| r.buffer("bias", Element::F32)).into(),
            (residual == Residual::Apart).then(|| r.buffer("residual", y.element())).into(),
            r.buffer("y", y.element()),
            r.int("rows"),
            r.int("stride"),
            r.int("first"),
            shape,
        ));
    }
}

#[cube(launch_unchecked)]
fn linear_matrix<X: Float, Y: Float>(
    x: &[Vector<X, Const<1>>],
    weight: &[Vector<X, Const<1>>],
    up: ComptimeOption<Box<[Vector<X, Const<1>>]>>,
    bias: ComptimeOption<Box<[f32]>>,
    residual: ComptimeOption<Box<[Y]>>,
    y: &mut [Y],
    rows: u32,
    stride: u32,
    first: u32,
    #[comptime] shape: Shape,
) {
    let size!(V) = comptime!(shape.vector as usize);
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    let warp_features = comptime!(tile.warp_columns / shape.weights);
    let pitch = comptime!(tile.depth + shape.apart);
    // Rows of `x` and then of the weights; twice.
    let stage = comptime!((tile.rows + tile.columns) * pitch);
    let mut stages =
        Shared::<[Vector<X, V>]>::new_aligned_slice(comptime!((2 * stage / shape.vector) as usize), 128usize);
    // A fragment of each weight for each warp.
    let patch = comptime!(SIDE * SIDE * shape.weights);
    let mut patches =
        Shared::<[f32]>::new_aligned_slice(comptime!((patch * tile.warps()) as usize), 128usize);
    let units = comptime!(tile.warps() * WARP);
    let x_loads = comptime!((tile.rows * tile.depth / shape.vector / units) as usize);
    let w_loads = comptime!((features * tile.depth / shape.vector / units) as usize);
    let mut loaded = Array::<Vector<X, V>>::new(comptime!(x_loads + w_loads * shape.weights as usize));
    let down = comptime!((tile.warp_rows / SIDE) as usize);
    let across = comptime!((warp_features / SIDE) as usize);
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(down * across * shape.weights as usize) {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            16usize,
            16usize,
            16usize,
            cmma::MatrixLayout::Undefined,
            0.0f32,
        ));
    }
    let first_row = CUBE_POS_X * tile.rows;
    let first_feature = CUBE_POS_Y * features;
    let warp = UNIT_POS_X / WARP;
    let lane = UNIT_POS_X % WARP;
    let warps_across = comptime!(tile.columns / tile.warp_columns);
    let warp_row = warp / warps_across * tile.warp_rows;
    let warp_feature = warp % warps_across * warp_features;
    let x = x.with_vector_size::<V>();
    let weight = weight.with_vector_size::<V>();
    let last_row = rows - 1;
    let last_feature = comptime!(shape.n - 1).runtime();

    let mut start = 0u32;
    let mut now = 0u32;
    load::<X, V>(x, &mut loaded, 0usize, x_loads, first_row, last_row, start, shape);
    load::<X, V>(weight, &mut loaded, x_loads, w_loads, first_feature, last_feature, start, shape);
    if comptime!(up.is_some()) {
        let up = up.as_ref().unwrap().with_vector_size::<V>();
        load::<X, V>(up, &mut loaded, x_loads + w_loads, w_loads, first_feature, last_feature, start, shape);
    }
    put::<X, V>(&loaded, &mut stages, now, shape);
    sync_cube();
    while start < shape.k {
        start += tile.depth;
        if start < shape.k {
            load::<X, V>(x, &mut loaded, 0usize, x_loads, first_row, last_row, start, shape);
            load::<X, V>(weight, &mut loaded, x_loads, w_loads, first_feature, last_feature, start, shape);
            if comptime!(up.is_some()) {
                let up = up.as_ref().unwrap().with_vector_size::<V>();
                load::<X, V>(
                    up,
                    &mut loaded,
                    x_loads + w_loads,
                    w_loads,
                    first_feature,
                    last_feature,
                    start,
                    shape,
                );
            }
        }
        #[unroll]
        for d in 0..comptime!(tile.depth / SIDE) {
            let mut lhs = Sequence::<cmma::Matrix<Vector<X, V>>>::new();
            #[unroll]
            for i in 0..down {
                let at = now + (warp_row + comptime!(i as u32 * SIDE)) * pitch + comptime!(d * SIDE);
                let layout = comptime!(cmma::MatrixLayout::RowMajor);
                lhs.push(operand::<X, V>(&stages, at, cmma::MatrixIdent::A, layout, shape));
            }
            #[unroll]
            for j in 0..comptime!(across * shape.weights as usize) {
                // Features of the one weight and then of the other.
                let row = comptime!(
                    tile.rows + j as u32 / across as u32 * features + j as u32 % across as u32 * SIDE
                );
                let at = now + (warp_feature + row) * pitch + comptime!(d * SIDE);
                let layout = comptime!(cmma::MatrixLayout::ColMajor);
                let rhs = operand::<X, V>(&stages, at, cmma::MatrixIdent::B, layout, shape);
                #[unroll]
                for i in 0..down {
                    let sum = sums.index(comptime!(j * down + i));
                    cmma::execute(lhs.index(i), &rhs, sum, sum);
                }
            }
        }
        now = stage - now;
        if start < shape.k {
            put::<X, V>(&loaded, &mut stages, now, shape);
        }
        sync_cube();
    }

    let own = warp * patch;
    #[unroll]
    for j in 0..across {
        #[unroll]
        for i in 0..down {
            #[unroll]
            for w in 0..comptime!(shape.weights as usize) {
                let at = (own + comptime!(w as u32 * SIDE * SIDE)) as usize;
                let sum = sums.index(comptime!((w * across + j) * down + i));
                let end = comptime!((patch * tile.warps()) as usize);
                cmma::store(&mut patches[at..end], sum, SIDE, cmma::MatrixLayout::RowMajor);
            }
            sync_plane();
            for e in 0..comptime!(SIDE * SIDE / WARP) {
                let at = lane + e * WARP;
                let m = first_row + warp_row + comptime!(i as u32 * SIDE) + at / SIDE;
                let n = first_feature + warp_feature + comptime!(j as u32 * SIDE) + at % SIDE;
                if m < rows && n < shape.n {
                    let mut value = patches[(own + at) as usize];
                    if comptime!(up.is_some()) {
                        value = silu(value) * patches[(own + at + comptime!(SIDE * SIDE)) as usize];
                    }
                    let to = (m * stride + first + n) as usize;
                    if comptime!(bias.is_some()) {
                        let bias = bias.as_ref().unwrap();
                        value += bias[(first + n) as usize];
                    }
                    if comptime!(shape.activation.is_some()) {
                        value = activate(value, shape.activation);
                    }
                    if comptime!(residual.is_some()) {
                        let residual = residual.as_ref().unwrap();
                        value += f32::cast_from(residual[to]);
                    }
                    if comptime!(shape.in_place) {
                        value += f32::cast_from(y[to]);
                    }
                    y[to] = Y::cast_from(value);
                }
            }
            // The next fragment takes this one's place.
            sync_plane();
        }
    }
}

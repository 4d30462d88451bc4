//! Matmuls of codes of fp8 on matrix units: what [`crate::Linear`] computes of rows and weights that are OCP's e4m3, with an
//! f32 scale for each row of either. `y = epilogue((x W^T) * x_scales * weight_scales)`.
//!
//! Buffers `x` `[rows, pitch]` of codes, four in a word, `x_scales` f32 `[rows]`, `weight` `[N, pitch]`, `weight_scales` f32
//! `[N]`, with SwiGLU `up` and `up_scales` like them, `bias`, `residual`, `y` and the scalars as those of [`crate::Linear`].
//! The pitch is K filled up to a multiple of 16 with codes of 0, so that every load has 16 bytes.
//!
//! The way of a tile is that of `matrix.rs`, and so is its choice; a step along K is twice as many elements, which are as many
//! bytes. What differs is what multiplies: `mma.sync.m16n8k32` takes fragments whose elements stand where PTX says. Of 16 rows
//! and 32 codes a unit has the words `quad` and `quad + 4` of rows `group` and `group + 8`, `group` being its number over 4
//! and `quad` the rest; of 8 features the same words of feature `group`; of the sums columns `2 quad` and `2 quad + 1` of rows
//! `group` and `group + 8`. So results are where they are wanted, and nothing is put into shared memory behind the last step.
//! Rows of a stage are 16 bytes longer than a step, so that the 32 words that units read together lie in different banks.
//!
//! The largest tile has warps of 64 x 32 where `matrix.rs` has 64 x 64: with the sums of a step apart from those before it, 255
//! registers would not do. For bf16 and N = K = 3584, ptxas 12.9 gives the tiles (128, 64, 32 and 16 rows) 134, 165, 96 and 194
//! registers on sm_89, 175, 175, 128 and 239 on sm_90a, up to 175 of the largest with SwiGLU, and spills none. No device has been
//! measured.
//!
//! Matrix units add products of fp8 in fewer bits than f32 has, by some accounts 14 of mantissa. So they do for one step only,
//! 64 to 256 elements of K, whose sum is then added in f32.
//!
//! `gpu_asm!` rather than the generator's own matrices of fp8: of those it asks for `.kind::f8f6f4`, which PTX has for sm_120
//! only.

use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::linear::Residual;
use crate::math::{Activation, activate, silu};
use crate::matrix::{MatrixTile, Shape, WARP};
use crate::record::Recorder;
use crate::stage::{load, put};
use crate::target::{Capabilities, Target};
use cubecl::prelude::*;

/// Codes of a load.
const LOAD: u32 = 16;
/// Rows of a fragment of rows.
const ROWS: u32 = 16;
/// Features of a fragment of weights.
const FEATURES: u32 = 8;
/// Codes of a fragment along K.
const DEPTH: u32 = 32;
/// Words between the rows of a stage, beside the step's.
const APART: u32 = 4;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinearFp8 {
    /// Type of the result.
    pub y: Dtype,
    /// Features, rows of the weight.
    pub n: u32,
    /// Columns of `x` and of the weight.
    pub k: u32,
    /// Whether there is a bias; added first.
    pub bias: bool,
    /// Whether there is a second weight: `silu(x weight^T) * (x up^T)`. Not with a bias.
    pub swiglu: bool,
    /// What is done to the sums, after the bias. Not with SwiGLU.
    pub activation: Option<Activation>,
    /// What is added last.
    pub residual: Residual,
    /// What a workgroup computes at once; its depth is a multiple of 32.
    pub tile: MatrixTile,
}

impl LinearFp8 {
    /// For many rows.
    pub const WIDE: MatrixTile = MatrixTile { depth: 64, warp_columns: 32, ..MatrixTile::WIDE };
    /// Where there are too few of the wide ones to go round.
    pub const MIDDLE: MatrixTile = MatrixTile { depth: 128, ..MatrixTile::MIDDLE };
    /// For up to 32 rows.
    pub const LOW: MatrixTile = MatrixTile { depth: 128, ..MatrixTile::LOW };
    /// For up to 16 rows.
    pub const FLAT: MatrixTile = MatrixTile { depth: 256, ..MatrixTile::FLAT };

    /// The same in the tile for up to `rows_max` rows.
    pub fn fitted(self, rows_max: u32) -> LinearFp8 {
        let tile = match MatrixTile::best(rows_max, self.n, self.weights()) {
            MatrixTile::FLAT => LinearFp8::FLAT,
            MatrixTile::LOW => LinearFp8::LOW,
            MatrixTile::MIDDLE => LinearFp8::MIDDLE,
            _ => LinearFp8::WIDE,
        };
        LinearFp8 { tile, ..self }
    }

    const fn weights(&self) -> u32 {
        if self.swiglu { 2 } else { 1 }
    }

    /// What `target` lacks for it.
    pub(crate) fn lacks(target: &Target) -> Option<String> {
        let Capabilities { fp8, plane_units, .. } = target.capabilities();
        (!fp8 || *plane_units != [WARP; 2]).then(|| "matrices of fp8".to_owned())
    }

    pub(crate) fn name(&self) -> String {
        let mut name = "e4m3w_e4m3_linear".to_owned();
        let activation = self.activation.map(|a| format!("_{}", a.name())).unwrap_or_default();
        for (has, part) in [
            (self.swiglu, "_swiglu"),
            (self.bias, "_bias"),
            (self.activation.is_some(), activation.as_str()),
            (self.residual == Residual::Apart, "_residual"),
            (self.residual == Residual::InPlace, "_residual_inplace"),
        ] {
            name += if has { part } else { "" };
        }
        format!("{name}_to_{}_n{}k{}_{}", self.y.name(), self.n, self.k, self.tile.name())
    }

    pub(crate) fn check(&self, capabilities: &Capabilities) -> Result<(), String> {
        if self.swiglu && (self.bias || self.activation.is_some()) {
            return Err("swiglu takes no bias and no activation".into());
        }
        if self.n == 0 || self.k == 0 {
            return Err("n and k are at least 1".into());
        }
        let MatrixTile { rows, columns, depth, warp_rows, warp_columns } = self.tile;
        let whole = |n: u32, of: u32| of > 0 && n > 0 && n % of == 0;
        let sides = whole(warp_rows, ROWS) && whole(warp_columns, FEATURES * self.weights());
        let fits = sides && whole(rows, warp_rows) && whole(columns, warp_columns) && whole(depth, DEPTH);
        let even = || {
            let units = self.tile.warps() * WARP;
            units <= capabilities.units_max
                && whole(rows * depth, LOAD * units)
                && whole(columns * depth, LOAD * units * self.weights())
        };
        if !fits || !even() {
            return Err(format!("its warps cannot share a tile of {rows}x{columns}x{depth}"));
        }
        let bytes = 2 * (rows + columns) * (depth + 4 * APART);
        if bytes > capabilities.shared_bytes {
            return Err(format!(
                "{bytes} bytes of shared memory, the target has {}",
                capabilities.shared_bytes
            ));
        }
        Ok(())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let LinearFp8 { y, n, k, bias, swiglu, activation, residual, tile } = *self;
        let (weights, in_place) = (self.weights(), residual == Residual::InPlace);
        // From here on elements are words.
        let (k, tile) = (k.div_ceil(LOAD) * (LOAD / 4), MatrixTile { depth: tile.depth / 4, ..tile });
        let shape = Shape { n, k, tile, apart: APART, weights, vector: LOAD / 4, activation, in_place };
        let grid = [
            Extent::Ceil { of: "rows", per: tile.rows, any: false },
            Extent::Constant(n.div_ceil(tile.columns / weights)),
            Extent::Constant(1),
        ];
        floats!((y => Y) => linear_fp8::launch_unchecked::<Y>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(tile.warps() * WARP),
            r.buffer("x", Element::U32),
            r.buffer("x_scales", Element::F32),
            r.buffer("weight", Element::U32),
            r.buffer("weight_scales", Element::F32),
            swiglu.then(|| r.buffer("up", Element::U32)).into(),
            swiglu.then(|| r.buffer("up_scales", Element::F32)).into(),
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
fn linear_fp8<Y: Float>(
    x: &[Vector<u32, Const<1>>],
    x_scales: &[f32],
    weight: &[Vector<u32, Const<1>>],
    weight_scales: &[f32],
    up: ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    up_scales: ComptimeOption<Box<[f32]>>,
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
    let mut stages = Shared::<[Vector<u32, V>]>::new_aligned_slice(
        comptime!((2 * stage / shape.vector) as usize),
        128usize,
    );
    let units = comptime!(tile.warps() * WARP);
    let x_loads = comptime!((tile.rows * tile.depth / shape.vector / units) as usize);
    let w_loads = comptime!((features * tile.depth / shape.vector / units) as usize);
    let mut loaded = Array::<Vector<u32, V>>::new(comptime!(x_loads + w_loads * shape.weights as usize));
    let steps = comptime!((tile.depth * 4 / DEPTH) as usize);
    let down = comptime!((tile.warp_rows / ROWS) as usize);
    let across = comptime!((warp_features / FEATURES) as usize);
    let all = comptime!(down * across * shape.weights as usize);
    let mut sums = Array::<Vector<f32, Const<4>>>::new(all);
    #[unroll]
    for i in 0..all {
        sums[i] = Vector::<f32, Const<4>>::zeroed();
    }
    let first_row = CUBE_POS_X * tile.rows;
    let first_feature = CUBE_POS_Y * features;
    let warp = UNIT_POS_X / WARP;
    let group = UNIT_POS_X % WARP / 4u32;
    let quad = UNIT_POS_X % 4u32;
    let warps_across = comptime!(tile.columns / tile.warp_columns);
    let warp_row = warp / warps_across * tile.warp_rows;
    let warp_feature = warp % warps_across * warp_features;
    let x = x.with_vector_size::<V>();
    let weight = weight.with_vector_size::<V>();
    let last_row = rows - 1;
    let last_feature = comptime!(shape.n - 1).runtime();

    let mut start = 0u32;
    let mut now = 0u32;
    load::<u32, V>(x, &mut loaded, 0usize, x_loads, first_row, last_row, start, shape);
    load::<u32, V>(weight, &mut loaded, x_loads, w_loads, first_feature, last_feature, start, shape);
    if comptime!(up.is_some()) {
        let up = up.as_ref().unwrap().with_vector_size::<V>();
        load::<u32, V>(
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
    put::<u32, V>(&loaded, &mut stages, now, shape);
    sync_cube();
    while start < shape.k {
        start += tile.depth;
        if start < shape.k {
            load::<u32, V>(x, &mut loaded, 0usize, x_loads, first_row, last_row, start, shape);
            load::<u32, V>(weight, &mut loaded, x_loads, w_loads, first_feature, last_feature, start, shape);
            if comptime!(up.is_some()) {
                let up = up.as_ref().unwrap().with_vector_size::<V>();
                load::<u32, V>(
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
        let mut lhs = Array::<Vector<u32, Const<4>>>::new(comptime!(down * steps));
        #[unroll]
        for i in 0..down {
            #[unroll]
            for d in 0..steps {
                let row = warp_row + comptime!(i as u32 * ROWS) + group;
                let at = now + row * pitch + comptime!(d as u32 * DEPTH / 4) + quad;
                let below = at + comptime!(8 * pitch);
                let mut words = Vector::<u32, Const<4>>::zeroed();
                words.insert(0usize, word::<V>(&stages, at));
                words.insert(1usize, word::<V>(&stages, below));
                words.insert(2usize, word::<V>(&stages, at + 4u32));
                words.insert(3usize, word::<V>(&stages, below + 4u32));
                lhs[comptime!(i * steps + d)] = words;
            }
        }
        #[unroll]
        for j in 0..comptime!(across * shape.weights as usize) {
            // Features of the one weight and then of the other.
            let row = comptime!(
                tile.rows + j as u32 / across as u32 * features + j as u32 % across as u32 * FEATURES
            );
            let mut rhs = Array::<Vector<u32, Const<2>>>::new(steps);
            #[unroll]
            for d in 0..steps {
                let at = now + (warp_feature + row + group) * pitch + comptime!(d as u32 * DEPTH / 4) + quad;
                let mut words = Vector::<u32, Const<2>>::zeroed();
                words.insert(0usize, word::<V>(&stages, at));
                words.insert(1usize, word::<V>(&stages, at + 4u32));
                rhs[d] = words;
            }
            #[unroll]
            for i in 0..down {
                // A list of one: of a variable, assembly would be given the address.
                let mut sum = Array::<Vector<f32, Const<4>>>::new(1usize);
                sum[0] = Vector::<f32, Const<4>>::zeroed();
                #[unroll]
                for d in 0..steps {
                    sum[0] = multiply(lhs[comptime!(i * steps + d)], rhs[d], sum[0]);
                }
                sums[comptime!(j * down + i)] += sum[0];
            }
        }
        now = stage - now;
        if start < shape.k {
            put::<u32, V>(&loaded, &mut stages, now, shape);
        }
        sync_cube();
    }

    #[unroll]
    for j in 0..across {
        #[unroll]
        for i in 0..down {
            #[unroll]
            for e in 0..4usize {
                let m = first_row + warp_row + comptime!(i as u32 * ROWS + e as u32 / 2 * 8) + group;
                let column = comptime!(j as u32 * FEATURES + e as u32 % 2);
                let n = first_feature + warp_feature + column + quad * 2u32;
                if m < rows && n < shape.n {
                    let scale = x_scales[m as usize];
                    let mut value =
                        sums[comptime!(j * down + i)].extract(e) * scale * weight_scales[n as usize];
                    if comptime!(up_scales.is_some()) {
                        let up_scales = up_scales.as_ref().unwrap();
                        let up = sums[comptime!((across + j) * down + i)].extract(e);
                        value = silu(value) * (up * scale * up_scales[n as usize]);
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
        }
    }
}

/// A word of what stands in shared memory.
#[cube]
fn word<V: Size>(stages: &[Vector<u32, V>], at: u32) -> u32 {
    let words = stages.with_vector_size::<Const<1>>();
    words[at as usize].extract(0usize)
}

/// `rows features^T + sums` of a warp.
#[cube]
fn multiply(
    rows: Vector<u32, Const<4>>,
    features: Vector<u32, Const<2>>,
    sums: Vector<f32, Const<4>>,
) -> Vector<f32, Const<4>> {
    let result: Vector<f32, Const<4>>;
    gpu_asm!(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {d}, {a}, {b}, {c};",
        a = in(_) rows, b = in(_) features, c = in(_) sums, d = out(_) result,
        options(nomem),
    );
    result
}

//! Matmuls on matrix units: what [`crate::Linear`] computes of rows and weights of 16 bits, and [`crate::LinearFp8`] of codes,
//! with the same buffers and scalars. Products are exact in f32; the order of a sum is the hardware's.
//!
//! A workgroup computes a tile of `rows x columns`; a warp has `warp_rows x warp_columns` of it, in fragments of 16 x 8, and of
//! each stage one of `slices` along K. Rows of `x` and of the weights come through shared memory in steps of `depth` bytes,
//! in `stages` stages: while the warps multiply one, the others are being filled by copies that nobody waits for before
//! their turn (`ptx.rs`). One barrier a step: behind it all have read the stage that is filled next. Behind the last row of
//! either, and behind K, stand zeros. Then the sums of all warps and slices are put where the stages were, and go from there
//! to memory row by row, through whatever is done to them: so what is added is read before anything is written, and
//! neighbours touch neighbours.
//!
//! K is a multiple of the elements in 16 bytes, which all shapes of the models are; the kernel of `linear.rs` has the rest.
//!
//! Along the grid, tiles of rows come first: those that run at the same time share weights, which are then read from memory
//! about once. SwiGLU has `columns / 2` rows of each weight in a tile, and a warp half of its fragments for each.
//!
//! Not there: fragments of Metal (8 x 8), and AMD's. Both keep the kernel of `linear.rs`.

use crate::emit::{Access, Element, Extent};
use crate::epilogue::{column_gains, epilogue, row_factors};
use crate::group::multiply_by_groups;
use crate::kernel::{Float as Dtype, floats};
use crate::linear::{Residual, Turned};
use crate::math::Activation;
use crate::ptx::{CHUNK, FEATURES, Multiplied, ROWS, STEP, WARP, address, commit, copy, multiply, wait};
use crate::record::Recorder;
use crate::stage::{fill, operand, place};
use crate::tile::MatrixTile;
use cubecl::prelude::*;
use half::bf16;

/// What the kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) n: u32,
    /// Of a second and a third weight.
    pub(crate) more: [u32; 2],
    /// In chunks.
    pub(crate) k: u32,
    pub(crate) tile: MatrixTile,
    /// Weights.
    pub(crate) weights: u32,
    pub(crate) multiplied: Multiplied,
    pub(crate) activation: Option<Activation>,
    pub(crate) in_place: bool,
    /// Features of half a head that is turned, and of all of them.
    pub(crate) half: u32,
    pub(crate) turned: u32,
    /// Whether rows are still to be divided by the root of their mean square.
    pub(crate) scaled: bool,
    /// Whether the result is left for a norm.
    pub(crate) weighted: bool,
}

impl Shape {
    /// Numbers by which rows or columns of a tile are multiplied.
    const fn factors(self) -> u32 {
        if self.scaled {
            self.tile.rows
        } else if self.weighted {
            self.tile.columns
        } else {
            0
        }
    }
}

impl MatrixTile {
    pub(crate) fn launch(self, matmul: &Matmul, r: &Recorder) {
        let Matmul { multiplied, y, n, more, k, bias, swiglu, activation, residual, rope, scaled, weighted } =
            *matmul;
        let weights = if swiglu { 2 } else { 1 };
        let in_place = residual == Residual::InPlace;
        let k = k.div_ceil(multiplied.in_chunk());
        let (half, turned) = rope.map_or((0, 0), |rope| (rope.head_dim / 2, rope.features()));
        let tile = self;
        let shape = Shape {
            n,
            more,
            k,
            tile,
            weights,
            multiplied,
            activation,
            in_place,
            half,
            turned,
            scaled,
            weighted,
        };
        let grid = [
            Extent::Ceil { of: "rows", per: self.rows, any: false },
            Extent::Constant((n + more[0] + more[1]).div_ceil(self.columns / weights)),
            Extent::Constant(self.splits),
        ];
        let words = match multiplied {
            Multiplied::BF16 => Element::BF16x2,
            Multiplied::F16 => Element::F16x2,
            Multiplied::E4M3 => Element::U32,
        };
        let read = |name, element| r.declared(name, element, Access::Read);
        let codes = multiplied == Multiplied::E4M3;
        let scales = |name| codes.then(|| read(name, Element::F32)).into();
        floats!((y => Y) => linear_matrix::launch_unchecked::<Y>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(self.warps() * WARP),
            read("x", words),
            scales("x_scales"),
            read("weight", words),
            scales("weight_scales"),
            (more[0] > 0).then(|| read("second", words)).into(),
            (more[1] > 0).then(|| read("third", words)).into(),
            swiglu.then(|| read("up", words)).into(),
            (swiglu && codes).then(|| read("up_scales", Element::F32)).into(),
            (more[0] > 0 && codes).then(|| read("second_scales", Element::F32)).into(),
            (more[1] > 0 && codes).then(|| read("third_scales", Element::F32)).into(),
            bias.then(|| read("bias", Element::F32)).into(),
            (self.splits > 1).then(|| r.declared("parts", Element::F32, Access::ReadWrite)).into(),
            (self.splits > 1).then(|| r.declared("counters", Element::I32, Access::ReadWrite)).into(),
            rope.map(|_| read("cos", Element::F32)).into(),
            rope.map(|_| read("sin", Element::F32)).into(),
            scaled.then(|| read("squares", Element::F32)).into(),
            weighted.then(|| read("gain", Element::F32)).into(),
            weighted.then(|| r.declared("weighted", Element::BF16, Access::Write)).into(),
            weighted.then(|| r.declared("squares", Element::F32, Access::Write)).into(),
            (residual == Residual::Apart).then(|| read("residual", y.element())).into(),
            r.declared("y", y.element(), if in_place { Access::ReadWrite } else { Access::Write }),
            r.int("rows"),
            r.int("stride"),
            r.int("first"),
            scaled.then(|| r.float("eps")).into(),
            shape,
        ));
    }
}

/// What is multiplied, and what is done to the sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matmul {
    pub(crate) multiplied: Multiplied,
    pub(crate) y: Dtype,
    pub(crate) n: u32,
    pub(crate) more: [u32; 2],
    /// In elements.
    pub(crate) k: u32,
    pub(crate) bias: bool,
    pub(crate) swiglu: bool,
    pub(crate) activation: Option<Activation>,
    pub(crate) residual: Residual,
    pub(crate) rope: Option<Turned>,
    pub(crate) scaled: bool,
    pub(crate) weighted: bool,
}

/// What a workgroup has of the operands.
#[derive(CubeType, Clone)]
pub(crate) struct Own {
    /// Rows of `x`: the first, and behind the last of all.
    pub(crate) first_row: u32,
    pub(crate) rows: u32,
    /// Which of the weights side by side.
    pub(crate) part: u32,
    /// Its features: the first, and behind the last of that weight.
    pub(crate) first_feature: u32,
    pub(crate) last_feature: u32,
    /// Where it begins along K, in chunks, and how many steps it goes.
    pub(crate) start: u32,
    pub(crate) steps: u32,
}

#[cube(launch_unchecked)]
fn linear_matrix<Y: Float>(
    x: &[Vector<u32, Const<1>>],
    x_scales: ComptimeOption<Box<[f32]>>,
    weight: &[Vector<u32, Const<1>>],
    weight_scales: ComptimeOption<Box<[f32]>>,
    second: ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    third: ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    up: ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    up_scales: ComptimeOption<Box<[f32]>>,
    second_scales: ComptimeOption<Box<[f32]>>,
    third_scales: ComptimeOption<Box<[f32]>>,
    bias: ComptimeOption<Box<[f32]>>,
    parts: ComptimeOption<Box<[f32]>>,
    counters: ComptimeOption<Box<[i32]>>,
    cos: ComptimeOption<Box<[f32]>>,
    sin: ComptimeOption<Box<[f32]>>,
    squares: ComptimeOption<Box<[Vector<f32, Const<1>>]>>,
    gain: ComptimeOption<Box<[f32]>>,
    mut weighted: ComptimeOption<Box<[bf16]>>,
    mut own_squares: ComptimeOption<Box<[f32]>>,
    residual: ComptimeOption<Box<[Y]>>,
    y: &mut [Y],
    rows: u32,
    stride: u32,
    first: u32,
    eps: ComptimeOption<f32>,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    // Rows of `x` and then of the weights, as many times as there are stages. The sums come to the same place. Behind it, by
    // what rows or columns are multiplied.
    let factors = comptime!(tile.shared_bytes() / 4);
    let words = comptime!((factors + shape.factors()) as usize);
    let mut shared = Shared::<[u32]>::new_aligned_slice(words, comptime!(tile.shared_align() as usize));
    let base = address(&shared);
    let first_row = CUBE_POS_X * tile.rows;
    let first_feature = CUBE_POS_Y * features;
    let x = x.with_vector_size::<Const<4>>();
    let weight = weight.with_vector_size::<Const<4>>();
    let stage = comptime!(tile.stage_bytes());
    let in_stage = comptime!(tile.depth / CHUNK);
    let all_steps = comptime!(shape.k.div_ceil(tile.depth / CHUNK));
    // Those of the workgroup, and where it begins.
    let (own_start, steps) = if comptime!(tile.splits > 1) {
        let first = CUBE_POS_Z * all_steps / tile.splits;
        (first * in_stage, (CUBE_POS_Z + 1u32) * all_steps / tile.splits - first)
    } else {
        (0u32.runtime(), all_steps.runtime())
    };
    let ahead = comptime!(tile.ahead());
    let all_features = comptime!(shape.n + shape.more[0] + shape.more[1]);
    // Which of the weights, side by side, the workgroup has features of, and where it begins and ends there. Without a second
    // and a third these begin behind the last feature.
    let second_first = comptime!(if second.is_some() { shape.n } else { all_features });
    let third_first = comptime!(if third.is_some() { shape.n + shape.more[0] } else { all_features });
    let mut part = 0u32;
    let mut own_feature = first_feature;
    let mut last_feature = comptime!(shape.n).runtime();
    if first_feature >= second_first {
        part = 1u32.runtime();
        own_feature = first_feature - second_first;
        last_feature = comptime!(shape.more[0]).runtime();
    }
    if first_feature >= third_first {
        part = 2u32.runtime();
        own_feature = first_feature - third_first;
        last_feature = comptime!(shape.more[1]).runtime();
    }

    let own =
        Own { first_row, rows, part, first_feature: own_feature, last_feature, start: own_start, steps };
    #[unroll]
    for s in 0..ahead {
        if comptime!(tile.splits > 1 || s < all_steps) {
            let to = base + comptime!(s * stage);
            let start = own_start + comptime!(s * in_stage);
            fill_stage(x, weight, &second, &third, &up, to, start, &own, shape);
        }
        commit();
    }
    if comptime!(shape.scaled) {
        // While the first stages come.
        let squares = squares.as_ref().unwrap().with_vector_size::<Const<4>>();
        let eps = *eps.as_ref().unwrap();
        row_factors(squares, &mut shared, factors, first_row, rows, eps, shape);
    }
    if comptime!(gain.is_some()) {
        let gain = gain.as_ref().unwrap();
        column_gains(gain, &mut shared, factors, first_feature, shape);
    }
    if comptime!(tile.by_groups()) {
        multiply_by_groups(x, weight, &second, &third, &up, &mut shared, base, &own, shape);
    } else {
        multiply_by_warps(x, weight, &second, &third, &up, &mut shared, base, &own, shape);
    }
    sync_cube();
    epilogue(
        &mut shared,
        factors,
        &x_scales,
        &weight_scales,
        &up_scales,
        &second_scales,
        &third_scales,
        &bias,
        &parts,
        &counters,
        &cos,
        &sin,
        &mut weighted,
        &mut own_squares,
        &residual,
        y,
        first_row,
        rows,
        first_feature,
        own_feature,
        part,
        stride,
        first,
        shape,
    );
}

/// Goes along K, each warp by its own products (`mma.sync`), and puts the sums of all slices where the stages were.
#[cube]
fn multiply_by_warps(
    x: &[Vector<u32, Const<4>>],
    weight: &[Vector<u32, Const<4>>],
    second: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    third: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    up: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    shared: &mut [u32],
    base: u32,
    own: &Own,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    let warp_features = comptime!(tile.warp_columns / shape.weights);
    let down = comptime!((tile.warp_rows / ROWS) as usize);
    // Of eight features each: an even number of each weight.
    let across = comptime!((warp_features / FEATURES) as usize);
    let all = comptime!(down * across * shape.weights as usize);
    let mut sums = Array::<Vector<f32, Const<4>>>::new(all);
    #[unroll]
    for i in 0..all {
        sums[i] = Vector::<f32, Const<4>>::zeroed();
    }
    let warp = UNIT_POS_X / WARP;
    let warps_across = comptime!(tile.columns / tile.warp_columns);
    let in_slice = comptime!(tile.warps() / tile.slices);
    let slice = if comptime!(tile.slices > 1) { warp / in_slice } else { 0u32.runtime() };
    let warp_row = warp % in_slice / warps_across * tile.warp_rows;
    let warp_feature = warp % in_slice % warps_across * warp_features;
    let stage = comptime!(tile.stage_bytes());
    let in_stage = comptime!(tile.depth / CHUNK);
    let ahead = comptime!(tile.ahead());
    let w_first = comptime!(tile.rows * tile.depth);
    let by_rows = place(true, shape);
    let by_features = place(false, shape);
    let own_steps = comptime!(tile.depth / STEP / tile.slices);
    let own_first = slice * own_steps;
    // The stage that is multiplied, and the one that is filled.
    let mut now = base;
    let mut next = base + comptime!(ahead * stage);
    let end = base + comptime!(tile.stages * stage);
    let steps = own.steps;
    for step in 0..steps {
        wait(comptime!(ahead - 1));
        sync_cube();
        if step + ahead < steps {
            let start = own.start + (step + ahead) * in_stage;
            fill_stage(x, weight, second, third, up, next, start, own, shape);
        }
        // Also where there was nothing: groups are counted.
        commit();
        let own_rows = now + warp_row * tile.depth;
        let own_features = now + w_first + warp_feature * tile.depth;
        if comptime!(shape.multiplied == Multiplied::E4M3) {
            // Matrix units add products of fp8 in fewer bits than f32 has: only those of a step.
            let mut lhs = Array::<Vector<u32, Const<4>>>::new(comptime!(down * own_steps as usize));
            #[unroll]
            for i in 0..down {
                #[unroll]
                for d in 0..own_steps {
                    let at = own_rows + comptime!(i as u32 * ROWS * tile.depth);
                    lhs[comptime!(i * own_steps as usize + d as usize)] = operand(at, by_rows, own_first + d);
                }
            }
            #[unroll]
            for j in 0..comptime!(across * shape.weights as usize / 2) {
                let row = comptime!(
                    2 * j as u32 / across as u32 * features + 2 * j as u32 % across as u32 * FEATURES
                );
                let at = own_features + comptime!(row * tile.depth);
                let mut rhs = Array::<Vector<u32, Const<4>>>::new(comptime!(own_steps as usize));
                #[unroll]
                for d in 0..own_steps {
                    rhs[d as usize] = operand(at, by_features, own_first + d);
                }
                #[unroll]
                for second in 0..2usize {
                    #[unroll]
                    for i in 0..down {
                        // A list of one: of a variable, assembly would be given the address.
                        let mut sum = Array::<Vector<f32, Const<4>>>::new(1usize);
                        sum[0] = Vector::<f32, Const<4>>::zeroed();
                        #[unroll]
                        for d in 0..own_steps {
                            let words = rhs[d as usize];
                            let near = words.extract(comptime!(2 * second));
                            let far = words.extract(comptime!(2 * second + 1));
                            let rows = lhs[comptime!(i * own_steps as usize + d as usize)];
                            sum[0] = multiply(rows, (near, far), sum[0], comptime!(shape.multiplied));
                        }
                        sums[comptime!((2 * j + second) * down + i)] += sum[0];
                    }
                }
            }
        } else {
            #[unroll]
            for d in 0..own_steps {
                let mut lhs = Array::<Vector<u32, Const<4>>>::new(down);
                #[unroll]
                for i in 0..down {
                    let at = own_rows + comptime!(i as u32 * ROWS * tile.depth);
                    lhs[i] = operand(at, by_rows, own_first + d);
                }
                #[unroll]
                for j in 0..comptime!(across * shape.weights as usize / 2) {
                    // Features of the one weight and then of the other.
                    let row = comptime!(
                        2 * j as u32 / across as u32 * features + 2 * j as u32 % across as u32 * FEATURES
                    );
                    let rhs = operand(own_features + comptime!(row * tile.depth), by_features, own_first + d);
                    #[unroll]
                    for second in 0..2usize {
                        let near = rhs.extract(comptime!(2 * second));
                        let far = rhs.extract(comptime!(2 * second + 1));
                        #[unroll]
                        for i in 0..down {
                            let at = comptime!((2 * j + second) * down + i);
                            sums[at] = multiply(lhs[i], (near, far), sums[at], comptime!(shape.multiplied));
                        }
                    }
                }
            }
        }
        now += stage;
        if now == end {
            now = base;
        }
        next += stage;
        if next == end {
            next = base;
        }
    }

    // All have read the last stage: the sums take its place.
    sync_cube();
    let pitch = comptime!(tile.pitch());
    let group = UNIT_POS_X % WARP / 4u32;
    let quad = UNIT_POS_X % 4u32;
    let own = (slice * tile.rows + warp_row + group) * pitch + warp_feature + quad * 2u32;
    #[unroll]
    for j in 0..comptime!(across * shape.weights as usize) {
        #[unroll]
        for i in 0..down {
            let column = comptime!(j as u32 / across as u32 * features + j as u32 % across as u32 * FEATURES);
            let at = own + comptime!(i as u32 * ROWS * pitch + column);
            #[unroll]
            for e in 0..4usize {
                let to = at + comptime!(e as u32 / 2 * 8 * pitch + e as u32 % 2);
                shared[to as usize] = u32::reinterpret(sums[comptime!(j * down + i)].extract(e));
            }
        }
    }
}

/// Begins to copy a stage: rows of `x`, then of the weight that the workgroup has features of, and of the one beside it.
#[cube]
pub(crate) fn fill_stage(
    x: &[Vector<u32, Const<4>>],
    first: &[Vector<u32, Const<4>>],
    second: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    third: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    up: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    to: u32,
    start: u32,
    own: &Own,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    let (own_feature, last_feature) = (own.first_feature, own.last_feature);
    fill(x, to, own.first_row, own.rows, start, comptime!(tile.rows), shape);
    let weights = to + comptime!(tile.rows * tile.depth);
    if comptime!(second.is_none()) {
        fill_features(first, weights, 0u32.runtime(), own_feature, last_feature, start, shape);
    } else {
        let second = second.as_ref().unwrap().with_vector_size::<Const<4>>();
        if own.part == 0u32 {
            fill_features(first, weights, 0u32.runtime(), own_feature, last_feature, start, shape);
        } else if own.part == 1u32 {
            fill_features(
                second,
                weights,
                comptime!(shape.n).runtime(),
                own_feature,
                last_feature,
                start,
                shape,
            );
        }
    }
    if comptime!(third.is_some()) {
        let third = third.as_ref().unwrap().with_vector_size::<Const<4>>();
        if own.part == 2u32 {
            fill(third, weights, own_feature, last_feature, start, features, shape);
        }
    }
    if comptime!(up.is_some()) {
        let up = up.as_ref().unwrap().with_vector_size::<Const<4>>();
        fill(
            up,
            weights + comptime!(features * tile.depth),
            own_feature,
            last_feature,
            start,
            features,
            shape,
        );
    }
}

/// Begins to copy features of a weight that stand side by side, or those of halves of heads. `before`: features of the weights
/// before it.
#[cube]
fn fill_features(
    from: &[Vector<u32, Const<4>>],
    to: u32,
    before: u32,
    own_feature: u32,
    last_feature: u32,
    start: u32,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    if comptime!(shape.half > 0) {
        if before + own_feature < comptime!(shape.turned) {
            fill_turned(from, to, own_feature, start, shape);
        } else {
            fill(from, to, own_feature, last_feature, start, features, shape);
        }
    } else {
        fill(from, to, own_feature, last_feature, start, features, shape);
    }
}

/// Begins to copy features of halves of heads: eight of the one and the eight that they are turned with belong to one
/// workgroup. The first half of the tile has those of first halves.
#[cube]
fn fill_turned(
    from: &[Vector<u32, Const<4>>],
    to: u32,
    own_feature: u32,
    start: u32,
    #[comptime] shape: Shape,
) {
    let in_row = comptime!(shape.tile.depth / CHUNK);
    let apart = comptime!(shape.tile.warps() * WARP / in_row);
    let features = comptime!(shape.tile.columns / shape.weights);
    let row = UNIT_POS_X / in_row;
    let chunk = UNIT_POS_X % in_row;
    let at = to + (row * in_row + (chunk ^ (row & 7u32))) * CHUNK;
    let inside = select(start + chunk < shape.k, CHUNK, 0u32);
    #[unroll]
    for i in 0..comptime!(features / apart) {
        let (feature, _angle) = turned_feature(own_feature, row + comptime!(i * apart), features, shape);
        copy(from, feature * shape.k + start + chunk, at + comptime!(i * apart * in_row * CHUNK), inside);
    }
}

/// Which feature of its weight stands in column `column` of a tile of `features`, the first of which would be `own_feature` if
/// they stood side by side, and which angle turns it.
#[cube]
pub(crate) fn turned_feature(
    own_feature: u32,
    column: u32,
    #[comptime] features: u32,
    #[comptime] shape: Shape,
) -> (u32, u32) {
    let half = comptime!(shape.half);
    let side = column / comptime!(features / 2);
    // Features come in eights: those of all first halves, counted from the first head on.
    let in_side = own_feature / 2u32 + column % comptime!(features / 2);
    let head = in_side / half;
    let angle = in_side % half;
    (head * comptime!(2 * half) + side * half + angle, angle)
}

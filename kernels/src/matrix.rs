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
use crate::kernel::{Float as Dtype, floats};
use crate::linear::{Residual, Turned};
use crate::math::{Activation, activate, silu};
use crate::ptx::{
    CHUNK, FEATURES, Multiplied, ROWS, STEP, WARP, address, commit, copy, count, fence, load, multiply,
    reset, store, wait,
};
use crate::record::Recorder;
use crate::stage::{fill, operand, place};
use crate::tile::{BATCH, MatrixTile};
use cubecl::prelude::*;

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
}

impl MatrixTile {
    pub(crate) fn launch(self, matmul: &Matmul, r: &Recorder) {
        let Matmul { multiplied, y, n, more, k, bias, swiglu, activation, residual, rope } = *matmul;
        let weights = if swiglu { 2 } else { 1 };
        let in_place = residual == Residual::InPlace;
        let k = k.div_ceil(multiplied.in_chunk());
        let (half, turned) = rope.map_or((0, 0), |rope| (rope.head_dim / 2, rope.features()));
        let shape = Shape { n, more, k, tile: self, weights, multiplied, activation, in_place, half, turned };
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
        let scaled = multiplied == Multiplied::E4M3;
        let scales = |name| scaled.then(|| read(name, Element::F32)).into();
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
            (swiglu && scaled).then(|| read("up_scales", Element::F32)).into(),
            bias.then(|| read("bias", Element::F32)).into(),
            (self.splits > 1).then(|| r.declared("parts", Element::F32, Access::ReadWrite)).into(),
            (self.splits > 1).then(|| r.declared("counters", Element::I32, Access::ReadWrite)).into(),
            rope.map(|_| read("cos", Element::F32)).into(),
            rope.map(|_| read("sin", Element::F32)).into(),
            (residual == Residual::Apart).then(|| read("residual", y.element())).into(),
            r.declared("y", y.element(), if in_place { Access::ReadWrite } else { Access::Write }),
            r.int("rows"),
            r.int("stride"),
            r.int("first"),
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
    bias: ComptimeOption<Box<[f32]>>,
    parts: ComptimeOption<Box<[f32]>>,
    counters: ComptimeOption<Box<[i32]>>,
    cos: ComptimeOption<Box<[f32]>>,
    sin: ComptimeOption<Box<[f32]>>,
    residual: ComptimeOption<Box<[Y]>>,
    y: &mut [Y],
    rows: u32,
    stride: u32,
    first: u32,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    let warp_features = comptime!(tile.warp_columns / shape.weights);
    let units = comptime!(tile.warps() * WARP);
    // Rows of `x` and then of the weights, as many times as there are stages. The sums come to the same place.
    let mut shared =
        Shared::<[u32]>::new_aligned_slice(comptime!((tile.shared_bytes() / 4) as usize), 128usize);
    let base = address(&shared);
    let down = comptime!((tile.warp_rows / ROWS) as usize);
    // Of eight features each: an even number of each weight.
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
    let warps_across = comptime!(tile.columns / tile.warp_columns);
    let in_slice = comptime!(tile.warps() / tile.slices);
    let slice = if comptime!(tile.slices > 1) { warp / in_slice } else { 0u32.runtime() };
    let warp_row = warp % in_slice / warps_across * tile.warp_rows;
    let warp_feature = warp % in_slice % warps_across * warp_features;
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
    let ahead = comptime!(tile.stages - 1);
    let w_first = comptime!(tile.rows * tile.depth);
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

    #[unroll]
    for s in 0..ahead {
        if comptime!(tile.splits > 1 || s < all_steps) {
            let to = base + comptime!(s * stage);
            let start = own_start + comptime!(s * in_stage);
            fill_stage(
                x,
                weight,
                &second,
                &third,
                &up,
                part,
                to,
                first_row,
                rows,
                own_feature,
                last_feature,
                start,
                shape,
            );
        }
        commit();
    }
    let by_rows = place(true, shape);
    let by_features = place(false, shape);
    let own_steps = comptime!(tile.depth / STEP / tile.slices);
    let own_first = slice * own_steps;
    // The stage that is multiplied, and the one that is filled.
    let mut now = base;
    let mut next = base + comptime!(ahead * stage);
    let end = base + comptime!(tile.stages * stage);
    for step in 0..steps {
        wait(comptime!(ahead - 1));
        sync_cube();
        if step + ahead < steps {
            let start = own_start + (step + ahead) * in_stage;
            fill_stage(
                x,
                weight,
                &second,
                &third,
                &up,
                part,
                next,
                first_row,
                rows,
                own_feature,
                last_feature,
                start,
                shape,
            );
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
    sync_cube();
    let each = comptime!(tile.each(shape.weights));
    let batch = comptime!(if each < BATCH { each as usize } else { BATCH as usize });
    // Columns of `y` that a workgroup has are side by side, or are those of halves of heads.
    let turns = comptime!(shape.half > 0) && first_feature < comptime!(shape.turned);
    let part_feature = first_feature - own_feature;
    let mut own_sums = Array::<f32>::new(batch);
    let mut before = Array::<f32>::new(batch);
    let mut offsets = Array::<f32>::new(batch);
    let mut scales = Array::<f32>::new(batch);
    let mut up_factors = Array::<f32>::new(batch);
    let mut cosines = Array::<f32>::new(batch);
    let mut sines = Array::<f32>::new(batch);
    let mut other_offsets = Array::<f32>::new(batch);
    let mut batches = comptime!(each / batch as u32).runtime();
    let size = comptime!(tile.rows * tile.columns);
    let number = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let first_part = number * comptime!(size * tile.splits);
    if comptime!(parts.is_some()) {
        let parts = parts.as_ref().unwrap();
        let counters = counters.as_ref().unwrap();
        let own_part = first_part + CUBE_POS_Z * size;
        for i in 0..comptime!(size / units).runtime() {
            let at = i * units + UNIT_POS_X;
            store(parts, own_part + at, sum_of(&shared, at / features * pitch + at % features, shape));
        }
        fence();
        sync_cube();
        // By a unit with others on either side: so the host's runner misses either barrier.
        if UNIT_POS_X == comptime!(units / 2) {
            shared[0] = count(counters, number);
        }
        sync_cube();
        if shared[0] == comptime!(tile.splits - 1) {
            // All have come, and the next launch begins anew.
            if UNIT_POS_X == comptime!(units / 2) {
                reset(counters, number);
            }
            fence();
        } else {
            batches = 0u32.runtime();
        }
    }
    for b in 0..batches {
        let at = b * comptime!(batch as u32 * units) + UNIT_POS_X;
        // What is read is read before anything is written, lest every write be waited for.
        #[unroll]
        for e in 0..batch {
            let at = at + comptime!(e as u32 * units);
            let m = first_row + at / features;
            let mut n = first_feature + at % features;
            if comptime!(parts.is_some()) {
                let parts = parts.as_ref().unwrap();
                let mut sum = 0.0f32;
                #[unroll]
                for s in 0..comptime!(tile.splits) {
                    sum += load(parts, first_part + comptime!(s * size) + at);
                }
                own_sums[e] = sum;
            }
            before[e] = 0.0f32;
            offsets[e] = 0.0f32;
            scales[e] = 0.0f32;
            up_factors[e] = 0.0f32;
            if comptime!(cos.is_some()) {
                cosines[e] = 1.0f32;
                sines[e] = 0.0f32;
                if turns && m < rows {
                    let (feature, angle) = turned_feature(own_feature, at % features, features, shape);
                    n = part_feature + feature;
                    let angle = (m * comptime!(shape.half) + angle) as usize;
                    let cos = cos.as_ref().unwrap();
                    let sin = sin.as_ref().unwrap();
                    cosines[e] = cos[angle];
                    sines[e] = sin[angle];
                    if comptime!(bias.is_some()) {
                        let bias = bias.as_ref().unwrap();
                        // The feature that it is turned with.
                        let other = select(
                            at % features < comptime!(features / 2),
                            n + comptime!(shape.half),
                            n - comptime!(shape.half),
                        );
                        other_offsets[e] = bias[(first + other) as usize];
                    }
                }
            }
            if m < rows && n < all_features {
                let from = (m * stride + first + n) as usize;
                if comptime!(shape.in_place) {
                    before[e] = f32::cast_from(y[from]);
                }
                if comptime!(residual.is_some()) {
                    let residual = residual.as_ref().unwrap();
                    before[e] = f32::cast_from(residual[from]);
                }
                if comptime!(bias.is_some()) {
                    let bias = bias.as_ref().unwrap();
                    offsets[e] = bias[(first + n) as usize];
                }
                if comptime!(x_scales.is_some()) {
                    let x_scales = x_scales.as_ref().unwrap();
                    let weight_scales = weight_scales.as_ref().unwrap();
                    scales[e] = x_scales[m as usize] * weight_scales[n as usize];
                }
                if comptime!(up_scales.is_some()) {
                    let x_scales = x_scales.as_ref().unwrap();
                    let up_scales = up_scales.as_ref().unwrap();
                    up_factors[e] = x_scales[m as usize] * up_scales[n as usize];
                }
            }
        }
        #[unroll]
        for e in 0..batch {
            let at = at + comptime!(e as u32 * units);
            let m = first_row + at / features;
            let mut n = first_feature + at % features;
            if comptime!(cos.is_some()) {
                if turns {
                    let (feature, _angle) = turned_feature(own_feature, at % features, features, shape);
                    n = part_feature + feature;
                }
            }
            if m < rows && n < all_features {
                let from = at / features * pitch + at % features;
                let mut value =
                    if comptime!(parts.is_some()) { own_sums[e] } else { sum_of(&shared, from, shape) };
                if comptime!(x_scales.is_some()) {
                    value *= scales[e];
                }
                if comptime!(up.is_some()) {
                    let mut up = sum_of(&shared, from + features, shape);
                    if comptime!(up_scales.is_some()) {
                        up *= up_factors[e];
                    }
                    value = silu(value) * up;
                }
                if comptime!(bias.is_some()) {
                    value += offsets[e];
                }
                if comptime!(cos.is_some()) {
                    if turns {
                        let near = at % features < comptime!(features / 2);
                        let other =
                            select(near, from + comptime!(features / 2), from - comptime!(features / 2));
                        let mut other = sum_of(&shared, other, shape);
                        if comptime!(bias.is_some()) {
                            other += other_offsets[e];
                        }
                        // Both as they would lie in memory.
                        let own = f32::cast_from(Y::cast_from(value));
                        let other = f32::cast_from(Y::cast_from(other));
                        value = own * cosines[e] + select(near, 0.0f32 - other, other) * sines[e];
                    }
                }
                if comptime!(shape.activation.is_some()) {
                    value = activate(value, shape.activation);
                }
                if comptime!(residual.is_some() || shape.in_place) {
                    value += before[e];
                }
                y[(m * stride + first + n) as usize] = Y::cast_from(value);
            }
        }
    }
}

/// Begins to copy a stage: rows of `x`, then of the weight that the workgroup has features of, and of the one beside it.
#[cube]
fn fill_stage(
    x: &[Vector<u32, Const<4>>],
    first: &[Vector<u32, Const<4>>],
    second: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    third: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    up: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    part: u32,
    to: u32,
    first_row: u32,
    rows: u32,
    own_feature: u32,
    last_feature: u32,
    start: u32,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    let units = comptime!(tile.warps() * WARP);
    let copies = comptime!(features * tile.depth / CHUNK / units);
    fill(x, to, first_row, rows, start, comptime!(tile.rows * tile.depth / CHUNK / units), shape);
    let weights = to + comptime!(tile.rows * tile.depth);
    if comptime!(second.is_none()) {
        fill_features(first, weights, 0u32.runtime(), own_feature, last_feature, start, shape);
    } else {
        let second = second.as_ref().unwrap().with_vector_size::<Const<4>>();
        if part == 0u32 {
            fill_features(first, weights, 0u32.runtime(), own_feature, last_feature, start, shape);
        } else if part == 1u32 {
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
        if part == 2u32 {
            fill(third, weights, own_feature, last_feature, start, copies, shape);
        }
    }
    if comptime!(up.is_some()) {
        let up = up.as_ref().unwrap().with_vector_size::<Const<4>>();
        fill(up, weights + comptime!(features * tile.depth), own_feature, last_feature, start, copies, shape);
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
    let copies = comptime!(features * tile.depth / CHUNK / (tile.warps() * WARP));
    if comptime!(shape.half > 0) {
        if before + own_feature < comptime!(shape.turned) {
            fill_turned(from, to, own_feature, start, copies, shape);
        } else {
            fill(from, to, own_feature, last_feature, start, copies, shape);
        }
    } else {
        fill(from, to, own_feature, last_feature, start, copies, shape);
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
    #[comptime] copies: u32,
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
    for i in 0..copies {
        let (feature, _angle) = turned_feature(own_feature, row + comptime!(i * apart), features, shape);
        copy(from, feature * shape.k + start + chunk, at + comptime!(i * apart * in_row * CHUNK), inside);
    }
}

/// Which feature of its weight stands in column `column` of a tile of `features`, the first of which would be `own_feature` if
/// they stood side by side, and which angle turns it.
#[cube]
fn turned_feature(
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

/// A sum, of all slices in order.
#[cube]
fn sum_of(shared: &[u32], at: u32, #[comptime] shape: Shape) -> f32 {
    let mut sum = f32::reinterpret(shared[at as usize]);
    #[unroll]
    for s in 1..comptime!(shape.tile.slices) {
        let apart = comptime!(s * shape.tile.rows * shape.tile.pitch());
        sum += f32::reinterpret(shared[(at + apart) as usize]);
    }
    sum
}

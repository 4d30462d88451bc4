//! What is done to the sums of a matmul on matrix units, once they stand in shared memory: from there they go to memory row by
//! row, in batches, of which everything that is added is read before anything is written.

use crate::linear::Linear;
use crate::math::{activate, silu};
use crate::matrix::{Shape, turned_feature};
use crate::ptx::{WARP, count, fence, load, reset, shuffle, store, warp_sum};
use crate::tile::BATCH;
use cubecl::prelude::*;
use half::bf16;

/// See the module. `factors`: where in shared memory stands what rows or columns are multiplied by. The other arguments are those of the
/// kernel, and where in its rows and features the workgroup begins.
#[cube]
pub(crate) fn epilogue<Y: Float>(
    shared: &mut [u32],
    factors: u32,
    x_scales: &ComptimeOption<Box<[f32]>>,
    weight_scales: &ComptimeOption<Box<[f32]>>,
    up_scales: &ComptimeOption<Box<[f32]>>,
    bias: &ComptimeOption<Box<[f32]>>,
    parts: &ComptimeOption<Box<[f32]>>,
    counters: &ComptimeOption<Box<[i32]>>,
    cos: &ComptimeOption<Box<[f32]>>,
    sin: &ComptimeOption<Box<[f32]>>,
    weighted: &mut ComptimeOption<Box<[bf16]>>,
    squares: &mut ComptimeOption<Box<[f32]>>,
    residual: &ComptimeOption<Box<[Y]>>,
    y: &mut [Y],
    first_row: u32,
    rows: u32,
    first_feature: u32,
    own_feature: u32,
    stride: u32,
    first: u32,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    let units = comptime!(tile.warps() * WARP);
    let pitch = comptime!(tile.pitch());
    let all_features = comptime!(shape.n + shape.more[0] + shape.more[1]);
    let each = comptime!(tile.each(shape.weights));
    let batch = comptime!(if each < BATCH { each as usize } else { BATCH as usize });
    // Columns of `y` that a workgroup has are side by side, or are those of halves of heads.
    let turns = comptime!(shape.half > 0) && first_feature < comptime!(shape.turned);
    let mut own_sums = Array::<f32>::new(batch);
    let mut before = Array::<f32>::new(batch);
    let mut offsets = Array::<f32>::new(batch);
    let mut scales = Array::<f32>::new(batch);
    let mut up_factors = Array::<f32>::new(batch);
    let mut cosines = Array::<f32>::new(batch);
    let mut sines = Array::<f32>::new(batch);
    let mut other_offsets = Array::<f32>::new(batch);
    let mut own_factors = Array::<f32>::new(batch);
    let mut own_parts = Array::<f32>::new(batch);
    let mut batches = comptime!(each / batch as u32).runtime();
    let number = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let size = comptime!(tile.rows * tile.columns);
    let first_part = number * comptime!(size * tile.splits);
    if comptime!(parts.is_some()) {
        let parts = parts.as_ref().unwrap();
        let counters = counters.as_ref().unwrap();
        if !is_last(shared, parts, counters, number, shape) {
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
            let n = column_of(at % features, first_feature, own_feature, shape);
            if comptime!(parts.is_some()) {
                let parts = parts.as_ref().unwrap();
                let mut sum = 0.0f32;
                #[unroll]
                for s in 0..comptime!(tile.splits) {
                    sum += load(parts, first_part + comptime!(s * size) + at);
                }
                own_sums[e] = sum;
            }
            if comptime!(shape.scaled) {
                own_factors[e] = f32::reinterpret(shared[(factors + at / features) as usize]);
            }
            before[e] = 0.0f32;
            offsets[e] = 0.0f32;
            scales[e] = 0.0f32;
            up_factors[e] = 0.0f32;
            if comptime!(cos.is_some()) {
                cosines[e] = 1.0f32;
                sines[e] = 0.0f32;
                if turns && m < rows {
                    let (_feature, angle) = turned_feature(own_feature, at % features, features, shape);
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
            let n = column_of(at % features, first_feature, own_feature, shape);
            own_parts[e] = 0.0f32;
            if m < rows && n < all_features {
                let from = at / features * pitch + at % features;
                let mut value =
                    if comptime!(parts.is_some()) { own_sums[e] } else { sum_of(shared, from, shape) };
                if comptime!(x_scales.is_some()) {
                    value *= scales[e];
                }
                if comptime!(shape.scaled) {
                    value *= own_factors[e];
                }
                if comptime!(shape.weights > 1) {
                    let mut up = sum_of(shared, from + features, shape);
                    if comptime!(up_scales.is_some()) {
                        up *= up_factors[e];
                    }
                    if comptime!(shape.scaled) {
                        up *= own_factors[e];
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
                        let mut other = sum_of(shared, other, shape);
                        if comptime!(shape.scaled) {
                            other *= own_factors[e];
                        }
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
                if comptime!(weighted.is_some()) {
                    let weighted = weighted.as_mut().unwrap();
                    let own = f32::cast_from(Y::cast_from(value));
                    let gain = f32::reinterpret(shared[(factors + at % features) as usize]);
                    weighted[(m * stride + n) as usize] = bf16::cast_from(own * gain);
                    own_parts[e] = own * own;
                }
            }
            if comptime!(weighted.is_some()) {
                // A warp has neighbours of one row.
                let squares = squares.as_mut().unwrap();
                let own = own_parts[e];
                let total = warp_sum(own);
                if UNIT_POS_X % WARP == 0 && m < rows && n < all_features {
                    let to = m * comptime!(Linear::squares(shape.n)) + n / Linear::SQUARES;
                    squares[to as usize] = total;
                }
            }
        }
    }
}

/// Puts the sums where all workgroups that share them look, and says whether the workgroup is the last to come.
#[cube]
fn is_last(
    shared: &mut [u32],
    parts: &[f32],
    counters: &[i32],
    number: u32,
    #[comptime] shape: Shape,
) -> bool {
    let tile = comptime!(shape.tile);
    let units = comptime!(tile.warps() * WARP);
    let size = comptime!(tile.rows * tile.columns);
    let own = number * comptime!(size * tile.splits) + CUBE_POS_Z * size;
    for i in 0..comptime!(size / units).runtime() {
        let at = i * units + UNIT_POS_X;
        let from = at / tile.columns * comptime!(tile.pitch()) + at % tile.columns;
        store(parts, own + at, sum_of(shared, from, shape));
    }
    fence();
    sync_cube();
    // By a unit with others on either side: so the host's runner misses either barrier.
    if UNIT_POS_X == comptime!(units / 2) {
        shared[0] = count(counters, number);
    }
    sync_cube();
    let last = shared[0] == comptime!(tile.splits - 1);
    if last {
        // All have come, and the next launch begins anew.
        if UNIT_POS_X == comptime!(units / 2) {
            reset(counters, number);
        }
        fence();
    }
    last
}

/// The column of the result, before `first`, of column `column` of the tile.
#[cube]
fn column_of(column: u32, first_feature: u32, own_feature: u32, #[comptime] shape: Shape) -> u32 {
    let features = comptime!(shape.tile.columns / shape.weights);
    let mut n = first_feature + column;
    if comptime!(shape.half > 0) {
        if first_feature < comptime!(shape.turned) {
            let (feature, _angle) = turned_feature(own_feature, column, features, shape);
            n = first_feature - own_feature + feature;
        }
    }
    n
}

/// By what the columns of a tile are multiplied for a norm, to `at` in shared memory.
#[cube]
pub(crate) fn column_gains(
    gain: &[f32],
    shared: &mut [u32],
    at: u32,
    first_feature: u32,
    #[comptime] shape: Shape,
) {
    let mut column = UNIT_POS_X;
    while column < shape.tile.columns {
        let mut own = 0.0f32;
        if first_feature + column < shape.n {
            own = gain[(first_feature + column) as usize];
        }
        shared[(at + column) as usize] = u32::reinterpret(own);
        column += comptime!(shape.tile.warps() * WARP);
    }
}

/// By what the rows of a tile are multiplied, `1 / sqrt(mean(x^2) + eps)`, to `at` in shared memory: four units add up the sums
/// of a row.
#[cube]
pub(crate) fn row_factors(
    squares: &[Vector<f32, Const<4>>],
    shared: &mut [u32],
    at: u32,
    first_row: u32,
    rows: u32,
    eps: f32,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let units = comptime!(tile.warps() * WARP);
    let columns = comptime!(shape.k * shape.multiplied.in_chunk());
    let sums = comptime!(columns / Linear::SQUARES);
    let fours = comptime!(Linear::squares(columns) / 4);
    let lane = UNIT_POS_X % 4u32;
    #[unroll]
    for i in 0..comptime!((4 * tile.rows).div_ceil(units)) {
        let row = UNIT_POS_X / 4u32 + comptime!(i * units / 4);
        let m = first_row + row;
        let mut own = Array::<f32>::new(1usize);
        own[0] = 0.0f32;
        #[unroll]
        for j in 0..comptime!(fours.div_ceil(4)) {
            let four = lane + comptime!(4 * j);
            if m < rows && four < fours {
                let part = squares[(m * fours + four) as usize];
                #[unroll]
                for e in 0..4usize {
                    // Behind the last there is room, and nothing in it.
                    let there = four * 4u32 + comptime!(e as u32) < sums;
                    own[0] += select(there, part.extract(e), 0.0f32);
                }
            }
        }
        let one = own[0];
        let two = one + shuffle(one, 1u32);
        let four = two + shuffle(two, 2u32);
        if lane == 0 && row < tile.rows {
            let factor = 1.0f32 / f32::sqrt(four / comptime!(columns as f32) + eps);
            shared[(at + row) as usize] = u32::reinterpret(factor);
        }
    }
}

/// A sum, of all slices in order.
#[cube]
fn sum_of(shared: &mut [u32], at: u32, #[comptime] shape: Shape) -> f32 {
    let mut sum = f32::reinterpret(shared[at as usize]);
    #[unroll]
    for s in 1..comptime!(shape.tile.slices) {
        let apart = comptime!(s * shape.tile.rows * shape.tile.pitch());
        sum += f32::reinterpret(shared[(at + apart) as usize]);
    }
    sum
}

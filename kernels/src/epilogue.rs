//! What is done to the sums of a matmul on matrix units, once they stand in shared memory: from there they go to memory row by
//! row, four neighbours of a unit at once, in batches, of which everything that is added is read before anything is written.

use crate::linear::Linear;
use crate::math::{activate, silu};
use crate::matrix::{Shape, turned_feature};
use crate::ptx::{WARP, count, fence, load, reset, shuffle, store};
use crate::tile::BATCH;
use cubecl::prelude::*;
use half::bf16;

/// Neighbours that a unit has at once.
pub(crate) const FOUR: u32 = 4;
type Four = Vector<f32, Const<4>>;

/// See the module. `factors`: where in shared memory stands what rows or columns are multiplied by. The other arguments are those of the
/// kernel, and where in its rows and features the workgroup begins.
#[cube]
pub(crate) fn epilogue<Y: Float>(
    shared: &mut [u32],
    factors: u32,
    x_scales: &ComptimeOption<Box<[f32]>>,
    weight_scales: &ComptimeOption<Box<[f32]>>,
    up_scales: &ComptimeOption<Box<[f32]>>,
    second_scales: &ComptimeOption<Box<[f32]>>,
    third_scales: &ComptimeOption<Box<[f32]>>,
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
    part: u32,
    stride: u32,
    first: u32,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let features = comptime!(tile.columns / shape.weights);
    let units = comptime!(tile.warps() * WARP);
    let pitch = comptime!(tile.pitch());
    let all_features = comptime!(shape.n + shape.more[0] + shape.more[1]);
    let in_tile = comptime!(tile.rows * features / FOUR);
    let batch = comptime!(if in_tile > units { BATCH } else { 1 });
    let mut batches = comptime!(in_tile.div_ceil(batch * units)).runtime();
    // Columns of `y` that a workgroup has are side by side, or are those of halves of heads.
    let turns = comptime!(shape.half > 0) && first_feature < comptime!(shape.turned);
    // Whether four neighbours can be read and written at once.
    let fours = comptime!(shape.n % FOUR == 0 && shape.more[0] % FOUR == 0 && shape.more[1] % FOUR == 0)
        && stride % FOUR == 0u32
        && first % FOUR == 0u32;
    let list = comptime!(batch as usize);
    let mut own_sums = Array::<Four>::new(list);
    let mut before = Array::<Four>::new(list);
    let mut offsets = Array::<Four>::new(list);
    let mut scales = Array::<Four>::new(list);
    let mut up_factors = Array::<Four>::new(list);
    let mut cosines = Array::<Four>::new(list);
    let mut sines = Array::<Four>::new(list);
    let mut other_offsets = Array::<Four>::new(list);
    let mut own_factors = Array::<f32>::new(list);
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
        let at = b * comptime!(batch * units) + UNIT_POS_X;
        // What is read is read before anything is written, lest every write be waited for.
        #[unroll]
        for e in 0..list {
            let (row, column) = place_of(at + comptime!(e as u32 * units), in_tile, features);
            let m = select(at + comptime!(e as u32 * units) < in_tile, first_row + row, rows);
            let n = column_of(column, first_feature, own_feature, shape);
            own_sums[e] = Four::zeroed();
            before[e] = Four::zeroed();
            offsets[e] = Four::zeroed();
            scales[e] = Four::zeroed();
            up_factors[e] = Four::zeroed();
            cosines[e] = Four::new(1.0f32);
            sines[e] = Four::zeroed();
            other_offsets[e] = Four::zeroed();
            own_factors[e] = 1.0f32;
            if comptime!(shape.scaled) {
                own_factors[e] = f32::reinterpret(shared[(factors + row) as usize]);
            }
            if m < rows && n < all_features {
                let there = all_features - n;
                if comptime!(parts.is_some()) {
                    let parts = parts.as_ref().unwrap();
                    let own = first_part + row * tile.columns + column;
                    #[unroll]
                    for s in 0..comptime!(tile.splits) {
                        own_sums[e] += load(parts, own + comptime!(s * size));
                    }
                }
                if comptime!(cos.is_some()) {
                    if turns {
                        let (_feature, angle) = turned_feature(own_feature, column, features, shape);
                        let angle = m * comptime!(shape.half) + angle;
                        cosines[e] = read(cos.as_ref().unwrap(), angle, FOUR, true);
                        sines[e] = read(sin.as_ref().unwrap(), angle, FOUR, true);
                        if comptime!(bias.is_some()) {
                            // The features that these are turned with.
                            let other = select(
                                column < comptime!(features / 2),
                                n + comptime!(shape.half),
                                n - comptime!(shape.half),
                            );
                            other_offsets[e] = read(bias.as_ref().unwrap(), first + other, FOUR, fours);
                        }
                    }
                }
                let from = m * stride + first + n;
                if comptime!(shape.in_place) {
                    before[e] = read(&*y, from, there, fours);
                }
                if comptime!(residual.is_some()) {
                    before[e] = read(residual.as_ref().unwrap(), from, there, fours);
                }
                if comptime!(bias.is_some()) {
                    offsets[e] = read(bias.as_ref().unwrap(), first + n, there, fours);
                }
                if comptime!(x_scales.is_some()) {
                    let of_row = Four::new(x_scales.as_ref().unwrap()[m as usize]);
                    // Which feature of its own weight it is.
                    let own = n - (first_feature - own_feature);
                    if comptime!(second_scales.is_none()) {
                        scales[e] = of_row * read(weight_scales.as_ref().unwrap(), own, there, fours);
                    } else {
                        if part == 0u32 {
                            scales[e] = of_row * read(weight_scales.as_ref().unwrap(), own, there, fours);
                        } else if part == 1u32 {
                            scales[e] = of_row * read(second_scales.as_ref().unwrap(), own, there, fours);
                        }
                    }
                    if comptime!(third_scales.is_some()) {
                        if part == 2u32 {
                            scales[e] = of_row * read(third_scales.as_ref().unwrap(), own, there, fours);
                        }
                    }
                    if comptime!(up_scales.is_some()) {
                        up_factors[e] = of_row * read(up_scales.as_ref().unwrap(), n, there, fours);
                    }
                }
            }
        }
        #[unroll]
        for e in 0..list {
            let (row, column) = place_of(at + comptime!(e as u32 * units), in_tile, features);
            let m = select(at + comptime!(e as u32 * units) < in_tile, first_row + row, rows);
            let n = column_of(column, first_feature, own_feature, shape);
            let mut own_square = Array::<f32>::new(1usize);
            own_square[0] = 0.0f32;
            if m < rows && n < all_features {
                let there = all_features - n;
                let from = row * pitch + column;
                let factor = Four::new(own_factors[e]);
                let mut value = own_sums[e];
                if comptime!(parts.is_none()) {
                    value = sums_of(shared, from, shape);
                }
                if comptime!(x_scales.is_some()) {
                    value *= scales[e];
                }
                if comptime!(shape.scaled) {
                    value *= factor;
                }
                if comptime!(shape.weights > 1) {
                    let mut up = sums_of(shared, from + features, shape);
                    if comptime!(up_scales.is_some()) {
                        up *= up_factors[e];
                    }
                    if comptime!(shape.scaled) {
                        up *= factor;
                    }
                    #[unroll]
                    for i in 0..4usize {
                        value.insert(i, silu(value.extract(i)) * up.extract(i));
                    }
                }
                if comptime!(bias.is_some()) {
                    value += offsets[e];
                }
                if comptime!(cos.is_some()) {
                    if turns {
                        let near = column < comptime!(features / 2);
                        let other =
                            select(near, from + comptime!(features / 2), from - comptime!(features / 2));
                        let mut other = sums_of(shared, other, shape);
                        if comptime!(shape.scaled) {
                            other *= factor;
                        }
                        if comptime!(bias.is_some()) {
                            other += other_offsets[e];
                        }
                        #[unroll]
                        for i in 0..4usize {
                            // Both as they would lie in memory.
                            let own = f32::cast_from(Y::cast_from(value.extract(i)));
                            let other = f32::cast_from(Y::cast_from(other.extract(i)));
                            let across = select(near, 0.0f32 - other, other) * sines[e].extract(i);
                            value.insert(i, own * cosines[e].extract(i) + across);
                        }
                    }
                }
                if comptime!(shape.activation.is_some()) {
                    #[unroll]
                    for i in 0..4usize {
                        value.insert(i, activate(value.extract(i), shape.activation));
                    }
                }
                if comptime!(residual.is_some() || shape.in_place) {
                    value += before[e];
                }
                write(y, m * stride + first + n, value, there, fours);
                if comptime!(weighted.is_some()) {
                    let mut gained = Four::zeroed();
                    #[unroll]
                    for i in 0..4usize {
                        let own = f32::cast_from(Y::cast_from(value.extract(i)));
                        let gain =
                            f32::reinterpret(shared[(factors + column + comptime!(i as u32)) as usize]);
                        gained.insert(i, own * gain);
                        own_square[0] += own * own;
                    }
                    write(weighted.as_mut().unwrap(), m * stride + n, gained, there, fours);
                }
            }
            if comptime!(weighted.is_some()) {
                // Eight units have the neighbours of one row that are added up.
                let squares = squares.as_mut().unwrap();
                let four = own_square[0];
                let eight = four + shuffle(four, 1u32);
                let half = eight + shuffle(eight, 2u32);
                let all = half + shuffle(half, 4u32);
                if UNIT_POS_X % 8u32 == 0 && m < rows && n < all_features {
                    let to = m * comptime!(Linear::squares(shape.n)) + n / Linear::SQUARES;
                    squares[to as usize] = all;
                }
            }
        }
    }
}

/// Four neighbours from `index` on, of which `there` are there: at once, or one by one where rows are no whole fours.
#[cube]
fn read<F: Float>(from: &[F], index: u32, there: u32, fours: bool) -> Four {
    let mut all = Four::zeroed();
    if fours {
        let four = from.as_vectorized().with_vector_size::<Const<4>>()[(index / FOUR) as usize];
        #[unroll]
        for i in 0..4usize {
            all.insert(i, f32::cast_from(four.extract(i)));
        }
    } else {
        #[unroll]
        for i in 0..4usize {
            if comptime!(i as u32) < there {
                all.insert(i, f32::cast_from(from[(index + comptime!(i as u32)) as usize]));
            }
        }
    }
    all
}

/// The way back of [`read`].
#[cube]
fn write<F: Float>(to: &mut [F], index: u32, values: Four, there: u32, fours: bool) {
    if fours {
        let mut four = Vector::<F, Const<4>>::zeroed();
        #[unroll]
        for i in 0..4usize {
            four.insert(i, F::cast_from(values.extract(i)));
        }
        to.as_vectorized_mut().with_vector_size_mut::<Const<4>>()[(index / FOUR) as usize] = four;
    } else {
        #[unroll]
        for i in 0..4usize {
            if comptime!(i as u32) < there {
                to[(index + comptime!(i as u32)) as usize] = F::cast_from(values.extract(i));
            }
        }
    }
}

/// The row of the tile and the first of the columns of four neighbours. Of tiles that are no whole batches the last has less: then
/// others in their stead.
#[cube]
fn place_of(at: u32, #[comptime] in_tile: u32, #[comptime] features: u32) -> (u32, u32) {
    let at = min(at, comptime!(in_tile - 1));
    (at / comptime!(features / FOUR), at % comptime!(features / FOUR) * FOUR)
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
    for i in 0..comptime!(size / FOUR / units).runtime() {
        let at = (i * units + UNIT_POS_X) * FOUR;
        let from = at / tile.columns * comptime!(tile.pitch()) + at % tile.columns;
        store(parts, own + at, sums_of(shared, from, shape));
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

/// Four sums, of all slices in order.
#[cube]
fn sums_of(shared: &mut [u32], at: u32, #[comptime] shape: Shape) -> Four {
    let words = shared.as_vectorized().with_vector_size::<Const<4>>();
    let mut sums = Four::reinterpret(words[(at / FOUR) as usize]);
    #[unroll]
    for s in 1..comptime!(shape.tile.slices) {
        let apart = comptime!(s * shape.tile.rows * shape.tile.pitch() / FOUR);
        sums += Four::reinterpret(words[(at / FOUR + apart) as usize]);
    }
    sums
}

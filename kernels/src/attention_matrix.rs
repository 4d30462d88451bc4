//! [`Attention`](crate::Attention) on matrix units, in 16 bits: scores, maxima and sums in f32, weights rounded to the type of the
//! values.
//!
//! A workgroup has 64 queries of one head, a warp 16 of them, whose fragments it keeps. Keys come through shared memory 64 at
//! a time, and values behind them: while the ones are multiplied the others are on their way. A unit has scores and
//! results of two queries, `group` and `group + 8`; the four units of a quad have a query together, and agree about its
//! maximum in two exchanges. Weights go from the sums of the one product to the rows of the other without leaving the unit
//! (FlashAttention-2, Dao 2023): a unit has the same columns of both.
//!
//! Tiles of which no query sees any key are passed over, which the lowest and the highest segment of either say
//! (`segments.rs`). Where all queries and all keys of a tile have one segment, no mask is looked at. Keys and values of mask 0 are read as zeros,
//! whatever stands there.
//!
//! Rows in shared memory are an odd number of 16 bytes long, so that eight of them lie in different banks.

use crate::attention::{Attention, segment_of};
use crate::emit::{Access, Element, Extent};
use crate::kernel::Float as Dtype;
use crate::ptx::{
    CHUNK, Multiplied, WARP, address, commit, copy, fragments, multiply, pack, power_of_2, shuffle,
    turned_fragments, wait,
};
use crate::record::Recorder;
use crate::segments::among;
use cubecl::prelude::*;

/// Queries of a workgroup.
pub(crate) const QUERIES: u32 = 64;
/// Keys of a tile.
pub(crate) const KEYS: u32 = 64;
/// Units of a workgroup.
pub(crate) const UNITS: u32 = QUERIES / 16 * WARP;

/// The maximum of no scores, below every score that is one.
const LOWEST: f32 = -2.0e38;
/// A score that does not count: 2 to the power of what is left of it above any maximum is 0.
const UNSEEN: f32 = -3.0e38;

/// What the kernel is made for. Lengths of rows are in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    heads: u32,
    group: u32,
    dim: u32,
    /// Between two positions of q, of k, of v.
    strides: [u32; 3],
    /// Where k and v begin in a position.
    firsts: [u32; 2],
    /// Whether queries stand where an index says.
    rows: bool,
    multiplied: Multiplied,
}

/// Bytes between two rows in shared memory.
const fn pitch(dim: u32) -> u32 {
    ((dim * 2 / CHUNK) | 1) * CHUNK
}

/// Bytes of shared memory: for a tile of keys, and for one of values.
pub(crate) const fn shared_bytes(dim: u32) -> u32 {
    2 * KEYS * pitch(dim)
}

pub(crate) fn launch(attention: &Attention, r: &Recorder) {
    let Attention { float, heads, kv_heads, head_dim, packed, rows, .. } = *attention;
    let grid = [
        Extent::Ceil { of: if rows { "taken" } else { "positions" }, per: QUERIES, any: false },
        Extent::Constant(heads),
        Extent::each("rows"),
    ];
    let chunks = |heads: u32| heads * head_dim * 2 / CHUNK;
    let (strides, firsts) = if packed {
        ([chunks(heads + 2 * kv_heads); 3], [chunks(heads), chunks(heads + kv_heads)])
    } else {
        ([chunks(heads), chunks(kv_heads), chunks(kv_heads)], [0, 0])
    };
    let (words, multiplied) = match float {
        Dtype::F16 => (Element::F16x2, Multiplied::F16),
        Dtype::BF16 | Dtype::F32 => (Element::BF16x2, Multiplied::BF16),
    };
    let group = heads / kv_heads;
    let shape = Shape { heads, group, dim: head_dim, strides, firsts, rows, multiplied };
    let units = CubeDim::new_1d(UNITS);
    let read = |name, element| r.declared(name, element, Access::Read);
    #[allow(unsafe_code, reason = "launches are recorded, not run")]
    // SAFETY: the recording server reads and writes no memory.
    unsafe {
        if packed {
            attend_packed::launch_unchecked(
                r.client(),
                r.grid(grid),
                units,
                read("qkv", words),
                read("mask", Element::I32),
                read("segments", Element::I32),
                r.declared("y", words, Access::Write),
                r.int("rows"),
                r.int("positions"),
                shape,
            );
        } else if rows {
            attend_rows::launch_unchecked(
                r.client(),
                r.grid(grid),
                units,
                read("q", words),
                read("k", words),
                read("v", words),
                read("mask", Element::I32),
                read("segments", Element::I32),
                read("index", Element::I32),
                r.declared("y", words, Access::Write),
                r.int("rows"),
                r.int("positions"),
                r.int("taken"),
                shape,
            );
        } else {
            attend_apart::launch_unchecked(
                r.client(),
                r.grid(grid),
                units,
                read("q", words),
                read("k", words),
                read("v", words),
                read("mask", Element::I32),
                read("segments", Element::I32),
                r.declared("y", words, Access::Write),
                r.int("rows"),
                r.int("positions"),
                shape,
            );
        }
    }
}

#[cube(launch_unchecked)]
fn attend_apart(
    q: &[Vector<u32, Const<1>>],
    k: &[Vector<u32, Const<1>>],
    v: &[Vector<u32, Const<1>>],
    mask: &[i32],
    segments: &[Vector<i32, Const<1>>],
    y: &mut [u32],
    _rows: u32,
    positions: u32,
    #[comptime] shape: Shape,
) {
    // Every position has a query: there is no index to read, and any buffer may stand for it.
    attend(q, k, v, mask, segments, mask, y, positions, positions, shape);
}

#[cube(launch_unchecked)]
fn attend_rows(
    q: &[Vector<u32, Const<1>>],
    k: &[Vector<u32, Const<1>>],
    v: &[Vector<u32, Const<1>>],
    mask: &[i32],
    segments: &[Vector<i32, Const<1>>],
    index: &[i32],
    y: &mut [u32],
    _rows: u32,
    positions: u32,
    taken: u32,
    #[comptime] shape: Shape,
) {
    attend(q, k, v, mask, segments, index, y, positions, taken, shape);
}

#[cube(launch_unchecked)]
fn attend_packed(
    qkv: &[Vector<u32, Const<1>>],
    mask: &[i32],
    segments: &[Vector<i32, Const<1>>],
    y: &mut [u32],
    _rows: u32,
    positions: u32,
    #[comptime] shape: Shape,
) {
    attend(qkv, qkv, qkv, mask, segments, mask, y, positions, positions, shape);
}

#[cube]
fn attend(
    q: &[Vector<u32, Const<1>>],
    k: &[Vector<u32, Const<1>>],
    v: &[Vector<u32, Const<1>>],
    mask: &[i32],
    segments: &[Vector<i32, Const<1>>],
    index: &[i32],
    y: &mut [u32],
    positions: u32,
    taken: u32,
    #[comptime] shape: Shape,
) {
    let q = q.with_vector_size::<Const<4>>();
    let k = k.with_vector_size::<Const<4>>();
    let v = v.with_vector_size::<Const<4>>();
    let segments = segments.with_vector_size::<Const<4>>();
    // The batch row's first tile.
    let tiles = CUBE_POS_Z * ((positions + comptime!(KEYS - 1)) / KEYS);
    let dim = comptime!(shape.dim);
    let chunks = comptime!(dim * 2 / CHUNK);
    let pitch = comptime!(pitch(shape.dim));
    let shared =
        Shared::<[u32]>::new_aligned_slice(comptime!((shared_bytes(shape.dim) / 4) as usize), 128usize);
    let keys_at = address(&shared);
    // The queries come here first: they are kept in fragments before the first values come.
    let values_at = keys_at + comptime!(KEYS * pitch);

    let head = CUBE_POS_Y;
    let base = CUBE_POS_Z * positions;
    // Where the batch row's queries begin.
    let own_base = if comptime!(shape.rows) { CUBE_POS_Z * taken } else { base };
    let first_query = CUBE_POS_X * QUERIES;
    let lane = UNIT_POS_X % WARP;
    let warp_query = UNIT_POS_X / WARP * 16u32;
    let group = lane / 4u32;
    let quad = lane % 4u32;

    #[unroll]
    for i in 0..comptime!(QUERIES * chunks / UNITS) {
        let at = UNIT_POS_X + comptime!(i * UNITS);
        let row = at / chunks;
        let from = (own_base + first_query + row) * comptime!(shape.strides[0]) + head * chunks + at % chunks;
        let to = values_at + row * pitch + at % chunks * CHUNK;
        copy(q, from, to, select(first_query + row < taken, CHUNK, 0u32));
    }
    let queries = if comptime!(shape.rows) {
        segments_taken(mask, index, base, own_base, first_query, taken, positions)
    } else {
        segments_of(segments, tiles + CUBE_POS_X)
    };
    let key_head = head / shape.group * chunks;
    let mut first_key = next(segments, queries, tiles, 0u32, positions);
    if first_key < positions {
        let column = key_head + comptime!(shape.firsts[0]);
        fetch(k, mask, keys_at, base, first_key, positions, column, comptime!(shape.strides[1]), shape);
    }
    commit();
    wait(0u32);
    sync_cube();
    let steps = comptime!((dim / 16) as usize);
    let mut own = Array::<Vector<u32, Const<4>>>::new(steps);
    let row_at = values_at + (warp_query + lane % 16u32) * pitch + lane / 16u32 * CHUNK;
    #[unroll]
    for d in 0..steps {
        own[d] = fragments(row_at + comptime!(d as u32 * 2 * CHUNK));
    }
    // Of the unit's two queries.
    let mut own_segments = Array::<i32>::new(2usize);
    let mut largest = Array::<f32>::new(2usize);
    let mut totals = Array::<f32>::new(2usize);
    #[unroll]
    for r in 0..2usize {
        let row = first_query + warp_query + group + comptime!(r as u32 * 8);
        own_segments[r] = 0i32;
        if row < taken {
            own_segments[r] = segment_of(mask, index, base, own_base, row, positions, comptime!(shape.rows));
        }
        largest[r] = f32::new(LOWEST);
        totals[r] = 0.0f32;
    }
    let across = comptime!((dim / 8) as usize);
    let mut sums = Array::<Vector<f32, Const<4>>>::new(across);
    #[unroll]
    for j in 0..across {
        sums[j] = Vector::<f32, Const<4>>::zeroed();
    }
    let scores_across = comptime!((KEYS / 8) as usize);
    // Of a power of 2.
    let scale = comptime!(core::f32::consts::LOG2_E / (shape.dim as f32).sqrt());
    let key_at = keys_at + (lane / 16u32 * 8u32 + lane % 8u32) * pitch + lane / 8u32 % 2u32 * CHUNK;
    let value_at = values_at + lane % 16u32 * pitch + lane / 16u32 * CHUNK;

    while first_key < positions {
        // The keys are here, and all have read what stands where the values will.
        wait(0u32);
        sync_cube();
        let column = key_head + comptime!(shape.firsts[1]);
        fetch(v, mask, values_at, base, first_key, positions, column, comptime!(shape.strides[2]), shape);
        commit();
        let mut scores = Array::<Vector<f32, Const<4>>>::new(scores_across);
        #[unroll]
        for j in 0..scores_across {
            scores[j] = Vector::<f32, Const<4>>::zeroed();
        }
        #[unroll]
        for d in 0..steps {
            #[unroll]
            for j in 0..comptime!(scores_across / 2) {
                let words = fragments(key_at + comptime!(j as u32 * 16 * pitch + d as u32 * 2 * CHUNK));
                #[unroll]
                for second in 0..2usize {
                    let features =
                        (words.extract(comptime!(2 * second)), words.extract(comptime!(2 * second + 1)));
                    let at = comptime!(2 * j + second);
                    scores[at] = multiply(own[d], features, scores[at], comptime!(shape.multiplied));
                }
            }
        }
        let keys = segments_of(segments, tiles + first_key / KEYS);
        let one = queries.0 == keys.0 && queries.1 == keys.1 && keys.0 == keys.1 && queries.2 && keys.2;
        let mut weights = Array::<u32>::new(comptime!(2 * scores_across));
        let mut now = Array::<f32>::new(2usize);
        #[unroll]
        for r in 0..2usize {
            now[r] = largest[r];
        }
        if !one {
            #[unroll]
            for j in 0..scores_across {
                let mut seen = scores[j];
                #[unroll]
                for e in 0..2usize {
                    let key = first_key + comptime!(j as u32 * 8 + e as u32) + quad * 2u32;
                    let mut segment = 0i32;
                    if key < positions {
                        segment = mask[(base + key) as usize];
                    }
                    #[unroll]
                    for r in 0..2usize {
                        let score = seen.extract(comptime!(2 * r + e));
                        let counts = segment != 0 && segment == own_segments[r];
                        seen.insert(comptime!(2 * r + e), select(counts, score, UNSEEN));
                    }
                }
                scores[j] = seen;
            }
        }
        #[unroll]
        for j in 0..scores_across {
            #[unroll]
            for e in 0..4usize {
                now[comptime!(e / 2)] = max(now[comptime!(e / 2)], scores[j].extract(e));
            }
        }
        #[unroll]
        for r in 0..2usize {
            let own = now[r];
            let two = max(own, shuffle(own, 1u32));
            let four = max(two, shuffle(two, 2u32));
            let correction = power_of_2((largest[r] - four) * scale);
            largest[r] = four;
            now[r] = four * scale;
            totals[r] *= correction;
            #[unroll]
            for j in 0..across {
                let mut both = sums[j];
                both.insert(comptime!(2 * r), both.extract(comptime!(2 * r)) * correction);
                both.insert(comptime!(2 * r + 1), both.extract(comptime!(2 * r + 1)) * correction);
                sums[j] = both;
            }
        }
        #[unroll]
        for j in 0..scores_across {
            #[unroll]
            for r in 0..2usize {
                let mut powers = Array::<f32>::new(2usize);
                #[unroll]
                for e in 0..2usize {
                    let score = scores[j].extract(comptime!(2 * r + e));
                    powers[e] = power_of_2(fma(score, scale, -now[r]));
                    totals[r] += powers[e];
                }
                weights[comptime!(2 * j + r)] = pack(powers[1], powers[0], comptime!(shape.multiplied));
            }
        }
        let after = next(segments, queries, tiles, first_key + KEYS, positions);
        // The values are here, and all have read the keys.
        wait(0u32);
        sync_cube();
        if after < positions {
            let column = key_head + comptime!(shape.firsts[0]);
            fetch(k, mask, keys_at, base, after, positions, column, comptime!(shape.strides[1]), shape);
        }
        commit();
        #[unroll]
        for d in 0..comptime!((KEYS / 16) as usize) {
            let mut rows = Array::<Vector<u32, Const<4>>>::new(1usize);
            let mut words = Vector::<u32, Const<4>>::zeroed();
            #[unroll]
            for i in 0..4usize {
                words.insert(i, weights[comptime!(4 * d + i)]);
            }
            rows[0] = words;
            #[unroll]
            for j in 0..comptime!(across / 2) {
                let words =
                    turned_fragments(value_at + comptime!(d as u32 * 16 * pitch + j as u32 * 2 * CHUNK));
                #[unroll]
                for second in 0..2usize {
                    let features =
                        (words.extract(comptime!(2 * second)), words.extract(comptime!(2 * second + 1)));
                    let at = comptime!(2 * j + second);
                    sums[at] = multiply(rows[0], features, sums[at], comptime!(shape.multiplied));
                }
            }
        }
        first_key = after;
    }
    #[unroll]
    for r in 0..2usize {
        let row = first_query + warp_query + group + comptime!(r as u32 * 8);
        let own = totals[r];
        let two = own + shuffle(own, 1u32);
        let total = two + shuffle(two, 2u32);
        // A query of a segment sees itself at least.
        let nowhere = own_segments[r] == 0;
        let inverse = 1.0f32 / total;
        if row < taken {
            let to = (own_base + row) * comptime!(shape.heads * dim / 2) + head * comptime!(dim / 2) + quad;
            #[unroll]
            for j in 0..across {
                let low = select(nowhere, 0.0f32, sums[j].extract(comptime!(2 * r)) * inverse);
                let high = select(nowhere, 0.0f32, sums[j].extract(comptime!(2 * r + 1)) * inverse);
                y[(to + comptime!(j as u32 * 4)) as usize] = pack(high, low, comptime!(shape.multiplied));
            }
        }
    }
}

/// The lowest and the highest segment of a tile of positions, and whether every one has one.
#[cube]
fn segments_of(segments: &[Vector<i32, Const<4>>], tile: u32) -> (i32, i32, bool) {
    let found = segments[tile as usize];
    (found.extract(0usize), found.extract(1usize), found.extract(2usize) == 1i32)
}

/// The same of 64 queries that stand where an index says; a warp finds them together.
#[cube]
fn segments_taken(
    mask: &[i32],
    index: &[i32],
    base: u32,
    own_base: u32,
    first: u32,
    taken: u32,
    positions: u32,
) -> (i32, i32, bool) {
    let mut own = Array::<i32>::new(2usize);
    #[unroll]
    for i in 0..2u32 {
        let row = first + UNIT_POS_X % WARP + comptime!(i * WARP);
        own[i as usize] = 0i32;
        if row < taken {
            own[i as usize] = segment_of(mask, index, base, own_base, row, positions, true);
        }
    }
    let (least, most, every) = among(own[0], own[1]);
    (least, most, every == 1i32)
}

/// The first key from `first` on, a tile's first, that begins a tile of which some query may see some key; behind the
/// last there is none.
#[cube]
fn next(
    segments: &[Vector<i32, Const<4>>],
    queries: (i32, i32, bool),
    tiles: u32,
    first: u32,
    positions: u32,
) -> u32 {
    let mut at = first;
    let mut met = false;
    while !met && at < positions {
        let keys = segments_of(segments, tiles + at / KEYS);
        met = keys.0 <= queries.1 && keys.1 >= queries.0;
        if !met {
            at += KEYS;
        }
    }
    at
}

/// Begins to copy 64 positions from `first` on; zeros where the mask is 0, and behind the last.
#[cube]
fn fetch(
    from: &[Vector<u32, Const<4>>],
    mask: &[i32],
    to: u32,
    base: u32,
    first: u32,
    positions: u32,
    column: u32,
    #[comptime] stride: u32,
    #[comptime] shape: Shape,
) {
    let chunks = comptime!(shape.dim * 2 / CHUNK);
    #[unroll]
    for i in 0..comptime!(KEYS * chunks / UNITS) {
        let at = UNIT_POS_X + comptime!(i * UNITS);
        let row = at / chunks;
        let position = first + row;
        let mut there = false;
        if position < positions {
            there = mask[(base + position) as usize] != 0;
        }
        let index = (base + position) * stride + column + at % chunks;
        copy(
            from,
            index,
            to + row * comptime!(pitch(shape.dim)) + at % chunks * CHUNK,
            select(there, CHUNK, 0u32),
        );
    }
}

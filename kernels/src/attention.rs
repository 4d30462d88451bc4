//! Attention of every position to every position of its own segment, with an online softmax. Here by units; `attention_matrix.rs`
//! has the same for matrix units.
//!
//! `softmax(q k^T / sqrt(head_dim)) v`, query head `h` with key head `h / (heads / kv_heads)`. Buffers `q` `[B, S, heads *
//! head_dim]`, `k` and `v` `[B, S, kv_heads * head_dim]`, or one `qkv` `[B, S, (heads + 2 kv_heads) * head_dim]`; `mask` i32
//! `[B, S]`, `y` like `q`; scalars `rows` (B), `positions` (S). A query sees the keys whose mask is its own; rows of mask
//! 0 come out as 0. On matrix units also `segments`, what [`Segments`](crate::Segments) finds in the mask. Scores, maxima, sums and results in f32.
//!
//! Queries at some rows: `q` and `y` are `[B, taken, heads * head_dim]`, and a buffer `index` i32 `[B, taken]` says at which
//! position each stands; a further scalar is `taken`. Those that stand nowhere come out as 0.
//!
//! A workgroup has the queries of one tile and one head, and goes through the keys in tiles; keys and values take turns
//! in one part of shared memory, and keys of which no query sees any are passed over. A unit has one score of a tile, and `head_dim / keys` columns of the result. Made for 28
//! + 4 heads of 128 and 16 heads of 80.

use crate::attention_matrix::{self, KEYS, QUERIES};
use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::record::Recorder;
use crate::target::{Capabilities, Target};
use crate::tile::MatrixTile;
use cubecl::prelude::*;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attention {
    /// Type of queries, keys, values and results.
    pub float: Dtype,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Dimensions of a head, 2 to 256; 16 to 128 and a multiple of 16 on matrix units.
    pub head_dim: u32,
    /// Whether q, k and v are column ranges of one buffer.
    pub packed: bool,
    /// Whether only some positions have a query, by an index; not packed.
    pub rows: bool,
    /// What computes it.
    pub engine: AttentionEngine,
}

/// What computes it, in which tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttentionEngine {
    /// Units, one product after the other: on every target, for all types.
    Units {
        /// Queries of a tile.
        queries: u32,
        /// Keys of a tile; divides the dimensions of a head.
        keys: u32,
    },
    /// Matrix units, where the target has them for the type; tiles of 64 queries and 64 keys.
    Matrix,
}

/// What the kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    heads: u32,
    group: u32,
    dim: u32,
    queries: u32,
    keys: u32,
    /// Elements between two positions of q, of k, of v.
    strides: [u32; 3],
    /// Where k and v begin in a position.
    firsts: [u32; 2],
    /// Whether queries stand where an index says.
    rows: bool,
}

impl Attention {
    /// On matrix units if the target has them, else with the largest tile that it has room for, if any.
    pub fn fitted(
        float: Dtype,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        packed: bool,
        rows: bool,
        target: &Target,
    ) -> Option<Attention> {
        let tiles = [(32, 32), (32, 16), (16, 16), (32, 8), (16, 8), (8, 8), (8, 4), (8, 2)];
        let engines = [AttentionEngine::Matrix]
            .into_iter()
            .chain(tiles.map(|(queries, keys)| AttentionEngine::Units { queries, keys }));
        engines
            .map(|engine| Attention { float, heads, kv_heads, head_dim, packed, rows, engine })
            .find(|kernel| kernel.lacks(target).is_none() && kernel.check(target.capabilities()).is_ok())
    }

    /// What it needs beyond its float types and `target` does not have.
    pub(crate) fn lacks(&self, target: &Target) -> Option<String> {
        let has = self.engine != AttentionEngine::Matrix
            || (target.capabilities().matrix.contains(&self.float) && MatrixTile::runs(target));
        (!has).then(|| format!("matrices of {} for attention", self.float.name()))
    }

    pub(crate) fn name(&self) -> String {
        let form = match (self.packed, self.rows) {
            (true, _) => "_packed",
            (false, true) => "_rows",
            (false, false) => "",
        };
        format!(
            "{}_attention{form}_h{}kv{}d{}_{}",
            self.float.name(),
            self.heads,
            self.kv_heads,
            self.head_dim,
            match self.engine {
                AttentionEngine::Units { queries, keys } => format!("tile{queries}x{keys}"),
                AttentionEngine::Matrix => format!("matrix{QUERIES}x{KEYS}"),
            }
        )
    }

    pub(crate) fn check(&self, capabilities: &Capabilities) -> Result<(), String> {
        let Attention { heads, kv_heads, head_dim, packed, rows, engine, .. } = *self;
        if packed && rows {
            return Err("queries at some rows are not packed with keys".to_owned());
        }
        if kv_heads == 0 || heads == 0 || heads % kv_heads != 0 {
            return Err(format!("{heads} query heads do not share {kv_heads} key heads"));
        }
        let bytes = match engine {
            AttentionEngine::Units { queries, keys } => {
                if !(2..=256).contains(&head_dim) || keys == 0 || head_dim % keys != 0 {
                    return Err(format!("{head_dim} dimensions are not 2 to 256 in parts of {keys}"));
                }
                if queries == 0 || queries * keys > capabilities.units_max {
                    let most = capabilities.units_max;
                    return Err(format!("a tile of {queries}x{keys} has more than {most} units"));
                }
                4 * ((queries + keys) * (head_dim + 1) + queries * keys)
            }
            AttentionEngine::Matrix => {
                if !(16..=128).contains(&head_dim) || head_dim % 16 != 0 {
                    return Err(format!("{head_dim} dimensions are not 16 to 128 in steps of 16"));
                }
                attention_matrix::shared_bytes(head_dim)
            }
        };
        if bytes > capabilities.shared_bytes {
            return Err(format!(
                "{bytes} bytes of shared memory, the target has {}",
                capabilities.shared_bytes
            ));
        }
        Ok(())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let Attention { float, heads, kv_heads, head_dim, packed, rows, engine } = *self;
        let AttentionEngine::Units { queries, keys } = engine else {
            return attention_matrix::launch(self, r);
        };
        let grid = [
            Extent::Ceil { of: if rows { "taken" } else { "positions" }, per: queries, any: false },
            Extent::Constant(heads),
            Extent::each("rows"),
        ];
        let (strides, firsts) = if packed {
            ([(heads + 2 * kv_heads) * head_dim; 3], [heads * head_dim, (heads + kv_heads) * head_dim])
        } else {
            ([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], [0, 0])
        };
        let group = heads / kv_heads;
        let shape = Shape { heads, group, dim: head_dim, queries, keys, strides, firsts, rows };
        let units = CubeDim::new_1d(queries * keys);
        let element = float.element();
        if packed {
            floats!((float => F) => attend_packed::launch_unchecked::<F>(
                r.client(),
                r.grid(grid),
                units,
                r.buffer("qkv", element),
                r.buffer("mask", Element::I32),
                r.buffer("y", element),
                r.int("rows"),
                r.int("positions"),
                shape,
            ));
        } else if rows {
            floats!((float => F) => attend_rows::launch_unchecked::<F>(
                r.client(),
                r.grid(grid),
                units,
                r.buffer("q", element),
                r.buffer("k", element),
                r.buffer("v", element),
                r.buffer("mask", Element::I32),
                r.buffer("index", Element::I32),
                r.buffer("y", element),
                r.int("rows"),
                r.int("positions"),
                r.int("taken"),
                shape,
            ));
        } else {
            floats!((float => F) => attend_apart::launch_unchecked::<F>(
                r.client(),
                r.grid(grid),
                units,
                r.buffer("q", element),
                r.buffer("k", element),
                r.buffer("v", element),
                r.buffer("mask", Element::I32),
                r.buffer("y", element),
                r.int("rows"),
                r.int("positions"),
                shape,
            ));
        }
    }
}

#[cube(launch_unchecked)]
fn attend_apart<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    mask: &[i32],
    y: &mut [F],
    _rows: u32,
    positions: u32,
    #[comptime] shape: Shape,
) {
    // Every position has a query: there is no index to read, and any buffer may stand for it.
    attend(q, k, v, mask, mask, y, positions, positions, shape);
}

#[cube(launch_unchecked)]
fn attend_rows<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    mask: &[i32],
    index: &[i32],
    y: &mut [F],
    _rows: u32,
    positions: u32,
    taken: u32,
    #[comptime] shape: Shape,
) {
    attend(q, k, v, mask, index, y, positions, taken, shape);
}

#[cube(launch_unchecked)]
fn attend_packed<F: Float>(
    qkv: &[F],
    mask: &[i32],
    y: &mut [F],
    _rows: u32,
    positions: u32,
    #[comptime] shape: Shape,
) {
    attend(qkv, qkv, qkv, mask, mask, y, positions, positions, shape);
}

/// Below every score.
const LOWEST: f32 = -1.0e30;

#[cube]
fn attend<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    mask: &[i32],
    index: &[i32],
    y: &mut [F],
    positions: u32,
    taken: u32,
    #[comptime] shape: Shape,
) {
    let dim = comptime!(shape.dim);
    let keys = comptime!(shape.keys);
    // One more than needed, so that neighbouring rows begin in different banks.
    let pitch = comptime!(dim + 1);
    // One block: the generator would put several in an order that differs from run to run.
    let k_first = comptime!(shape.queries * pitch);
    let p_first = comptime!(k_first + keys * pitch);
    let mut tiles = Shared::<[f32]>::new_slice(comptime!((p_first + shape.queries * keys) as usize));
    let parts = comptime!((dim / keys) as usize);
    let mut sums = Array::<f32>::new(parts);
    #[unroll]
    for c in 0..parts {
        sums[c] = 0.0f32;
    }

    let head = CUBE_POS_Y;
    let base = CUBE_POS_Z * positions;
    // Where the batch row's queries begin.
    let own_base = if comptime!(shape.rows) { CUBE_POS_Z * taken } else { base };
    let first_query = CUBE_POS_X * shape.queries;
    let own_query = UNIT_POS_X / keys;
    let own_key = UNIT_POS_X % keys;
    let row = first_query + own_query;
    let mut segment = 0i32;
    if row < taken {
        segment = segment_of(mask, index, base, own_base, row, positions, comptime!(shape.rows));
    }
    let scale = comptime!(1.0f32 / (shape.dim as f32).sqrt());
    fetch(
        q,
        &mut tiles,
        0u32,
        own_base,
        first_query,
        taken,
        head * dim,
        shape.queries,
        comptime!(shape.strides[0]),
        scale,
        shape,
    );

    // The segments of the tile's queries lie between these two.
    let queries = segments(
        mask,
        index,
        base,
        own_base,
        first_query,
        taken,
        positions,
        shape.queries,
        comptime!(shape.rows),
    );
    let lowest_query = queries.0;
    let highest_query = queries.1;

    let key_head = head / shape.group * dim;
    let mut largest = f32::new(LOWEST);
    let mut total = 0.0f32;
    let mut first_key = 0u32;
    while first_key < positions {
        // Keys of other segments cost no more than this look at their masks: so each of several images costs what it
        // costs alone. It is the same for all units, who meet at every exchange all the same.
        let others = segments(mask, mask, base, base, first_key, positions, positions, keys, false);
        let met = others.0 <= highest_query && others.1 >= lowest_query;
        if met {
            let k_column = key_head + comptime!(shape.firsts[0]);
            fetch(
                k,
                &mut tiles,
                k_first,
                base,
                first_key,
                positions,
                k_column,
                keys,
                comptime!(shape.strides[1]),
                1.0f32,
                shape,
            );
        }
        sync_cube();
        let mut score = f32::new(LOWEST);
        let key = first_key + own_key;
        let mut visible = false;
        if key < positions {
            visible = segment != 0 && mask[(base + key) as usize] == segment;
        }
        if visible {
            score = 0.0f32;
            for i in 0..dim {
                score +=
                    tiles[(own_query * pitch + i) as usize] * tiles[(k_first + own_key * pitch + i) as usize];
            }
        }
        tiles[(p_first + UNIT_POS_X) as usize] = score;
        sync_cube();
        // All have read the keys: the values take their place.
        if met {
            let v_column = key_head + comptime!(shape.firsts[1]);
            fetch(
                v,
                &mut tiles,
                k_first,
                base,
                first_key,
                positions,
                v_column,
                keys,
                comptime!(shape.strides[2]),
                1.0f32,
                shape,
            );
        }
        let mut now_largest = largest;
        for j in 0..keys {
            now_largest = max(now_largest, tiles[(p_first + own_query * keys + j) as usize]);
        }
        // Where nothing was visible yet, what is scaled is 0.
        let correction = f32::exp(max(largest - now_largest, -80.0f32));
        largest = now_largest;
        sync_cube();
        let mut p = 0.0f32;
        if visible {
            // In bits: what NaN is a power of is a GPU compiler's business.
            let bits = u32::reinterpret(score);
            let finite = bits & 0x7fff_ffffu32 < 0x7f80_0000u32;
            p = select(finite, f32::exp(score - largest), f32::reinterpret(bits | 0x7fc0_0000u32));
        }
        tiles[(p_first + UNIT_POS_X) as usize] = p;
        sync_cube();
        total *= correction;
        #[unroll]
        for c in 0..parts {
            sums[c] *= correction;
        }
        if met {
            for j in 0..keys {
                let p = tiles[(p_first + own_query * keys + j) as usize];
                // What is not seen may be anything, and no number times 0 is none either.
                if u32::reinterpret(p) != 0u32 {
                    total += p;
                    let at = (k_first + j * pitch + own_key) as usize;
                    #[unroll]
                    for c in 0..parts {
                        sums[c] += p * tiles[at + comptime!(c * keys as usize)];
                    }
                }
            }
        }
        // The next keys take the place of the values.
        sync_cube();
        first_key += keys;
    }
    if row < taken {
        // Written so that what is no number stays none.
        let inverse = select(total == 0.0f32, 0.0f32, 1.0f32 / total);
        let to = ((own_base + row) * comptime!(shape.heads * dim) + head * dim + own_key) as usize;
        #[unroll]
        for c in 0..parts {
            y[to + comptime!(c * keys as usize)] = F::cast_from(sums[c] * inverse);
        }
    }
}

/// The segment of a query or key: of its own position, or of that which the index says; 0 where there is none.
#[cube]
pub(crate) fn segment_of(
    mask: &[i32],
    index: &[i32],
    base: u32,
    own_base: u32,
    row: u32,
    positions: u32,
    #[comptime] by_index: bool,
) -> i32 {
    if comptime!(by_index) {
        let mut segment = 0i32;
        let at = index[(own_base + row) as usize];
        if at >= 0 && u32::cast_from(at) < positions {
            segment = mask[(base + u32::cast_from(at)) as usize];
        }
        segment
    } else {
        mask[(base + row) as usize]
    }
}

/// The lowest and the highest segment among `count` rows from `first` on; none if the lowest is above the highest.
#[cube]
fn segments(
    mask: &[i32],
    index: &[i32],
    base: u32,
    own_base: u32,
    first: u32,
    rows: u32,
    positions: u32,
    #[comptime] count: u32,
    #[comptime] by_index: bool,
) -> (i32, i32) {
    let mut lowest = i32::new(0x7fff_ffff);
    let mut highest = i32::new(-0x8000_0000);
    for i in first..min(first + count, rows) {
        let segment = segment_of(mask, index, base, own_base, i, positions, by_index);
        if segment != 0 {
            lowest = min(lowest, segment);
            highest = max(highest, segment);
        }
    }
    (lowest, highest)
}

/// Puts `count` positions from `first` on into `to` from `at` on, `[count, dim + 1]`; 0 behind the last.
#[cube]
fn fetch<F: Float>(
    from: &[F],
    to: &mut [f32],
    #[comptime] at: u32,
    base: u32,
    first: u32,
    positions: u32,
    column: u32,
    #[comptime] count: u32,
    #[comptime] stride: u32,
    scale: f32,
    #[comptime] shape: Shape,
) {
    let dim = comptime!(shape.dim);
    let mut i = UNIT_POS_X;
    while i < count * dim {
        let r = i / dim;
        let c = i % dim;
        let mut value = 0.0f32;
        if first + r < positions {
            value = f32::cast_from(from[((base + first + r) * stride + column + c) as usize]) * scale;
        }
        to[(at + r * (dim + 1) + c) as usize] = value;
        i += comptime!(shape.queries * shape.keys);
    }
}

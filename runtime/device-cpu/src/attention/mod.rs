//! Bidirectional attention with online softmax: memory grows with S, not with S squared.
//!
//! First every key and value head is packed into panels, keys rotated. Then each block of queries of
//! one head goes over the keys in tiles, keeping the running maximum and sum of each row. Tiles that hold no
//! key of the block's segments are left out, so many short segments do not cost the square of their sum.
//!
//! Two families of kernels: [`wide`] multiplies f32 on every instruction set, [`pairs`] multiplies bf16.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon_matrix;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod pairs;
mod wide;

use crate::context::{Context, Need};
use crate::isa::Isa;
use crate::memory::{Buf, Shared};
use crate::rows;
use dreamc_num::DType;
use dreamc_runtime::DeviceError;

/// Queries of a task at most: a multiple of every strip height.
const QUERIES: usize = 48;
/// Keys of a tile.
const KEYS: usize = 128;
/// Keys that one task packs; packed keys are a multiple of it.
const CHUNK: usize = 64;
/// What the keys that a tile computes are a multiple of.
const STEP: usize = 32;
/// Angles of a rotation loaded at a time.
const ANGLES: usize = 64;

/// One attention.
#[derive(Clone, Copy)]
pub(crate) struct Attention {
    /// With the first column of each, since they may be ranges of one tensor.
    pub(crate) q: (Buf, usize),
    pub(crate) k: (Buf, usize),
    pub(crate) v: (Buf, usize),
    pub(crate) mask: Buf,
    pub(crate) rope: Option<(Buf, Buf)>,
    /// Where each query stands, if not all positions have one.
    pub(crate) index: Option<Buf>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) out: Buf,
}

/// Which kernels compute an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// f32 products.
    Wide,
    /// Pairs of bf16, sums of f32.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Pairs,
}

impl Family {
    /// For operands of `dtype`.
    fn select(isa: Isa, dtype: DType, d: usize) -> Family {
        match (isa, dtype) {
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            (Isa::Avx512Bf16 | Isa::NeonMatrix, DType::BF16) if d <= pairs::HEAD_DIM_MAX => Family::Pairs,
            _ => {
                let _ = d;
                Family::Wide
            }
        }
    }

    /// Floats of the packed keys and values of one head.
    fn head_floats(self, s: usize, d: usize) -> usize {
        let keys = s.next_multiple_of(CHUNK);
        let wide = keys * (d + d.next_multiple_of(16));
        match self {
            Family::Wide => wide,
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Family::Pairs => wide / 2,
        }
    }

    /// Floats of a worker.
    fn worker_floats(self, d: usize) -> usize {
        match self {
            Family::Wide => wide::worker_floats(d),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Family::Pairs => pairs::worker_floats(d),
        }
    }
}

/// Scratch of an attention over `s` positions with operands of `dtype` and heads of `d` columns.
pub(crate) fn need(isa: Isa, dtype: DType, batch: usize, s: usize, kv_heads: usize, d: usize) -> Need {
    let family = Family::select(isa, dtype, d);
    let ranges = batch * s.div_ceil(KEYS) * size_of::<Range>() / 4;
    let shared = batch * kv_heads * family.head_floats(s, d) + ranges;
    Need { shared, worker: family.worker_floats(d) }
}

/// The segments of some rows, `low > high` if there is none.
#[derive(Clone, Copy)]
#[repr(C)]
struct Range {
    low: i32,
    high: i32,
    /// Rows that belong to none.
    none: i32,
}

impl Range {
    fn of(segments: impl Iterator<Item = i32>) -> Range {
        let empty = Range { low: i32::MAX, high: i32::MIN, none: 0 };
        segments.fold(empty, |Range { low, high, none }, segment| match segment {
            0 => Range { low, high, none: none + 1 },
            _ => Range { low: low.min(segment), high: high.max(segment), none },
        })
    }
}

/// Runs it.
pub(crate) fn run(context: &Context<'_>, attention: &Attention) -> Result<(), DeviceError> {
    let (batch, s) = (attention.mask.shape.dims()[0] as usize, attention.mask.shape.dims()[1] as usize);
    let (d, kv_heads, dtype) = (attention.head_dim, attention.kv_heads, attention.q.0.dtype);
    let r = attention.out.shape.dims()[1] as usize;
    if attention.index.is_some() {
        (0..batch * r).try_for_each(|row| attention.position(row / r, row % r).map(|_| ()))?;
    }
    let isa = context.isa;
    let family = Family::select(isa, dtype, d);
    let (head_floats, worker_floats) = (family.head_floats(s, d), family.worker_floats(d));
    let packed = context.shared(need(isa, dtype, batch, s, kv_heads, d).shared);
    // SAFETY: inside the scratch, whose size was just checked: it ends with the ranges.
    let ranges = Shared(unsafe { packed.get().add(batch * kv_heads * head_floats).cast::<Range>() });
    let head = |i: usize| {
        // SAFETY: inside the scratch, whose size was just checked.
        Shared(unsafe { packed.get().add(i * head_floats) })
    };
    let (tiles, chunks) = (s.div_ceil(KEYS), s.div_ceil(CHUNK));
    let split = Split::new(context, batch * kv_heads, chunks);
    split.run(context, &|i, chunk, worker| {
        // SAFETY: this task's worker; the last task's borrow has ended.
        let scratch = unsafe { context.worker(worker, worker_floats) };
        let first = chunk * CHUNK;
        let (b, h) = (i / kv_heads, i % kv_heads);
        match family {
            Family::Wide => wide::pack(isa, attention, b, h, first, head(i), scratch),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            // SAFETY: the family is for hosts that have the instructions.
            Family::Pairs => unsafe { pairs::pack(attention, b, h, first, head(i), scratch) },
        }
        if h == 0 && first.is_multiple_of(KEYS) {
            let keys = b * s + first..b * s + s.min(first + KEYS);
            let range = Range::of(keys.map(|row| attention.mask.get(row)));
            // SAFETY: the range of this tile, which this task alone writes.
            unsafe { *ranges.get().add(b * tiles + first / KEYS) = range };
        }
    });
    // As even as may be, so that the last block is no shorter than the others.
    let blocks = r.div_ceil(QUERIES);
    let rows = r.div_ceil(blocks.max(1));
    let group = attention.heads / kv_heads;
    let split = Split::new(context, batch * attention.heads, blocks);
    split.run(context, &|i, block, worker| {
        // SAFETY: as above.
        let scratch = unsafe { context.worker(worker, worker_floats) };
        let first = block * rows;
        let (b, h) = (i / attention.heads, i % attention.heads);
        let keys = head(b * kv_heads + h / group);
        // SAFETY: the ranges of this batch row, which are complete and no longer written.
        let ranges = unsafe { std::slice::from_raw_parts(ranges.get().add(b * tiles), tiles) };
        let block = Block::new(attention, b, h, first, rows.min(r.saturating_sub(first)), ranges);
        match family {
            Family::Wide => wide::queries(isa, isa, attention, &block, keys, scratch),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            // SAFETY: the family is for hosts that have the instructions.
            Family::Pairs => unsafe { pairs::queries(attention, &block, keys, scratch) },
        }
    });
    Ok(())
}

/// Heads times pieces of their rows, parts of which follow the rows.
struct Split {
    heads: usize,
    pieces: usize,
    of_part: usize,
}

impl Split {
    fn new(context: &Context<'_>, heads: usize, pieces: usize) -> Split {
        Split { heads, pieces, of_part: pieces.div_ceil(context.pool.parts(pieces, 1)).max(1) }
    }

    /// Runs `job(head, piece, worker)` for all of them.
    fn run(&self, context: &Context<'_>, job: &(dyn Fn(usize, usize, usize) + Sync)) {
        let Split { heads, pieces, of_part } = *self;
        context.pool.run_parts(pieces.div_ceil(of_part), heads * of_part, &|task, worker| {
            let (part, task) = (task / (heads * of_part), task % (heads * of_part));
            let piece = part * of_part + task % of_part;
            if piece < pieces {
                job(task / of_part, piece, worker);
            }
        });
    }
}

impl Attention {
    /// Positions of a batch row.
    fn positions(&self) -> usize {
        self.mask.shape.dims()[1] as usize
    }

    /// The position at which row `row` of a batch row's queries stands, counted over the whole batch.
    fn position(&self, b: usize, row: usize) -> Result<usize, DeviceError> {
        let s = self.positions();
        let at = match &self.index {
            None => row,
            Some(index) => rows::pick(index.get(b * index.columns() + row), s)?,
        };
        Ok(b * s + at)
    }

    /// Loads head `head` of row `row` of one operand, which stands at position `at`, rotated if asked for; zeros
    /// where masked.
    #[inline(always)]
    fn load_head(
        &self,
        x: &(Buf, usize),
        (row, at): (usize, usize),
        head: usize,
        rotate: bool,
        out: &mut [f32],
    ) {
        if self.mask.get::<i32>(at) == 0 {
            out.fill(0.0);
            return;
        }
        let d = self.head_dim;
        x.0.load(row * x.0.columns() + x.1 + head * d, out);
        if let (true, Some((cos, sin))) = (rotate, &self.rope) {
            let (first, second) = out.split_at_mut(d / 2);
            let (mut c, mut s) = ([0.0_f32; ANGLES], [0.0_f32; ANGLES]);
            let halves = first.chunks_mut(ANGLES).zip(second.chunks_mut(ANGLES));
            for (i, (first, second)) in halves.enumerate() {
                let (n, from) = (first.len(), at * (d / 2) + i * ANGLES);
                cos.load(from, &mut c[..n]);
                sin.load(from, &mut s[..n]);
                for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(c.iter().zip(&s)) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
    }
}

/// A block of queries of one head and the tiles of keys that they may see.
struct Block<'r> {
    /// Of the batch.
    b: usize,
    head: usize,
    /// The first query.
    first: usize,
    rows: usize,
    /// The position of each query.
    positions: [usize; QUERIES],
    /// The segment of each query. Those of none see what the lowest segment sees and are set to 0 in the end; so are
    /// those whose index changed since it was looked at.
    segments: [i32; QUERIES],
    none: [bool; QUERIES],
    low: i32,
    high: i32,
    ranges: &'r [Range],
}

/// What a block sees of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Nothing,
    /// Keys of each row's own segment.
    Some,
    /// Every key, which are all of one segment, as all queries.
    All,
}

impl<'r> Block<'r> {
    fn new(
        attention: &Attention,
        b: usize,
        head: usize,
        first: usize,
        rows: usize,
        ranges: &'r [Range],
    ) -> Block<'r> {
        let (mut positions, mut segments) = ([usize::MAX; QUERIES], [0_i32; QUERIES]);
        for r in 0..rows {
            let Ok(at) = attention.position(b, first + r) else {
                continue;
            };
            (positions[r], segments[r]) = (at, attention.mask.get(at));
        }
        let none = segments.map(|segment| segment == 0);
        let own = &mut segments[..rows];
        let Range { low, high, .. } = Range::of(own.iter().copied());
        own.iter_mut().filter(|own| **own == 0).for_each(|own| *own = low);
        Block { b, head, first, rows, positions, segments, none, low, high, ranges }
    }

    /// The row of query `r`, counted over the whole batch.
    fn row(&self, attention: &Attention, r: usize) -> usize {
        self.b * attention.out.shape.dims()[1] as usize + self.first + r
    }

    /// The row of query `r` and the position at which it stands, if it is of a segment.
    #[inline(always)]
    fn query(&self, attention: &Attention, r: usize) -> Option<(usize, usize)> {
        let row = self.row(attention, r);
        (!self.none[r]).then_some((row, self.positions[r]))
    }

    /// What of the keys from `key` on, a whole tile, the block sees; their segments are written to `theirs` unless
    /// all or nothing is seen. Keys behind the last one are of none.
    #[inline(always)]
    fn sees(&self, attention: &Attention, key: usize, theirs: &mut [i32; KEYS]) -> Sight {
        let (s, range) = (attention.positions(), self.ranges[key / KEYS]);
        if self.low > range.high || self.high < range.low {
            return Sight::Nothing;
        }
        // One segment on each side is the same one, as the ranges meet.
        let several = self.low < self.high || range.low < range.high;
        let n = KEYS.min(s - key);
        if !several && range.none == 0 && n.is_multiple_of(STEP) {
            return Sight::All;
        }
        for (j, segment) in theirs[..n].iter_mut().enumerate() {
            *segment = attention.mask.get(self.b * s + key + j);
        }
        theirs[n..].fill(0);
        if several && !self.meets(theirs) {
            return Sight::Nothing;
        }
        Sight::Some
    }

    /// Whether a key is of a query's segment.
    fn meets(&self, theirs: &[i32; KEYS]) -> bool {
        let mut last = None;
        self.segments[..self.rows].iter().any(|own| {
            // Neighbours are mostly of one segment, which was looked for already.
            last.replace(*own) != Some(*own) && theirs.iter().fold(false, |met, key| met | (key == own))
        })
    }

    /// Whether the result of query `r` is 0, its weights adding up to `total`.
    #[inline(always)]
    fn is_empty(&self, r: usize, total: f32) -> bool {
        self.none[r] || total == 0.0
    }

    /// Writes the result of query `r`, the sum of `sums` by weights whose own sum is `total`.
    #[inline(always)]
    fn store(&self, attention: &Attention, r: usize, sums: &mut [f32], total: f32) {
        if self.is_empty(r, total) {
            sums.fill(0.0);
        } else {
            let inverse = 1.0 / total;
            sums.iter_mut().for_each(|v| *v *= inverse);
        }
        let out = &attention.out;
        out.store(self.row(attention, r) * out.columns() + self.head * attention.head_dim, sums);
    }
}

/// The keys to compute of a tile that starts at `key`.
fn tile_keys(s: usize, key: usize) -> usize {
    KEYS.min(s - key).next_multiple_of(STEP)
}

//! Bidirectional attention with online softmax: memory grows with S, not with S squared.
//!
//! First every key and value head is packed into panels, keys rotated. Then each block of queries of
//! one head goes over the keys in tiles, keeping the running maximum and sum of each row. Tiles that hold no
//! key of the block's segments are left out, so many short segments do not cost the square of their sum.

use crate::context::{Context, Need};
use crate::isa::{Isa, per_isa};
use crate::math::exp;
use crate::matmul::micro::{Micro, Tile};
use crate::memory::{Buf, Shared};
use crate::rows;
use dreamc_num::DType;
use dreamc_runtime::DeviceError;

/// Queries of a task: a multiple of every strip height.
const QUERIES: usize = 48;
/// Keys of a tile.
const KEYS: usize = 128;

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

/// Floats of the packed keys and values of one head.
fn head_floats(s: usize, d: usize) -> usize {
    let keys = s.next_multiple_of(KEYS);
    keys * d + keys * d.next_multiple_of(16)
}

/// Floats of a worker: queries, scores, packed probabilities, sums, and two numbers per query.
fn worker_floats(d: usize) -> usize {
    QUERIES * (d + 2 * KEYS + d.next_multiple_of(16) + 2)
}

/// Words of the lowest and the highest segment of every tile of keys.
fn range_words(batch: usize, s: usize) -> usize {
    batch * s.div_ceil(KEYS) * 2
}

/// Scratch of an attention.
pub(crate) fn need(batch: usize, s: usize, kv_heads: usize, d: usize) -> Need {
    let shared = batch * kv_heads * head_floats(s, d) + range_words(batch, s);
    Need { shared, worker: worker_floats(d) + d }
}

/// The lowest and the highest segment of some rows; nothing lies between them if there is none.
fn range(segments: impl Iterator<Item = i32>) -> [i32; 2] {
    let segments = segments.filter(|segment| *segment != 0);
    segments.fold([i32::MAX, i32::MIN], |[low, high], segment| [low.min(segment), high.max(segment)])
}

impl Attention {
    /// The position at which row `row` of a batch row's queries stands, counted over the whole batch.
    fn position(&self, b: usize, row: usize) -> Result<usize, DeviceError> {
        let s = self.mask.shape.dims()[1] as usize;
        let at = match &self.index {
            None => row,
            Some(index) => rows::pick(index.get(b * index.columns() + row), s)?,
        };
        Ok(b * s + at)
    }
}

/// Runs it.
pub(crate) fn run(context: &Context<'_>, attention: &Attention) -> Result<(), DeviceError> {
    let (batch, s) = (attention.mask.shape.dims()[0] as usize, attention.mask.shape.dims()[1] as usize);
    let (d, kv_heads) = (attention.head_dim, attention.kv_heads);
    let r = attention.out.shape.dims()[1] as usize;
    if attention.index.is_some() {
        (0..batch * r).try_for_each(|row| attention.position(row / r, row % r).map(|_| ()))?;
    }
    let packed = context.shared(need(batch, s, kv_heads, d).shared);
    // SAFETY: inside the scratch, whose size was just checked: it ends with the ranges.
    let ranges = Shared(unsafe { packed.get().add(batch * kv_heads * head_floats(s, d)).cast::<[i32; 2]>() });
    let head = |i: usize| {
        // SAFETY: inside the scratch, whose size was just checked.
        Shared(unsafe { packed.get().add(i * head_floats(s, d)) })
    };
    let tiles = s.div_ceil(KEYS);
    context.pool.run(batch * kv_heads * tiles, &|task, worker| {
        // SAFETY: this task's worker; the last task's borrow has ended.
        let row = unsafe { context.worker(worker, d) };
        let (i, tile) = (task / tiles, task % tiles);
        let (b, h) = (i / kv_heads, i % kv_heads);
        pack_keys(context.isa, attention, b, h, tile * KEYS, head(i), row);
        if h == 0 {
            let keys = b * s + tile * KEYS..b * s + s.min((tile + 1) * KEYS);
            // SAFETY: range `b * tiles + tile`, which this task alone writes.
            unsafe { *ranges.get().add(b * tiles + tile) = range(keys.map(|row| attention.mask.get(row))) };
        }
    });
    let blocks = r.div_ceil(QUERIES);
    let group = attention.heads / kv_heads;
    context.pool.run(batch * attention.heads * blocks, &|task, worker| {
        // SAFETY: as above.
        let scratch = unsafe { context.worker(worker, worker_floats(d) + d) };
        let (i, block) = (task / blocks, task % blocks);
        let (b, h) = (i / attention.heads, i % attention.heads);
        let keys = head(b * kv_heads + h / group);
        // SAFETY: the ranges of this batch row, which are complete and no longer written.
        let ranges = unsafe { std::slice::from_raw_parts(ranges.get().add(b * tiles), tiles) };
        queries(context.isa, context.isa, attention, b, h, block * QUERIES, keys, ranges, scratch);
    });
    Ok(())
}

/// Loads head `head` of row `row` of one operand, which stands at position `at`, rotated if asked for; zeros where masked.
#[inline(always)]
fn load_head(
    attention: &Attention,
    x: &(Buf, usize),
    (row, at): (usize, usize),
    head: usize,
    rotate: bool,
    out: &mut [f32],
) {
    if attention.mask.get::<i32>(at) == 0 {
        out.fill(0.0);
        return;
    }
    let d = attention.head_dim;
    x.0.load(row * x.0.columns() + x.1 + head * d, out);
    if let (true, Some((cos, sin))) = (rotate, &attention.rope) {
        let (first, second) = out.split_at_mut(d / 2);
        for (j, (a, b)) in first.iter_mut().zip(second).enumerate() {
            let (c, s) = (cos.get::<f32>(at * (d / 2) + j), sin.get::<f32>(at * (d / 2) + j));
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

per_isa! {
    /// Packs one tile of keys as `[keys / 16][d][16]` and of values as `[d / 16][keys][16]`.
    fn pack_keys(attention: &Attention, b: usize, head: usize, first: usize, to: Shared<f32>, row: &mut [f32]) {
        let (d, s) = (attention.head_dim, attention.mask.shape.dims()[1] as usize);
        let keys = s.next_multiple_of(KEYS);
        for j in first..first + KEYS {
            let load = |x: &(Buf, usize), rotate: bool, row: &mut [f32]| {
                if j < s {
                    load_head(attention, x, (b * s + j, b * s + j), head, rotate, row);
                } else {
                    row.fill(0.0);
                }
            };
            load(&attention.k, true, row);
            for (i, v) in row.iter().enumerate() {
                // SAFETY: the keys are the first `keys * d` floats of the head.
                unsafe { *to.get().add((j / 16 * d + i) * 16 + j % 16) = *v };
            }
            load(&attention.v, false, row);
            for i in 0..d.next_multiple_of(16) {
                // SAFETY: the values are the floats after them.
                unsafe {
                    let v = row.get(i).copied().unwrap_or(0.0);
                    *to.get().add(keys * d + (i / 16 * keys + j) * 16 + i % 16) = v;
                }
            }
        }
    }
}

/// `c = a x panels`, `a` packed in strips of `steps` steps; `panel` finds a panel.
#[expect(clippy::too_many_arguments, reason = "the parts of one product")]
fn multiply(
    micro: &Micro,
    steps: usize,
    rows: usize,
    a: &[f32],
    panels: usize,
    panel: impl Fn(usize) -> *const f32,
    c: (&mut [f32], usize),
    resume: bool,
) {
    let (c, c_stride) = c;
    for first in (0..panels).step_by(micro.panels) {
        let count = micro.panels.min(panels - first);
        for strip in (0..rows).step_by(micro.rows) {
            let b = |i: usize| panel(first + i).cast::<u32>();
            // SAFETY: `a` holds whole strips, `c` rows of `c_stride` floats, the panels `steps` steps.
            unsafe {
                (micro.run)(&Tile {
                    steps,
                    a: a[strip * steps..].as_ptr().cast(),
                    b: [b(0), b(count - 1)],
                    c: c[strip * c_stride + first * 16..].as_mut_ptr(),
                    c_stride,
                    rows: micro.rows.min(rows - strip),
                    panels: count,
                    resume,
                });
            }
        }
    }
}

per_isa! {
    /// One block of queries of one head over all keys.
    fn queries(of: Isa, attention: &Attention, b: usize, head: usize, first: usize, keys: Shared<f32>, ranges: &[[i32; 2]], scratch: &mut [f32]) {
        let (d, s) = (attention.head_dim, attention.mask.shape.dims()[1] as usize);
        let (padded, keys_max) = (d.next_multiple_of(16), s.next_multiple_of(KEYS));
        let r_max = attention.out.shape.dims()[1] as usize;
        let rows = QUERIES.min(r_max - first);
        let micro = Micro::select(of, DType::F32, DType::F32);
        let (q, scratch) = scratch.split_at_mut(QUERIES * d);
        let (scores, scratch) = scratch.split_at_mut(QUERIES * KEYS);
        let (p, scratch) = scratch.split_at_mut(QUERIES * KEYS);
        let (sums, scratch) = scratch.split_at_mut(QUERIES * padded);
        let (largest, scratch) = scratch.split_at_mut(QUERIES);
        let (total, row) = scratch.split_at_mut(QUERIES);
        let row = &mut row[..d];

        let scale = 1.0 / (d as f32).sqrt();
        // The position of each query and its segment. Queries of none see what the first segment sees and are set to 0 in
        // the end; so are those whose index changed since it was looked at.
        let (mut positions, mut segments) = ([usize::MAX; QUERIES], [0_i32; QUERIES]);
        for r in 0..rows {
            let Ok(at) = attention.position(b, first + r) else {
                continue;
            };
            (positions[r], segments[r]) = (at, attention.mask.get(at));
        }
        for r in 0..rows {
            if segments[r] == 0 {
                row.fill(0.0);
            } else {
                let at = (b * r_max + first + r, positions[r]);
                load_head(attention, &attention.q, at, head, true, row);
            }
            for (i, v) in row.iter().enumerate() {
                q[(r / micro.rows * d + i) * micro.rows + r % micro.rows] = v * scale;
            }
        }
        sums.fill(0.0);
        total.fill(0.0);
        largest.fill(f32::NEG_INFINITY);
        let none = segments.map(|segment| segment == 0);
        let own = &mut segments[..rows];
        let [low, high] = range(own.iter().copied());
        own.iter_mut().filter(|own| **own == 0).for_each(|own| *own = low);
        let mut theirs = [0_i32; KEYS];
        for (key, [lowest, highest]) in (0..s).step_by(KEYS).zip(ranges) {
            if low > *highest || high < *lowest {
                continue;
            }
            for (j, segment) in theirs.iter_mut().enumerate() {
                *segment = if key + j < s { attention.mask.get(b * s + key + j) } else { 0 };
            }
            // One segment on each side is the same one, as the ranges meet.
            let several = low < high || lowest < highest;
            if several && !segments[..rows].iter().any(|own| theirs.contains(own)) {
                continue;
            }
            let k_panel = |i: usize| {
                // SAFETY: panel `key / 16 + i` of the packed keys.
                unsafe { keys.get().add((key + i * 16) * d).cast_const() }
            };
            multiply(&micro, d, rows, q, KEYS / 16, k_panel, (scores, KEYS), false);
            for r in 0..rows {
                let (scores, own) = (&mut scores[r * KEYS..][..KEYS], segments[r]);
                let mut lanes = [f32::NEG_INFINITY; 16];
                for (scores, theirs) in scores.chunks_exact_mut(16).zip(theirs.chunks_exact(16)) {
                    for ((l, s), segment) in lanes.iter_mut().zip(scores).zip(theirs) {
                        *s = if *segment == own { *s } else { f32::NEG_INFINITY };
                        *l = if *s > *l { *s } else { *l };
                    }
                }
                let new = lanes.iter().fold(largest[r], |a, b| a.max(*b));
                // All scores may be minus infinity or not numbers: then there is nothing to subtract.
                let base = if new == f32::NEG_INFINITY { 0.0 } else { new };
                let shrink = exp(largest[r] - base);
                largest[r] = new;
                let mut lanes = [0.0_f32; 16];
                for scores in scores.chunks_exact_mut(16) {
                    for (l, s) in lanes.iter_mut().zip(scores) {
                        *s = exp(*s - base);
                        *l += *s;
                    }
                }
                total[r] = total[r] * shrink + lanes.iter().sum::<f32>();
                sums[r * padded..][..padded].iter_mut().for_each(|v| *v *= shrink);
                let to = &mut p[r / micro.rows * KEYS * micro.rows + r % micro.rows..];
                for (j, s) in scores.iter().enumerate() {
                    to[j * micro.rows] = *s;
                }
            }
            let v_panel = |i: usize| {
                // SAFETY: key `key` of panel `i` of the packed values.
                unsafe { keys.get().add(keys_max * d + (i * keys_max + key) * 16).cast_const() }
            };
            multiply(&micro, KEYS, rows, p, padded / 16, v_panel, (sums, padded), true);
        }
        for r in 0..rows {
            let at = b * r_max + first + r;
            let sums = &mut sums[r * padded..][..d];
            if none[r] || total[r] == 0.0 {
                sums.fill(0.0);
            } else {
                let inverse = 1.0 / total[r];
                sums.iter_mut().for_each(|v| *v *= inverse);
            }
            attention.out.store(at * attention.out.columns() + head * d, sums);
        }
    }
}

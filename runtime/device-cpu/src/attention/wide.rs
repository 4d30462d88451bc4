//! Attention by f32 products, on every instruction set.

use super::{Attention, Block, CHUNK, KEYS, QUERIES, Sight, tile_keys};
use crate::isa::{Isa, per_isa};
use crate::math::exp;
use crate::matmul::micro::{Micro, More, Next, RUN, Tile};
use crate::memory::{Buf, Shared};
use dreamc_num::DType;

/// Floats of a worker: queries, scores, packed probabilities, sums, two numbers per query, and a row.
pub(super) fn worker_floats(d: usize) -> usize {
    QUERIES * (d.next_multiple_of(RUN) + 2 * KEYS + d.next_multiple_of(16) + 2) + d
}

per_isa! {
    /// Packs one chunk of keys as `[keys / 16][d][16]` and of values as `[d / 16][keys][16]`.
    fn pack(attention: &Attention, b: usize, head: usize, first: usize, to: Shared<f32>, scratch: &mut [f32]) {
        let (d, s) = (attention.head_dim, attention.positions());
        let row = &mut scratch[..d];
        let keys = s.next_multiple_of(CHUNK);
        for j in first..first + CHUNK {
            let load = |x: &(Buf, usize), rotate: bool, row: &mut [f32]| {
                if j < s {
                    attention.load_head(x, (b * s + j, b * s + j), head, rotate, row);
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
                    next: Next::NONE,
                    steps,
                    a: a[micro.run_at(steps, strip, 0)..].as_ptr().cast(),
                    b: [b(0), b(count - 1)],
                    c: c[strip * c_stride + first * 16..].as_mut_ptr(),
                    c_stride,
                    rows: micro.rows.min(rows - strip),
                    panels: count,
                    sums: [std::ptr::null(); 2],
                    resume,
                    more: More::NONE,
                });
            }
        }
    }
}

per_isa! {
    /// One block of queries of one head over all keys.
    fn queries(of: Isa, attention: &Attention, block: &Block<'_>, keys: Shared<f32>, scratch: &mut [f32]) {
        let (d, s) = (attention.head_dim, attention.positions());
        let (padded, keys_max) = (d.next_multiple_of(16), s.next_multiple_of(CHUNK));
        let rows = block.rows;
        let micro = Micro::select(of, DType::F32, DType::F32);
        let (q, scratch) = scratch.split_at_mut(QUERIES * d.next_multiple_of(RUN));
        let (scores, scratch) = scratch.split_at_mut(QUERIES * KEYS);
        let (p, scratch) = scratch.split_at_mut(QUERIES * KEYS);
        let (sums, scratch) = scratch.split_at_mut(QUERIES * padded);
        let (largest, scratch) = scratch.split_at_mut(QUERIES);
        let (total, row) = scratch.split_at_mut(QUERIES);
        let row = &mut row[..d];

        let scale = 1.0 / (d as f32).sqrt();
        for r in 0..rows {
            match block.query(attention, r) {
                Some(at) => attention.load_head(&attention.q, at, block.head, true, row),
                None => row.fill(0.0),
            }
            for (i, run) in row.chunks(RUN).enumerate() {
                let to = &mut q[micro.run_at(d, r, i * RUN)..];
                to.iter_mut().zip(run).for_each(|(to, v)| *to = v * scale);
            }
        }
        sums.fill(0.0);
        total.fill(0.0);
        largest.fill(f32::NEG_INFINITY);
        let mut theirs = [0_i32; KEYS];
        for key in (0..s).step_by(KEYS) {
            let sight = block.sees(attention, key, &mut theirs);
            if sight == Sight::Nothing {
                continue;
            }
            let count = tile_keys(s, key);
            let k_panel = |i: usize| {
                // SAFETY: panel `key / 16 + i` of the packed keys.
                unsafe { keys.get().add((key + i * 16) * d).cast_const() }
            };
            multiply(&micro, d, rows, q, count / 16, k_panel, (scores, KEYS), false);
            for r in 0..rows {
                let (scores, own) = (&mut scores[r * KEYS..][..count], block.segments[r]);
                if sight == Sight::Some {
                    for (s, segment) in scores.iter_mut().zip(&theirs) {
                        *s = if *segment == own { *s } else { f32::NEG_INFINITY };
                    }
                }
                let mut lanes = [f32::NEG_INFINITY; 16];
                for scores in scores.chunks_exact(16) {
                    for (l, s) in lanes.iter_mut().zip(scores) {
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
                for (j, run) in scores.as_chunks::<RUN>().0.iter().enumerate() {
                    p[micro.run_at(count, r, j * RUN)..][..RUN].copy_from_slice(run);
                }
            }
            let v_panel = |i: usize| {
                // SAFETY: key `key` of panel `i` of the packed values.
                unsafe { keys.get().add(keys_max * d + (i * keys_max + key) * 16).cast_const() }
            };
            multiply(&micro, count, rows, p, padded / 16, v_panel, (sums, padded), true);
        }
        for r in 0..rows {
            block.store(attention, r, &mut sums[r * padded..][..d], total[r]);
        }
    }
}

//! Tile kernels of NEON: 6 rows x 1 panel, 24 accumulators of 4 floats.

use super::micro::{Micro, Pack, RUN, Tile, by_rows};
use std::arch::aarch64::*;

const ROWS: usize = 6;

pub(crate) fn micro(pack: Pack) -> Micro {
    match pack {
        Pack::Single => Micro { rows: ROWS, panels: 1, pack, run: single, late: None },
        _ => Micro { rows: ROWS, panels: 1, pack: Pack::Wide, run: wide, late: None },
    }
}

unsafe fn single(tile: &Tile) {
    by_rows!(tile, single_tile, 1, 6: 1 2 3 4 5)
}

unsafe fn wide(tile: &Tile) {
    by_rows!(tile, wide_tile, 1, 6: 1 2 3 4 5)
}

/// # Safety
///
/// The tile's pointers cover what it says.
#[inline(always)]
unsafe fn start<const R: usize>(tile: &Tile) -> [[float32x4_t; 4]; R] {
    // SAFETY: NEON is part of the target; the result covers the rows.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 4]; R];
        if tile.resume {
            for (r, row) in acc.iter_mut().enumerate() {
                for (q, v) in row.iter_mut().enumerate() {
                    *v = vld1q_f32(tile.c.add(r * tile.c_stride + q * 4));
                }
            }
        }
        acc
    }
}

/// # Safety
///
/// As for `start`.
#[inline(always)]
unsafe fn finish<const R: usize>(tile: &Tile, acc: &[[float32x4_t; 4]; R]) {
    for (r, row) in acc.iter().enumerate() {
        for (q, v) in row.iter().enumerate() {
            // SAFETY: quarter `q` of row `r` of the result.
            unsafe { vst1q_f32(tile.c.add(r * tile.c_stride + q * 4), *v) };
        }
    }
}

unsafe fn single_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: every access below is inside the tile, which the caller vouches for.
    unsafe {
        let mut acc = start::<R>(tile);
        for run in tile.runs(ROWS) {
            for k in 0..run.steps {
                let a = run.a.add(k).cast::<f32>();
                let b = run.b[0].add(k * 16).cast::<f32>();
                let b = [vld1q_f32(b), vld1q_f32(b.add(4)), vld1q_f32(b.add(8)), vld1q_f32(b.add(12))];
                for (r, row) in acc.iter_mut().enumerate() {
                    let a = *a.add(r * RUN);
                    for (v, b) in row.iter_mut().zip(b) {
                        *v = vfmaq_n_f32(*v, b, a);
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

unsafe fn wide_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: as above.
    unsafe {
        let mut acc = start::<R>(tile);
        for run in tile.runs(2 * ROWS) {
            for k in 0..run.steps {
                let b = run.b[0].add(k * 16);
                let words = [vld1q_u32(b), vld1q_u32(b.add(4)), vld1q_u32(b.add(8)), vld1q_u32(b.add(12))];
                for odd in 0..2 {
                    let a = run.a.add(2 * k + odd).cast::<f32>();
                    for (q, w) in words.into_iter().enumerate() {
                        let b = if odd == 0 {
                            vshlq_n_u32::<16>(w)
                        } else {
                            vandq_u32(w, vdupq_n_u32(0xffff_0000))
                        };
                        let b = vreinterpretq_f32_u32(b);
                        for (r, row) in acc.iter_mut().enumerate() {
                            row[q] = vfmaq_n_f32(row[q], b, *a.add(2 * r * RUN));
                        }
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

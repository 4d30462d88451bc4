//! Codes with NEON: 6 rows x 1 panel, 24 accumulators of 4 sums; with dot products of bytes where the host has them.

use crate::matmul::micro::{Micro, Pack, RUN, Run, Tile, by_rows};
use std::arch::aarch64::*;
use std::arch::asm;

const ROWS: usize = 6;

pub(super) fn micro() -> Micro {
    Micro { rows: ROWS, panels: 1, pack: Pack::Codes, run, late: None }
}

pub(super) fn dot_micro() -> Micro {
    Micro { rows: ROWS, panels: 1, pack: Pack::Codes, run: dot_run, late: None }
}

unsafe fn run(tile: &Tile) {
    by_rows!(tile, widening_tile, 1, 6: 1 2 3 4 5)
}

unsafe fn dot_run(tile: &Tile) {
    by_rows!(tile, dot_tile, 1, 6: 1 2 3 4 5)
}

/// # Safety
///
/// The tile's pointers cover what it says.
#[inline(always)]
unsafe fn start<const R: usize>(tile: &Tile) -> [[int32x4_t; 4]; R] {
    // SAFETY: NEON is part of the target; the result covers the rows.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); 4]; R];
        if tile.resume {
            for (r, row) in acc.iter_mut().enumerate() {
                for (q, v) in row.iter_mut().enumerate() {
                    *v = vld1q_s32(tile.c.add(r * tile.c_stride + q * 4).cast());
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
unsafe fn finish<const R: usize>(tile: &Tile, acc: &[[int32x4_t; 4]; R]) {
    for (r, row) in acc.iter().enumerate() {
        for (q, v) in row.iter().enumerate() {
            // SAFETY: quarter `q` of row `r` of the result.
            unsafe { vst1q_s32(tile.c.add(r * tile.c_stride + q * 4).cast(), *v) };
        }
    }
}

/// The 16 words of step `k` of the panel.
///
/// # Safety
///
/// As for `start`; `k < run.steps`.
#[inline(always)]
unsafe fn weights(run: &Run, k: usize) -> [int8x16_t; 4] {
    // SAFETY: step `k` of the panel.
    unsafe {
        let b = run.b[0].add(k * 16).cast::<i8>();
        [vld1q_s8(b), vld1q_s8(b.add(16)), vld1q_s8(b.add(32)), vld1q_s8(b.add(48))]
    }
}

/// Two products, at most `2 * 128 * 127`, fit 16 bits.
unsafe fn widening_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: every access below is inside the tile, which the caller vouches for.
    unsafe {
        let mut acc = start::<R>(tile);
        for run in tile.runs(ROWS) {
            for k in 0..run.steps {
                let a = run.a.add(k);
                let b = weights(&run, k);
                for (r, row) in acc.iter_mut().enumerate() {
                    let a = vreinterpretq_s8_u32(vdupq_n_u32(*a.add(r * RUN)));
                    for (v, b) in row.iter_mut().zip(b) {
                        let low = vmull_s8(vget_low_s8(b), vget_low_s8(a));
                        let high = vmull_high_s8(b, a);
                        *v = vpadalq_s16(*v, vpaddq_s16(low, high));
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dot_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: as above.
    unsafe {
        let mut acc = start::<R>(tile);
        for run in tile.runs(ROWS) {
            for k in 0..run.steps {
                let a = run.a.add(k);
                let b = weights(&run, k);
                for (r, row) in acc.iter_mut().enumerate() {
                    let a = vreinterpretq_s8_u32(vdupq_n_u32(*a.add(r * RUN)));
                    for (v, b) in row.iter_mut().zip(b) {
                        // The intrinsic is not stable.
                        asm!(
                            "sdot {v:v}.4s, {b:v}.16b, {a:v}.16b",
                            v = inout(vreg) *v,
                            b = in(vreg) b,
                            a = in(vreg) a,
                            options(pure, nomem, nostack, preserves_flags),
                        );
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

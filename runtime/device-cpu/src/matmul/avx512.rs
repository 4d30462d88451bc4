//! Tile kernels of AVX-512: 12 rows x 2 panels, 24 accumulators of 16 floats.

use super::epilogue::avx512::{BF16, F32, SWIGLU, late_by_rows, late_rows, late_runs};
use super::epilogue::late::Late;
use super::micro::{Micro, Pack, RUN, Tile, by_rows};
use crate::lanes::high;
use std::arch::x86_64::*;

const ROWS: usize = 12;

pub(crate) fn micro(pack: Pack) -> Micro {
    let run = match pack {
        Pack::Single => single,
        Pack::Pairs => pairs,
        _ => wide as unsafe fn(&Tile),
    };
    let late = (pack == Pack::Pairs).then_some(late_runs::<false>(late));
    Micro { rows: ROWS, panels: 2, pack, run, late }
}

macro_rules! entry {
    ($name:ident, $tile_fn:ident) => {
        unsafe fn $name(tile: &Tile) {
            if tile.panels == 2 {
                by_rows!(tile, $tile_fn, 2, 12: 1 2 3 4 5 6 7 8 9 10 11)
            } else {
                by_rows!(tile, $tile_fn, 1, 12: 1 2 3 4 5 6 7 8 9 10 11)
            }
        }
    };
}
entry!(single, single_tile);
entry!(wide, wide_tile);
entry!(pairs, pairs_tile);

/// # Safety
///
/// The tile's pointers cover what it says.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn start<const R: usize, const P: usize>(tile: &Tile) -> [[__m512; P]; R] {
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    if tile.resume {
        for (r, row) in acc.iter_mut().enumerate() {
            for (p, v) in row.iter_mut().enumerate() {
                // SAFETY: panel `p` of row `r` of the result.
                *v = unsafe { _mm512_loadu_ps(tile.c.add(r * tile.c_stride + p * 16)) };
            }
        }
    }
    acc
}

/// # Safety
///
/// As for `start`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish<const R: usize, const P: usize>(tile: &Tile, acc: &[[__m512; P]; R]) {
    for (r, row) in acc.iter().enumerate() {
        for (p, v) in row.iter().enumerate() {
            // SAFETY: panel `p` of row `r` of the result.
            unsafe { _mm512_storeu_ps(tile.c.add(r * tile.c_stride + p * 16), *v) };
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn single_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: every access below is inside the tile, which the caller vouches for.
    unsafe {
        let mut acc = start::<R, P>(tile);
        for run in tile.runs(ROWS) {
            for k in 0..run.steps {
                let a = run.a.add(k).cast::<f32>();
                let mut b = [_mm512_setzero_ps(); P];
                for (p, v) in b.iter_mut().enumerate() {
                    *v = _mm512_loadu_ps(run.b[p].add(k * 16).cast());
                }
                for (r, row) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*a.add(r * RUN));
                    for (v, b) in row.iter_mut().zip(b) {
                        *v = _mm512_fmadd_ps(a, b, *v);
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn wide_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: as above.
    unsafe {
        let mut acc = start::<R, P>(tile);
        for run in tile.runs(2 * ROWS) {
            for k in 0..run.steps {
                for odd in 0..2 {
                    let a = run.a.add(2 * k + odd).cast::<f32>();
                    let mut b = [_mm512_setzero_ps(); P];
                    for (p, v) in b.iter_mut().enumerate() {
                        let words = _mm512_loadu_si512(run.b[p].add(k * 16).cast());
                        *v = _mm512_castsi512_ps(if odd == 0 {
                            _mm512_slli_epi32::<16>(words)
                        } else {
                            _mm512_and_si512(words, high())
                        });
                    }
                    for (r, row) in acc.iter_mut().enumerate() {
                        let a = _mm512_set1_ps(*a.add(2 * r * RUN));
                        for (v, b) in row.iter_mut().zip(b) {
                            *v = _mm512_fmadd_ps(a, b, *v);
                        }
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

unsafe fn late(tile: &Tile, late: &mut Late) {
    late_by_rows!(tile, late, late_tile);
}

/// Defines a tile kernel of pairs, and what is done between its runs.
macro_rules! pairs_tile {
    ($name:ident $(, $form:ident, $late:ident)?) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        unsafe fn $name<$(const $form: u8,)? const R: usize, const P: usize>(tile: &Tile $(, $late: &Late)?) {
            // SAFETY: as above; the words are pairs of bf16 on both sides.
            unsafe {
                let mut acc = start::<R, P>(tile);
                $(let mut rest = $late.rest(tile.steps);)?
                for run in tile.runs(ROWS) {
                    $(late_rows::<$form, false>($late, &mut rest);)?
                    for k in 0..run.steps {
                        let a = run.a.add(k);
                        let mut b = [_mm512_setzero_si512(); P];
                        for (p, v) in b.iter_mut().enumerate() {
                            let at = run.b[p].add(k * 16);
                            *v = _mm512_loadu_si512(at.cast());
                        }
                        for (r, row) in acc.iter_mut().enumerate() {
                            let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*a.add(r * RUN) as i32));
                            for (v, b) in row.iter_mut().zip(b) {
                                *v = _mm512_dpbf16_ps(*v, a, std::mem::transmute::<__m512i, __m512bh>(b));
                            }
                        }
                    }
                }
                finish(tile, &acc);
            }
        }
    };
}
pairs_tile!(pairs_tile);
pairs_tile!(late_tile, FORM, late);

//! Tile kernels of AVX2 and FMA: 6 rows x 1 panel, 12 accumulators of 8 floats.

use super::micro::{Micro, Pack, RUN, Tile, by_rows};
use std::arch::x86_64::*;

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
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn start<const R: usize>(tile: &Tile) -> [[__m256; 2]; R] {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    if tile.resume {
        for (r, row) in acc.iter_mut().enumerate() {
            for (h, v) in row.iter_mut().enumerate() {
                // SAFETY: half `h` of row `r` of the result.
                *v = unsafe { _mm256_loadu_ps(tile.c.add(r * tile.c_stride + h * 8)) };
            }
        }
    }
    acc
}

/// # Safety
///
/// As for `start`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish<const R: usize>(tile: &Tile, acc: &[[__m256; 2]; R]) {
    for (r, row) in acc.iter().enumerate() {
        for (h, v) in row.iter().enumerate() {
            // SAFETY: half `h` of row `r` of the result.
            unsafe { _mm256_storeu_ps(tile.c.add(r * tile.c_stride + h * 8), *v) };
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn single_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: every access below is inside the tile, which the caller vouches for.
    unsafe {
        let mut acc = start::<R>(tile);
        for run in tile.runs(ROWS) {
            for k in 0..run.steps {
                let a = run.a.add(k).cast::<f32>();
                let b = run.b[0].add(k * 16).cast::<f32>();
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (r, row) in acc.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(*a.add(r * RUN));
                    row[0] = _mm256_fmadd_ps(a, b0, row[0]);
                    row[1] = _mm256_fmadd_ps(a, b1, row[1]);
                }
            }
        }
        finish(tile, &acc);
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn wide_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: as above.
    unsafe {
        let mut acc = start::<R>(tile);
        for run in tile.runs(2 * ROWS) {
            for k in 0..run.steps {
                let b = run.b[0].add(k * 16);
                let words = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(8).cast())];
                for odd in 0..2 {
                    let a = run.a.add(2 * k + odd).cast::<f32>();
                    let b = words.map(|w| {
                        _mm256_castsi256_ps(if odd == 0 {
                            _mm256_slli_epi32::<16>(w)
                        } else {
                            _mm256_and_si256(w, _mm256_set1_epi32(0xffff_0000_u32 as i32))
                        })
                    });
                    for (r, row) in acc.iter_mut().enumerate() {
                        let a = _mm256_set1_ps(*a.add(2 * r * RUN));
                        row[0] = _mm256_fmadd_ps(a, b[0], row[0]);
                        row[1] = _mm256_fmadd_ps(a, b[1], row[1]);
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

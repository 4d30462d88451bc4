//! Codes with AVX2, 4 rows x 1 panel, and with AVX-VNNI, 6 rows x 1 panel.

use crate::matmul::micro::{Micro, Pack, RUN, Tile, by_rows};
use std::arch::x86_64::*;

/// Fewer than with VNNI: weights and their magnitudes take registers.
const ROWS: usize = 4;
const VNNI_ROWS: usize = 6;

pub(super) fn micro() -> Micro {
    Micro { rows: ROWS, panels: 1, pack: Pack::Codes, run, late: None }
}

pub(super) fn vnni_micro() -> Micro {
    Micro { rows: VNNI_ROWS, panels: 1, pack: Pack::ShiftedCodes, run: vnni_run, late: None }
}

unsafe fn run(tile: &Tile) {
    by_rows!(tile, maddubs_tile, 1, 4: 1 2 3)
}

unsafe fn vnni_run(tile: &Tile) {
    by_rows!(tile, vnni_tile, 1, 6: 1 2 3 4 5)
}

/// # Safety
///
/// The tile's pointers cover what it says.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn start<const R: usize>(tile: &Tile) -> [[__m256i; 2]; R] {
    let mut acc = [[_mm256_setzero_si256(); 2]; R];
    if tile.resume {
        for (r, row) in acc.iter_mut().enumerate() {
            for (h, v) in row.iter_mut().enumerate() {
                // SAFETY: half `h` of row `r` of the result.
                *v = unsafe { _mm256_loadu_si256(tile.c.add(r * tile.c_stride + h * 8).cast()) };
            }
        }
    }
    acc
}

/// # Safety
///
/// As for `start`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish<const R: usize>(tile: &Tile, acc: &[[__m256i; 2]; R]) {
    for (r, row) in acc.iter().enumerate() {
        for (h, v) in row.iter().enumerate() {
            // SAFETY: half `h` of row `r` of the result.
            unsafe { _mm256_storeu_si256(tile.c.add(r * tile.c_stride + h * 8).cast(), *v) };
        }
    }
}

/// Products of magnitudes of weights and rows with the weights' signs: two of them, at most `2 * 128 * 127`, fit the 16 bits
/// that `maddubs` saturates to.
#[target_feature(enable = "avx2")]
unsafe fn maddubs_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: every access below is inside the tile, which the caller vouches for.
    unsafe {
        let mut acc = start::<R>(tile);
        let ones = _mm256_set1_epi16(1);
        for run in tile.runs(ROWS) {
            for k in 0..run.steps {
                let a = run.a.add(k);
                let b = run.b[0].add(k * 16);
                let b = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(8).cast())];
                let magnitudes = b.map(|b| _mm256_abs_epi8(b));
                for (r, row) in acc.iter_mut().enumerate() {
                    let a = _mm256_set1_epi32(*a.add(r * RUN) as i32);
                    for ((v, b), magnitude) in row.iter_mut().zip(b).zip(magnitudes) {
                        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(a, b));
                        *v = _mm256_add_epi32(*v, _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

#[target_feature(enable = "avx2,avxvnni")]
unsafe fn vnni_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: as above.
    unsafe {
        let mut acc = start::<R>(tile);
        if !tile.resume {
            for h in 0..2 {
                let shift = _mm256_slli_epi32::<7>(_mm256_loadu_si256(tile.sums[0].add(8 * h).cast()));
                let start = _mm256_sub_epi32(_mm256_setzero_si256(), shift);
                acc.iter_mut().for_each(|row| row[h] = start);
            }
        }
        for run in tile.runs(VNNI_ROWS) {
            for k in 0..run.steps {
                let a = run.a.add(k);
                let b = run.b[0].add(k * 16);
                let b = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(8).cast())];
                for (r, row) in acc.iter_mut().enumerate() {
                    let a = _mm256_set1_epi32(*a.add(r * RUN) as i32);
                    for (v, b) in row.iter_mut().zip(b) {
                        *v = _mm256_dpbusd_avx_epi32(*v, a, b);
                    }
                }
            }
        }
        finish(tile, &acc);
    }
}

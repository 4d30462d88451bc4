//! Codes with AVX-512 VNNI: 12 rows x 2 panels, 24 accumulators of 16 sums.

use crate::isa::Isa;
use crate::matmul::epilogue::avx512::{BF16, F32, SWIGLU, late_by_rows, late_rows, late_runs};
use crate::matmul::epilogue::late::Late;
use crate::matmul::micro::{Micro, Pack, RUN, Tile, by_rows};
use std::arch::x86_64::*;

const ROWS: usize = 12;

pub(super) fn micro(isa: Isa) -> Micro {
    let late = (isa == Isa::Avx512Bf16).then_some(late_runs::<true>(late));
    Micro { rows: ROWS, panels: 2, pack: Pack::ShiftedCodes, run, late }
}

unsafe fn run(tile: &Tile) {
    if tile.panels == 2 {
        by_rows!(tile, dot_tile, 2, 12: 1 2 3 4 5 6 7 8 9 10 11)
    } else {
        by_rows!(tile, dot_tile, 1, 12: 1 2 3 4 5 6 7 8 9 10 11)
    }
}

unsafe fn late(tile: &Tile, late: &mut Late) {
    late_by_rows!(tile, late, late_tile);
}

/// Defines a tile kernel, and what is done between its runs.
macro_rules! tile {
    ($name:ident, $features:literal $(, $form:ident, $late:ident)?) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<$(const $form: u8,)? const R: usize, const P: usize>(tile: &Tile $(, $late: &Late)?) {
            // SAFETY: every access below is inside the tile, which the caller vouches for.
            unsafe {
                let mut acc = [[_mm512_setzero_si512(); P]; R];
                if tile.resume {
                    for (r, row) in acc.iter_mut().enumerate() {
                        for (p, v) in row.iter_mut().enumerate() {
                            *v = _mm512_loadu_si512(tile.c.add(r * tile.c_stride + p * 16).cast());
                        }
                    }
                } else {
                    for p in 0..P {
                        let shift = _mm512_slli_epi32::<7>(_mm512_loadu_si512(tile.sums[p].cast()));
                        let start = _mm512_sub_epi32(_mm512_setzero_si512(), shift);
                        acc.iter_mut().for_each(|row| row[p] = start);
                    }
                }
                $(let mut rest = $late.rest(tile.steps);)?
                for run in tile.runs(ROWS) {
                    $(late_rows::<$form, true>($late, &mut rest);)?
                    for k in 0..run.steps {
                        let a = run.a.add(k);
                        let mut b = [_mm512_setzero_si512(); P];
                        for (p, v) in b.iter_mut().enumerate() {
                            let at = run.b[p].add(k * 16);
                            *v = _mm512_loadu_si512(at.cast());
                        }
                        for (r, row) in acc.iter_mut().enumerate() {
                            let a = _mm512_set1_epi32(*a.add(r * RUN) as i32);
                            for (v, b) in row.iter_mut().zip(b) {
                                *v = _mm512_dpbusd_epi32(*v, a, b);
                            }
                        }
                    }
                }
                for (r, row) in acc.iter().enumerate() {
                    for (p, v) in row.iter().enumerate() {
                        _mm512_storeu_si512(tile.c.add(r * tile.c_stride + p * 16).cast(), *v);
                    }
                }
            }
        }
    };
}
tile!(dot_tile, "avx512f,avx512vnni");
tile!(late_tile, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16", FORM, late);

//! Codes without SIMD: 4 rows x 1 panel.

use crate::matmul::micro::{Micro, Pack, RUN, Tile, by_rows};

const ROWS: usize = 4;

pub(super) fn micro() -> Micro {
    Micro { rows: ROWS, panels: 1, pack: Pack::Codes, run, late: None }
}

unsafe fn run(tile: &Tile) {
    by_rows!(tile, codes_tile, 1, 4: 1 2 3)
}

unsafe fn codes_tile<const R: usize, const P: usize>(tile: &Tile) {
    let mut acc = [[0_i32; 16]; R];
    if tile.resume {
        for (r, row) in acc.iter_mut().enumerate() {
            // SAFETY: row `r` of the result.
            *row = unsafe { tile.c.add(r * tile.c_stride).cast::<[i32; 16]>().read_unaligned() };
        }
    }
    for run in tile.runs(ROWS) {
        for k in 0..run.steps {
            // SAFETY: step `k` of the panel.
            let b = unsafe { run.b[0].add(k * 16).cast::<[[i8; 4]; 16]>().read_unaligned() };
            for (r, row) in acc.iter_mut().enumerate() {
                // SAFETY: step `k` of the packed rows.
                let a = unsafe { *run.a.add(r * RUN + k) }.to_le_bytes().map(|code| i32::from(code as i8));
                for (c, b) in row.iter_mut().zip(b) {
                    *c += a.iter().zip(b).map(|(a, b)| a * i32::from(b)).sum::<i32>();
                }
            }
        }
    }
    for (r, row) in acc.iter().enumerate() {
        // SAFETY: row `r` of the result.
        unsafe { tile.c.add(r * tile.c_stride).cast::<[i32; 16]>().write_unaligned(*row) };
    }
}

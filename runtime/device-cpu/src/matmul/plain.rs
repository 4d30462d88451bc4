//! Tile kernels without SIMD: 4 rows x 1 panel.

use super::micro::{Micro, Pack, RUN, Tile, by_rows};

const ROWS: usize = 4;

pub(crate) fn micro(pack: Pack) -> Micro {
    match pack {
        Pack::Single => Micro { rows: ROWS, panels: 1, pack, run: single, late: None },
        _ => Micro { rows: ROWS, panels: 1, pack: Pack::Wide, run: wide, late: None },
    }
}

unsafe fn single(tile: &Tile) {
    by_rows!(tile, single_tile, 1, 4: 1 2 3)
}

unsafe fn wide(tile: &Tile) {
    by_rows!(tile, wide_tile, 1, 4: 1 2 3)
}

/// # Safety
///
/// The tile's pointers cover what it says.
unsafe fn start<const R: usize>(tile: &Tile) -> [[f32; 16]; R] {
    let mut acc = [[0.0; 16]; R];
    if tile.resume {
        for (r, row) in acc.iter_mut().enumerate() {
            // SAFETY: row `r` of the result.
            *row = unsafe { tile.c.add(r * tile.c_stride).cast::<[f32; 16]>().read_unaligned() };
        }
    }
    acc
}

/// # Safety
///
/// As for `start`.
unsafe fn finish<const R: usize>(tile: &Tile, acc: &[[f32; 16]; R]) {
    for (r, row) in acc.iter().enumerate() {
        // SAFETY: row `r` of the result.
        unsafe { tile.c.add(r * tile.c_stride).cast::<[f32; 16]>().write_unaligned(*row) };
    }
}

unsafe fn single_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: passed on.
    let mut acc = unsafe { start::<R>(tile) };
    for run in tile.runs(ROWS) {
        for k in 0..run.steps {
            // SAFETY: step `k` of the panel.
            let b = unsafe { run.b[0].add(k * 16).cast::<[f32; 16]>().read_unaligned() };
            for (r, row) in acc.iter_mut().enumerate() {
                // SAFETY: step `k` of the packed rows.
                let a = f32::from_bits(unsafe { *run.a.add(r * RUN + k) });
                row.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
            }
        }
    }
    // SAFETY: passed on.
    unsafe { finish(tile, &acc) }
}

unsafe fn wide_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: passed on.
    let mut acc = unsafe { start::<R>(tile) };
    for run in tile.runs(2 * ROWS) {
        for k in 0..run.steps {
            // SAFETY: step `k` of the panel.
            let b = unsafe { run.b[0].add(k * 16).cast::<[u32; 16]>().read_unaligned() };
            for (r, row) in acc.iter_mut().enumerate() {
                // SAFETY: step `k` of the packed rows.
                let (a0, a1) = unsafe { (*run.a.add(2 * (r * RUN + k)), *run.a.add(2 * (r * RUN + k) + 1)) };
                let (a0, a1) = (f32::from_bits(a0), f32::from_bits(a1));
                for (c, b) in row.iter_mut().zip(b) {
                    *c += a0 * f32::from_bits(b << 16);
                    *c += a1 * f32::from_bits(b & 0xffff_0000);
                }
            }
        }
    }
    // SAFETY: passed on.
    unsafe { finish(tile, &acc) }
}

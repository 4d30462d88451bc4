//! Codes with NEON's products of matrices, 2 rows x 2 columns of eight codes each.

use super::neon::dot_tile;
use crate::matmul::micro::{Micro, Pack, Tile, by_rows};
use crate::matmul::neon_matrix::{ROWS, matrix_tile};
use std::arch::aarch64::*;
use std::arch::asm;

pub(super) fn micro() -> Micro {
    Micro { rows: ROWS, panels: 1, pack: Pack::Codes, run, late: None }
}

unsafe fn run(tile: &Tile) {
    by_rows!(tile, codes_tile, 1, 6: 1 2 3 4 5)
}

unsafe fn codes_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { if R == 1 { dot_tile::<1, 1>(tile) } else { smmla_tile::<R>(tile) } }
}

matrix_tile!(smmla_tile, "neon,i8mm", "smmla {v:v}.4s, {a:v}.16b, {b:v}.16b");

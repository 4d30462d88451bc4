//! The way of a tile of rows: from memory to a unit's registers, on to shared memory, and from there into fragments.

use crate::matrix::{Shape, WARP};
use cubecl::cmma;
use cubecl::prelude::*;

/// The fragment that begins at element `at`.
#[cube]
pub(crate) fn operand<X: Float, V: Size>(
    stages: &[Vector<X, V>],
    at: u32,
    #[comptime] ident: cmma::MatrixIdent,
    #[comptime] layout: cmma::MatrixLayout,
    #[comptime] shape: Shape,
) -> cmma::Matrix<Vector<X, V>> {
    let from = &stages[(at / shape.vector) as usize..stages.len()];
    let pitch = comptime!(shape.tile.depth + shape.apart);
    cmma::Matrix::<Vector<X, V>>::from_slice(ident, 16usize, 16usize, 16usize, layout, from, pitch)
}

/// Loads the unit's part of a tile of rows from `first` on and columns from `start` on: `loads` vectors, into `to` from `at`
/// on.
#[cube]
pub(crate) fn load<X: Numeric, V: Size>(
    from: &[Vector<X, V>],
    to: &mut Array<Vector<X, V>>,
    #[comptime] at: usize,
    #[comptime] loads: usize,
    first: u32,
    last: u32,
    start: u32,
    #[comptime] shape: Shape,
) {
    let in_row = comptime!(shape.tile.depth / shape.vector);
    let units = comptime!(shape.tile.warps() * WARP);
    #[unroll]
    for i in 0..loads {
        let index = UNIT_POS_X + comptime!(i as u32 * units);
        let row = min(first + index / in_row, last);
        let d = start + index % in_row * shape.vector;
        let mut value = Vector::<X, V>::zeroed();
        let index = ((row * shape.k + d) / shape.vector) as usize;
        if comptime!(shape.k % shape.tile.depth != 0) {
            if d < shape.k {
                value = from[index];
            }
        } else {
            value = from[index];
        }
        to[comptime!(at + i)] = value;
    }
}

/// Puts what the unit has loaded where it belongs in the stage that begins at `stage`.
#[cube]
pub(crate) fn put<X: Numeric, V: Size>(
    loaded: &Array<Vector<X, V>>,
    stages: &mut [Vector<X, V>],
    stage: u32,
    #[comptime] shape: Shape,
) {
    let in_row = comptime!(shape.tile.depth / shape.vector);
    let units = comptime!(shape.tile.warps() * WARP);
    let pitch = comptime!(shape.tile.depth + shape.apart);
    // Rows follow one another from tile to tile, and so do loads.
    #[unroll]
    for i in 0..comptime!(((shape.tile.rows + shape.tile.columns) * in_row / units) as usize) {
        let index = UNIT_POS_X + comptime!(i as u32 * units);
        let to = stage + index / in_row * pitch + index % in_row * shape.vector;
        stages[(to / shape.vector) as usize] = loaded[i];
    }
}

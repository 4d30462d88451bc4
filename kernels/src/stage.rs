//! The way of a tile of rows along K: from memory to a stage in shared memory, and from there into fragments.
//!
//! A stage has `depth` bytes of each row. Chunk `c` of row `r` stands where `c ^ (r % 8)` would: so eight rows that are read
//! or written together lie in different banks.

use crate::matrix::Shape;
use crate::ptx::{CHUNK, WARP, copy, fragments};
use cubecl::prelude::*;

/// Begins to copy the unit's part of `tile_rows` rows, from `first` on and below `end`, and of chunks from `start` on, to where
/// they stand in a stage. Zeros stand behind the last row and behind K.
#[cube]
pub(crate) fn fill(
    from: &[Vector<u32, Const<4>>],
    to: u32,
    first: u32,
    end: u32,
    start: u32,
    #[comptime] tile_rows: u32,
    #[comptime] shape: Shape,
) {
    let in_row = comptime!(shape.tile.depth / CHUNK);
    // A multiple of 8: all chunks of a unit stand at the same place in their rows.
    let apart = comptime!(shape.tile.warps() * WARP / in_row);
    let row = UNIT_POS_X / in_row;
    let chunk = UNIT_POS_X % in_row;
    let at = to + (row * in_row + (chunk ^ (row & 7u32))) * CHUNK;
    let index = (first + row) * shape.k + start + chunk;
    #[unroll]
    for i in 0..comptime!(tile_rows.div_ceil(apart)) {
        let there = first + row + comptime!(i * apart) < end && start + chunk < shape.k;
        let index = index + comptime!(i * apart * shape.k);
        let to = at + comptime!(i * apart * in_row * CHUNK);
        let bytes = select(there, CHUNK, 0u32);
        if comptime!((i + 1) * apart <= tile_rows) {
            copy(from, index, to, bytes);
        } else if row < comptime!(tile_rows - i * apart) {
            copy(from, index, to, bytes);
        }
    }
}

/// Where a unit's row begins among 16 rows of a stage, of which it takes the second half of chunks if `second`, and which of
/// them stands in the place of its first chunk, in bytes: rows 0 to 15 if `by_rows`, else 0 to 7 and then 8 to 15.
#[cube]
pub(crate) fn place(#[comptime] by_rows: bool, #[comptime] shape: Shape) -> (u32, u32) {
    let lane = UNIT_POS_X % WARP;
    let (row, half) = if comptime!(by_rows) {
        (lane % 16u32, lane / 16u32)
    } else {
        (lane / 16u32 * 8u32 + lane % 8u32, lane / 8u32 % 2u32)
    };
    (row * shape.tile.depth, (half ^ (row & 7u32)) * CHUNK)
}

/// The four fragments of step `step` of the 16 rows that begin at `at`.
#[cube]
pub(crate) fn operand(at: u32, place: (u32, u32), step: u32) -> Vector<u32, Const<4>> {
    // Two chunks a step, and eight in a row of banks.
    let chunk = (step & 3u32) * 32u32;
    fragments(at + place.0 + (place.1 ^ chunk) + (step / 4u32) * 128u32)
}

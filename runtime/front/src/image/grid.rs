//! What the tower and the prompt need to know of images, from their grids alone (spec/vision.md, sections 1, 2).
//!
//! Rows of patches lie image after image; within one, slice after slice, and four in a row are the 2x2 patches of one
//! cell that the tower's merger joins.

use super::processor::MERGE;
use serde::{Deserialize, Serialize};

/// How an image or video is cut into patches: a row of `image_grid_thw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// Temporal slices, of two frames each: 1 for a still image.
    pub t: u32,
    /// Rows of patches. Even.
    pub h: u32,
    /// Columns of patches. Even.
    pub w: u32,
}

impl Grid {
    /// Number of patches, which is the number of its rows of `pixel_values`.
    pub fn patches(self) -> usize {
        self.t as usize * self.h as usize * self.w as usize
    }

    /// Number of merged tokens, each of which takes one place of the prompt.
    pub fn tokens(self) -> usize {
        self.t as usize * (self.h / MERGE) as usize * (self.w / MERGE) as usize
    }
}

/// Number of patches of all images.
pub fn patch_rows(grids: &[Grid]) -> usize {
    grids.iter().map(|g| g.patches()).sum()
}

/// Number of merged tokens of all images.
pub fn merged_tokens(grids: &[Grid]) -> usize {
    grids.iter().map(|g| g.tokens()).sum()
}

/// The segment of every patch row, `[patches]`: a number for each temporal slice of each image, from 1.
///
/// This is the tower's attention mask: rows see each other if and only if their numbers are equal. 0 is left for
/// padding.
pub fn segments(grids: &[Grid]) -> Vec<i32> {
    let slices = grids.iter().flat_map(|g| std::iter::repeat_n(g.h as usize * g.w as usize, g.t as usize));
    let mut segments = Vec::with_capacity(patch_rows(grids));
    for (rows, number) in slices.zip(1..) {
        segments.resize(segments.len() + rows, number);
    }
    segments
}

/// The row and column of every patch in its image, `[patches, 2]`, for the tower's rope.
pub fn coordinates(grids: &[Grid]) -> Vec<[i32; 2]> {
    let mut coordinates = Vec::with_capacity(patch_rows(grids));
    let merge = MERGE as i32;
    for grid in grids {
        for _ in 0..grid.t {
            for row in (0..grid.h as i32).step_by(MERGE as usize) {
                for column in (0..grid.w as i32).step_by(MERGE as usize) {
                    let cell = (0..merge).flat_map(|y| (0..merge).map(move |x| [row + y, column + x]));
                    coordinates.extend(cell);
                }
            }
        }
    }
    coordinates
}

//! What the tower and the prompt need to know of images, from their grids alone (spec/vision.md, sections 1, 2).
//!
//! Rows of patches lie image after image; within one, slice after slice, and four in a row are the 2x2 patches of one
//! cell that the tower's merger joins.

use super::ImageError;
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
    /// A grid that comes from outside: a row `t, h, w` of `image_grid_thw`.
    ///
    /// # Errors
    ///
    /// Where a number is not at least 1, or rows or columns are odd.
    pub fn from_thw(thw: [i64; 3]) -> Result<Grid, ImageError> {
        let [t, h, w] = thw.map(|n| u32::try_from(n).unwrap_or(0));
        let even = |n: u32| n > 0 && n.is_multiple_of(MERGE);
        if t == 0 || !even(h) || !even(w) {
            return Err(ImageError::Grid { thw });
        }
        Ok(Grid { t, h, w })
    }

    /// Number of patches, which is the number of its rows of `pixel_values`.
    pub fn patches(self) -> usize {
        product([self.t, self.h, self.w])
    }

    /// Number of merged tokens, each of which takes one place of the prompt.
    pub fn tokens(self) -> usize {
        product([self.t, self.h / MERGE, self.w / MERGE])
    }
}

/// Grids may come from outside, and what they claim is only compared with what is there.
fn product(factors: [u32; 3]) -> usize {
    factors.into_iter().fold(1, |product, n| product.saturating_mul(n as usize))
}

/// Number of patches of all images.
pub fn patch_rows(grids: &[Grid]) -> usize {
    grids.iter().fold(0, |sum, g| sum.saturating_add(g.patches()))
}

/// Number of merged tokens of all images.
pub fn merged_tokens(grids: &[Grid]) -> usize {
    grids.iter().fold(0, |sum, g| sum.saturating_add(g.tokens()))
}

/// The segment of every patch row, `[patches]`: a number for each temporal slice of each image, from 1.
///
/// As [`coordinates`], it takes memory for [`patch_rows`] of them: compare that with the rows of `pixel_values` first.
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

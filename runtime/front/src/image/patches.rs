//! From resized images to the rows that the tower takes (spec/vision.md, section 1, steps 4 to 8).

use super::processor::{MERGE, PATCH, TEMPORAL};
use super::{Grid, Image};

/// Values of a patch: `[3, 2, 14, 14]`, that is colour, frame of the pair, row, column.
pub const PATCH_FEATURES: usize = 3 * (TEMPORAL * PATCH * PATCH) as usize;

/// An image or video at the size that the tower takes, still 8 bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resized {
    pub(super) grid: Grid,
    pub(super) frames: Vec<Image>,
}

impl Resized {
    /// How it is cut into patches.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Its frames, all of one size: one for a still image, else two for each temporal slice.
    pub fn frames(&self) -> &[Image] {
        &self.frames
    }

    /// The normalised patches. A still image counts as two equal frames.
    pub(super) fn patches(&self, levels: &[[f32; 256]; 3]) -> Patches {
        let mut values = Vec::with_capacity(self.grid.patches() * PATCH_FEATURES);
        let pair = |frames: &[Image], values: &mut Vec<f32>| {
            for (row, column) in corners(self.grid) {
                for (color, levels) in levels.iter().enumerate() {
                    for frame in 0..TEMPORAL as usize {
                        let image = &frames[frame.min(frames.len() - 1)];
                        patch(values, image, row, column, color, levels);
                    }
                }
            }
        };
        for frames in self.frames.chunks(TEMPORAL as usize) {
            pair(frames, &mut values);
        }
        Patches { values, grid: self.grid }
    }
}

/// The patches of an image or video, normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// f32 `[patches, 1176]`: the rows of `pixel_values`, or of `pixel_values_videos`.
    pub values: Vec<f32>,
    /// How it was cut.
    pub grid: Grid,
}

/// The upper left pixel of every patch of one slice, in the order of the rows: the patches of a cell together.
fn corners(grid: Grid) -> impl Iterator<Item = (usize, usize)> {
    let cells = |n: u32| (0..n).step_by(MERGE as usize);
    let cells = cells(grid.h).flat_map(move |row| cells(grid.w).map(move |column| (row, column)));
    cells.flat_map(|(row, column)| {
        let patch = move |y, x| (((row + y) * PATCH) as usize, ((column + x) * PATCH) as usize);
        (0..MERGE).flat_map(move |y| (0..MERGE).map(move |x| patch(y, x)))
    })
}

/// Appends one colour of one frame of a patch.
fn patch(values: &mut Vec<f32>, image: &Image, row: usize, column: usize, color: usize, levels: &[f32; 256]) {
    let line = 3 * image.width as usize;
    for y in row..row + PATCH as usize {
        let start = y * line + 3 * column;
        let pixels = &image.pixels()[start..start + 3 * PATCH as usize];
        values.extend(pixels.iter().skip(color).step_by(3).map(|p| levels[usize::from(*p)]));
    }
}

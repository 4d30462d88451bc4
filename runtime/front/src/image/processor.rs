//! The image processor: which size an image gets, and its values there (spec/vision.md, section 1).
//!
//! Its two halves are apart, so that a device could do either: [`ImageProcessor::resize`] ends in 8 bit pixels,
//! [`ImageProcessor::patches`] begins there.

use super::{Grid, Image, ImageError, Patches, Resized, resize_bicubic};
use serde::{Deserialize, Serialize};

/// Side of a patch in pixels.
pub(super) const PATCH: u32 = 14;
/// Patches along each side of the cell that becomes one token.
pub const MERGE: u32 = 2;
/// Frames of a patch.
pub(super) const TEMPORAL: u32 = 2;
/// Sides are multiples of this many pixels.
const FACTOR: u32 = PATCH * MERGE;
/// How much longer than wide an image may be, if it has at least [`FACTOR`] pixels each way.
const ASPECT_RATIO_MAX: f64 = 200.0;
/// The largest `max_pixels` accepted; the largest in use is 12845056.
pub const PROCESSOR_PIXELS_MAX: u64 = 1 << 24;
/// Most patches that an image or video may become: 1.2 GB of values.
pub const PATCH_ROWS_MAX: usize = 1 << 18;

/// The settings of a checkpoint's image processor. Patches of 14x14 pixels, merged 2x2, frames in pairs: other kinds are
/// refused when the settings are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "super::preprocessor_config::Stored", into = "super::preprocessor_config::Stored")]
pub struct ImageProcessor {
    pub(super) min_pixels: u64,
    pub(super) max_pixels: u64,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
}

impl ImageProcessor {
    /// The fewest pixels of a resized image.
    pub fn min_pixels(&self) -> u64 {
        self.min_pixels
    }

    /// The most pixels of a resized image.
    pub fn max_pixels(&self) -> u64 {
        self.max_pixels
    }

    /// What is taken from each colour, and what the rest is divided by.
    pub fn mean_std(&self) -> ([f32; 3], [f32; 3]) {
        (self.mean, self.std)
    }

    /// The height and width that an image gets: multiples of 28, near its own, within the limits of pixels.
    ///
    /// # Errors
    ///
    /// Where the image is empty or too long for its width.
    pub fn smart_resize(&self, height: u32, width: u32) -> Result<(u32, u32), ImageError> {
        if height == 0 || width == 0 {
            return Err(ImageError::Empty { name: "the image".to_owned(), width, height });
        }
        let too_long = |reason: &str| ImageError::AspectRatio { width, height, reason: reason.to_owned() };
        let factor = f64::from(FACTOR);
        // Steps and their order are the reference's, since each rounds.
        let (mut h, mut w) = (f64::from(height), f64::from(width));
        if height < FACTOR || width < FACTOR {
            if height < width {
                (h, w) = (factor, (w / h * factor).round_ties_even());
            } else {
                (h, w) = ((h / w * factor).round_ties_even(), factor);
            }
        } else if h.max(w) / h.min(w) > ASPECT_RATIO_MAX {
            return Err(too_long("one side is more than 200 times the other"));
        }
        let pixels = h * w;
        let multiple = |side: f64| (side / factor).round_ties_even() * factor;
        let (mut to_h, mut to_w) = (multiple(h), multiple(w));
        if to_h * to_w > self.max_pixels as f64 {
            let shrink = (pixels / self.max_pixels as f64).sqrt();
            let multiple = |side: f64| (side / shrink / factor).floor() * factor;
            (to_h, to_w) = (multiple(h), multiple(w));
        } else if to_h * to_w < self.min_pixels as f64 {
            let grow = (self.min_pixels as f64 / pixels).sqrt();
            let multiple = |side: f64| (side * grow / factor).ceil() * factor;
            (to_h, to_w) = (multiple(h), multiple(w));
        }
        if to_h < factor || to_w < factor {
            return Err(too_long(&format!(
                "scaled down to max_pixels ({}), nothing is left of its short side",
                self.max_pixels
            )));
        }
        // Products of the sides are within a few times the limits, so both fit.
        Ok((to_h as u32, to_w as u32))
    }

    /// How a still image (1 frame) or a video of this size is cut, before anything is done to it.
    ///
    /// # Errors
    ///
    /// As [`ImageProcessor::smart_resize`], and where the number of frames is 0 or odd but not 1, or too large.
    pub fn grid(&self, height: u32, width: u32, frames: usize) -> Result<Grid, ImageError> {
        let pairs = match frames {
            1 => 1,
            n if n > 0 && n.is_multiple_of(TEMPORAL as usize) => n / TEMPORAL as usize,
            found => return Err(ImageError::Frames { found }),
        };
        let (height, width) = self.smart_resize(height, width)?;
        let (h, w) = (height / PATCH, width / PATCH);
        let slice = h as usize * w as usize;
        if pairs > PATCH_ROWS_MAX / slice {
            return Err(ImageError::Patches { frames, width, height, limit: PATCH_ROWS_MAX });
        }
        Ok(Grid { t: pairs as u32, h, w })
    }

    /// A still image (1 frame) or a video, at the tower's size. All frames of a video get the size that the first one
    /// leads to.
    ///
    /// # Errors
    ///
    /// As [`ImageProcessor::grid`] for the first frame.
    pub fn resize(&self, frames: &[Image]) -> Result<Resized, ImageError> {
        let first = frames.first().ok_or(ImageError::Frames { found: 0 })?;
        let grid = self.grid(first.height, first.width, frames.len())?;
        let (width, height) = (grid.w * PATCH, grid.h * PATCH);
        Ok(Resized { grid, frames: frames.iter().map(|f| resize_bicubic(f, width, height)).collect() })
    }

    /// The normalised patches of a resized image or video: a pixel is divided by 255 in f64, rounded to f32, and
    /// mean and deviation are applied in f32.
    pub fn patches(&self, resized: &Resized) -> Patches {
        let level = |color: usize, pixel: usize| {
            let value = (pixel as f64 / 255.0) as f32;
            (value - self.mean[color]) / self.std[color]
        };
        let levels = [0, 1, 2].map(|color| std::array::from_fn(|pixel| level(color, pixel)));
        resized.patches(&levels)
    }

    /// [`ImageProcessor::resize`], then [`ImageProcessor::patches`].
    ///
    /// # Errors
    ///
    /// As [`ImageProcessor::resize`].
    pub fn preprocess(&self, frames: &[Image]) -> Result<Patches, ImageError> {
        Ok(self.patches(&self.resize(frames)?))
    }
}

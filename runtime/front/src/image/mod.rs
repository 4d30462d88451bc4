//! Images: from a file to the patches that the vision tower takes.
//!
//! [`Image`] is what all of it works on: RGB, 8 bit. [`ImageProcessor`] resizes and normalises as the checkpoint
//! says, and [`Grid`] tells how many tokens that will make before any of it is done.

mod decode;
mod error;
mod grid;
mod patches;
mod preprocessor_config;
mod processor;
mod resize;

pub use decode::{FILE_BYTES_MAX, IMAGE_PIXELS_MAX, IMAGE_SIDE_MAX};
pub use error::ImageError;
pub use grid::{Grid, coordinates, merged_tokens, patch_rows, segments};
pub use patches::{PATCH_FEATURES, Patches, Resized};
pub use preprocessor_config::PREPROCESSOR_FILE;
pub use processor::MERGE;
pub use processor::{ImageProcessor, PATCH_ROWS_MAX, PROCESSOR_PIXELS_MAX};
pub use resize::resize_bicubic;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// An RGB image of 8 bit. At least one pixel; at most [`IMAGE_SIDE_MAX`] a side and [`IMAGE_PIXELS_MAX`] in all where
/// it came from outside.
///
/// It stays what it is: the reference takes an image that is 1 or 3 pixels high for one whose first axis is the
/// colour; here rows are rows.
///
/// A clone shares its pixels.
#[derive(Clone)]
pub struct Image {
    width: u32,
    height: u32,
    pixels: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

impl Image {
    /// An image from its pixels: `[height, width, 3]`, rows from the top, red first.
    ///
    /// # Errors
    ///
    /// Where a side is zero, the image is larger than the limits, or there are not as many bytes as pixels need.
    pub fn from_rgb8(width: u32, height: u32, pixels: Vec<u8>) -> Result<Image, ImageError> {
        Image::shared(width, height, Arc::new(pixels))
    }

    /// As [`Image::from_rgb8`], of pixels that are shared with who else has them: nothing is copied. They stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Image::from_rgb8`].
    pub fn shared(
        width: u32,
        height: u32,
        pixels: Arc<dyn AsRef<[u8]> + Send + Sync>,
    ) -> Result<Image, ImageError> {
        decode::check_size("the image", width, height)?;
        let (found_bytes, expected_bytes) = ((*pixels).as_ref().len(), 3 * width as usize * height as usize);
        if found_bytes != expected_bytes {
            return Err(ImageError::Buffer { width, height, found_bytes, expected_bytes });
        }
        Ok(Image { width, height, pixels })
    }

    /// Reads a PNG or JPEG file.
    ///
    /// # Errors
    ///
    /// Where it cannot be read or is no image of these kinds, and where a limit is passed.
    pub fn open(path: &Path) -> Result<Image, ImageError> {
        decode::open(path)
    }

    /// An image from the bytes of a PNG or JPEG file; `name` is what errors call it.
    ///
    /// Grey is repeated over the colours, a palette looked up, and alpha dropped without blending, as the reference
    /// does it. Of 16 bit colours the upper 8 are kept; 16 bit grey without alpha is cut off at 255 instead, since
    /// Pillow's `convert` does the one and the other. An orientation that the file asks for is not applied. Pixels of a
    /// JPEG file are within some levels of libjpeg's (4 on a recorded frame), those of a PNG file exact.
    ///
    /// # Errors
    ///
    /// Where it is no sound PNG or JPEG file, and where a limit is passed.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Image, ImageError> {
        decode::decode(bytes, name)
    }

    /// Columns.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels: `[height, width, 3]`, rows from the top, red first.
    pub fn pixels(&self) -> &[u8] {
        (*self.pixels).as_ref()
    }

    /// An image made here, of which the caller knows that it fits.
    pub(crate) fn made(width: u32, height: u32, pixels: Vec<u8>) -> Image {
        debug_assert_eq!(pixels.len(), 3 * width as usize * height as usize);
        Image { width, height, pixels: Arc::new(pixels) }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image {{ {} x {} }}", self.width, self.height)
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Image) -> bool {
        (self.width, self.height) == (other.width, other.height) && self.pixels() == other.pixels()
    }
}

impl Eq for Image {}

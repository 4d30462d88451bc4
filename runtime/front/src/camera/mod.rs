//! What an evaluation does to a camera's frames before the image processor sees them (spec/actions.md, section 8).
//!
//! The stages of LIBERO, each on its own, and [`libero`] for all of them in order. A policy that was trained on such
//! frames expects them; one that was not must not get them.

mod crop;
mod dct;
mod jpeg;
mod lanczos;

pub use crop::center_crop;
pub use jpeg::jpeg_round_trip;
pub use lanczos::resize_lanczos3;

use crate::image::Image;

/// Side of the frames that the model was trained on.
pub const LIBERO_SIDE: u32 = 224;

/// The image turned by 180 degrees.
pub fn rotate_180(image: &Image) -> Image {
    let pixels = image.pixels().rchunks_exact(3).flatten().copied().collect();
    Image::made(image.width(), image.height(), pixels)
}

/// A frame of the LIBERO simulator as its evaluation prepares it: turned by 180 degrees, stored as JPEG and read again,
/// resized to 224x224, and with `crop` (on for all released models) cut to its middle.
pub fn libero(image: &Image, crop: bool) -> Image {
    let resized = resize_lanczos3(&jpeg_round_trip(&rotate_180(image)), LIBERO_SIDE, LIBERO_SIDE);
    if crop { center_crop(&resized) } else { resized }
}

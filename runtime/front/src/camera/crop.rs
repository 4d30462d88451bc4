//! The centre crop of the evaluation, as TensorFlow's `crop_and_resize` does it in f32.

use crate::image::Image;

/// How much of the image's area is kept.
const AREA: f32 = 0.9;

/// The middle of the image, 0.9 of its area, enlarged to the image's own size with bilinear filtering.
pub fn center_crop(image: &Image) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (columns, rows) = (places(image.width()), places(image.height()));
    // Values go through 0 to 1 and come back with half a level more, cut off.
    let value = |x: usize, y: usize, color: usize| {
        f32::from(image.pixels()[3 * (y * width + x) + color]) * (1.0 / 255.0)
    };
    let mut pixels = Vec::with_capacity(3 * width * height);
    for (top, bottom, down) in rows {
        for (left, right, across) in &columns {
            let row = |y: usize, color: usize| {
                let (left, right) = (value(*left, y, color), value(*right, y, color));
                left + (right - left) * across
            };
            let color = |color: usize| {
                let (top, bottom) = (row(top, color), row(bottom, color));
                ((top + (bottom - top) * down).clamp(0.0, 1.0) * 255.5) as u8
            };
            pixels.extend([0, 1, 2].map(color));
        }
    }
    Image::made(image.width(), image.height(), pixels)
}

/// For each place along a side: the two that it lies between, and how far from the first.
fn places(side: u32) -> Vec<(usize, usize, f32)> {
    let kept = AREA.sqrt();
    let from = (1.0 - kept) / 2.0;
    let to = from + kept;
    let last = side as f32 - 1.0;
    let step = if side > 1 { (to - from) * last / last } else { 0.0 };
    let place = |k: u32| {
        let at = if side > 1 { from * last + k as f32 * step } else { 0.5 * (from + to) * last };
        let at = at.clamp(0.0, last);
        (at.floor() as usize, at.ceil() as usize, at - at.floor())
    };
    (0..side).map(place).collect()
}

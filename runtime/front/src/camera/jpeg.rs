//! What storing an image as JPEG does to it: quality 95, colour at half the resolution each way, baseline.
//!
//! The entropy coding of a JPEG file loses nothing, so no file is made: colours are converted and halved, blocks
//! transformed, quantised and transformed back, colours brought to full size again. Everything is libjpeg's integer
//! arithmetic in its order, as TensorFlow sets it up: the accurate transform for writing, the fast one for reading,
//! and triangles for enlarging colour. So the result is TensorFlow's, bit for bit.

use super::dct::{Quantiser, forward, inverse};
use crate::image::Image;

/// One component, padded to whole blocks.
struct Plane {
    width: usize,
    samples: Vec<u8>,
}

/// The image after it was written as a JPEG file of quality 95 and read again.
pub fn jpeg_round_trip(image: &Image) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let [mut luma, blue, red] = components(image);
    let (mut blue, mut red) = (halved(&blue), halved(&red));
    through_blocks(&mut luma, &Quantiser::luma());
    for plane in [&mut blue, &mut red] {
        through_blocks(plane, &Quantiser::chroma());
    }
    let mut pixels = Vec::with_capacity(3 * width * height);
    let (mut blue_row, mut red_row) = (vec![0; width], vec![0; width]);
    for y in 0..height {
        doubled(&blue, height, y, &mut blue_row);
        doubled(&red, height, y, &mut red_row);
        for x in 0..width {
            pixels.extend(rgb(luma.samples[y * luma.width + x], blue_row[x], red_row[x]));
        }
    }
    Image::made(image.width(), image.height(), pixels)
}

/// Luma and the two colour differences at full size, the last column and row repeated up to multiples of 16.
fn components(image: &Image) -> [Plane; 3] {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (padded_width, padded_height) = (width.next_multiple_of(16), height.next_multiple_of(16));
    let mut planes = [(); 3]
        .map(|()| Plane { width: padded_width, samples: Vec::with_capacity(padded_width * padded_height) });
    for y in 0..padded_height {
        let row = &image.pixels()[3 * width * y.min(height - 1)..][..3 * width];
        for x in 0..padded_width {
            let at = 3 * x.min(width - 1);
            let [r, g, b] = [row[at], row[at + 1], row[at + 2]].map(i32::from);
            let half = 1 << 15;
            let middle = (128 << 16) + half - 1;
            let luma = (19_595 * r + 38_470 * g + 7_471 * b + half) >> 16;
            let blue = (-11_059 * r - 21_709 * g + 32_768 * b + middle) >> 16;
            let red = (32_768 * r - 27_439 * g - 5_329 * b + middle) >> 16;
            for (plane, value) in planes.iter_mut().zip([luma, blue, red]) {
                plane.samples.push(value as u8);
            }
        }
    }
    planes
}

/// Means of 2x2 samples. What is rounded alternates from column to column.
fn halved(plane: &Plane) -> Plane {
    let mut samples = Vec::with_capacity(plane.samples.len() / 4);
    for rows in plane.samples.chunks_exact(2 * plane.width) {
        let (upper, lower) = rows.split_at(plane.width);
        for (x, (a, b)) in upper.chunks_exact(2).zip(lower.chunks_exact(2)).enumerate() {
            let sum: u16 = a.iter().chain(b).map(|v| u16::from(*v)).sum();
            samples.push(((sum + 1 + (x as u16 & 1)) >> 2) as u8);
        }
    }
    Plane { width: plane.width / 2, samples }
}

/// Each 8x8 block through the transform, the quantiser and back.
fn through_blocks(plane: &mut Plane, quantiser: &Quantiser) {
    let Plane { width, samples } = plane;
    for rows in samples.chunks_exact_mut(8 * *width) {
        for column in (0..*width).step_by(8) {
            let mut block = [0; 64];
            for (to, from) in block.chunks_exact_mut(8).zip(rows.chunks_exact(*width)) {
                for (to, from) in to.iter_mut().zip(&from[column..column + 8]) {
                    *to = i32::from(*from) - 128;
                }
            }
            forward(&mut block);
            quantiser.apply(&mut block);
            inverse(&mut block);
            for (from, to) in block.chunks_exact(8).zip(rows.chunks_exact_mut(*width)) {
                for (from, to) in from.iter().zip(&mut to[column..column + 8]) {
                    *to = (from + 128).clamp(0, 255) as u8;
                }
            }
        }
    }
}

/// Row `y` of a halved plane at full size: nearer samples count three times as much as the others, each way.
fn doubled(plane: &Plane, height: usize, y: usize, row: &mut [u8]) {
    let (rows, columns) = (height.div_ceil(2), row.len().div_ceil(2));
    let near = y / 2;
    let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(rows - 1) };
    let sum = |x: usize| {
        let at = |y: usize| i32::from(plane.samples[y * plane.width + x]);
        3 * at(near) + at(far)
    };
    for (x, value) in row.iter_mut().enumerate() {
        let near = x / 2;
        let (far, rounding) =
            if x.is_multiple_of(2) { (near.saturating_sub(1), 8) } else { ((near + 1).min(columns - 1), 7) };
        *value = ((3 * sum(near) + sum(far) + rounding) >> 4) as u8;
    }
}

fn rgb(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    let half = 1 << 15;
    let (luma, blue, red) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    let r = luma + ((91_881 * red + half) >> 16);
    let g = luma + ((-22_554 * blue - 46_802 * red + half) >> 16);
    let b = luma + ((116_130 * blue + half) >> 16);
    [r, g, b].map(|v| v.clamp(0, 255) as u8)
}

//! Bicubic resizing as Pillow 11.3 does it, bit for bit (spec/vision.md, section 1, step 3).
//!
//! Two passes, horizontal first, each ending in 8 bit; a pass that changes nothing is left out. Weights are computed
//! in double precision and used with 22 fractional bits. When shrinking, the filter widens, so it smooths.

use super::Image;

/// Fractional bits of a weight.
const FRACTION_BITS: u32 = 22;
/// Half of the last bit kept: where sums begin.
const HALF: i32 = 1 << (FRACTION_BITS - 1);
/// Half the filter's width, in pixels of the output.
const RADIUS: f64 = 2.0;

/// The image at another size. Asked for its own size, it is returned unfiltered; a side of 0 counts as 1.
///
/// Takes memory for one image of `width` x the old height besides the result.
pub fn resize_bicubic(image: &Image, width: u32, height: u32) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    let mut resized = image.clone();
    if width != image.width {
        resized = Image::made(width, image.height, horizontal(image, width as usize));
    }
    if height != image.height {
        resized = Image::made(width, height, vertical(&resized, height as usize));
    }
    resized
}

/// Which inputs make an output, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of each of `output` places over `input` places.
fn taps(input: usize, output: usize) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = RADIUS * stretch;
    let per_tap = 1.0 / stretch;
    let place = |x: usize| {
        let center = (x as f64 + 0.5) * scale;
        // Casts of negative numbers give 0, where the input begins.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let weights: Vec<f64> =
            (first..end).map(|tap| cubic((tap as f64 - center + 0.5) * per_tap)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| (w / sum * f64::from(1 << FRACTION_BITS)).round() as i32;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..output).map(place).collect()
}

/// The cubic filter with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Weights add up to 1 and their magnitudes to less than 2, so that sums fit 32 bits with their sign.
fn rounded(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

fn horizontal(image: &Image, width: usize) -> Vec<u8> {
    let taps = taps(image.width as usize, width);
    let mut pixels = Vec::with_capacity(3 * width * image.height as usize);
    for row in image.pixels().chunks_exact(3 * image.width as usize) {
        for Taps { first, weights } in &taps {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            pixels.extend(sums.map(rounded));
        }
    }
    pixels
}

fn vertical(image: &Image, height: usize) -> Vec<u8> {
    let row_len = 3 * image.width as usize;
    let mut pixels = Vec::with_capacity(row_len * height);
    let mut sums = vec![0; row_len];
    for Taps { first, weights } in taps(image.height as usize, height) {
        sums.fill(HALF);
        for (row, weight) in image.pixels()[row_len * first..].chunks_exact(row_len).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        pixels.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    pixels
}

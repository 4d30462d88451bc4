//! Lanczos resizing with antialiasing, as TensorFlow's `tf.image.resize` does it in f32.

use crate::image::Image;

/// Half the filter's width, in pixels of the output when shrinking.
const RADIUS: f32 = 3.0;

/// The image at another size: Lanczos with radius 3, widened when shrinking, rows first and then columns, rounded half
/// to even and cut to 8 bit at the end.
///
/// A side of 0 counts as 1.
pub fn resize_lanczos3(image: &Image, width: u32, height: u32) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    let row_len = 3 * image.width() as usize;
    let columns = spans(image.width(), width);
    let mut pixels = Vec::with_capacity(3 * width as usize * height as usize);
    let mut line = vec![0.0; row_len];
    for (first, weights) in spans(image.height(), height) {
        line.fill(0.0);
        for (row, weight) in image.pixels()[row_len * first..].chunks_exact(row_len).zip(&weights) {
            for (sum, value) in line.iter_mut().zip(row) {
                *sum += f32::from(*value) * weight;
            }
        }
        for (first, weights) in &columns {
            let mut sums = [0.0; 3];
            for (pixel, weight) in line[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += value * weight;
                }
            }
            pixels.extend(sums.map(|v| v.round_ties_even().clamp(0.0, 255.0) as u8));
        }
    }
    Image::made(width, height, pixels)
}

/// For each of `output` places, the first of the `input` places that make it, and their weights.
fn spans(input: u32, output: u32) -> Vec<(usize, Vec<f32>)> {
    let inverse_scale = 1.0 / (output as f32 / input as f32);
    let stretch = inverse_scale.max(1.0);
    let per_place = 1.0 / stretch;
    let span = |place: u32| {
        let center = (place as f32 + 0.5) * inverse_scale;
        let last = input as f32 - 1.0;
        let first = (center - RADIUS * stretch - 0.5).ceil().clamp(0.0, last) as usize;
        let end = (center + RADIUS * stretch - 0.5).floor().clamp(0.0, last) as usize;
        let weight = |at: usize| lanczos((at as f32 + 0.5 - center) * per_place);
        let mut weights: Vec<f32> = (first..=end).map(weight).collect();
        let per_sum = 1.0 / weights.iter().sum::<f32>();
        for weight in &mut weights {
            *weight *= per_sum;
        }
        (first, weights)
    };
    (0..output).map(span).collect()
}

fn lanczos(x: f32) -> f32 {
    use std::f32::consts::PI;
    let x = x.abs();
    if x > RADIUS {
        0.0
    } else if x <= 1e-3 {
        1.0
    } else {
        RADIUS * (PI * x).sin() * (PI * x / RADIUS).sin() / (PI * PI * x * x)
    }
}

//! The stages of a camera frame, each from the reference's own input of the stage.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{Golden, fixture, noise};
use dreamc_front::camera::{center_crop, jpeg_round_trip, libero, resize_lanczos3, rotate_180};
use dreamc_front::image::Image;

/// The largest difference, and the mean.
fn compare(found: &Image, expected: &[u8]) -> (u8, f64) {
    assert_eq!(found.pixels().len(), expected.len());
    let differences = found.pixels().iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences.clone().map(f64::from).sum();
    (differences.max().unwrap(), sum / expected.len() as f64)
}

fn stored(name: &str, side: u32) -> Image {
    Image::from_rgb8(side, side, Golden::of("tiny-vla").u8(name)).unwrap()
}

#[test]
fn a_jpeg_file_and_back() {
    let frame = Image::open(&fixture("tiny-vla/images/env.png")).unwrap();
    let difference = compare(&jpeg_round_trip(&frame), stored("camera/jpeg_decoded", 256).pixels());
    assert_eq!(difference, (0, 0.0));
}

#[test]
fn lanczos() {
    let resized = resize_lanczos3(&stored("camera/jpeg_decoded", 256), 224, 224);
    let (most, mean) = compare(&resized, stored("camera/resized_224", 224).pixels());
    assert!(most <= 1 && mean < 1e-3, "{most}, {mean}");
}

#[test]
fn crop() {
    let cropped = center_crop(&stored("camera/resized_224", 224));
    assert_eq!(compare(&cropped, stored("camera/center_cropped", 224).pixels()), (0, 0.0));
}

#[test]
fn all_stages() {
    let frame = Image::open(&fixture("tiny-vla/images/env.png")).unwrap();
    let turned = rotate_180(&frame);
    assert_eq!(turned.pixels()[..3], frame.pixels()[frame.pixels().len() - 3..]);
    assert_eq!(rotate_180(&turned), frame);
    let golden = Golden::of("tiny-vla");
    assert!(compare(&libero(&turned, true), &golden.u8("camera/center_cropped")).0 <= 1);
    assert!(compare(&libero(&turned, false), &golden.u8("camera/resized_224")).0 <= 1);
}

/// Sizes that are no multiple of a block, down to one pixel.
#[test]
fn odd_sizes() {
    for (width, height) in [(1, 1), (1, 40), (17, 3), (33, 31)] {
        let flat = Image::from_rgb8(width, height, [200, 60, 30].repeat((width * height) as usize)).unwrap();
        let near = |image: &Image| {
            let close = |p: &[u8]| p.iter().zip([200_u8, 60, 30]).all(|(a, b)| a.abs_diff(b) <= 3);
            assert!(image.pixels().chunks_exact(3).all(close), "{width}x{height} {:?}", &image.pixels()[..3]);
        };
        near(&jpeg_round_trip(&flat));
        near(&center_crop(&flat));
        near(&resize_lanczos3(&flat, 50, 7));
        near(&libero(&flat, true));
        let rough = Image::from_rgb8(width, height, noise(3 * (width * height) as usize, 9)).unwrap();
        assert_eq!(libero(&rough, true).pixels().len(), 3 * 224 * 224);
    }
}

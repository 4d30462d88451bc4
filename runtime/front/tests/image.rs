//! Image files: every kind of pixel, and every way to be no image.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{Golden, fixture, levels};
use dreamc_front::image::{Image, ImageError};
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

fn png(width: u32, height: u32, color: ExtendedColorType, samples: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(samples, width, height, color).unwrap();
    bytes
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = common::noise(3 * (width * height) as usize, 1);
    JpegEncoder::new(&mut bytes).write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// A PNG's header claims what its data need not have.
fn claiming(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(1, 1, ExtendedColorType::Rgb8, &[1, 2, 3]);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = !0_u32;
    for byte in &bytes[12..29] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 * (crc & 1));
        }
    }
    bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

#[test]
fn raw_pixels() {
    let image = Image::from_rgb8(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!((image.width(), image.height(), image.pixels()), (2, 1, &[1, 2, 3, 4, 5, 6][..]));
    let error = Image::from_rgb8(2, 2, vec![0; 6]).unwrap_err();
    assert!(
        matches!(error, ImageError::Buffer { found_bytes: 6, expected_bytes: 12, .. })
            && error.to_string().contains("2x2"),
        "{error}"
    );
    assert!(matches!(Image::from_rgb8(0, 2, vec![]), Err(ImageError::Empty { .. })));
    assert!(matches!(Image::from_rgb8(u32::MAX, u32::MAX, vec![]), Err(ImageError::TooLarge { .. })));
    assert!(matches!(Image::from_rgb8(65_536, 1, vec![]), Err(ImageError::TooLarge { .. })));
}

/// As Pillow 11.3.0 converts the same files, measured.
#[test]
fn deep_colours() {
    let deep: [u16; 13] = [0, 1, 127, 128, 255, 256, 257, 383, 384, 0x7fff, 0x80ff, 0xfe80, 0xffff];
    let red = |color, samples: usize| -> Vec<u8> {
        let bytes: Vec<u8> = deep.iter().flat_map(|v| v.to_ne_bytes().repeat(samples)).collect();
        let image = Image::decode(&png(13, 1, color, &bytes), "deep.png").unwrap();
        image.pixels().iter().step_by(3).copied().collect()
    };
    let high = [0, 0, 0, 0, 0, 1, 1, 1, 1, 127, 128, 254, 255];
    assert_eq!(red(ExtendedColorType::Rgb16, 3), high);
    assert_eq!(red(ExtendedColorType::Rgba16, 4), high);
    assert_eq!(red(ExtendedColorType::La16, 2), high);
    let cut = [0, 1, 127, 128, 255, 255, 255, 255, 255, 255, 255, 255, 255];
    assert_eq!(red(ExtendedColorType::L16, 1), cut);
}

#[test]
fn alpha_is_dropped() {
    let rgba = png(1, 1, ExtendedColorType::Rgba8, &[10, 20, 30, 0]);
    assert_eq!(Image::decode(&rgba, "a").unwrap().pixels(), [10, 20, 30]);
    let la = png(1, 1, ExtendedColorType::La8, &[77, 0]);
    assert_eq!(Image::decode(&la, "a").unwrap().pixels(), [77, 77, 77]);
}

#[test]
fn a_jpeg() {
    let golden = Golden::of("tiny-vla");
    let image = Image::decode(&golden.u8("camera/jpeg_bytes"), "camera").unwrap();
    assert_eq!((image.width(), image.height()), (256, 256));
    let expected = golden.u8("camera/jpeg_decoded");
    // The recorded pixels are those of libjpeg's fast transform, which does not round; the library's is accurate.
    let differences = image.pixels().iter().zip(&expected).map(|(a, b)| f64::from(a.abs_diff(*b)));
    let mean = differences.sum::<f64>() / expected.len() as f64;
    let levels = levels(image.pixels(), &expected);
    assert!(levels <= 12 && mean <= 2.0, "{levels}, {mean}");
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let named = |error: &ImageError, name: &str| {
        assert!(error.to_string().contains(name), "{error}");
    };
    let absent = Image::open(&dir.path().join("absent.png")).unwrap_err();
    assert!(matches!(absent, ImageError::Read { .. }));
    named(&absent, "absent.png");
    assert!(matches!(Image::open(dir.path()), Err(ImageError::Read { .. })));

    let path = dir.path().join("hole.png");
    std::fs::File::create(&path).unwrap().set_len((256 << 20) + 1).unwrap();
    let error = Image::open(&path).unwrap_err();
    assert!(matches!(error, ImageError::FileTooLarge { found_bytes: 268_435_457, .. }), "{error}");
    named(&error, "hole.png");

    for (name, bytes) in [("empty.png", &b""[..]), ("text.png", b"not an image"), ("a.gif", b"GIF89a")] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Image::open(&path).unwrap_err();
        assert!(matches!(error, ImageError::Format { .. }), "{error}");
        named(&error, name);
    }
    let path = dir.path().join("good.png");
    std::fs::write(&path, png(1, 1, ExtendedColorType::Rgb8, &[1, 2, 3])).unwrap();
    assert_eq!(Image::open(&path).unwrap().pixels(), [1, 2, 3]);
}

#[test]
fn claims_are_checked_before_memory_is_taken() {
    for (width, height) in [(20_000, 20_000), (65_536, 1), (0x7fff_ffff, 0x7fff_ffff)] {
        let error = Image::decode(&claiming(width, height), "bomb.png").unwrap_err();
        assert!(error.to_string().contains("bomb.png"), "{error}");
        assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    }
    let mut bomb = jpeg(8, 8);
    let frame = bomb.windows(2).position(|b| b == [0xff, 0xc0]).unwrap();
    bomb[frame + 5..frame + 9].fill(0xff);
    let error = Image::decode(&bomb, "bomb.jpg").unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { width: 65_535, height: 65_535, .. }), "{error}");
    for (width, height) in [(0, 5), (5, 0)] {
        let error = Image::decode(&claiming(width, height), "empty.png").unwrap_err();
        assert!(error.to_string().contains("empty.png"), "{error}");
    }
    // Within the limits, but the data are not there.
    let error = Image::decode(&claiming(300, 300), "short.png").unwrap_err();
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error}");
}

#[test]
fn truncated() {
    for (name, whole) in [
        ("a.png", std::fs::read(fixture("tiny-vl/images/image0.png")).unwrap()),
        ("p.png", std::fs::read(fixture("tiny-vl/images/p.png")).unwrap()),
        ("b.jpg", jpeg(40, 30)),
    ] {
        assert!(Image::decode(&whole, name).is_ok());
        // The last bytes of a PNG are a checksum, which no pixel depends on.
        for end in (0..whole.len() - 16).step_by(7).chain([whole.len() - 17]) {
            let error = Image::decode(&whole[..end], name).unwrap_err();
            assert!(error.to_string().contains(name), "{end}: {error}");
        }
    }
    let whole = jpeg(40, 30);
    for end in whole.len() - 17..whole.len() {
        assert!(Image::decode(&whole[..end], "b.jpg").is_err(), "{end}");
    }
}

/// Damage may go unnoticed, but never ends in a panic.
#[test]
fn damaged() {
    let png = std::fs::read(fixture("tiny-vl/images/rgba.png")).unwrap();
    for whole in [png, jpeg(33, 17)] {
        for (place, mask) in (0..whole.len()).zip([1_u8, 0x80, 0xff, 0x10].iter().cycle()) {
            let mut bytes = whole.clone();
            bytes[place] ^= mask;
            let _ = Image::decode(&bytes, "damaged");
        }
    }
}

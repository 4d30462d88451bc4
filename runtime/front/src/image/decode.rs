//! PNG and JPEG files to RGB, within limits.

use super::{Image, ImageError};
use image::codecs::{jpeg::JpegDecoder, png::PngDecoder};
use image::{ColorType, ImageDecoder, ImageResult, Limits};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// The longest file read.
pub const FILE_BYTES_MAX: u64 = 256 << 20;
/// The longest side of an image.
pub const IMAGE_SIDE_MAX: u32 = 65_535;
/// Most pixels of an image: 67 million. Decoding takes up to 11 bytes for each.
pub const IMAGE_PIXELS_MAX: u64 = 1 << 26;
/// What the library may take besides the pixels that we hand it.
const DECODER_BYTES_MAX: u64 = 12 * IMAGE_PIXELS_MAX;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8\xff";

pub(super) fn open(path: &Path) -> Result<Image, ImageError> {
    let read = |source| ImageError::Read { path: path.to_owned(), source };
    let name = path.display().to_string();
    // Of a pipe or a folder, no more is known than that it is not a file; opening one could wait forever.
    let meta = std::fs::metadata(path).map_err(read)?;
    if !meta.is_file() {
        return Err(read(std::io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    if meta.len() <= FILE_BYTES_MAX {
        File::open(path).and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(read)?;
    }
    let found_bytes = meta.len().max(bytes.len() as u64);
    if found_bytes > FILE_BYTES_MAX {
        return Err(ImageError::FileTooLarge { name, found_bytes, limit_bytes: FILE_BYTES_MAX });
    }
    decode(&bytes, &name)
}

pub(super) fn decode(bytes: &[u8], name: &str) -> Result<Image, ImageError> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    if bytes.starts_with(PNG) {
        // The library would see to its memory too, but not say how large the image is.
        if let Some([b'I', b'H', b'D', b'R', size @ ..]) = bytes.get(12..24) {
            let sides = size.as_chunks().0;
            check_size(&format!("`{name}`"), u32::from_be_bytes(sides[0]), u32::from_be_bytes(sides[1]))?;
        }
        pixels(PngDecoder::with_limits(Cursor::new(bytes), limits), name)
    } else if bytes.starts_with(JPEG) {
        if !jpeg_ends(bytes) {
            return Err(corrupt(name, "the JPEG data ends too early"));
        }
        let decoder = JpegDecoder::new(Cursor::new(bytes)).and_then(|mut decoder| {
            decoder.set_limits(limits)?;
            Ok(decoder)
        });
        pixels(decoder, name)
    } else {
        Err(ImageError::Format { name: name.to_owned() })
    }
}

/// Whether an image from outside fits the limits; `name` is what the error calls it.
pub(super) fn check_size(name: &str, width: u32, height: u32) -> Result<(), ImageError> {
    let name = || name.to_owned();
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { name: name(), width, height });
    }
    let (side_max, pixels_max) = (IMAGE_SIDE_MAX, IMAGE_PIXELS_MAX);
    if width.max(height) > side_max || u64::from(width) * u64::from(height) > pixels_max {
        return Err(ImageError::TooLarge { name: name(), width, height, side_max, pixels_max });
    }
    Ok(())
}

fn pixels(decoder: ImageResult<impl ImageDecoder>, name: &str) -> Result<Image, ImageError> {
    let wrong = |e: image::ImageError| corrupt(name, &e.to_string());
    let decoder = decoder.map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    check_size(&format!("`{name}`"), width, height)?;
    let color = decoder.color_type();
    let pixel = pixel(color).ok_or_else(|| corrupt(name, &format!("its pixels are {color:?}")))?;
    // At most 8 bytes for each of the pixels just counted.
    let mut raw = vec![0; width as usize * height as usize * usize::from(color.bytes_per_pixel())];
    decoder.read_image(&mut raw).map_err(wrong)?;
    if color == ColorType::Rgb8 {
        return Ok(Image::made(width, height, raw));
    }
    let mut rgb = Vec::with_capacity(3 * width as usize * height as usize);
    for bytes in raw.chunks_exact(color.bytes_per_pixel().into()) {
        rgb.extend(pixel(bytes));
    }
    Ok(Image::made(width, height, rgb))
}

/// From the bytes of a pixel to RGB. Samples of 16 bit are in the host's order.
type Convert = fn(&[u8]) -> [u8; 3];

/// How a pixel of this kind becomes RGB.
fn pixel(color: ColorType) -> Option<Convert> {
    fn at(bytes: &[u8], sample: usize) -> u16 {
        u16::from_ne_bytes([bytes[2 * sample], bytes[2 * sample + 1]])
    }
    fn high(bytes: &[u8], sample: usize) -> u8 {
        (at(bytes, sample) >> 8) as u8
    }
    Some(match color {
        ColorType::L8 | ColorType::La8 => |p| [p[0]; 3],
        ColorType::Rgb8 | ColorType::Rgba8 => |p| [p[0], p[1], p[2]],
        ColorType::L16 => |p| [at(p, 0).min(255) as u8; 3],
        ColorType::La16 => |p| [high(p, 0); 3],
        ColorType::Rgb16 | ColorType::Rgba16 => |p| [high(p, 0), high(p, 1), high(p, 2)],
        _ => return None,
    })
}

/// Whether the data of a JPEG file reaches its end marker; the library fills in what is missing without a word.
fn jpeg_ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    // After the marker of the start: segments with their lengths, and entropy-coded data after each scan's.
    let mut rest = &bytes[2..];
    let mut coded = false;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != 0xff {
            if !coded {
                return false;
            }
            continue;
        }
        let Some(&marker) = rest.first() else { return false };
        match marker {
            END => return true,
            // Fill bytes; a coded 0xff; restarts and other markers without a length.
            0xff => {}
            0x00 | 0x01 | 0xd0..=0xd8 => rest = &rest[1..],
            _ => {
                let [_, high, low, ..] = rest else { return false };
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some(after) = rest.get(1 + length..) else { return false };
                rest = after;
                coded = marker == SCAN;
            }
        }
    }
    false
}

fn corrupt(name: &str, reason: &str) -> ImageError {
    ImageError::Corrupt { name: name.to_owned(), reason: reason.to_owned() }
}

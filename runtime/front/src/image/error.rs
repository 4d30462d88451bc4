//! What can be wrong with an image or with the settings of its processor.

use std::path::PathBuf;

/// Why an image cannot be had or prepared.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum ImageError {
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    #[diagnostic(code(image::read), help("check that the file is there and that you may read it"))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is longer than the limit.
    #[error("`{name}` has {found_bytes} bytes; the limit is {limit_bytes}")]
    #[diagnostic(code(image::file_too_large), help("save the image smaller or with more compression"))]
    FileTooLarge {
        /// The image.
        name: String,
        /// Its length.
        found_bytes: u64,
        /// The longest accepted.
        limit_bytes: u64,
    },
    /// Neither PNG nor JPEG.
    #[error("`{name}` is neither a PNG nor a JPEG image")]
    #[diagnostic(code(image::format), help("convert it to PNG"))]
    Format {
        /// The image.
        name: String,
    },
    /// The file is damaged, or of a kind that is not read.
    #[error("`{name}` is no image that can be read: {reason}")]
    #[diagnostic(
        code(image::corrupt),
        help("check that it was copied or downloaded completely, or save it again as PNG")
    )]
    Corrupt {
        /// The image.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A side is zero.
    #[error("{name} is {width}x{height} pixels: it has none")]
    #[diagnostic(code(image::empty), help("give an image of at least 1x1 pixel"))]
    Empty {
        /// The image.
        name: String,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Larger than the limits.
    #[error("{name} is {width}x{height} pixels; the limits are {side_max} a side and {pixels_max} in all")]
    #[diagnostic(code(image::too_large), help("scale it down first: the model sees far fewer pixels"))]
    TooLarge {
        /// The image.
        name: String,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Longest side accepted.
        side_max: u32,
        /// Most pixels accepted.
        pixels_max: u64,
    },
    /// A buffer of pixels has the wrong length.
    #[error("an RGB image of {width}x{height} has {expected_bytes} bytes, and {found_bytes} are given")]
    #[diagnostic(
        code(image::buffer),
        help("give 3 bytes a pixel, row by row from the top, without padding between rows")
    )]
    Buffer {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes given.
        found_bytes: usize,
        /// Bytes that it takes.
        expected_bytes: usize,
    },
    /// Too long for its width.
    #[error("an image of {width}x{height} is too long for the model: {reason}")]
    #[diagnostic(code(image::aspect_ratio), help("crop the image, or cut it into several"))]
    AspectRatio {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Which rule.
        reason: String,
    },
    /// Not a still image, nor pairs of frames.
    #[error("a video has {found} frames; the model takes them in pairs")]
    #[diagnostic(code(image::frames), help("drop or repeat a frame, so that there is an even number"))]
    Frames {
        /// How many were given.
        found: usize,
    },
    /// More patches than the limit.
    #[error("{frames} frames of {width}x{height} make more than {limit} patches")]
    #[diagnostic(code(image::patches), help("give fewer frames or set a smaller max_pixels"))]
    Patches {
        /// Frames.
        frames: usize,
        /// Columns after resizing.
        width: u32,
        /// Rows after resizing.
        height: u32,
        /// Most patches accepted.
        limit: usize,
    },
    /// A row of `image_grid_thw` that no image has.
    #[error(
        "`image_grid_thw` has the row {thw:?}: it must be at least 1 slice of an even number of rows and columns"
    )]
    #[diagnostic(
        code(image::grid),
        help("give t, h, w in patches of 14x14 pixels, as the image processor does")
    )]
    Grid {
        /// The row.
        thw: [i64; 3],
    },
    /// The processor's settings are not usable.
    #[error("`{place}`: {reason}")]
    #[diagnostic(
        code(image::settings),
        help(
            "take preprocessor_config.json from the checkpoint's source; settings of other models are not supported"
        )
    )]
    Settings {
        /// File or section that has them.
        place: String,
        /// Which key, and what is wrong.
        reason: String,
    },
}

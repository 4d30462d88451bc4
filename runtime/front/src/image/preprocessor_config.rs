//! The processor's settings, as `preprocessor_config.json` and as a manifest have them.

use super::processor::{MERGE, PATCH, TEMPORAL};
use super::{ImageError, ImageProcessor, PROCESSOR_PIXELS_MAX};
use crate::files;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The file of a checkpoint that has the settings.
pub const PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// The reference class's own limits, which hold where the file has none.
const MIN_PIXELS: u64 = 3136;
const MAX_PIXELS: u64 = 1_003_520;
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f32; 3] = [0.26862954, 0.261_302_6, 0.275_777_1];
/// `resample`: bicubic.
const BICUBIC: u64 = 3;
const RESCALE: f64 = 1.0 / 255.0;

impl ImageProcessor {
    /// Reads `preprocessor_config.json` in a checkpoint's folder, or `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where the file does not read, or says what this processor does not do.
    pub fn from_dir(dir: &Path) -> Result<Option<ImageProcessor>, crate::FrontError> {
        let path = dir.join(PREPROCESSOR_FILE);
        let Some(config) = files::object(&path)? else { return Ok(None) };
        let settings = |reason| ImageError::Settings { place: path.display().to_string(), reason };
        Ok(Some(from_config(&config).map_err(settings)?))
    }

    /// The settings of a `preprocessor_config.json` that is already read; `place` is what errors call it.
    ///
    /// # Errors
    ///
    /// Where it says what this processor does not do.
    pub fn from_config(config: &Map<String, Value>, place: &str) -> Result<ImageProcessor, ImageError> {
        from_config(config).map_err(|reason| ImageError::Settings { place: place.to_owned(), reason })
    }
}

fn from_config(config: &Map<String, Value>) -> Result<ImageProcessor, String> {
    // A key that is null counts as left out.
    let get = |key: &str| config.get(key).filter(|v| !v.is_null());
    let whole = |key: &str, default: u64| match get(key) {
        None => Ok(default),
        Some(v) => v.as_u64().ok_or_else(|| format!("`{key}` is {v}, not a whole number")),
    };
    let fixed = [("patch_size", PATCH), ("merge_size", MERGE), ("temporal_patch_size", TEMPORAL)];
    for (key, only) in
        fixed.map(|(key, only)| (key, u64::from(only))).into_iter().chain([("resample", BICUBIC)])
    {
        let found = whole(key, only)?;
        if found != only {
            return Err(format!("`{key}` is {found}; only {only} is supported"));
        }
    }
    for key in ["do_resize", "do_rescale", "do_normalize", "do_convert_rgb"] {
        if let Some(value) = get(key).filter(|v| **v != true) {
            return Err(format!("`{key}` is {value}; only true is supported"));
        }
    }
    if let Some(value) = get("rescale_factor")
        && value.as_f64().is_none_or(|v| (v - RESCALE).abs() > 1e-12)
    {
        return Err(format!("`rescale_factor` is {value}; only 1/255 is supported"));
    }
    let (min_pixels, max_pixels) = (whole("min_pixels", MIN_PIXELS)?, whole("max_pixels", MAX_PIXELS)?);
    for (key, own) in [("min_pixels", min_pixels), ("max_pixels", max_pixels)] {
        // The reference ignores the copies in `size`; where they differ, one of the two is not what was meant.
        if let Some(other) = get("size").and_then(|s| s.get(key)).filter(|v| v.as_u64() != Some(own)) {
            return Err(format!("`{key}` is {own} but `size.{key}` is {other}"));
        }
    }
    let mean = colors(get("image_mean"), "image_mean", MEAN)?;
    let std = colors(get("image_std"), "image_std", STD)?;
    checked(Stored { min_pixels, max_pixels, mean, std })
}

fn colors(value: Option<&Value>, key: &str, default: [f32; 3]) -> Result<[f32; 3], String> {
    let Some(value) = value else { return Ok(default) };
    let numbers = value.as_array().and_then(|list| {
        let numbers: Option<Vec<f32>> = list.iter().map(|v| Some(v.as_f64()? as f32)).collect();
        numbers?.try_into().ok()
    });
    numbers.ok_or_else(|| format!("`{key}` is {value}, not 3 numbers"))
}

/// As a manifest has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    min_pixels: u64,
    max_pixels: u64,
    mean: [f32; 3],
    std: [f32; 3],
}

fn checked(stored: Stored) -> Result<ImageProcessor, String> {
    let Stored { min_pixels, max_pixels, mean, std } = stored;
    if min_pixels == 0 || min_pixels > max_pixels {
        return Err(format!(
            "`min_pixels` is {min_pixels} and `max_pixels` {max_pixels}; they must be at least 1 and in this order"
        ));
    }
    if max_pixels > PROCESSOR_PIXELS_MAX {
        return Err(format!("`max_pixels` is {max_pixels}; the limit is {PROCESSOR_PIXELS_MAX}"));
    }
    if mean.iter().any(|v| !v.is_finite()) || std.iter().any(|v| !(v.is_finite() && *v > 0.0)) {
        return Err(
            "`image_mean` and `image_std` must be finite, and the second greater than zero".to_owned()
        );
    }
    Ok(ImageProcessor { min_pixels, max_pixels, mean, std })
}

impl TryFrom<Stored> for ImageProcessor {
    type Error = ImageError;

    fn try_from(stored: Stored) -> Result<ImageProcessor, ImageError> {
        checked(stored).map_err(|reason| ImageError::Settings { place: "image processor".to_owned(), reason })
    }
}

impl From<ImageProcessor> for Stored {
    fn from(processor: ImageProcessor) -> Stored {
        let ImageProcessor { min_pixels, max_pixels, mean, std } = processor;
        Stored { min_pixels, max_pixels, mean, std }
    }
}

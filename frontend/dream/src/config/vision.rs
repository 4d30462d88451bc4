//! What config.json of a model that sees has beyond a text model: the vision tower, the tokens that images take, and
//! how positions are split among axes.

use super::TextConfig;
use super::keys::{DIMENSION_MAX, Keys, LAYERS_MAX};
use crate::{ImportError, VisionError};

/// Pixels along the side of a patch. The preprocessing is made for this, and for the two below.
const PATCH_SIZE: u64 = 14;
/// Patches along the side of what becomes one token.
const SPATIAL_MERGE_SIZE: u64 = 2;
/// Frames in a patch.
const TEMPORAL_PATCH_SIZE: u64 = 2;
/// Red, green and blue.
const IN_CHANNELS: u64 = 3;
/// Ids where config.json has none.
const IMAGE_TOKEN_ID_DEFAULT: u32 = 151_655;
const VIDEO_TOKEN_ID_DEFAULT: u32 = 151_656;
const VISION_START_TOKEN_ID_DEFAULT: u32 = 151_652;
/// The split where config.json has none.
const MROPE_SECTION_DEFAULT: [u64; 3] = [16, 24, 24];

/// The settings of a vision tower and its place in the model, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionConfig {
    /// Number of blocks.
    pub depth: u64,
    /// Width of the blocks.
    pub embed_dim: u64,
    /// Number of heads.
    pub num_heads: u64,
    /// Width of the blocks' MLP: `embed_dim * mlp_ratio`.
    pub mlp_size: u64,
    /// Width of the merger's output, which is the projector's input.
    pub hidden_size: u64,
    /// Colour channels of a patch; `in_chans` of the file says nothing.
    pub in_channels: u64,
    /// Pixels along the side of a patch.
    pub patch_size: u64,
    /// Patches along the side of what becomes one token.
    pub spatial_merge_size: u64,
    /// Frames in a patch.
    pub temporal_patch_size: u64,
    /// The token that stands for a row of an image.
    pub image_token_id: u32,
    /// The token that stands for a row of a video.
    pub video_token_id: u32,
    /// The token before an image, where positions have three axes.
    pub vision_start_token_id: u32,
    /// Rotary frequencies for time, height and width; their sum is half the decoder's head size.
    pub mrope_section: [u64; 3],
}

impl VisionConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> u64 {
        self.embed_dim / self.num_heads
    }

    /// Numbers in one patch: 1176 in the releases.
    pub fn patch_elements(&self) -> u64 {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Width of what the merger joins: the rows of a square of patches.
    pub fn merged_size(&self) -> u64 {
        self.embed_dim * self.spatial_merge_size * self.spatial_merge_size
    }

    pub(super) fn of(keys: &Keys, text: &TextConfig) -> Result<VisionConfig, ImportError> {
        check_activations(keys)?;
        let embed_dim = keys.dimension("vision_config.embed_dim", DIMENSION_MAX)?;
        let vocab_size = text.vocab_size;
        let config = VisionConfig {
            depth: keys.dimension("vision_config.depth", LAYERS_MAX)?,
            embed_dim,
            num_heads: keys.dimension("vision_config.num_heads", DIMENSION_MAX)?,
            mlp_size: mlp_size(keys, embed_dim)?,
            hidden_size: keys.dimension("vision_config.hidden_size", DIMENSION_MAX)?,
            in_channels: fixed(keys, "vision_config.in_channels", IN_CHANNELS)?,
            patch_size: fixed(keys, "vision_config.patch_size", PATCH_SIZE)?,
            spatial_merge_size: fixed(keys, "vision_config.spatial_merge_size", SPATIAL_MERGE_SIZE)?,
            temporal_patch_size: fixed(keys, "vision_config.temporal_patch_size", TEMPORAL_PATCH_SIZE)?,
            image_token_id: keys.token("image_token_id", IMAGE_TOKEN_ID_DEFAULT, vocab_size)?,
            video_token_id: keys.token("video_token_id", VIDEO_TOKEN_ID_DEFAULT, vocab_size)?,
            vision_start_token_id: keys.token(
                "vision_start_token_id",
                VISION_START_TOKEN_ID_DEFAULT,
                vocab_size,
            )?,
            mrope_section: mrope_section(keys, text.head_dim())?,
        };
        // The same under another name.
        fixed(keys, "vision_config.spatial_patch_size", PATCH_SIZE)?;
        let VisionConfig { embed_dim, num_heads, .. } = config;
        if !embed_dim.is_multiple_of(num_heads) {
            return Err(VisionError::HeadsIndivisible { embed_dim, num_heads }.into());
        }
        if !config.head_dim().is_multiple_of(4) {
            return Err(VisionError::HeadDim { head_dim: config.head_dim() }.into());
        }
        Ok(config)
    }
}

fn check_activations(keys: &Keys) -> Result<(), ImportError> {
    match keys.text("vision_config.hidden_act")? {
        None | Some("quick_gelu") => {}
        Some(found) => return Err(VisionError::HiddenAct { found: found.to_owned() }.into()),
    }
    match keys.text("projector_hidden_act")? {
        None | Some("gelu") => Ok(()),
        Some(found) => Err(VisionError::ProjectorAct { found: found.to_owned() }.into()),
    }
}

/// A size that has one value only.
fn fixed(keys: &Keys, key: &'static str, expected: u64) -> Result<u64, ImportError> {
    match keys.dimension_or(key, expected)? {
        found if found == expected => Ok(found),
        found => Err(VisionError::PatchGeometry { key, found, expected }.into()),
    }
}

/// `mlp_ratio` may be written as a whole number or with a fraction of zero.
fn mlp_size(keys: &Keys, embed_dim: u64) -> Result<u64, ImportError> {
    let key = "vision_config.mlp_ratio";
    let ratio = keys.positive(key)?;
    let size = embed_dim as f64 * ratio;
    if size.fract() == 0.0 && (1.0..=DIMENSION_MAX as f64).contains(&size) {
        Ok(size as u64)
    } else {
        let found = keys.get(key).map_or_else(String::new, ToString::to_string);
        Err(VisionError::MlpRatio { found, embed_dim }.into())
    }
}

fn mrope_section(keys: &Keys, head_dim: u64) -> Result<[u64; 3], ImportError> {
    let key = "mrope_section";
    let section = match keys.get(key) {
        None => MROPE_SECTION_DEFAULT,
        Some(value) => {
            let list: Option<Vec<u64>> = value
                .as_array()
                .and_then(|list| list.iter().map(|n| n.as_u64().filter(|n| *n <= DIMENSION_MAX)).collect());
            list.and_then(|list| <[u64; 3]>::try_from(list).ok())
                .ok_or_else(|| keys.bad(key, value, "a list of three whole numbers"))?
        }
    };
    if section.iter().sum::<u64>() * 2 == head_dim {
        Ok(section)
    } else {
        Err(VisionError::MropeSection { found: section, head_dim }.into())
    }
}

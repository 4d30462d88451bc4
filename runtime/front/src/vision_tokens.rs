//! The tokens that stand for images and videos in a prompt: making room for them, and which feature fills which.

use crate::PromptError;
use crate::image::{Grid, merged_tokens};
use serde::{Deserialize, Serialize};

/// Ids of the tokens that have to do with images, as the checkpoint's config gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisionTokens {
    /// `image_token_id`: a place that a row of an image's features fills.
    pub image: i32,
    /// `video_token_id`: the same for a video.
    pub video: i32,
    /// `vision_start_token_id`: before an image or video, where its positions are to be 3-D.
    pub vision_start: i32,
}

impl VisionTokens {
    /// Whether an id is a place that a feature fills.
    pub fn is_placeholder(&self, id: i32) -> bool {
        id == self.image || id == self.video
    }
}

/// The ids of a prompt with each placeholder repeated as often as its image or video has tokens (spec/vision.md,
/// section 4). `images` and `videos` are in the order of the prompt.
///
/// # Errors
///
/// Where the prompt has not as many placeholders as there are images or videos, and where the result passes
/// `length_max`.
pub fn expand(
    ids: &[i32],
    tokens: &VisionTokens,
    images: &[Grid],
    videos: &[Grid],
    length_max: usize,
) -> Result<Vec<i32>, PromptError> {
    for (kind, token, grids) in [("image", tokens.image, images), ("video", tokens.video, videos)] {
        let placeholders = ids.iter().filter(|id| **id == token).count();
        if placeholders != grids.len() {
            return Err(PromptError::Placeholders { kind, placeholders, given: grids.len() });
        }
    }
    let features = merged_tokens(images).saturating_add(merged_tokens(videos));
    let length = ids.len().saturating_sub(images.len() + videos.len()).saturating_add(features);
    if length > length_max {
        return Err(PromptError::TooLong { length, length_max });
    }
    let (mut images, mut videos) = (images.iter(), videos.iter());
    let mut expanded = Vec::with_capacity(length);
    for id in ids {
        let grid = match *id {
            id if id == tokens.image => images.next(),
            id if id == tokens.video => videos.next(),
            _ => None,
        };
        let times = grid.map_or(1, |g| g.tokens());
        expanded.resize(expanded.len() + times, *id);
    }
    Ok(expanded)
}

/// For each place of a request's rows, `[B, S]` in one list, the number of the feature row that fills it, or -1.
///
/// Placeholders of images and videos count alike, in the order of appearance over all rows; so features have to lie in
/// that order.
///
/// # Errors
///
/// Where there are not as many placeholders as feature rows.
pub fn splice_index(
    ids: &[i32],
    tokens: &VisionTokens,
    feature_rows: usize,
) -> Result<Vec<i32>, PromptError> {
    let mut next = 0;
    let index = ids
        .iter()
        .map(|id| {
            if !tokens.is_placeholder(*id) {
                return -1;
            }
            next += 1;
            next - 1
        })
        .collect();
    let placeholders = next as usize;
    if placeholders != feature_rows {
        return Err(PromptError::Features { placeholders, feature_rows });
    }
    Ok(index)
}

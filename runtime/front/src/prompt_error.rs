//! What can be wrong with a prompt that has images in it.

/// Why prompt and images do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum PromptError {
    /// Before expansion: one placeholder for each image or video.
    #[error("the prompt has {placeholders} {kind} placeholders, but {given} {kind}s are given")]
    #[diagnostic(
        code(prompt::placeholders),
        help(
            "give as many as the prompt has places for, and keep `<|image_pad|>` and `<|video_pad|>` out of the text"
        )
    )]
    Placeholders {
        /// `image` or `video`.
        kind: &'static str,
        /// In the prompt.
        placeholders: usize,
        /// Images or videos.
        given: usize,
    },
    /// After expansion: one placeholder for each row of features.
    #[error("the ids have {placeholders} places for images and videos, but these have {feature_rows} tokens")]
    #[diagnostic(
        code(prompt::features),
        help("repeat each image's placeholder t*h*w/4 times, where t, h, w is its row of image_grid_thw")
    )]
    Features {
        /// In all rows of ids.
        placeholders: usize,
        /// Rows of the vision tower's output.
        feature_rows: usize,
    },
    /// Longer than is allowed.
    #[error("the prompt has {length} tokens with its images; the limit is {length_max}")]
    #[diagnostic(
        code(prompt::too_long),
        help("give fewer or smaller images or less text, or build with a larger --max-prompt")
    )]
    TooLong {
        /// Tokens.
        length: usize,
        /// Most that are allowed.
        length_max: usize,
    },
    /// Ids, mask and rows do not have one shape.
    #[error("{rows} rows of {found} {what}: expected {expected} in all")]
    #[diagnostic(
        code(prompt::shape),
        help("give ids and attention mask of one shape, each row of one length")
    )]
    Shape {
        /// What is of the wrong length.
        what: &'static str,
        /// Rows of the request.
        rows: usize,
        /// Numbers given.
        found: usize,
        /// Numbers needed.
        expected: usize,
    },
    /// An image's or video's places are not together.
    #[error(
        "row {row}: the {kind} at place {place} should have {tokens} placeholders in a row, and has {found}"
    )]
    #[diagnostic(
        code(prompt::block),
        help("repeat each placeholder t*h*w/4 times, and give the grids in the order of the prompt")
    )]
    Block {
        /// Row of the request, from 0.
        row: usize,
        /// Place in the row where they begin, not counting masked-out places.
        place: usize,
        /// `image` or `video`.
        kind: &'static str,
        /// By the grid.
        tokens: usize,
        /// In the row.
        found: usize,
    },
    /// No grid for the next placeholder, or a grid is left.
    #[error("{kind} grids and the ids do not go together: {reason}")]
    #[diagnostic(
        code(prompt::grids),
        help("give one grid for each image and video of all rows, in their order")
    )]
    Grids {
        /// `image` or `video`.
        kind: &'static str,
        /// What is missing or left.
        reason: String,
    },
}

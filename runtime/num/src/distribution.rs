//! How a row that no token can be drawn from is marked, from its logits to the canvas.
//!
//! Marks are ordinary numbers: what NaN does is a GPU compiler's business.

/// Every entry of a distribution whose logits are not all finite, or overflow when divided by the temperature.
pub const NO_DISTRIBUTION: f32 = -1.0;

/// The token of such a row. It is committed whether its slot is selected or not, and is in no vocabulary: a request whose
/// canvas holds it has failed.
pub const NO_TOKEN: i32 = -2;

/// Whether a row's first entry says that it is a distribution.
pub fn is_distribution(first: f32) -> bool {
    first >= 0.0
}

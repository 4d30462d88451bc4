//! What is not finite on the way from logits to a token: how a row that none can be drawn from is marked, and how the others
//! stay finite.
//!
//! Marks are ordinary numbers: what NaN does is a GPU compiler's business.

/// Every entry of a distribution whose logits are not all finite.
pub const NO_DISTRIBUTION: f32 = -1.0;

/// The token of such a row. It is committed whether its slot is selected or not, and is in no vocabulary: a request whose
/// canvas holds it has failed.
pub const NO_TOKEN: i32 = -2;

/// What is taken from all logits of a row before they are divided by a temperature above 0: the largest, where dividing it
/// overflows, else 0. A softmax is the same without it.
pub fn overflow_shift(largest: f32, temperature: f32) -> f32 {
    if (largest / temperature).is_finite() { 0.0 } else { largest }
}

/// Whether a row's first entry says that it is a distribution.
pub fn is_distribution(first: f32) -> bool {
    first >= 0.0
}

//! Answers are finite numbers and tokens, or the request has failed.

use dreamc_num::distribution::NO_TOKEN;
use std::fmt;

/// Outputs that tokens are read from.
const TOKENS: [&str; 2] = ["canvas", "tokens"];
/// The output that actions are read from.
const ACTIONS: &str = "normalized_actions";

/// What is not finite.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NotFinite {
    /// Logits that a token was to be drawn from.
    Logits,
    /// A number of an action.
    Action {
        /// Whether it is in the robot's units.
        scaled: bool,
        /// Which action of the chunk, from 0.
        action: usize,
        /// Which of its numbers, from 0.
        dimension: usize,
        /// What it is.
        value: f64,
    },
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotFinite::Logits => f.write_str("the logits hold NaN or infinity"),
            NotFinite::Action { scaled, action, dimension, value } => {
                let kind = if *scaled { "" } else { "normalized " };
                write!(f, "dimension {dimension} of {kind}action {action} is {value}")
            }
        }
    }
}

/// The first of the values of an output, `columns` in each row, that no answer can be made of, and its row.
pub(crate) fn first_bad(output: &str, bytes: &[u8], columns: usize) -> Option<(usize, NotFinite)> {
    let columns = columns.max(1);
    let words = bytes.as_chunks::<4>().0;
    if TOKENS.contains(&output) {
        let at = words.iter().position(|word| i32::from_le_bytes(*word) == NO_TOKEN)?;
        return Some((at / columns, NotFinite::Logits));
    }
    if output != ACTIONS {
        return None;
    }
    let values = words.iter().map(|word| f64::from(f32::from_le_bytes(*word)));
    // Actions are those of one observation.
    bad_action(values, columns, false).map(|what| (0, what))
}

/// The first number of a list of actions that is not finite.
pub(crate) fn bad_action(
    values: impl IntoIterator<Item = f64>,
    dimensions: usize,
    scaled: bool,
) -> Option<NotFinite> {
    let (at, value) = values.into_iter().enumerate().find(|(_, value)| !value.is_finite())?;
    let (action, dimension) = (at / dimensions.max(1), at % dimensions.max(1));
    Some(NotFinite::Action { scaled, action, dimension, value })
}

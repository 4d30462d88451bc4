//! Action tokens: 256 ids at the end of the vocabulary, the last of them for the smallest value.

use super::ActionError;
use super::statistics::finite;
use crate::Tokenizer;
use serde::{Deserialize, Serialize};

/// Number of action tokens, which is the number of points that [-1, 1] is divided at.
pub const ACTION_TOKENS: usize = 256;
/// Where action tokens begin if the tokenizer's added tokens end right before them.
const FIRST_ID: i32 = 151_667;

/// Which ids are actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct ActionTokens {
    /// Id of `<|action_0|>`, which stands for 1.
    first: i32,
}

#[derive(Deserialize)]
struct Stored {
    first: i32,
}

impl TryFrom<Stored> for ActionTokens {
    type Error = ActionError;

    fn try_from(Stored { first }: Stored) -> Result<ActionTokens, ActionError> {
        let vocabulary_len = i64::from(first) + ACTION_TOKENS as i64;
        ActionTokens::new(first, usize::try_from(vocabulary_len).unwrap_or(0))
    }
}

/// What action tokens say.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Normalised values, each a centre of one of 255 intervals.
    pub values: Vec<f64>,
    /// How many ids were no action tokens. They count as the nearest: words as the largest value.
    pub outside: usize,
}

impl ActionTokens {
    /// Action tokens from their first id and the length of the vocabulary with all added tokens, where they end.
    ///
    /// # Errors
    ///
    /// Where these are not 256.
    pub fn new(first: i32, vocabulary_len: usize) -> Result<ActionTokens, ActionError> {
        let end = i64::from(first) + ACTION_TOKENS as i64;
        if first < 0 || usize::try_from(end).ok() != Some(vocabulary_len) || end > i64::from(i32::MAX) {
            let reason = format!(
                "from id {first} to the end of the vocabulary, {vocabulary_len}, there are not {ACTION_TOKENS}"
            );
            return Err(ActionError::Tokens { reason });
        }
        Ok(ActionTokens { first })
    }

    /// The action tokens of a checkpoint's tokenizer. One that ends where they would begin is taken to have them:
    /// released checkpoints may lack the names.
    ///
    /// # Errors
    ///
    /// Where they are incomplete, out of order, or not at the end.
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Result<ActionTokens, ActionError> {
        let id = |k: usize| tokenizer.token_id(&format!("<|action_{k}|>"));
        let Some(first) = id(0) else {
            if tokenizer.len() == FIRST_ID as usize {
                return Ok(ActionTokens { first: FIRST_ID });
            }
            let reason = format!(
                "there is no `<|action_0|>`, and the vocabulary ends at {}, not at {FIRST_ID}",
                tokenizer.len()
            );
            return Err(ActionError::Tokens { reason });
        };
        if let Some(k) = (0..ACTION_TOKENS).find(|k| id(*k) != first.checked_add(*k as u32)) {
            let found = id(k).map_or_else(|| "is missing".to_owned(), |id| format!("has id {id}"));
            let reason = format!("`<|action_0|>` has id {first}, but `<|action_{k}|>` {found}");
            return Err(ActionError::Tokens { reason });
        }
        ActionTokens::new(i32::try_from(first).unwrap_or(-1), tokenizer.len())
    }

    /// The id of `<|action_0|>`, the smallest.
    pub fn first(&self) -> i32 {
        self.first
    }

    /// The length of the vocabulary, one more than the id of `<|action_255|>`.
    pub fn vocabulary_len(&self) -> usize {
        self.first as usize + ACTION_TOKENS
    }

    /// Whether an id is an action.
    pub fn contains(&self, id: i32) -> bool {
        (0..ACTION_TOKENS as i64).contains(&(i64::from(id) - i64::from(self.first)))
    }

    /// The ids of normalised actions, which are cut off at -1 and 1.
    ///
    /// # Errors
    ///
    /// Where a value is not finite.
    pub fn encode(&self, normalized: &[f64]) -> Result<Vec<i32>, ActionError> {
        finite("action", normalized)?;
        let points: Vec<f64> = (0..ACTION_TOKENS).map(point).collect();
        let id = |value: &f64| {
            let value = value.clamp(-1.0, 1.0);
            // 1 to 256: the first point is -1.
            let below = points.partition_point(|p| *p <= value);
            self.first + (ACTION_TOKENS - below) as i32
        };
        Ok(normalized.iter().map(id).collect())
    }

    /// The normalised values of ids. The two smallest ids mean the same.
    pub fn decode(&self, ids: &[i32]) -> Decoded {
        let last = i64::from(self.first) + ACTION_TOKENS as i64 - 1;
        let value = |id: &i32| {
            let interval = (last - i64::from(*id)).clamp(0, ACTION_TOKENS as i64 - 2) as usize;
            (point(interval) + point(interval + 1)) / 2.0
        };
        Decoded {
            values: ids.iter().map(value).collect(),
            outside: ids.iter().filter(|id| !self.contains(**id)).count(),
        }
    }
}

/// 256 points from -1 to 1, as numpy's `linspace` rounds them.
fn point(index: usize) -> f64 {
    let last = ACTION_TOKENS - 1;
    if index == last { 1.0 } else { index as f64 * (2.0 / last as f64) - 1.0 }
}

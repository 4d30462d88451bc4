//! One set of statistics: scaling actions and the robot's state, in f64.

use super::ActionError;
use super::statistics_file::DIMS_MAX;
use serde::{Deserialize, Serialize};

/// Added to every range, so that none is zero.
const RANGE_EPS: f64 = 1e-8;

/// The range of each dimension, and which of them are scaled. Read from JSON, lengths agree, all is finite and in
/// order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredBounds")]
pub struct Bounds {
    low: Vec<f64>,
    high: Vec<f64>,
    mask: Vec<bool>,
}

#[derive(Deserialize)]
struct StoredBounds {
    low: Vec<f64>,
    high: Vec<f64>,
    mask: Vec<bool>,
}

impl TryFrom<StoredBounds> for Bounds {
    type Error = String;

    fn try_from(stored: StoredBounds) -> Result<Bounds, String> {
        Bounds::new(stored.low, stored.high, Some(stored.mask))
    }
}

impl Bounds {
    /// Ranges `low..high`, scaled where `mask` says so, or everywhere.
    ///
    /// # Errors
    ///
    /// What is wrong with them, in words that follow the name of the set.
    pub fn new(low: Vec<f64>, high: Vec<f64>, mask: Option<Vec<bool>>) -> Result<Bounds, String> {
        let width = low.len();
        let mask = mask.unwrap_or_else(|| vec![true; width]);
        if width == 0 {
            return Err("no values".to_owned());
        }
        if width > DIMS_MAX {
            return Err(format!("{width} values; the limit is {DIMS_MAX}"));
        }
        if high.len() != width || mask.len() != width {
            return Err(format!(
                "{width} lower and {} upper bounds and a mask of {}; they must be as many",
                high.len(),
                mask.len()
            ));
        }
        if let Some(index) = (0..width).find(|i| !(high[*i] - low[*i]).is_finite()) {
            return Err(format!(
                "an infinite range, {} to {}, in dimension {index}",
                low[index], high[index]
            ));
        }
        if let Some(index) = (0..width).find(|i| low[*i] > high[*i]) {
            return Err(format!(
                "the lower bound {} above the upper {} in dimension {index}",
                low[index], high[index]
            ));
        }
        Ok(Bounds { low, high, mask })
    }

    /// Number of dimensions.
    pub fn width(&self) -> usize {
        self.low.len()
    }

    /// The lower ends, the upper ends, and which dimensions are scaled.
    pub fn parts(&self) -> (&[f64], &[f64], &[bool]) {
        (&self.low, &self.high, &self.mask)
    }

    fn dims(&self) -> impl Iterator<Item = (f64, f64, bool)> + Clone {
        let range = |(low, high): (&f64, &f64)| (*low, high - low + RANGE_EPS);
        let ranges = self.low.iter().zip(&self.high).map(range);
        ranges.zip(&self.mask).map(|((low, range), scaled)| (low, range, *scaled))
    }
}

/// The statistics of the data that a model was trained on, as an artifact carries them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub(super) key: String,
    pub(super) action: Bounds,
    pub(super) proprio: Option<Bounds>,
}

impl Statistics {
    /// What they are called in the file that they come from.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Ranges of the actions. Their number is the number of dimensions of an action.
    pub fn action(&self) -> &Bounds {
        &self.action
    }

    /// Ranges of the robot's state.
    pub fn proprio(&self) -> Option<&Bounds> {
        self.proprio.as_ref()
    }

    /// Normalised actions to those of the robot; both are `[C, D]` in one list. -1 becomes the lower end of a range and
    /// 1 the upper; dimensions that the mask leaves out stay.
    ///
    /// # Errors
    ///
    /// Where the list is no number of whole actions, or a value is not finite.
    pub fn unnormalize(&self, normalized: &[f64]) -> Result<Vec<f64>, ActionError> {
        let expected = self.action.width();
        if !normalized.len().is_multiple_of(expected) {
            let found = normalized.len();
            return Err(ActionError::Length { key: self.key.clone(), what: "action", found, expected });
        }
        finite("action", normalized)?;
        let scale = |(n, (low, range, scaled)): (&f64, (f64, f64, bool))| {
            if scaled { 0.5 * (n + 1.0) * range + low } else { *n }
        };
        Ok(normalized.iter().zip(self.action.dims().cycle()).map(scale).collect())
    }

    /// The robot's state to what the model takes, `[proprio_dim]`: -1 to 1 over each range, cut off beyond.
    ///
    /// # Errors
    ///
    /// Where the statistics have no such ranges, the number of values is another, or a value is not finite.
    pub fn normalize_proprio(&self, proprio: &[f64]) -> Result<Vec<f64>, ActionError> {
        let key = || self.key.clone();
        let bounds = self.proprio.as_ref().ok_or_else(|| ActionError::NoProprio { key: key() })?;
        let (found, expected) = (proprio.len(), bounds.width());
        if found != expected {
            return Err(ActionError::Length { key: key(), what: "proprio", found, expected });
        }
        finite("proprio", proprio)?;
        let scale = |(p, (low, range, scaled)): (&f64, (f64, f64, bool))| {
            let value = if scaled { 2.0 * (p - low) / range - 1.0 } else { *p };
            value.clamp(-1.0, 1.0)
        };
        Ok(proprio.iter().zip(bounds.dims()).map(scale).collect())
    }
}

/// All values finite, or the first that is not.
pub(super) fn finite(what: &'static str, values: &[f64]) -> Result<(), ActionError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(ActionError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

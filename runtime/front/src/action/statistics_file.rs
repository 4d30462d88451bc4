//! The statistics of a checkpoint: `dataset_statistics.json`, or `norm_stats` of its config.

use super::{ActionError, Bounds, Statistics};
use crate::{FrontError, files};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The file of a checkpoint that has them.
pub const STATISTICS_FILE: &str = "dataset_statistics.json";
/// Most sets in a file.
pub const DATASETS_MAX: usize = 1024;
/// Most dimensions of an action or a state.
pub const DIMS_MAX: usize = 256;
/// What a set without idle steps is called besides its suite.
const NO_NOOPS: &str = "_no_noops";

/// Which of the recorded ranges were used in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoundsKind {
    /// `q01` to `q99`: all Dream models.
    #[default]
    Quantiles,
    /// `min` to `max`: ALOHA.
    Extremes,
}

impl BoundsKind {
    fn keys(self) -> [&'static str; 2] {
        match self {
            BoundsKind::Quantiles => ["q01", "q99"],
            BoundsKind::Extremes => ["min", "max"],
        }
    }
}

/// All statistics of a file. They are looked into when one is chosen.
#[derive(Clone, Debug)]
pub struct StatisticsFile {
    place: String,
    datasets: Map<String, Value>,
}

impl StatisticsFile {
    /// Reads a file of this form, or gives `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where it does not read, or has no sets or too many.
    pub fn read(path: &Path) -> Result<Option<StatisticsFile>, FrontError> {
        let Some(datasets) = files::object(path)? else { return Ok(None) };
        Ok(Some(StatisticsFile::from_map(datasets, &path.display().to_string())?))
    }

    /// The same from a part of a config, such as `norm_stats`; `place` is what errors call it.
    ///
    /// # Errors
    ///
    /// Where it has no sets or too many.
    pub fn from_map(datasets: Map<String, Value>, place: &str) -> Result<StatisticsFile, ActionError> {
        let place = place.to_owned();
        match datasets.len() {
            0 => Err(ActionError::Statistics { place, reason: "it has no statistics".to_owned() }),
            n if n > DATASETS_MAX => {
                let reason = format!("it has {n} sets of statistics; the limit is {DATASETS_MAX}");
                Err(ActionError::Statistics { place, reason })
            }
            _ => Ok(StatisticsFile { place, datasets }),
        }
    }

    /// What the sets are called.
    pub fn keys(&self) -> Vec<String> {
        self.datasets.keys().cloned().collect()
    }

    /// The set called `key`, or `key_no_noops`; without a key, the only one. `action_dim` and `proprio_dim` are the
    /// model's, where it has them.
    ///
    /// # Errors
    ///
    /// Where there is no such set or no one choice, its values are not usable, or it is for a model of other
    /// dimensions.
    pub fn choose(
        &self,
        key: Option<&str>,
        kind: BoundsKind,
        action_dim: Option<usize>,
        proprio_dim: Option<usize>,
    ) -> Result<Statistics, ActionError> {
        let (key, dataset) = self.find(key)?;
        let wrong = |what: &str, reason: String| ActionError::Statistics {
            place: self.place.clone(),
            reason: format!("`{key}.{what}` has {reason}"),
        };
        let read = |what: &'static str, dim: Option<usize>| {
            let Some(part) = dataset.get(what).filter(|v| !v.is_null()) else { return Ok(None) };
            let bounds = bounds(part, kind).map_err(|reason| wrong(what, reason))?;
            match (dim, bounds.width()) {
                (Some(expected), found) if expected != found => {
                    Err(ActionError::Width { key: key.clone(), what, found, expected })
                }
                _ => Ok(Some(bounds)),
            }
        };
        let action = read("action", action_dim)?.ok_or_else(|| ActionError::Statistics {
            place: self.place.clone(),
            reason: format!("`{key}` has no `action`"),
        })?;
        let proprio = read("proprio", proprio_dim)?;
        if proprio_dim.is_some() && proprio.is_none() {
            return Err(ActionError::NoProprio { key: key.clone() });
        }
        Ok(Statistics { key: key.clone(), action, proprio })
    }

    fn find(&self, key: Option<&str>) -> Result<(&String, &Value), ActionError> {
        let place = || self.place.clone();
        let Some(key) = key else {
            let mut all = self.datasets.iter();
            return match (all.next(), all.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(ActionError::NoKey { place: place(), keys: self.keys() }),
            };
        };
        let found = self.datasets.get_key_value(key);
        found
            .or_else(|| self.datasets.get_key_value(&format!("{key}{NO_NOOPS}")))
            .ok_or_else(|| ActionError::UnknownKey { place: place(), key: key.to_owned(), keys: self.keys() })
    }
}

fn bounds(part: &Value, kind: BoundsKind) -> Result<Bounds, String> {
    let numbers = |key: &str| {
        let list = list(part, key)?.ok_or_else(|| format!("no `{key}`"))?;
        let number = |v: &Value| v.as_f64().ok_or_else(|| format!("{v} in `{key}`, which is no number"));
        list.iter().map(number).collect::<Result<Vec<f64>, String>>()
    };
    let flag =
        |v: &Value| v.as_bool().ok_or_else(|| format!("{v} in `mask`, which is neither true nor false"));
    let mask = list(part, "mask")?.map(|l| l.iter().map(flag).collect::<Result<Vec<bool>, String>>());
    let [low, high] = kind.keys();
    Bounds::new(numbers(low)?, numbers(high)?, mask.transpose()?)
}

fn list<'v>(part: &'v Value, key: &str) -> Result<Option<&'v Vec<Value>>, String> {
    let Some(value) = part.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
    let list = value.as_array().ok_or_else(|| format!("a `{key}` that is no list"))?;
    if list.len() > DIMS_MAX {
        return Err(format!("{} values in `{key}`; the limit is {DIMS_MAX}", list.len()));
    }
    Ok(Some(list))
}

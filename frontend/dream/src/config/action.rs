//! What config.json of an action model has beyond one that sees (`spec/actions.md` sections 2 and 7).

use super::keys::Keys;
use crate::{ImportError, VisionError};
use serde_json::{Map, Value};

/// The one number of bins that the action tokens are made for.
pub(crate) const ACTION_BINS: u64 = 256;

/// The settings of an action model.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionConfig {
    /// Action tokens; always 256.
    pub n_action_bins: u64,
    /// Statistics of data sets, as `dataset_statistics.json` has them, unchecked; `None` where there are none: the
    /// releases have an empty object here.
    pub norm_stats: Option<Map<String, Value>>,
}

impl ActionConfig {
    pub(super) fn of(keys: &Keys) -> Result<ActionConfig, ImportError> {
        if let Some(found) = keys.get("n_action_bins").filter(|v| v.as_u64() != Some(ACTION_BINS)) {
            return Err(VisionError::ActionBins { found: found.to_string() }.into());
        }
        let norm_stats = keys.object("norm_stats")?.filter(|m| !m.is_empty()).cloned();
        Ok(ActionConfig { n_action_bins: ACTION_BINS, norm_stats })
    }
}

//! Robot actions: from what the model says to what the robot gets (spec/actions.md, sections 2 and 7).
//!
//! [`StatisticsFile`] reads a checkpoint's statistics, of which a build chooses one set ([`Statistics`]);
//! [`ActionTokens`] translates between tokens and normalised values.

mod error;
mod gripper;
mod statistics;
mod statistics_file;
mod tokens;

pub use error::ActionError;
pub use gripper::Gripper;
pub use statistics::{Bounds, Statistics};
pub use statistics_file::{BoundsKind, DATASETS_MAX, DIMS_MAX, STATISTICS_FILE, StatisticsFile};
pub use tokens::{ACTION_TOKENS, ActionTokens, Decoded};

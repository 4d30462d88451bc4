//! The tensors of heads and projectors.

use super::{HeadError, HeadKind, HeadPart};
use crate::layout::pair;

/// Blocks of the head's network.
const BLOCKS: u64 = 2;

/// The names and shapes of a part's tensors, as its file has them. `kind` is that of the action head, and `inputs` the
/// length of an action for it, 1 for the projector of noise, and the length of the state for that of the state.
pub fn head_tensors(
    part: HeadPart,
    kind: HeadKind,
    hidden_size: u64,
    inputs: u64,
) -> Result<Vec<(String, Vec<u64>)>, HeadError> {
    match part {
        HeadPart::ActionHead => {
            let tensors = action_head(hidden_size, inputs)?;
            Ok(tensors.into_iter().map(|(name, shape)| (format!("{}{name}", kind.prefix()), shape)).collect())
        }
        HeadPart::NoisyActionProjector | HeadPart::ProprioProjector => Ok(projector(hidden_size, inputs)),
    }
}

/// Of an action head: all hidden rows of one action side by side to one action, for any number of actions.
pub(super) fn action_head(hidden: u64, action_dim: u64) -> Result<Vec<(String, Vec<u64>)>, HeadError> {
    let rows = action_dim.checked_mul(hidden).filter(|n| *n > 0);
    let rows = rows.ok_or(HeadError::ActionSize { action_dim, hidden_size: hidden })?;
    let mut tensors = Vec::new();
    pair("layer_norm1", &[rows], &mut tensors);
    pair("fc1", &[hidden, rows], &mut tensors);
    for block in 0..BLOCKS {
        pair(&format!("mlp_resnet_blocks.{block}.ffn.0"), &[hidden], &mut tensors);
        pair(&format!("mlp_resnet_blocks.{block}.ffn.1"), &[hidden, hidden], &mut tensors);
    }
    pair("layer_norm2", &[hidden], &mut tensors);
    pair("fc2", &[action_dim, hidden], &mut tensors);
    Ok(tensors)
}

/// Of a projector of noise or of the robot's state.
pub(super) fn projector(hidden: u64, inputs: u64) -> Vec<(String, Vec<u64>)> {
    let mut tensors = Vec::new();
    pair("fc1", &[hidden, inputs], &mut tensors);
    pair("fc2", &[hidden, hidden], &mut tensors);
    tensors
}

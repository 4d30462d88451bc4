//! What a simulator wants of the gripper's value.

use serde::{Deserialize, Serialize};

/// What is done to the last dimension of an action, which is the gripper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gripper {
    /// Nothing.
    #[default]
    None,
    /// LIBERO: from 0 (closed) to 1 (open) becomes 1 (close) or -1 (open); exactly half becomes 0.
    Libero,
}

impl Gripper {
    /// Changes unnormalised actions, `[C, D]` in one list of steps of `action_dim` values.
    pub fn apply(self, actions: &mut [f64], action_dim: usize) {
        match self {
            Gripper::None => {}
            Gripper::Libero => {
                for step in actions.chunks_exact_mut(action_dim.max(1)) {
                    if let Some(value) = step.last_mut() {
                        let around = 2.0 * *value - 1.0;
                        *value = if around == 0.0 { 0.0 } else { -around.signum() };
                    }
                }
            }
        }
    }
}

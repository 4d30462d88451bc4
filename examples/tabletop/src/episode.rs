//! An episode: the policy sees a frame, its actions move the gripper, until it closes.

use crate::scene::{Point, SIDE, Scene};

/// How often the policy is asked.
pub const QUERIES_MAX: usize = 6;
/// Numbers of an action: x and y in pixels, four that mean nothing here, the gripper.
pub const ACTION_DIM: usize = 7;
/// Pixels that a step moves at most.
const STEP_MAX: i32 = 10;
/// How far from the block's centre the gripper may close, on each axis.
const TOLERANCE: i32 = 6;
/// The same, to count as exact.
const EXACT: i32 = 2;

/// How an episode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the gripper closed on the block that was asked for.
    pub success: bool,
    /// Whether it closed at all.
    pub closed: bool,
    /// Actions taken.
    pub actions: usize,
    /// Where the gripper ended.
    pub grip: Point,
    /// Largest distance to the block's centre on an axis, in pixels.
    pub error_px: i32,
}

impl Outcome {
    /// Whether the gripper closed within 2 pixels of the block's centre on both axes: a finer scale than success.
    pub fn is_exact(&self) -> bool {
        self.closed && self.error_px <= EXACT
    }
}

/// Runs the scene of a seed. `policy` gets the number of the query and the scene as it is, and gives a chunk of actions;
/// `watch` sees the scene before the first action and after each.
///
/// # Errors
///
/// Those of the policy.
pub fn run<E>(
    mut scene: Scene,
    mut policy: impl FnMut(usize, &Scene) -> Result<Vec<[f64; ACTION_DIM]>, E>,
    mut watch: impl FnMut(&Scene),
) -> Result<Outcome, E> {
    let (mut actions, mut closed) = (0, false);
    watch(&scene);
    'queries: for query in 0..QUERIES_MAX {
        for action in policy(query, &scene)? {
            for (axis, grip) in scene.grip.iter_mut().enumerate() {
                let step = (action[axis] + 0.5).floor().clamp(f64::from(-STEP_MAX), f64::from(STEP_MAX));
                *grip = (*grip + step as i32).clamp(0, SIDE as i32 - 1);
            }
            actions += 1;
            watch(&scene);
            if action[ACTION_DIM - 1] <= 0.5 {
                closed = true;
                break 'queries;
            }
        }
    }
    let goal = scene.goal();
    let error_px = (scene.grip[0] - goal[0]).abs().max((scene.grip[1] - goal[1]).abs());
    Ok(Outcome { success: closed && error_px <= TOLERANCE, closed, actions, grip: scene.grip, error_px })
}

//! A compiled policy that drives the gripper.

use crate::episode::{self, ACTION_DIM, Outcome, QUERIES_MAX};
use crate::scene::{SIDE, Scene};
use dream::{ActOptions, ActionSettings, Actions, Image, Observation, Observer, Policy, Sampling};
use std::time::{Duration, Instant};

/// Numbers of the robot's state: where the gripper is.
const PROPRIO_DIM: u32 = 2;

/// Why the robot does not move.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RobotError {
    /// The policy was made for another robot.
    #[error(
        "the policy is for another robot: it has {found}, and this one {expected}; build golden/fixtures/tabletop-vla/checkpoint or one of its siblings"
    )]
    OtherRobot {
        /// What the policy takes or gives.
        found: String,
        /// What this robot has.
        expected: &'static str,
    },
    /// The policy failed.
    #[error(transparent)]
    Policy(#[from] dream::Error),
}

/// A policy that takes this robot's view and state, and gives its actions.
pub struct Robot {
    policy: Policy,
}

/// An episode that was run.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// How it ended.
    pub outcome: Outcome,
    /// How long each query took.
    pub queries: Vec<Duration>,
}

impl Robot {
    /// A robot with this policy.
    ///
    /// # Errors
    ///
    /// Where the policy was made for another robot.
    pub fn new(policy: Policy) -> Result<Robot, RobotError> {
        let ActionSettings { views, action_dim, proprio_dim, .. } = *policy.settings();
        let other = |found: String, expected| Err(RobotError::OtherRobot { found, expected });
        if views != 1 {
            return other(format!("{views} views"), "1 view");
        }
        if action_dim as usize != ACTION_DIM {
            return other(format!("actions of {action_dim} numbers"), "actions of 7");
        }
        if let Some(n) = proprio_dim.filter(|n| *n != PROPRIO_DIM) {
            return other(format!("a state of {n} numbers"), "a state of 2");
        }
        Ok(Robot { policy })
    }

    /// What the policy takes and gives.
    pub fn settings(&self) -> &ActionSettings {
        self.policy.settings()
    }

    /// The policy.
    pub fn policy(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// A chunk of actions for what the camera sees.
    ///
    /// # Errors
    ///
    /// Those of the policy.
    pub fn act(&mut self, scene: &Scene, options: &ActOptions) -> Result<Actions, RobotError> {
        self.act_with(scene, options, &mut ())
    }

    /// As [`Robot::act`], with an observer that may look at values.
    ///
    /// # Errors
    ///
    /// Those of the policy.
    pub fn act_with(
        &mut self,
        scene: &Scene,
        options: &ActOptions,
        observer: &mut dyn Observer,
    ) -> Result<Actions, RobotError> {
        let proprio = scene.grip.map(f64::from);
        let image = Image::from_rgb8(SIDE as u32, SIDE as u32, scene.frame()).map_err(dream::Error::from)?;
        let observation = Observation {
            images: &[image],
            task: &scene.instruction(),
            proprio: self.settings().proprio_dim.map(|_| proprio.as_slice()),
        };
        Ok(self.policy.act_with(&observation, options, observer)?)
    }

    /// Runs the scene of a seed. Flows start from `noise` [queries, chunk, action_dim], or from noise of their own: that
    /// of the runtime's seed `6 * seed + query`. `watch` sees the scene before the first action and after each.
    ///
    /// # Errors
    ///
    /// Those of the policy.
    pub fn episode(
        &mut self,
        seed: u64,
        noise: Option<&[f32]>,
        watch: impl FnMut(&Scene),
    ) -> Result<Ran, RobotError> {
        let slots = self.settings().chunk as usize * ACTION_DIM;
        let mut queries = Vec::new();
        let policy = |query: usize, scene: &Scene| {
            let seed = seed.wrapping_mul(QUERIES_MAX as u64).wrapping_add(query as u64);
            // Short noise goes on to the policy, which says what it must be.
            let part = |all: &[f32]| all.chunks(slots).nth(query).unwrap_or_default().to_vec();
            let options =
                ActOptions { sampling: Sampling { seed, ..Sampling::default() }, noise: noise.map(part) };
            let start = Instant::now();
            let chunk = self.act(scene, &options)?;
            queries.push(start.elapsed());
            let action = |a: &Vec<f64>| std::array::from_fn(|i| a[i]);
            Ok::<_, RobotError>(chunk.actions.iter().map(action).collect())
        };
        let outcome = episode::run(Scene::new(seed), policy, watch)?;
        Ok(Ran { outcome, queries })
    }
}

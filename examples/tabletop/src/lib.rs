//! A simulated robot: pick up the block that is named, from camera frames alone.
//!
//! [`Scene`] is the table of a seed, [`Robot`] is a compiled policy that fits it, [`episode::run`] moves the gripper as
//! a policy says, [`film`] and [`strip`] show it. The command of this package does all of it for many seeds.

pub mod episode;
pub mod film;
pub mod robot;
pub mod scene;
pub mod strip;

pub use episode::Outcome;
pub use robot::{Robot, RobotError};
pub use scene::Scene;

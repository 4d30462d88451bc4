//! A simulated robot: pick up the block that is named, from camera frames alone.
//!
//! [`Scene`] is the table of a seed, [`episode::run`] moves the gripper as a policy says, [`film`] shows it. The command
//! of this package drives it with a compiled policy.

pub mod episode;
pub mod film;
pub mod scene;

pub use episode::Outcome;
pub use scene::Scene;

//! `dreamc`: the ahead-of-time compiler for the Dream family of diffusion language models.
//!
//! The command (`src/main.rs`) is thin; what it does to checkpoints and graphs is here, for those who embed it.

pub mod compile;
pub mod cost;
pub mod estimate;
pub mod output_path;
pub mod whole;

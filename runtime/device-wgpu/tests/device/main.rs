//! Programs written by hand, run through the stepper on whatever adapter is here. Without one the tests fail and say
//! what installs one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod arena;
mod common;
mod errors;
mod loops;
mod programs;

//! Slow, obvious evaluator of the IR. What it computes is what the ops mean: every pass, kernel and
//! device is judged against it. All float types are computed in f32.

mod actions;
mod eval;
mod float;
mod rows;
mod run;
mod sampler;
mod slots;
mod tensor;

pub use run::{Event, Observer, RunError, Weights, run};
pub use tensor::{Data, Tensor, seeded};

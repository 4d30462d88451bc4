//! What every backend shares: from a verified graph to a program, and from checkpoint tensors to packed weights.
//!
//! ```text
//! Verified graph ──lower──► Program (kernels chosen by the Target, places by `memory`) + list of weights to store
//! list of weights ──pack──► weights section, streamed panel by panel ──write──► artifact
//! ```
//!
//! [`toolchain`] finds the compilers of the backends that turn a kernel's source into code of a device, and [`Compiled`] what
//! they made before.

mod compiled;
mod constants;
mod job;
mod kernel;
mod liveness;
mod lower;
mod memory;
mod pack;
mod quantize;
mod space;
pub mod toolchain;
mod write;

pub use compiled::Compiled;
pub use constants::{Constant, Constants, Source};
pub use job::{Job, Operand, User, Users};
pub use kernel::{in_place, is_matrix, kernel};
pub use liveness::{Live, Liveness};
pub use lower::{EmitError, Target, lower};
pub use memory::{Block, arrange};
pub use pack::{PackError, WeightReader};
pub use quantize::Fidelity;
pub use write::{Contents, WriteError, write_artifact};

//! What every backend shares: from a verified graph to a program, and from checkpoint tensors to packed weights.
//!
//! ```text
//! Verified graph ──lower──► Program (kernels chosen by the Target, places by `memory`) + list of weights to store
//! list of weights ──pack──► weights section, streamed panel by panel ──write──► artifact
//! ```

mod constants;
mod lower;
mod memory;
mod pack;
mod write;

pub use constants::{Constant, Constants, Source};
pub use lower::{EmitError, Target, lower};
pub use memory::{Block, arrange};
pub use pack::{PackError, WeightReader};
pub use write::{Contents, WriteError, write_artifact};

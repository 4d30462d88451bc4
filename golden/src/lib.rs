//! Golden cases, and the harness that judges the compiler and the runtime by them.
//!
//! `fixtures/` holds tiny checkpoints with the reference's own outputs. A failure to read them is a bug of the
//! repository, so this crate panics instead of returning errors.

pub mod fixture;
pub mod interp;

pub use fixture::Fixture;

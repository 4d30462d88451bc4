//! Golden cases, and the harness that judges the compiler and the runtime by them.
//!
//! `fixtures/` holds tiny checkpoints with the reference's own outputs. Cases are judged in [`text`], [`vl`] and [`vla`],
//! whoever computes them: [`runners`] are the interpreter and the compiled artifact. [`emulator`] stands in for GPUs.
//! [`ops`] is the list of ops that every device computes, [`host`] a device that runs kernels on this machine.
//! [`fp8`] judges builds in fp8 by the interpreter, [`not_finite`] what overflows. [`graph`] runs any IR text both ways, [`trained`] compiles checkpoints that have learnt something, [`shapes`] are models
//! without weights.
//!
//! A failure to read a fixture is a bug of the repository, so this crate panics instead of returning errors.

pub mod device;
pub mod emulator;
#[path = "../../kernels/tests/host/execute.rs"]
#[allow(unsafe_code, reason = "compiled kernels are loaded and called")]
mod execute;
pub mod fixture;
pub mod fp8;
pub mod graph;
pub mod host;
#[path = "../../kernels/tests/host/library.rs"]
mod library;
pub mod not_finite;
pub mod ops;
pub mod outliers;
pub mod replay;
pub mod runners;
pub mod shapes;
pub mod spy;
pub mod sudoku;
pub mod tabletop;
pub mod text;
pub mod trained;
pub mod vl;
pub mod vla;

pub use fixture::Fixture;

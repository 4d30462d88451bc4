//! Arithmetic that the compiler and the runtime must share, so that both sides agree to the bit:
//! element types, the random stream, and the denoising schedule.
#![no_std]

mod dtype;
pub mod schedule;
pub mod stream;

pub use dtype::DType;

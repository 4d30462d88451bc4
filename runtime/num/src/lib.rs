//! Arithmetic that the compiler and the runtime must share, so that both sides agree to the bit:
//! element types, rounding to few bits, the random stream, the denoising schedule, and the frequencies of angles.
#![no_std]

mod dtype;
pub mod frequency;
pub mod quant;
pub mod schedule;
pub mod stream;

pub use dtype::DType;
pub use quant::Quant;

//! Arithmetic that the compiler and the runtime must share, so that both sides agree to the bit:
//! element types, rounding to few bits, the random stream, the denoising schedule, how a row without a token is marked, and
//! the frequencies of angles.
#![no_std]

pub mod distribution;
mod dtype;
pub mod frequency;
pub mod quant;
pub mod schedule;
pub mod stream;

pub use dtype::DType;
pub use quant::Quant;

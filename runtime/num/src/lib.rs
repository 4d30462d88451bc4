//! Arithmetic that the compiler and the runtime must share, so that both sides agree to the bit:
//! element types, the random stream, the denoising schedule, and the frequencies of angles.
#![no_std]

mod dtype;
pub mod frequency;
pub mod schedule;
pub mod stream;

pub use dtype::DType;

//! Every kernel, run in all its forms and judged by the interpreter.

mod attention;
mod common;
mod elementwise;
#[path = "../host/execute.rs"]
#[allow(unsafe_code, reason = "compiled kernels are loaded and called")]
mod execute;
mod faults;
mod fp8;
mod host;
mod judge;
#[path = "../host/library.rs"]
mod library;
mod linear;
mod matrix;
mod norm;
mod rope;
mod rows;
mod sampler;
mod slots;
mod wgsl;

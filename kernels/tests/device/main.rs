//! Every kernel, run in all its forms and judged by the interpreter.

mod attention;
mod common;
mod elementwise;
mod faults;
mod fp8;
mod host;
mod judge;
mod linear;
mod matrix;
mod norm;
mod rope;
mod rows;
mod sampler;
mod slots;
mod wgsl;

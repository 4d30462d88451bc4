//! Every kernel, run on a Vulkan device and judged by the interpreter.

mod attention;
mod common;
mod elementwise;
mod linear;
mod norm;
mod rope;
mod rows;
mod sampler;
mod slots;

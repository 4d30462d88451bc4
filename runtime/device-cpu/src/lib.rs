//! The CPU device: kernels for the host's instruction set, chosen once, and threads.
//!
//! Results do not depend on the number of threads: tasks write disjoint results, each in a fixed order.
//! [`dreamc_runtime::Device::dispatch`] allocates nothing.
#![allow(unsafe_code, reason = "SIMD and raw memory of the arena")]

mod angles;
mod attention;
mod check;
mod context;
mod device;
mod dispatch;
mod elementwise;
mod isa;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod math;
mod matmul;
mod memory;
mod norm;
mod open_slots;
mod pin;
mod pool;
mod rows;
mod sampler;
mod slots;

pub use device::{CpuDevice, CpuError, CpuOptions};
pub use dreamc_runtime::WeightView;
pub use isa::Isa;

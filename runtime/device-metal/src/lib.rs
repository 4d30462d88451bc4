//! The Metal device: runs the MSL of an artifact on Apple systems. On others the crate compiles as well, and says why there
//! is no device.
//!
//! `metal.rs` alone calls Metal; all else is the same on every system, and tested on every system with a driver that
//! executes on the host.
//!
//! What it cannot do: bind more than the driver's largest buffer (a weight is one buffer, its parts are offsets into it),
//! and copy odd or overlapping bytes without a detour through the host. A GPU with memory of its own works, and reads
//! all from the host's: this is made for Apple silicon, where both are one.
//!
//! | buffer | holds | taken |
//! | --- | --- | --- |
//! | arena | every value of the program, zero at first | [`prepare`](dreamc_runtime::Device::prepare) |
//! | one for each weight | its bytes as they are stored, zeros up to a multiple of 16 | the first `prepare` of a program that binds it |
//! | numbers | `0..n`, from which a loop's index is copied | `prepare` |
//!
//! Weights are copied: Metal uses memory in place by whole pages, and in an artifact they begin at multiples of 256.
//!
//! All calls record; commands go to the driver every [`MetalOptions::launches_per_commit`] launches. The host waits for
//! all of them before it reads or writes. Programs of one device share weights and compiled kernels.
//!
//! ```no_run
//! use dreamc_device_metal::{MetalDevice, MetalOptions};
//! # fn main() -> Result<(), dreamc_device_metal::MetalError> {
//! for gpu in dreamc_device_metal::devices()? {
//!     println!("{gpu}");
//! }
//! let code = dreamc_artifact::code::Code::default();
//! let device = MetalDevice::new(&code, Vec::new(), MetalOptions::default())?;
//! assert!(device.gpu().unified);
//! # Ok(())
//! # }
//! ```
#![cfg_attr(target_vendor = "apple", allow(unsafe_code, reason = "Metal is an interface of Objective-C"))]

mod device;
mod driver;
mod engine;
mod error;
mod gpu;
mod kernels;
mod needs;
mod prepared;
mod weights;

#[cfg(not(target_vendor = "apple"))]
#[path = "absent.rs"]
mod system;
#[cfg(target_vendor = "apple")]
#[path = "metal.rs"]
mod system;

#[cfg(test)]
mod fake;

pub use device::{MetalDevice, MetalOptions, devices};
pub use dreamc_runtime::WeightView;
pub use error::MetalError;
pub use gpu::Gpu;

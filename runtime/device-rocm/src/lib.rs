//! The ROCm device: `libamdhip64.so` (`amdhip64.dll`) of ROCm 5 or later, opened at run time.
//!
//! ```no_run
//! use dreamc_device_rocm::{GpuOptions, RocmDevice};
//! let code = dreamc_artifact::code::Code::default();
//! let device = RocmDevice::new(&code, Vec::new(), &GpuOptions::default())?;
//! println!("{} ({})", device.name(), device.arch());
//! # Ok::<(), dreamc_device_rocm::GpuError>(())
//! ```
#![allow(unsafe_code, reason = "the driver's functions")]

mod api;
mod properties;
mod rocm;

pub use api::LIBRARY_VARIABLE;
pub use dreamc_device_gpu::{GpuDevice, GpuError, GpuOptions, Listed, WeightView};
pub use rocm::{Rocm, devices};

/// A ROCm device. [`GpuDevice`] says what it does.
pub type RocmDevice<'a> = GpuDevice<'a, Rocm>;

//! The CUDA device: `libcuda.so.1` (`nvcuda.dll`), which the NVIDIA driver brings, opened at run time.
//!
//! ```no_run
//! use dreamc_device_cuda::{CudaDevice, GpuOptions};
//! let code = dreamc_artifact::code::Code::default();
//! let device = CudaDevice::new(&code, Vec::new(), &GpuOptions::default())?;
//! println!("{} ({})", device.name(), device.arch());
//! # Ok::<(), dreamc_device_cuda::GpuError>(())
//! ```
#![allow(unsafe_code, reason = "the driver's functions")]

mod api;
mod arch;
mod cuda;
mod version;

pub use api::LIBRARY_VARIABLE;
pub use cuda::{Cuda, devices};
pub use dreamc_device_gpu::{GRAPH_COUNT_MAX, GpuDevice, GpuError, GpuOptions, Listed, WeightView};

/// A CUDA device. [`GpuDevice`] says what it does.
pub type CudaDevice<'a> = GpuDevice<'a, Cuda>;

//! The WebGPU device: runs the WGSL of an artifact on Vulkan, on Apple on Metal, on Windows also on Direct3D 12.
//!
//! What it cannot do: bind more of a buffer than the driver's `max_storage_buffer_binding_size` (the compiler splits
//! weights; a value of the arena is never split), run f16 kernels on an adapter without f16, and copy odd bytes without a
//! detour through the host.
//!
//! | buffer | holds | taken |
//! | --- | --- | --- |
//! | arena | every value of the program, zero at first | [`prepare`](dreamc_runtime::Device::prepare) |
//! | one for each weight, or part of one, that is bound | its bytes as they are stored, zeros up to a multiple of 4 | the first `prepare` of a program that binds it |
//! | info | the blocks of scalars of all launches, one after the other | `prepare`; written by `resize` |
//! | numbers | `0..n`, from which a loop's index is copied | `prepare` |
//! | bounce | what is copied inside the arena, on its way | `prepare` |
//! | staging | what the host reads, piece by piece | `prepare` |
//!
//! All calls record; commands go to the driver every [`WgpuOptions::launches_per_submit`] launches, before the host
//! writes, and when it reads. Programs of one device share weights and compiled kernels.
//!
//! ```no_run
//! use dreamc_device_wgpu::{WgpuDevice, WgpuOptions};
//! # fn main() -> Result<(), dreamc_device_wgpu::WgpuError> {
//! for adapter in dreamc_device_wgpu::adapters() {
//!     println!("{adapter}");
//! }
//! let code = dreamc_artifact::code::Code::default();
//! let device = WgpuDevice::new(&code, Vec::new(), WgpuOptions::default())?;
//! assert_eq!(device.adapter().backend, "vulkan");
//! # Ok(())
//! # }
//! ```

mod adapter;
mod arena;
mod device;
mod error;
mod faults;
mod gpu;
mod modules;
mod needs;
mod prepared;
mod recorder;
mod weights;

pub use adapter::{ADAPTER_VARIABLE, Adapter, adapters};
pub use device::{WgpuDevice, WgpuOptions};
pub use dreamc_runtime::WeightView;
pub use error::{INSTALL, WgpuError};

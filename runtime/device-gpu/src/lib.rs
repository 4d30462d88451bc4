//! What the CUDA and the ROCm device share: memory, modules, launches and recorded runs over a [`Driver`].
//!
//! The two drivers are alike but for the names of their functions and for how a kernel gets its block of scalars, so
//! [`GpuDevice`] is written once. A driver's library is opened when a device is made; nothing is linked, and no toolkit
//! is needed.
#![allow(unsafe_code, reason = "the driver's functions, and memory that they work on")]

mod device;
mod driver;
mod error;
mod graphs;
mod launches;
mod library;
mod memory;
mod modules;
mod upload;

pub use device::GpuDevice;
pub use dreamc_runtime::WeightView;
pub use driver::{Address, Driver, Event, Executable, Function, Graph, InfoPlace, Loaded, MemoryState};
pub use error::{Failure, GpuError};
pub use graphs::{GRAPH_COUNT_MAX, GRAPH_NODE_COUNT_MAX};
pub use library::{GpuOptions, Library, Listed};
pub use upload::{STAGING_BYTES, STAGING_COUNT};

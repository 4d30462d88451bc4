//! Devices with no model around them.

use dream::DeviceKind;
use dreamc_artifact::code::Code;
use dreamc_device_cpu::{CpuDevice, CpuOptions};
use dreamc_device_cuda::{CudaDevice, GpuOptions};
use dreamc_device_metal::{MetalDevice, MetalOptions};
use dreamc_device_rocm::RocmDevice;
use dreamc_device_wgpu::{WgpuDevice, WgpuOptions};
use dreamc_runtime::{Device, WeightView};

/// A device that runs `code` on `weights`.
///
/// # Panics
///
/// Where this machine has no such device.
pub fn open<'a>(kind: DeviceKind, code: &Code, weights: Vec<WeightView<'a>>) -> Box<dyn Device + 'a> {
    fn opened<'a, D: Device + 'a, E: std::fmt::Display>(device: Result<D, E>) -> Box<dyn Device + 'a> {
        Box::new(device.unwrap_or_else(|e| panic!("{e}")))
    }
    match kind {
        DeviceKind::Cpu => opened(CpuDevice::new(weights, CpuOptions::default())),
        DeviceKind::Cuda => opened(CudaDevice::new(code, weights, &GpuOptions::default())),
        DeviceKind::Rocm => opened(RocmDevice::new(code, weights, &GpuOptions::default())),
        DeviceKind::Metal => opened(MetalDevice::new(code, weights, MetalOptions::default())),
        DeviceKind::Wgpu => opened(WgpuDevice::new(code, weights, WgpuOptions::default())),
    }
}

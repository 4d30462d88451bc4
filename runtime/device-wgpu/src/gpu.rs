//! The opened device: buffers within its limits, waiting, and its faults as errors.

use crate::adapter::{Adapter, block_on};
use crate::error::WgpuError;
use crate::faults::{Fault, Faults};
use dreamc_runtime::DeviceError;

/// The device and its queue.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    pub(crate) faults: Faults,
}

impl Gpu {
    /// Opens `adapter` with all that it offers: a binding may then be as large as its driver takes.
    pub(crate) fn open(
        adapter: &wgpu::Adapter,
        about: &Adapter,
        features: wgpu::Features,
    ) -> Result<Gpu, WgpuError> {
        let limits = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("dream"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor))
            .map_err(|error| WgpuError::Open { adapter: about.name.clone(), error: error.to_string() })?;
        let faults = Faults::of(&device);
        Ok(Gpu { device, queue, limits, faults })
    }

    /// The first fault since the last call, as an error. `bytes`: what was being taken, if memory was.
    pub(crate) fn check(&self, bytes: u64, what: impl FnOnce() -> String) -> Result<(), DeviceError> {
        match self.faults.take() {
            None => Ok(()),
            Some(Fault::OutOfMemory) if bytes > 0 => Err(DeviceError::OutOfMemory { bytes }),
            Some(Fault::OutOfMemory) => driver(what(), "out of memory"),
            Some(Fault::Other(error)) => driver(what(), &error),
        }
    }

    /// A buffer of `bytes` bytes, a multiple of 4 above 0. What it holds is zero.
    pub(crate) fn buffer(
        &self,
        what: &'static str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let max = self.limits.max_buffer_size;
        if bytes > max {
            return Err(DeviceError::Buffer { bytes, max });
        }
        let descriptor =
            wgpu::BufferDescriptor { label: Some(what), size: bytes, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        self.check(bytes, || format!("taking {bytes} bytes for the {what}"))?;
        Ok(buffer)
    }

    /// Whether a binding may be of `bytes` bytes.
    pub(crate) fn binds(&self, bytes: u64) -> Result<(), DeviceError> {
        let max = self.limits.max_storage_buffer_binding_size;
        if bytes > max { Err(DeviceError::Buffer { bytes, max }) } else { Ok(()) }
    }

    /// Waits until all that was submitted is done.
    pub(crate) fn wait(&self, what: impl FnOnce() -> String) -> Result<(), DeviceError> {
        if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.faults.put(Fault::Other(error.to_string()));
        }
        self.check(0, what)
    }
}

/// What the driver refused.
pub(crate) fn driver<T>(what: String, error: &str) -> Result<T, DeviceError> {
    Err(DeviceError::Driver { what, error: error.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::pick;

    /// A refusal is kept until somebody asks, and does not end the device.
    #[test]
    fn faults_become_errors() {
        let (found, about) = pick(None).unwrap_or_else(|e| panic!("{e}"));
        let gpu = Gpu::open(&found, &about, wgpu::Features::empty()).unwrap_or_else(|e| panic!("{e}"));
        let wrong = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE;
        let Err(DeviceError::Driver { what, error }) = gpu.buffer("page", 8, wrong) else { panic!() };
        assert_eq!(what, "taking 8 bytes for the page");
        assert!(error.contains("MAP_READ"), "{error}");
        gpu.faults.put(Fault::OutOfMemory);
        assert_eq!(gpu.check(8, String::new), Err(DeviceError::OutOfMemory { bytes: 8 }));
        gpu.faults.put(Fault::OutOfMemory);
        assert!(matches!(gpu.check(0, String::new), Err(DeviceError::Driver { .. })));
        assert_eq!(gpu.wait(String::new), Ok(()));
    }
}

//! What a driver does. All else is the same on every system.

use dreamc_artifact::code::Module;
use dreamc_runtime::{DeviceError, Grid};
use std::fmt::Debug;

/// What a device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of a buffer.
    pub(crate) buffer_bytes: u64,
    /// Bytes of all buffers together; 0 if unknown.
    pub(crate) memory_bytes: u64,
    /// Units of a workgroup along x, y, z. How many in all depends on the kernel.
    pub(crate) units: [u32; 3],
    /// Bytes of a workgroup's shared memory.
    pub(crate) shared_bytes: u64,
}

/// A compiled kernel, and what the driver says of it.
#[derive(Debug)]
pub(crate) struct Compiled<K> {
    pub(crate) kernel: K,
    /// Most units of a workgroup.
    pub(crate) units_max: u64,
    /// Shared memory of a workgroup.
    pub(crate) shared_bytes: u64,
}

/// A driver. Commands are recorded, and take effect in the order in which they are; errors are in the driver's words.
pub(crate) trait Driver {
    /// A kernel that can be launched.
    type Kernel: Debug;
    /// A buffer that kernels and the host can reach.
    type Memory: Debug;

    fn limits(&self) -> Limits;

    /// Bytes of all buffers that there are.
    fn taken_bytes(&self) -> u64;

    /// A buffer of `bytes` bytes, above 0, all of them zero; none if memory could not be had.
    fn memory(&self, bytes: u64) -> Option<Self::Memory>;

    /// Compiles the function of the module's name in `text`.
    fn compile(&self, module: &Module, text: &str) -> Result<Compiled<Self::Kernel>, String>;

    /// Sets the kernel of the next launch.
    fn set_kernel(&mut self, kernel: &Self::Kernel) -> Result<(), String>;

    /// Sets buffer `index` of the next launch, from byte `offset` on.
    fn set_buffer(&mut self, index: usize, memory: &Self::Memory, offset: u64) -> Result<(), String>;

    /// Gives the next launch a copy of `bytes` as buffer `index`: at least 1 byte, at most 4096.
    fn set_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), String>;

    /// Launches the kernel that was set: `groups` workgroups of `units` units.
    fn launch(&mut self, groups: Grid, units: [u32; 3]) -> Result<(), String>;

    /// Copies `bytes` bytes between ranges that do not overlap; all numbers are multiples of 4.
    fn copy(
        &mut self,
        from: (&Self::Memory, u64),
        to: (&Self::Memory, u64),
        bytes: u64,
    ) -> Result<(), String>;

    /// Hands what was recorded to the device. What failed there may be told by a later call.
    fn commit(&mut self) -> Result<(), String>;

    /// The same, and waits until all is done.
    fn wait(&mut self) -> Result<(), String>;

    /// Waits, and copies `bytes` to byte `at`.
    fn write(&mut self, memory: &Self::Memory, at: u64, bytes: &[u8]) -> Result<(), String>;

    /// Waits, and copies from byte `at` on into `bytes`.
    fn read(&mut self, memory: &Self::Memory, at: u64, bytes: &mut [u8]) -> Result<(), String>;
}

/// A buffer of `bytes` bytes, if the device's limits allow it.
pub(crate) fn take<D: Driver>(driver: &D, bytes: u64) -> Result<D::Memory, DeviceError> {
    let limits = driver.limits();
    if bytes > limits.buffer_bytes {
        return Err(DeviceError::Buffer { bytes, max: limits.buffer_bytes });
    }
    // The driver gives more than the device can hold, and fails only when kernels run.
    let all = driver.taken_bytes().saturating_add(bytes);
    if limits.memory_bytes > 0 && all > limits.memory_bytes {
        return Err(DeviceError::OutOfMemory { bytes });
    }
    driver.memory(bytes).ok_or(DeviceError::OutOfMemory { bytes })
}

/// What the driver refused.
pub(crate) fn refused(what: String, error: &str) -> DeviceError {
    DeviceError::Driver { what, error: error.trim().to_owned() }
}

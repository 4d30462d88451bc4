//! The device, and which there are.

use crate::driver::Driver;
use crate::engine::Engine;
use crate::error::MetalError;
use crate::gpu::{Gpu, pick};
use crate::needs::check;
use crate::system;
use dreamc_artifact::code::Code;
use dreamc_artifact::plan::{Dispatch, Program};
use dreamc_runtime::{Device, DeviceError, Operand, WeightView};

/// How to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetalOptions {
    /// Part of the name of the device to take, whatever the case; else the first of [`devices()`].
    pub device: Option<String>,
    /// Launches that go to the driver together. Few cost time on the host, many let the device wait for the first of
    /// them, and make the system's watchdog believe that it hangs.
    pub launches_per_commit: u32,
}

impl Default for MetalOptions {
    fn default() -> MetalOptions {
        MetalOptions { device: None, launches_per_commit: 64 }
    }
}

/// All devices of this machine, the fastest kind first; at least one.
///
/// # Errors
///
/// Why there is none.
pub fn devices() -> Result<Vec<Gpu>, MetalError> {
    let found = system::pooled(system::found)?;
    if found.is_empty() {
        return Err(MetalError::NoDevice);
    }
    Ok(found.into_iter().map(|(gpu, _)| gpu).collect())
}

/// See the module documentation.
#[derive(Debug)]
pub struct MetalDevice<'a> {
    engine: Engine<'a, system::Metal>,
    gpu: Gpu,
}

/// A device may move to another thread.
const _: () = {
    const fn moves<T: Send>() {}
    moves::<MetalDevice<'static>>();
};

impl<'a> MetalDevice<'a> {
    /// A device that runs `code` on `weights`, which [`Place::Weight`](dreamc_artifact::plan::Place::Weight) indexes.
    ///
    /// # Errors
    ///
    /// [`MetalError`] if nothing on this machine can run the code.
    pub fn new(
        code: &Code,
        weights: Vec<WeightView<'a>>,
        options: MetalOptions,
    ) -> Result<MetalDevice<'a>, MetalError> {
        system::pooled(|| {
            let (gpu, found) = pick(system::found()?, options.device.as_deref())?;
            let driver = system::open(&gpu, found)?;
            check(code, &gpu.name, &driver.limits())?;
            Ok(MetalDevice { engine: Engine::new(driver, code, weights, options.launches_per_commit), gpu })
        })
    }

    /// What it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl Device for MetalDevice<'_> {
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError> {
        system::pooled(|| self.engine.prepare(program))
    }

    fn resize(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
        self.engine.resize(symbols)
    }

    fn set(&mut self, offset: u64, value: u32) -> Result<(), DeviceError> {
        system::pooled(|| self.engine.set(offset, value))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        system::pooled(|| self.engine.write(offset, bytes))
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        system::pooled(|| self.engine.read(offset, bytes))
    }

    fn finish(&mut self) -> Result<(), DeviceError> {
        system::pooled(|| self.engine.finish())
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError> {
        system::pooled(|| self.engine.copy(from, to, bytes))
    }

    fn dispatch(
        &mut self,
        number: u32,
        dispatch: &Dispatch,
        operands: &[Operand],
    ) -> Result<(), DeviceError> {
        system::pooled(|| self.engine.dispatch(number, dispatch, operands))
    }
}

#[cfg(all(test, not(target_vendor = "apple")))]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_there_is_none() {
        let error = MetalDevice::new(&Code::default(), Vec::new(), MetalOptions::default()).unwrap_err();
        assert_eq!(error, MetalError::NotApple);
        assert_eq!(
            error.to_string(),
            "Metal exists on Apple systems only; run on one, or build for another target, such as --target wgpu or cpu"
        );
        assert_eq!(devices(), Err(MetalError::NotApple));
    }
}

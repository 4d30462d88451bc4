//! Kernels, compiled by the driver when a program first needs them.

use crate::driver::{Driver, refused};
use crate::needs::{fits, text};
use dreamc_artifact::code::Module;
use dreamc_runtime::DeviceError;

/// The kernels of an artifact, by module.
#[derive(Debug)]
pub(crate) struct Kernels<D: Driver> {
    modules: Vec<Module>,
    compiled: Vec<Option<D::Kernel>>,
}

const UNKNOWN: DeviceError = DeviceError::Unsupported { kernel: "a module" };

impl<D: Driver> Kernels<D> {
    pub(crate) fn new(modules: Vec<Module>) -> Kernels<D> {
        let compiled = modules.iter().map(|_| None).collect();
        Kernels { modules, compiled }
    }

    pub(crate) fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// A module, and its kernel that [`Kernels::compile`] has made.
    pub(crate) fn get(&self, index: u32) -> Result<(&Module, &D::Kernel), DeviceError> {
        let module = self.modules.get(index as usize);
        let kernel = self.compiled.get(index as usize).and_then(Option::as_ref);
        module.zip(kernel).ok_or(UNKNOWN)
    }

    /// Compiles a module, once.
    pub(crate) fn compile(&mut self, driver: &D, index: u32) -> Result<(), DeviceError> {
        let module = self.modules.get(index as usize).ok_or(UNKNOWN)?;
        if let Some(slot @ None) = self.compiled.get_mut(index as usize) {
            let failed = |error: String| refused(format!("compiling kernel `{}`", module.name), &error);
            let text = text(module).ok_or_else(|| failed("it is not MSL".to_owned()))?;
            let compiled = driver.compile(module, text).map_err(failed)?;
            fits(module, &driver.limits(), &compiled).map_err(failed)?;
            *slot = Some(compiled.kernel);
        }
        Ok(())
    }
}

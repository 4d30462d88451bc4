//! The modules of an artifact, loaded when a program first uses them.

use crate::driver::{Driver, Function, Loaded};
use crate::error::Failure;
use dreamc_artifact::code::{Image, Module};
use dreamc_runtime::DeviceError;
use std::ffi::CString;
use std::sync::Arc;

/// A module of the artifact.
pub(crate) struct Kernel<D: Driver> {
    /// What it says about itself, without its code.
    pub(crate) module: Module,
    /// What the driver loads; empty once it has.
    image: Vec<u8>,
    loaded: Option<InDriver<D>>,
}

/// A module that the driver has loaded.
struct InDriver<D: Driver> {
    driver: Arc<D>,
    module: Loaded,
    function: Function,
}

impl<D: Driver> Drop for InDriver<D> {
    fn drop(&mut self) {
        // SAFETY: it is loaded. The device waits before it drops modules.
        unsafe { self.driver.unload(self.module) };
    }
}

impl<D: Driver> Kernel<D> {
    /// A module, of which the driver loads `image`.
    pub(crate) fn new(module: &Module, image: &Image) -> Kernel<D> {
        let mut bytes = Vec::with_capacity(image.bytes.len() + 1);
        bytes.extend_from_slice(&image.bytes);
        // Drivers read text up to its end and are told no length.
        bytes.push(0);
        Kernel { module: without_code(module), image: bytes, loaded: None }
    }

    /// The kernel, if it is loaded.
    pub(crate) fn function(&self) -> Option<Function> {
        self.loaded.as_ref().map(|loaded| loaded.function)
    }

    /// Loads it if it is not.
    pub(crate) fn load(&mut self, driver: &Arc<D>) -> Result<(), DeviceError> {
        if self.loaded.is_some() {
            return Ok(());
        }
        let Module { name, shared_bytes, .. } = &self.module;
        // A driver that is short of memory has nothing against the kernel.
        let refused = |failure: Failure, at: &str| match failure.out_of_memory {
            true => failure.doing(format!("loading `{name}`")),
            false => DeviceError::Kernel { kernel: name.clone(), error: format!("{at}{}", failure.error) },
        };
        let max = driver.shared_bytes_max();
        if *shared_bytes > max {
            let error = format!(
                "it needs {shared_bytes} bytes of shared memory and the device has {max}; build for this device"
            );
            return Err(DeviceError::Kernel { kernel: name.clone(), error });
        }
        let entry = CString::new(name.as_str())
            .map_err(|_| DeviceError::Unsupported { kernel: "a kernel with a zero byte in its name" })?;
        // SAFETY: the image is as the artifact has it, and ends with a zero byte.
        let module = unsafe { driver.load(&self.image) }.map_err(|failure| refused(failure, ""))?;
        // SAFETY: it was just loaded.
        let function = unsafe { driver.function(module, &entry, *shared_bytes) };
        match function {
            Ok(function) => {
                self.loaded = Some(InDriver { driver: driver.clone(), module, function });
                self.image = Vec::new();
                Ok(())
            }
            Err(failure) => {
                // SAFETY: it was just loaded, and nobody uses it.
                unsafe { driver.unload(module) };
                Err(refused(failure, "finding it in its module: "))
            }
        }
    }
}

fn without_code(module: &Module) -> Module {
    Module {
        name: module.name.clone(),
        images: Vec::new(),
        workgroup: module.workgroup,
        shared_bytes: module.shared_bytes,
        buffers: module.buffers.clone(),
        scalars: module.scalars.clone(),
        grid: module.grid,
        info: module.info.clone(),
    }
}

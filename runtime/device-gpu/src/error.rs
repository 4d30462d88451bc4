//! Why a device could not be had, and what a driver says.

use dreamc_artifact::code::{Form, Module};
use dreamc_runtime::DeviceError;
use std::collections::BTreeSet;

/// What a driver says when it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error's name and what it means: `CUDA_ERROR_INVALID_VALUE: invalid argument`.
    pub error: String,
    /// Whether memory ran out.
    pub out_of_memory: bool,
}

impl Failure {
    /// The runtime's error, with what was being done.
    pub(crate) fn doing(self, what: impl Into<String>) -> DeviceError {
        DeviceError::Driver { what: what.into(), error: self.error }
    }
}

/// Why a device could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The driver's library is not there.
    #[error("`{library}` cannot be loaded ({error}); {install}")]
    Library {
        /// Its name.
        library: String,
        /// What the system said.
        error: String,
        /// What to do.
        install: &'static str,
    },
    /// The library is not the one it should be, or too old.
    #[error("`{library}` has no function `{function}`; {install}")]
    Function {
        /// Name of the library.
        library: String,
        /// What it lacks.
        function: String,
        /// What to do.
        install: &'static str,
    },
    /// The driver is there, a device is not.
    #[error("there is no {kind} device; look whether {tool} lists one, and whether this process may use it")]
    NoDevice {
        /// `CUDA`, `ROCm`.
        kind: &'static str,
        /// The vendor's own command that lists devices.
        tool: &'static str,
    },
    /// There are not as many.
    #[error("device {ordinal} was asked for and there are {count}, numbered from 0")]
    Ordinal {
        /// The number.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// Binaries for another architecture.
    #[error(
        "the artifact's kernels are for `{built}`, which `{device}`, a `{found}`, does not run; build it again with `--target {target}:{found}`"
    )]
    Arch {
        /// What they are for.
        built: String,
        /// The device's name.
        device: String,
        /// What it is.
        found: String,
        /// `cuda`, `rocm`.
        target: &'static str,
    },
    /// The driver is older than what the kernels need.
    #[error(
        "the driver of `{device}` is of CUDA {found}, and the kernels need {least}; install version {driver} or later{instead}"
    )]
    Old {
        /// The device's name.
        device: String,
        /// Version of CUDA that the driver is of.
        found: String,
        /// Version of CUDA that is needed.
        least: String,
        /// The driver that has it.
        driver: u32,
        /// What else helps, with a comma before it; or nothing.
        instead: String,
    },
    /// The artifact carries source.
    #[error(
        "the artifact carries `{kernel}` as source, since there was no toolchain where it was built; complete it by `dreamc finalize FILE`"
    )]
    Source {
        /// Name of the kernel.
        kernel: String,
    },
    /// Code of another target.
    #[error("bug: the artifact has `{kernel}` as {form} for {kind} devices; please report it")]
    Form {
        /// Name of the kernel.
        kernel: String,
        /// Its form.
        form: &'static str,
        /// `CUDA`, `ROCm`.
        kind: &'static str,
    },
    /// The driver refused something.
    #[error("{what}: {error}")]
    Driver {
        /// What was being done.
        what: &'static str,
        /// What the driver said.
        error: String,
    },
}

impl GpuError {
    /// An image that is none of this kind's.
    pub fn form(module: &Module, form: Form, kind: &'static str) -> GpuError {
        let kernel = module.name.clone();
        if form.is_source() {
            return GpuError::Source { kernel };
        }
        GpuError::Form { kernel, form: form.name(), kind }
    }

    /// The architectures that a module is for, for [`GpuError::Arch`].
    pub fn built(module: &Module) -> String {
        let archs: BTreeSet<&str> = module.images.iter().map(|image| image.arch.as_str()).collect();
        archs.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// For a driver's `map_err`, with what was being done.
    pub fn doing(what: &'static str) -> impl Fn(Failure) -> GpuError {
        move |failure| GpuError::Driver { what, error: failure.error }
    }
}

//! WGSL, as any WebGPU takes it: kernels stay source, so all that is left to do is to make sure that they are valid.
//!
//! Checked are syntax, types, address spaces and uniform control flow at barriers, with no feature beyond WebGPU's core.
//! Limits, such as the number of buffers, are the target's and not looked at here.
//!
//! ```
//! let source = "
//!     @group(0) @binding(0) var<storage, read_write> y: array<f32>;
//!     @compute @workgroup_size(64)
//!     fn f32_zero(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = 0.0; }
//! ";
//! assert!(dreamc_backend_wgpu::validate("f32_zero", source, false).is_ok());
//! ```

use dreamc_backend::toolchain::Status;
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// What is wrong with a kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValidateError {
    /// It is not WGSL.
    #[error("kernel `{name}` is not WGSL:\n{log}")]
    Parse {
        /// Name of the kernel.
        name: String,
        /// What is wrong, with the place in the source.
        log: String,
    },
    /// It is WGSL, but WebGPU does not take it.
    #[error("kernel `{name}` is not valid {}:\n{log}", if *.f16 { "with `shader-f16`" } else { "in WebGPU's core" })]
    Invalid {
        /// Name of the kernel.
        name: String,
        /// Whether 16 bit floats were allowed.
        f16: bool,
        /// What is wrong, with the place in the source.
        log: String,
    },
    /// There is no entry of the kernel's name.
    #[error("kernel `{name}` has no compute entry of its name")]
    Entry {
        /// Name of the kernel.
        name: String,
    },
}

/// Checks a kernel; with `f16`, 16 bit floats are allowed.
///
/// # Errors
/// It is not what every WebGPU (with the feature `shader-f16`, if so) takes.
pub fn validate(name: &str, wgsl: &str, f16: bool) -> Result<(), ValidateError> {
    let parsed = naga::front::wgsl::parse_str(wgsl);
    let module = parsed.map_err(|error| ValidateError::Parse {
        name: name.to_owned(),
        log: error.emit_to_string_with_path(wgsl, name),
    })?;
    let capabilities = if f16 { Capabilities::SHADER_FLOAT16 } else { Capabilities::empty() };
    let validated = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
    validated.map_err(|error| ValidateError::Invalid {
        name: name.to_owned(),
        f16,
        log: error.emit_to_string_with_path(wgsl, name),
    })?;
    let compute = naga::ShaderStage::Compute;
    if !module.entry_points.iter().any(|entry| entry.name == name && entry.stage == compute) {
        return Err(ValidateError::Entry { name: name.to_owned() });
    }
    Ok(())
}

/// The checker is part of this program.
pub fn status() -> Status {
    Status::found("naga, built in")
}

//! Code for devices that have a compiler's output in the artifact: every device but the CPU, whose kernels are in the
//! runtime.
//!
//! A [`Module`] is one kernel with all that a launcher must know; the launches of a plan
//! ([`Launch`](crate::plan::Launch)) refer to modules by index and give them buffers and scalars.
//!
//! | form | buffers | block of scalars |
//! | --- | --- | --- |
//! | [`Form::Wgsl`] | group 0, binding `i`, all `storage, read_write` | group 0, the binding behind the last buffer, `storage, read` |
//! | [`Form::Cubin`], [`Form::Ptx`] | pointers in order | behind them, by value: the launcher passes a pointer to the words |
//! | [`Form::CodeObject`] | pointers in order | a device pointer to the words, last |
//! | [`Form::Msl`] | `[[buffer(i)]]` | `constant`, the index behind the last buffer |
//!
//! The block is [`Module::info`]: words of four bytes, little-endian. Shared memory is static in WGSL and MSL; elsewhere
//! [`Module::shared_bytes`] is dynamic shared memory.

use crate::wire::at_most;
use crate::{EncodeError, OpenError};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize};

/// Most modules of a target.
pub const MODULE_COUNT_MAX: usize = 4096;
/// Most buffers of a module.
pub const BUFFER_COUNT_MAX: usize = 15;
/// Most scalars of a module.
pub const SCALAR_COUNT_MAX: usize = 24;
/// Most words of a module's block of scalars.
pub const INFO_WORD_COUNT_MAX: usize = 64;
/// Most images of a module.
pub const IMAGE_COUNT_MAX: usize = 32;
/// Largest image.
pub const IMAGE_BYTES_MAX: usize = 16 << 20;
/// Most units of a workgroup.
pub const WORKGROUP_UNITS_MAX: u32 = 1024;
/// Most dynamic shared memory of a workgroup, in bytes.
pub const SHARED_BYTES_MAX: u32 = 256 << 10;

/// All modules of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// [`Launch::module`](crate::plan::Launch::module) is an index into this.
    #[serde(deserialize_with = "modules")]
    pub modules: Vec<Module>,
}

/// One kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// `<dtype>_<op>[_<epilogue>]_<variant>`; also the name of its entry.
    pub name: String,
    /// At least one, all of the same kernel: a device takes the one that suits it best.
    #[serde(deserialize_with = "images")]
    pub images: Vec<Image>,
    /// Units of a workgroup along x, y, z.
    pub workgroup: [u32; 3],
    /// Dynamic shared memory of a workgroup; where it is static, for information.
    pub shared_bytes: u32,
    /// In order of their bindings.
    #[serde(deserialize_with = "buffers")]
    pub buffers: Vec<Buffer>,
    /// In order of the kernel's arguments; where they lie says [`Module::info`].
    #[serde(deserialize_with = "scalars")]
    pub scalars: Vec<ScalarType>,
    /// Number of workgroups along x, y, z.
    pub grid: [Extent; 3],
    /// The block of scalars.
    #[serde(deserialize_with = "words")]
    pub info: Vec<Word>,
}

/// What a device may load of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What the bytes are.
    pub form: Form,
    /// The processor that it is for: `sm_90a`, `gfx942`; empty where it is for all devices of the target.
    pub arch: String,
    /// The text or the binary.
    #[serde(deserialize_with = "bytes")]
    pub bytes: Vec<u8>,
}

impl Image {
    /// One for all devices of a target.
    pub fn any(form: Form, bytes: Vec<u8>) -> Image {
        Image { form, arch: String::new(), bytes }
    }
}

impl Module {
    /// The text, where the module is of this form.
    pub fn text(&self, form: Form) -> Option<&str> {
        let image = self.images.iter().find(|image| image.form == form)?;
        core::str::from_utf8(&image.bytes).ok()
    }

    /// Whether it is source, which no device can run as it is.
    pub fn is_source(&self) -> bool {
        self.images.iter().any(|image| image.form.is_source())
    }
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Form {
    /// WebGPU's shading language. The driver compiles it.
    Wgsl,
    /// Metal's. The driver compiles it.
    Msl,
    /// A CUDA binary for one architecture.
    Cubin,
    /// CUDA's intermediate code. The driver compiles it.
    Ptx,
    /// An AMD binary for one architecture.
    CodeObject,
    /// CUDA C++: runs nowhere until `dreamc finalize` has compiled it.
    CudaSource,
    /// HIP C++: runs nowhere until `dreamc finalize` has compiled it.
    HipSource,
}

impl Form {
    /// The word in `inspect --kernels`.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Wgsl => "wgsl",
            Form::Msl => "msl",
            Form::Cubin => "cubin",
            Form::Ptx => "ptx",
            Form::CodeObject => "hsaco",
            Form::CudaSource | Form::HipSource => "source",
        }
    }

    /// The ending of a file of it.
    pub const fn extension(self) -> &'static str {
        match self {
            Form::Wgsl => "wgsl",
            Form::Msl => "metal",
            Form::Cubin => "cubin",
            Form::Ptx => "ptx",
            Form::CodeObject => "hsaco",
            Form::CudaSource => "cu",
            Form::HipSource => "hip",
        }
    }

    /// Whether no device can run it as it is.
    pub const fn is_source(self) -> bool {
        matches!(self, Form::CudaSource | Form::HipSource)
    }
}

/// A buffer of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Size of an element: 2 or 4.
    pub element_bytes: u8,
    /// Whether the kernel writes it.
    pub written: bool,
}

/// Type of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScalarType {
    /// A length or a number of something.
    U32,
    /// A constant.
    F32,
}

/// How many workgroups there are along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// Always as many; at least 1.
    Constant(u32),
    /// A scalar divided by `per`, rounded up.
    Ceil {
        /// Index of a u32 scalar.
        of: u32,
        /// What one workgroup does; at least 1.
        per: u32,
        /// Whether any number will do, the kernel going on until all is done. Devices have a limit.
        any: bool,
    },
}

/// Four bytes of the block of scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Scalar number `.0`.
    Scalar(u32),
    /// Elements of buffer number `.0`.
    Length(u32),
    /// 0.
    Zero,
}

/// The section's bytes.
///
/// # Errors
///
/// Where the writer fails.
pub fn encode_code(code: &Code) -> Result<Vec<u8>, EncodeError> {
    postcard::to_allocvec(code).map_err(|_| EncodeError)
}

/// Inverse of [`encode_code`]. The code still has to pass [`crate::validate()`].
///
/// # Errors
///
/// Where the bytes are not exactly one target's code.
pub fn decode_code(bytes: &[u8]) -> Result<Code, OpenError> {
    match postcard::take_from_bytes::<Code>(bytes) {
        Ok((code, [])) => Ok(code),
        Ok(_) | Err(_) => Err(OpenError::CodeBytes),
    }
}

fn modules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Module>, D::Error> {
    at_most(from, MODULE_COUNT_MAX)
}

fn images<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Image>, D::Error> {
    at_most(from, IMAGE_COUNT_MAX)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    at_most(from, IMAGE_BYTES_MAX)
}

fn buffers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Buffer>, D::Error> {
    at_most(from, BUFFER_COUNT_MAX)
}

fn scalars<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ScalarType>, D::Error> {
    at_most(from, SCALAR_COUNT_MAX)
}

fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Word>, D::Error> {
    at_most(from, INFO_WORD_COUNT_MAX)
}

//! From a recorded kernel to source for a target, with all that a launcher without CubeCL needs to know.
//!
//! # The launch, by form
//!
//! | form | buffers | block of scalars |
//! | --- | --- | --- |
//! | WGSL | group 0, binding `i`, all `storage, read_write` | group 0, the binding behind the last buffer, `storage, read` |
//! | CUDA | pointers in order | behind them, by value: the launcher passes a pointer to the words |
//! | HIP | pointers in order | a device pointer to the words, last |
//! | MSL | `[[buffer(i)]]` | `constant`, the index behind the last buffer |
//!
//! The block is [`Info`]: words of four bytes, little-endian. Shared memory is static in WGSL and MSL; CUDA and HIP take
//! [`Emitted::shared_bytes`] as dynamic shared memory.

use crate::record::{FIRST_FLOAT, FIRST_INTEGER, FIRST_LENGTH, Recorder, Recording, record};
use crate::target::Target;
use crate::tidy::tidy;
use cubecl_core::Compiler as _;
use cubecl_core::ir::attributes::BufferIOAttr;
use cubecl_cpp::shared::CppCompiler;
use cubecl_cpp::target::{Cuda, Hip, Metal};
use cubecl_runtime::kernel::KernelDefinition;
use cubecl_wgpu::WgslCompiler;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A language that a kernel is emitted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// WebGPU's.
    Wgsl,
    /// CUDA C++, for NVRTC.
    Cuda,
    /// HIP C++, for clang or hiprtc.
    Hip,
    /// Metal's.
    Msl,
}

impl Form {
    /// The spelling in target files, and the ending of a source file.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Wgsl => "wgsl",
            Form::Cuda => "cuda",
            Form::Hip => "hip",
            Form::Msl => "msl",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kernel as source, and how to launch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// `<dtype>_<op>[_<epilogue>]_<variant>`; also the entry's name in the source.
    pub name: String,
    /// The language.
    pub form: Form,
    /// The text.
    pub source: String,
    /// Units of a workgroup along x, y, z.
    pub workgroup: [u32; 3],
    /// Dynamic shared memory of a workgroup (CUDA, HIP); static elsewhere, and then only for information.
    pub shared_bytes: u32,
    /// In order of their bindings.
    pub buffers: Vec<Buffer>,
    /// In order of the kernel's arguments; where they lie says [`Emitted::info`].
    pub scalars: Vec<Scalar>,
    /// Number of workgroups.
    pub grid: [Extent; 3],
    /// The block of scalars.
    pub info: Info,
}

/// A buffer of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// As in the kernel's documentation.
    pub name: &'static str,
    /// What it holds.
    pub element: Element,
    /// What the kernel does with it.
    pub access: Access,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16, one by one.
    BF16,
    /// Words of two bf16 each, the first in the low half.
    BF16x2,
    /// Words of two f16 each, likewise.
    F16x2,
    /// i32.
    I32,
    /// u32.
    U32,
    /// Conditions: u32, 0 or 1.
    Bool,
}

impl Element {
    /// Size of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::BF16 => 2,
            Element::F32 | Element::BF16x2 | Element::F16x2 | Element::I32 | Element::U32 | Element::Bool => {
                4
            }
        }
    }
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it without reading.
    Write,
    /// Both.
    ReadWrite,
    /// Neither: it is bound for the sake of the numbering.
    Unused,
}

/// A value that the launcher gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// As in the kernel's documentation.
    pub name: &'static str,
    /// Its type.
    pub ty: ScalarType,
}

/// Type of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarType {
    /// A length or a number of something.
    U32,
    /// A constant.
    F32,
}

/// How many workgroups there are along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Always as many.
    Constant(u32),
    /// The scalar of this name divided by `per`, rounded up. If `any`, more or fewer are right as well: the kernel goes
    /// on until all is done.
    Ceil {
        /// Name of a scalar.
        of: &'static str,
        /// What one workgroup does.
        per: u32,
        /// Whether any number will do.
        any: bool,
    },
}

impl Extent {
    /// One workgroup for each of `of`.
    pub(crate) const fn each(of: &'static str) -> Extent {
        Extent::Ceil { of, per: 1, any: false }
    }
}

/// The block of scalars: one field after the other, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its words.
    pub words: Vec<Word>,
}

/// Four bytes of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Scalar number `.0`.
    Scalar(u32),
    /// Elements of buffer number `.0`.
    Length(u32),
    /// 0.
    Zero,
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The target lacks something.
    #[error("kernel `{kernel}`: target `{target}` has no {lacks}")]
    Unsupported {
        /// Name of the kernel.
        kernel: String,
        /// Name of the target.
        target: String,
        /// What is missing.
        lacks: String,
    },
    /// The kernel's shape is outside what it is written for.
    #[error("kernel `{kernel}`: {reason}")]
    Shape {
        /// Name of the kernel.
        kernel: String,
        /// What is wrong.
        reason: String,
    },
    /// The code generator failed: a bug here or there.
    #[error("bug: kernel `{kernel}` cannot be generated for target `{target}`: {reason}")]
    Generator {
        /// Name of the kernel.
        kernel: String,
        /// Name of the target.
        target: String,
        /// What it said.
        reason: String,
    },
}

/// What the compilers say.
struct Compiled {
    source: String,
    shared_bytes: usize,
    io: Vec<BufferIOAttr>,
}

/// Emits the kernel that `launch` launches.
pub(crate) fn emit(
    name: &str,
    target: &Target,
    launch: impl FnOnce(&Recorder),
) -> Result<Emitted, EmitError> {
    let bug = |reason: String| EmitError::Generator {
        kernel: name.to_owned(),
        target: target.name().to_owned(),
        reason,
    };
    let caught = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        bug(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    };
    // The generator panics where it does not know what to do; no state of ours is torn by that.
    let recording = catch_unwind(AssertUnwindSafe(|| record(target, launch))).map_err(caught)?;
    let Recording { launch, mut buffers, scalars, grid } =
        recording.ok_or_else(|| bug("it is not one launch".into()))?;
    let (definition, compiled) = catch_unwind(AssertUnwindSafe(|| {
        let definition = launch.kernel.define();
        let named = (definition.settings.kernel_name.clone(), definition.settings.cube_dim);
        compile(target, definition).map(|compiled| (named, compiled))
    }))
    .map_err(caught)?
    .map_err(bug)?;
    let (generated, units) = definition;
    let info = info(&launch.args.info.data, &buffers, &scalars).map_err(bug)?;
    // Of the others it is known.
    let found = buffers.iter_mut().zip(&compiled.io).filter(|(buffer, _)| buffer.access == Access::Unused);
    for (buffer, io) in found {
        buffer.access = match io {
            BufferIOAttr::ReadOnly => Access::Read,
            BufferIOAttr::WriteOnly => Access::Write,
            BufferIOAttr::ReadWrite => Access::ReadWrite,
            BufferIOAttr::Dead => Access::Unused,
        };
    }
    if !compiled.source.contains(&generated) {
        return Err(bug(format!("its entry is not called `{generated}`")));
    }
    Ok(Emitted {
        name: name.to_owned(),
        form: target.form(),
        source: tidy(&compiled.source, &generated, name),
        workgroup: [units.x, units.y, units.z],
        shared_bytes: u32::try_from(compiled.shared_bytes).map_err(|e| bug(e.to_string()))?,
        buffers,
        scalars,
        grid,
        info,
    })
}

fn compile(target: &Target, definition: KernelDefinition) -> Result<Compiled, String> {
    macro_rules! cpp {
        ($dialect:ty) => {{
            let kernel = CppCompiler::<$dialect>::default()
                .compile(definition, &target.cpp_options())
                .map_err(|e| e.to_string())?;
            Ok(Compiled { source: kernel.source, shared_bytes: kernel.shared_memory_size, io: kernel.io })
        }};
    }
    match target.form() {
        Form::Cuda => cpp!(Cuda),
        Form::Hip => cpp!(Hip),
        Form::Msl => cpp!(Metal),
        Form::Wgsl => {
            let kernel =
                WgslCompiler.compile(definition, &target.wgsl_options()).map_err(|e| e.to_string())?;
            Ok(Compiled {
                source: kernel.to_string(),
                shared_bytes: kernel.shared_memory_size,
                io: kernel.io.clone(),
            })
        }
    }
}

/// Finds every argument in the recorded block by the value it was given.
fn info(data: &[u64], buffers: &[Buffer], scalars: &[Scalar]) -> Result<Info, String> {
    let mut seen = vec![0; buffers.len() + scalars.len()];
    let mut words = Vec::new();
    for value in data.iter().flat_map(|pair| [*pair as u32, (*pair >> 32) as u32]) {
        let length = value.wrapping_sub(FIRST_LENGTH) as usize;
        let scalar = |first: u32, ty: ScalarType| {
            let i = value.wrapping_sub(first) as usize;
            scalars.get(i).is_some_and(|s| s.ty == ty).then_some(i)
        };
        let scalar = scalar(FIRST_INTEGER, ScalarType::U32).or_else(|| scalar(FIRST_FLOAT, ScalarType::F32));
        words.push(match scalar {
            _ if length < buffers.len() => {
                seen[length] += 1;
                Word::Length(length as u32)
            }
            Some(i) => {
                seen[buffers.len() + i] += 1;
                Word::Scalar(i as u32)
            }
            None if value == 0 => Word::Zero,
            None => return Err(format!("nobody knows the word {value:#x} of its scalars")),
        });
    }
    if seen.iter().any(|n| *n != 1) {
        return Err(format!("its arguments stand {seen:?} times in the block of scalars"));
    }
    Ok(Info { words })
}

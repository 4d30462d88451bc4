//! Targets: what the code generator is told about a device that it never sees.
//!
//! A target is a file in `targets/`: data, versioned with the kernels, hashed by its bytes.

use crate::emit::Form;
use crate::kernel::Float;
use blake3::Hash;
use cubecl::ir::features::Plane;
use cubecl::ir::{
    AddressType, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties, IntKind,
    MemoryDeviceProperties, TargetProperties, UIntKind, features::TypeUsage,
};
use cubecl::profile::TimingMethod;
use cubecl_core as cubecl;
use cubecl_core::WgpuCompilationOptions;
use cubecl_cpp::hip::arch::AMDArchitecture;
use cubecl_cpp::shared::{Architecture, CompilationOptions, CppSupportedFeatures, register_supported_types};
use serde::Deserialize;

/// A device to emit for.
#[derive(Clone, Debug)]
pub struct Target {
    file: File,
    hash: Hash,
}

/// A file of `targets/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    form: Form,
    arch: Option<String>,
    capabilities: Capabilities,
}

/// What a kernel may use on a target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Arithmetic and storage in f16.
    pub f16: bool,
    /// Storage in bf16, of single values. Without it, only weights are bf16: packed in words and unpacked by the kernel.
    pub bf16: bool,
    /// Types that matrix units multiply as `mma.sync` has it, with sums in f32. None where the file says nothing.
    #[serde(default)]
    pub matrix: Vec<Float>,
    /// Whether matrix units multiply codes of OCP's e4m3, with sums in f32, as `mma.sync` has it.
    #[serde(default)]
    pub fp8: bool,
    /// Shared memory of a workgroup, as much as the driver gives if it is asked.
    pub shared_bytes: u32,
    /// Multiprocessors of the device that tiles are chosen for. Where matrix units are used.
    #[serde(default)]
    pub processors: u32,
    /// Products of 16 bits with sums in f32 that a multiprocessor's matrix units do in a clock by `mma.sync`. Where matrix
    /// units are used.
    #[serde(default)]
    pub products: u32,
    /// The same by `wgmma`, which multiplies bf16, f16 and e4m3; 0 where there is no such instruction.
    #[serde(default)]
    pub group_products: u32,
    /// Bytes that memory gives the device in a clock, on the paper. Where matrix units are used.
    #[serde(default)]
    pub memory_bytes: u32,
    /// Units of a workgroup.
    pub units_max: u32,
    /// Workgroups along the second and third axis of a grid, and along the first where it is less than 2^31 - 1.
    pub groups_max: u32,
    /// Buffers that a kernel may take, the block of scalars included.
    pub buffers_max: u32,
    /// Largest part of a buffer that can be bound.
    pub binding_bytes_max: u64,
    /// To what the start of a bound part must be aligned.
    pub binding_align: u32,
    /// Fewest and most units that run in step. No kernel relies on it; the code generator asks.
    pub plane_units: [u32; 2],
}

impl Capabilities {
    /// Whether matrix units multiply codes of OCP's e4m3, by whatever instruction.
    pub const fn multiplies_fp8(&self) -> bool {
        self.fp8 || self.group_products > 0
    }
}

/// Why a target file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not the TOML that is expected.
    #[error("target file: {0}")]
    Syntax(#[from] toml::de::Error),
    /// The architecture is missing or unknown.
    #[error("target `{target}`: `arch` {arch:?} is none of form {form}")]
    Arch {
        /// Name of the target.
        target: String,
        /// What the file says.
        arch: Option<String>,
        /// Its form.
        form: Form,
    },
}

/// The targets of the repository, by name.
const FILES: &[&str] = &[
    include_str!("../targets/gfx1100.toml"),
    include_str!("../targets/gfx90a.toml"),
    include_str!("../targets/gfx942.toml"),
    include_str!("../targets/metal3.toml"),
    include_str!("../targets/sm_80.toml"),
    include_str!("../targets/sm_86.toml"),
    include_str!("../targets/sm_87.toml"),
    include_str!("../targets/sm_89.toml"),
    include_str!("../targets/sm_90a.toml"),
    include_str!("../targets/sm_100.toml"),
    include_str!("../targets/sm_103.toml"),
    include_str!("../targets/sm_120.toml"),
    include_str!("../targets/sm_121.toml"),
    include_str!("../targets/wgsl-f16.toml"),
    include_str!("../targets/wgsl.toml"),
];

impl Target {
    /// All targets of the repository, by name.
    pub fn all() -> Vec<Target> {
        let read =
            |text: &&str| Target::parse(text).unwrap_or_else(|e| unreachable!("a test reads them: {e}"));
        FILES.iter().map(read).collect()
    }

    /// The target of this name.
    pub fn named(name: &str) -> Option<Target> {
        Target::all().into_iter().find(|target| target.name() == name)
    }

    /// Reads a target file.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        let file: File = toml::from_str(text)?;
        let known = match file.form {
            Form::Cuda => file.arch.as_deref().is_some_and(|a| cuda_version(a).is_some()),
            Form::Hip => file.arch.as_deref().is_some_and(|a| AMDArchitecture::parse(a).is_ok()),
            Form::Msl | Form::Wgsl => file.arch.is_none(),
        };
        if !known {
            return Err(TargetError::Arch { target: file.name, arch: file.arch, form: file.form });
        }
        Ok(Target { file, hash: blake3::hash(text.as_bytes()) })
    }

    /// Its name: `sm_80`, `wgsl`.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// The language that is emitted.
    pub fn form(&self) -> Form {
        self.file.form
    }

    /// What the toolchain calls it, where there is one: `sm_80`, `gfx942`.
    pub fn arch(&self) -> Option<&str> {
        self.file.arch.as_deref()
    }

    /// What a kernel may use.
    pub fn capabilities(&self) -> &Capabilities {
        &self.file.capabilities
    }

    /// Hash of the target's file.
    pub fn hash(&self) -> [u8; 32] {
        *self.hash.as_bytes()
    }

    /// What the code generator is told about the device.
    pub(crate) fn properties(&self) -> (DeviceProperties, TargetProperties) {
        let capabilities = &self.file.capabilities;
        let [plane_min, plane_max] = capabilities.plane_units;
        let units = capabilities.units_max;
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: plane_min,
            plane_size_max: plane_max,
            max_bindings: capabilities.buffers_max,
            max_shared_memory_size: capabilities.shared_bytes as usize,
            max_cube_count: (i32::MAX as u32, capabilities.groups_max, capabilities.groups_max),
            max_units_per_cube: units,
            max_cube_dim: (units, units, 64),
            num_streaming_multiprocessors: None,
            num_cpu_cores: None,
            last_level_cache_size: None,
            num_tensor_cores: None,
            min_tensor_cores_dim: None,
            max_vector_size: 4,
            cube_mma_reserved_shared_memory: 0,
        };
        let memory = MemoryDeviceProperties::new(capabilities.binding_bytes_max, 256);
        let identity =
            DeviceIdentity { name: self.name().into(), fingerprint: self.name().into(), physical: None };
        let mut device =
            DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::System, identity);
        match self.form() {
            Form::Cuda | Form::Hip => {
                register_supported_types(&mut device);
                device.features.plane = Plane::Ops.into();
            }
            Form::Msl | Form::Wgsl => {
                let mut elements = vec![
                    ElemType::Index,
                    ElemType::UInt(UIntKind::U32),
                    ElemType::Int(IntKind::I32),
                    ElemType::Float(FloatKind::F32),
                    ElemType::Bool,
                ];
                elements.extend(capabilities.f16.then_some(ElemType::Float(FloatKind::F16)));
                elements.extend(capabilities.bf16.then_some(ElemType::Float(FloatKind::BF16)));
                for element in elements {
                    device.register_type_usage(element, TypeUsage::all());
                }
                device.register_address_type(AddressType::U32);
            }
        }
        (device, TargetProperties::default())
    }

    /// Options of the C++ dialects. No fast maths: kernels are judged against f32.
    pub(crate) fn cpp_options(&self) -> CompilationOptions {
        let mut options = CompilationOptions {
            warp_size: self.file.capabilities.plane_units[1] as usize,
            ..CompilationOptions::default()
        };
        let hopper = self.arch().and_then(cuda_version).is_some_and(|v| v >= 90);
        options.supports_features = CppSupportedFeatures {
            fast_math: false,
            fast_tanh: false,
            dp4a: self.form() == Form::Cuda,
            grid_constants: self.form() == Form::Cuda,
            clusters: hopper,
            elect_sync: hopper,
        };
        if self.form() == Form::Hip
            && let Some(Ok(arch)) = self.arch().map(AMDArchitecture::parse)
        {
            options.warp_size = Architecture::warp_size(&arch) as usize;
            options.amd_wmma = arch.wmma_generation();
        }
        options
    }

    /// Options of WGSL.
    pub(crate) fn wgsl_options(&self) -> WgpuCompilationOptions {
        WgpuCompilationOptions::default()
    }
}

/// `sm_90a` is 90.
fn cuda_version(arch: &str) -> Option<u32> {
    arch.strip_prefix("sm_")?.trim_end_matches('a').parse().ok().filter(|v| (70..200).contains(v))
}

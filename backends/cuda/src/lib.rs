//! From CUDA C++ to what an NVIDIA device loads: a cubin for one architecture, and PTX that newer drivers can compile.
//!
//! The compiler is NVRTC, a library of the CUDA toolkit that needs neither a driver nor a device. It is loaded when it
//! is asked for, so nothing of it is needed where no CUDA code is built.
//!
//! ```no_run
//! use dreamc_backend::toolchain::Search;
//! use dreamc_backend_cuda::Nvrtc;
//!
//! let nvrtc = Nvrtc::find(&Search::new())?;
//! let source = r#"extern "C" __global__ void f32_zero(float *y) { y[threadIdx.x] = 0; }"#;
//! let binary = nvrtc.compile("f32_zero", source, "sm_80")?;
//! assert!(binary.cubin.starts_with(b"\x7fELF"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it cannot do: sm_90a code runs on no other architecture, and its PTX neither.

mod library;
mod place;
mod ptx;

use dreamc_backend::toolchain::{Missing, Search, Status, Vendor};
use library::{Call, Library};
use place::Place;
use std::ffi::{CString, NulError};
use std::path::PathBuf;

/// The oldest version that knows the newest of our targets, sm_90a.
const VERSION_MIN: (i32, i32) = (12, 0);

/// The second: functions without `__device__`, as lambdas are, are the device's.
const OPTIONS: [&str; 2] = ["--std=c++17", "-default-device"];

/// Headers that kernels include, and what those are made of.
const HEADERS: [&str; 6] =
    ["cuda_bf16.h", "cuda_bf16.hpp", "cuda_fp16.h", "cuda_fp16.hpp", "cuda_fp8.h", "cuda_fp8.hpp"];

/// Why there is no compiler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolchainError {
    /// It is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// It is there and cannot be used.
    #[error("{} cannot be used: {reason}; run `{}`", .path.display(), Vendor::Nvidia.install())]
    Unusable {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why there is no binary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The source is wrong.
    #[error("kernel `{name}` does not compile:\n{log}")]
    Source {
        /// Name of the kernel.
        name: String,
        /// What the compiler said.
        log: String,
    },
    /// The compiler does not know the architecture.
    #[error("NVRTC {version} cannot compile for `{arch}`; it knows {}", .known.join(", "))]
    Arch {
        /// What was asked for.
        arch: String,
        /// Version of the compiler.
        version: String,
        /// What can be asked for.
        known: Vec<String>,
    },
    /// The source or its name cannot be given to a C library.
    #[error("kernel `{name}` holds a zero byte")]
    ZeroByte {
        /// Name of the kernel.
        name: String,
        /// Where it stands.
        source: NulError,
    },
    /// A call failed that should not.
    #[error("kernel `{name}`: `{call}` failed: {reason}")]
    Call {
        /// Name of the kernel.
        name: String,
        /// The function of NVRTC.
        call: &'static str,
        /// What NVRTC says.
        reason: String,
    },
}

/// Code of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Machine code of one architecture: an ELF file.
    pub cubin: Vec<u8>,
    /// Text of a virtual machine, with the zero at its end that the driver wants.
    pub ptx: Vec<u8>,
}

/// The compiler.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    place: Place,
    version: (i32, i32),
    /// Architectures, without the letters that some have at the end.
    known: Vec<String>,
}

impl Nvrtc {
    /// Loads the first NVRTC that `search` leads to: `cuda` of its folders, the system's toolkits, the loader's path.
    ///
    /// # Errors
    /// There is none, or what is there is no NVRTC of version 12 or later.
    pub fn find(search: &Search) -> Result<Nvrtc, ToolchainError> {
        let mut unusable = None;
        for place in place::places(search) {
            let path = place.library.clone();
            let loaded = match Library::load(&path) {
                // The loader's path has no library of this name, which is no news about any library.
                Err(_) if path.components().count() == 1 => continue,
                loaded => loaded.and_then(|library| Nvrtc::new(library, place)),
            };
            match loaded {
                Ok(nvrtc) => return Ok(nvrtc),
                // An old one must not hide a new one that is looked for later.
                Err(reason) => unusable = unusable.or(Some(ToolchainError::Unusable { path, reason })),
            }
        }
        Err(unusable.unwrap_or_else(|| place::missing(search).into()))
    }

    fn new(library: Library, place: Place) -> Result<Nvrtc, String> {
        let version = library.version()?;
        if version < VERSION_MIN {
            let (major, minor) = VERSION_MIN;
            return Err(format!("it is NVRTC {}.{}, older than {major}.{minor}", version.0, version.1));
        }
        let known = library.architectures().map_err(|call| call.reason)?;
        let known = known.iter().map(|number| format!("sm_{number}")).collect();
        Ok(Nvrtc { library, place, version, known })
    }

    /// Major and minor version of the CUDA toolkit that it is of. Binaries differ between versions.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Name, version and place.
    pub fn description(&self) -> String {
        let (major, minor) = self.version;
        format!("NVRTC {major}.{minor} ({})", self.place.library.display())
    }

    /// All that binaries depend on beside their sources: the compiler to its last digit, its options, and the headers.
    ///
    /// # Errors
    /// Where the compiler compiles nothing at all.
    pub fn identity(&self) -> Result<String, CompileError> {
        let arch = self.known.first().cloned().unwrap_or_default();
        let nothing = self.compile("nothing", "", &arch)?;
        // The version stands in remarks: NVRTC itself tells two of its numbers.
        let text = String::from_utf8_lossy(&nothing.ptx).into_owned();
        let remarks: Vec<&str> = text.lines().filter(|line| line.starts_with("//")).collect();
        let mut hasher = blake3::Hasher::new();
        for folder in &self.place.include {
            for name in HEADERS {
                if let Ok(header) = std::fs::read(folder.join(name)) {
                    hasher.update(&header);
                }
            }
        }
        // The last word: how what the compiler gives is kept.
        Ok(format!("{}{OPTIONS:?}{} registers in order", remarks.concat(), hasher.finalize()))
    }

    /// Compiles a kernel for an architecture such as `sm_80`. The same source gives the same bytes, wherever the
    /// compiler and the process are.
    ///
    /// # Errors
    /// The source does not compile, or the architecture is unknown.
    pub fn compile(&self, name: &str, source: &str, arch: &str) -> Result<Binary, CompileError> {
        // `compute_80` is an architecture to NVRTC, but one without machine code.
        if !self.known.iter().any(|it| it == arch.trim_end_matches(['a', 'f'])) || !arch.starts_with("sm_") {
            let (major, minor) = self.version;
            return Err(CompileError::Arch {
                arch: arch.to_owned(),
                version: format!("{major}.{minor}"),
                known: self.known.clone(),
            });
        }
        let text = |text: &str| {
            CString::new(text).map_err(|source| CompileError::ZeroByte { name: name.to_owned(), source })
        };
        let mut options = vec![text(&format!("--gpu-architecture={arch}"))?];
        for option in OPTIONS {
            options.push(text(option)?);
        }
        for folder in &self.place.include {
            options.push(text(&format!("--include-path={}", folder.display()))?);
        }
        let failed = |call: Call| CompileError::Call {
            name: name.to_owned(),
            call: call.function,
            reason: call.reason,
        };
        let program = self.library.program(&text(source)?, &text(&format!("{name}.cu"))?).map_err(failed)?;
        if let Err(call) = program.compile(&options) {
            let log = program.log().map_err(failed)?;
            let told = !log.trim().is_empty();
            return Err(if told {
                CompileError::Source { name: name.to_owned(), log }
            } else {
                failed(call)
            });
        }
        let ptx = program.ptx().map_err(failed)?;
        let ptx = match str::from_utf8(&ptx) {
            Ok(text) => ptx::in_order(text).into_bytes(),
            // It is ASCII; whatever else would be, a driver refuses.
            Err(_) => ptx,
        };
        Ok(Binary { cubin: program.cubin().map_err(failed)?, ptx })
    }
}

/// What [`Nvrtc::find`] would find.
pub fn status() -> Status {
    match Nvrtc::find(&Search::new()) {
        Ok(nvrtc) => Status::found(nvrtc.description()),
        Err(_) => Status::missing(Vendor::Nvidia.install()),
    }
}

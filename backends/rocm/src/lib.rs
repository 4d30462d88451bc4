//! From HIP C++ to what an AMD device loads: a code object for one architecture.
//!
//! The compiler is clang with its linker; functions such as `exp` are those of AMD's device library. No header of HIP is
//! read: `prelude/hip.h` has what kernels use. So Debian's own packages are enough, and nothing of ROCm is needed.
//!
//! ```no_run
//! use dreamc_backend::toolchain::Search;
//! use dreamc_backend_rocm::Clang;
//!
//! let clang = Clang::find(&Search::new())?;
//! let source = r#"extern "C" __global__ void f32_zero(float *y) { y[threadIdx.x] = 0; }"#;
//! assert!(clang.compile("f32_zero", source, "gfx942")?.starts_with(b"\x7fELF"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it cannot do: matrix intrinsics of rocWMMA, whose headers are not at hand; those of clang are.

mod place;

use dreamc_backend::toolchain::{Missing, Search, Status, Vendor, clang_command};
use place::Place;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// What kernels use of HIP.
const PRELUDE: &str = include_str!("prelude/hip.h");

/// Constants that the device library looks at.
const SETTINGS: &str = include_str!("prelude/settings.cl");

/// Headers that sources name and that the prelude stands for.
const HEADERS: [&str; 3] = ["hip/hip_runtime.h", "hip/hip_fp16.h", "hip/hip_bf16.h"];

/// Version 5 is what ROCm 6 and later load.
const CODE_OBJECT: &str = "-mcode-object-version=5";

/// How kernels are compiled. Nothing of the host is read, and nothing of it is written.
const OPTIONS: [&str; 14] = [
    "-x",
    "hip",
    "--cuda-device-only",
    "--no-gpu-bundle-output",
    "-nogpuinc",
    "-nogpulib",
    "-nostdinc",
    "-std=c++17",
    "-O3",
    // The sources look at a float's bits through a reference.
    "-fno-strict-aliasing",
    // Positions of the prelude are properties.
    "-fdeclspec",
    // Else the name of the source file, hashed, would become part of the code.
    "-fuse-cuid=none",
    "-w",
    CODE_OBJECT,
];

/// Why there is no code.
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
    /// The compiler or its device library does not know the architecture.
    #[error("{version} cannot compile for `{arch}`:\n{log}")]
    Arch {
        /// What was asked for.
        arch: String,
        /// The compiler.
        version: String,
        /// What it said.
        log: String,
    },
    /// The compiler could not be run.
    #[error("kernel `{name}`: cannot run {}: {source}", .clang.display())]
    Run {
        /// Name of the kernel.
        name: String,
        /// The program.
        clang: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// What a run of the compiler came to.
enum Outcome {
    Output(Vec<u8>),
    Log(String),
}

/// The compiler.
#[derive(Debug)]
pub struct Clang {
    place: Place,
    /// The settings by architecture, compiled when it is first asked for.
    settings: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Clang {
    /// Finds a clang that has its linker and AMD's device library beside it.
    ///
    /// # Errors
    /// There is none.
    pub fn find(search: &Search) -> Result<Clang, Missing> {
        Ok(Clang { place: place::find(search)?, settings: Mutex::default() })
    }

    /// Version and place. Code differs between versions.
    pub fn description(&self) -> String {
        format!("{} ({})", self.place.version, self.place.clang.display())
    }

    /// All that code depends on beside its sources: the compiler, its options, the prelude and AMD's device library.
    ///
    /// # Errors
    /// Where the library cannot be read.
    pub fn identity(&self) -> io::Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&fs::read(&self.place.library)?);
        hasher.update(PRELUDE.as_bytes()).update(SETTINGS.as_bytes());
        Ok(format!("{}{OPTIONS:?}{}", self.place.version, hasher.finalize()))
    }

    /// Compiles a kernel for an architecture such as `gfx942`. The same source gives the same bytes, wherever the
    /// process is.
    ///
    /// # Errors
    /// The source does not compile, or the architecture is unknown.
    pub fn compile(&self, name: &str, source: &str, arch: &str) -> Result<Vec<u8>, CompileError> {
        let cannot =
            |source| CompileError::Run { name: name.to_owned(), clang: self.place.clang.clone(), source };
        let folder = TempDir::new().map_err(cannot)?;
        let folder = folder.path();
        let settings = match self.settings(folder, arch).map_err(cannot)? {
            Outcome::Output(settings) => settings,
            Outcome::Log(log) => {
                let version = self.place.version.clone();
                return Err(CompileError::Arch { arch: arch.to_owned(), version, log });
            }
        };
        write_files(folder, source, &settings).map_err(cannot)?;
        let mut command = clang_command(&self.place.clang, folder);
        command.args(OPTIONS).arg(format!("--offload-arch={arch}"));
        for library in [self.place.library.as_path(), Path::new("settings.bc")] {
            command.args(["-Xclang", "-mlink-builtin-bitcode", "-Xclang"]).arg(library);
        }
        command.args(["-I", ".", "-include", "hip.h", "-o", "kernel.co", "kernel.hip"]);
        match run(command, &folder.join("kernel.co")).map_err(cannot)? {
            Outcome::Output(code) => Ok(code),
            Outcome::Log(log) => Err(CompileError::Source { name: name.to_owned(), log }),
        }
    }

    fn settings(&self, folder: &Path, arch: &str) -> io::Result<Outcome> {
        // A map that a panicking thread held is whole: it only grows.
        let mut known = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(settings) = known.get(arch) {
            return Ok(Outcome::Output(settings.clone()));
        }
        let Some(isa) = isa_version(arch) else {
            return Ok(Outcome::Log("an architecture is named like gfx942".to_owned()));
        };
        fs::write(folder.join("settings.cl"), SETTINGS)?;
        let mut command = clang_command(&self.place.clang, folder);
        command.args(["-x", "cl", "-nostdinc", "-cl-no-stdinc", "-nogpulib", "--target=amdgcn-amd-amdhsa"]);
        command.args([CODE_OBJECT, "-O3", "-w", "-fvisibility=hidden", "-c", "-emit-llvm"]);
        command.arg(format!("-mcpu={arch}")).arg(format!("-DDREAMC_ISA={isa}"));
        command.args(["-o", "settings.bc", "settings.cl"]);
        let outcome = run(command, &folder.join("settings.bc"))?;
        if let Outcome::Output(settings) = &outcome {
            known.insert(arch.to_owned(), settings.clone());
        }
        Ok(outcome)
    }
}

fn write_files(folder: &Path, source: &str, settings: &[u8]) -> io::Result<()> {
    fs::write(folder.join("hip.h"), PRELUDE)?;
    fs::create_dir(folder.join("hip"))?;
    for header in HEADERS {
        fs::write(folder.join(header), "#include <hip.h>\n")?;
    }
    fs::write(folder.join("settings.bc"), settings)?;
    fs::write(folder.join("kernel.hip"), source)
}

/// Runs the compiler, which writes `to`.
fn run(mut command: Command, to: &Path) -> io::Result<Outcome> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(Outcome::Output(fs::read(to)?));
    }
    let log = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    // Killed, as by a lack of memory, it says nothing.
    Ok(Outcome::Log(if log.is_empty() { format!("it ended with {}", output.status) } else { log }))
}

/// How the device library counts architectures: `gfx90a` is 9010, major version 9, minor 0, stepping 10.
fn isa_version(arch: &str) -> Option<u32> {
    // Features may follow: `gfx90a:xnack-`.
    let digits = arch.split(':').next()?.strip_prefix("gfx")?;
    let mut digits = digits.chars();
    let stepping = digits.next_back()?.to_digit(16)?;
    let minor = digits.next_back()?.to_digit(16)?;
    let major: u32 = digits.as_str().parse().ok().filter(|it| *it < 100)?;
    Some(major * 1000 + minor * 100 + stepping)
}

/// What [`Clang::find`] would find.
pub fn status() -> Status {
    match Clang::find(&Search::new()) {
        Ok(clang) => Status::found(clang.description()),
        Err(_) => Status::missing(Vendor::Amd.install()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isa_version_as_the_device_library_counts() {
        for (arch, isa) in [("gfx90a", 9010), ("gfx942", 9402), ("gfx1100", 11000), ("gfx1201", 12001)] {
            assert_eq!(isa_version(arch), Some(isa), "{arch}");
        }
        assert_eq!(isa_version("gfx90a:xnack-"), Some(9010));
        for arch in ["", "gfx", "gfx9", "gfx90", "sm_80", "gfxé42", "gfx99999999999942"] {
            assert_eq!(isa_version(arch), None, "{arch}");
        }
    }
}

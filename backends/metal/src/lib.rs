//! Metal kernels stay source: Apple's compiler, which runs where they are loaded, is nowhere else. What can be done here
//! is to parse them with clang, against declarations of Metal's library.
//!
//! ```no_run
//! use dreamc_backend::toolchain::Search;
//! use dreamc_backend_metal::Checker;
//!
//! let source = "
//! #include <metal_stdlib>
//! using namespace metal;
//! [[kernel]] void f32_zero(device float *y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y[i] = 0; }
//! ";
//! Checker::find(&Search::new())?.check("f32_zero", source)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Checked are syntax, types, address spaces and the names of attributes and functions. What the check cannot see: a
//! pointer without an address space, the meaning of attributes, and the limits of a device.

mod attributes;

use dreamc_backend::toolchain::{CLANG_VARIABLE, Missing, Search, Status, Vendor, ask_clang, clang_command};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The library's declarations.
const STDLIB: &str = include_str!("stub/metal_stdlib");

/// The library's other headers, all of which are part of the first.
const OTHERS: [&str; 5] =
    ["metal_atomic", "metal_compute", "metal_math", "metal_simdgroup", "metal_simdgroup_matrix"];

/// C++ for OpenCL: a C++ whose pointers have address spaces.
const OPTIONS: [&str; 10] = [
    "-x",
    "clcpp",
    "-cl-std=clc++2021",
    "-fsyntax-only",
    // No processor of OpenCL knows bf16; this one does, and takes the address spaces on demand.
    "--target=x86_64-unknown-linux-gnu",
    "-Xclang",
    "-ffake-address-space-map",
    "-nostdinc",
    "-cl-no-stdinc",
    // `constant` is const, and the sources say so again.
    "-Wno-duplicate-decl-specifier",
];

/// What is wrong with a kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// It does not parse.
    #[error("kernel `{name}` is not Metal:\n{log}")]
    Source {
        /// Name of the kernel.
        name: String,
        /// What clang said.
        log: String,
    },
    /// An attribute that Metal does not have.
    #[error("kernel `{name}` has the attribute `{attribute}`, which Metal does not")]
    Attribute {
        /// Name of the kernel.
        name: String,
        /// The attribute.
        attribute: String,
    },
    /// There is no kernel of this name.
    #[error("kernel `{name}` is not in its source")]
    Entry {
        /// Name of the kernel.
        name: String,
    },
    /// clang could not be run.
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

/// The check.
#[derive(Clone, Debug)]
pub struct Checker {
    clang: PathBuf,
    version: String,
}

impl Checker {
    /// Finds a clang.
    ///
    /// # Errors
    /// There is none.
    pub fn find(search: &Search) -> Result<Checker, Missing> {
        let clangs = search.clangs();
        let usable = clangs.iter().find_map(|clang| Some((clang, ask_clang(clang, "--version")?)));
        let (clang, version) = usable.ok_or_else(|| Missing {
            what: "clang, which checks Metal source,",
            command: Vendor::Apple.install(),
            variable: CLANG_VARIABLE,
            looked_for: clangs.clone(),
        })?;
        Ok(Checker { clang: clang.clone(), version })
    }

    /// Version and place.
    pub fn description(&self) -> String {
        format!("{} ({}), for a parse", self.version, self.clang.display())
    }

    /// Parses a kernel.
    ///
    /// # Errors
    /// It is not Metal, as far as can be seen.
    pub fn check(&self, name: &str, msl: &str) -> Result<(), CheckError> {
        let source = attributes::translate(msl)
            .map_err(|attribute| CheckError::Attribute { name: name.to_owned(), attribute })?;
        let entry = format!("void {name}(");
        if !source.lines().any(|line| line.contains(attributes::KERNEL) && line.contains(&entry)) {
            return Err(CheckError::Entry { name: name.to_owned() });
        }
        let cannot = |source| CheckError::Run { name: name.to_owned(), clang: self.clang.clone(), source };
        let folder = TempDir::new().map_err(cannot)?;
        write_files(folder.path(), &source).map_err(cannot)?;
        let mut command = clang_command(&self.clang, folder.path());
        let output = command.args(OPTIONS).args(["-I", ".", "kernel.metal"]).output().map_err(cannot)?;
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        Err(CheckError::Source { name: name.to_owned(), log })
    }
}

fn write_files(folder: &Path, source: &str) -> io::Result<()> {
    fs::write(folder.join("metal_stdlib"), STDLIB)?;
    for header in OTHERS {
        fs::write(folder.join(header), "#include <metal_stdlib>\n")?;
    }
    fs::write(folder.join("kernel.metal"), source)
}

/// What [`Checker::find`] would find. Nothing is lost where it is missing: the artifact carries the source.
pub fn status() -> Status {
    match Checker::find(&Search::new()) {
        Ok(checker) => Status::found(checker.description()),
        Err(missing) => Status::missing(missing.command),
    }
}

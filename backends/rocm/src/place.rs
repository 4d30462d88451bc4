//! Which clang, and where AMD's device library may lie.

use dreamc_backend::toolchain::{CLANG_VARIABLE, Missing, Search, Vendor, ask_clang};
use std::path::{Path, PathBuf};

/// The device library, in a folder `bitcode`.
const LIBRARY: &str = "amdgcn/bitcode/ocml.bc";

/// Where AMD's own packages are.
const ROCM: &str = "/opt/rocm";

/// Where distributions have the folder of [`LIBRARY`].
const SYSTEM: [&str; 6] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr", ROCM];

/// A compiler with all that it needs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) clang: PathBuf,
    /// The first line of its answer to `--version`.
    pub(crate) version: String,
    pub(crate) library: PathBuf,
}

/// The first compiler that is complete.
pub(crate) fn find(search: &Search) -> Result<Place, Missing> {
    let mut looked_for = Vec::new();
    for clang in search.clangs() {
        let libraries = libraries(&clang, search);
        let library = libraries.iter().find(|it| it.is_file());
        if let (Some(library), true) = (library, has_linker(&clang))
            && let Some(version) = ask_clang(&clang, "--version")
        {
            return Ok(Place { clang, version, library: library.clone() });
        }
        looked_for.push(clang);
    }
    let what = "clang for AMD devices, with its linker (lld) and AMD's device library (ocml.bc),";
    Err(Missing { what, command: Vendor::Amd.install(), variable: CLANG_VARIABLE, looked_for })
}

/// Places of the device library, best first. AMD's is written by AMD's clang, and older ones cannot read it.
fn libraries(clang: &Path, search: &Search) -> Vec<PathBuf> {
    let of_rocm = clang.canonicalize().is_ok_and(|it| it.starts_with(ROCM));
    let mut folders: Vec<PathBuf> = if of_rocm { vec![ROCM.into()] } else { Vec::new() };
    if let Some(resources) = ask_clang(clang, "-print-resource-dir") {
        let resources = PathBuf::from(resources);
        folders.extend([resources.join("lib"), resources]);
    }
    folders.extend(search.folders().iter().map(|folder| folder.join("rocm")));
    if search.system() {
        folders.extend(SYSTEM.map(PathBuf::from));
    }
    folders.into_iter().map(|folder| folder.join(LIBRARY)).collect()
}

fn has_linker(clang: &Path) -> bool {
    // A program that clang does not find is answered by its bare name.
    ask_clang(clang, "-print-prog-name=lld").is_some_and(|path| Path::new(&path).is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_says_how_to_get_it() {
        let error = find(&Search::nowhere()).unwrap_err().to_string();
        assert!(error.contains("cargo xtask toolchain") && error.contains("DREAM_CLANG"), "{error}");
    }
}

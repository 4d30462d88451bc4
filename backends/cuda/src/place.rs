//! Where NVRTC and the headers that kernels include may lie.

use dreamc_backend::toolchain::{FOLDER_VARIABLE, Missing, Search, Vendor};
use std::path::{Path, PathBuf};

/// Names of the library: those of versions first, since the plain one is for developers and often absent.
const NAMES: [&str; 3] = ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"];

/// Where toolkits are installed.
const SYSTEM: &str = "/usr/local";

/// A compiler with its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The library, by its path or by a name that the loader finds.
    pub(crate) library: PathBuf,
    /// Folders of `cuda_fp16.h` and the like.
    pub(crate) include: Vec<PathBuf>,
}

/// All places that may have one, best first.
pub(crate) fn places(search: &Search) -> Vec<Place> {
    let own: Vec<PathBuf> = search.folders().iter().map(|folder| folder.join("cuda")).collect();
    let system = if search.system() { toolkits(Path::new(SYSTEM)) } else { Vec::new() };
    let mut places: Vec<Place> = own.iter().flat_map(|root| in_toolkit(root)).collect();
    places.extend(search.packages().iter().flat_map(|folder| in_packages(folder)));
    places.extend(system.iter().flat_map(|root| in_toolkit(root)));
    if search.system() {
        let roots = [own, system].concat();
        let include: Vec<PathBuf> =
            roots.iter().map(|it| it.join("include")).chain(["/usr/include".into()]).collect();
        let has_headers = |it: &PathBuf| it.join("cuda_fp16.h").is_file();
        let include: Vec<PathBuf> = include.into_iter().find(has_headers).into_iter().collect();
        places.extend(NAMES.map(|name| Place { library: name.into(), include: include.clone() }));
    }
    places
}

/// What to say where there is none.
pub(crate) fn missing(search: &Search) -> Missing {
    let mut looked_for: Vec<PathBuf> =
        search.folders().iter().map(|folder| folder.join("cuda/lib").join(NAMES[0])).collect();
    let wheel = |packages: &PathBuf| packages.join("nvidia/cuda_nvrtc/lib").join(NAMES[0]);
    looked_for.extend(search.packages().iter().map(wheel));
    if search.system() {
        looked_for.push(Path::new(SYSTEM).join("cuda*/lib64").join(NAMES[0]));
    }
    let what = "NVRTC, the compiler for NVIDIA devices,";
    Missing { what, command: Vendor::Nvidia.install(), variable: FOLDER_VARIABLE, looked_for }
}

/// Folders `cuda*`; `cuda` itself, which points to the chosen one, comes first.
fn toolkits(system: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(system).into_iter().flatten().flatten();
    let mut toolkits: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    toolkits.retain(|path| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with("cuda")));
    toolkits.sort();
    toolkits
}

fn in_toolkit(root: &Path) -> Vec<Place> {
    let target = format!("targets/{}-linux", if cfg!(target_arch = "aarch64") { "sbsa" } else { "x86_64" });
    let mut include = vec![root.join("include")];
    // Of CUDA 13 on, part of the headers lie one folder deeper.
    include.push(root.join("include/cccl"));
    include.retain(|folder| folder.is_dir());
    let folders = ["lib".to_owned(), "lib64".to_owned(), format!("{target}/lib")];
    let libraries = folders.iter().flat_map(|folder| NAMES.map(|name| root.join(folder).join(name)));
    libraries.filter(|it| it.is_file()).map(|library| Place { library, include: include.clone() }).collect()
}

/// NVIDIA's wheels as pip unpacks them: a folder for each, of CUDA 12. Those of 13 lack headers of the matrix units.
fn in_packages(packages: &Path) -> Vec<Place> {
    let nvidia = packages.join("nvidia");
    let include = ["cuda_runtime", "cuda_nvcc", "cuda_cccl"].map(|wheel| nvidia.join(wheel).join("include"));
    let library = nvidia.join("cuda_nvrtc/lib").join(NAMES[0]);
    let complete = library.is_file() && include.iter().all(|folder| folder.is_dir());
    complete.then(|| Place { library, include: include.to_vec() }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_found_if_all_are_there() {
        let folder = std::env::temp_dir().join(format!("dreamc-wheels-{}", std::process::id()));
        let nvidia = folder.join("packages/nvidia");
        for wheel in ["cuda_runtime", "cuda_nvcc", "cuda_cccl"] {
            std::fs::create_dir_all(nvidia.join(wheel).join("include")).unwrap();
        }
        let search = Search::nowhere().and(&folder);
        assert_eq!(places(&search), []);
        std::fs::create_dir_all(nvidia.join("cuda_nvrtc/lib")).unwrap();
        std::fs::write(nvidia.join("cuda_nvrtc/lib/libnvrtc.so.12"), "").unwrap();
        let found = places(&search);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].include.len(), 3);
    }

    #[test]
    fn nothing_is_looked_for_outside_the_folders() {
        assert_eq!(places(&Search::nowhere().and("/no/such/folder")), []);
        let missing = missing(&Search::nowhere().and("/no/such/folder"));
        let places = ["cuda/lib/libnvrtc.so.12", "packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"];
        assert_eq!(missing.looked_for, places.map(|place| Path::new("/no/such/folder").join(place)));
    }

    #[test]
    fn the_loader_is_asked_last() {
        let last = places(&Search::new()).pop().unwrap();
        assert_eq!(last.library, PathBuf::from("libnvrtc.so"));
    }
}

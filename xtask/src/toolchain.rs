//! `cargo xtask toolchain`: the compilers for GPUs, none of which needs a GPU.
//!
//! NVRTC comes as wheels into `toolchain` of Cargo's target folder, where the compiler looks for it; the compiler for AMD's devices, which
//! also checks Metal source, as Debian packages. What is there is left alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::apt_install;
use crate::layering;
use crate::step::{CommandLine, on_path, step, step_command, workspace_root};

/// Versions and hashes of the wheels: those that `dreamc toolchain install cuda` installs too, and what tests need.
const WHEELS: &str = concat!(include_str!("../../src/nvrtc.txt"), include_str!("../toolchain.txt"));
const WHEELS_FILES: [&str; 2] = ["src/nvrtc.txt", "xtask/toolchain.txt"];

/// Below Cargo's target folder, which `CARGO_TARGET_DIR` may name.
const FOLDER: &str = "toolchain";

/// What is kept of the wheels, and where it goes in `cuda`. The rest is for other uses, and twice as large.
const KEPT: [(&str, &str); 7] = [
    ("nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "lib/libnvrtc.so.12"),
    ("nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9", "lib/libnvrtc-builtins.so.12.9"),
    ("nvidia/cuda_runtime/include", "include"),
    ("nvidia/cuda_nvcc/include/crt", "include/crt"),
    ("nvidia/cuda_cccl/include/cuda", "include/cuda"),
    ("nvidia/cuda_cccl/include/nv", "include/nv"),
    // For the tests alone.
    ("nvidia/cu13/bin/nvdisasm", "bin/nvdisasm"),
];

/// A copy of [`WHEELS`], written last: it says that the folder is complete, and of which versions.
const STAMP: &str = "wheels.txt";

/// Packages of the compiler for AMD's devices.
const AMD: &str = "clang-19 lld-19 rocm-device-libs";

/// Where Debian puts the device library, below the folder of the host's libraries.
const DEVICE_LIBRARY: &str = "amdgcn/bitcode/ocml.bc";

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    apt_install("the compiler for AMD's devices", AMD, amd_missing)?;
    let target = layering::metadata(&workspace_root()?)?.target_directory.into_std_path_buf();
    let cuda = target.join(FOLDER).join("cuda");
    if fs::read_to_string(cuda.join(STAMP)).is_ok_and(|stamp| stamp == WHEELS) {
        eprintln!("xtask: toolchain: complete: clang 19 for AMD's devices, NVRTC in {}", cuda.display());
        return Ok(());
    }
    let pip_missing = || if pip_is_there() { Vec::new() } else { vec!["pip for python3".to_owned()] };
    apt_install("the installer of Python packages", "python3-pip", pip_missing)?;
    let download = cuda.with_file_name("download");
    empty(&download)?;
    step_command("download NVRTC", &pip_download(&download))?;
    step("unpack NVRTC", &"cargo xtask toolchain", || unpack(&download, &cuda))?;
    fs::remove_dir_all(&download).context("cannot remove the downloaded files")
}

/// Wheels only, and those of the pinned hashes only: nothing is built or run.
fn pip_download(to: &Path) -> CommandLine {
    CommandLine::new("python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes")
        .args("--disable-pip-version-check")
        .args(&WHEELS_FILES.map(|file| format!("--requirement {file}")).join(" "))
        .arg("--dest")
        .arg(to.display().to_string())
}

fn pip_is_there() -> bool {
    CommandLine::new("python3 -m pip --version").output().is_some()
}

/// Puts what is kept of the wheels in `download` into `cuda`.
fn unpack(download: &Path, cuda: &Path) -> Result<()> {
    let all = download.join("all");
    for wheel in wheels(download)? {
        CommandLine::new("python3 -m zipfile -e")
            .arg(wheel.display().to_string())
            .arg(all.display().to_string())
            .run()?;
    }
    let new = download.join("cuda");
    for folder in ["lib", "include", "bin"] {
        fs::create_dir_all(new.join(folder))?;
    }
    for (from, to) in KEPT {
        let (from, to) = (all.join(from), new.join(to));
        if to.is_dir() {
            fs::remove_dir(&to)?;
        }
        fs::rename(&from, &to).with_context(|| format!("the wheels have no {}", from.display()))?;
    }
    // Archives forget it.
    #[cfg(unix)]
    fs::set_permissions(new.join("bin/nvdisasm"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::write(new.join(STAMP), WHEELS)?;
    if cuda.exists() {
        fs::remove_dir_all(cuda)?;
    }
    // In one go: an interrupted run leaves the old folder or none.
    fs::rename(&new, cuda).context("cannot move the unpacked files")
}

fn wheels(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut wheels = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheels.push(path);
        }
    }
    wheels.sort();
    if wheels.is_empty() {
        bail!("pip has downloaded nothing into {}", folder.display());
    }
    Ok(wheels)
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// What the packages bring and this machine has not.
fn amd_missing() -> Vec<String> {
    let mut missing = ["clang-19", "lld-19"].map(str::to_owned).to_vec();
    missing.retain(|program| !on_path(program));
    let library = |host: &str| Path::new("/usr/lib").join(host).join(DEVICE_LIBRARY).is_file();
    if !["x86_64-linux-gnu", "aarch64-linux-gnu"].into_iter().any(library) {
        missing.push("AMD's device library".to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_has_a_version_and_hashes() {
        let packages: Vec<&str> = WHEELS.lines().filter(|line| line.starts_with("nvidia-")).collect();
        assert_eq!(packages.len(), 5);
        let (tests, compilers): (Vec<&str>, Vec<&str>) =
            packages.iter().partition(|line| line.starts_with("nvidia-cuda-nvdisasm=="));
        assert_eq!(tests.len(), 1);
        assert!(compilers.iter().all(|line| line.contains("==12.9.")), "{compilers:?}");
        assert_eq!(WHEELS.matches("--hash=sha256:").count(), 2 * packages.len());
    }

    #[test]
    fn download_can_be_pasted() {
        assert_eq!(
            pip_download(Path::new("target/toolchain/download")).to_string(),
            "python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
             --disable-pip-version-check --requirement src/nvrtc.txt --requirement xtask/toolchain.txt --dest target/toolchain/download",
        );
    }
}

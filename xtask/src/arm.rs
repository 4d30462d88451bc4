//! A Python for Arm, run by qemu: Debian's packages in a folder of their own, and numpy's wheel. Nothing of the system is changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::apt::apt_install;
use crate::step::{CommandLine, on_path, step};

/// An interpreter with what it needs to import numpy.
const PACKAGES: &str = "libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3 libuuid1 \
    libpython3.11-minimal libpython3.11-stdlib python3.11-minimal";
/// The one of Debian 12's Python.
const NUMPY: &str = "numpy==1.26.4";

/// Installs the emulator, if it is missing.
pub(crate) fn set_up() -> Result<()> {
    let missing = || {
        let mut missing = vec!["qemu-aarch64".to_owned(), "file".to_owned()];
        missing.retain(|program| !on_path(program));
        missing
    };
    apt_install("an emulator of Arm", "qemu-user file", missing)
}

/// Imports the module whose files are in `module`, and runs `command`; the version that both say.
pub(crate) fn check(folder: &Path, module: &Path, command: &Path) -> Result<String> {
    let root = folder.join("arm");
    if !root.join("usr/bin/python3.11").exists() {
        step("a Python for Arm", &"cargo xtask dist", || unpack(&root))?;
    }
    let qemu = || CommandLine::new("qemu-aarch64 -L").arg(root.display().to_string());
    let packages = root.join("packages");
    let path = format!("{}:{}", module.display(), packages.display());
    let imported = qemu()
        .arg(root.join("usr/bin/python3.11").display().to_string())
        .arg("-c")
        .arg("import platform, dream; print(platform.machine(), dream.__version__)")
        .env("PYTHONPATH", path)
        .env("PYTHONHOME", root.join("usr").display().to_string())
        .capture()?;
    let said = qemu().arg(command.display().to_string()).arg("--version").capture()?;
    let (Some(("aarch64", of_module)), Some(("dreamc", of_command))) =
        (imported.trim().split_once(' '), said.trim().split_once(' '))
    else {
        bail!("under qemu the module said `{imported}`, the command `{said}`");
    };
    if of_module != of_command {
        bail!("the module is {of_module}, the command {of_command}");
    }
    Ok(of_module.to_owned())
}

fn unpack(root: &Path) -> Result<()> {
    let apt = root.with_extension("apt");
    for part in ["lists/partial", "cache/archives/partial", "etc/preferences.d"] {
        fs::create_dir_all(apt.join(part))?;
    }
    fs::write(apt.join("status"), "")?;
    let at = |part: &str| apt.join(part).display().to_string();
    let options = [
        "APT::Architecture=arm64".to_owned(),
        "APT::Architectures=arm64".to_owned(),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let get = |tool: &str| {
        let mut command = CommandLine::new("env --chdir").arg(at("cache")).arg(tool);
        for option in &options {
            command = command.arg("-o").arg(option);
        }
        command
    };
    get("apt-get").args("--quiet update").run()?;
    get("apt-get").args("--quiet download").args(PACKAGES).run()?;
    let new = root.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir_all(&new)?;
    for package in files_ending(&apt.join("cache"), ".deb")? {
        CommandLine::new("dpkg-deb --extract")
            .arg(package.display().to_string())
            .arg(new.display().to_string())
            .run()?;
    }
    CommandLine::new(
        "python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all:",
    )
    .args("--platform manylinux2014_aarch64 --python-version 3.11 --target")
    .arg(new.join("packages").display().to_string())
    .arg(NUMPY)
    .run()?;
    fs::rename(&new, root)?;
    Ok(())
}

fn files_ending(folder: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(end) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

//! `cargo xtask test`: all tests, on this machine and for the other instruction set of the CPU device.
//!
//! The kernels for Arm are tested wherever the work is done: cross-built, and run by qemu's user-mode
//! emulation. What that needs is installed if it is missing, and so are the compilers for GPUs, a Vulkan device of
//! software, on which WebGPU is tested, and an environment of Python for the wheel.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::apt::apt_install;
use crate::page;
use crate::python;
use crate::step::{CommandLine, on_path, set_up_target, step_command};
use crate::toolchain;

const ARM: &str = "aarch64-unknown-linux-gnu";
/// Where Debian puts the C library for Arm; the emulator looks there for the dynamic linker.
const ARM_SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// The best instruction set of the emulated processor: a test fails where it is not there, as its kernels would be left out.
const ARM_ISA: &str = "neonmatrix";

const ARM_PACKAGES: &str = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user";

const VULKAN_PACKAGES: &str = "mesa-vulkan-drivers libvulkan1";
/// Where drivers of Vulkan announce themselves.
const VULKAN_DRIVERS: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Runs all tests; the first step that fails ends the run.
pub(crate) fn run() -> Result<()> {
    toolchain::run()?;
    apt_install("a Vulkan device of software", VULKAN_PACKAGES, vulkan_missing)?;
    step_command("test", &CommandLine::new("cargo test --workspace --locked"))?;
    python::test()?;
    page::test(None)?;
    if cfg!(target_arch = "aarch64") {
        eprintln!("xtask: test for Arm: skipped: this machine is one, the step before ran the same tests");
        return Ok(());
    }
    set_up_arm()?;
    step_command("test for Arm", &arm_test())
}

fn arm_test() -> CommandLine {
    CommandLine::new("cargo test --locked --package dreamc-device-cpu --lib --tests --target")
        .arg(ARM)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("qemu-aarch64 -L {ARM_SYSROOT}"))
        .env("DREAMC_EXPECT_ISA", ARM_ISA)
}

/// Installs Rust's library for Arm, a linker, the C library and the emulator, whichever is missing.
fn set_up_arm() -> Result<()> {
    set_up_target(ARM)?;
    apt_install("the tools for Arm", ARM_PACKAGES, arm_packages_missing)
}

/// The loader and a driver of Vulkan: what WebGPU is tested on. Any driver will do.
fn vulkan_missing() -> Vec<String> {
    let found = |folders: &[PathBuf], name: &str| {
        let entries = folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(name))
    };
    let libraries = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let mut missing = Vec::new();
    if !found(&libraries.map(PathBuf::from), "libvulkan.so.1") {
        missing.push("libvulkan.so.1".to_owned());
    }
    if !found(&VULKAN_DRIVERS.map(PathBuf::from), ".json") {
        missing.push("a driver of Vulkan".to_owned());
    }
    missing
}

/// What the packages bring and this machine has not.
fn arm_packages_missing() -> Vec<String> {
    let mut missing = ["aarch64-linux-gnu-gcc", "qemu-aarch64"].map(str::to_owned).to_vec();
    missing.retain(|program| !on_path(program));
    if !Path::new(ARM_SYSROOT).join("lib/libc.so.6").exists() {
        missing.push("the C library for Arm".to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm_command_can_be_pasted() {
        assert_eq!(
            arm_test().to_string(),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
             CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64 -L /usr/aarch64-linux-gnu' \
             DREAMC_EXPECT_ISA=neonmatrix \
             cargo test --locked --package dreamc-device-cpu --lib --tests --target aarch64-unknown-linux-gnu",
        );
    }
}

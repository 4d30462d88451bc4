//! `cargo xtask test`: all tests, on this machine and for the other instruction set of the CPU device.
//!
//! The kernels for Arm are tested wherever the work is done: cross-built, and run by qemu's user-mode
//! emulation. What that needs is installed if it is missing, and so are the compilers for GPUs.

use std::path::Path;

use anyhow::Result;

use crate::apt::apt_install;
use crate::step::{CommandLine, on_path, step_command};
use crate::toolchain;

const ARM: &str = "aarch64-unknown-linux-gnu";
/// Where Debian puts the C library for Arm; the emulator looks there for the dynamic linker.
const ARM_SYSROOT: &str = "/usr/aarch64-linux-gnu";

const ARM_PACKAGES: &str = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user";

/// Runs all tests; the first step that fails ends the run.
pub(crate) fn run() -> Result<()> {
    toolchain::run()?;
    step_command("test", &CommandLine::new("cargo test --workspace --locked"))?;
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
}

/// Installs Rust's library for Arm, a linker, the C library and the emulator, whichever is missing.
fn set_up_arm() -> Result<()> {
    let targets = CommandLine::new("rustup target list --installed").output().unwrap_or_default();
    if !targets.lines().any(|target| target == ARM) {
        step_command("install the Rust target for Arm", &CommandLine::new("rustup target add").arg(ARM))?;
    }
    apt_install("the tools for Arm", ARM_PACKAGES, arm_packages_missing)
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
             cargo test --locked --package dreamc-device-cpu --lib --tests --target aarch64-unknown-linux-gnu",
        );
    }
}

//! `cargo xtask test`: all tests, on this machine and for the other instruction set of the CPU device.
//!
//! The kernels for Arm are tested wherever the work is done: cross-built, and run by qemu's user-mode
//! emulation. What that needs is installed if it is missing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::step::{CommandLine, on_path, set_up_target, step, step_command};

const ARM: &str = "aarch64-unknown-linux-gnu";
/// Where Debian puts the C library for Arm; the emulator looks there for the dynamic linker.
const ARM_SYSROOT: &str = "/usr/aarch64-linux-gnu";

const APT_UPDATE: &str = "apt-get update";
const APT_INSTALL: &str =
    "apt-get install -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user";

/// Runs all tests; the first step that fails ends the run.
pub(crate) fn run() -> Result<()> {
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
    set_up_target(ARM)?;
    if arm_packages_missing().is_empty() {
        return Ok(());
    }
    let sudo = if is_root() { "" } else { "sudo -n " };
    let install = CommandLine::new(&format!("{sudo}{APT_INSTALL}")).env("DEBIAN_FRONTEND", "noninteractive");
    let by_hand = format!("sudo sh -c '{APT_UPDATE} && {APT_INSTALL}'");
    step("install the tools for Arm", &by_hand, || {
        // Package lists that are absent or out of date are the usual reason for a first failure.
        if install.run().is_err() {
            CommandLine::new(&format!("{sudo}{APT_UPDATE}"))
                .run()
                .and_then(|()| install.run())
                .context("the Debian packages for Arm can be installed by root or by `sudo -n` only")?;
        }
        let missing = arm_packages_missing();
        if !missing.is_empty() {
            bail!("still missing after the installation: {}", missing.join(", "));
        }
        Ok(())
    })
}

/// What the packages bring and this machine has not.
fn arm_packages_missing() -> Vec<&'static str> {
    let mut missing = ["aarch64-linux-gnu-gcc", "qemu-aarch64"].to_vec();
    missing.retain(|program| !on_path(program));
    if !Path::new(ARM_SYSROOT).join("lib/libc.so.6").exists() {
        missing.push("the C library for Arm");
    }
    missing
}

fn is_root() -> bool {
    // The owner of a process's own entry is its effective user.
    Path::new("/proc/self").metadata().is_ok_and(|entry| entry.uid() == 0)
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

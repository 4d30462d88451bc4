//! `cargo xtask check`: everything that can be told without running a test of the product.

use anyhow::{Result, bail};

use crate::layering;
use crate::step::{CommandLine, set_up_target, step, step_command, workspace_root};

/// Pinned: a newer one may judge the same tree otherwise.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Where Metal is. Nothing is linked, so that its library need not be here.
const APPLE: &str = "aarch64-apple-darwin";

/// Runs all checks; the first that fails ends the run.
pub(crate) fn run() -> Result<()> {
    step_command("fmt", &CommandLine::new("cargo fmt --all --check"))?;
    step_command(
        "clippy",
        &CommandLine::new("cargo clippy --workspace --all-targets --locked -- -D warnings"),
    )?;
    set_up_target(APPLE)?;
    step_command("check for Apple", &apple_check())?;
    step_command(
        "doc",
        &CommandLine::new("cargo doc --workspace --no-deps --locked").env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    step("layering", &"cargo test --locked --package xtask layering", || {
        layering::check_workspace(&workspace_root()?)
    })?;
    deny()
}

/// The devices that reach Metal: that their Apple part compiles, and without a warning.
fn apple_check() -> CommandLine {
    CommandLine::new("cargo clippy --package dreamc-device-metal --package dreamc-device-wgpu --all-targets")
        .args("--locked --target")
        .arg(APPLE)
        .args("-- -D warnings")
}

/// Licences, bans and sources, from deny.toml.
///
/// Not `advisories`: its database comes from the network and changes from day to day, so that the same
/// commit would pass on one day and fail on the next, and never pass offline.
fn deny() -> Result<()> {
    let command =
        CommandLine::program(cargo_deny()?).args("--workspace --locked check licenses bans sources");
    step_command("deny", &command)
}

/// The program to call: one on the search path, else the one under `target/tools`, installed at need.
fn cargo_deny() -> Result<String> {
    if is_pinned_deny("cargo-deny") {
        return Ok("cargo-deny".to_owned());
    }
    let tools = layering::metadata(&workspace_root()?)?.target_directory.join("tools");
    let program = tools.join("bin").join("cargo-deny").into_string();
    if is_pinned_deny(&program) {
        return Ok(program);
    }
    // A debug build: the tool runs for a second and an optimised build takes minutes.
    let install = CommandLine::new("cargo install --locked --debug --no-default-features cargo-deny")
        .arg("--version")
        .arg(format!("={CARGO_DENY_VERSION}"))
        .arg("--root")
        .arg(tools.as_str());
    step("install cargo-deny", &install, || {
        install.run()?;
        if !is_pinned_deny(&program) {
            bail!("`{program}` is not cargo-deny {CARGO_DENY_VERSION}");
        }
        Ok(())
    })?;
    Ok(program)
}

fn is_pinned_deny(program: &str) -> bool {
    let version = CommandLine::program(program).args("--version").output();
    version.is_some_and(|version| version.trim() == format!("cargo-deny {CARGO_DENY_VERSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apple_command_can_be_pasted() {
        assert_eq!(
            apple_check().to_string(),
            "cargo clippy --package dreamc-device-metal --package dreamc-device-wgpu --all-targets --locked \
             --target aarch64-apple-darwin -- -D warnings",
        );
    }
}

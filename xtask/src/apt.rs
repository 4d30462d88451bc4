//! Debian packages, installed where something of them is missing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::step::{CommandLine, step};

const UPDATE: &str = "apt-get update";
const INSTALL: &str = "apt-get install -y --no-install-recommends";

/// Installs `packages`, words of one line, if `missing` lists anything. `what` says in a few words what they are.
pub(crate) fn apt_install(what: &str, packages: &str, missing: impl Fn() -> Vec<String>) -> Result<()> {
    if missing().is_empty() {
        return Ok(());
    }
    let sudo = if is_root() { "" } else { "sudo -n " };
    let install =
        CommandLine::new(&format!("{sudo}{INSTALL} {packages}")).env("DEBIAN_FRONTEND", "noninteractive");
    let by_hand = format!("sudo sh -c '{UPDATE} && {INSTALL} {packages}'");
    step(&format!("install {what}"), &by_hand, || {
        // Package lists that are absent or out of date are the usual reason for a first failure.
        if install.run().is_err() {
            CommandLine::new(&format!("{sudo}{UPDATE}"))
                .run()
                .and_then(|()| install.run())
                .context("Debian packages can be installed by root or by `sudo -n` only")?;
        }
        let missing = missing();
        if !missing.is_empty() {
            bail!("still missing after the installation: {}", missing.join(", "));
        }
        Ok(())
    })
}

fn is_root() -> bool {
    // The owner of a process's own entry is its effective user.
    Path::new("/proc/self").metadata().is_ok_and(|entry| entry.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_missing_installs_nothing() {
        apt_install("nothing", "no-such-package-xtask", Vec::new).unwrap();
    }
}

//! `dreamc toolchain`: the compilers for GPUs, none of which needs a GPU, and how to get them.

use super::error::Failure;
use super::output::{note, print};
use clap::{Subcommand, ValueEnum};
use dreamc_backend::toolchain::{Search, Status, user_toolchain};
use dreamc_backend_cuda::Nvrtc;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// NVRTC's wheels, as pip reads them: versions and hashes.
const WHEELS: &str = include_str!("../nvrtc.txt");
/// Where they go in a toolchain folder.
const PACKAGES: &str = "packages";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install a compiler into the user's data folder; nothing else is touched
    Install {
        /// Whose: cuda installs NVRTC's wheels through pip
        #[arg(value_enum)]
        which: Which,
        /// Python whose pip downloads them
        #[arg(long, value_name = "PROGRAM", default_value = "python3")]
        python: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Cuda,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        None => list(),
        Some(Task::Install { which: Which::Cuda, python }) => install(python),
    }
}

fn list() -> Result<(), Failure> {
    let compilers = [
        ("cuda", dreamc_backend_cuda::status()),
        ("rocm", dreamc_backend_rocm::status()),
        ("wgpu", dreamc_backend_wgpu::status()),
    ];
    let line = |(name, status): (&str, Status)| match (status.found, status.missing) {
        (Some(found), _) => format!("{name:<7}{found}\n"),
        (None, Some(command)) => format!("{name:<7}missing: `{command}` installs it\n"),
        (None, None) => format!("{name:<7}missing\n"),
    };
    let search = Search::new();
    let looked =
        search.folders().iter().chain(search.packages()).map(|place| format!("       {}\n", place.display()));
    let places: String = looked.collect();
    print(&format!(
        "{}looked for in\n{places}       and where the system has them\n",
        compilers.map(line).concat()
    ))
}

/// Has pip put the wheels into a folder of their own, and moves it in one go.
fn install(python: &str) -> Result<(), Failure> {
    let folder = user_toolchain().ok_or_else(|| {
        Failure::failed(
            "there is no home folder to install to",
            "set XDG_DATA_HOME to a folder that can be written",
        )
    })?;
    fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
    check_pip(python, &folder)?;
    let new = tempfile::tempdir_in(&folder).map_err(|error| Failure::io("write to", &folder, &error))?;
    let list = new.path().join("nvrtc.txt");
    fs::write(&list, WHEELS).map_err(|error| Failure::io("write", &list, &error))?;
    let packages = new.path().join(PACKAGES);
    note(&format!("installing NVRTC's wheels into {}", folder.join(PACKAGES).display()));
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--require-hashes"]);
    pip.args(["--disable-pip-version-check", "--no-warn-script-location", "--requirement"]).arg(&list);
    // Results alone go to stdout.
    pip.arg("--target").arg(&packages).stdin(Stdio::null()).stdout(io::stderr());
    let ended = pip.status().map_err(|error| Failure::io("start", Path::new(python), &error))?;
    if !ended.success() {
        return Err(Failure::failed(format!("pip ended with {ended}"), by_hand(&folder)));
    }
    let to = folder.join(PACKAGES);
    // What was there goes with the temporary folder.
    match fs::rename(&to, new.path().join("before")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Failure::io("replace", &to, &error)),
        Ok(()) | Err(_) => {}
    }
    fs::rename(&packages, &to).map_err(|error| Failure::io("move the packages to", &to, &error))?;
    let found = Nvrtc::find(&Search::nowhere().and(&folder)).map_err(|error| Failure::of(&error))?;
    print(&format!("installed: {}\n", found.description()))
}

fn check_pip(python: &str, folder: &Path) -> Result<(), Failure> {
    let asked = Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    match asked {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            // What Python says of it.
            let _ = io::stderr().write_all(&output.stderr);
            Err(Failure::failed(format!("`{python}` has no pip"), by_hand(folder)))
        }
        Err(error) => Err(Failure::failed(format!("cannot start `{python}`: {error}"), by_hand(folder))),
    }
}

/// What to do without pip.
fn by_hand(folder: &Path) -> String {
    let wheels = WHEELS.lines().filter_map(|line| line.split_once(" \\")).map(|(wheel, _)| wheel.trim());
    let wheels: Vec<&str> = wheels.filter(|wheel| wheel.contains("==")).collect();
    format!(
        "install pip (`apt install python3-pip`) or name another Python (--python); or unpack the wheels {} into {}; \
         or set DREAM_TOOLCHAIN to a folder with a CUDA 12 toolkit as `cuda`",
        wheels.join(", "),
        folder.join(PACKAGES).display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_named_for_those_without_pip() {
        let text = by_hand(Path::new("/data"));
        for part in ["nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia-cuda-cccl-cu12==12.9.27", "/data/packages"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

//! `cargo xtask gpu-check`: a folder that checks and times a GPU on a machine with no Rust, no compiler and no network.
//!
//! The program goes there with the small checkpoints and the binaries of all kernels that their builds need, in one
//! archive; what is left out is what no check there reads.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::layering;
use crate::step::{CommandLine, step, step_command, workspace_root};
use crate::toolchain;

/// Most that the folder may weigh, in bytes.
const FOLDER_BYTES_MAX: u64 = 40_000_000;

/// Of `golden/fixtures`: what the checks open. `tabletop-vla-l1` and `sudoku-text` are judged on the CPU alone.
const FIXTURES: [&str; 6] =
    ["tiny-text", "tiny-vl", "tiny-vla", "tabletop-vla", "tabletop-vla-flow", "tokenizer"];

/// Files of them that nobody reads there: forms of the tokenizer that are not built from, and what it is judged by.
const LEFT_OUT: [&str; 3] = ["tokenizer/tokenizer.json", "tokenizer/golden.json", "schedule.json"];

/// Names the fixtures in place of the repository's.
const FIXTURES_VARIABLE: &str = "DREAM_FIXTURES";

/// What is packed, and the archive.
const CONTENTS: &str = "contents";
const ARCHIVE: &str = "contents.tar.gz";

/// Unpacks and starts.
const SCRIPT: &str = "run.sh";

/// Makes the folder.
pub(crate) fn run(out: Option<PathBuf>, arch: &str) -> Result<()> {
    let root = workspace_root()?;
    let target = layering::metadata(&root)?.target_directory.into_std_path_buf();
    let out = std::path::absolute(out.unwrap_or_else(|| target.join("gpu-check")))?;
    toolchain::run()?;
    step_command("build", &build())?;
    if out.exists() {
        // Only what a former run made is removed.
        if !out.join(SCRIPT).is_file() {
            bail!("`{}` is no folder of this command; remove it, or name another with --out", out.display());
        }
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove `{}`", out.display()))?;
    }
    let contents = out.join(CONTENTS);
    let copying = CommandLine::new("cp -r golden/fixtures").arg(contents.to_string_lossy());
    step("copy", &copying, || copy(&root, &target, &out))?;
    step_command("prepare", &prepare(&contents, arch))?;
    step_command("pack", &pack(&out))?;
    fs::remove_dir_all(&contents).with_context(|| format!("cannot remove `{}`", contents.display()))?;

    let total = bytes(&out)?;
    if total > FOLDER_BYTES_MAX {
        bail!(
            "the folder has {total} bytes, more than {FOLDER_BYTES_MAX}: leave out more in xtask/src/gpu_check.rs"
        );
    }
    eprintln!(
        "xtask: {} ({:.1} MB) is complete. Copy it to the machine with the GPU, and there:\n\n\
         cd gpu-check && ./run.sh\n\n\
         What it finds is in golden/gpu/DEVICE-COMMIT/, or in the folder of --out, and belongs into golden/gpu/ of the repository.",
        out.display(),
        total as f64 / 1e6
    );
    Ok(())
}

/// Names the commit that the contents were made from.
const COMMIT: &str = "COMMIT";

fn build() -> CommandLine {
    CommandLine::new(
        "cargo rustc --release --locked --package dreamc-gpu-check --bin gpu-check -- -C strip=symbols",
    )
}

fn prepare(contents: &Path, arch: &str) -> CommandLine {
    let toolchain = contents.join("toolchain").to_string_lossy().into_owned();
    let fixtures = contents.join("fixtures").to_string_lossy().into_owned();
    // The program beside the installed compilers, not its copy: it finds them by its own place.
    CommandLine::new("cargo run --quiet --release --locked --package dreamc-gpu-check --bin gpu-check --")
        .args("prepare --toolchain")
        .arg(toolchain.clone())
        .args("--shrink")
        .arg(fixtures.clone())
        .args(&format!("--arch {arch}"))
        .env("DREAM_TOOLCHAIN", toolchain)
        // What is missing among the copies is missed now.
        .env(FIXTURES_VARIABLE, fixtures)
}

fn pack(out: &Path) -> CommandLine {
    CommandLine::new("tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --create --gzip --file")
        .arg(out.join(ARCHIVE).to_string_lossy())
        .arg("--directory")
        .arg(out.to_string_lossy())
        .arg(CONTENTS)
}

/// Everything but the kernels.
fn copy(root: &Path, target: &Path, out: &Path) -> Result<()> {
    let here = root.join("golden");
    let contents = out.join(CONTENTS);
    for name in FIXTURES {
        copy_folder(&here.join("fixtures").join(name), &contents.join("fixtures").join(name))?;
    }
    copy_file(&here.join("gpu-check").join(SCRIPT), &out.join(SCRIPT))?;
    copy_file(&here.join("gpu-check/torch_peer.py"), &contents.join("torch_peer.py"))?;
    copy_file(&target.join("release/gpu-check"), &contents.join("gpu-check"))?;
    let commit = CommandLine::new("git rev-parse HEAD").capture()?;
    let changed = !CommandLine::new("git status --porcelain").capture()?.trim().is_empty();
    let commit = format!("{}{}\n", commit.trim(), if changed { " with changes" } else { "" });
    fs::write(contents.join(COMMIT), commit).context("cannot write the commit")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create `{}`", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))? {
        let from = entry?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else if !LEFT_OUT.iter().any(|end| from.to_string_lossy().ends_with(end)) {
            copy_file(&from, &to)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))?;
    Ok(())
}

/// Bytes of a file, or of all files of a folder.
fn bytes(path: &Path) -> Result<u64> {
    let read = || format!("cannot read `{}`", path.display());
    if path.is_file() {
        return Ok(fs::metadata(path).with_context(read)?.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path).with_context(read)? {
        sum += bytes(&entry?.path())?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepare_command_can_be_pasted() {
        assert_eq!(
            prepare(Path::new("/out"), "sm_90a").to_string(),
            "DREAM_TOOLCHAIN=/out/toolchain DREAM_FIXTURES=/out/fixtures cargo run --quiet --release --locked \
             --package dreamc-gpu-check --bin gpu-check -- prepare --toolchain /out/toolchain --shrink /out/fixtures --arch sm_90a"
        );
    }

    #[test]
    fn fixtures_are_there() {
        let fixtures = workspace_root().unwrap().join("golden/fixtures");
        for name in FIXTURES {
            assert!(fixtures.join(name).is_dir(), "{name}");
        }
    }
}

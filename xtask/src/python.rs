//! The wheel `dream-runtime`: built, installed into an environment of its own, and tested there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::apt_install;
use crate::layering;
use crate::step::{CommandLine, step_command, workspace_root};

const CRATE: &str = "runtime/python/Cargo.toml";
const TESTS: &str = "runtime/python/tests";
/// The simulated robot that they drive.
const TABLETOP: &str = "examples/tabletop/python/src";

/// Artifacts that the tests open: a name, a checkpoint and the options.
const ARTIFACTS: [(&str, &str, &str); 5] = [
    (
        "policy.dream",
        "golden/fixtures/tabletop-vla-flow/checkpoint",
        "--steps 4 --views 1 --chunk 5 --image 112x112",
    ),
    (
        "text.dream",
        "golden/fixtures/sudoku-text/checkpoint",
        "--alg entropy --steps 16 --new-tokens 16 --max-prompt 32",
    ),
    ("forward.dream", "golden/fixtures/sudoku-text/checkpoint", "--entries forward --max-prompt 32"),
    // Some seconds, step by step.
    ("slow.dream", SEEING, "--steps 512 --new-tokens 512 --max-prompt 32 --dtype f32"),
    ("vl.dream", SEEING, "--steps 4 --new-tokens 24 --max-prompt 256"),
];
/// A made-up checkpoint that sees and has a tokenizer; no fixture has both.
const SEEING: &str = "seeing";

/// Folders of the tests, below Cargo's target folder.
pub(crate) struct Folders {
    environment: PathBuf,
    wheels: PathBuf,
    pub(crate) artifacts: PathBuf,
    pub(crate) dreamc: PathBuf,
}

impl Folders {
    pub(crate) fn new() -> Result<Folders> {
        let target = layering::metadata(&workspace_root()?)?.target_directory.into_std_path_buf();
        let python = target.join("python");
        Ok(Folders {
            environment: python.join("env"),
            wheels: python.join("wheels"),
            artifacts: python.join("artifacts"),
            dreamc: target.join("debug/dreamc"),
        })
    }
}

/// Builds the command and the wheel, and runs the wheel's tests.
pub(crate) fn run() -> Result<()> {
    step_command("build the command", &CommandLine::new("cargo build --locked --package dreamc"))?;
    test()
}

/// Builds the wheel and runs its tests. The command was built before.
pub(crate) fn test() -> Result<()> {
    let folders = Folders::new()?;
    let interpreter = environment(&folders.environment)?;
    step_command("install what tests of Python need", &install(&interpreter))?;
    if folders.wheels.exists() {
        // Of other versions, too.
        std::fs::remove_dir_all(&folders.wheels)?;
    }
    step_command("build the wheel", &build(&folders))?;
    step_command("install the wheel", &install_wheel(&interpreter, &folders.wheels))?;
    build_artifacts(&folders)?;
    step_command("test of Python", &unittest(&interpreter, &folders))?;
    step_command("test of the simulated robot", &scene(&interpreter))?;
    step_command("types of Python", &mypy(&interpreter))
}

/// Builds what the tests open. The command was built before.
pub(crate) fn build_artifacts(folders: &Folders) -> Result<()> {
    std::fs::create_dir_all(&folders.artifacts)
        .with_context(|| format!("cannot create `{}`", folders.artifacts.display()))?;
    let dreamc = || CommandLine::program(folders.dreamc.display().to_string());
    let seeing = folders.artifacts.join(SEEING).display().to_string();
    if !Path::new(&seeing).exists() {
        step_command("make a checkpoint", &dreamc().args("synth --variant vl --size tiny -o").arg(&seeing))?;
    }
    for (name, checkpoint, options) in ARTIFACTS {
        let to = folders.artifacts.join(name);
        let checkpoint = if checkpoint == SEEING { seeing.as_str() } else { checkpoint };
        let command = dreamc().args("build").arg(checkpoint);
        step_command(
            &format!("build {name}"),
            &command.arg("-o").arg(to.display().to_string()).args(options),
        )?;
    }
    Ok(())
}

/// A program of an environment.
pub(crate) fn program(environment: &Path, name: &str) -> String {
    environment.join("bin").join(name).display().to_string()
}

fn venv_is_there() -> bool {
    CommandLine::new("python3 -c").arg("import ensurepip, venv").output().is_some()
}

/// Makes an environment of Python in a folder if there is none; its interpreter.
pub(crate) fn environment(folder: &Path) -> Result<String> {
    let interpreter = program(folder, "python");
    let venv_missing = || if venv_is_there() { Vec::new() } else { vec!["venv for python3".to_owned()] };
    apt_install("environments of Python", "python3-venv", venv_missing)?;
    if !Path::new(&interpreter).exists() {
        let make = CommandLine::new("python3 -m venv").arg(folder.display().to_string());
        step_command("make an environment of Python", &make)?;
    }
    Ok(interpreter)
}

fn install(interpreter: &str) -> CommandLine {
    CommandLine::program(interpreter)
        .args("-m pip install --quiet --disable-pip-version-check --only-binary=:all: --requirement")
        .arg(format!("{TESTS}/requirements.txt"))
}

/// Unoptimised as the other tests are: most crates are there already.
fn build(folders: &Folders) -> CommandLine {
    CommandLine::program(program(&folders.environment, "maturin"))
        .args("build --quiet --locked --profile dev --interpreter python3 --manifest-path")
        .arg(CRATE)
        .arg("--out")
        .arg(folders.wheels.display().to_string())
}

fn install_wheel(interpreter: &str, wheels: &Path) -> CommandLine {
    CommandLine::program(interpreter)
        .args("-m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps --no-index")
        .arg("--find-links")
        .arg(wheels.display().to_string())
        .arg("dream-runtime")
}

fn unittest(interpreter: &str, folders: &Folders) -> CommandLine {
    CommandLine::program(interpreter)
        .args("-m unittest discover --start-directory")
        .arg(TESTS)
        .env("PYTHONPATH", TABLETOP)
        .env("DREAM_ARTIFACTS", folders.artifacts.display().to_string())
        .env("DREAMC", folders.dreamc.display().to_string())
}

/// What of it needs numpy alone.
fn scene(interpreter: &str) -> CommandLine {
    CommandLine::program(interpreter)
        .args("-m unittest discover --start-directory examples/tabletop/python/tests --pattern test_scene.py")
        .env("PYTHONPATH", TABLETOP)
}

fn mypy(interpreter: &str) -> CommandLine {
    CommandLine::program(interpreter).args("-m mypy --strict --cache-dir /dev/null --package dream")
}

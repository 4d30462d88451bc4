//! `cargo xtask field`: checks in the field's own frameworks, which are too large for CI. Each installs into `target/field`, runs, and
//! writes what came of it as data under `golden/field`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::layering;
use crate::python::{environment, program};
use crate::step::{CommandLine, step, step_command, workspace_root};

/// Which framework.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Field {
    /// LeRobot: `lerobot-eval` as it is, on the plugin and on a server
    Lerobot,
    /// Ray Serve: the fleet of examples/fleet
    Ray,
}

/// Where a check's files are.
struct Place {
    folder: PathBuf,
    wheels: PathBuf,
    dreamc: PathBuf,
}

/// Installs a framework, runs its check and keeps the result.
pub(crate) fn run(field: Field) -> Result<()> {
    let root = workspace_root()?;
    let target = layering::metadata(&root)?.target_directory.into_std_path_buf();
    let name = match field {
        Field::Lerobot => "lerobot",
        Field::Ray => "ray",
    };
    let place = Place {
        folder: target.join("field").join(name),
        wheels: target.join("field/wheels"),
        dreamc: target.join("release/dreamc"),
    };
    fs::create_dir_all(&place.folder)
        .with_context(|| format!("cannot create `{}`", place.folder.display()))?;
    place.build()?;
    let check = match field {
        Field::Lerobot => place.lerobot()?,
        Field::Ray => place.ray()?,
    };
    let file = root.join("golden/field").join(format!("{name}.json"));
    step(&format!("check {name}"), &check, || {
        let result = check.capture()?;
        fs::create_dir_all(file.parent().context("it has a folder")?)?;
        fs::write(&file, result).with_context(|| format!("cannot write {}", file.display()))
    })?;
    eprintln!("xtask: field: recorded in {}", file.display());
    Ok(())
}

impl Place {
    /// The command and the wheel, as users have them.
    fn build(&self) -> Result<()> {
        step_command(
            "build the command",
            &CommandLine::new("cargo build --release --locked --package dreamc"),
        )?;
        environment(&self.folder.join("env"))?;
        self.pip("install maturin", &["maturin==1.16.0"])?;
        if self.wheels.exists() {
            fs::remove_dir_all(&self.wheels)?;
        }
        let build = CommandLine::program(self.program("maturin"))
            .args("build --quiet --release --locked --interpreter python3 --manifest-path runtime/python/Cargo.toml --out");
        step_command("build the wheel", &build.arg(self.wheels.display().to_string()))
    }

    fn program(&self, name: &str) -> String {
        program(&self.folder.join("env"), name)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn pip(&self, step: &str, words: &[&str]) -> Result<()> {
        let mut install = CommandLine::program(self.program("python"))
            .args("-m pip install --quiet --no-input --disable-pip-version-check");
        for word in words {
            install = install.arg(*word);
        }
        step_command(step, &install)
    }

    /// The wheel of the runtime, whatever other of its version is there.
    fn install_wheel(&self) -> Result<()> {
        let wheels = self.wheels.display().to_string();
        self.pip(
            "install the wheel",
            &["--no-deps", "--force-reinstall", "--no-index", "--find-links", &wheels, "dream-runtime"],
        )
    }

    fn dreamc(&self, step: &str, line: &str) -> Result<()> {
        step_command(step, &CommandLine::program(self.dreamc.display().to_string()).args(line))
    }

    fn lerobot(&self) -> Result<CommandLine> {
        const TESTS: &str = "runtime/lerobot/tests";
        // The list is whole but for CUDA's libraries, which a machine without a GPU has no use for.
        let whole = format!("{TESTS}/requirements.txt");
        self.pip("install LeRobot", &["--no-deps", "--only-binary=:all:", "--requirement", &whole])?;
        let python = || CommandLine::program(self.program("python"));
        step_command("stand-ins for CUDA's libraries", &python().arg(format!("{TESTS}/stand_ins.py")))?;
        self.install_wheel()?;
        let own = ["--no-deps", "--force-reinstall", "--no-index", "--no-build-isolation"];
        self.pip(
            "install the plugins",
            &[&own[..], &["./runtime/lerobot", "./examples/tabletop/python"]].concat(),
        )?;
        let mut check = python().arg(format!("{TESTS}/field.py"));
        for (name, fixture, options) in [
            ("flow", "tabletop-vla-flow", "--steps 4"),
            ("l1", "tabletop-vla-l1", ""),
            ("discrete", "tabletop-vla", "--mode discrete --steps 1"),
        ] {
            let (file, folder) = (self.file(&format!("{name}.dream")), self.file(name));
            let build = format!("build golden/fixtures/{fixture}/checkpoint -o {file} {options}");
            self.dreamc(&format!("build {name}"), &format!("{build} --views 1 --chunk 5 --image 112x112"))?;
            if Path::new(&folder).exists() {
                fs::remove_dir_all(&folder)?;
            }
            self.dreamc(&format!("export {name}"), &format!("export lerobot {file} {folder}"))?;
            check = check.arg("--policy").arg(file).arg(folder);
        }
        let tests = |folder: &str| {
            python().args("-m unittest discover --start-directory").arg(folder).env("OMP_NUM_THREADS", "1")
        };
        let of_plugin = tests(TESTS).env("DREAM_POLICY", self.file("flow")).env("HF_HUB_OFFLINE", "1");
        step_command("test of the plugin", &of_plugin)?;
        step_command("test of the environment", &tests("examples/tabletop/python/tests"))?;
        Ok(check.args("--episodes 100"))
    }

    fn ray(&self) -> Result<CommandLine> {
        self.pip("install Ray", &["--requirement", "examples/fleet/requirements.txt"])?;
        self.install_wheel()?;
        let [old, new, small, large] =
            ["old.dream", "new.dream", "small", "large.dream"].map(|name| self.file(name));
        let flow = "build golden/fixtures/tabletop-vla-flow/checkpoint --views 1 --chunk 5 --image 112x112";
        self.dreamc("build a policy", &format!("{flow} --steps 4 -o {old}"))?;
        self.dreamc("build the one that replaces it", &format!("{flow} --steps 2 -o {new}"))?;
        if !Path::new(&large).exists() {
            if !Path::new(&small).exists() {
                self.dreamc(
                    "make a checkpoint of 662 MB",
                    &format!("synth --variant vla --size small -o {small}"),
                )?;
            }
            self.dreamc(
                "build a large policy",
                &format!("build {small} --steps 1 --views 1 --image 112x112 -o {large}"),
            )?;
        }
        let check = CommandLine::program(self.program("python")).arg("examples/fleet/check.py");
        Ok(check.arg(old).arg(new).arg(large).env("PYTHONDONTWRITEBYTECODE", "1"))
    }
}

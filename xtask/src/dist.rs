//! `cargo xtask dist`: what is given to users, for x86-64 and for Arm: both wheels, the library for C, the command, checksums and
//! lists of what is inside.
//!
//! All of it is built of what is committed, by zig's linker against the C library of manylinux_2_28, from a tree at one place, so that
//! a commit gives the same bytes on every machine. `--again` builds it a second time from nothing and compares.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::layering;
use crate::step::{CommandLine, set_up_target, step, step_command, workspace_root};
use crate::{apt::apt_install, arm, python};

/// Project of the command's wheel.
const COMMAND: &str = "src/wheel";
/// Tools, pinned.
const TOOLS: &str = "xtask/dist.txt";
/// glibc 2.28: Debian 10, Ubuntu 20.04, RHEL 8.
const POLICY: &str = "manylinux_2_28";
const GLIBC: &str = "2.28";
/// Where the list of files, sizes and checks is kept.
const RECORD: &str = "golden/field/dist.json";
/// In the folder of a build: the commit that it is of.
const COMMIT: &str = "commit";
const CHECKSUMS: &str = "SHA256SUMS";

/// Where the sources are built from, on every machine the same: the lists of what is inside name it.
const TREE: &str = "/tmp/dreamc-dist";

/// Architectures: as Rust names them, and as wheels and archives do.
const ARCHS: [(&str, &str); 2] =
    [("x86_64-unknown-linux-gnu", "x86_64"), ("aarch64-unknown-linux-gnu", "aarch64")];

/// A build: of the sources in `tree`, with Cargo's files in `build`, into `out`.
struct Build<'a> {
    tree: PathBuf,
    archs: &'a [(&'static str, &'static str)],
    build: PathBuf,
    out: PathBuf,
    /// Folder of the tools' programs.
    tools: &'a Path,
    version: &'a str,
    /// When the commit was made, in seconds since 1970: the time of every file in an archive.
    time: &'a str,
}

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder; by default target/dist/out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// For one architecture only: x86_64 or aarch64
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Check what was built before, and build nothing
    #[arg(long)]
    built: bool,
    /// Build it again from nothing, and compare the bytes
    #[arg(long)]
    again: bool,
    /// Keep the list of files, sizes and checks in golden/field/dist.json
    #[arg(long)]
    record: bool,
}

/// Builds and checks all of it.
pub(crate) fn run(args: Args) -> Result<()> {
    let Args { out, arch, built, again, record } = args;
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        bail!("`cargo xtask dist` builds on x86-64 Linux, for it and for Arm");
    }
    let root = workspace_root()?;
    let is_asked = |name: &str| arch.as_ref().is_none_or(|arch| arch == name);
    let archs: Vec<_> = ARCHS.into_iter().filter(|(_, name)| is_asked(name)).collect();
    if archs.is_empty() {
        bail!("`--arch` is one of x86_64 and aarch64");
    }
    if !built && !git("status --porcelain --untracked-files=no")?.is_empty() {
        bail!("there are changes that are not committed; what is given to users is a commit's");
    }
    let metadata = layering::metadata(&root)?;
    let folder = metadata.target_directory.clone().into_std_path_buf().join("dist");
    let package = metadata.packages.iter().find(|package| package.name == "dreamc");
    let version = package.context("the workspace has no package `dreamc`")?.version.to_string();
    let (tools, time) = (folder.join("tools/bin"), git("log -1 --format=%ct")?);
    set_up(&folder.join("tools"))?;
    let build = |part: &str| Build {
        tree: TREE.into(),
        archs: &archs,
        build: folder.join(format!("build{part}")),
        out: folder.join(format!("out{part}")),
        tools: &tools,
        version: &version,
        time: &time,
    };
    let first = Build { out: out.unwrap_or_else(|| folder.join("out")), ..build("") };
    if !built {
        first.make()?;
    }
    let mut checks = first.check(&folder)?;
    if again {
        let second = build("-again");
        if second.build.exists() {
            fs::remove_dir_all(&second.build)?;
        }
        second.make()?;
        step("compare", &"cargo xtask dist --again", || same(&first.out, &second.out))?;
        checks.push(("built again from nothing".to_owned(), "the same bytes".to_owned()));
    }
    if record {
        let file = root.join(RECORD);
        fs::create_dir_all(file.parent().context("it has a folder")?)?;
        fs::write(&file, first.record(&checks)?).with_context(|| format!("cannot write {RECORD}"))?;
        eprintln!("xtask: dist: recorded in {RECORD}");
    }
    eprintln!("xtask: dist: in {}", first.out.display());
    Ok(())
}

fn git(line: &str) -> Result<String> {
    Ok(CommandLine::new("git").args(line).capture()?.trim().to_owned())
}

/// Removes a worktree, if there is one.
fn forget() -> Result<()> {
    if Path::new(TREE).exists() {
        CommandLine::new("git worktree remove --force").arg(TREE).run()?;
    }
    // One whose folder is gone is still known.
    CommandLine::new("git worktree prune").run()
}

fn set_up(environment: &Path) -> Result<()> {
    for (target, _) in ARCHS {
        set_up_target(target)?;
    }
    let pkg_config = || {
        let mut missing = vec!["pkg-config".to_owned()];
        missing.retain(|program| !crate::step::on_path(program));
        missing
    };
    apt_install("what C's users ask for flags", "pkg-config", pkg_config)?;
    arm::set_up()?;
    let install = CommandLine::program(python::environment(environment)?)
        .args("-m pip install --quiet --disable-pip-version-check --only-binary=:all: --requirement")
        .arg(TOOLS);
    step_command("install the tools", &install)
}

impl Build<'_> {
    fn make(&self) -> Result<()> {
        for folder in [&self.out, &self.build.join("staged")] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(self.build.join(COMMIT), git("rev-parse HEAD")?)?;
        forget()?;
        step_command("the sources", &CommandLine::new("git worktree add --quiet --detach").arg(TREE))?;
        for &(target, arch) in self.archs {
            step_command(&format!("wheel dream-runtime, {arch}"), &self.wheel("runtime/python", target))?;
            step_command(&format!("wheel dreamc, {arch}"), &self.wheel(COMMAND, target))?;
            step_command(&format!("library for C, {arch}"), &self.library(target))?;
            step(&format!("archives, {arch}"), &"cargo xtask dist", || self.archives(target, arch))?;
        }
        forget()?;
        step("checksums", &"cargo xtask dist", || {
            fs::write(self.out.join(CHECKSUMS), self.checksums()?).map_err(Into::into)
        })
    }

    /// The environment of a build: nothing of this machine's paths or of the time gets into a file.
    fn environment(&self, command: CommandLine) -> CommandLine {
        let home = std::env::var("HOME").unwrap_or_default();
        let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
        let rustup = std::env::var("RUSTUP_HOME").unwrap_or_else(|_| format!("{home}/.rustup"));
        // Of prefixes that fit the last counts: the build folder may lie in the tree.
        let [tree, build] = [&self.tree, &self.build].map(|folder| folder.display().to_string());
        let remap = [(tree, "/dreamc"), (build, "/build"), (cargo, "/cargo"), (rustup, "/rustup")];
        let flags = remap.map(|(from, to)| format!("--remap-path-prefix={from}={to}")).join(" ");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("RUSTFLAGS", flags)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
            .env("CARGO_TARGET_DIR", self.build.display().to_string())
            .env("SOURCE_DATE_EPOCH", self.time)
            .env("PATH", format!("{}:{path}", self.tools.display()))
    }

    fn wheel(&self, project: &str, target: &str) -> CommandLine {
        let maturin = self.tools.join("maturin").display().to_string();
        let command = CommandLine::program("env")
            .arg("--chdir")
            .arg(self.tree.join(project).display().to_string())
            .arg(maturin)
            .args("build --quiet --release --locked --zig --compatibility")
            .arg(POLICY)
            .arg("--target")
            .arg(target)
            .arg("--out")
            .arg(self.out.display().to_string());
        // A module names the Python that it is for; the oldest of the limited API need not be here.
        let is_module = project != COMMAND;
        self.environment(if is_module { command.args("--interpreter python3.10") } else { command })
    }

    fn library(&self, target: &str) -> CommandLine {
        let command = CommandLine::new("env --chdir")
            .arg(self.tree.display().to_string())
            .args("cargo zigbuild --quiet --release --locked --package dream-capi --target")
            .arg(format!("{target}.{GLIBC}"));
        self.environment(command)
    }

    /// The library for C with its header, and the command of the wheel, as archives; the lists of what is inside beside them.
    fn archives(&self, target: &str, arch: &str) -> Result<()> {
        let staged = self.build.join("staged").join(arch);
        let c = format!("dream-c-{}-linux-{arch}", self.version);
        let made = self.build.join(target).join("release");
        let template = fs::read_to_string(self.tree.join("runtime/capi/dream.pc.in"))?;
        for (from, to) in [
            (made.join("libdream.so"), "lib/libdream.so"),
            (made.join("libdream.a"), "lib/libdream.a"),
            (self.tree.join("runtime/capi/dream.h"), "include/dream.h"),
            (self.tree.join("examples/c/tabletop.c"), "share/dream/tabletop.c"),
            (self.tree.join("LICENSE"), "LICENSE"),
        ] {
            copy(&from, &staged.join(&c).join(to))?;
        }
        let pc = staged.join(&c).join("lib/pkgconfig/dream.pc");
        fs::create_dir_all(pc.parent().context("it has a folder")?)?;
        fs::write(&pc, template.replace("@VERSION@", self.version))?;
        self.archive(&staged, &c)?;

        let command = format!("dreamc-{}-linux-{arch}", self.version);
        let wheel = self.unpacked("dreamc", arch)?;
        copy(
            &wheel.join(format!("dreamc-{}.data/scripts/dreamc", self.version)),
            &staged.join(&command).join("bin/dreamc"),
        )?;
        for file in ["LICENSE", "README.md"] {
            copy(&self.tree.join(file), &staged.join(&command).join(file))?;
        }
        CommandLine::new("chmod 755")
            .arg(staged.join(&command).join("bin/dreamc").display().to_string())
            .run()?;
        self.archive(&staged, &command)?;
        for (package, crate_name) in [("dreamc", "dreamc"), ("dream_runtime", "dream-python")] {
            let info =
                self.unpacked(package, arch)?.join(format!("{package}-{}.dist-info/sboms", self.version));
            let from = info.join(format!("{crate_name}.cyclonedx.json"));
            copy(&from, &self.out.join(format!("{package}-{}-linux-{arch}.cdx.json", self.version)))?;
        }
        Ok(())
    }

    /// Packs `staged/name`, with one owner, order and time.
    fn archive(&self, staged: &Path, name: &str) -> Result<()> {
        let tar =
            CommandLine::new("tar --sort=name --owner=0 --group=0 --numeric-owner --mode=go+rX,u+rw,go-w")
                .arg(format!("--mtime=@{}", self.time))
                .args("--use-compress-program")
                .arg("gzip -9n")
                .arg("--directory")
                .arg(staged.display().to_string())
                .arg("--create")
                .arg(format!("--file={}", self.out.join(format!("{name}.tar.gz")).display()));
        tar.arg(name).run()
    }

    fn wheel_file(&self, package: &str, arch: &str) -> Result<PathBuf> {
        let start = format!("{package}-{}-", self.version);
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&start) && name.ends_with(&format!("{arch}.whl"))
        };
        files(&self.out)?
            .into_iter()
            .find(is_it)
            .with_context(|| format!("there is no wheel of {package} for {arch}"))
    }

    /// The folder of a wheel's files.
    fn unpacked(&self, package: &str, arch: &str) -> Result<PathBuf> {
        let to = self.build.join("staged").join(format!("{package}-{arch}"));
        if !to.exists() {
            CommandLine::new("python3 -m zipfile -e")
                .arg(self.wheel_file(package, arch)?.display().to_string())
                .arg(to.display().to_string())
                .run()?;
        }
        Ok(to)
    }

    fn checksums(&self) -> Result<String> {
        let mut text = String::new();
        for path in files(&self.out)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            text.push_str(&format!("{}  {name}\n", hash(&path)?));
        }
        Ok(text)
    }

    /// What was checked, and what came of it.
    fn check(&self, folder: &Path) -> Result<Vec<(String, String)>> {
        let mut checks = Vec::new();
        let tool = |name: &str| CommandLine::program(self.tools.join(name).display().to_string());
        for &(_, arch) in self.archs {
            for package in ["dream_runtime", "dreamc"] {
                let wheel = self.wheel_file(package, arch)?;
                let shown = tool("auditwheel").arg("show").arg(wheel.display().to_string()).capture()?;
                let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
                let tag = format!("{POLICY}_{arch}");
                if !shown.contains(&format!("\"{tag}\"")) {
                    bail!("auditwheel show {package} for {arch}: {shown}");
                }
                checks.push((format!("auditwheel show, {package}, {arch}"), tag));
            }
            let wheel = self.wheel_file("dream_runtime", arch)?;
            step_command(
                &format!("abi3audit, {arch}"),
                &tool("abi3audit").args("--strict --verbose").arg(wheel.display().to_string()),
            )?;
            checks.push((format!("abi3audit --strict, dream_runtime, {arch}"), "no violation".to_owned()));
            let scripts =
                self.unpacked("dreamc", arch)?.join(format!("dreamc-{}.data/scripts/dreamc", self.version));
            let library = self.unpacked("dream_runtime", arch)?.join("dream/_dream.abi3.so");
            for file in [&scripts, &library] {
                let kind = CommandLine::new("file --brief").arg(file.display().to_string()).capture()?;
                if !kind.contains(", stripped") {
                    bail!("{} is not stripped: {kind}", file.display());
                }
            }
            checks.push((format!("stripped, {arch}"), "both".to_owned()));
        }
        if self.archs.iter().any(|(_, arch)| *arch == "x86_64") {
            self.check_here(folder)?;
            let what =
                "installed with pip and imported, the command run, C's example through pkg-config, x86_64";
            checks.push((what.to_owned(), "run".to_owned()));
        }
        if self.archs.iter().any(|(_, arch)| *arch == "aarch64") {
            // Of the archive: what unpacks a wheel here forgets that it may be run.
            let script = format!("staged/aarch64/dreamc-{}-linux-aarch64/bin/dreamc", self.version);
            let script = self.build.join(script);
            let version = arm::check(folder, &self.unpacked("dream_runtime", "aarch64")?, &script)?;
            checks.push(("imported, and the command run, under qemu, aarch64".to_owned(), version));
        }
        Ok(checks)
    }

    /// As users of this machine do it: both wheels into an empty environment, and a program in C.
    fn check_here(&self, folder: &Path) -> Result<()> {
        let environment = folder.join("empty");
        let program = |name: &str| environment.join("bin").join(name).display().to_string();
        step_command(
            "an empty environment",
            &CommandLine::new("python3 -m venv --clear").arg(environment.display().to_string()),
        )?;
        let mut install = CommandLine::program(program("python"))
            .args("-m pip install --quiet --disable-pip-version-check");
        for package in ["dream_runtime", "dreamc"] {
            install = install.arg(self.wheel_file(package, "x86_64")?.display().to_string());
        }
        step_command("install the wheels", &install)?;
        let only =
            "import sys, dream; assert not {'torch', 'PIL'} & set(sys.modules); print(dream.__version__)";
        step_command("import the module", &CommandLine::program(program("python")).arg("-c").arg(only))?;
        step_command("run the command", &CommandLine::program(program("dreamc")).arg("--version"))?;
        step("use C's library", &"cargo xtask dist", || {
            let staged =
                self.build.join("staged/x86_64").join(format!("dream-c-{}-linux-x86_64", self.version));
            let lib = staged.join("lib").display().to_string();
            let asked = CommandLine::new("pkg-config --cflags --libs dream")
                .env("PKG_CONFIG_PATH", format!("{lib}/pkgconfig"));
            let example = folder.join("tabletop-c").display().to_string();
            let compile = CommandLine::new("cc -std=c11 -O1 -o")
                .arg(&example)
                .arg(staged.join("share/dream/tabletop.c").display().to_string());
            compile.args(asked.capture()?.trim()).arg("-lm").run()?;
            let artifact = folder.join("policy.dream").display().to_string();
            let build = CommandLine::program(program("dreamc"))
                .args("build golden/fixtures/tabletop-vla/checkpoint --chunk 5 --steps 1 --image 112x112 -o");
            build.arg(&artifact).run()?;
            CommandLine::program(&example).arg(&artifact).arg("3").env("LD_LIBRARY_PATH", lib).run()
        })
    }

    fn record(&self, checks: &[(String, String)]) -> Result<String> {
        let mut listed = Vec::new();
        for path in files(&self.out)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            listed.push(json!({"file": name, "bytes": path.metadata()?.len(), "sha256": hash(&path)?}));
        }
        let checks: Vec<_> =
            checks.iter().map(|(check, result)| json!({"check": check, "result": result})).collect();
        let rustc = CommandLine::new("rustc --version").capture()?;
        let commit = fs::read_to_string(self.build.join(COMMIT)).context("nothing was built before")?;
        let record = json!({
            "version": self.version, "commit": commit.trim(), "rustc": rustc.trim(),
            "files": listed, "checks": checks,
        });
        Ok(serde_json::to_string_pretty(&record)? + "\n")
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("it has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

fn hash(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn same(first: &Path, second: &Path) -> Result<()> {
    let [first, second] = [first, second].map(|folder| fs::read_to_string(folder.join(CHECKSUMS)));
    let (first, second) = (first?, second?);
    let differ: Vec<&str> =
        first.lines().filter(|line| !second.lines().any(|other| other == *line)).collect();
    if !differ.is_empty() || first.len() != second.len() {
        bail!("built again, these are others:\n{}", differ.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_has_the_wheels_of_the_command() {
        let extra = include_str!("../../src/wheel/pyproject.toml");
        let wheels = include_str!("../../src/nvrtc.txt").lines().filter(|line| line.starts_with("nvidia-"));
        let wheels: Vec<&str> = wheels.filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(wheels.len(), 4);
        assert_eq!(extra.matches("\"nvidia-").count(), 4);
        for wheel in wheels {
            assert!(extra.contains(&format!("\"{wheel}\"")), "{wheel}");
        }
    }

    #[test]
    fn files_are_compared_by_their_checksums() {
        let folder = std::env::temp_dir().join(format!("xtask-dist-{}", std::process::id()));
        let [one, other] = ["one", "other"].map(|name| folder.join(name));
        for part in [&one, &other] {
            fs::create_dir_all(part).unwrap();
            fs::write(part.join(CHECKSUMS), "00  a\n").unwrap();
        }
        same(&one, &other).unwrap();
        fs::write(other.join(CHECKSUMS), "01  a\n").unwrap();
        let error = same(&one, &other).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains("00  a"), "{error}");
    }
}

//! Steps of a command: named, timed, and each repeatable alone.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

/// A command line that can be run and printed in a form to paste into a shell.
#[derive(Clone, Debug)]
pub(crate) struct CommandLine {
    env: Vec<(&'static str, String)>,
    program: String,
    args: Vec<String>,
}

impl CommandLine {
    /// Splits `line` at white space; words that may hold some are added with [`CommandLine::arg`].
    pub(crate) fn new(line: &str) -> Self {
        let (program, rest) = line.split_once(' ').unwrap_or((line, ""));
        Self::program(program).args(rest)
    }

    /// A program by its name or path, which may hold white space.
    pub(crate) fn program(program: impl Into<String>) -> Self {
        Self { env: Vec::new(), program: program.into(), args: Vec::new() }
    }

    /// Adds the words of `line`, split at white space.
    pub(crate) fn args(mut self, line: &str) -> Self {
        self.args.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    pub(crate) fn arg(mut self, word: impl Into<String>) -> Self {
        self.args.push(word.into());
        self
    }

    pub(crate) fn env(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.env.push((key, value.into()));
        self
    }

    /// Runs in the workspace root, with this process's streams.
    pub(crate) fn status(&self) -> Result<ExitStatus> {
        self.command()?.status().with_context(|| format!("cannot start `{}`", self.program))
    }

    /// The same. An exit status other than 0 is an error.
    pub(crate) fn run(&self) -> Result<()> {
        let status = self.status()?;
        if !status.success() {
            bail!("`{}` ended with {status}", self.program);
        }
        Ok(())
    }

    /// What the command prints on stdout; `None` when it cannot start or does not succeed.
    pub(crate) fn output(&self) -> Option<String> {
        let output = self.command().ok()?.stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the command prints on stdout; its stderr is shown. An exit status other than 0 is an error.
    pub(crate) fn capture(&self) -> Result<String> {
        let mut command = self.command()?;
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start `{}`", self.program))?;
        if !output.status.success() {
            bail!("`{self}` ended with {}", output.status);
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{self}` printed other than text"))
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(workspace_root()?);
        for (key, value) in &self.env {
            command.env(key, value);
        }
        Ok(command)
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env = self.env.iter().map(|(key, value)| format!("{key}={}", quoted(value)));
        let words = std::iter::once(&self.program).chain(&self.args).map(|word| quoted(word));
        f.write_str(&env.chain(words).collect::<Vec<_>>().join(" "))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else if word.contains('\n') {
        // On one line, in the form of bash, zsh and ksh.
        format!("$'{}'", word.replace('\\', r"\\").replace('\'', r"\'").replace('\n', r"\n"))
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs one step and prints its name and duration. An error names the step and the command that repeats it.
pub(crate) fn step(name: &str, alone: &dyn fmt::Display, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let outcome = body();
    let seconds = start.elapsed().as_secs_f64();
    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
    eprintln!("xtask: {name}: {word} ({seconds:.1} s)");
    outcome.map_err(|error| anyhow!("step `{name}` failed: {error:#}\nto run it alone: {alone}"))
}

/// A step that is one command.
pub(crate) fn step_command(name: &str, command: &CommandLine) -> Result<()> {
    step(name, command, || command.run())
}

/// Installs Rust's library for `target` if it is missing.
pub(crate) fn set_up_target(target: &str) -> Result<()> {
    let targets = CommandLine::new("rustup target list --installed").output().unwrap_or_default();
    if targets.lines().any(|installed| installed == target) {
        return Ok(());
    }
    let name = format!("install the Rust target {target}");
    step_command(&name, &CommandLine::new("rustup target add").arg(target))
}

/// The folder of the workspace's Cargo.toml.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    // Set by `cargo run` and `cargo test`. Asked for when running, so that the binary holds no path.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("CARGO_MANIFEST_DIR is not set: start this as `cargo xtask`")?;
    let root = Path::new(&package).parent().context("xtask lies in no workspace")?;
    Ok(root.to_owned())
}

/// Whether a program of this name is on the search path.
pub(crate) fn on_path(program: &str) -> bool {
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_a_shell_takes() {
        let command = CommandLine::new("cargo doc --no-deps").arg("a'b").env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(command.to_string(), r"RUSTDOCFLAGS='-D warnings' cargo doc --no-deps 'a'\''b'");
    }

    #[test]
    fn line_breaks_stay_on_the_line() {
        assert_eq!(CommandLine::program("run").arg("a'b\n").to_string(), r"run $'a\'b\n'");
    }

    #[test]
    fn capture_gives_stdout_or_an_error() {
        assert_eq!(CommandLine::new("echo a b").capture().unwrap(), "a b\n");
        assert!(CommandLine::new("false").capture().is_err());
    }

    #[test]
    fn failed_step_names_itself_and_its_command() {
        let command = CommandLine::new("false");
        let error = format!("{:#}", step_command("lint", &command).unwrap_err());
        assert!(error.contains("step `lint` failed"), "{error}");
        assert!(error.ends_with("to run it alone: false"), "{error}");
    }

    #[test]
    fn missing_program_is_an_error() {
        let command = CommandLine::new("no-such-program-xtask");
        assert!(command.run().is_err());
        assert!(command.output().is_none());
        assert!(!on_path("no-such-program-xtask"));
    }
}

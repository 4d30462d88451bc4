//! Runs the command and looks at what it says.

#![allow(clippy::unwrap_used, dead_code, reason = "helpers of several test files, which may panic")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) fn dreamc(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamc"));
    // Compiled kernels are kept with the build, and nothing of the user's is read.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    command.args(args).env_remove("DREAM_LOG").env("XDG_CACHE_HOME", cache).output().unwrap()
}

pub(crate) fn fixture(path: &str) -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/fixtures").join(path))
}

/// A folder that tests share; it lies with the build.
pub(crate) fn scratch() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("artifacts");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// What a command that must succeed prints on stdout.
pub(crate) fn ok(args: &[&str]) -> String {
    let output = dreamc(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output).to_owned()
}

pub(crate) fn ok_json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(args)).unwrap()
}

/// What a command that must end with this code prints on stderr.
#[track_caller]
pub(crate) fn fails(code: i32, args: &[&str]) -> String {
    let output = dreamc(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    let message = stderr(&output).to_owned();
    assert!(message.contains("error: "), "{args:?}: {message}");
    message
}

#[track_caller]
pub(crate) fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

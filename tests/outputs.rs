//! Nothing is destroyed by a command's output: what is no regular file, what may not be written to, and what the command
//! reads are refused before the work starts.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, fixture, has, ok, text};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

const SMALL: [&str; 8] = ["--steps", "1", "--alg", "entropy", "--new-tokens", "1", "--max-prompt", "4"];

fn checkpoint() -> String {
    fixture("tiny-text/checkpoint")
}

fn build_to(output: &Path) -> Vec<String> {
    let mut words = vec!["build".to_owned(), checkpoint(), "-o".to_owned(), text(output)];
    words.extend(SMALL.map(str::to_owned));
    words
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// Every flag that names a file to write, as a command line for this output.
fn commands(artifact: &str, cases: &str, output: &str) -> Vec<Vec<String>> {
    let lines = [
        format!("inspect {artifact} --html {output}"),
        format!("bench {artifact} --iters 1 --trace {output}"),
        format!("golden record {artifact} --ids {cases} -o {output}"),
        format!("run {artifact} --entry forward --inputs {cases} --outputs {output}"),
    ];
    let mut all: Vec<Vec<String>> =
        lines.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect();
    all.push(build_to(output.as_ref()));
    all
}

fn artifact(dir: &Path) -> String {
    let path = dir.join("a.dream");
    ok(&words(&build_to(&path)));
    text(&path)
}

/// What is at a path, so that a change is seen.
fn at(path: &Path) -> (u64, u64, u32) {
    let found = path.symlink_metadata().unwrap();
    (found.ino(), found.len(), found.mode())
}

#[test]
fn what_is_no_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact(dir.path());
    let of = |name: &str| dir.path().join(name);
    let status = std::process::Command::new("mkfifo").arg(of("pipe")).status().unwrap();
    assert!(status.success() && of("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    let _socket = UnixListener::bind(of("socket")).unwrap();
    std::fs::create_dir(of("folder")).unwrap();
    std::fs::write(of("readonly"), "kept").unwrap();
    std::fs::set_permissions(of("readonly"), PermissionsExt::from_mode(0o444)).unwrap();
    symlink("nowhere", of("dangling")).unwrap();
    symlink("/dev/null", of("null")).unwrap();
    symlink(of("readonly"), of("link")).unwrap();
    let cases = [
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        ("folder", "is a folder"),
        ("readonly", "may not be written to"),
        ("dangling", "leads nowhere"),
        ("null", "a device"),
        ("link", "may not be written to"),
    ];
    for (name, reason) in cases {
        let before = at(&of(name));
        for command in commands(&artifact, &artifact, &text(&of(name))) {
            let code = if command[0] == "bench" { 2 } else { 1 };
            has(&fails(code, &words(&command)), &[reason, name, "help:"]);
            assert_eq!(at(&of(name)), before, "{command:?}");
        }
    }
    for (name, reason) in
        [("no/such/file", "no folder"), ("new/", "is a folder"), ("readonly/a", "no folder")]
    {
        let output = format!("{}/{name}", text(dir.path()));
        has(&fails(1, &words(&build_to(output.as_ref()))), &[reason]);
    }
    assert_eq!(std::fs::read(of("readonly")).unwrap(), b"kept");
}

/// By its name, by a link, and by another name of the same file.
#[test]
fn what_is_read_stays() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact(dir.path());
    let of = |name: &str| dir.path().join(name);
    symlink(&artifact, of("link")).unwrap();
    std::fs::hard_link(&artifact, of("same")).unwrap();
    let before = std::fs::read(&artifact).unwrap();
    for name in ["a.dream", "link", "same"] {
        for command in commands(&artifact, &artifact, &text(&of(name))) {
            if command[0] != "build" {
                has(&fails(2, &words(&command)), &["which this command reads", "help: name another file"]);
            }
        }
    }
    assert_eq!(std::fs::read(&artifact).unwrap(), before);

    let copy = of("checkpoint");
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors", "generation_config.json"] {
        let from = PathBuf::from(checkpoint()).join(name);
        if from.exists() {
            std::fs::copy(from, copy.join(name)).unwrap();
        }
    }
    symlink(copy.join("model.safetensors"), of("weights.dream")).unwrap();
    let before = std::fs::read(copy.join("model.safetensors")).unwrap();
    for output in [of("weights.dream"), copy.join("model.safetensors"), copy.join("config.json")] {
        let mut command = build_to(&output);
        command[1] = text(&copy);
        has(&fails(2, &words(&command)), &["which this command reads"]);
    }
    assert_eq!(std::fs::read(copy.join("model.safetensors")).unwrap(), before);
    // A file beside the checkpoint's own is none of them, also the second time.
    for _ in 0..2 {
        let mut command = build_to(&copy.join("a.dream"));
        command[1] = text(&copy);
        ok(&words(&command));
    }
}

/// A link to a file that is no input is written through, and who may read the file stays the same.
#[test]
fn links_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&file, "old").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    symlink("file", &link).unwrap();
    ok(&words(&build_to(&link)));
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(&std::fs::read(&file).unwrap()[..8], b"DREAMART");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

/// The rest of a killed build goes with the next one to the folder; what somebody still writes does not.
#[test]
fn stale_partials_go() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| dir.path().join(name);
    for name in [".dreamc-dead.partial", ".dreamc-dead.parent", ".dreamc-lone.parent", ".dreamc-live.partial"]
    {
        std::fs::write(of(name), "rest").unwrap();
    }
    for name in [".dreamc-live.parent", "mine.partial", ".dreamc-mine"] {
        std::fs::write(of(name), "kept").unwrap();
    }
    let live = std::fs::File::open(of(".dreamc-live.partial")).unwrap();
    live.lock().unwrap();
    artifact(dir.path());
    let mut names: Vec<String> = dir
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let kept = [".dreamc-live.parent", ".dreamc-live.partial", ".dreamc-mine", "a.dream", "mine.partial"];
    assert_eq!(names, kept);
}

/// Folders are made where they are missing, and nothing in them is overwritten but sources of kernels.
#[test]
fn folders() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| dir.path().join(name);
    let emit = |folder: &Path| {
        let mut command = build_to(&of("a.dream"));
        command.extend(["--target", "wgpu", "--emit"].map(str::to_owned));
        command.push(text(folder));
        command
    };
    ok(&words(&emit(&of("new/emitted"))));
    let emitted = of("new/emitted/wgpu");
    let first = emitted.read_dir().unwrap().next().unwrap().unwrap().path();
    std::fs::write(&first, "changed").unwrap();
    ok(&words(&emit(&of("new/emitted"))));
    assert_ne!(std::fs::read(&first).unwrap(), b"changed");
    std::fs::remove_file(&first).unwrap();
    symlink("/dev/null", &first).unwrap();
    has(&fails(1, &words(&emit(&of("new/emitted")))), &["--emit", "a device"]);
    std::fs::write(of("file"), "kept").unwrap();
    has(&fails(1, &words(&emit(&of("file/emitted")))), &["--emit", "is no folder"]);

    let synth = |folder: &Path| {
        ["synth", "--variant", "text", "--size", "tiny", "-o", &text(folder)].map(str::to_owned).to_vec()
    };
    ok(&words(&synth(&of("made/deep"))));
    for name in ["model.safetensors", "model.safetensors.partial", "generation_config.json", "config.json"] {
        let folder = of(&format!("has-{name}"));
        std::fs::create_dir(&folder).unwrap();
        symlink("nowhere", folder.join(name)).unwrap();
        has(&fails(1, &words(&synth(&folder))), &[name]);
        assert_eq!(folder.read_dir().unwrap().count(), 1);
    }
}

/// `finalize` writes its own file anew, where that may be done.
#[test]
fn finalize_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = PathBuf::from(artifact(dir.path()));
    std::fs::set_permissions(&artifact, PermissionsExt::from_mode(0o444)).unwrap();
    has(&fails(1, &["finalize", &text(&artifact)]), &["may not be written to"]);
    has(&fails(1, &["finalize", "/dev/null"]), &["a device"]);
}

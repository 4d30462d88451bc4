//! `dreamc tune`, on an emulated GPU: candidates are compared before they are timed, and what is found is in the file.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, files, has, ok, ok_json, stderr, stdout, text};
use dream::{DeviceChoice, DeviceKind, Generate, Held, Model, OpenOptions};
use dreamc::compile::{BuildOptions, Entry};
use dreamc_artifact::code::{Code, Form, encode_code};
use dreamc_artifact::plan::{Launch, Plan};
use dreamc_artifact::{Artifact, Kind, Manifest, assemble};
use dreamc_golden::Fixture;
use dreamc_golden::emulator::Emulator;
use dreamc_golden::runners::build_options;
use dreamc_num::DType;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

const TARGET: &str = "cuda:sm_80";
/// Of the candidates one is planted wrong: its kernel returns at once.
const PLANTED: u32 = 1;

/// Files that the tests copy.
struct Built {
    folder: TempDir,
}

static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let emulator = Emulator::new(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let options = |name: &str| BuildOptions {
        output: folder.path().join(name),
        targets: vec![TARGET.parse().unwrap()],
        dtype: DType::BF16,
        steps: 2,
        max_prompt: 20,
        max_batch: 1,
        candidates: Some(1),
        entries: vec![Entry::Generate],
        ..build_options(&Fixture::open("tiny-text").path("checkpoint"))
    };
    emulator.build(&options("sound"));
    emulator.build_edited(&options("planted"), &plant);
    emulator.build(&BuildOptions { candidates: None, ..options("alone") });
    emulator.driver(DeviceKind::Cuda, 80, &folder.path().join("driver.so"));
    Built { folder }
});

fn launches(plan: &Plan) -> impl Iterator<Item = &Launch> {
    plan.programs.iter().flat_map(|p| p.dispatches()).flat_map(|dispatch| &dispatch.launches)
}

/// Modules that stand for nothing but the planted candidate.
fn planted(plan: &Plan, code: &Code) -> Vec<usize> {
    let is = |i: &usize| {
        let mut own = launches(plan).filter(|launch| launch.module as usize == *i).peekable();
        own.peek().is_some() && own.all(|launch| launch.candidate.is_some_and(|c| c.nth == PLANTED))
    };
    (0..code.modules.len()).filter(is).collect()
}

fn plant(plan: &Plan, code: &mut Code) {
    for i in planted(plan, code) {
        let module = &mut code.modules[i];
        let source = str::from_utf8(&module.images[0].bytes).unwrap();
        let at = source.find(&format!(" {}(", module.name)).unwrap();
        let body = at + source[at..].find('{').unwrap() + 1;
        module.images[0].bytes = format!("{} return; {}", &source[..body], &source[body..]).into_bytes();
    }
}

impl Built {
    /// A copy of a file in a folder of its own.
    fn copy(&self, name: &str) -> (TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.dream");
        std::fs::copy(self.folder.path().join(name), &path).unwrap();
        (folder, text(&path))
    }

    fn driver(&self) -> PathBuf {
        self.folder.path().join("driver.so")
    }

    /// The command where the emulated device is.
    fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamc"));
        command.args(args).env_remove("DREAM_LOG").env("DREAM_CUDA_LIBRARY", self.driver()).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Output {
        let output = self.command(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        output
    }

    /// Tokens that come of a request, and what is said about it.
    fn run(&self, path: &str) -> (Value, String) {
        let ids = Path::new(path).with_extension("json");
        std::fs::write(&ids, r#"{"input_ids": [[5, 6, 7, 8]]}"#).unwrap();
        let output = self.ok(&["run", path, "--ids", &text(&ids), "--format", "json", "--device", "cuda"]);
        let answer: Value = serde_json::from_str(stdout(&output)).unwrap();
        (answer["sequences"].clone(), stderr(&output).to_owned())
    }
}

fn manifest(path: &str) -> Manifest {
    Artifact::open(&std::fs::read(path).unwrap()).unwrap().manifest().clone()
}

/// A file with other contents in some of its sections.
fn edit(path: &str, new: impl Fn(&Artifact<'_>, Kind) -> Option<Vec<u8>>) {
    let file = std::fs::read(path).unwrap();
    let artifact = Artifact::open(&file).unwrap();
    let weights = artifact.sections().iter().find(|s| s.kind == Kind::Weights).unwrap().hash;
    let section = |section: &dreamc_artifact::Section| {
        let old = || artifact.bytes(section).to_vec();
        (section.kind, new(&artifact, section.kind).unwrap_or_else(old))
    };
    let sections: Vec<_> = artifact.sections().iter().map(section).collect();
    std::fs::write(path, assemble(&sections, weights).unwrap()).unwrap();
}

#[test]
fn what_is_found_is_in_the_file() {
    let (folder, path) = BUILT.copy("sound");
    let (before, _) = BUILT.run(&path);
    let again = text(&folder.path().join("again.dream"));
    let said = BUILT.ok(&["tune", &path, "--device", "cuda", "--lengths", "8,24"]);
    has(stdout(&said), &["cuda:sm_80 tuned on Stub 0 (sm_80)", "at 8, 24 positions", "generate, choice 0"]);
    ok(&["verify", &path]);
    let tuned = &ok_json(&["inspect", &path, "--format", "json"])["manifest"]["tuned"][0];
    assert_eq!((&tuned["device"], &tuned["arch"]), (&"Stub 0".into(), &"sm_80".into()));
    let choices = tuned["choices"].as_array().unwrap();
    // Queries, keys and values, the projection, both halves of the MLP, the head; for up to 16 rows and for more.
    assert!(choices.len() >= 8, "{choices:?}");
    for choice in choices {
        let candidates = choice["candidates"].as_array().unwrap();
        assert!(candidates.len() >= 2, "{choice}");
        let portable = candidates.last().unwrap();
        assert!(portable["kernels"][0].as_str().is_some_and(|name| !name.contains("matrix")), "{choice}");
        assert_eq!(portable["error"], 0.0);
        for candidate in candidates {
            assert!(candidate["us"].as_f64().is_some_and(|us| us > 0.0), "{choice}");
            assert!(candidate["error"].as_f64().is_some_and(|error| error <= 4.0 / 256.0), "{choice}");
        }
    }
    has(&ok(&["inspect", &path, "--kernels"]), &["tuned on Stub 0 (sm_80)", " us  off by "]);
    // What it computes is near what it was: the same tokens.
    let (after, said) = BUILT.run(&path);
    assert_eq!(after, before);
    assert!(!said.contains("warning"), "{said}");

    // Again, elsewhere: all but the record stays, byte by byte.
    let record = std::fs::read(&path).unwrap();
    BUILT.ok(&["tune", &path, "--device", "cuda", "--lengths", "24", "-o", &again]);
    assert!(std::fs::read(&path).unwrap() == record, "the artifact was written to");
    assert_eq!(manifest(&again).tuned[0].lengths, [24]);
    let other = std::fs::read(&again).unwrap();
    let [record, other] = [&record, &other].map(|bytes| Artifact::open(bytes).unwrap());
    for (a, b) in record.sections().iter().zip(other.sections()) {
        let same = a.kind == Kind::Manifest || record.bytes(a) == other.bytes(b);
        assert!(a.kind == b.kind && same, "{:?}", a.kind);
    }
}

/// A request as it is held.
fn held(model: &mut Model) -> Vec<Held> {
    model.hold(true);
    let canvas = Some(vec![model.manifest().model.mask_token_id as i32; 4]);
    let request = Generate { prompt: vec![vec![5, 6, 7, 8]], canvas, ..Generate::default() };
    model.generate(&request, &mut |_, _| true).unwrap_err();
    let held = model.held();
    model.hold(false);
    held
}

/// With the same times the same is found, to the byte.
#[test]
fn the_same_times_the_same_bytes() {
    let (_folder, path) = BUILT.copy("sound");
    let device = DeviceChoice::Only(DeviceKind::Cuda);
    let options = OpenOptions { device, driver: Some(BUILT.driver()), ..OpenOptions::default() };
    let find = || {
        let mut model = Model::open(path.as_ref(), &options).unwrap();
        let held = held(&mut model);
        let (mut calls, mut last) = (0, (0, 0));
        let mut clock = || {
            calls += 1;
            Duration::from_micros(100 * calls)
        };
        let found = model.tune(&held, &mut clock, &mut |done, total| {
            last = (done, total);
            true
        });
        assert!(last.0 > 0 && last.0 == last.1, "{last:?}");
        let mut manifest = model.manifest().clone();
        manifest.tuned = vec![found.unwrap()];
        // Nothing is faster than the compiler's choice.
        assert!(manifest.tuned[0].choices.iter().all(|choice| choice.winner == 0));
        manifest.to_bytes().unwrap()
    };
    assert!(find() == find(), "another record");

    // Somebody stops it.
    let mut model = Model::open(path.as_ref(), &options).unwrap();
    let held = held(&mut model);
    let stopped = model.tune(&held, &mut || Duration::ZERO, &mut |done, _| done == 0).unwrap_err();
    assert_eq!(stopped.to_string(), "stopped before the last step");
}

/// A kernel that is fast and wrong is found out, however fast.
#[test]
fn a_planted_candidate_is_never_chosen() {
    let (_folder, path) = BUILT.copy("planted");
    BUILT.ok(&["tune", &path, "--device", "cuda", "--lengths", "8,24"]);
    let tuned = &manifest(&path).tuned[0];
    let file = std::fs::read(&path).unwrap();
    let artifact = Artifact::open(&file).unwrap();
    let (plan, code) = (artifact.plan(TARGET).unwrap(), artifact.code(TARGET).unwrap());
    let names: Vec<&str> = planted(plan, code).iter().map(|i| code.modules[*i].name.as_str()).collect();
    let mut found = 0;
    for choice in &tuned.choices {
        let Some(candidate) = choice.candidates.get(PLANTED as usize) else { continue };
        if !candidate.kernels.iter().any(|kernel| names.contains(&kernel.as_str())) {
            continue;
        }
        found += 1;
        assert_ne!(choice.winner, PLANTED, "{choice:?}");
        assert!(
            candidate.us.is_none() && candidate.refused.as_ref().unwrap().contains("differs"),
            "{choice:?}"
        );
        assert!(candidate.error.is_some_and(|error| error > 0.5), "{choice:?}");
    }
    assert!(found >= 4, "{found} of {names:?}");
}

#[test]
fn tuned_for_another_device() {
    let (_folder, path) = BUILT.copy("sound");
    BUILT.ok(&["tune", &path, "--device", "cuda", "--lengths", "8"]);
    edit(&path, |artifact, kind| {
        let mut manifest = artifact.manifest().clone();
        (manifest.tuned[0].device, manifest.tuned[0].arch) = ("NVIDIA H200".to_owned(), "sm_90".to_owned());
        (kind == Kind::Manifest).then(|| manifest.to_bytes().unwrap())
    });
    let (tokens, said) = BUILT.run(&path);
    has(
        &said,
        &["warning: ", "tuned for NVIDIA H200 (sm_90), and runs on Stub 0 (sm_80)", "`dreamc tune FILE`"],
    );
    assert_eq!(tokens, BUILT.run(&BUILT.copy("sound").1).0);
    // A record that is not of this plan is no record.
    edit(&path, |artifact, kind| {
        let mut manifest = artifact.manifest().clone();
        manifest.tuned[0].choices[0].winner = 9;
        (kind == Kind::Manifest).then(|| manifest.to_bytes().unwrap())
    });
    has(&fails(3, &["verify", &path]), &["the kernels that were chosen"]);
}

/// What the driver refuses gives way to the portable kernel, and says so; tuning leaves it alone.
#[test]
fn a_refused_kernel() {
    let (_folder, path) = BUILT.copy("sound");
    BUILT.ok(&["tune", &path, "--device", "cuda", "--lengths", "8"]);
    let (wanted, _) = BUILT.run(&path);
    let choice = manifest(&path).tuned[0].choices[0].clone();
    let kernel = choice.candidates[1].kernels[0].clone();
    edit(&path, |artifact, kind| match kind {
        Kind::Manifest => {
            let mut manifest = artifact.manifest().clone();
            manifest.tuned[0].choices[0].winner = 1;
            manifest.to_bytes()
        }
        Kind::Code => {
            let mut code = artifact.code(TARGET).unwrap().clone();
            let module = code.modules.iter_mut().find(|module| module.name == kernel).unwrap();
            assert_eq!(module.images[0].form, Form::Cubin);
            module.images[0].bytes = b"no library of the host, but as long as the head of one".to_vec();
            Some(encode_code(&code).unwrap())
        }
        _ => None,
    });
    let (tokens, said) = BUILT.run(&path);
    has(
        &said,
        &["warning: the driver does not load", &kernel, "CUDA_ERROR_INVALID_IMAGE", "portable kernel"],
    );
    assert_eq!(tokens, wanted);
    BUILT.ok(&["tune", &path, "--device", "cuda", "--lengths", "8"]);
    let choices = &manifest(&path).tuned[0].choices;
    let refused = choices.iter().find(|other| other.choice == choice.choice).unwrap();
    assert_ne!(refused.winner, 1);
    assert!(refused.candidates[1].refused.as_ref().unwrap().contains("does not load"), "{refused:?}");
    let (_, said) = BUILT.run(&path);
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn what_cannot_be_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let path = text(&folder.path().join("cpu.dream"));
    let build = |targets: &str, more: &[&str]| {
        let checkpoint = common::fixture("tiny-text/checkpoint");
        let settings = "--entries generate --max-prompt 8 --new-tokens 4 --steps 2 --alg maskgit_plus";
        let start = ["build", &checkpoint, "-o", &path, "--target", targets];
        ok(&start.into_iter().chain(settings.split(' ')).chain(more.iter().copied()).collect::<Vec<_>>());
    };
    build("cpu", &[]);
    has(&fails(1, &["tune", &path, "--device", "cuda"]), &["built for cpu", "--target cuda"]);
    has(&fails(1, &["tune", &path]), &["`cpu, ", "no kernels to choose from", "--device cuda"]);
    build("wgpu", &["--dtype", "f32"]);
    has(&fails(1, &["tune", &path, "--device", "wgpu"]), &["`wgpu, ", "no kernels to choose from"]);

    // Before anything is timed.
    let (folder, path) = BUILT.copy("sound");
    let wrong = |args: &[&str], parts: &[&str]| {
        let output = BUILT.command(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        has(stderr(&output), parts);
    };
    let bytes = std::fs::read(&path).unwrap();
    wrong(&["tune", &path, "--lengths", "25"], &["--lengths has 25", "give 2 to 24"]);
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).unwrap();
    let output = BUILT.command(&["tune", &path]);
    assert_ne!(output.status.code(), Some(0));
    has(stderr(&output), &["may not be written to", "chmod u+w", "name another place"]);
    assert!(std::fs::read(&path).unwrap() == bytes, "it was written to");
    assert_eq!(files(folder.path()).len(), 1);
    let (_folder, path) = BUILT.copy("alone");
    wrong(&["tune", &path], &["none to choose from", "--candidates 2"]);
}

/// Killed while it writes: the file is as it was, and the next one clears up.
#[test]
fn an_interrupted_one_leaves_the_file() {
    let (folder, path) = BUILT.copy("sound");
    let bytes = std::fs::read(&path).unwrap();
    // Room for the libraries that the emulated driver unpacks, and not for the file.
    let blocks = bytes.len() / 512 - 8;
    let largest = |trap: &str| {
        let script = format!("{trap} ulimit -f {blocks}; exec \"$0\" tune \"$1\" --device cuda --lengths 8");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_dreamc"), &path]);
        command.env("DREAM_CUDA_LIBRARY", BUILT.driver()).output().unwrap()
    };
    let killed = largest("");
    assert_ne!(killed.status.code(), Some(0));
    assert!(std::fs::read(&path).unwrap() == bytes, "the file is another");
    let failed = largest("trap '' XFSZ;");
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    has(stderr(&failed), &["cannot be read or written", "has room"]);
    assert!(std::fs::read(&path).unwrap() == bytes, "the file is another");
    BUILT.ok(&["tune", &path, "--device", "cuda", "--lengths", "8"]);
    assert_eq!(files(folder.path()), [PathBuf::from(&path)]);
    assert!(std::fs::read(&path).unwrap() != bytes, "nothing was recorded");
}

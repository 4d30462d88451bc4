//! Builds that cannot succeed: damaged checkpoints, a full disk, an interrupt. Each says what is wrong and leaves nothing
//! behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{fails, files, fixture, has, ok, text};
use dreamc::compile::{BuildError, BuildOptions, BuildTarget, Entry, Events, build};
use dreamc_backend::WriteError;
use dreamc_frontend::Variant;
use dreamc_frontend::sampler::Alg;
use dreamc_num::DType;
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "model.safetensors";

/// A checkpoint to spoil: the header and the data of its one file.
struct Checkpoint {
    dir: tempfile::TempDir,
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Checkpoint {
    fn new() -> Checkpoint {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "generation_config.json"] {
            std::fs::copy(fixture(&format!("tiny-text/checkpoint/{file}")), dir.path().join(file)).unwrap();
        }
        let bytes = std::fs::read(fixture(&format!("tiny-text/checkpoint/{WEIGHTS}"))).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..start]).unwrap();
        let checkpoint = Checkpoint { dir, header, data: bytes[start..].to_vec() };
        checkpoint.write();
        checkpoint
    }

    fn write(&self) {
        let header = serde_json::to_vec(&self.header).unwrap();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat();
        std::fs::write(self.weights(), file).unwrap();
    }

    fn weights(&self) -> PathBuf {
        self.dir.path().join(WEIGHTS)
    }

    /// Where a tensor's data lies.
    fn range(&self, name: &str) -> std::ops::Range<usize> {
        let offsets = &self.header[name]["data_offsets"];
        offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize
    }

    /// Sets an element, counted from the end if negative.
    fn set(&mut self, name: &str, at: isize, value: f32) {
        let bytes = match self.header[name]["dtype"].as_str().unwrap() {
            "F32" => value.to_le_bytes().to_vec(),
            "BF16" => ((value.to_bits() >> 16) as u16).to_le_bytes().to_vec(),
            other => panic!("the fixture is {other}"),
        };
        let range = self.range(name);
        let count = (range.len() / bytes.len()) as isize;
        let start = range.start + (at + if at < 0 { count } else { 0 }) as usize * bytes.len();
        self.data[start..start + bytes.len()].copy_from_slice(&bytes);
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("out.dream")
    }

    fn args(&self) -> Vec<String> {
        let args = ["build", &text(self.dir.path()), "-o", &text(&self.output()), "--steps", "2"];
        let small = ["--alg", "origin", "--new-tokens", "4", "--max-prompt", "8"];
        args.iter().chain(&small).map(|s| (*s).to_owned()).collect()
    }

    /// Fails with this in the message, and leaves no file.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        self.write();
        let before = files(self.dir.path());
        let args = self.args();
        has(&fails(1, &args.iter().map(String::as_str).collect::<Vec<_>>()), parts);
        assert_eq!(files(self.dir.path()), before, "something was left behind");
    }
}

/// A tensor of each kind, and one that is stored in two ways.
const TENSORS: [&str; 4] = [
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.2.self_attn.k_proj.bias",
    "model.norm.weight",
    "model.embed_tokens.weight",
];

#[test]
fn non_finite_weights() {
    for name in TENSORS {
        for (at, value, said) in
            [(0, f32::NAN, "NaN"), (-1, f32::INFINITY, "inf"), (5, f32::NEG_INFINITY, "-inf")]
        {
            let mut checkpoint = Checkpoint::new();
            checkpoint.set(name, at, value);
            let element = if at < 0 { "at element ".to_owned() } else { format!("at element {at};") };
            checkpoint.refused(&[&format!("`{name}`"), said, &element, "--allow-non-finite"]);
            let mut args = checkpoint.args();
            args.push("--allow-non-finite".to_owned());
            ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(checkpoint.output().is_file());
        }
    }
}

#[test]
fn truncated_weights() {
    let whole = Checkpoint::new();
    let len = std::fs::metadata(whole.weights()).unwrap().len();
    for len in [len - 1, len / 2, 100, 8, 7, 0] {
        let checkpoint = Checkpoint::new();
        let file = std::fs::OpenOptions::new().write(true).open(checkpoint.weights()).unwrap();
        file.set_len(len).unwrap();
        let args = checkpoint.args();
        let error = fails(1, &args.iter().map(String::as_str).collect::<Vec<_>>());
        has(&error, &[WEIGHTS, "help:"]);
        assert!(!checkpoint.output().exists());
    }
}

#[test]
fn overlapping_tensors() {
    let mut checkpoint = Checkpoint::new();
    let (a, b) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight");
    checkpoint.header[a]["data_offsets"] = checkpoint.header[b]["data_offsets"].clone();
    checkpoint.refused(&[WEIGHTS, &format!("`{a}`"), &format!("`{b}`"), "ends at"]);
    let mut checkpoint = Checkpoint::new();
    let range = checkpoint.range(a);
    checkpoint.header[a]["data_offsets"] = json!([range.start, range.end - 2]);
    let bytes = range.len();
    let said = format!("needs {bytes} bytes but its range has {}", bytes - 2);
    checkpoint.refused(&[WEIGHTS, &format!("`{a}`"), &said]);
}

#[test]
fn missing_and_misshapen_tensors() {
    for name in TENSORS {
        let mut checkpoint = Checkpoint::new();
        // Under another name, so that the file stays whole.
        let entry = checkpoint.header.remove(name).unwrap();
        checkpoint.header.insert(format!("{name}.other"), entry);
        checkpoint.refused(&[name, "missing"]);

        let mut checkpoint = Checkpoint::new();
        let shape = checkpoint.header[name]["shape"].as_array().unwrap().clone();
        let flat: u64 = shape.iter().map(|n| n.as_u64().unwrap()).product();
        let other = if shape.len() == 2 { json!([shape[1], shape[0]]) } else { json!([flat / 2, 2]) };
        checkpoint.header[name]["shape"] = other.clone();
        let dims: Vec<String> = other.as_array().unwrap().iter().map(Value::to_string).collect();
        checkpoint.refused(&[name, &dims.join(", ")]);
    }
}

#[test]
fn text_files() {
    let checkpoint = Checkpoint::new();
    let config =
        std::fs::OpenOptions::new().write(true).open(checkpoint.dir.path().join("config.json")).unwrap();
    config.set_len((1 << 20) + 1).unwrap();
    checkpoint.refused(&["config.json", "1048577 bytes", "1048576", "help: "]);

    let checkpoint = Checkpoint::new();
    let put = |name: &str, json: Value| {
        std::fs::write(checkpoint.dir.path().join(name), json.to_string()).unwrap();
    };
    let added = json!([{"id": 1, "content": "<mask>"}]);
    put("tokenizer.json", json!({"model": {"vocab": {"a": 0}}, "added_tokens": added}));
    put("tokenizer_config.json", json!({"added_tokens_decoder": {"2": {"content": "<mask>"}}}));
    checkpoint.refused(&["tokenizer.json", "tokenizer_config.json", "contradict", "`<mask>`", "help: "]);
    std::fs::write(checkpoint.dir.path().join("merges.txt"), "").unwrap();
    put("vocab.json", json!({"a": 0, "<mask>": 1}));
    checkpoint.refused(&["`<mask>` has id 2, but `<mask>` has id 1 already", "help: "]);
}

#[test]
fn an_adapter_beside_the_weights() {
    let checkpoint = Checkpoint::new();
    std::fs::create_dir(checkpoint.dir.path().join("lora_adapter")).unwrap();
    let args = checkpoint.args();
    let output = common::dreamc(&args.iter().map(String::as_str).collect::<Vec<_>>());
    has(common::stderr(&output), &["warning", "`lora_adapter`", "twice"]);
    assert!(output.status.success());
}

fn options(checkpoint: &Checkpoint) -> BuildOptions {
    BuildOptions {
        targets: vec![BuildTarget::cpu()],
        emit: None,
        cache: None,
        sources: false,
        checkpoint: checkpoint.dir.path().to_owned(),
        output: checkpoint.output(),
        dtype: DType::F32,
        steps: 2,
        eps: 1e-3,
        alg: Alg::Entropy,
        new_tokens: 4,
        max_slots: None,
        max_prompt: 8,
        max_batch: 2,
        entries: Entry::of(Variant::Text).to_vec(),
        image: None,
        act: dreamc::compile::ActOptions::default(),
        lora: None,
        quant: None,
        allow_non_finite: false,
        candidates: None,
        verify_each: false,
        without: vec![],
        golden: None,
        warm: vec![],
    }
}

/// Stops a build after so many reports.
struct StopAfter {
    reports: Cell<u32>,
    left: u32,
}

impl Events for StopAfter {
    fn progress(&mut self, done: u64, total: u64) {
        assert!(done <= total);
        self.reports.set(self.reports.get() + 1);
    }

    fn cancelled(&self) -> bool {
        self.reports.get() >= self.left
    }
}

/// What stood under the name before stays as it was.
#[test]
fn a_stopped_build_leaves_no_file() {
    let checkpoint = Checkpoint::new();
    for old in [false, true] {
        if old {
            std::fs::write(checkpoint.output(), "an older artifact").unwrap();
        }
        for left in [1, 2, 20] {
            let before = files(checkpoint.dir.path());
            let mut events = StopAfter { reports: Cell::new(0), left };
            let error = build(&options(&checkpoint), &mut events).unwrap_err();
            let BuildError::Write { path, source } = &error else { panic!("{error:?}") };
            assert!(matches!(source, WriteError::Cancelled), "{source:?}");
            assert_eq!((path, source.to_string()), (&checkpoint.output(), "interrupted".to_owned()));
            assert_eq!(events.reports.get(), left, "it went on");
            assert_eq!(files(checkpoint.dir.path()), before);
        }
    }
    assert_eq!(std::fs::read(checkpoint.output()).unwrap(), b"an older artifact");
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::process::{Child, Command, Output, Stdio};
    use std::time::{Duration, Instant};

    /// The size of a file is limited to 32 KiB: the same as a disk that fills up while the weights are written.
    #[test]
    fn a_full_disk() {
        let checkpoint = Checkpoint::new();
        std::fs::write(checkpoint.output(), "an older artifact").unwrap();
        let before = files(checkpoint.dir.path());
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_dreamc")])
            .args(checkpoint.args())
            .output()
            .unwrap();
        let said = common::stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        has(said, &["error: ", "out.dream was not written", "caused by: ", "too large", "help: "]);
        assert_eq!(files(checkpoint.dir.path()), before);
        assert_eq!(std::fs::read(checkpoint.output()).unwrap(), b"an older artifact");
    }

    /// A checkpoint of 0.5 GB of zeros that take no room on the disk.
    fn large(dir: &Path) {
        let config = std::fs::read(fixture("tiny-text/checkpoint/config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        config["hidden_size"] = json!(2048);
        config["vocab_size"] = json!(65536);
        config["num_hidden_layers"] = json!(1);
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let config = dreamc_frontend::TextConfig::read(dir).unwrap();
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (name, shape) in dreamc_frontend::expected_tensors(&config) {
            let start = end;
            end += 2 * shape.iter().product::<u64>();
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
            header.insert(name, entry);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let path = dir.join(WEIGHTS);
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(8 + header.len() as u64 + end).unwrap();
    }

    /// Interrupts a build once its unfinished file is there.
    fn interrupted(mut child: Child, dir: &Path) -> Output {
        let start = Instant::now();
        let partial = || files(dir).iter().any(|p| text(p).ends_with(".partial"));
        while !partial() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it wrote anything");
            assert!(start.elapsed() < Duration::from_secs(60), "it writes nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        child.wait_with_output().unwrap()
    }

    #[test]
    fn an_interrupt() {
        let dir = tempfile::tempdir().unwrap();
        large(dir.path());
        let before = files(dir.path());
        let output = dir.path().join("out.dream");
        let child = Command::new(env!("CARGO_BIN_EXE_dreamc"))
            .args(["build", &text(dir.path()), "-o", &text(&output), "--steps", "2", "--alg", "origin"])
            .args(["--new-tokens", "4", "--max-prompt", "8"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = interrupted(child, dir.path());
        let said = common::stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        has(said, &["out.dream was not written", "caused by: interrupted", "nothing was left behind"]);
        assert_eq!(files(dir.path()), before);
    }
}

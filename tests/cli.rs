//! The command from outside: exit codes, what goes to stdout, and what stays behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{dreamc, fails, files, fixture, has, ok, ok_json, stderr, text};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

mod usage {
    use super::*;

    #[test]
    fn help_and_version_are_results() {
        has(&ok(&["--help"]), &["tokenize", "targets", "opt", "synth"]);
        has(&ok(&["--version"]), &["dreamc "]);
        has(&ok(&["synth", "--help"]), &["--seed"]);
    }

    #[test]
    fn wrong_usage_exits_2() {
        assert_eq!(dreamc(&[]).status.code(), Some(2));
        has(&fails(2, &["frobnicate"]), &["frobnicate"]);
        has(&fails(2, &["opt"]), &["<FILE>"]);
        has(&fails(2, &["tokenize", "."]), &["--text", "--decode"]);
        has(&fails(2, &["tokenize", ".", "--text", "a", "--decode", "1"]), &["--decode"]);
        has(&fails(2, &["tokenize", ".", "--decode", "1,x"]), &["`x`", "help:"]);
        has(&fails(2, &["synth", "--variant", "text", "--size", "huge", "-o", "x"]), &["huge", "tiny"]);
        has(&fails(2, &["synth", "--variant", "audio", "--size", "tiny", "-o", "x"]), &["audio", "vla"]);
    }

    #[test]
    fn log_filter_is_checked() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamc"));
        let output = command.arg("targets").env("DREAM_LOG", "a=b=c").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        has(stderr(&output), &["DREAM_LOG", "a=b=c"]);
    }
}

#[test]
fn targets() {
    has(&ok(&["targets"]), &["cpu", "cuda"]);
    let report = ok_json(&["targets", "--format", "json"]);
    let list = report["targets"].as_array().unwrap();
    let find = |name: &str| list.iter().find(|t| t["target"] == name).unwrap();
    assert_eq!((&find("cpu")["build"], &find("cpu")["run"]), (&json!(true), &json!(true)));
    assert!(find("cpu")["isa"].is_string() && find("cpu")["threads"].as_u64() > Some(0));
    assert_eq!((&find("wgpu")["build"], &find("wgpu")["run"]), (&json!(true), &json!(true)));
    assert!(find("cuda:sm_90a")["missing"].is_array());
}

mod opt {
    use super::*;

    const TEXT: &str = "graph @f(%0: f32[4, 8], %1: f32[4, 8]) {
  %2 = silu %0 : f32[4, 8]
  %3 = mul %2, %1 : f32[4, 8]
  return %3
}
";

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.ir");
        std::fs::write(&path, text).unwrap();
        let path = super::text(&path);
        (dir, path)
    }

    #[test]
    fn runs_passes_in_order() {
        let (_dir, path) = file(TEXT);
        has(&ok(&["opt", &path]), &["%2 = swiglu %0, %1 : f32[4, 8]"]);
        has(&ok(&["opt", &path, "--passes", "dce,canonicalize"]), &["swiglu"]);
        assert_eq!(ok(&["opt", &path, "--passes", "dce,canonicalize", "--stop-after", "1"]), TEXT);
        let output = dreamc(&["opt", &path, "--print-after", "canonicalize", "--passes", "canonicalize"]);
        has(stderr(&output), &["canonicalize @f: 1 rewrite, 1 node removed", "swiglu"]);
    }

    #[test]
    fn bad_input_is_named() {
        let (_dir, path) = file(TEXT);
        has(&fails(2, &["opt", &path, "--passes", "dce,magic"]), &["`magic`", "canonicalize", "merge-qkv"]);
        has(&fails(2, &["opt", &path, "--print-after", "magic"]), &["`magic`"]);
        has(&fails(1, &["opt", "no/such.ir"]), &["no/such.ir", "caused by:", "help:"]);
        let (_dir, path) = file("graph @f( {");
        has(&fails(1, &["opt", &path]), &["line 1, column 11"]);
        let (_dir, path) = file(&TEXT.replace("%3 = mul %2, %1 : f32[4, 8]", "%3 = mul %2, %1 : f32[4, 9]"));
        has(&fails(1, &["opt", &path]), &["does not verify", "@f", "mul"]);
    }
}

mod synth {
    use super::*;

    fn tiny(dir: &Path, seed: &str) {
        ok(&["synth", "--variant", "text", "--size", "tiny", "--seed", seed, "-o", &text(dir)]);
    }

    #[test]
    fn same_seed_same_bytes() {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        for (dir, seed) in dirs.iter().zip(["7", "7", "8"]) {
            tiny(dir.path(), seed);
        }
        let [a, b, c] =
            dirs.each_ref().map(|dir| std::fs::read(dir.path().join("model.safetensors")).unwrap());
        assert!(a == b, "the same seed gave different weights");
        assert!(a != c, "another seed gave the same weights");
        assert!(dirs[0].path().join("config.json").is_file());
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        tiny(dir.path(), "1");
        let before = files(dir.path());
        let path = text(dir.path());
        has(
            &fails(1, &["synth", "--variant", "text", "--size", "tiny", "-o", &path]),
            &["exists already", "help:"],
        );
        assert_eq!(files(dir.path()), before);
    }
}

mod tokenize {
    use super::*;

    #[test]
    fn text_and_back() {
        let dir = fixture("tokenizer");
        let golden: Value =
            serde_json::from_slice(&std::fs::read(fixture("tokenizer/golden.json")).unwrap()).unwrap();
        for case in golden["encode"].as_array().unwrap().iter().filter(|c| c["text"] != "").take(3) {
            let text = case["text"].as_str().unwrap();
            let tokens = ok_json(&["tokenize", &dir, "--text", text, "--format", "json"]);
            assert_eq!(tokens, json!({"ids": case["ids"], "text": text}));
            let ids = ok(&["tokenize", &dir, "--text", text]);
            let decoded = ok_json(&["tokenize", &dir, "--decode", ids.trim(), "--format", "json"]);
            assert_eq!(decoded, json!({"ids": case["ids"], "text": case["decoded"]}));
        }
        assert_eq!(ok(&["tokenize", &dir, "--decode", "[151666, 151643]"]), "<|mask|><|endoftext|>\n");
    }

    #[test]
    fn values_may_begin_with_a_hyphen() {
        let tokens = ok_json(&["tokenize", &fixture("tokenizer"), "--format", "json", "--text", "-5"]);
        assert_eq!(tokens["text"], "-5");
    }

    #[test]
    fn missing_files_are_named() {
        has(&fails(1, &["tokenize", "no/such/dir", "--text", "a"]), &["no/such/dir"]);
        let dir = tempfile::tempdir().unwrap();
        has(&fails(1, &["tokenize", &text(dir.path()), "--text", "a"]), &["tokenizer", "vocab.json"]);
    }
}

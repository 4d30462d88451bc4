//! `dreamc bench` from outside: its figures fit together, its trace opens, and bad input is named.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{dreamc, fails, files, fixture, has, ok, ok_json, scratch, stderr, text};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::OnceLock;

fn built(name: &'static str, file: &OnceLock<PathBuf>, options: &[&str]) -> String {
    let path = file.get_or_init(|| {
        let path = scratch().join(format!("bench-{name}.dream"));
        ok(&[&["build", &fixture(&format!("{name}/checkpoint")), "-o", &text(&path)], options].concat());
        path
    });
    text(path)
}

/// 16 slots in 16 steps, of which 15 are run.
fn sudoku() -> String {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let lengths = ["--new-tokens", "16", "--max-prompt", "32", "--max-batch", "1"];
    built(
        "sudoku-text",
        &FILE,
        &[&lengths, &["--steps", "16", "--alg", "entropy", "--dtype", "f32"][..]].concat(),
    )
}

fn policy() -> String {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    built("tabletop-vla-flow", &FILE, &["--chunk", "5"])
}

fn bench(file: &str, more: &[&str]) -> Value {
    ok_json(&[&["bench", file, "--iters", "3", "--format", "json"], more].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn sum(list: &Value, key: &str) -> u64 {
    list.as_array().unwrap().iter().map(|item| item[key].as_u64().unwrap()).sum()
}

#[test]
fn figures_fit_together() {
    let report = bench(&sudoku(), &[]);
    assert_eq!((&report["entry"], &report["target"]), (&json!("generate"), &json!("cpu")));
    let request = json!({ "prompt_tokens": 32, "new_tokens": 16, "images": 0, "passes": 15 });
    assert_eq!(report["request"], request);
    let warm = &report["warm"];
    let [min, p50, p99, max] = ["min_ms", "p50_ms", "p99_ms", "max_ms"].map(|key| number(&warm[key]));
    assert!(0.0 < min && min <= p50 && p50 <= p99 && p99 == max, "{warm}");
    assert!((number(&warm["step_ms"]) - p50 / 15.0).abs() < 1e-9);
    assert!(number(&report["load_ms"]) > 0.0 && number(&report["cold_ms"]) > 0.0);
    assert_eq!(warm["iters"], 3);

    let observed = &report["observed"];
    let [ops, kernels, steps] = ["ops", "kernels", "steps"].map(|key| &observed[key]);
    for key in ["calls", "flop", "bytes"] {
        assert_eq!(sum(ops, key), sum(kernels, key), "{key}");
    }
    let shares: f64 = ops.as_array().unwrap().iter().map(|op| number(&op["share"])).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert_eq!(sum(ops, "calls"), sum(steps, "dispatches"));
    assert!(number(&observed["dispatch_ms"]) <= number(&observed["call_ms"]));
    // What is computed once, and the steps that were run: the first fills no slot.
    let numbers: Vec<&Value> = steps.as_array().unwrap().iter().map(|s| &s["step"]).collect();
    assert_eq!(
        (numbers.len(), numbers[0], numbers[1], numbers[15]),
        (16, &Value::Null, &json!(1), &json!(15))
    );
    let named = |name: &str| kernels.as_array().unwrap().iter().any(|k| k["name"] == name);
    assert!(named("f32_linear_norm_swiglu") && named("f32_attention_packed_rope"), "{kernels}");
    if cfg!(target_os = "linux") {
        assert!(report["page_faults"]["major"].as_u64().is_some());
        assert!(report["memory"]["peak_bytes"].as_u64().unwrap() > 1 << 20);
        assert!(observed["page_faults"]["minor"].as_u64().is_some());
    }
}

/// What was executed costs what the cost model says of the graphs.
#[test]
fn cost_of_the_model() {
    for (file, entries) in [(sudoku(), &["forward", "generate"][..]), (policy(), &["act"][..])] {
        let inspected = ok_json(&["inspect", &file, "--cost", "--format", "json"]);
        for entry in entries {
            let totals = inspected["totals"].as_array().unwrap();
            let total = totals.iter().find(|t| t["entry"] == *entry).unwrap();
            let report = bench(&file, &["--entry", entry, "--warmup", "0"]);
            let flop = sum(&report["observed"]["ops"], "flop");
            let of_model = total["compiled"]["flop"].as_u64().unwrap();
            // A policy's prompt is shorter than the longest.
            let fits = if *entry == "act" { flop < of_model } else { flop == of_model };
            assert!(fits, "{entry}: {flop} of {of_model}");
            assert_eq!(report["request"]["passes"], total["passes"]);
        }
    }
}

#[test]
fn lengths_and_text() {
    let file = sudoku();
    let report = bench(&file, &["--prompt-tokens", "5", "--new-tokens", "3", "--threads", "1"]);
    assert_eq!(report["request"], json!({ "prompt_tokens": 5, "new_tokens": 3, "images": 0, "passes": 2 }));
    has(report["device"].as_str().unwrap(), &["cpu", "1 threads"]);
    let said = ok(&["bench", &file, "--iters", "1", "--entry", "forward"]);
    has(&said, &["forward, 48 tokens of prompt, 1 pass", "p99", "1 observed call", "GFLOP/s", "linear"]);
    let acted = bench(&policy(), &[]);
    assert_eq!((&acted["request"]["images"], &acted["request"]["passes"]), (&json!(1), &json!(4)));
}

/// A device that works ahead of the host is waited for after each dispatch, and the report says so.
#[test]
fn on_another_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("w.dream"));
    let options = "--target cpu,wgpu --steps 2 --new-tokens 4 --max-prompt 8 --max-batch 1 --dtype f32";
    let checkpoint = fixture("tiny-text/checkpoint");
    ok(&[&["build", &checkpoint, "-o", &path], &options.split(' ').collect::<Vec<_>>()[..]].concat());
    let [on_wgpu, on_cpu] = ["wgpu", "cpu"].map(|device| bench(&path, &["--device", device]));
    assert_eq!((&on_wgpu["target"], &on_cpu["target"]), (&json!("wgpu"), &json!("cpu")));
    // The same is computed; weights are packed otherwise.
    let [a, b] = [&on_wgpu, &on_cpu].map(|report| sum(&report["observed"]["ops"], "flop"));
    let off = a.abs_diff(b) as f64 / b as f64;
    assert!(off < 0.01, "{a} {b}");
    has(
        &ok(&["bench", &path, "--device", "wgpu", "--iters", "1"]),
        &["times include the way there and back"],
    );
}

/// With the right to lock memory it is locked, and without it the error says so.
#[test]
fn locked_weights() {
    let output = dreamc(&["bench", &sudoku(), "--iters", "1", "--lock-weights"]);
    match output.status.code() {
        Some(0) => {}
        code => {
            assert_eq!(code, Some(1));
            has(stderr(&output), &["lock"]);
        }
    }
}

#[test]
fn trace_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    ok(&["bench", &sudoku(), "--iters", "2", "--trace", &text(&path)]);
    let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let events = trace.as_array().unwrap();
    let mut last = 0.0;
    for event in events {
        assert_eq!((&event["ph"], &event["pid"], &event["tid"]), (&json!("X"), &json!(1), &json!(1)));
        assert!(event["name"].is_string() && event["args"].is_object());
        assert!(number(&event["ts"]) >= last && number(&event["dur"]) >= 0.0, "{event}");
        last = number(&event["ts"]);
    }
    let of = |cat: &str| events.iter().filter(|e| e["cat"] == cat).count();
    assert_eq!((of("call"), of("step")), (1, 15));
    let linear = events.iter().find(|e| e["cat"] == "linear").unwrap();
    has(linear["args"]["origin"].as_str().unwrap(), &["model.layers.0."]);
    assert!(linear["args"]["flop"].as_u64().unwrap() > 0 && linear["args"]["step"] == 1);
    assert_eq!(files(dir.path()), [path]);
}

#[test]
fn asserted_percentile() {
    let file = sudoku();
    let report = bench(&file, &["--assert-p99", "1e6"]);
    assert_eq!(report["assert_p99"], json!({ "limit_ms": 1e6, "holds": true }));
    let output = dreamc(&["bench", &file, "--iters", "2", "--assert-p99", "0.0001", "--format", "json"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    has(stderr(&output), &["p99 is ", " ms, above the 0.0001 ms", "help:"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["assert_p99"]["holds"], false);
}

#[test]
fn bad_input_is_named() {
    let (file, dir) = (sudoku(), tempfile::tempdir().unwrap());
    let bad = |code: i32, more: &[&str], parts: &[&str]| {
        has(&fails(code, &[&["bench", &file], more].concat()), parts);
    };
    has(&fails(1, &["bench", "no/such.dream"]), &["no/such.dream", "help:"]);
    let other = dir.path().join("other.dream");
    std::fs::write(&other, "no artifact").unwrap();
    has(&fails(1, &["bench", &text(&other)]), &["not a sound artifact"]);
    bad(2, &["--iters", "0"], &["--iters", "0"]);
    bad(2, &["--iters", "some"], &["--iters", "some"]);
    for limit in ["fast", "nan", "inf", "0", "-1", ""] {
        bad(2, &["--assert-p99", limit], &["--assert-p99"]);
    }
    bad(2, &["--entry", "fly"], &["fly", "generate"]);
    bad(1, &["--entry", "act"], &["no entry `act`", "forward, generate"]);
    bad(2, &["--prompt-tokens", "0"], &["--prompt-tokens"]);
    bad(1, &["--prompt-tokens", "33"], &["--prompt-tokens is 33", "at most 32"]);
    bad(1, &["--new-tokens", "17"], &["--new-tokens is 17", "at most 16"]);
    bad(1, &["--entry", "forward", "--new-tokens", "1"], &["--new-tokens", "forward"]);
    has(&fails(1, &["bench", &policy(), "--prompt-tokens", "9"]), &["--prompt-tokens", "`act`"]);
    bad(1, &["--device", "cuda"], &["built for cpu", "cuda"]);
    bad(2, &["--device", "tpu"], &["tpu", "auto, cuda"]);
    bad(2, &["--trace", &text(dir.path())], &["--trace", "is a folder"]);
    bad(2, &["--trace", &text(&dir.path().join("no/t.json"))], &["--trace", "there is no folder"]);
    bad(2, &["--trace", &file], &["--trace", "which this command reads"]);
    assert_eq!(files(dir.path()), [other]);
}

//! `dreamc golden`, `build --golden` and `verify` from outside: what is recorded, what is found to differ, and where.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{dreamc, fails, files, fixture, has, ok, ok_json, scratch, stderr, text};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const SUDOKU: [&str; 10] =
    ["--steps", "8", "--alg", "entropy", "--new-tokens", "16", "--max-prompt", "32", "--max-batch", "1"];

fn build(name: &str, output: &Path, options: &[&str]) {
    ok(&[&["build", &fixture(&format!("{name}/checkpoint")), "-o", &text(output)], options].concat());
}

/// The same model in f32 and in bf16.
fn pair() -> [String; 2] {
    static FILES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        ["f32", "bf16"].map(|dtype| {
            let path = scratch().join(format!("cases-{dtype}.dream"));
            build("sudoku-text", &path, &[&SUDOKU[..], &["--dtype", dtype]].concat());
            path
        })
    });
    files.each_ref().map(|path| text(path))
}

fn policy() -> String {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    text(FILE.get_or_init(|| {
        let path = scratch().join("cases-act.dream");
        build("tabletop-vla-flow", &path, &["--chunk", "5", "--dtype", "f32"]);
        path
    }))
}

/// Cases of the model in f32.
fn recorded(dir: &Path) -> PathBuf {
    let path = dir.join("f32.cases");
    ok(&["golden", "record", &pair()[0], "-o", &text(&path)]);
    path
}

fn check(file: &str, against: &str, more: &[&str]) -> Vec<String> {
    let words = ["golden", "check", file, "--against", against];
    words.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[test]
fn same_answers() {
    let (dir, [file, _]) = (tempfile::tempdir().unwrap(), pair());
    let cases = recorded(dir.path());
    let again = dir.path().join("again.cases");
    ok(&["golden", "record", &file, "-o", &text(&again)]);
    assert!(std::fs::read(&cases).unwrap() == std::fs::read(&again).unwrap(), "two records differ");
    for against in [file.clone(), text(&cases)] {
        let exact = ["--cosine", "1", "--top1", "1", "--tokens", "1", "--format", "json"];
        let report = ok_json(&words(&check(&file, &against, &exact)));
        assert_eq!((&report["holds"], &report["skipped"]), (&json!(true), &json!([])));
        let names: Vec<&Value> = report["cases"].as_array().unwrap().iter().map(|c| &c["case"]).collect();
        assert_eq!(names, ["forward.0", "forward.1", "generate.0", "generate.1"]);
        let forward = &report["cases"][0];
        assert_eq!((&forward["end"]["name"], &forward["end"]["cosine"]), (&json!("logits"), &json!(1.0)));
        let layers: Vec<&Value> = forward["layers"].as_array().unwrap().iter().map(|l| &l["name"]).collect();
        assert_eq!(layers, ["hidden.0", "hidden.1", "hidden.2", "hidden.3", "hidden.4"]);
        assert_eq!(report["cases"][2]["tokens"], json!({ "count": 16, "same": 16 }));
    }
    let said = ok(&words(&check(&file, &text(&cases), &[])));
    has(
        &said,
        &["against", "f32 on cpu", "hidden.4", "logits", "top-1: 32 of 32", "tokens: 16 of 16", "holds"],
    );
    // The cases that fit are judged alone.
    let longer = dir.path().join("longer.dream");
    build("sudoku-text", &longer, &[&["--steps", "9"], &SUDOKU[2..], &["--dtype", "f32"]].concat());
    let report = ok_json(&words(&check(&text(&longer), &text(&cases), &["--format", "json"])));
    assert_eq!(report["cases"].as_array().unwrap().len(), 2);
    has(report["skipped"][0].as_str().unwrap(), &["generate.0", "8 steps", "9"]);
}

/// bf16 is close enough for its own limits, and not for those of f32: then the op is named where the two part.
#[test]
fn where_answers_part() {
    let (dir, [wide, narrow]) = (tempfile::tempdir().unwrap(), pair());
    let cases = text(&recorded(dir.path()));
    let report = ok_json(&words(&check(&narrow, &wide, &["--format", "json"])));
    let forward = &report["cases"][0];
    let cosine = forward["end"]["cosine"].as_f64().unwrap();
    assert!((0.99..1.0).contains(&cosine) && forward["end"]["max_abs"].as_f64().unwrap() > 0.0);
    assert!(forward["top1"]["clear_rows"].as_u64().unwrap() > 20 && forward["first_out"].is_null());

    let strict = ["--cosine", "0.99999", "--format", "json"];
    let output = dreamc(&words(&check(&narrow, &wide, &strict)));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    has(stderr(&output), &["2 of 4 cases did not hold", "`model.layers.0.", "help:"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], false);
    has(report["cases"][0]["first_out"]["name"].as_str().unwrap(), &["model.layers.0."]);
    // Recorded cases know the layers alone.
    has(&fails(3, &words(&check(&narrow, &cases, &strict))), &["`model.layers.0`"]);
    // Every other token is another.
    let other = text(&dir.path().join("tokens.cases"));
    std::fs::write(&other, changed(&std::fs::read(&cases).unwrap(), "generate.0/out/tokens", 0, 1)).unwrap();
    ok(&words(&check(&wide, &other, &[])));
    let said = fails(3, &words(&check(&wide, &other, &["--tokens", "0.6"])));
    has(&said, &["generate.0", "the chosen tokens differ"]);
}

#[test]
fn actions_images_and_given_requests() {
    let (dir, [file, _]) = (tempfile::tempdir().unwrap(), pair());
    let cases = text(&dir.path().join("c"));
    ok(&["golden", "record", &policy(), "-o", &cases, "--cases", "1"]);
    let report = ok_json(&words(&check(&policy(), &cases, &["--cosine", "1", "--format", "json"])));
    let act = &report["cases"][0];
    assert_eq!((&act["case"], &act["end"]["name"]), (&json!("act.0"), &json!("normalized_actions")));

    let vl = dir.path().join("vl.dream");
    let options =
        "--steps 2 --entries forward,encode_image,generate --max-prompt 20 --new-tokens 4 --dtype f32";
    build("tiny-vl", &vl, &options.split(' ').collect::<Vec<_>>());
    ok(&["golden", "record", &text(&vl), "-o", &cases]);
    let report =
        ok_json(&words(&check(&text(&vl), &cases, &["--cosine", "1", "--tokens", "1", "--format", "json"])));
    assert_eq!(report["cases"].as_array().unwrap().len(), 6);

    let ids = text(&dir.path().join("ids.json"));
    std::fs::write(&ids, r#"{"input_ids": [[5, 6, 7, 8, 9]], "attention_mask": [[0, 1, 1, 1, 1]]}"#).unwrap();
    ok(&["golden", "record", &file, "-o", &cases, "--ids", &ids]);
    let report = ok_json(&words(&check(&file, &cases, &["--cosine", "1", "--format", "json"])));
    let listed: Vec<&Value> = report["cases"].as_array().unwrap().iter().map(|c| &c["case"]).collect();
    assert_eq!(listed, ["forward.0", "generate.0"]);
    // Padding does not count.
    assert_eq!(report["cases"][0]["top1"]["rows"], 4);

    let inputs = text(&dir.path().join("in.safetensors"));
    let bytes: Vec<u8> = [5_i64, 6, 7].into_iter().flat_map(i64::to_le_bytes).collect();
    let view = TensorView::new(Dtype::I64, vec![1, 3], &bytes).unwrap();
    std::fs::write(&inputs, serialize([("input_ids", view)], None).unwrap()).unwrap();
    let more = ["--inputs", &inputs, "--cases", "1", "--prompt-tokens", "4", "--format", "json"];
    let report = ok_json(&words(&check(&file, &file, &more)));
    let rows: Vec<&Value> = report["cases"].as_array().unwrap().iter().map(|c| &c["top1"]["rows"]).collect();
    assert_eq!(rows, [&json!(4), &Value::Null, &json!(3)]);
}

/// A checkpoint is built in f32 and asked.
#[test]
fn of_a_checkpoint() {
    let (dir, [_, narrow]) = (tempfile::tempdir().unwrap(), pair());
    let cases = text(&dir.path().join("c"));
    ok(&["golden", "record", &fixture("sudoku-text/checkpoint"), "-o", &cases]);
    let report = ok_json(&words(&check(&narrow, &cases, &["--format", "json"])));
    has(report["against"].as_str().unwrap(), &["f32 on cpu"]);
    has(&fails(1, &["golden", "record", &text(dir.path()), "-o", &cases]), &["config.json"]);
}

#[test]
fn carried_by_the_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let cases = recorded(dir.path());
    let file = dir.path().join("a.dream");
    let path = text(&file);
    for (dtype, cosine) in [("f32", 0.999_999), ("bf16", 0.99)] {
        build("sudoku-text", &file, &[&SUDOKU[..], &["--dtype", dtype, "--golden", &text(&cases)]].concat());
        let report = ok_json(&["verify", &path, "--format", "json", "--device", "cpu"]);
        assert_eq!((&report["holds"], &report["golden"]["limits"]["cosine"]), (&json!(true), &json!(cosine)));
        assert_eq!(report["golden"]["cases"].as_array().unwrap().len(), 4);
        has(&ok(&["verify", &path]), &["hidden.2", "holds: all ", ", 4 cases"]);
    }
    has(&ok(&["inspect", &path]), &["golden "]);
    has(&fails(1, &["verify", &path, "--device", "cuda"]), &["built for cpu"]);

    // A file for a device that is not here: its bytes are checked all the same, and that is what is said.
    if !cfg!(target_vendor = "apple") {
        let metal = ["--target", "metal", "--dtype", "f32", "--golden", &text(&cases)];
        build("sudoku-text", &file, &[&SUDOKU[..], &metal].concat());
        let report = ok_json(&["verify", &path, "--format", "json"]);
        assert_eq!((&report["holds"], &report["golden"]), (&json!(true), &Value::Null));
        has(report["golden_skipped"].as_str().unwrap(), &["Apple"]);
        has(&ok(&["verify", &path]), &["holds: all ", "cases not run: "]);
        fails(1, &["verify", &path, "--device", "metal"]);
    }

    // Answers that are not those of the checkpoint.
    let other = dir.path().join("other.cases");
    std::fs::write(&other, changed(&std::fs::read(&cases).unwrap(), "forward.1/out/hidden.2", 3, 0x80))
        .unwrap();
    build("sudoku-text", &file, &[&SUDOKU[..], &["--dtype", "f32", "--golden", &text(&other)]].concat());
    let said = fails(3, &["verify", &path]);
    has(&said, &["1 of 4 cases did not hold", "forward.1", "`model.layers.1`"]);
    let report: Value =
        serde_json::from_slice(&dreamc(&["verify", &path, "--format", "json"]).stdout).unwrap();
    assert_eq!(report["holds"], false);
    has(report["problem"].as_str().unwrap(), &["`model.layers.1`"]);

    // Those of another checkpoint leave the old file as it was.
    let before = std::fs::read(&file).unwrap();
    ok(&["golden", "record", &policy(), "-o", &text(&other), "--cases", "1"]);
    let checkpoint = fixture("sudoku-text/checkpoint");
    let build = |golden: &str| {
        fails(1, &[&["build", &checkpoint, "-o", &path, "--golden", golden], &SUDOKU[..]].concat())
    };
    has(&build(&text(&other)), &["--golden", "of checkpoint"]);
    has(&build("no/such.cases"), &["no/such.cases", "help:"]);
    has(&build(&checkpoint_config()), &["neither an artifact nor a file of cases"]);
    assert!(std::fs::read(&file).unwrap() == before);
    assert_eq!(files(dir.path()).len(), 3);
}

fn checkpoint_config() -> String {
    fixture("sudoku-text/checkpoint/config.json")
}

/// The same file of cases with `bits` turned in byte `first` of a tensor, and every 16th after it.
fn changed(bytes: &[u8], name: &str, first: usize, bits: u8) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut data = file.tensor(name).unwrap().data().to_vec();
    data.iter_mut().skip(first).step_by(16).for_each(|byte| *byte ^= bits);
    let views = file.iter().map(|(n, view)| {
        let bytes = if n == name { data.as_slice() } else { view.data() };
        (n.to_owned(), TensorView::new(view.dtype(), view.shape().to_vec(), bytes).unwrap())
    });
    serialize(views, metadata.metadata().clone()).unwrap()
}

#[test]
fn bad_input_is_named() {
    let (dir, [file, _]) = (tempfile::tempdir().unwrap(), pair());
    let cases = recorded(dir.path());
    let (good, bad) = (text(&cases), text(&dir.path().join("bad")));
    let check_fails = |code: i32, against: &str, more: &[&str], parts: &[&str]| {
        has(&fails(code, &words(&check(&file, against, more))), parts);
    };
    check_fails(1, "no/such", &[], &["no/such", "help:"]);
    has(&fails(1, &words(&check("no/such.dream", &good, &[]))), &["no/such.dream"]);
    has(&fails(2, &["golden", "check", &file]), &["--against"]);
    let output = dreamc(&["golden"]);
    assert_eq!(output.status.code(), Some(2));
    has(stderr(&output), &["record", "check"]);
    for limit in ["1.5", "-0.1", "nan", "some"] {
        check_fails(2, &good, &["--cosine", limit], &["--cosine", "from 0 to 1"]);
    }
    check_fails(2, &good, &["--cases", "1"], &["requests of their own", "--cases"]);
    check_fails(2, &file, &["--cases", "0"], &["--cases"]);
    check_fails(1, &file, &["--prompt-tokens", "33"], &["--prompt-tokens is 33", "at most 32"]);
    check_fails(1, &file, &["--ids", "no.json"], &["no.json"]);

    // Of another checkpoint; and such that no case fits.
    let other = text(&dir.path().join("other"));
    ok(&["golden", "record", &policy(), "-o", &other, "--cases", "1"]);
    check_fails(1, &other, &[], &["another checkpoint", "--any-source"]);
    check_fails(1, &policy(), &[], &["another checkpoint", "--any-source"]);
    check_fails(1, &other, &["--any-source"], &["none of the cases fits", "no entry `act`"]);

    // What is no file of cases.
    let whole = std::fs::read(&cases).unwrap();
    for (bytes, part) in [
        (&b"text"[..], "neither an artifact nor a file of cases"),
        (&whole[..whole.len() - 1], "neither an artifact nor a file of cases"),
        (&whole[..100], "neither an artifact nor a file of cases"),
        (&[], "neither an artifact nor a file of cases"),
    ] {
        std::fs::write(&bad, bytes).unwrap();
        check_fails(1, &bad, &[], &[part]);
    }
    let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
    std::fs::write(&bad, serialize([("x", view.clone())], None).unwrap()).unwrap();
    check_fails(1, &bad, &[], &["holds no cases"]);
    let (_, metadata) = SafeTensors::read_metadata(&whole).unwrap();
    std::fs::write(&bad, serialize([("x", view)], metadata.metadata().clone()).unwrap()).unwrap();
    check_fails(1, &bad, &[], &["damaged case `forward.0`", "input_ids"]);

    has(&fails(2, &["golden", "record", &file, "-o", &file]), &["which this command reads"]);
    has(&fails(1, &["golden", "record", &file, "-o", "no/such/folder/c"]), &["there is no folder"]);
    has(&fails(1, &["golden", "record", "no/such", "-o", &bad]), &["no/such"]);
}

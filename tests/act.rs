//! `dreamc act` and the builds that it needs, as a robot's builder uses them.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{dreamc, fails, fixture, has, ok, ok_json, scratch, stderr, text};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::OnceLock;

const TASK: &str = "pick up the blue block";

/// The tabletop policies, built once.
fn policy(name: &str) -> String {
    static BUILT: OnceLock<()> = OnceLock::new();
    let path = |name: &str| text(&scratch().join(format!("{name}.dream")));
    BUILT.get_or_init(|| {
        for name in ["tabletop-vla", "tabletop-vla-flow", "tabletop-vla-l1"] {
            let checkpoint = fixture(&format!("{name}/checkpoint"));
            ok(&["build", &checkpoint, "-o", &path(name), "--chunk", "5", "--dtype", "f32"]);
        }
    });
    path(name)
}

fn frame() -> String {
    fixture("tabletop-vla/frames/seed_0.png")
}

fn act<'a>(file: &'a str, image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["act", file, "--task", TASK, "--image", image, "--format", "json"], more].concat()
}

fn copy(from: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The JSON is as the contract has it; the robot goes where the block is.
#[test]
fn answers() {
    let (file, image) = (policy("tabletop-vla"), frame());
    let chunk = ok_json(&act(&file, &image, &[]));
    assert_eq!(chunk["actions"].as_array().unwrap().len(), 5);
    assert_eq!(chunk["actions"][0].as_array().unwrap().len(), 7);
    assert_eq!(chunk["normalized_actions"][4].as_array().unwrap().len(), 7);
    assert_eq!(chunk["token_ids"].as_array().unwrap().len(), 35);
    assert_eq!(chunk["forwards"], 1);
    // The gripper is at (69, 72), the blue block at (63, 38).
    let (dx, dy) = (chunk["actions"][0][0].as_f64().unwrap(), chunk["actions"][0][1].as_f64().unwrap());
    assert!((-10.0..0.0).contains(&dx) && dy < -9.0, "{chunk}");

    let flow = policy("tabletop-vla-flow");
    let chunk = ok_json(&act(&flow, &image, &["--proprio", "69,72"]));
    assert_eq!((&chunk["forwards"], &chunk["token_ids"]), (&json!(4), &Value::Null));
    let plain = ok(&["act", &flow, "--task", TASK, "--image", &image, "--proprio", "69,72"]);
    assert_eq!((plain.lines().count(), plain.lines().next().unwrap().split(' ').count()), (5, 7));

    let gripper = ok_json(&act(&file, &image, &["--gripper", "libero"]));
    assert_eq!((&gripper["actions"][0][6], &gripper["actions"][4][6]), (&json!(-1.0), &json!(1.0)));
    ok(&act(&file, &fixture("tiny-vla/images/env.png"), &["--camera", "libero"]));
}

/// The same seed gives the same actions, another seed others; a file of noise is taken as it is.
#[test]
fn noise() {
    let (file, image) = (policy("tabletop-vla-flow"), frame());
    let proprio = ["--proprio", "69,72"];
    let run = |more: &[&str]| ok_json(&act(&file, &image, &[&proprio, more].concat()));
    assert_eq!(run(&[]), run(&["--seed", "0", "--threads", "1"]));
    assert_ne!(run(&[]), run(&["--seed", "1"]));

    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, dims: Vec<usize>, value: f32| {
        let bytes: Vec<u8> = (0..dims.iter().product()).flat_map(|_: usize| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, dims, &bytes).unwrap();
        let path = dir.path().join("noise.safetensors");
        std::fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
        text(&path)
    };
    let path = write("noise", vec![1, 5, 7], 0.25);
    assert_eq!(run(&["--noise", &path]), run(&["--noise", &path, "--seed", "9"]));
    let refused = |path: &str, parts: &[&str]| {
        has(&fails(1, &act(&file, &image, &[&proprio, ["--noise", path].as_slice()].concat())), parts);
    };
    refused(&write("noise", vec![1, 5, 6], 0.0), &["[1, 5, 6]", "[1, 5, 7]"]);
    refused(&write("noise", vec![1, 7, 5], 0.0), &["[1, 7, 5]", "[1, 5, 7]"]);
    refused(&write("noise", vec![1, 5, 7], f32::NAN), &["[1, 5, 7]", "finite"]);
    refused(&write("sound", vec![1, 5, 7], 0.0), &["no tensor `noise`"]);
    refused("no/such.safetensors", &["no/such.safetensors"]);
    let discrete = policy("tabletop-vla");
    let path = write("noise", vec![1, 5, 7], 0.0);
    has(&fails(1, &act(&discrete, &image, &["--noise", &path])), &["no noise"]);
}

#[test]
fn bad_observations_are_named() {
    let (file, flow, image) = (policy("tabletop-vla"), policy("tabletop-vla-flow"), frame());
    let dir = tempfile::tempdir().unwrap();
    has(&fails(1, &act(&file, &image, &["--image", &image])), &["1 views, not 2"]);
    has(&fails(1, &act(&file, &image, &["--proprio", "1,2"])), &["no robot state"]);
    has(&fails(1, &act(&flow, &image, &[])), &["2 numbers", "--proprio"]);
    has(&fails(1, &act(&flow, &image, &["--proprio", "1,2,3"])), &["3", "2", "tabletop"]);
    has(&fails(1, &act(&flow, &image, &["--proprio", "NaN,2"])), &["NaN", "proprio"]);
    has(&fails(2, &act(&flow, &image, &["--proprio", "a,2"])), &["--proprio"]);
    has(&fails(2, &["act", &file, "--task", TASK]), &["--image"]);
    has(&fails(2, &act(&file, &image, &["--camera", "moon"])), &["libero"]);
    has(&fails(2, &act(&file, &image, &["--temperature", "-1"])), &["temperature"]);

    let truncated = text(&dir.path().join("half.png"));
    let bytes = std::fs::read(&image).unwrap();
    std::fs::write(&truncated, &bytes[..bytes.len() / 2]).unwrap();
    has(&fails(1, &act(&file, &truncated, &[])), &["half.png"]);
    let empty = text(&dir.path().join("empty.png"));
    std::fs::write(&empty, b"").unwrap();
    has(&fails(1, &act(&file, &empty, &[])), &["empty.png"]);
    has(&fails(1, &act(&file, "no/such.png", &[])), &["no/such.png"]);

    let long = "block ".repeat(200);
    let output = fails(1, &["act", &file, "--task", &long, "--image", &image]);
    has(&output, &["--max-prompt", "limit is"]);
    let sudoku = text(&dir.path().join("sudoku.dream"));
    ok(&[
        "build",
        &fixture("sudoku-text/checkpoint"),
        "-o",
        &sudoku,
        "--steps",
        "1",
        "--entries",
        "generate",
    ]);
    has(&fails(1, &act(&sudoku, &image, &[])), &["no entry `act`"]);
    has(&fails(1, &["run", &file, "--raw", "a"]), &["no entry `generate`", "act"]);
}

/// Everything that can be wrong with statistics and heads, each by its own words.
#[test]
fn builds_that_cannot_act() {
    let dir = tempfile::tempdir().unwrap();
    let output = text(&dir.path().join("out.dream"));
    let spoil = |name: &str, from: &str, change: &dyn Fn(&Path)| {
        let checkpoint = dir.path().join(name);
        copy(&fixture(&format!("{from}/checkpoint")), &checkpoint);
        change(&checkpoint);
        text(&checkpoint)
    };
    let build = |checkpoint: &str, code: i32, more: &[&str], parts: &[&str]| {
        has(&fails(code, &[&["build", checkpoint, "-o", &output, "--chunk", "5"], more].concat()), parts);
        assert!(!Path::new(&output).exists(), "{more:?}");
    };
    let statistics = |path: &Path, change: &dyn Fn(&mut Value)| {
        let path = path.join("dataset_statistics.json");
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
    };
    let flow = fixture("tabletop-vla-flow/checkpoint");
    build(&flow, 1, &["--unnorm-key", "moon"], &["moon", "tabletop"]);
    build(&flow, 1, &["--stats", "no/such.json"], &["no/such.json", "--stats"]);
    build(&flow, 1, &["--mode", "l1"], &["flow", "l1"]);
    build(&flow, 1, &["--mode", "ddim"], &["ddim"]);
    build(&flow, 2, &["--mode", "dance"], &["dance", "one-step"]);
    build(&flow, 2, &["--mode", "one-step", "--steps", "4"], &["--steps is 4", "one-step"]);
    build(&flow, 2, &["--chunk", "0"], &["--chunk"]);
    build(&flow, 2, &["--only-action-ids"], &["--only-action-ids"]);
    build(&flow, 2, &["--max-batch", "2"], &["one observation"]);
    build(&flow, 2, &["--proprio", "maybe"], &["on or off"]);
    build(&flow, 2, &["--steps", "60000"], &["--flow-clock exact"]);
    build(&fixture("tabletop-vla/checkpoint"), 1, &["--mode", "flow"], &["action_head", "--heads"]);
    build(&fixture("tabletop-vla/checkpoint"), 1, &["--proprio", "on"], &["proprio"]);
    build(&fixture("tiny-vl/checkpoint"), 2, &["--entries", "act"], &["--entries is act", "vl models"]);

    let remove = |file: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(file)).unwrap();
    let none = spoil("no-statistics", "tabletop-vla-flow", &remove("dataset_statistics.json"));
    build(&none, 1, &[], &["dataset_statistics.json", "--stats"]);
    let noisy = "noisy_action_projector--latest_checkpoint.pt";
    build(&spoil("no-noise", "tabletop-vla-flow", &remove(noisy)), 1, &[], &["noisy_action_projector"]);
    let processor = spoil("no-processor", "tabletop-vla-flow", &remove("preprocessor_config.json"));
    build(&processor, 1, &[], &["preprocessor_config.json"]);
    let tokenizer = spoil("no-tokenizer", "tabletop-vla-flow", &|dir| {
        for file in ["tokenizer.json", "vocab.json", "merges.txt"] {
            std::fs::remove_file(dir.join(file)).unwrap();
        }
    });
    build(&tokenizer, 1, &[], &["tokenizer"]);
    let narrow = spoil("narrow", "tabletop-vla-flow", &|dir| {
        statistics(dir, &|all| {
            for key in ["q01", "q99", "mask", "mean", "std", "min", "max"] {
                all["tabletop"]["action"][key].as_array_mut().unwrap().pop();
            }
        });
    });
    build(&narrow, 1, &[], &["action_head", "7", "6"]);
    let uneven = spoil("uneven", "tabletop-vla-flow", &|dir| {
        statistics(dir, &|all| drop(all["tabletop"]["action"]["q01"].as_array_mut().unwrap().pop()));
    });
    build(&uneven, 1, &[], &["tabletop", "action"]);
    let several = spoil("several", "tabletop-vla-flow", &|dir| {
        statistics(dir, &|all| {
            all["other"] = all["tabletop"].clone();
        });
    });
    build(&several, 1, &[], &["other", "tabletop", "--unnorm-key"]);
    ok(&["build", &several, "-o", &output, "--chunk", "5", "--unnorm-key", "other"]);
    assert_eq!(ok_json(&act(&output, &frame(), &["--proprio", "1,2"]))["forwards"], 4);
}

/// What is not given is taken from the checkpoint, and said.
#[test]
fn defaults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = text(&dir.path().join("a.dream"));
    let built = dreamc(&["build", &fixture("tabletop-vla-flow/checkpoint"), "-o", &output]);
    let said = ["mode flow (the head's own", "chunk 8", "views 1", "proprio on", "steps 4", "max-prompt"];
    has(stderr(&built), &said);
    let shown = ok(&["inspect", &output]);
    has(&shown, &["mode", "flow", "chunk", "front", "act on cpu"]);
    // The head alone makes actions: there is no output projection.
    assert!(!ok(&["inspect", &output, "--plan"]).contains("lm_head"));
    // Seven steps of the reference's clock are eight.
    let checkpoint = fixture("tabletop-vla-flow/checkpoint");
    for (clock, forwards) in [("reference", 8), ("exact", 7)] {
        ok(&["build", &checkpoint, "-o", &output, "--chunk", "5", "--steps", "7", "--flow-clock", clock]);
        assert_eq!(ok_json(&act(&output, &frame(), &["--proprio", "1,2"]))["forwards"], forwards);
    }
}

/// Slots that only take action tokens give action tokens, whatever the model.
#[test]
fn only_action_ids() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, output) = (dir.path().join("made-up"), text(&dir.path().join("a.dream")));
    let checkpoint = text(&checkpoint);
    ok(&["synth", "--variant", "vla", "--size", "tiny", "-o", &checkpoint]);
    for mode in ["discrete", "one-step"] {
        for only in [false, true] {
            let flag: &[&str] = if only { &["--only-action-ids"] } else { &[] };
            ok(&[&["build", &checkpoint, "-o", &output, "--mode", mode, "--proprio", "off"], flag].concat());
            let result = dreamc(&act(&output, &frame(), &[]));
            assert!(result.status.success(), "{}", stderr(&result));
            assert_eq!(stderr(&result).contains("no action tokens"), !only, "{mode}: {}", stderr(&result));
        }
    }
}

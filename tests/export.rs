//! `dreamc export lerobot`: the folder, and what is refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{fails, fixture, has, ok, text};
use serde_json::{Value, json};
use std::path::Path;

/// A policy of the simulated robot; `views` of them are asked for.
fn policy(dir: &Path, views: &str) -> String {
    let file = text(&dir.join("policy.dream"));
    let size = ["--views", views, "--chunk", "5", "--image", "112x112", "--max-prompt", "96"];
    let checkpoint = fixture("tabletop-vla-l1/checkpoint");
    ok(&[&["build", &checkpoint, "-o", &file], size.as_slice()].concat());
    file
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_folder_for_lerobot() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (policy(dir.path(), "1"), dir.path().join("out"));
    ok(&["export", "lerobot", &file, &text(&out), "--task", "pick up the red block"]);
    let mut names: Vec<_> = out.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["config.json", "policy.dream", "policy_postprocessor.json", "policy_preprocessor.json"]
    );
    assert!(std::fs::read(&file).unwrap() == std::fs::read(out.join("policy.dream")).unwrap());
    let config = json_of(&out.join("config.json"));
    assert_eq!(
        config["input_features"]["observation.images.image"],
        json!({"type": "VISUAL", "shape": [3, 112, 112]})
    );
    assert_eq!(config["output_features"]["action"]["shape"], json!([7]));
    for (key, value) in [
        ("type", json!("dream")),
        ("artifact", json!("policy.dream")),
        ("task", json!("pick up the red block")),
        ("chunk_size", json!(5)),
        ("n_action_steps", json!(5)),
        ("gripper", json!("none")),
        ("push_to_hub", json!(false)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let steps = |name: &str| -> Vec<Value> {
        let pipeline = json_of(&out.join(name));
        pipeline["steps"].as_array().unwrap().iter().map(|step| step["registry_name"].clone()).collect()
    };
    assert_eq!(
        steps("policy_preprocessor.json"),
        ["rename_observations_processor", "to_batch_processor", "device_processor"]
    );
    assert_eq!(steps("policy_postprocessor.json"), ["device_processor"]);
    // Not over what is there, and nothing is left behind.
    has(&fails(1, &["export", "lerobot", &file, &text(&out)]), &["is not empty"]);
    assert_eq!(dir.path().read_dir().unwrap().count(), 2);
}

#[test]
fn views_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (policy(dir.path(), "2"), dir.path().join("out"));
    let names = ["--view", "wrist,agent", "--n-action-steps", "2", "--gripper", "libero"];
    ok(&[["export", "lerobot", &file, &text(&out)].as_slice(), &names].concat());
    let config = std::fs::read_to_string(out.join("config.json")).unwrap();
    let at = |part: &str| config.find(part).unwrap();
    assert!(at("observation.images.wrist") < at("observation.images.agent"), "{config}");
    assert!(config.contains("\"n_action_steps\": 2") && config.contains("\"gripper\": \"libero\""));
    let other = text(&dir.path().join("other"));
    for (options, code, said) in [
        (["--view", "a"], 2, "2 views"),
        (["--view", "a,a"], 2, "twice"),
        (["--view", "a,b c"], 2, "letters"),
        (["--n-action-steps", "6"], 2, "a chunk has 5"),
        (["--image", "64x64"], 2, "112x112"),
    ] {
        has(&fails(code, &[["export", "lerobot", &file, &other].as_slice(), &options].concat()), &[said]);
    }
    assert!(!Path::new(&other).exists());
    has(&fails(1, &["export", "lerobot", "/no/such/file", &other]), &["/no/such/file"]);
}

#[test]
fn what_does_not_act_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (text(&dir.path().join("text.dream")), text(&dir.path().join("out")));
    let size = ["--alg", "entropy", "--steps", "4", "--new-tokens", "16", "--max-prompt", "32"];
    ok(&[&["build", &fixture("sudoku-text/checkpoint"), "-o", &file], size.as_slice()].concat());
    has(&fails(1, &["export", "lerobot", &file, &out]), &["has no entry `act`", "--entries act"]);
}

//! Scenes and frames equal the recorded ones, pixel by pixel; the expert succeeds.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use tabletop::{Scene, episode};

fn fixture(file: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/fixtures/tabletop-vla");
    std::fs::read(dir.join(file)).unwrap()
}

fn sha256(frame: &[u8]) -> String {
    Sha256::digest(frame).iter().map(|b| format!("{b:02x}")).collect()
}

fn point(value: &Value) -> [i32; 2] {
    [0, 1].map(|i| value[i].as_i64().unwrap() as i32)
}

fn same(scene: &Scene, wanted: &Value, hash: &str) {
    let seed = &wanted["seed"];
    assert_eq!(scene.blocks, [0, 1, 2].map(|i| point(&wanted["blocks"][i])), "seed {seed}");
    assert_eq!(scene.grip, point(&wanted["grip"]), "seed {seed}");
    assert_eq!(scene.instruction(), wanted["instruction"], "seed {seed}");
    assert_eq!(sha256(&scene.frame()), wanted[hash], "seed {seed}");
}

#[test]
fn scenes_and_frames() {
    let scenes: Vec<Value> = serde_json::from_slice(&fixture("frames/scenes.json")).unwrap();
    assert_eq!(scenes.len(), 8);
    for wanted in &scenes {
        let scene = Scene::new(wanted["seed"].as_u64().unwrap());
        same(&scene, wanted, "sha256");
        assert_eq!(scene.target as u64, wanted["target"].as_u64().unwrap());
    }
    let golden: Value = serde_json::from_slice(&fixture("golden.json")).unwrap();
    for wanted in golden["observations"].as_array().unwrap() {
        same(&Scene::new(wanted["seed"].as_u64().unwrap()), wanted, "frame_sha256");
    }
}

/// Straight to the block, then close.
#[test]
fn the_expert_succeeds() {
    for seed in 0..50 {
        let mut frames = 0;
        let expert = |_: usize, scene: &Scene| {
            let (mut grip, goal) = (scene.grip, scene.goal());
            Ok::<_, ()>(
                (0..5)
                    .map(|_| {
                        let there = grip == goal;
                        let step = [0, 1].map(|i| (goal[i] - grip[i]).clamp(-10, 10));
                        grip = [0, 1].map(|i| grip[i] + step[i]);
                        let [dx, dy] = step.map(f64::from);
                        [dx, dy, 0.0, 0.0, 0.0, 0.0, if there { 0.0 } else { 1.0 }]
                    })
                    .collect(),
            )
        };
        let outcome = episode::run(Scene::new(seed), expert, |_| frames += 1).unwrap();
        assert!(outcome.success && outcome.closed && outcome.error_px == 0, "seed {seed}: {outcome:?}");
        assert_eq!(frames, outcome.actions + 1);
    }
}

#[test]
fn never_closing_fails() {
    let stay = |_: usize, _: &Scene| Ok::<_, ()>(vec![[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]; 5]);
    let outcome = episode::run(Scene::new(7), stay, |_| ()).unwrap();
    assert_eq!((outcome.success, outcome.closed, outcome.actions), (false, false, 30));
}

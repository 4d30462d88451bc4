//! The robot of `examples/tabletop`, driven from C: `examples/c/tabletop.c` does what the crate `dream` does, linked
//! both ways.
//!
//! Cargo builds no library for C on behalf of a test, so the test asks for it.

use cargo_metadata::Message;
use dream::{ActOptions, Image, Observation, OpenOptions, Policy, Sampling};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use tabletop::{Scene, episode, scene::SIDE};
use tempfile::TempDir;

const EPISODES: u64 = 10;
const FIRST_SEED: u64 = 1000;

#[test]
fn c_example_does_what_rust_does() {
    let folder = TempDir::new().unwrap();
    let artifact = folder.path().join("tabletop.dream");
    dreamc_golden::trained::tabletop(&artifact);
    let expected = episodes(&artifact);
    // The fixture's own count is 10 of these 10.
    assert!(expected.ends_with("\n10 of 10\n"), "{expected}");

    let [shared, archive] = libraries();
    let dir = shared.parent().unwrap();
    let dynamic = ["-L".into(), dir.into(), "-ldream".into(), "-lm".into()];
    let within = [archive, "-lpthread".into(), "-lm".into(), "-ldl".into()];
    for (name, link) in [("dynamic", dynamic), ("static", within)] {
        let program = folder.path().join(name);
        let mut cc = Command::new("cc");
        cc.args(
            "-std=c11 -pedantic -Wall -Wextra -Werror -O1 -I runtime/capi examples/c/tabletop.c -o"
                .split(' '),
        );
        succeed(cc.arg(&program).args(link));
        let mut run = Command::new(&program);
        let said = succeed(run.arg(&artifact).arg(EPISODES.to_string()).env("LD_LIBRARY_PATH", dir));
        assert_eq!(said, expected, "{name}");

        let damaged = folder.path().join("damaged.dream");
        std::fs::write(&damaged, &std::fs::read(&artifact).unwrap()[..1000]).unwrap();
        let output =
            Command::new(&program).arg(&damaged).arg("1").env("LD_LIBRARY_PATH", dir).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("not a sound artifact"), "{stderr}");
    }
}

/// What the program prints, from the crate `dream`.
fn episodes(artifact: &Path) -> String {
    let mut policy = Policy::open(artifact, &OpenOptions::default()).expect("the artifact is sound");
    let (mut text, mut successes) = (String::new(), 0);
    for seed in FIRST_SEED..FIRST_SEED + EPISODES {
        let scene = Scene::new(seed);
        let task = scene.instruction();
        let act = |query: usize, scene: &Scene| {
            let image =
                Image::from_rgb8(SIDE as u32, SIDE as u32, scene.frame()).expect("a frame is an image");
            let seen = Observation { images: &[image], task: &task, proprio: None };
            let sampling = Sampling { seed: query as u64, ..Sampling::default() };
            let made = policy.act(&seen, &ActOptions { sampling, noise: None }).expect("the policy acts");
            let action = |action: Vec<f64>| action.try_into().expect("an action has 7 numbers");
            Ok::<_, Infallible>(made.actions.into_iter().map(action).collect())
        };
        let Ok(end) = episode::run(scene, act, |_| ());
        let word = if end.success { "success" } else { "failure" };
        let [x, y] = end.grip;
        text.push_str(&format!("seed {seed}: {task}: {word} after {} actions at {x},{y}\n", end.actions));
        successes += u64::from(end.success);
    }
    text + &format!("{successes} of {EPISODES}\n")
}

/// `libdream.so` and `libdream.a` of these sources, built as this test was. A test of the workspace has built all that
/// they consist of, if the same packages are named, with dev-dependencies: so only they are left to do.
fn libraries() -> [PathBuf; 2] {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args("build --locked --workspace --lib --test c_example".split(' '));
    cargo.arg("--message-format=json-render-diagnostics");
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let list = succeed(&mut cargo);
    let mut files = Message::parse_stream(list.as_bytes()).filter_map(|message| match message {
        Ok(Message::CompilerArtifact(made)) if made.manifest_path.ends_with("runtime/capi/Cargo.toml") => {
            Some(made.filenames)
        }
        _ => None,
    });
    let files = files.next().expect("cargo says what it has built");
    ["so", "a"].map(|kind| {
        let file = files.iter().find(|file| file.extension() == Some(kind));
        file.unwrap_or_else(|| panic!("no .{kind} among {files:?}")).clone().into_std_path_buf()
    })
}

/// Runs a command in the workspace's root and gives what it prints.
fn succeed(command: &mut Command) -> String {
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("text is printed")
}

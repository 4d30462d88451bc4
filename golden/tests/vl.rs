//! `fixtures/tiny-vl`: every case through every runner.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc::compile::BuildOptions;
use dreamc_golden::Fixture;
use dreamc_golden::runners::{Built, Compiled, Interpreter};
use dreamc_golden::vl::{judge_forward, judge_sampling, judge_vision, options};
use safetensors::SafeTensors;
use std::fs;

#[test]
fn vision_in_the_interpreter() {
    judge_vision(&|options| Interpreter::boxed(options, false), false);
}

#[test]
fn vision_in_the_interpreter_after_all_passes() {
    judge_vision(&|options| Interpreter::boxed(options, true), true);
}

#[test]
fn vision_on_the_cpu() {
    judge_vision(&Compiled::all, false);
}

#[test]
fn forward_in_the_interpreter() {
    judge_forward(&|options| Interpreter::boxed(options, false), false);
}

#[test]
fn forward_in_the_interpreter_after_all_passes() {
    judge_forward(&|options| Interpreter::boxed(options, true), true);
}

#[test]
fn forward_on_the_cpu() {
    judge_forward(&Compiled::all, false);
}

#[test]
fn sampling_in_the_interpreter() {
    judge_sampling(&|options| Interpreter::boxed(options, false));
}

#[test]
fn sampling_in_the_interpreter_after_all_passes() {
    judge_sampling(&|options| Interpreter::boxed(options, true));
}

#[test]
fn vision_on_wgpu() {
    judge_vision(&Compiled::wgpu, false);
}

#[test]
fn forward_on_wgpu() {
    judge_forward(&Compiled::wgpu, false);
}

#[test]
fn sampling_on_wgpu() {
    judge_sampling(&Compiled::wgpu);
}

#[test]
fn sampling_on_the_cpu() {
    judge_sampling(&Compiled::all);
}

/// The tensors of all shards in one file: what is built is the same to the byte, and so is what it answers.
#[test]
fn shards_and_a_single_file() {
    let fixture = Fixture::open("tiny-vl");
    let folder = tempfile::tempdir().unwrap();
    let mut shards = Vec::new();
    for entry in fs::read_dir(fixture.path("checkpoint")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".safetensors") {
            shards.push(fs::read(&path).unwrap());
        } else if !name.ends_with(".index.json") {
            fs::copy(&path, folder.path().join(name)).unwrap();
        }
    }
    assert_eq!(shards.len(), 4);
    let shards: Vec<_> = shards.iter().map(|bytes| SafeTensors::deserialize(bytes).unwrap()).collect();
    let tensors = shards.iter().flat_map(SafeTensors::tensors);
    let single = safetensors::serialize(tensors, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), single).unwrap();

    let sharded = options(&fixture);
    let single = BuildOptions { checkpoint: folder.path().to_owned(), ..sharded.clone() };
    let [sharded, single] = [sharded, single].map(|options| fs::read(Built::new(&options).path()).unwrap());
    assert!(sharded == single, "another file");
}

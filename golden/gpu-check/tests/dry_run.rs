//! The program on the WebGPU device: the timings of a tiny model, and the file.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::Value;
use std::process::Command;

#[test]
fn timings_on_wgpu() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("found/result.json");
    let arguments = "run --device wgpu --only timing,torch --size tiny --lengths 5,24 --iterations 1 --json";
    let status = Command::new(env!("CARGO_BIN_EXE_gpu-check"))
        .args(arguments.split(' '))
        .arg(&file)
        // No Python, whatever this machine has.
        .env("PATH", folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let programs = found["timing"].as_array().unwrap();
    assert_eq!(programs.len(), 3);
    for program in programs {
        let lengths = program["lengths"].as_array().unwrap();
        assert_eq!(lengths.len(), 2);
        for length in lengths {
            assert!(length["ms_p50"].as_f64().unwrap() > 0.0);
            let kernels = length["kernels"].as_array().unwrap();
            assert!(kernels.len() > 5, "{length}");
            assert!(kernels.iter().any(|k| k["flop_each"].as_u64().unwrap() > 1000));
        }
    }
    assert_eq!(found["torch"]["skipped"], "python3 has no torch");
}

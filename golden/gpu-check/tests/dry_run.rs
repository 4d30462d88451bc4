//! The program on the WebGPU device: the timings of a tiny model, its kernels' forms, and the files.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::Value;
use std::process::Command;

#[test]
fn timings_on_wgpu() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("found");
    let arguments = "run --device wgpu --only timing,torch,forms,yardstick --size tiny --lengths 5,24 --iterations 1 --minutes 20 --out";
    let status = Command::new(env!("CARGO_BIN_EXE_gpu-check"))
        .args(arguments.split(' '))
        .arg(&out)
        // No Python, whatever this machine has.
        .env("PATH", folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let mut names: Vec<String> =
        out.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["device.json", "forms.json", "timing.json", "torch.json"]);
    let read = |part: &str| -> Value {
        serde_json::from_slice(&std::fs::read(out.join(format!("{part}.json"))).unwrap()).unwrap()
    };
    assert_eq!(read("device")["target"], "wgpu");
    let forms = read("forms");
    let forms = forms.as_array().unwrap();
    assert!(forms.len() > 10 && forms.iter().all(|form| form["off"].as_f64() <= form["limit"].as_f64()));
    let timing = read("timing");
    let programs = timing.as_array().unwrap();
    assert_eq!(programs.len(), 4);
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
    let torch = read("torch");
    assert_eq!(torch["skipped"], "python3 has no torch");
    let matmuls = &torch["matmuls"];
    assert!(matmuls["skipped"].as_str().unwrap().contains("wgpu"));
    let shapes = matmuls["shapes"].as_array().unwrap();
    assert!(shapes.len() > 20 && shapes.len() % 4 == 0, "{shapes:?}");
    for shape in shapes {
        assert!(shape["ours_us"].is_f64() != shape["ours_error"].is_string(), "{shape}");
        assert!(shape["triton_us"].is_null() && shape["cublas_us"].is_null(), "{shape}");
    }
    assert!(shapes.iter().any(|shape| shape["ours_us"].as_f64() > Some(0.0)));
}

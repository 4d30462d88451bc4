//! Targets other than the CPU, as their user meets them: build, complete, look, run.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, files, fixture, has, ok, ok_json, stderr, stdout, text};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Builds the tiny text model for these targets.
fn build(targets: &str, more: &[&str]) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("tiny.dream"));
    ok(&[&arguments(targets, &path)[..], more].concat());
    (dir, path)
}

fn arguments<'a>(targets: &'a str, path: &'a str) -> Vec<&'a str> {
    const SETTINGS: &str =
        "--entries generate --max-prompt 8 --new-tokens 4 --steps 2 --alg maskgit_plus --dtype f32";
    let checkpoint = fixture("tiny-text/checkpoint").leak();
    let start = ["build", checkpoint, "-o", path, "--target", targets];
    start.into_iter().chain(SETTINGS.split(' ')).collect()
}

fn ids(dir: &TempDir) -> String {
    let path = dir.path().join("ids.json");
    std::fs::write(&path, r#"{"input_ids": [[5, 6, 7, 8], [9, 10, 11, 12]]}"#).unwrap();
    text(&path)
}

fn kernels(path: &str) -> Vec<Value> {
    let report = ok_json(&["inspect", path, "--kernels", "--format", "json"]);
    report["kernels"].as_array().unwrap().clone()
}

fn bytes(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn one_file_for_many_devices() {
    let targets = "cpu,cuda:sm_90a,rocm:gfx942,metal,wgpu,wgpu:f16";
    let (dir, path) = build(targets, &[]);
    ok(&["verify", &path]);
    let kernels = kernels(&path);
    for (target, arch, form) in [
        ("cuda", "sm_90a", "cubin"),
        ("rocm", "gfx942", "hsaco"),
        ("metal", "", "msl"),
        ("wgpu", "", "wgsl"),
        ("wgpu", "f16", "wgsl"),
    ] {
        let of_target = kernels.iter().filter(|k| k["target"] == target && k["arch"] == arch);
        let forms: Vec<&Value> = of_target.map(|k| &k["form"]).collect();
        assert!(forms.len() > 20 && forms.iter().all(|f| **f == form), "{target}: {forms:?}");
    }
    has(&ok(&["inspect", &path, "--kernels"]), &["f32_rope_table_flat", "hsaco", "cubin"]);
    // The bytes are the same the next time, compilers and all.
    let again = text(&dir.path().join("again.dream"));
    ok(&[&arguments(targets, &again)[..], &["--no-cache"]].concat());
    assert!(bytes(&path) == bytes(&again), "another file");

    // Without a GPU the processor and the software adapter are left; they agree.
    let ids = ids(&dir);
    let run = |device: &str| ok_json(&["run", &path, "--ids", &ids, "--format", "json", "--device", device]);
    let on_cpu = run("cpu");
    assert_eq!(run("wgpu")["sequences"], on_cpu["sequences"]);
    assert_eq!(run("auto")["sequences"], on_cpu["sequences"]);
    let elsewhere = fails(1, &["run", &path, "--ids", &ids, "--device", "metal"]);
    has(&elsewhere, &["Apple"]);
}

/// For the architectures that multiply it: said by the build and by the file, compiled, the same bytes again; no other device
/// opens it.
#[test]
fn in_fp8() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("tiny.dream"));
    let targets = "cuda:sm_89";
    let built = common::dreamc(&[&arguments(targets, &path)[..], &["--quant", "fp8"]].concat());
    assert_eq!(built.status.code(), Some(0), "{}", stderr(&built));
    // Of three layers the middle one.
    has(
        stderr(&built),
        &["mlp.up_proj", "fp8", "kept: 15 tensors by --keep or its rule, in f32", "bits a weight"],
    );
    ok(&["verify", &path]);
    let report = ok_json(&["inspect", &path, "--format", "json"]);
    let forms = report["weights"]["forms"].as_array().unwrap();
    assert!(forms.iter().any(|form| form["form"] == "fp8" && form["tensors"] == 7), "{forms:?}");
    assert_eq!(report["manifest"]["options"]["quant"], "fp8");
    let kernels = kernels(&path);
    assert!(kernels.iter().all(|k| k["form"] == "cubin" && k["arch"] == "sm_89"));
    assert!(kernels.iter().any(|k| k["name"].as_str().unwrap().starts_with("e4m3w_e4m3_linear")));
    has(
        &ok(&["inspect", &path, "--kernels"]),
        &["f32_round_rows_to_e4m3_rowwise", "e4m3w_e4m3_linear_swiglu"],
    );
    has(&ok(&["inspect", &path, "--plan"]), &["model.layers.1.mlp.up_proj.weight fp8\"", "codes=\"Fp8\""]);
    has(&ok(&["inspect", &path, "--ir"]), &["bits=8, float=1", "fp8=1"]);
    ok(&["inspect", &path, "--cost"]);
    has(&fails(1, &["run", &path, "--ids", &ids(&dir), "--device", "cpu"]), &["cpu", "cuda"]);

    let again = text(&dir.path().join("again.dream"));
    ok(&[&arguments(targets, &again)[..], &["--quant", "fp8"]].concat());
    assert!(bytes(&path) == bytes(&again), "another file");
}

#[test]
fn sources_to_read() {
    let folder = tempfile::tempdir().unwrap();
    let (_dir, _path) = build("wgpu,cuda:sm_80", &["--emit", &text(folder.path())]);
    let names = |target: &str| -> Vec<String> {
        let of = files(&folder.path().join(target));
        of.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert!(names("wgpu").contains(&"f32_rope_table_flat.wgsl".to_owned()), "{:?}", names("wgpu"));
    assert!(names("cuda-sm_80").contains(&"f32_rope_table_flat.cu".to_owned()), "{:?}", names("cuda-sm_80"));
}

/// A binary for each architecture, and text for those that come later; `inspect` says what that takes.
#[test]
fn all_gpus_of_a_maker() {
    let (_dir, path) = build("cuda", &[]);
    ok(&["verify", &path]);
    let report = ok_json(&["inspect", &path, "--format", "json"]);
    let code = &report["code"][0];
    assert_eq!(code["target"], "cuda");
    let images = code["images"].as_array().unwrap();
    let archs = |form: &str| -> Vec<&str> {
        let of_form = images.iter().filter(|image| image["form"] == form);
        of_form.map(|image| image["arch"].as_str().unwrap()).collect()
    };
    assert_eq!(archs("cubin"), ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100", "sm_120"]);
    assert_eq!(archs("ptx"), ["sm_80", "sm_120"]);
    assert!(images.iter().all(|image| image["bytes"].as_u64().unwrap() > 100_000), "{images:?}");
    has(&ok(&["inspect", &path]), &["cuda: ", "cubin sm_90a", "ptx sm_120"]);
    let kernels = kernels(&path);
    assert!(kernels.iter().all(|k| k["images"].as_array().unwrap().len() == 9), "{kernels:?}");
}

/// Compiled kernels are found again; what was damaged is compiled anew; a folder that is none is told and left alone.
#[test]
fn kernels_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("kernels");
    let target = "cuda:sm_80,rocm:gfx942";
    let (dir, path) = build(target, &["--cache", &text(&cache)]);
    let kept = files(&cache);
    let many =
        |extension: &str| kept.iter().filter(|path| path.extension().is_some_and(|e| e == extension)).count();
    assert!(many("cubin") > 20 && many("ptx") == many("cubin") && many("hsaco") > 20, "{kept:?}");
    std::fs::write(&kept[0], b"damaged").unwrap();
    let again = text(&dir.path().join("again.dream"));
    for more in [&["--cache", &text(&cache)][..], &["--no-cache"]] {
        ok(&[&arguments(target, &again)[..], more].concat());
        assert!(bytes(&path) == bytes(&again), "{more:?}: another file");
    }
    assert_eq!(files(&cache), kept);
    assert!(bytes(&text(&kept[0])).len() > 100, "what was damaged was not compiled anew");
    let file = text(&folder.path().join("file"));
    std::fs::write(&file, b"mine").unwrap();
    let told = common::dreamc(&[&arguments("cuda:sm_80", &again)[..], &["--cache", &file]].concat());
    assert_eq!(told.status.code(), Some(0), "{}", stderr(&told));
    has(stderr(&told), &["warning", "not kept", &file, "--no-cache"]);
    assert_eq!(bytes(&file), b"mine");
    let both = [&arguments("cuda:sm_80", &again)[..], &["--cache", &file, "--no-cache"]].concat();
    has(&fails(2, &both), &["--cache", "--no-cache"]);
}

/// What kernels take on a GPU that is not here.
#[test]
fn estimates() {
    let (_dir, path) = build("cuda:sm_80,wgpu", &[]);
    let listed = ok(&["inspect", &path, "--kernels", "--no-rates", "--gpu", "a100"]);
    has(&listed, &["groups", "waves", "limiter", "latency", "on a100 by a model, no measurement"]);
    let report = ok_json(&["inspect", &path, "--kernels", "--no-rates", "--gpu", "orin", "--format", "json"]);
    assert_eq!(report["gpu"], "orin");
    let kernels = report["kernels"].as_array().unwrap();
    for kernel in kernels {
        let (target, estimate) = (&kernel["target"], &kernel["estimate"]);
        assert_eq!(estimate.is_object(), target == "cuda" && kernel["launches"] != 0, "{kernel}");
    }
    has(&fails(2, &["inspect", &path, "--kernels", "--gpu", "h1000"]), &["h1000", "h100", "rtx4090"]);
    has(&fails(2, &["inspect", &path, "--gpu", "h100"]), &["--kernels"]);
}

/// The command where no compiler is installed: it looks beside itself, in the user's folders and in the system.
fn without_toolchain(dir: &Path, args: &[&str]) -> Output {
    let program = dir.join("dreamc");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_dreamc"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.args(args).env("HOME", dir).env("PATH", "").env("DREAM_CLANG", dir.join("none"));
    for variable in ["DREAM_TOOLCHAIN", "XDG_DATA_HOME", "DREAM_LOG"] {
        command.env_remove(variable);
    }
    // A child of another test may hold the copy open for writing until it starts its own program.
    loop {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => return output.unwrap(),
        }
    }
}

/// Source, said plainly; refused by the device; completed where the compilers are.
#[test]
fn completed_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("tiny.dream"));
    let targets = "cuda:sm_80,rocm:gfx942,wgpu";
    let built = without_toolchain(dir.path(), &arguments(targets, &path));
    assert_eq!(built.status.code(), Some(0), "{}", stderr(&built));
    has(
        stderr(&built),
        &["cuda:sm_80", "rocm:gfx942", "as source", "dreamc finalize", "dreamc toolchain install cuda"],
    );
    let listed = without_toolchain(dir.path(), &["targets", "--format", "json"]);
    let listed: Value = serde_json::from_str(stdout(&listed)).unwrap();
    let cuda =
        listed["targets"].as_array().unwrap().iter().find(|t| t["target"] == "cuda:sm_80").unwrap().clone();
    assert_eq!(
        (&cuda["build"], &cuda["missing"]),
        (&json!(false), &json!(["dreamc toolchain install cuda"]))
    );
    assert!(kernels(&path).iter().all(|k| (k["form"] == "source") == (k["target"] != "wgpu")));
    has(&fails(1, &["run", &path, "--ids", &ids(&dir), "--device", "cuda"]), &["dreamc finalize"]);

    let before = bytes(&path);
    let refused = without_toolchain(dir.path(), &["finalize", &path]);
    assert_eq!(refused.status.code(), Some(1));
    has(stderr(&refused), &["cuda:sm_80", "dreamc toolchain install cuda"]);
    assert!(bytes(&path) == before, "the file was touched");

    ok(&["finalize", &path]);
    ok(&["verify", &path]);
    assert!(kernels(&path).iter().all(|k| k["form"] != "source"));
    // What is completed later is what would have been built at once.
    let (_dir, at_once) = build(targets, &[]);
    assert!(bytes(&path) == bytes(&at_once), "another file");
    let again = common::dreamc(&["finalize", &path]);
    has(stderr(&again), &["nothing was to be done"]);
    assert_eq!(files(dir.path()).len(), 3, "{:?}", files(dir.path()));
}

#[test]
fn mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("tiny.dream"));
    let refused = |targets: &str, more: &[&str]| fails(2, &[&arguments(targets, &path)[..], more].concat());
    has(&refused("tpu", &[]), &["unknown", "cuda:sm_90a", "wgpu"]);
    has(&refused("rocm", &[]), &["name the architecture", "rocm:gfx942"]);
    has(&refused("cuda:sm_1", &[]), &["unknown architecture", "cuda:sm_80", "cuda:sm_121"]);
    has(&refused("wgpu,wgpu", &[]), &["--target", "each once"]);
    let checkpoint = fixture("tiny-text/checkpoint");
    let f16 = ["build", &checkpoint, "-o", &path, "--dtype", "f16", "--steps", "1"];
    has(&fails(2, &f16), &["--dtype", "for the CPU"]);
    has(&fails(2, &["run", &path, "--device", "tpu", "--prompt", "x"]), &["unknown", "wgpu"]);
    let (_dir, path) = build("wgpu", &[]);
    let elsewhere = fails(1, &["run", &path, "--ids", &ids(&dir), "--device", "cpu"]);
    has(&elsewhere, &["built for wgpu", "--target cpu"]);
    let not_one = text(&dir.path().join("ids.json"));
    has(&fails(1, &["finalize", &not_one]), &["not a sound artifact"]);
}

//! The device on a stub of HIP's library.

#[path = "../../device-gpu/tests/common/mod.rs"]
mod common;

use common::program::{built_for, code};
use common::{Functions, Stub, Target, cases, device, error, failures};
use dreamc_artifact::code::Form;
use dreamc_device_rocm::{GpuError, Listed, Rocm, RocmDevice, devices};
use dreamc_runtime::{Device, Stepper};

struct OfRocm;

impl Target for OfRocm {
    type Driver = Rocm;
    const SOURCE: &'static str = "tests/stub/hip.c";
    const BINARY: (Form, &'static str) = (Form::CodeObject, "gfx942");
    const FOREIGN: Form = Form::Cubin;
    const PREFIX: &'static str = "HIP_ERROR_";
    const FUNCTIONS: Functions = Functions {
        take: "hipMalloc",
        take_pinned: "hipHostMalloc",
        memory: "hipMemGetInfo",
        copy_in: "hipMemcpyHtoDAsync",
        load: "hipModuleLoadData",
        find: "hipModuleGetFunction",
        launch: "hipModuleLaunchKernel",
        instantiate: "hipGraphInstantiate",
        run: "hipGraphLaunch",
        end: "hipStreamEndCapture",
        all: &[
            "hipInit",
            "hipSetDevice",
            "hipStreamCreateWithFlags",
            "hipStreamSynchronize",
            "hipMalloc",
            "hipHostMalloc",
            "hipMemcpyHtoDAsync",
            "hipMemcpyDtoHAsync",
            "hipMemcpyDtoDAsync",
            "hipMemsetD32Async",
            "hipEventCreateWithFlags",
            "hipEventRecord",
            "hipModuleLoadData",
            "hipModuleGetFunction",
            "hipModuleLaunchKernel",
            "hipStreamBeginCapture",
            "hipStreamEndCapture",
            "hipGraphInstantiate",
            "hipGraphLaunch",
        ],
    };
}

macro_rules! on_the_stub {
    ($($module:ident::$case:ident;)*) => {
        $(#[test]
        fn $case() {
            $module::$case::<OfRocm>();
        })*
    };
}

on_the_stub! {
    cases::prepares;
    cases::records_and_replays;
    cases::slots_shrink_within_a_run;
    cases::slots_after_a_failure;
    cases::watched_runs_are_not_recorded;
    cases::moves_between_threads;
    cases::least_recently_used_goes;
    cases::copies_in_pieces;
    cases::weights_through_few_buffers;
    cases::records_ahead;
    cases::two_on_one_gpu;
    cases::refuses_what_is_unsound;
    failures::any_call_may_fail;
    failures::a_failed_run_is_forgotten;
    failures::goes_on_without_recording;
    failures::errors_of_runs;
    failures::weights_that_do_not_fit;
    failures::memory_that_is_short;
    failures::a_broken_upload;
    failures::errors_of_new;
    failures::errors_of_prepare;
}

#[test]
fn lists_devices() {
    let stub = Stub::new::<OfRocm>(&[]);
    stub.devices(2);
    stub.arch("gfx90a:sramecc+:xnack-");
    let listed = |ordinal| Listed { ordinal, name: format!("Stub {ordinal}"), arch: "gfx90a".to_owned() };
    assert_eq!(devices(&stub.options()), Ok(vec![listed(0), listed(1)]));
    stub.devices(0);
    let said = devices(&stub.options()).unwrap_err().to_string();
    assert!(said.starts_with("there is no ROCm device; look whether `rocminfo` lists one"), "{said}");
    stub.finish();
}

/// All blocks of scalars are one copy, made when the lengths change and at no other time.
#[test]
fn scalars_in_memory() {
    let stub = Stub::new::<OfRocm>(&[]);
    let mut device = device::<OfRocm>(&stub).unwrap();
    let program = cases::looped::<OfRocm>();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    stub.log();
    // Four launches: blocks of 6, 6, 2 and 4 words, each at the next multiple of 16 bytes.
    for (rows, copies) in [(2, 1), (2, 0), (3, 1), (2, 1)] {
        cases::run(&mut device, &mut stepper, rows, &mut ()).unwrap();
        assert_eq!(stub.log_of(&["copy in m2"]), vec!["copy in m2+0 96"; copies]);
    }
    drop(device);
    stub.finish();
}

#[test]
fn another_processor() {
    let stub = Stub::new::<OfRocm>(&[]);
    stub.arch("gfx1100");
    let mut built = code::<OfRocm>();
    let arch = |built: &str| GpuError::Arch {
        built: built.to_owned(),
        device: "Stub 0".to_owned(),
        found: "gfx1100".to_owned(),
        target: "rocm",
    };
    for wrong in ["gfx942", "gfx110", "gfx1100x", "sm_80"] {
        built_for(&mut built, wrong);
        assert_eq!(error(RocmDevice::new(&built, Vec::new(), &stub.options())), arch(wrong));
    }
    built_for(&mut built, "gfx1100:xnack-");
    assert!(RocmDevice::new(&built, Vec::new(), &stub.options()).is_ok());
    stub.finish();
}

/// Where the library does not say which processor it is, loading does.
#[test]
fn unknown_processor() {
    let stub = Stub::new::<OfRocm>(&["WITHOUT_PROPERTIES"]);
    let mut device = device::<OfRocm>(&stub).unwrap();
    assert_eq!(device.arch(), "");
    stub.fail("hipModuleLoadData", 0, 209);
    let said = device.prepare(&cases::looped::<OfRocm>()).unwrap_err().to_string();
    assert!(said.starts_with("loading `f32_scale`: HIP_ERROR_NO_BINARY_FOR_GPU: "), "{said}");
    assert!(said.contains("build the artifact for this device's processor"), "{said}");
    drop(device);
    stub.finish();
}

/// A library that cannot record runs everything step by step.
#[test]
fn without_graphs() {
    let stub = Stub::new::<OfRocm>(&["WITHOUT_GRAPHS"]);
    let mut device = device::<OfRocm>(&stub).unwrap();
    let program = cases::looped::<OfRocm>();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    for rows in [2, 2, 3] {
        cases::run(&mut device, &mut stepper, rows, &mut ()).unwrap();
    }
    assert_eq!(stub.log_of(&["begin", "run"]), [""; 0]);
    drop(device);
    stub.finish();
}

/// On this host as it is, with or without a driver.
#[test]
fn this_host() {
    match devices(&dreamc_device_rocm::GpuOptions::default()) {
        Ok(listed) => listed.iter().for_each(|device| println!("{} {}", device.name, device.arch)),
        Err(error) => println!("skipped: {error}"),
    }
}

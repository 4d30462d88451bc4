//! The device on a stub of the driver's library.

#[path = "../../device-gpu/tests/common/mod.rs"]
mod common;

use common::program::{built_for, code};
use common::{BAD_IMAGE, Functions, Stub, Target, cases, device, failures};
use dreamc_artifact::code::{Code, Form, Image};
use dreamc_device_cuda::{Cuda, CudaDevice, GpuError, Listed, devices};
use dreamc_runtime::{Device, Stepper};

struct OfCuda;

impl Target for OfCuda {
    type Driver = Cuda;
    const SOURCE: &'static str = "tests/stub/cuda.c";
    const BINARY: (Form, &'static str) = (Form::Cubin, "sm_90");
    const FOREIGN: Form = Form::CodeObject;
    const PREFIX: &'static str = "CUDA_ERROR_";
    const FUNCTIONS: Functions = Functions {
        take: "cuMemAlloc_v2",
        take_pinned: "cuMemHostAlloc",
        memory: "cuMemGetInfo_v2",
        copy_in: "cuMemcpyHtoDAsync_v2",
        load: "cuModuleLoadDataEx",
        find: "cuModuleGetFunction",
        launch: "cuLaunchKernel",
        instantiate: "cuGraphInstantiateWithFlags",
        run: "cuGraphLaunch",
        end: "cuStreamEndCapture",
        all: &[
            "cuInit",
            "cuDriverGetVersion",
            "cuDeviceGetCount",
            "cuDevicePrimaryCtxRetain",
            "cuCtxSetCurrent",
            "cuStreamCreate",
            "cuStreamSynchronize",
            "cuMemAlloc_v2",
            "cuMemHostAlloc",
            "cuMemcpyHtoDAsync_v2",
            "cuMemcpyDtoHAsync_v2",
            "cuMemcpyDtoDAsync_v2",
            "cuMemsetD32Async",
            "cuEventCreate",
            "cuEventRecord",
            "cuModuleLoadDataEx",
            "cuModuleGetFunction",
            "cuFuncSetAttribute",
            "cuFuncLoad",
            "cuLaunchKernel",
            "cuStreamBeginCapture_v2",
            "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags",
            "cuGraphLaunch",
        ],
    };
}

macro_rules! on_the_stub {
    ($($module:ident::$case:ident;)*) => {
        $(#[test]
        fn $case() {
            $module::$case::<OfCuda>();
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
    let stub = Stub::new::<OfCuda>(&[]);
    stub.devices(2);
    stub.capability(8, 6);
    let listed = |ordinal| Listed { ordinal, name: format!("Stub {ordinal}"), arch: "sm_86".to_owned() };
    assert_eq!(devices(&stub.options()), Ok(vec![listed(0), listed(1)]));
    stub.devices(0);
    let said = devices(&stub.options()).unwrap_err().to_string();
    assert!(said.starts_with("there is no CUDA device; look whether `nvidia-smi` lists one"), "{said}");
    stub.finish();
}

/// More than 48 KiB of shared memory is asked for, once, and nothing for those with less.
#[test]
fn asks_for_shared_memory() {
    let stub = Stub::new::<OfCuda>(&[]);
    let mut device = device::<OfCuda>(&stub).unwrap();
    for _ in 0..2 {
        device.prepare(&cases::looped::<OfCuda>()).unwrap();
    }
    assert_eq!(stub.log_of(&["allow"]), ["allow f32_add_inplace 60000"]);
    drop(device);
    stub.finish();
}

/// Kernels are loaded to the end before a run is recorded, where the driver can be told to.
#[test]
fn finishes_loading() {
    for defines in [&[] as &[&str], &["WITHOUT_FUNC_LOAD"]] {
        let stub = Stub::new::<OfCuda>(defines);
        let mut device = device::<OfCuda>(&stub).unwrap();
        let program = cases::looped::<OfCuda>();
        device.prepare(&program).unwrap();
        let finished = if defines.is_empty() { 3 } else { 0 };
        assert_eq!(stub.log_of(&["finish"]).len(), finished);
        cases::run(&mut device, &mut Stepper::new(&program).unwrap(), 2, &mut ()).unwrap();
        drop(device);
        stub.finish();
    }
}

/// The closest binary is loaded; the driver compiles PTX where none runs, and that is said.
#[test]
fn ptx_where_no_binary_runs() {
    let stub = Stub::new::<OfCuda>(&[]);
    let mut built = code::<OfCuda>();
    let arch = |built: &str| GpuError::Arch {
        built: built.to_owned(),
        device: "Stub 0".to_owned(),
        found: "sm_90".to_owned(),
        target: "cuda",
    };
    let new = |code: &Code| CudaDevice::new(code, Vec::new(), &stub.options()).map(|device| device.about());
    built_for(&mut built, "sm_80");
    assert_eq!(new(&built), Err(arch("sm_80")));
    for module in &mut built.modules {
        let text =
            |kind: &str| format!("{kind} {} {} {}", module.name, module.buffers.len(), module.info.len());
        let image =
            |form, arch: &str, bytes: String| Image { form, arch: arch.to_owned(), bytes: bytes.into() };
        let more = [
            image(Form::Cubin, "sm_86", text("binary of another")),
            image(Form::Ptx, "sm_75", text("old")),
            image(Form::Ptx, "sm_80", text("text")),
            image(Form::Ptx, "sm_100", text("new")),
        ];
        module.images.extend(more);
    }
    let views = || common::program::weights().iter().map(|(_, bytes)| common::program::view(bytes)).collect();
    let mut device = CudaDevice::new(&built, views(), &stub.options()).unwrap();
    let said = "Stub 0 (sm_90, for which there is no binary: its driver compiles the PTX of sm_80)";
    assert_eq!(device.about(), said);
    stub.log();
    device.prepare(&cases::looped::<OfCuda>()).unwrap();
    assert_eq!(
        stub.log_of(&["load"]),
        ["load text f32_scale", "load text f32_index", "load text f32_add_inplace"]
    );
    drop(device);
    // Both run; the closer one suits it better.
    stub.capability(8, 9);
    for module in &mut built.modules {
        module.images[1].bytes =
            format!("closer {} {} {}", module.name, module.buffers.len(), module.info.len()).into();
    }
    let mut device = CudaDevice::new(&built, views(), &stub.options()).unwrap();
    assert_eq!(device.about(), "Stub 0 (sm_89)");
    stub.log();
    device.prepare(&cases::looped::<OfCuda>()).unwrap();
    assert_eq!(stub.log_of(&["load"])[0], "load closer f32_scale");
    drop(device);
    stub.capability(7, 0);
    let error = new(&built).unwrap_err();
    assert!(
        matches!(&error, GpuError::Arch { built, .. } if built == "sm_100, sm_75, sm_80, sm_86"),
        "{error}"
    );
    stub.capability(9, 0);
    // Neither of these may be compiled for a device that is another, or older.
    for wrong in ["sm_100a", "sm_100", "sm_89a", "gfx942"] {
        built_for(&mut built, wrong);
        assert_eq!(new(&built), Err(arch(wrong)));
    }
    built_for(&mut built, "sm_90a");
    assert!(new(&built).is_ok());
    stub.finish();
}

/// A driver that is too old for a binary, or for the text that stands in for it, is refused with one that is not.
#[test]
fn old_drivers() {
    let stub = Stub::new::<OfCuda>(&[]);
    let mut built = code::<OfCuda>();
    let new = |code: &Code| CudaDevice::new(code, Vec::new(), &stub.options()).map(|_| ());
    stub.version(11080);
    let said = new(&built).unwrap_err().to_string();
    assert_eq!(
        said,
        "the driver of `Stub 0` is of CUDA 11.8, and the kernels need 12.0; install version 525 or later"
    );
    stub.version(12020);
    assert_eq!(new(&built), Ok(()));
    for module in &mut built.modules {
        let bytes = b"//\n.version 8.8\n.target sm_80\n".to_vec();
        module.images = vec![Image { form: Form::Ptx, arch: "sm_80".to_owned(), bytes }];
    }
    let said = new(&built).unwrap_err().to_string();
    assert!(
        said.starts_with(
            "the driver of `Stub 0` is of CUDA 12.2, and the kernels need 12.9; install version 575 or later"
        ) && said.contains("--target cuda:sm_90"),
        "{said}"
    );
    stub.version(12090);
    assert_eq!(new(&built), Ok(()));
    stub.finish();
}

/// What the driver's compiler says about PTX is in the error.
#[test]
fn log_of_the_compiler() {
    let stub = Stub::new::<OfCuda>(&[]);
    let mut device = device::<OfCuda>(&stub).unwrap();
    stub.fail("cuModuleLoadDataEx", 0, BAD_IMAGE);
    let said = device.prepare(&cases::looped::<OfCuda>()).unwrap_err().to_string();
    assert_eq!(said, "loading `f32_scale`: CUDA_ERROR_INVALID_IMAGE: refused; ptxas: line 7 is wrong");
    drop(device);
    stub.finish();
}

/// On this host as it is, with or without a driver.
#[test]
fn this_host() {
    match devices(&dreamc_device_cuda::GpuOptions::default()) {
        Ok(listed) => listed.iter().for_each(|device| println!("{} {}", device.name, device.arch)),
        Err(error) => println!("skipped: {error}"),
    }
}

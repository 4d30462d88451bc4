//! What a device does when something fails: it says what, and goes on.

use super::cases::{looped, run};
use super::program::{self, LARGE, code, plan, weights};
use super::{BAD_IMAGE, LAUNCH_FAILED, OUT_OF_MEMORY, Stub, Target, device, error};
use dreamc_artifact::code::{Code, Extent, Form};
use dreamc_artifact::plan::{Dim, Program, Scalar, Step, ValueId};
use dreamc_device_gpu::{Driver, GpuDevice, GpuError, GpuOptions, InfoPlace};
use dreamc_runtime::{Device, DeviceError, Memory, StepError, Stepper};

/// Prepares, and runs twice.
fn session<D: Driver>(device: &mut GpuDevice<'_, D>, program: &Program) -> Result<(), StepError> {
    let failed = |error| StepError::Device { origin: "prepare".to_owned(), error };
    device.prepare(program).map_err(failed)?;
    let mut stepper = Stepper::new(program)?;
    run(device, &mut stepper, 2, &mut ())?;
    run(device, &mut stepper, 2, &mut ())
}

/// Whatever call fails, and whenever: what was taken is given back, and the next attempt succeeds.
pub(crate) fn any_call_may_fail<T: Target>() {
    let program = looped::<T>();
    for name in T::FUNCTIONS.all {
        let mut failures = 0;
        for after in 0..24 {
            let stub = Stub::new::<T>(&[]);
            stub.fail(name, after, OUT_OF_MEMORY);
            let mut device = match device::<T>(&stub) {
                Ok(device) => device,
                Err(GpuError::Driver { error, .. }) => {
                    assert!(error.starts_with(T::PREFIX), "{name}: {error}");
                    failures += 1;
                    device::<T>(&stub).unwrap()
                }
                Err(error) => panic!("{name}: {error}"),
            };
            match session(&mut device, &program) {
                Ok(()) => {}
                Err(StepError::Device { error, .. }) => {
                    let driver = matches!(
                        error,
                        DeviceError::Driver { .. }
                            | DeviceError::Kernel { .. }
                            | DeviceError::OutOfDeviceMemory { .. }
                    );
                    assert!(driver, "{name}: {error}");
                    failures += 1;
                    session(&mut device, &program).unwrap();
                }
                Err(error) => panic!("{name}: {error}"),
            }
            drop(device);
            stub.finish();
        }
        // Recordings that cannot begin are no error, and a failure to wait for what is thrown away is none.
        assert!(failures > 0 || name.contains("BeginCapture"), "{name} never failed");
    }
}

/// A run that fails leaves the prepared program usable: no second `prepare` is needed.
pub(crate) fn a_failed_run_is_forgotten<T: Target>() {
    let functions = &T::FUNCTIONS;
    let program = looped::<T>();
    for (name, after) in [
        (functions.copy_in, 0),
        (functions.copy_in, 1),
        (functions.launch, 0),
        (functions.launch, 3),
        (functions.end, 0),
        (functions.instantiate, 0),
        (functions.run, 0),
        (functions.run, 1),
        ("kernel", 4),
    ] {
        let stub = Stub::new::<T>(&[]);
        let mut device = device::<T>(&stub).unwrap();
        device.prepare(&program).unwrap();
        let mut stepper = Stepper::new(&program).unwrap();
        stub.fail(name, after, LAUNCH_FAILED);
        let mut failures = 0;
        for _ in 0..4 {
            failures += u32::from(run(&mut device, &mut stepper, 2, &mut ()).is_err());
        }
        assert_eq!(failures, 1, "{name} after {after}");
        run(&mut device, &mut stepper, 3, &mut ()).unwrap();
        drop(device);
        stub.finish();
    }
}

/// Where recording fails, the runs after the one that is lost are not recorded.
pub(crate) fn goes_on_without_recording<T: Target>() {
    let program = looped::<T>();
    for name in [T::FUNCTIONS.end, T::FUNCTIONS.instantiate] {
        let stub = Stub::new::<T>(&[]);
        let mut device = device::<T>(&stub).unwrap();
        device.prepare(&program).unwrap();
        let mut stepper = Stepper::new(&program).unwrap();
        stub.fail(name, 0, LAUNCH_FAILED);
        assert!(run(&mut device, &mut stepper, 2, &mut ()).is_err());
        stub.log();
        for rows in [2, 2, 3] {
            run(&mut device, &mut stepper, rows, &mut ()).unwrap();
        }
        assert_eq!(stub.log_of(&["begin", "run"]), [""; 0]);
        device.prepare(&program).unwrap();
        run(&mut device, &mut stepper, 2, &mut ()).unwrap();
        assert_eq!(stub.log_of(&["begin", "run"]).len(), 2);
        drop(device);
        stub.finish();
    }
    // Where memory ran out, recordings that are kept make room first.
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    run(&mut device, &mut stepper, 2, &mut ()).unwrap();
    run(&mut device, &mut stepper, 3, &mut ()).unwrap();
    stub.log();
    stub.fail(T::FUNCTIONS.instantiate, 0, OUT_OF_MEMORY);
    run(&mut device, &mut stepper, 4, &mut ()).unwrap();
    assert_eq!(stub.log_of(&["destroy", "run"]), ["destroy x0", "destroy x1", "run x2"]);
    drop(device);
    stub.finish();
}

/// Errors name what was being done, the kernel, and the driver's own word.
pub(crate) fn errors_of_runs<T: Target>() {
    let (functions, prefix) = (&T::FUNCTIONS, T::PREFIX);
    let program = looped::<T>();
    let driver = |what: &str, error: &str| DeviceError::Driver {
        what: what.to_owned(),
        error: format!("{prefix}{error}: refused"),
    };
    let attempt = |name: &str, after: i32, code: i32| {
        let stub = Stub::new::<T>(&[]);
        let mut device = device::<T>(&stub).unwrap();
        stub.fail(name, after, code);
        let error = match session(&mut device, &program) {
            Err(StepError::Device { error, .. }) => error,
            other => panic!("{name}: {other:?}"),
        };
        drop(device);
        stub.finish();
        error
    };
    assert_eq!(attempt(functions.launch, 2, 1), driver("launching `f32_index`", "INVALID_VALUE"));
    let DeviceError::Kernel { kernel, error } = attempt(functions.find, 1, 500) else {
        panic!("a kernel's error")
    };
    assert_eq!(kernel, "f32_index");
    assert_eq!(error, format!("finding it in its module: {prefix}NOT_FOUND: refused"));
    assert_eq!(
        attempt(functions.run, 0, LAUNCH_FAILED),
        driver("running `looped` as recorded", "LAUNCH_FAILED")
    );
    assert_eq!(attempt(functions.end, 0, 901), driver("recording `looped`", "STREAM_CAPTURE_INVALIDATED"));
    assert_eq!(
        attempt("kernel", 0, LAUNCH_FAILED),
        driver("running, or copying from the device", "LAUNCH_FAILED")
    );
    let DeviceError::Kernel { kernel, error } = attempt(functions.load, 2, BAD_IMAGE) else {
        panic!("a kernel's error")
    };
    assert_eq!(kernel, "f32_add_inplace");
    assert!(error.starts_with(&format!("{prefix}INVALID_IMAGE: ")), "{error}");
    let pinned = |after| attempt(functions.take_pinned, after, OUT_OF_MEMORY).to_string();
    let said = pinned(0);
    assert!(said.starts_with("taking pinned memory of the host for requests: "), "{said}");
    let said = pinned(1);
    assert!(said.starts_with("taking 512 bytes of pinned memory of the host for weights: "), "{said}");
    assert!(said.contains("out of memory; free memory of the host, or allow the process"), "{said}");
    let DeviceError::Driver { what, error } = attempt(functions.copy_in, 0, OUT_OF_MEMORY) else {
        panic!("a driver's error")
    };
    assert_eq!(what, "copying 512 bytes of weights to the device");
    assert!(error.contains("OUT_OF_MEMORY: out of memory"), "{error}");
}

/// What runs out of the device's memory is said with all that is needed and all that there is. Nothing of it stays, and
/// with more memory the same device is ready.
pub(crate) fn memory_that_is_short<T: Target>() {
    let both = with_both_weights::<T>();
    let weights = LARGE as u64 * 4 + 512;
    // Blocks of scalars of two launches, where they are in memory.
    let arena = both.arena_bytes + if T::Driver::INFO == InfoPlace::Buffer { 32 } else { 0 };
    let needed = weights + arena;
    // For nothing, for part of the arena, for the arena and one weight, for all but a byte.
    for total in [0, arena - 40, arena + 600, needed - 1] {
        let stub = Stub::new::<T>(&[]);
        stub.memory(total);
        let mut device = device::<T>(&stub).unwrap();
        let memory = Memory { weights, arena, free: total, total };
        assert_eq!(device.prepare(&both), Err(DeviceError::OutOfDeviceMemory { memory }));
        assert_eq!((device.bytes(), memory.missing()), (0, needed - total));
        // Nothing was copied before all of it was there.
        let log = stub.log();
        assert!(!log.iter().any(|line| line.starts_with("copy in")), "{log:?}");
        assert!(device.resize(&[1]).is_err());
        stub.memory(needed);
        device.prepare(&both).unwrap();
        assert_eq!(device.bytes(), needed);
        Stepper::new(&both).unwrap().run(&mut device, &mut ()).unwrap();
        drop(device);
        stub.finish();
    }
    // Weights that another program brought count as those that the program has.
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    device.prepare(&looped::<T>()).unwrap();
    stub.memory(needed - 1000);
    let memory = Memory { weights, arena, free: needed - 1000, total: needed - 1000 };
    let refused = device.prepare(&both);
    assert_eq!(refused, Err(DeviceError::OutOfDeviceMemory { memory }));
    let said = refused.unwrap_err().to_string();
    let expected = "out of memory of the device: 9.4 MB of weights and 9.4 MB to work in make 18.9 MB, and 18.9 MB of 18.9 MB can be had, so 1000 bytes are missing";
    assert_eq!(said, expected);
    // Where the driver does not tell how much there is.
    stub.fail(T::FUNCTIONS.memory, 0, 1);
    assert!(matches!(device.prepare(&both), Err(DeviceError::OutOfMemory { .. })));
    drop(device);
    stub.finish();
}

/// A copy that fails in the middle of the weights leaves nothing behind.
pub(crate) fn a_broken_upload<T: Target>() {
    for after in [0, 1, 7, 8, 9, 100] {
        let stub = Stub::new::<T>(&[]);
        let options = GpuOptions { staging_bytes: 1 << 16, ..stub.options() };
        let mut device = GpuDevice::<T::Driver>::new(&code::<T>(), program::views(), &options).unwrap();
        let program = plan::<T>().programs.remove(0);
        stub.fail(T::FUNCTIONS.copy_in, after, OUT_OF_MEMORY);
        let said = device.prepare(&program).unwrap_err().to_string();
        assert!(said.starts_with("copying 9437188 bytes of weights to the device: "), "{said}");
        assert_eq!(device.bytes(), 0);
        device.prepare(&program).unwrap();
        let mut stepper = Stepper::new(&program).unwrap();
        stepper.run(&mut device, &mut ()).unwrap();
        let mut copy = vec![0; LARGE * 4];
        stepper.read(&mut device, "copy", &mut copy).unwrap();
        assert!(copy == weights()[1].1);
        drop(device);
        stub.finish();
    }
}

/// A program that reads both weights.
fn with_both_weights<T: Target>() -> Program {
    let mut both = plan::<T>().programs.remove(0);
    both.values.push(looped::<T>().values[1].clone());
    let Step::Dispatch(copy) = &mut both.steps[0] else { panic!("a dispatch") };
    let mut second = copy.launches[0].clone();
    second.buffers[0].value = ValueId(2);
    second.scalars[0] = Scalar::Count(Dim::constant(128));
    copy.launches.push(second);
    both
}

/// Where weights do not fit, none of them stays.
pub(crate) fn weights_that_do_not_fit<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let both = with_both_weights::<T>();
    stub.fail(T::FUNCTIONS.take, 2, OUT_OF_MEMORY);
    assert!(device.prepare(&both).is_err());
    assert_eq!(device.bytes(), 0);
    device.prepare(&both).unwrap();
    assert!(device.bytes() >= 2 * LARGE as u64 * 4 + 512);
    Stepper::new(&both).unwrap().run(&mut device, &mut ()).unwrap();
    drop(device);
    stub.finish();
}

/// What is not there, or not for this device, is said before anything is loaded.
pub(crate) fn errors_of_new<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let new =
        |code: &Code, options: &GpuOptions| error(GpuDevice::<T::Driver>::new(code, Vec::new(), options));
    let code = code::<T>();
    let missing = GpuOptions { library: Some("/nowhere/libgpu.so".into()), ..GpuOptions::default() };
    let library = new(&code, &missing).to_string();
    assert!(
        library.starts_with("`/nowhere/libgpu.so` cannot be loaded (") && library.contains("install the"),
        "{library}"
    );
    let third = GpuOptions { ordinal: 2, ..stub.options() };
    assert_eq!(new(&code, &third), GpuError::Ordinal { ordinal: 2, count: 1 });
    for form in [Form::CudaSource, Form::HipSource] {
        let mut source = code.clone();
        source.modules[2].images[0].form = form;
        let said = new(&source, &missing).to_string();
        assert!(
            said.contains("`f32_add_inplace` as source") && said.ends_with("`dreamc finalize FILE`"),
            "{said}"
        );
    }
    let mut foreign = code.clone();
    foreign.modules[1].images[0].form = T::FOREIGN;
    assert!(matches!(new(&foreign, &stub.options()), GpuError::Form { kernel, .. } if kernel == "f32_index"));
    stub.devices(0);
    let none = new(&code, &stub.options());
    assert!(matches!(none, GpuError::NoDevice { .. }), "{none}");
    stub.finish();
}

/// Modules and weights that do not fit the device or the plan.
pub(crate) fn errors_of_prepare<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let views = |short: usize| {
        let view =
            move |(_, bytes): &'static (Vec<u64>, Vec<u8>)| program::view(&bytes[..bytes.len() - short]);
        weights().iter().map(view).collect::<Vec<_>>()
    };
    let program = looped::<T>();
    let mut large = code::<T>();
    large.modules[2].shared_bytes = 200 << 10;
    let mut device = GpuDevice::<T::Driver>::new(&large, views(0), &stub.options()).unwrap();
    let said = device.prepare(&program).unwrap_err().to_string();
    assert!(said.starts_with("loading `f32_add_inplace`: it needs 204800 bytes of shared memory"), "{said}");
    drop(device);
    // A weight that is shorter than its shape, or is not there.
    for views in [views(4), Vec::new()] {
        let mut device = GpuDevice::<T::Driver>::new(&code::<T>(), views, &stub.options()).unwrap();
        assert_eq!(device.prepare(&program), Err(DeviceError::Unsupported { kernel: "a launch" }));
        assert!(device.resize(&[1]).is_err());
    }
    // A grid that the device does not take: many rows, one workgroup for each.
    let mut narrow = code::<T>();
    let wide = Extent::Ceil { of: 0, per: 1, any: false };
    narrow.modules[2].grid = [Extent::Constant(1), wide, wide];
    narrow.modules[2].workgroup = [1, 1, 1];
    let mut device = GpuDevice::<T::Driver>::new(&narrow, views(0), &stub.options()).unwrap();
    let mut many = program.clone();
    let Step::Denoise(denoise) = &mut many.steps[1] else { panic!("a loop") };
    let Step::Dispatch(add) = &mut denoise.body[1] else { panic!("a dispatch") };
    let Scalar::Count(count) = &mut add.launches[0].scalars[0] else { panic!("a count") };
    count.terms[0].coefficient = 30_000;
    device.prepare(&many).unwrap();
    device.resize(&[2]).unwrap();
    let refused = device.resize(&[3]);
    assert!(matches!(refused, Err(DeviceError::Groups { groups: 90_000, .. })), "{refused:?}");
    device.resize(&[1]).unwrap();
    drop(device);
    stub.finish();
}

//! What cannot be done ends in an error that says what to do, and leaves the device fit for the next program.

use crate::common::*;
use dreamc_artifact::code::{Code, Extent, Form, Module};
use dreamc_artifact::plan::{Dim, Program};
use dreamc_device_wgpu::{WgpuDevice, WgpuError, WgpuOptions, adapters};
use dreamc_num::DType;
use dreamc_runtime::StepError;

/// A program with one launch of `module` on its only value.
fn one(module: Module, elements: u32) -> (Program, Code) {
    let scalars = module.scalars.iter().map(|_| count(elements)).collect();
    let program = Builder::new("forward", 1)
        .value(DType::F32, vec![Dim::constant(elements)])
        .output("x", 0)
        .step(in_place(0, vec![launch(0, &[0], scalars)]))
        .build();
    (program, code(vec![module]))
}

/// Prepares a program that cannot be run.
#[track_caller]
fn refused(module: Module, elements: u32) -> DeviceError {
    let (program, code) = one(module, elements);
    check(&program, &code, &[]);
    let mut device = open(&code, vec![]);
    let error = device.prepare(&program).unwrap_err();
    works(&mut device);
    error
}

/// The device still runs a program.
#[track_caller]
fn works(device: &mut WgpuDevice<'_>) {
    let empty =
        Builder::new("forward", 1).value(DType::F32, vec![Dim::constant(2)]).input("x", 0).output("x", 0);
    let program = empty.build();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    stepper.write(device, "x", &floats(&[1.0, 2.0])).unwrap();
    stepper.run(device, &mut ()).unwrap();
    assert_eq!(read(&stepper, device, "x"), [1.0, 2.0]);
}

fn fine() -> Module {
    module("f32_fine", &[("f32", true)], &[U], EACH, "if i < s(0u) { b0[i] = 1.0; }")
}

#[test]
fn wgsl_that_is_none() {
    let broken = module("f32_broken", &[("f32", true)], &[U], EACH, "b0[i] = 1u;");
    let DeviceError::Driver { what, error } = refused(broken, 4) else { panic!() };
    assert_eq!(what, "compiling kernel `f32_broken`");
    assert!(error.contains("f32"), "{error}");
}

#[test]
fn an_entry_of_another_name() {
    let mut renamed = fine();
    renamed.name = "f32_other".to_owned();
    let DeviceError::Driver { what, error } = refused(renamed, 4) else { panic!() };
    assert_eq!(what, "compiling kernel `f32_other`");
    assert!(error.contains("entry point"), "{error}");
}

/// The text binds more than the module says.
#[test]
fn buffers_that_nobody_binds() {
    let mut short =
        module("f32_short", &[("f32", true), ("f32", true)], &[], Extent::Constant(1), "b1[i] = b0[i];");
    short.buffers.truncate(1);
    let DeviceError::Driver { what, error } = refused(short, 4) else { panic!() };
    assert_eq!(what, "compiling kernel `f32_short`");
    assert!(!error.is_empty());
}

/// A value smaller than one element of the kernel's: found when the program is prepared, not in the middle of a run.
#[test]
fn a_binding_too_small() {
    let wide =
        module("f32x4_wide", &[("vec4<f32>", true)], &[], Extent::Constant(1), "b0[0] = vec4<f32>(1.0);");
    let DeviceError::Driver { what, error } = refused(wide, 2) else { panic!() };
    assert_eq!(what, "launching kernel `f32x4_wide`");
    assert!(!error.is_empty());
}

#[test]
fn an_arena_too_large() {
    let (mut program, code) = one(fine(), 4);
    let mut device = open(&code, vec![]);
    let (max, _) = device.bytes_max();
    program.arena_bytes = (max + 1).next_multiple_of(256).min(dreamc_artifact::ARENA_BYTES_MAX);
    check(&program, &code, &[]);
    match device.prepare(&program) {
        Err(DeviceError::Buffer { bytes, max: found }) => assert!(bytes > max && found == max),
        Err(DeviceError::OutOfMemory { bytes }) => assert_eq!(bytes, program.arena_bytes),
        other => panic!("{other:?}"),
    }
    works(&mut device);
}

/// More than a binding takes, in the arena and in a weight.
#[test]
fn a_value_too_large() {
    let mut device = open(&Code::default(), vec![]);
    let (arena_max, max) = device.bytes_max();
    let elements = u32::try_from(max / 4 + 1).ok().filter(|n| u64::from(*n) * 4 <= arena_max);
    // A device that binds all that it can hold has no such error.
    let Some(elements) = elements.filter(|n| *n < 1 << 28) else { return };
    works(&mut device);
    let bytes = u64::from(elements) * 4;
    assert_eq!(refused(fine(), elements), DeviceError::Buffer { bytes, max });

    let reads =
        module("f32_read", &[("f32", false), ("f32", true)], &[], Extent::Constant(1), "b1[0] = b0[0];");
    let program = Builder::new("forward", 1)
        .value(DType::F32, vec![Dim::constant(1)])
        .weight(DType::F32, elements, 0)
        .step(in_place(0, vec![launch(0, &[1, 0], vec![])]))
        .build();
    let stored = vec![0; bytes as usize];
    let (code, view) = (code(vec![reads]), stored_weight(&stored, DType::F32));
    check(&program, &code, &[view]);
    let mut device = open(&code, vec![view]);
    assert_eq!(device.prepare(&program), Err(DeviceError::Buffer { bytes, max }));
}

/// The grid depends on the request: smaller ones run.
#[test]
fn a_grid_too_large() {
    let each = Extent::Ceil { of: 0, per: 1, any: false };
    let module = module("f32_wide", &[("f32", true)], &[U], each, "if i < 4u { b0[i] = f32(groups.x); }");
    let program = Builder::new("forward", 1000)
        .value(DType::F32, vec![Dim::constant(4)])
        .output("x", 0)
        .step(in_place(
            0,
            vec![launch(0, &[0], vec![dreamc_artifact::plan::Scalar::Count(times_symbol(1 << 20))])],
        ))
        .step(in_place(0, vec![launch(1, &[0], vec![count(4)])]))
        .build();
    let mut plus_one = fine();
    plus_one.name = "f32_plus".to_owned();
    let text = String::from_utf8(std::mem::take(&mut plus_one.images[0].bytes)).unwrap();
    plus_one.images[0].bytes =
        text.replace("f32_fine", "f32_plus").replace("= 1.0", "= b0[i] + 1.0").into_bytes();
    let (mut device, mut stepper) = ready(&program, &code(vec![module, plus_one]), vec![]);
    let Err(StepError::Device { error, .. }) = stepper.run(&mut device, &mut ()) else { panic!() };
    let DeviceError::Groups { kernel, groups, max } = error else { panic!("{error}") };
    assert_eq!((kernel.as_str(), groups), ("f32_wide", 1000 << 20));
    assert!(max >= 65_535);
    // A million groups are too many for most devices, too.
    stepper.resize(&[("S", 1)]).unwrap();
    match stepper.run(&mut device, &mut ()) {
        Ok(_) => assert_eq!(read(&stepper, &mut device, "x"), [1_048_577.0; 4]),
        Err(error) => assert!(max < 1 << 20, "{error}"),
    }
}

#[test]
fn f16_where_there_is_some() {
    let mut half =
        module("f16_one", &[("f32", true)], &[U], EACH, "if i < s(0u) { b0[i] = f32(f16(1.5) + f16(i)); }");
    half.images[0].bytes.splice(..0, *b"enable f16;\n");
    let (program, code) = one(half, 3);
    match WgpuDevice::new(&code, vec![], WgpuOptions::default()) {
        Ok(mut device) => {
            assert!(device.adapter().f16);
            device.prepare(&program).unwrap();
            let mut stepper = Stepper::new(&program).unwrap();
            stepper.run(&mut device, &mut ()).unwrap();
            assert_eq!(read(&stepper, &mut device, "x"), [1.5, 2.5, 3.5]);
        }
        Err(WgpuError::NoF16 { kernel, .. }) => assert_eq!(kernel, "f16_one"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn no_such_adapter() {
    let options = WgpuOptions { adapter: Some("abacus".to_owned()), ..WgpuOptions::default() };
    let error = WgpuDevice::new(&Code::default(), vec![], options).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("no WebGPU adapter is called `abacus`; there are: `"), "{text}");
    assert!(text.contains(&adapters()[0].name), "{text}");
}

#[test]
fn code_of_another_target() {
    let mut msl = fine();
    msl.images[0].form = Form::Msl;
    let error = WgpuDevice::new(&code(vec![msl]), vec![], WgpuOptions::default()).unwrap_err();
    assert_eq!(error, WgpuError::Form { kernel: "f32_fine".to_owned() });
}

/// Calls out of turn.
#[test]
fn before_its_program() {
    let (program, code) = one(fine(), 4);
    let mut device = open(&code, vec![]);
    let unprepared = DeviceError::Unsupported { kernel: "a step before its program" };
    assert_eq!(device.write(0, &[0; 4]), Err(unprepared.clone()));
    assert_eq!(device.resize(&[1]), Err(unprepared));
    device.prepare(&program).unwrap();
    let dreamc_artifact::plan::Step::Dispatch(dispatch) = &program.steps[0] else { panic!() };
    let unsound = DeviceError::Unsupported { kernel: "a launch" };
    assert_eq!(device.dispatch(0, dispatch, &[]), Err(unsound.clone()), "no lengths yet");
    device.resize(&[1]).unwrap();
    assert_eq!(device.dispatch(1, dispatch, &[]), Err(unsound), "there is one dispatch");
    assert_eq!(device.dispatch(0, dispatch, &[]), Ok(()));
}

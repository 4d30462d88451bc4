//! Launches: what they bind, their scalars and grids.

use crate::common::*;
use dreamc_artifact::code::{Code, Extent};
use dreamc_artifact::plan::{Binding, Dim, Program, Scalar, ValueId};
use dreamc_device_wgpu::{WgpuOptions, adapters};
use dreamc_num::DType;

/// `y = a x + n` for a weight `a`.
fn scaled() -> (Program, Code) {
    let module = module(
        "f32_scale",
        &[("f32", false), ("f32", false), ("f32", true)],
        &[U, F],
        EACH,
        "if i < s(0u) { b2[i] = b1[i] * b0[i] + bitcast<f32>(s(1u)) + f32(s(4u)); }",
    );
    let scalars = vec![Scalar::Count(times_symbol(1)), Scalar::Float(0.5)];
    let program = Builder::new("forward", 100)
        .value(DType::F32, vec![times_symbol(1)])
        .weight(DType::F32, 100, 0)
        .value(DType::F32, vec![times_symbol(1)])
        .input("x", 0)
        .output("y", 2)
        .step(apart(0, 2, vec![launch(0, &[0, 1, 2], scalars)]))
        .build();
    (program, code(vec![module]))
}

fn weight(n: usize) -> Vec<u8> {
    floats(&(0..n).map(|i| i as f32).collect::<Vec<_>>())
}

/// Lengths change from run to run, and with them grids, scalars and the lengths of buffers.
#[test]
fn a_weight_at_changing_lengths() {
    let (program, code) = scaled();
    let stored = weight(100);
    let (mut device, mut stepper) = ready(&program, &code, vec![stored_weight(&stored, DType::F32)]);
    for n in [100, 7, 1, 33, 33, 64] {
        stepper.resize(&[("S", n)]).unwrap();
        let x: Vec<f32> = (0..n).map(|i| 1.0 + i as f32).collect();
        stepper.write(&mut device, "x", &floats(&x)).unwrap();
        assert_eq!(stepper.run(&mut device, &mut ()), Ok(1));
        // Word 4 is the length of buffer 2.
        let wanted: Vec<f32> = x.iter().enumerate().map(|(i, x)| i as f32 * x + 0.5 + n as f32).collect();
        assert_eq!(read(&stepper, &mut device, "y"), wanted, "at length {n}");
    }
}

/// The launches of a dispatch follow each other, without a block of scalars too, and what one writes the next sees.
#[test]
fn launches_in_order() {
    let twice = module(
        "f32_twice",
        &[("f32", false), ("f32", true)],
        &[],
        Extent::Constant(1),
        "if i < 5u { b1[i] = 2.0 * b0[i]; }",
    );
    let back = module(
        "f32_less",
        &[("f32", false), ("f32", true)],
        &[U],
        EACH,
        "if i < s(0u) { b1[i] = b0[i] - 1.0; }",
    );
    let program = Builder::new("forward", 1)
        .value(DType::F32, vec![Dim::constant(5)])
        .value(DType::F32, vec![Dim::constant(5)])
        .input("x", 0)
        .output("x", 0)
        .step(in_place(0, vec![launch(0, &[0, 1], vec![]), launch(1, &[1, 0], vec![count(5)])]))
        .step(in_place(0, vec![launch(0, &[0, 1], vec![]), launch(1, &[1, 0], vec![count(4)])]))
        .build();
    let (mut device, mut stepper) = ready(&program, &code(vec![twice, back]), vec![]);
    stepper.write(&mut device, "x", &floats(&[1.0, 2.0, 3.0, 4.0, 5.0])).unwrap();
    stepper.run(&mut device, &mut ()).unwrap();
    assert_eq!(read(&stepper, &mut device, "x"), [1.0, 5.0, 9.0, 13.0, 9.0]);
}

/// A weight that is bound in parts, each a buffer of its own; the last part's bytes are no multiple of 4.
#[test]
fn parts_of_a_weight() {
    let module = module(
        "b32_copy_at",
        &[("u32", false), ("u32", true)],
        &[U, U],
        EACH,
        "if i < s(0u) { b1[s(1u) + i] = b0[i] + (s(2u) << 16u); }",
    );
    let stored: Vec<u8> = (0..402_u16).flat_map(u16::to_le_bytes).collect();
    let part = |first: u64, bytes: u64| {
        let mut launch = launch(0, &[0, 2], vec![count((bytes / 4) as u32), count((first / 4) as u32)]);
        launch.buffers[0] = Binding { value: ValueId(0), part: Some((first, bytes)) };
        launch
    };
    let program = Builder::new("forward", 1)
        .weight(DType::BF16, 401, 0)
        .value(DType::U32, vec![Dim::constant(200)])
        .value(DType::U32, vec![Dim::constant(200)])
        .output("y", 2)
        .step(apart(1, 2, vec![part(512, 290), part(0, 256), part(256, 256)]))
        .build();
    let view = stored_weight(&stored[..802], DType::BF16);
    let (mut device, mut stepper) = ready(&program, &code(vec![module]), vec![view]);
    stepper.run(&mut device, &mut ()).unwrap();
    let found = read_bytes(&stepper, &mut device, "y");
    for (i, word) in found.chunks_exact(4).enumerate() {
        // The length of a binding is that of its part, rounded up.
        let elements = if i < 128 { 64 } else { 73 };
        let wanted = u32::from_le_bytes(stored[4 * i..][..4].try_into().unwrap()) + (elements << 16);
        assert_eq!(u32::from_le_bytes(word.try_into().unwrap()), wanted, "word {i}");
    }
}

/// Programs of one device share its weights, and none sees the other's arena.
#[test]
fn programs_take_turns() {
    let (first, code) = scaled();
    let mut second = first.clone();
    second.name = "generate".to_owned();
    let stored = weight(100);
    let (mut device, mut stepper) = ready(&first, &code, vec![stored_weight(&stored, DType::F32)]);
    stepper.resize(&[("S", 3)]).unwrap();
    stepper.write(&mut device, "x", &floats(&[1.0, 1.0, 1.0])).unwrap();
    stepper.run(&mut device, &mut ()).unwrap();
    for program in [&second, &first] {
        device.prepare(program).unwrap();
        let mut stepper = Stepper::new(program).unwrap();
        stepper.resize(&[("S", 3)]).unwrap();
        stepper.run(&mut device, &mut ()).unwrap();
        assert_eq!(read(&stepper, &mut device, "y"), [3.5, 3.5, 3.5], "its input is still zero");
    }
}

/// Grids of nothing are left out, and a grid that may be of any size is cut to what the device takes.
#[test]
fn grids_of_nothing_and_of_any_size() {
    let set = module("u32_set", &[("u32", true)], &[U], EACH, "b0[i] = 7u;");
    let any = Extent::Ceil { of: 0, per: 1, any: true };
    let groups = module("u32_groups", &[("u32", true)], &[U], any, "if i == 0u { b0[2] = groups.x; }");
    let program = Builder::new("forward", 1)
        .value(DType::U32, vec![Dim::constant(3)])
        .value(DType::U32, vec![Dim::constant(3)])
        .output("y", 1)
        .step(apart(0, 1, vec![launch(0, &[1], vec![Scalar::Count(Dim { terms: vec![] })])]))
        .step(apart(0, 1, vec![launch(1, &[1], vec![count(1 << 30)])]))
        .build();
    let (mut device, mut stepper) = ready(&program, &code(vec![set, groups]), vec![]);
    stepper.run(&mut device, &mut ()).unwrap();
    let found = read_bytes(&stepper, &mut device, "y");
    assert_eq!(found[..8], [0; 8]);
    let groups = u32::from_le_bytes(found[8..].try_into().unwrap());
    assert!((65_535..1 << 30).contains(&groups), "{groups}");
}

/// Whatever the number of launches that go to the driver together.
#[test]
fn three_hundred_dispatches() {
    let module = module(
        "f32_more",
        &[("f32", true)],
        &[U],
        EACH,
        "if i < s(0u) { b0[i] = b0[i] * 0.5 + 1.0 + f32(i); }",
    );
    let mut builder =
        Builder::new("forward", 1).value(DType::F32, vec![Dim::constant(70)]).input("x", 0).output("x", 0);
    for _ in 0..300 {
        builder = builder.step(in_place(0, vec![launch(0, &[0], vec![count(70)])]));
    }
    let (program, code) = (builder.build(), code(vec![module]));
    check(&program, &code, &[]);
    let x: Vec<f32> = (0..70).map(|i| i as f32).collect();
    let wanted: Vec<f32> = (0..300)
        .fold(x.clone(), |x, _| x.iter().enumerate().map(|(i, x)| x * 0.5 + 1.0 + i as f32).collect());
    for launches_per_submit in [1, 7, 64, 1000] {
        let mut device =
            open_with(&code, vec![], WgpuOptions { launches_per_submit, ..WgpuOptions::default() });
        device.prepare(&program).unwrap();
        let mut stepper = Stepper::new(&program).unwrap();
        stepper.write(&mut device, "x", &floats(&x)).unwrap();
        stepper.run(&mut device, &mut ()).unwrap();
        assert_eq!(read(&stepper, &mut device, "x"), wanted, "{launches_per_submit} together");
    }
}

/// Not a claim about this machine: what `dreamc targets` prints.
#[test]
fn adapters_are_described() {
    let all = adapters();
    for adapter in &all {
        println!("{adapter}");
        assert!(["vulkan", "metal", "dx12"].contains(&adapter.backend), "{adapter:?}");
    }
    let device = open(&Code::default(), vec![]);
    println!("arena, binding: {:?}", device.bytes_max());
    assert!(all.contains(device.adapter()));
    let name = device.adapter().name.to_uppercase();
    let options = WgpuOptions { adapter: Some(name), ..WgpuOptions::default() };
    assert_eq!(open_with(&Code::default(), vec![], options).adapter().name, device.adapter().name);
}

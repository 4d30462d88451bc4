//! The loop: its index between launches that are still to run, its history, and whoever watches.

use crate::common::*;
use dreamc_artifact::plan::{Denoise, Dim, Dispatch, Kernel, Program, Step, ValueId};
use dreamc_device_wgpu::WgpuOptions;
use dreamc_num::DType;
use dreamc_runtime::{Device, Done, Observer, Shown};

fn denoise(steps: u32, index: u32, body: Vec<Step>, history: Option<(u32, u32)>) -> Step {
    let history = history.map(|(from, into)| (ValueId(from), ValueId(into)));
    Step::Denoise(Denoise { steps, index: ValueId(index), body, history, slots: None })
}

/// Three floats to which each step adds its index and 1, and what they were after each step.
fn adding(steps: u32) -> (Program, dreamc_artifact::code::Code) {
    let module = module(
        "f32_add_index",
        &[("f32", true), ("i32", false)],
        &[U],
        EACH,
        "if i < s(0u) { b0[i] = b0[i] + f32(b1[0] + 1); }",
    );
    let three = || vec![Dim::constant(3)];
    let program = Builder::new("generate", 1)
        .value(DType::F32, three())
        .value(DType::I32, vec![])
        .value(DType::F32, vec![Dim::constant(steps), Dim::constant(3)])
        .input("x", 0)
        .output("x", 0)
        .output("history", 2)
        .step(denoise(steps, 1, vec![in_place(0, vec![launch(0, &[0, 1], vec![count(3)])])], Some((0, 2))))
        .build();
    (program, code(vec![module]))
}

#[test]
fn index_and_history() {
    let (program, code) = adding(9);
    let (mut device, mut stepper) = ready(&program, &code, vec![]);
    for run in 0..2 {
        stepper.write(&mut device, "x", &floats(&[0.0, 10.0, 20.0])).unwrap();
        assert_eq!(stepper.run(&mut device, &mut ()), Ok(9));
        let sums = (1..=9).scan(0, |sum, i| {
            *sum += i;
            Some(*sum as f32)
        });
        let wanted: Vec<f32> = sums.flat_map(|sum| [sum, sum + 10.0, sum + 20.0]).collect();
        assert_eq!(read(&stepper, &mut device, "history"), wanted, "run {run}");
        assert_eq!(read(&stepper, &mut device, "x"), [45.0, 55.0, 65.0]);
    }
}

/// Two loops, whose indices are set while launches of former steps wait: any other order would give another number.
#[test]
fn an_index_of_each_step() {
    let module = module(
        "u32_mix",
        &[("u32", true), ("i32", false)],
        &[],
        dreamc_artifact::code::Extent::Constant(1),
        "if i < 4u { b0[i] = b0[i] * 1664525u + u32(b1[0]) + i; }",
    );
    let mix = || step(Kernel::AdvanceStream, 0, 0, vec![launch(0, &[0, 1], vec![])]);
    let program = Builder::new("generate", 1)
        .value(DType::U32, vec![Dim::constant(4)])
        .value(DType::I32, vec![])
        .output("stream", 0)
        .step(denoise(50, 1, vec![mix(), mix()], None))
        .step(mix())
        .step(denoise(7, 1, vec![mix()], None))
        .build();
    let code = code(vec![module]);
    check(&program, &code, &[]);
    let indices = (0..50).flat_map(|i| [i, i]).chain([49]).chain(0..7);
    let mixed = |lane: u32| {
        indices
            .clone()
            .fold(0_u32, |x, index| x.wrapping_mul(1_664_525).wrapping_add(index).wrapping_add(lane))
    };
    let wanted = bytes(&[0, 1, 2, 3].map(mixed), u32::to_le_bytes);
    for launches_per_submit in [1, 3, 64] {
        let mut device =
            open_with(&code, vec![], WgpuOptions { launches_per_submit, ..WgpuOptions::default() });
        device.prepare(&program).unwrap();
        let mut stepper = Stepper::new(&program).unwrap();
        assert_eq!(stepper.run(&mut device, &mut ()), Ok(57));
        assert_eq!(read_bytes(&stepper, &mut device, "stream"), wanted, "{launches_per_submit} together");
    }
}

/// A history whose slots begin at odd places: 3 values of 2 bytes.
#[test]
fn history_of_odd_slots() {
    let module = module(
        "bf16x2_number",
        &[("u32", true), ("i32", false)],
        &[],
        dreamc_artifact::code::Extent::Constant(1),
        "let n = u32(b1[0]) * 3u + 1u; if i == 0u { b0[0] = n | ((n + 1u) << 16u); b0[1] = (n + 2u) | 0xffff0000u; }",
    );
    let program = Builder::new("generate", 1)
        .value(DType::BF16, vec![Dim::constant(3)])
        .value(DType::I32, vec![])
        .value(DType::BF16, vec![Dim::constant(5), Dim::constant(3)])
        .output("x", 0)
        .output("history", 2)
        .step(denoise(5, 1, vec![in_place(0, vec![launch(0, &[0, 1], vec![])])], Some((0, 2))))
        .build();
    let (mut device, mut stepper) = ready(&program, &code(vec![module]), vec![]);
    assert_eq!(stepper.run(&mut device, &mut ()), Ok(5));
    let wanted: Vec<u8> = (1..=15_u16).flat_map(u16::to_le_bytes).collect();
    assert_eq!(read_bytes(&stepper, &mut device, "history"), wanted);
    assert_eq!(read_bytes(&stepper, &mut device, "x"), wanted[24..]);
}

/// Sees every result, and changes it.
struct Doubling(Vec<f32>);

impl Observer for Doubling {
    fn wants(&self, _: &Dispatch) -> bool {
        true
    }

    fn after(&mut self, shown: Shown<'_>) {
        for (i, word) in shown.bytes.chunks_exact_mut(4).enumerate() {
            let x = f32::from_le_bytes(word.try_into().unwrap());
            if i == 0 {
                self.0.push(x);
            }
            word.copy_from_slice(&(2.0 * x).to_le_bytes());
        }
    }
}

#[test]
fn observers_see_and_change() {
    let (program, code) = adding(4);
    let (mut device, mut stepper) = ready(&program, &code, vec![]);
    let mut doubling = Doubling(Vec::new());
    stepper.run(&mut device, &mut doubling).unwrap();
    assert_eq!(doubling.0, [1.0, 4.0, 11.0, 26.0]);
    assert_eq!(read(&stepper, &mut device, "x"), [52.0; 3]);
}

/// Hears of every dispatch.
#[derive(Default)]
struct Timing(Vec<(u32, u32)>);

impl Observer for Timing {
    fn times(&self) -> bool {
        true
    }

    fn done(&mut self, done: Done<'_>) {
        self.0.push((done.number, done.step));
    }
}

/// Each dispatch is finished before the next, with the same results.
#[test]
fn timed_runs() {
    let (program, code) = adding(4);
    let (mut device, mut stepper) = ready(&program, &code, vec![]);
    let mut timing = Timing::default();
    stepper.run(&mut device, &mut timing).unwrap();
    assert_eq!(timing.0, [(0, 0), (0, 1), (0, 2), (0, 3)]);
    device.finish().unwrap();
    let timed = read(&stepper, &mut device, "x");
    let (mut device, mut stepper) = ready(&program, &code, vec![]);
    stepper.run(&mut device, &mut ()).unwrap();
    assert_eq!(read(&stepper, &mut device, "x"), timed);
}

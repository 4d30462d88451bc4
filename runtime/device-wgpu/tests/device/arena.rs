//! Ways in, out and inside the arena, at any byte.

use crate::common::*;
use dreamc_artifact::code::{Code, Extent};
use dreamc_artifact::plan::{Dim, Program};
use dreamc_num::DType;

/// Values that nothing computes, `bytes` bytes in all.
fn plain(bytes: u32) -> Program {
    Builder::new("forward", 1)
        .value(DType::BF16, vec![Dim::constant(bytes / 2)])
        .input("x", 0)
        .output("x", 0)
        .build()
}

fn opened(bytes: u32) -> dreamc_device_wgpu::WgpuDevice<'static> {
    ready(&plain(bytes), &Code::default(), vec![]).0
}

/// Random calls, compared with an arena in memory. Writes of odd bytes where a value begins are left out: they may
/// change what is behind them.
#[test]
fn any_byte_in_any_order() {
    let mut device = opened(1000);
    let mut wanted = vec![0_u8; 1000];
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for call in 0..300 {
        let (at, kind) = (random(1000), random(4));
        let len = random((1000 - at).min(40) + 1);
        let (start, end) = (at as usize, (at + len) as usize);
        match kind {
            0 if at % 256 != 0 || len % 4 == 0 => {
                let bytes: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
                device.write(at, &bytes).unwrap();
                wanted[start..end].copy_from_slice(&bytes);
            }
            1 => {
                let to = random(1001 - len);
                device.copy(at, to, len).unwrap();
                wanted.copy_within(start..end, to as usize);
            }
            2 if len >= 4 => {
                device.set(at, call).unwrap();
                wanted[start..start + 4].copy_from_slice(&call.to_le_bytes());
            }
            _ => {
                let mut found = vec![0; len as usize];
                device.read(at, &mut found).unwrap();
                assert_eq!(found, wanted[start..end], "call {call}: {len} bytes at {at}");
            }
        }
    }
    let mut found = vec![0; 1000];
    device.read(0, &mut found).unwrap();
    assert_eq!(found, wanted);
}

/// More than goes through the buffers in between at once, and ranges that overlap in both directions.
#[test]
fn in_pieces() {
    const BYTES: u32 = 600_000;
    let mut program = plain(BYTES);
    program.outputs.clear();
    let (mut device, _) = ready(&program, &Code::default(), vec![]);
    let mut wanted: Vec<u8> = (0..BYTES).map(|i| (i * 7 / 5 % 251) as u8).collect();
    device.write(0, &wanted).unwrap();
    for (from, to, bytes) in [(0, 1000, 500_000), (300_000, 44, 250_000), (10, 21, 200_001)] {
        device.copy(from as u64, to as u64, bytes as u64).unwrap();
        wanted.copy_within(from..from + bytes, to);
        let mut found = vec![0; BYTES as usize];
        device.read(0, &mut found).unwrap();
        assert!(found == wanted, "{bytes} bytes from {from} to {to}");
    }
}

#[test]
fn nothing_outside() {
    let mut device = opened(1000);
    let outside = Err(DeviceError::Unsupported { kernel: "memory outside the arena" });
    assert_eq!(device.write(997, &[0; 4]), outside);
    assert_eq!(device.write(0, &[0; 1001]), outside);
    assert_eq!(device.read(1000, &mut [0]), outside);
    assert_eq!(device.read(u64::MAX, &mut [0; 2]), outside);
    assert_eq!(device.copy(0, 996, 5), outside);
    assert_eq!(device.set(998, 0), outside);
    assert_eq!(device.write(1000, &[]), Ok(()));
}

/// Inputs and outputs whose bytes are no multiple of 4, beside each other.
#[test]
fn odd_inputs() {
    // A unit for each word.
    let module = module(
        "b16x2_copy",
        &[("u32", false), ("u32", true)],
        &[],
        Extent::Constant(1),
        "if i < arrayLength(&b1) { b1[i] = b0[i]; }",
    );
    let mut builder = Builder::new("forward", 9);
    for dtype in [DType::BF16, DType::Bool] {
        builder = builder.value(dtype, vec![times_symbol(1)]).value(dtype, vec![times_symbol(1)]);
    }
    let program = builder
        .input("x", 0)
        .output("y", 1)
        .input("bools", 2)
        .output("same", 3)
        .step(apart(0, 1, vec![launch(0, &[0, 1], vec![])]))
        .step(apart(2, 3, vec![launch(0, &[2, 3], vec![])]))
        .build();
    let (mut device, mut stepper) = ready(&program, &code(vec![module]), vec![]);
    for n in [9, 5, 1, 2, 7] {
        stepper.resize(&[("S", n)]).unwrap();
        let halves: Vec<u8> = (0..2 * n).map(|i| (i * 37 + n) as u8).collect();
        let bools: Vec<u8> = (0..n).map(|i| u8::from(i % 3 == 0)).collect();
        stepper.write(&mut device, "x", &halves).unwrap();
        stepper.write(&mut device, "bools", &bools).unwrap();
        stepper.run(&mut device, &mut ()).unwrap();
        assert_eq!(read_bytes(&stepper, &mut device, "y"), halves);
        assert_eq!(read_bytes(&stepper, &mut device, "same"), bools);
    }
}

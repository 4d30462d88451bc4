//! What the device refuses: options that the host cannot follow, operands that no kernel takes, tokens and steps
//! outside their ranges. Never a panic, never another instruction set in silence.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::{
    Case, Tensor, bench, bools, case, decoder, ints, plain, quantized, random, sampler, scalar, weight,
};
use dreamc_artifact::INT8_COLUMNS_MAX;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Attention, Confidence, Kernel, Linear, Place, ValueId};
use dreamc_device_cpu::{CpuDevice, CpuError, CpuOptions, Isa};
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};
use dreamc_runtime::{Device, DeviceError, Operand, Shape};

fn device(options: CpuOptions) -> Result<CpuDevice<'static>, CpuError> {
    CpuDevice::new(vec![], options)
}

#[test]
fn missing_instruction_set() {
    for isa in Isa::ALL {
        let made = device(CpuOptions { isa: Some(isa), threads: 1, ..CpuOptions::default() });
        match (isa.is_available(), made) {
            (true, made) => assert_eq!(made.unwrap().isa(), isa),
            (false, made) => assert!(matches!(made, Err(CpuError::Isa { isa: i, .. }) if i == isa)),
        }
    }
    // No host has both.
    assert!(!(Isa::Neon.is_available() && Isa::Avx2.is_available()));
}

#[test]
fn missing_core() {
    for pin in [vec![1 << 40], vec![1000], vec![1 << 40, 0]] {
        let core = pin[0];
        let made = device(CpuOptions { pin, ..CpuOptions::default() });
        assert!(matches!(made, Err(CpuError::Pin { core: c }) if c == core));
    }
}

/// On a thread of its own, since that stays bound.
#[test]
#[cfg(target_os = "linux")]
fn pinned() {
    let own = std::thread::spawn(|| {
        // A container may keep core 0 from us: any core that works will do.
        let pin = |core: usize| device(CpuOptions { pin: vec![core; 3], ..CpuOptions::default() });
        (0..64).find_map(|core| pin(core).ok()).map(|device| device.threads())
    });
    assert_eq!(own.join().unwrap(), Some(3));
}

#[test]
fn token_outside_the_vocabulary() {
    for id in [-1, 5, i32::MAX, i32::MIN] {
        let reads = [ints(&[1, 2], &[0, id]), random(DType::F32, &[5, 8], 1)];
        let case = case(Kernel::Embed, &reads, DType::F32, &[1, 2, 8], 0.0);
        let error = bench(&case, Isa::detect(), 2, None).run().unwrap_err();
        assert_eq!(error, DeviceError::TokenOutOfRange { id, vocabulary: 5 });
    }
}

#[test]
fn row_outside() {
    let x = || random(DType::F32, &[1, 3, 4], 1);
    for index in [4, i32::MAX] {
        let reads = [x(), ints(&[1, 3], &[-1, 0, index]), random(DType::F32, &[2, 2, 4], 2)];
        let case = case(Kernel::Splice, &reads, DType::F32, &[1, 3, 4], 0.0);
        let error = bench(&case, Isa::detect(), 2, None).run().unwrap_err();
        assert_eq!(error, DeviceError::RowOutOfRange { index, rows: 4 });
    }
    for index in [-1, 3, i32::MIN] {
        let rows = [x(), ints(&[1, 2], &[0, index])];
        let attention =
            Attention { heads: 1, kv_heads: 1, head_dim: 4, packed: false, rope: false, rows: true };
        let q = random(DType::F32, &[1, 2, 4], 2);
        let queries = [q, x(), x(), ints(&[1, 3], &[1; 3]), ints(&[1, 2], &[0, index])];
        let slots = ints(&[1, 2], &[0, index]);
        let take = [ints(&[1, 3], &[5, 6, 7]), slots.clone()];
        let commit = [bools(&[1, 2], &[1, 0]), ints(&[1, 2], &[8, 9]), slots, ints(&[1, 3], &[5, 6, 7])];
        for case in [
            case(Kernel::TakeRows, &rows, DType::F32, &[1, 2, 4], 0.0),
            case(Kernel::Attention(attention), &queries, DType::F32, &[1, 2, 4], 0.0),
            case(Kernel::TakeSlots, &take, DType::I32, &[1, 2], 0.0),
            case(Kernel::CommitSlots, &commit, DType::I32, &[1, 3], 0.0),
        ] {
            let error = bench(&case, Isa::detect(), 2, None).run().unwrap_err();
            assert_eq!(error, DeviceError::RowOutOfRange { index, rows: 3 }, "{:?}", case.kernel);
        }
    }
}

#[test]
fn step_outside_the_schedule() {
    for step in [-1, 4, i32::MAX, i32::MIN] {
        let (steps, eps, index) = (4, 1e-3, ints(&[], &[step]));
        let active = bools(&[1, 2], &[1, 1]);
        let bits = common::random_words(&[1, 2], 1);
        let reads = [active.clone(), index.clone(), bits];
        let origin = case(Kernel::OriginSlots { steps, eps }, &reads, DType::Bool, &[1, 2], 0.0);
        let reads = [active, index.clone(), ints(&[], &[0])];
        let count = case(Kernel::TransferCount { steps, eps }, &reads, DType::I32, &[1], 0.0);
        let reads = [random(DType::F32, &[1, 2, 3], 1), scalar(1.0), index.clone()];
        let eos = case(Kernel::EosPenalty { token: 0, steps, eps }, &reads, DType::F32, &[1, 2, 3], 0.0);
        let times = Kernel::TimestepEmbed { times: vec![0.5; 4] };
        let embed = case(times, std::slice::from_ref(&index), DType::F32, &[1, 4], 0.0);
        let reads = [random(DType::F32, &[3], 1), random(DType::F32, &[3], 2), index];
        let ddim = case(Kernel::DdimStep { alphas: vec![0.5; 5] }, &reads, DType::F32, &[3], 0.0);
        let times = Kernel::TimestepEmbed { times: vec![0.5; 4] };
        let table = case(times, &[ints(&[3], &[0, 3, step])], DType::F32, &[1, 3, 4], 0.0);
        for case in [origin, count, eos, embed, ddim, table] {
            let error = bench(&case, Isa::detect(), 1, None).run().unwrap_err();
            assert_eq!(error, DeviceError::StepOutOfRange { step, steps }, "{:?}", case.kernel);
        }
    }
}

/// The first result.
fn floats(bench: &mut common::Bench<'_>) -> Vec<f32> {
    let bytes = bench.results().swap_remove(0).bytes;
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Logits that are not finite become no distribution, and that no token: the draw names the row of the request.
#[test]
fn logits_that_are_not_finite() {
    let (b, s, v) = (2, 3, 40);
    let active = || bools(&[b, s], &[1, 0, 1, 1, 1, 1]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for column in [0, 17, v - 1] {
            let mut logits = vec![0.5; (b * s * v) as usize];
            // A row that is not active may hold anything.
            logits[(v + column) as usize] = bad;
            logits[(4 * v + column) as usize] = bad;
            let reads = [
                common::real(DType::F32, &[b, s, v], &logits),
                active(),
                scalar(0.7),
                scalar(0.9),
                ints(&[], &[5]),
            ];
            let probs = case(Kernel::SamplingProbs, &reads, DType::F32, &[b, s, v], 0.0);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let mut bench = bench(&probs, isa, 2, None);
                bench.run().unwrap();
                let values = floats(&mut bench);
                let rows: Vec<&[f32]> = values.chunks(v as usize).collect();
                assert!(rows[4].iter().all(|p| *p == -1.0), "{isa} {bad} {column}: {:?}", rows[4]);
                assert!([0, 2, 3, 5].iter().all(|r| rows[*r].iter().all(|p| *p >= 0.0)), "{isa} {bad}");
            }
        }
    }
    // Finite logits that overflow over the temperature: as likely as if they did not.
    for (logit, temperature) in [(1e30, 1e-30), (-1e30, 1e-30)] {
        let logits = common::real(DType::F32, &[1, 1, 4], &[logit; 4]);
        let reads = [logits, bools(&[1, 1], &[1]), scalar(temperature), scalar(1.0), ints(&[], &[0])];
        let probs = case(Kernel::SamplingProbs, &reads, DType::F32, &[1, 1, 4], 0.0);
        let mut bench = bench(&probs, Isa::detect(), 1, None);
        bench.run().unwrap();
        assert_eq!(floats(&mut bench), [0.25; 4]);
    }
    let probs = common::real(DType::F32, &[b, s, v], &vec![-1.0; (b * s * v) as usize]);
    let open = bools(&[b, s], &[0, 0, 0, 0, 1, 1]);
    let reads = [probs, open, scalar(1.0), common::random_words(&[b, s], 1)];
    let draw = case(Kernel::DrawToken { first: 0 }, &reads, DType::I32, &[b, s], 0.0);
    let error = bench(&draw, Isa::detect(), 2, None).run().unwrap_err();
    assert_eq!(error, DeviceError::NoDistribution { row: 1 });
}

/// Numbers that no kernel before would write.
#[test]
fn hostile_numbers_do_not_panic() {
    let (b, s, v) = (1, 3, 40);
    let active = || bools(&[b, s], &[1, 255, 7]);
    let bits = || common::random_words(&[b, s], 1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1.0] {
        let values = || common::real(DType::F32, &[b, s, v], &vec![bad; (b * s * v) as usize]);
        let mut cases = vec![
            case(
                Kernel::DrawToken { first: 0 },
                &[values(), active(), scalar(1.0), bits()],
                DType::I32,
                &[b, s],
                0.0,
            ),
            case(
                Kernel::DrawToken { first: 0 },
                &[values(), active(), scalar(bad), bits()],
                DType::I32,
                &[b, s],
                0.0,
            ),
        ];
        for (top_p, top_k) in [(0.5, 3), (bad, 0), (1.0, i32::MIN)] {
            let reads = [values(), active(), scalar(bad), scalar(top_p), ints(&[], &[top_k])];
            cases.push(case(Kernel::SamplingProbs, &reads, DType::F32, &[b, s, v], 0.0));
        }
        for kind in [Confidence::Probability, Confidence::Margin, Confidence::NegativeEntropy] {
            let reads = [values(), active(), ints(&[b, s], &[i32::MIN, i32::MAX, 40])];
            cases.push(case(Kernel::Confidence(kind), &reads, DType::F32, &[b, s], 0.0));
        }
        for count in [-1, i32::MAX] {
            let confidence = || common::real(DType::F32, &[b, s], &[bad; 3]);
            for joint in [0, 1] {
                let (confidence, joint) = (confidence(), ints(&[], &[joint]));
                let reads = [confidence, active(), ints(&[b], &[count]), scalar(bad), bits(), joint];
                cases.push(case(Kernel::SelectSlots, &reads, DType::Bool, &[b, s], 0.0));
            }
        }
        for case in cases {
            // Only a draw from what is no distribution is an error.
            let draws = matches!(case.kernel, Kernel::DrawToken { .. });
            match bench(&case, Isa::detect(), 2, None).run() {
                Err(DeviceError::NoDistribution { row: 0 }) if draws && (bad.is_nan() || bad < 0.0) => {}
                other => other.unwrap(),
            }
        }
    }
}

/// One case of each kind, changed in every way that no plan can be: each is an error.
#[test]
fn operands_that_do_not_fit() {
    let mut seen = vec![];
    decoder::attention_rows().iter().take(3).for_each(refuse_changes);
    for case in common::all() {
        let kind = std::mem::discriminant(&case.kernel);
        if seen.contains(&kind) {
            continue;
        }
        seen.push(kind);
        refuse_changes(&case);
    }
    assert_eq!(seen.len(), 38, "one case of every kernel");
}

fn refuse_changes(case: &Case) {
    let mut bench = bench(case, Isa::detect(), 2, None);
    bench.run().unwrap();
    let (good, whole) = (bench.operands.clone(), bench.dispatch.clone());
    for (i, operand) in good.iter().enumerate() {
        let shape = operand.shape;
        let mut changes: Vec<Operand> = vec![];
        let mut dims = shape.dims().to_vec();
        dims.push(2);
        changes.extend(Shape::new(&dims).map(|shape| Operand { shape, ..*operand }));
        for axis in 0..shape.dims().len() {
            // Dimensions that nothing else hangs on: the results do not have them.
            let free = match case.kernel {
                Kernel::Slice { .. } | Kernel::DrawToken { .. } | Kernel::Confidence(_) => {
                    i == 0 && axis == 2
                }
                Kernel::TakeRows | Kernel::TakeSlots | Kernel::OpenSlots { .. } => i == 0 && axis == 1,
                Kernel::Splice => i == 2 && axis + 1 < shape.dims().len(),
                Kernel::Embed => i == 1 && axis == 0,
                Kernel::TransferCount { .. } => i == 0 && axis == 1,
                _ => false,
            };
            let longer = shape.dims()[axis] + 1;
            for n in [0, longer, 1 << 20, u32::MAX].into_iter().filter(|n| !free || *n != longer) {
                let mut dims = shape.dims().to_vec();
                dims[axis] = n;
                changes.push(Operand { shape: Shape::new(&dims).unwrap(), ..*operand });
            }
        }
        let places = [Place::Arena(1 << 40), Place::Arena(u64::MAX), Place::Arena(2), Place::Weight(77)];
        changes.extend(places.map(|place| Operand { place, ..*operand }));
        changes.push(Operand { dtype: DType::F16, ..*operand });
        for change in changes {
            bench.operands[i] = change;
            assert!(bench.run().is_err(), "{:?}: operand {i} as {change:?}", case.kernel);
        }
        bench.operands[i] = *operand;
    }
    // The first result over each operand where the kernel does not allow it.
    for i in (0..case.reads.len()).filter(|i| !case.over.contains(i)) {
        if let (Place::Arena(_), r) = (good[i].place, case.reads.len()) {
            bench.operands[r].place = good[i].place;
            assert!(bench.run().is_err(), "{:?}: result over operand {i}", case.kernel);
            bench.operands[r] = good[r];
        }
    }
    bench.dispatch.reads.pop();
    assert!(bench.run().is_err(), "{:?}: an operand less", case.kernel);
    bench.dispatch = whole.clone();
    bench.dispatch.reads.resize(20, ValueId(0));
    assert!(bench.run().is_err(), "{:?}: too many operands", case.kernel);
    bench.dispatch = whole.clone();
    bench.dispatch.writes.clear();
    assert!(bench.run().is_err(), "{:?}: no result", case.kernel);
    bench.dispatch = whole;
    bench.dispatch.reads[0] = ValueId(999);
    assert!(bench.run().is_err(), "{:?}: no such value", case.kernel);
}

const INT8: Option<Codes> = Some(Codes::Int8);

/// One row by three.
fn linear(codes: Option<Codes>, k: u32, matrix: Tensor) -> Case {
    let linear = Linear { codes, ..plain() };
    let reads = [random(DType::F32, &[1, k], 1), matrix];
    case(Kernel::Linear(linear), &reads, DType::F32, &[1, 3], 0.0)
}

/// Codes come from weights that are stored in few bits, and from no others.
#[test]
fn codes_of_weights_that_have_none() {
    let k = 70;
    let values = common::numbers(3 * k as usize, 2);
    let packed = |dtype: DType| weight(dtype, 3, k as usize, &values);
    let row_major = |dtype: DType| common::table(random(dtype, &[3, k], 2));
    for matrix in [packed(DType::F32), packed(DType::BF16), row_major(DType::F32), row_major(DType::BF16)] {
        refuse_codes(&linear(INT8, k, matrix));
    }
    for quant in [Quant::Int8, Quant::Int4 { group: 32, zero: true }] {
        let matrix = quantized::weight(DType::F32, quant, 3, k as usize, &values);
        bench(&linear(INT8, k, matrix), Isa::detect(), 2, None).run().unwrap();
    }
}

/// A column more than sums in 32 bits have room for. Without codes there is no such limit.
#[test]
fn codes_of_too_many_columns() {
    for quant in [Quant::Int8, Quant::Int4 { group: 32, zero: false }] {
        for (k, fits) in [(INT8_COLUMNS_MAX, true), (INT8_COLUMNS_MAX + 1, false)] {
            let values = common::numbers(3 * k as usize, 2);
            let case = |codes| linear(codes, k, quantized::weight(DType::F32, quant, 3, k as usize, &values));
            bench(&case(None), Isa::detect(), 2, None).run().unwrap();
            if fits {
                bench(&case(INT8), Isa::detect(), 2, None).run().unwrap();
            } else {
                refuse_codes(&case(INT8));
            }
        }
    }
}

/// There are no kernels for codes of fp8 here.
#[test]
fn weights_and_rows_in_fp8() {
    let stored = |layout: Layout| {
        let bytes = layout.stored_bytes(DType::F32, &[3, 16]).unwrap();
        Tensor { dtype: DType::F32, dims: vec![3, 16], bytes: vec![0; bytes as usize], layout: Some(layout) }
    };
    let (fp8, int8) = (Layout::Quantized(Quant::Fp8), Layout::Quantized(Quant::Int8));
    for (layout, codes) in [(fp8, Some(Codes::Fp8)), (fp8, INT8), (fp8, None), (int8, Some(Codes::Fp8))] {
        refuse_codes(&linear(codes, 16, stored(layout)));
    }
}

fn refuse_codes(case: &Case) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let error = bench(case, isa, 2, None).run().unwrap_err();
        assert_eq!(error, DeviceError::Unsupported { kernel: "linear" }, "{isa}");
    }
}

/// What a plan was not prepared for has no scratch.
#[test]
fn larger_than_prepared() {
    let small = &sampler::sampling_probs()[0];
    let mut bench = bench(small, Isa::detect(), 1, None);
    let linear = &decoder::linear()[0];
    bench.dispatch.kernel = linear.kernel.clone();
    assert!(bench.run().is_err());
    let mut empty = device(CpuOptions::default()).unwrap();
    assert!(empty.write(0, &[1]).is_err() && empty.read(u64::MAX, &mut [1]).is_err());
    assert!(empty.copy(0, 0, 1).is_err());
}

//! One kernel on the device and in the interpreter.

pub(crate) mod decoder;
pub(crate) mod quantized;
pub(crate) mod sampler;
pub(crate) mod vision;

use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{
    Activation, Dim, Dispatch, Kernel, Linear, Place, Program, Step, Value, ValueId,
};
use dreamc_device_cpu::{CpuDevice, CpuOptions, Isa, WeightView};
use dreamc_interp as interp;
use dreamc_num::DType;
use dreamc_num::stream::{Lane, StreamState, uniform};
use dreamc_runtime::{Device, DeviceError, Operand, Shape};

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
    /// Given for a weight, which then does not lie in the arena.
    pub(crate) layout: Option<Layout>,
}

/// One dispatch and how exact its floats must be.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) kernel: Kernel,
    pub(crate) reads: Vec<Tensor>,
    pub(crate) writes: Vec<(DType, Vec<u32>)>,
    /// Relative to the larger of the wanted value and 1.
    pub(crate) tolerance: f64,
    /// Operands that the result is also written over.
    pub(crate) over: Vec<usize>,
}

pub(crate) fn case(kernel: Kernel, reads: &[Tensor], dtype: DType, dims: &[u32], tolerance: f64) -> Case {
    let writes = vec![(dtype, dims.to_vec())];
    Case { kernel, reads: reads.to_vec(), writes, tolerance, over: vec![] }
}

impl Case {
    pub(crate) fn over(mut self, operands: &[usize]) -> Case {
        self.over = operands.to_vec();
        self
    }
}

fn bf16(v: f32) -> [u8; 2] {
    let bits = v.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    (if v.is_nan() { 0x7fc0 } else { rounded }).to_le_bytes()
}

pub(crate) fn real(dtype: DType, dims: &[u32], values: &[f32]) -> Tensor {
    let bytes = values
        .iter()
        .flat_map(|v| if dtype == DType::BF16 { bf16(*v).to_vec() } else { v.to_le_bytes().to_vec() })
        .collect();
    Tensor { dtype, dims: dims.to_vec(), bytes, layout: None }
}

/// One matmul, with nothing before or after it.
pub(crate) fn plain() -> Linear {
    Linear {
        norm_eps: None,
        weights: 1,
        bias: false,
        residual: false,
        swiglu: false,
        smooth: false,
        codes: None,
        activation: None,
    }
}

pub(crate) fn scalar(value: f32) -> Tensor {
    real(DType::F32, &[], &[value])
}

pub(crate) fn ints(dims: &[u32], values: &[i32]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { dtype: DType::I32, dims: dims.to_vec(), bytes, layout: None }
}

pub(crate) fn words(dims: &[u32], values: &[u32]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { dtype: DType::U32, dims: dims.to_vec(), bytes, layout: None }
}

/// The bytes as they are: what is not 0 counts as true.
pub(crate) fn bools(dims: &[u32], values: &[u8]) -> Tensor {
    Tensor { dtype: DType::Bool, dims: dims.to_vec(), bytes: values.to_vec(), layout: None }
}

pub(crate) fn table(mut tensor: Tensor) -> Tensor {
    tensor.layout = Some(Layout::RowMajor);
    tensor
}

/// A matrix `[n, k]` packed for a matmul.
pub(crate) fn weight(dtype: DType, n: usize, k: usize, values: &[f32]) -> Tensor {
    let layout = Layout::of_matmul(dtype).unwrap();
    let size = dtype.bytes();
    let mut bytes = vec![0; layout.stored_bytes(dtype, &[n as u64, k as u64]).unwrap() as usize];
    let rows = real(dtype, &[], values).bytes;
    for i in 0..n * k {
        let at = layout.index(k, i / k, i % k) * size;
        bytes[at..at + size].copy_from_slice(&rows[i * size..][..size]);
    }
    Tensor { dtype, dims: vec![n as u32, k as u32], bytes, layout: Some(layout) }
}

fn bits(n: usize, seed: u32) -> impl Iterator<Item = u32> {
    let state = StreamState { seed: u64::from(seed), first_row: 0, step: 0 };
    (0..n as u32).map(move |i| state.bits(0, i, Lane::Token))
}

/// Numbers in -1..1.
pub(crate) fn numbers(n: usize, seed: u32) -> Vec<f32> {
    bits(n, seed).map(|b| 2.0 * uniform(b) - 1.0).collect()
}

pub(crate) fn random(dtype: DType, dims: &[u32], seed: u32) -> Tensor {
    real(dtype, dims, &numbers(dims.iter().product::<u32>() as usize, seed))
}

pub(crate) fn random_words(dims: &[u32], seed: u32) -> Tensor {
    words(dims, &bits(dims.iter().product::<u32>() as usize, seed).collect::<Vec<_>>())
}

/// Elements in order, whatever the layout.
pub(crate) fn elements(tensor: &Tensor) -> interp::Data {
    let size = tensor.dtype.bytes();
    let count = tensor.dims.iter().product::<u32>() as usize;
    let k = tensor.dims.last().map_or(1, |k| *k as usize);
    let layout = tensor.layout.unwrap_or(Layout::RowMajor);
    if let Layout::Quantized(quant) = layout {
        let round = tensor.dtype == DType::BF16;
        let value = |v: f32| {
            let bits = u32::from(u16::from_le_bytes(bf16(v))) << 16;
            if round { f32::from_bits(bits) } else { v }
        };
        return interp::Data::F32(quantized::values(quant, tensor).into_iter().map(value).collect());
    }
    let items = (0..count).map(|i| &tensor.bytes[layout.index(k, i / k, i % k) * size..][..size]);
    let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
    match tensor.dtype {
        DType::F32 => interp::Data::F32(items.map(|b| f32::from_bits(word(b))).collect()),
        DType::BF16 | DType::F16 => {
            let wide = |b: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            interp::Data::F32(items.map(wide).collect())
        }
        DType::I32 => interp::Data::I32(items.map(|b| word(b) as i32).collect()),
        DType::U32 => interp::Data::U32(items.map(word).collect()),
        DType::Bool => interp::Data::Bool(items.map(|b| b[0] != 0).collect()),
    }
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    [
        decoder::rows(),
        decoder::linear(),
        quantized::linear(),
        quantized::exact(),
        decoder::attention(),
        decoder::attention_rows(),
        vision::layers(),
        vision::moves(),
        vision::actions(),
        sampler::sampling_probs(),
        sampler::tokens(),
        sampler::slots(),
        sampler::open_slots(),
    ]
    .concat()
}

/// A device with the operands of a case in place.
pub(crate) struct Bench<'a> {
    pub(crate) device: CpuDevice<'a>,
    pub(crate) dispatch: Dispatch,
    pub(crate) operands: Vec<Operand>,
}

/// Prepares a case; with `over`, its first result lies where that operand lies.
pub(crate) fn bench<'a>(case: &'a Case, isa: Isa, threads: usize, over: Option<usize>) -> Bench<'a> {
    let (mut values, mut weights, mut arena_bytes) = (vec![], vec![], 0_u64);
    let mut operands: Vec<Operand> = vec![];
    let reads = case.reads.iter().map(|r| (r.dtype, &r.dims, Some(r)));
    let writes = case.writes.iter().map(|(dtype, dims)| (*dtype, dims, None));
    for (i, (dtype, dims, tensor)) in reads.chain(writes).enumerate() {
        let shape = Shape::new(dims).unwrap();
        let place = match (tensor, over) {
            (Some(Tensor { bytes, layout: Some(layout), .. }), _) => {
                weights.push(WeightView { bytes, layout: *layout, dtype });
                Place::Weight(weights.len() as u32 - 1)
            }
            (None, Some(over)) if i == case.reads.len() => operands[over].place,
            _ => {
                let offset = arena_bytes;
                arena_bytes += ((shape.elements() * dtype.bytes()) as u64).next_multiple_of(64);
                Place::Arena(offset)
            }
        };
        operands.push(Operand { dtype, shape, place });
        values.push(Value { dtype, dims: dims.iter().map(|d| Dim::constant(*d)).collect(), place });
    }
    let ids = |range: std::ops::Range<usize>| range.map(|i| ValueId(i as u32)).collect();
    let (r, all) = (case.reads.len(), values.len());
    let dispatch = Dispatch {
        kernel: case.kernel.clone(),
        reads: ids(0..r),
        writes: ids(r..all),
        origin: vec![],
        launches: vec![],
    };
    let program = Program {
        name: String::new(),
        symbols: vec![],
        values,
        inputs: vec![],
        outputs: vec![],
        steps: vec![Step::Dispatch(dispatch.clone())],
        arena_bytes,
    };
    let mut device =
        CpuDevice::new(weights, CpuOptions { threads, isa: Some(isa), ..CpuOptions::default() }).unwrap();
    device.prepare(&program).unwrap();
    // What results hold before must not matter.
    device.write(0, &vec![0xff; arena_bytes as usize]).unwrap();
    for (tensor, operand) in case.reads.iter().zip(&operands) {
        if let Place::Arena(offset) = operand.place {
            device.write(offset, &tensor.bytes).unwrap();
        }
    }
    Bench { device, dispatch, operands }
}

impl Bench<'_> {
    pub(crate) fn run(&mut self) -> Result<(), DeviceError> {
        self.device.dispatch(0, &self.dispatch, &self.operands)
    }

    pub(crate) fn results(&mut self) -> Vec<Tensor> {
        let result = |id: &ValueId| {
            let Operand { dtype, shape, place } = self.operands[id.0 as usize];
            let Place::Arena(offset) = place else { panic!("a result is in the arena") };
            let mut bytes = vec![0; shape.elements() * dtype.bytes()];
            self.device.read(offset, &mut bytes).unwrap();
            Tensor { dtype, dims: shape.dims().to_vec(), bytes, layout: None }
        };
        self.dispatch.writes.iter().map(result).collect()
    }
}

/// The op of a kernel in the IR's text.
fn spelling(case: &Case) -> String {
    match &case.kernel {
        Kernel::RopeTable { theta, sections, axial } => {
            let axial = if *axial { ", axial=1" } else { "" };
            format!("rope_table/theta={theta:?}, sections={sections:?}{axial}")
        }
        Kernel::LayerNorm { eps } => format!("layer_norm/eps={eps:?}"),
        Kernel::RmsNorm { eps } => format!("rms_norm/eps={eps:?}"),
        Kernel::Linear(l) => {
            let norm = l.norm_eps.map(|eps| format!(", norm_eps={eps:?}")).unwrap_or_default();
            let flag = |name: &str, on: bool| if on { format!(", {name}=1") } else { String::new() };
            let weights = if l.weights == 1 { String::new() } else { format!(", weights={}", l.weights) };
            let (bias, swiglu) = (flag("bias", l.bias), flag("swiglu", l.swiglu));
            let norm = format!("{norm}{}{}", flag("smooth", l.smooth), flag("int8", l.codes.is_some()));
            let activation = l.activation.map(|kind| format!(", activation={}", activation(kind)));
            let activation = activation.unwrap_or_default();
            let all = format!("{weights}{norm}{bias}{swiglu}{activation}{}", flag("residual", l.residual));
            format!("linear/{}", all.trim_start_matches(", "))
        }
        Kernel::Rope { head_dim } => format!("rope/head_dim={head_dim}"),
        Kernel::Attention(a) => {
            let packed = if a.packed { ", packed=1" } else { "" };
            let rope = if a.rope { ", rope=1" } else { "" };
            let rows = if a.rows { ", rows=1" } else { "" };
            let (heads, kv, d) = (a.heads, a.kv_heads, a.head_dim);
            format!("attention/heads={heads}, kv_heads={kv}, head_dim={d}{packed}{rope}{rows}")
        }
        Kernel::Slice { start } => {
            format!("slice/start={start}, len={}", case.writes[0].1.last().copied().unwrap())
        }
        Kernel::IsToken { token } => format!("is_token/token={token}"),
        Kernel::EosPenalty { token, steps, eps } => {
            format!("eos_penalty/token={token}, steps={steps}, eps={eps:?}")
        }
        Kernel::RandomBits { lane } => format!("random_bits/lane={}", lane.name()),
        Kernel::Confidence(kind) => {
            use dreamc_artifact::plan::Confidence::{Margin, NegativeEntropy, Probability};
            let kind = match kind {
                Probability => "probability",
                Margin => "margin",
                NegativeEntropy => "negative_entropy",
            };
            format!("confidence/kind={kind}")
        }
        Kernel::TransferCount { steps, eps } => format!("transfer_count/steps={steps}, eps={eps:?}"),
        Kernel::OriginSlots { steps, eps } => format!("origin_slots/steps={steps}, eps={eps:?}"),
        Kernel::Embed => "embed/".to_owned(),
        Kernel::Add => "add/".to_owned(),
        Kernel::Mul => "mul/".to_owned(),
        Kernel::Activate(kind) => {
            format!("{}/", activation(*kind))
        }
        Kernel::Concat { axis } => format!("concat/axis={axis}"),
        Kernel::DropRows { count } => format!("drop_rows/count={count}"),
        Kernel::TakeRows => "take_rows/".to_owned(),
        Kernel::Splice => "splice/".to_owned(),
        Kernel::KeepTokens { first, len } => format!("keep_tokens/first={first}, len={len}"),
        Kernel::TimestepEmbed { times } => {
            format!("timestep_embed/times={times:?}, width={}", case.writes[0].1.last().copied().unwrap())
        }
        Kernel::EulerStep { dt } => format!("euler_step/dt={dt:?}"),
        Kernel::DdimStep { alphas } => format!("ddim_step/alphas={alphas:?}"),
        Kernel::SwiGlu => "swiglu/".to_owned(),
        Kernel::ShiftRows => "shift_rows/".to_owned(),
        Kernel::SamplingProbs => "sampling_probs/".to_owned(),
        Kernel::DrawToken { first } => format!("draw_token/first={first}"),
        Kernel::SelectSlots => "select_slots/".to_owned(),
        Kernel::Commit => "commit/".to_owned(),
        Kernel::AdvanceStream => "advance_stream/".to_owned(),
        Kernel::OpenSlots { token } => format!("open_slots/token={token}"),
        Kernel::ReadRows { before } => format!("read_rows/before={before}"),
        Kernel::SlotBits { lane } => format!("slot_bits/lane={}", lane.name()),
        Kernel::TakeSlots => "take_slots/".to_owned(),
        Kernel::CommitSlots => "commit_slots/".to_owned(),
        Kernel::Copy => String::new(),
    }
}

fn activation(kind: Activation) -> &'static str {
    match kind {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
        Activation::Relu => "relu",
    }
}

/// What the interpreter makes of a case, all floats in f32.
pub(crate) fn oracle(case: &Case) -> Vec<interp::Data> {
    if case.kernel == Kernel::Copy {
        return vec![elements(&case.reads[0])];
    }
    // Only a symbol says how many slots are looked for; one more input has as many.
    let slots = matches!(case.kernel, Kernel::OpenSlots { .. }).then(|| case.writes[0].1[1]);
    let ty = |dtype: DType, dims: &[u32], result: bool| {
        let mut dims: Vec<String> = dims.iter().map(u32::to_string).collect();
        if let (Some(last), true) = (dims.last_mut(), result && slots.is_some()) {
            "K".clone_into(last);
        }
        format!("{}[{}]", if dtype.is_float() { DType::F32 } else { dtype }, dims.join(", "))
    };
    let names = |from: usize, to: usize| (from..to).map(|i| format!("%{i}")).collect::<Vec<_>>();
    let (reads, all) = (case.reads.len(), case.reads.len() + case.writes.len());
    let mut parameters: Vec<String> = case
        .reads
        .iter()
        .enumerate()
        .map(|(i, r)| format!("%{i}: {}", ty(r.dtype, &r.dims, false)))
        .collect();
    parameters.extend(slots.map(|_| "%999: i32[K]".to_owned()));
    let types: Vec<String> = case.writes.iter().map(|(dtype, dims)| ty(*dtype, dims, true)).collect();
    let op = spelling(case);
    let (op, attributes) = op.split_once('/').unwrap();
    let attributes = if attributes.is_empty() { String::new() } else { format!(" {{{attributes}}}") };
    let text = format!(
        "graph @f({}) {{\n  {} = {op} {}{attributes} : {}\n  return {}\n}}\n",
        parameters.join(", "),
        names(reads, all).join(", "),
        names(0, reads).join(", "),
        types.join(", "),
        names(reads, all).join(", "),
    );
    let module = dreamc_ir::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    let verified = dreamc_ir::verify(&module).unwrap_or_else(|e| panic!("{text}\n{e}"));
    // Codes are those of the values before these are rounded to the weight's type.
    let int8 = matches!(&case.kernel, Kernel::Linear(linear) if linear.codes.is_some());
    let data = |t: &Tensor| match t.layout {
        Some(Layout::Quantized(quant)) if int8 => interp::Data::F32(quantized::values(quant, t)),
        _ => elements(t),
    };
    let input =
        |t: &Tensor| interp::Tensor { dims: t.dims.iter().map(|d| *d as usize).collect(), data: data(t) };
    let mut inputs: Vec<interp::Tensor> = case.reads.iter().map(input).collect();
    inputs.extend(slots.map(|k| interp::Tensor::i32(&[k as usize], vec![0; k as usize])));
    let mut none = |_: &str, _: &dreamc_ir::Type| None;
    let results = interp::run(verified, "f", &inputs, &mut none, &mut ()).unwrap();
    results.into_iter().map(|t| t.data).collect()
}

/// Runs a case on every instruction set of the host with 1, 2 and 3 threads, apart and in place.
pub(crate) fn check(case: &Case) {
    let want = oracle(case);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let run = |threads: usize, over: Option<usize>| {
            let mut bench = bench(case, isa, threads, over);
            bench.run().unwrap_or_else(|e| panic!("{:?}: {e}", case.kernel));
            bench.results()
        };
        let one = run(1, None);
        for (got, want) in one.iter().zip(&want) {
            compare(case, isa, got, want);
        }
        let places: Vec<Option<usize>> =
            [None].into_iter().chain(case.over.iter().copied().map(Some)).collect();
        for over in places {
            for threads in [1, 2, 3] {
                let more = run(threads, over);
                for (a, b) in one.iter().zip(&more) {
                    let same = rows(case, a).eq(rows(case, b));
                    assert!(same, "{isa:?} {:?}: {threads} threads over {over:?} differ", case.kernel);
                }
            }
        }
    }
}

/// The rows of a result that are specified, as bytes: those of [`Kernel::SamplingProbs`] only where active.
fn rows<'a>(case: &'a Case, result: &'a Tensor) -> impl Iterator<Item = (usize, &'a [u8])> {
    let row = result.dims.last().map_or(1, |n| *n as usize) * result.dtype.bytes();
    let active = |i: usize| case.kernel != Kernel::SamplingProbs || case.reads[1].bytes[i] != 0;
    result.bytes.chunks(row).enumerate().filter(move |(i, _)| active(*i))
}

fn compare(case: &Case, isa: Isa, got: &Tensor, want: &interp::Data) {
    let kernel = &case.kernel;
    let (interp::Data::F32(got_floats), interp::Data::F32(want)) = (elements(got), want) else {
        assert_eq!(&elements(got), want, "{isa:?} {kernel:?}");
        return;
    };
    let columns = got.dims.last().map_or(1, |n| *n as usize);
    for (row, _) in rows(case, got) {
        for i in row * columns..(row + 1) * columns {
            let (got, want) = (f64::from(got_floats[i]), f64::from(want[i]));
            let near = (got - want).abs() <= case.tolerance * want.abs().max(1.0);
            assert!(
                near || got == want || got.is_nan() && want.is_nan(),
                "{isa:?} {kernel:?} {i}: {got} {want}"
            );
        }
    }
}

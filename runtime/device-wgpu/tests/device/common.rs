//! Programs and modules written by hand. Every program is validated before a device sees it, as the loader does.

use dreamc_artifact::code::{Buffer, Code, Extent, Form, Image, Module, ScalarType, Word};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{
    Activation, Binding, Dim, Dispatch, Kernel, Launch, Place, Plan, Port, Program, Scalar, Step, Symbol,
    Term, Value, ValueId,
};
use dreamc_artifact::{WeightInfo, validate};
use dreamc_device_wgpu::{WgpuDevice, WgpuOptions};
use dreamc_num::DType;

pub(crate) use dreamc_device_wgpu::WeightView;
pub(crate) use dreamc_runtime::{Device, DeviceError, Stepper};

/// A module of `workgroup` units along x. `buffers`: each with what WGSL says its elements are, and whether it is
/// written. In `body`, `i` is the unit's number, `b0`, `b1`, .. are the buffers and `s(k)` is word `k` of the scalars.
pub(crate) fn module(
    name: &str,
    buffers: &[(&str, bool)],
    scalars: &[ScalarType],
    grid: Extent,
    body: &str,
) -> Module {
    let mut text = String::new();
    for (i, (ty, _)) in buffers.iter().enumerate() {
        text += &format!("@group(0) @binding({i}) var<storage, read_write> b{i}: array<{ty}>;\n");
    }
    let n = buffers.len();
    let mut info: Vec<Word> = (0..scalars.len() as u32).map(Word::Scalar).collect();
    if !info.is_empty() {
        info.extend((0..n as u32).map(Word::Length));
        text += &format!(
            "struct Info {{ words: array<u32, {}> }}\n@group(0) @binding({n}) var<storage, read> info: Info;\n\
             fn s(k: u32) -> u32 {{ return info.words[k]; }}\n",
            info.len()
        );
    }
    text += &format!(
        "@compute @workgroup_size(32, 1, 1)\nfn {name}(@builtin(global_invocation_id) id: vec3<u32>, \
         @builtin(num_workgroups) groups: vec3<u32>) {{\nlet i = id.x;\n{body}\n}}\n"
    );
    Module {
        name: name.to_owned(),
        images: vec![Image::any(Form::Wgsl, text.into_bytes())],
        workgroup: [32, 1, 1],
        shared_bytes: 0,
        buffers: buffers.iter().map(|(_, written)| Buffer { element_bytes: 4, written: *written }).collect(),
        scalars: scalars.to_vec(),
        grid: [grid, Extent::Constant(1), Extent::Constant(1)],
        info,
    }
}

/// A unit for each of scalar 0.
pub(crate) const EACH: Extent = Extent::Ceil { of: 0, per: 32, any: false };

pub(crate) const U: ScalarType = ScalarType::U32;
pub(crate) const F: ScalarType = ScalarType::F32;

pub(crate) fn code(modules: Vec<Module>) -> Code {
    Code { modules }
}

/// Dimension `coefficient * symbol 0`.
pub(crate) fn times_symbol(coefficient: u32) -> Dim {
    Dim { terms: vec![Term { coefficient, symbols: vec![0] }] }
}

/// A launch of a module on whole values.
pub(crate) fn launch(module: u32, values: &[u32], scalars: Vec<Scalar>) -> Launch {
    let buffers = values.iter().map(|v| Binding { value: ValueId(*v), part: None }).collect();
    Launch { module, buffers, scalars, variant: None, candidate: None }
}

pub(crate) fn count(n: u32) -> Scalar {
    Scalar::Count(Dim::constant(n))
}

/// A step that computes float value `x` in place.
pub(crate) fn in_place(x: u32, launches: Vec<Launch>) -> Step {
    step(Kernel::Activate(Activation::Relu), x, x, launches)
}

/// A step that computes value `to` from `from`, both as large.
pub(crate) fn apart(from: u32, to: u32, launches: Vec<Launch>) -> Step {
    step(Kernel::Copy, from, to, launches)
}

pub(crate) fn step(kernel: Kernel, from: u32, to: u32, launches: Vec<Launch>) -> Step {
    let origin = vec!["model.layers.3".to_owned()];
    Step::Dispatch(Dispatch {
        kernel,
        reads: vec![ValueId(from)],
        writes: vec![ValueId(to)],
        origin,
        launches,
    })
}

/// A program whose values lie one after the other; a weight's place is given by the value's `Err`.
pub(crate) struct Builder(pub(crate) Program);

impl Builder {
    /// With one symbol `S`.
    pub(crate) fn new(name: &str, max: u32) -> Builder {
        Builder(Program {
            name: name.to_owned(),
            symbols: vec![Symbol { name: "S".to_owned(), max }],
            values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            steps: Vec::new(),
            arena_bytes: 0,
        })
    }

    /// The next value, in the arena.
    pub(crate) fn value(mut self, dtype: DType, dims: Vec<Dim>) -> Builder {
        let max = self.0.symbols[0].max;
        let elements: u64 = dims.iter().map(|d| u64::from(d.at(&[max]).unwrap())).product();
        let offset = self.0.arena_bytes.next_multiple_of(256);
        self.0.arena_bytes = offset + elements * dtype.bytes() as u64;
        self.0.values.push(Value { dtype, dims, place: Place::Arena(offset) });
        self
    }

    /// The next value, a weight.
    pub(crate) fn weight(mut self, dtype: DType, elements: u32, index: u32) -> Builder {
        let dims = vec![Dim::constant(elements)];
        self.0.values.push(Value { dtype, dims, place: Place::Weight(index) });
        self
    }

    pub(crate) fn input(mut self, name: &str, value: u32) -> Builder {
        self.0.inputs.push(Port { name: name.to_owned(), value: ValueId(value) });
        self
    }

    pub(crate) fn output(mut self, name: &str, value: u32) -> Builder {
        self.0.outputs.push(Port { name: name.to_owned(), value: ValueId(value) });
        self
    }

    pub(crate) fn step(mut self, step: Step) -> Builder {
        self.0.steps.push(step);
        self
    }

    pub(crate) fn build(self) -> Program {
        self.0
    }
}

/// A stored weight, row by row.
pub(crate) fn stored_weight(bytes: &[u8], dtype: DType) -> WeightView<'_> {
    WeightView { bytes, layout: Layout::RowMajor, dtype }
}

/// The loader's checks.
#[track_caller]
pub(crate) fn check(program: &Program, code: &Code, weights: &[WeightView<'_>]) {
    let table: Vec<WeightInfo> = weights
        .iter()
        .enumerate()
        .map(|(i, w)| WeightInfo {
            name: format!("weight.{i}"),
            dtype: w.dtype,
            dims: vec![(w.bytes.len() / w.dtype.bytes()) as u64],
            layout: Layout::RowMajor,
            offset: 0,
            bytes: w.bytes.len() as u64,
            hash: [0; 32],
        })
        .collect();
    let plan = Plan { programs: vec![program.clone()] };
    validate(&plan, code, &table).unwrap_or_else(|e| panic!("{e}"));
}

/// A device, and what installs one.
#[track_caller]
pub(crate) fn open<'a>(code: &Code, weights: Vec<WeightView<'a>>) -> WgpuDevice<'a> {
    open_with(code, weights, WgpuOptions::default())
}

#[track_caller]
pub(crate) fn open_with<'a>(
    code: &Code,
    weights: Vec<WeightView<'a>>,
    options: WgpuOptions,
) -> WgpuDevice<'a> {
    WgpuDevice::new(code, weights, options).unwrap_or_else(|e| panic!("{e}"))
}

/// A device with `program` prepared, and its stepper.
#[track_caller]
pub(crate) fn ready<'a>(
    program: &Program,
    code: &Code,
    weights: Vec<WeightView<'a>>,
) -> (WgpuDevice<'a>, Stepper) {
    check(program, code, &weights);
    let mut device = open(code, weights);
    device.prepare(program).unwrap_or_else(|e| panic!("{e}"));
    (device, Stepper::new(program).unwrap())
}

/// Bytes of words.
pub(crate) fn bytes<T: Copy, const N: usize>(words: &[T], to: fn(T) -> [u8; N]) -> Vec<u8> {
    words.iter().flat_map(|w| to(*w)).collect()
}

pub(crate) fn floats(x: &[f32]) -> Vec<u8> {
    bytes(x, f32::to_le_bytes)
}

/// Reads an output of floats.
#[track_caller]
pub(crate) fn read(stepper: &Stepper, device: &mut dyn Device, name: &str) -> Vec<f32> {
    read_bytes(stepper, device, name)
        .chunks_exact(4)
        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
        .collect()
}

#[track_caller]
pub(crate) fn read_bytes(stepper: &Stepper, device: &mut dyn Device, name: &str) -> Vec<u8> {
    let (dtype, shape) = stepper.output(name).unwrap();
    let mut bytes = vec![0; shape.elements() * dtype.bytes()];
    stepper.read(device, name, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
    bytes
}

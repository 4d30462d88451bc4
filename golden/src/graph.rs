//! Runs graphs in the interpreter and on devices, through an artifact: IR text, and parts of imported models.

use crate::device;
use crate::host::HostDevice;
use crate::runners::{Place, bytes_of, tensor_of};
use dreamc_artifact::code::Code;
use dreamc_artifact::plan::{Dispatch, Kernel, Plan, Program, Step};
use dreamc_artifact::{Artifact, Manifest, Model};
use dreamc_backend::{Constants, Contents, WeightReader, write_artifact};
use dreamc_backend_gpu::Modules;
use dreamc_device_cpu::{CpuDevice, CpuOptions, Isa};
use dreamc_interp::{Data, Tensor, seeded};
use dreamc_ir::{Graph, Module, Port, Type, Value, verify};
use dreamc_kernels::Target;
use dreamc_num::DType;
use dreamc_runtime::{Device, Stepper, WeightView};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::io::Cursor;

/// The weight of a name and a type.
pub type WeightsOf<'a> = &'a dyn Fn(&str, &Type) -> Tensor;

/// The part of graph `entry` that leads from some values to the first result of module `to`, as a graph of the same
/// name. A value is named as the parameter that it is, or as the module whose first result it is.
pub fn part(module: &Module, entry: &str, from: &[&str], to: &str) -> Module {
    let whole = module.graph(entry).unwrap_or_else(|| panic!("there is no entry `{entry}`"));
    let value = |name: &str| {
        let param = whole.params.iter().find(|p| p.name == name).map(|p| p.value);
        let made = || whole.order().iter().map(|n| whole.node(*n)).find(|n| n.origin.0 == [name]);
        param.or_else(|| Some(made()?.outputs[0])).unwrap_or_else(|| panic!("there is no value `{name}`"))
    };
    let mut graph = Graph::new(entry);
    let mut taken: BTreeMap<Value, Value> = BTreeMap::new();
    for name in from {
        taken.insert(value(name), graph.param(*name, whole.ty(value(name)).clone()));
    }
    let (mut needed, mut nodes) = (BTreeSet::from([value(to)]), Vec::new());
    for node in whole.order().iter().rev().map(|n| whole.node(*n)) {
        if node.outputs.iter().any(|v| needed.contains(v) && !taken.contains_key(v)) {
            needed.extend(&node.inputs);
            nodes.push(node);
        }
    }
    for node in nodes.into_iter().rev() {
        let inputs = node.inputs.iter().map(|v| taken[v]).collect();
        let types = node.outputs.iter().map(|v| whole.ty(*v).clone()).collect();
        let new = graph.push(node.op.clone(), inputs, types, node.origin.clone());
        let outputs = graph.node(new).outputs.clone();
        taken.extend(node.outputs.iter().copied().zip(outputs));
    }
    graph.results.push(Port { value: taken[&value(to)], name: to.to_owned() });
    Module { symbols: module.symbols.clone(), graphs: vec![graph] }
}

/// Tensors in the order of the parameters of graph `entry`, found by their names.
pub fn ordered(module: &Module, entry: &str, named: &[(&str, Tensor)]) -> Vec<Tensor> {
    let graph = module.graph(entry).unwrap_or_else(|| panic!("there is no entry `{entry}`"));
    let find = |name: &str| named.iter().find(|(n, _)| *n == name).map(|(_, tensor)| tensor.clone());
    let tensor = |port: &dreamc_ir::Port| {
        find(&port.name).unwrap_or_else(|| panic!("nothing is given for `{}`", port.name))
    };
    graph.params.iter().map(tensor).collect()
}

/// Results of graph `entry` in the interpreter, with reproducible weights.
pub fn interpret(module: &Module, entry: &str, inputs: &[Tensor]) -> Vec<Tensor> {
    interpret_with(module, entry, inputs, &mut ())
}

/// As [`interpret`], with an observer.
pub fn interpret_with(
    module: &Module,
    entry: &str,
    inputs: &[Tensor],
    observer: &mut dyn dreamc_interp::Observer,
) -> Vec<Tensor> {
    interpret_given(module, entry, inputs, &weight, observer)
}

/// As [`interpret_with`], with these weights.
pub fn interpret_given(
    module: &Module,
    entry: &str,
    inputs: &[Tensor],
    weights: WeightsOf<'_>,
    observer: &mut dyn dreamc_interp::Observer,
) -> Vec<Tensor> {
    let mut weights = |name: &str, ty: &Type| Some(weights(name, ty));
    let verified = verify(module).unwrap_or_else(|e| panic!("{e}\n{module}"));
    dreamc_interp::run(verified, entry, inputs, &mut weights, observer).expect("it runs")
}

/// Where a graph is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On the CPU, with this instruction set.
    Cpu(Isa),
    /// On the WebGPU adapter of this machine.
    Wgpu,
    /// Kernels of the target of this name, on the host: see [`crate::host`].
    Host(&'static str),
    /// The same of Hopper's, where warpgroups multiply rows however few they are.
    Groups,
}

impl On {
    /// The CPU with every instruction set that it has.
    pub fn cpus() -> Vec<On> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(On::Cpu).collect()
    }

    /// Everything.
    pub fn all() -> Vec<On> {
        On::cpus().into_iter().chain([On::Wgpu]).collect()
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            On::Cpu(isa) => write!(f, "cpu with {isa}"),
            On::Wgpu => f.write_str("wgpu"),
            On::Host(target) => write!(f, "{target} on the host"),
            On::Groups => f.write_str("warpgroups on the host"),
        }
    }
}

/// The same on a device: lowered, packed, written, opened, run.
pub fn execute(module: &Module, entry: &str, inputs: &[Tensor], on: On) -> Vec<Tensor> {
    execute_given(module, entry, inputs, on, &weight)
}

/// As [`execute`], with these weights.
pub fn execute_given(
    module: &Module,
    entry: &str,
    inputs: &[Tensor],
    on: On,
    weights: WeightsOf<'_>,
) -> Vec<Tensor> {
    execute_all(module, entry, &[inputs.to_vec()], on, weights).swap_remove(0)
}

/// Results of each of several requests, by a device that is made ready once.
pub fn execute_all(
    module: &Module,
    entry: &str,
    requests: &[Vec<Tensor>],
    on: On,
    weights: WeightsOf<'_>,
) -> Vec<Vec<Tensor>> {
    match on {
        On::Wgpu => {
            Emitted::new(Place::Wgpu, module, entry).run_on(Place::Wgpu, module, entry, requests, weights)
        }
        On::Host(target) => {
            let kernels = Target::named(target).unwrap_or_else(|| panic!("no target {target}"));
            let emitted = Emitted::as_sources(target.to_owned(), kernels, module, entry);
            emitted
                .run(module, entry, requests, weights, &|code, views| Box::new(HostDevice::new(code, views)))
        }
        On::Groups => {
            // Without products of warps.
            let file = include_str!("../../kernels/targets/sm_90a.toml");
            let file = file.replace("matrix = [\"f16\", \"bf16\"]", "matrix = []");
            let kernels = Target::parse(&file).unwrap_or_else(|e| panic!("{e}"));
            assert!(kernels.capabilities().matrix.is_empty());
            let emitted = Emitted::as_sources("sm_90a".to_owned(), kernels, module, entry);
            emitted
                .run(module, entry, requests, weights, &|code, views| Box::new(HostDevice::new(code, views)))
        }
        On::Cpu(isa) => Emitted::for_cpu(module, entry).run(module, entry, requests, weights, &|_, views| {
            let options = CpuOptions { threads: 2, isa: Some(isa), ..CpuOptions::default() };
            Box::new(CpuDevice::new(views, options).unwrap_or_else(|e| panic!("{e}")))
        }),
    }
}

/// Makes a device over code and weights.
type Open<'o> = &'o dyn for<'a> Fn(&Code, Vec<WeightView<'a>>) -> Box<dyn Device + 'a>;

/// A lowered graph with its kernels.
pub struct Emitted {
    target: String,
    /// What is run.
    pub program: Program,
    /// What it launches, compiled.
    pub code: Code,
    /// What it stores.
    pub constants: Constants,
}

impl Emitted {
    /// Lowers a graph for a device that runs emitted kernels, and compiles them.
    pub fn new(place: Place<'_>, module: &Module, entry: &str) -> Emitted {
        let target = place.target(DType::F32);
        let kernels = target.kernels().unwrap_or_else(|| panic!("{target} has no kernels to emit"));
        let mut emitted = Emitted::as_sources(target.to_string(), kernels.clone(), module, entry);
        let completed = dreamc::compile::complete(&mut emitted.code, &target, None, &mut |_, _| true);
        if let Some(reason) = completed.unwrap_or_else(|e| panic!("{e}")).missing {
            panic!("{target}: {reason}");
        }
        emitted
    }

    /// Lowers a graph, and leaves its kernels as sources.
    fn as_sources(target: String, kernels: dreamc_kernels::Target, module: &Module, entry: &str) -> Emitted {
        let (mut constants, mut modules) = (Constants::default(), Modules::new(kernels));
        let verified = verify(module).unwrap_or_else(|e| panic!("{e}\n{module}"));
        let program = dreamc_backend_gpu::emit(verified, entry, entry, &mut constants, &mut modules)
            .unwrap_or_else(|e| panic!("{e}"));
        Emitted { target, program, code: modules.to_code(), constants }
    }

    fn for_cpu(module: &Module, entry: &str) -> Emitted {
        let mut constants = Constants::default();
        let verified = verify(module).unwrap_or_else(|e| panic!("{e}\n{module}"));
        let program = dreamc_backend_cpu::emit(verified, entry, entry, &mut constants);
        let program = program.unwrap_or_else(|e| panic!("{e}"));
        Emitted { target: "cpu".to_owned(), program, code: Code::default(), constants }
    }

    /// Results of each of several requests, on a device that is made ready once.
    pub fn run_on(
        self,
        place: Place<'_>,
        module: &Module,
        entry: &str,
        requests: &[Vec<Tensor>],
        weights: WeightsOf<'_>,
    ) -> Vec<Vec<Tensor>> {
        let open: Open<'_> = &|code, views| device::open(place.device(), code, views);
        self.run(module, entry, requests, weights, open)
    }

    fn run(
        self,
        module: &Module,
        entry: &str,
        requests: &[Vec<Tensor>],
        weights: WeightsOf<'_>,
        open: Open<'_>,
    ) -> Vec<Vec<Tensor>> {
        let Emitted { target, program, code, constants } = self;
        let contents = Contents {
            manifest: manifest(entry, &target),
            plans: &[(Plan { programs: vec![program] }, code)],
            constants: &constants,
            ir: &module.to_string(),
            tokenizer: None,
            front: None,
            golden: None,
        };
        let mut file = Cursor::new(Vec::new());
        let mut reader = Given { types: weight_types(module), weights, last: None };
        write_artifact(&mut file, &contents, &mut reader, &mut |_, _| true)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let bytes = file.into_inner();
        let artifact = Artifact::open(&bytes).unwrap_or_else(|e| panic!("{e}"));
        artifact.verify(|_, _| ()).unwrap_or_else(|e| panic!("{e}"));
        let view = |(i, w): (u32, &dreamc_artifact::WeightInfo)| WeightView {
            bytes: artifact.weight(i),
            layout: w.layout,
            dtype: w.dtype,
        };
        let views = (0..).zip(artifact.weights()).map(view).collect();
        let mut device = open(artifact.code(&target).expect("it is there"), views);
        let program = &artifact.plan(&target).expect("it is there").programs[0];
        requests.iter().map(|inputs| step(device.as_mut(), program, module, entry, inputs)).collect()
    }
}

/// Runs a program on inputs in the order of the graph's parameters.
fn step(
    device: &mut dyn Device,
    program: &Program,
    module: &Module,
    entry: &str,
    inputs: &[Tensor],
) -> Vec<Tensor> {
    let mut stepper = Stepper::new(program).unwrap_or_else(|e| panic!("{e}"));
    device.prepare(program).unwrap_or_else(|e| panic!("{e}"));
    let graph = module.graph(entry).expect("it is there");
    let lengths: Vec<(String, u32)> =
        graph.params.iter().zip(inputs).flat_map(|(p, t)| lengths(graph.ty(p.value), t)).collect();
    let lengths: Vec<(&str, u32)> = lengths.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    stepper.resize(&lengths).unwrap_or_else(|e| panic!("{e}"));
    if let Some(slots) = open_slots(program, inputs) {
        stepper.resize(&[(dreamc_ir::SLOTS, slots)]).unwrap_or_else(|e| panic!("{e}"));
    }
    let mut run = |stepper: &mut Stepper| {
        for (port, tensor) in program.inputs.iter().zip(inputs) {
            let dtype = program.values[port.value.0 as usize].dtype;
            let bytes = stored_bytes(tensor, dtype);
            stepper.write(device, &port.name, &bytes).unwrap_or_else(|e| panic!("{e}"));
        }
        stepper.run(device, &mut ()).unwrap_or_else(|e| panic!("{e}"));
        let history = stepper.scheduled()?;
        let (dtype, shape) = stepper.output(history).expect("it is there");
        let mut bytes = vec![0; shape.elements() * dtype.bytes()];
        stepper.read(device, history, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
        Some(stepper.strayed(&bytes))
    };
    // As the runtime does it.
    if run(&mut stepper) == Some(true) {
        stepper.keep_slots(true);
        assert_eq!(run(&mut stepper), None);
    }
    let mut output = |(port, result): (&dreamc_artifact::plan::Port, &dreamc_ir::Port)| {
        let (dtype, shape) = stepper.output(&port.name).expect("it is there");
        let mut bytes = vec![0; shape.elements() * dtype.bytes()];
        stepper.read(device, &port.name, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
        let dims: Vec<usize> = shape.dims().iter().map(|n| *n as usize).collect();
        as_condition(tensor_of(dtype, &dims, &bytes), graph.ty(result.value).dtype)
    };
    program.outputs.iter().zip(&graph.results).map(&mut output).collect()
}

/// Open slots of the first input, if a loop looks for them there.
fn open_slots(program: &Program, inputs: &[Tensor]) -> Option<u32> {
    let token = program.steps.iter().find_map(|step| match step {
        Step::Denoise(denoise) => denoise.body.iter().find_map(|step| match step {
            Step::Dispatch(Dispatch { kernel: Kernel::OpenSlots { token }, .. }) => Some(*token as i32),
            Step::Dispatch(_) | Step::Denoise(_) => None,
        }),
        Step::Dispatch(_) => None,
    })?;
    let canvas = inputs.first()?;
    let rows = canvas.ints().chunks(canvas.columns());
    rows.map(|row| row.iter().filter(|t| **t == token).count().max(1) as u32).max()
}

/// The elements as a device takes them: conditions are bytes on some and words on others.
fn stored_bytes(tensor: &Tensor, dtype: DType) -> Vec<u8> {
    match (&tensor.data, dtype) {
        (Data::Bool(v), DType::U32) => v.iter().flat_map(|x| u32::from(*x).to_le_bytes()).collect(),
        _ => bytes_of(tensor),
    }
}

/// A tensor of words as conditions, if that is what they are.
fn as_condition(mut tensor: Tensor, dtype: DType) -> Tensor {
    if let (Data::U32(words), DType::Bool) = (&tensor.data, dtype) {
        tensor.data = Data::Bool(words.iter().map(|word| *word != 0).collect());
    }
    tensor
}

/// Symbols that stand alone in a dimension or are multiplied by a number there, with the sizes that they have in a tensor.
fn lengths(ty: &Type, tensor: &Tensor) -> Vec<(String, u32)> {
    let named = |(dim, n): (&dreamc_ir::Dim, &usize)| match dim.terms().collect::<Vec<_>>()[..] {
        [(count, [name])] => Some((name.clone(), (*n as u64 / count) as u32)),
        _ => None,
    };
    ty.dims.iter().zip(&tensor.dims).filter_map(named).collect()
}

/// A weight that depends on its name alone; one that is stored as bf16 is one.
pub fn weight(name: &str, ty: &Type) -> Tensor {
    let seed = name.bytes().fold(17_u64, |hash, b| hash.wrapping_mul(31).wrapping_add(b.into()));
    let mut tensor = seeded(ty, &BTreeMap::new(), seed);
    if let (DType::BF16, Data::F32(values)) = (ty.dtype, &mut tensor.data) {
        values.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() & 0xffff_0000));
    }
    tensor
}

fn weight_types(module: &Module) -> BTreeMap<String, Type> {
    let mut types = BTreeMap::new();
    for graph in &module.graphs {
        for node in graph.order() {
            let data = graph.node(*node);
            if let dreamc_ir::Op::Weight(dreamc_ir::Weight { name, columns, importance, feedback, .. }) =
                &data.op
            {
                let ty = graph.ty(data.outputs[0]);
                types.insert(name.clone(), ty.clone());
                let vector = Type::new(DType::F32, ty.dims.last().cloned());
                let vectors = columns.iter().chain(importance);
                types.extend(vectors.map(|name| (name.clone(), vector.clone())));
                let block = dreamc_ir::Dim::from(dreamc_num::quant::BLOCK as u64);
                let matrix = Type::new(DType::F32, ty.dims.last().cloned().into_iter().chain([block]));
                types.extend(feedback.iter().map(|name| (name.clone(), matrix.clone())));
            }
        }
    }
    types
}

struct Given<'a> {
    types: BTreeMap<String, Type>,
    weights: WeightsOf<'a>,
    /// The tensor that was read last: it is read piece by piece.
    last: Option<(String, Tensor)>,
}

impl WeightReader for Given<'_> {
    fn elements(&self, name: &str) -> Option<u64> {
        self.types.get(name)?.elements().as_constant()
    }

    fn read(&mut self, name: &str, start: u64, out: &mut [f32]) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != name) {
            self.last = Some((name.to_owned(), (self.weights)(name, &self.types[name])));
        }
        let Some((_, all)) = &self.last else { unreachable!("it was just set") };
        out.copy_from_slice(&all.floats()[start as usize..start as usize + out.len()]);
        Ok(())
    }

    fn source_hash(&mut self) -> String {
        "0".repeat(64)
    }
}

fn manifest(entry: &str, target: &str) -> Manifest {
    Manifest {
        compiler_version: env!("CARGO_PKG_VERSION").to_owned(),
        targets: vec![target.to_owned()],
        source_hash: String::new(),
        options: BTreeMap::new(),
        model: Model {
            variant: "text".to_owned(),
            dtype: "f32".to_owned(),
            vocab_size: 1,
            hidden_size: 1,
            layers: 1,
            mask_token_id: 0,
            pad_token_id: 0,
            eos_token_id: 0,
            max_prompt: 1,
            new_tokens: 1,
            max_batch: 1,
            steps: 1,
            alg: "origin".to_owned(),
            eps: 1e-3,
        },
        entries: vec![entry.to_owned()],
        aliases: Vec::new(),
        reference: BTreeMap::new(),
        warm: Vec::new(),
        tuned: Vec::new(),
    }
}

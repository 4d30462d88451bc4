//! Random graphs: the device computes what the interpreter does, before and after the passes, with every instruction
//! set.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_golden::graph::{On, execute, interpret};
use dreamc_interp::{Data, Tensor, seeded};
use dreamc_ir::{
    Activation, Attention, Dim, Graph, Linear, Module, Op, Origin, Port, RopeTable, Type, Value, Weight,
    infer, parse,
};
use dreamc_num::DType;
use dreamc_num::stream::Lane;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use std::collections::BTreeMap;

/// The same cases every time, so that a rare tie does not fail somebody else's change.
fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(2027), ..Config::default() }
}

/// Columns of the hidden rows: odd, so that nothing fits a register.
const HIDDEN: u64 = 9;
/// Crosses a panel of 16.
const INNER: u64 = 17;

/// A graph under construction: hidden values of one type, to draw operands from.
struct Builder {
    graph: Graph,
    /// Of activations between reads and writes of the hidden values, and of matrices.
    dtype: DType,
    hidden: Vec<Value>,
    exact: Vec<Value>,
    ids: Value,
    mask: Value,
    stream: Value,
    step: Value,
    joint: Value,
    tables: [Value; 2],
}

impl Builder {
    fn new(dtype: DType) -> Builder {
        let mut graph = Graph::new("f");
        let canvas = || Type::new(DType::I32, [Dim::symbol("B"), Dim::symbol("S")]);
        let ids = graph.param("ids", canvas());
        let mask = graph.param("mask", canvas());
        let x = graph.param("x", Type::new(DType::F32, [Dim::symbol("B"), Dim::symbol("S"), HIDDEN.into()]));
        let stream = graph.param("stream", Type::new(DType::U32, [4.into()]));
        let step = graph.param("step", Type::scalar(DType::I32));
        let joint = graph.param("joint", Type::scalar(DType::I32));
        let mut builder = Builder {
            graph,
            dtype,
            hidden: vec![x],
            exact: vec![],
            ids,
            mask,
            stream,
            step,
            joint,
            tables: [x; 2],
        };
        let tables = builder.ops(
            Op::RopeTable(RopeTable { theta: 100.0, sections: vec![2], axial: false }),
            &[ids],
            DType::F32,
        );
        builder.tables = [tables[0], tables[1]];
        builder
    }

    fn ops(&mut self, op: Op, inputs: &[Value], dtype: DType) -> Vec<Value> {
        let types: Vec<Type> = inputs.iter().map(|v| self.graph.ty(*v).clone()).collect();
        let types = infer(&op, &types, dtype).unwrap_or_else(|rule| panic!("{op:?}: {rule}"));
        let origin = Origin::path(format!("n{}", self.graph.order().len()));
        let node = self.graph.push(op, inputs.to_vec(), types, origin);
        self.graph.node(node).outputs.clone()
    }

    /// With a result of the activations' type, where the op leaves that open.
    fn op(&mut self, op: Op, inputs: &[Value]) -> Value {
        self.ops(op, inputs, self.dtype)[0]
    }

    fn wide(&mut self, op: Op, inputs: &[Value]) -> Value {
        self.ops(op, inputs, DType::F32)[0]
    }

    fn weight(&mut self, dtype: DType, dims: &[u64]) -> Value {
        let name = format!("w{}", self.graph.order().len());
        let ty = Type::new(dtype, dims.iter().map(|n| Dim::from(*n)));
        let node = self.graph.push(Op::Weight(Weight::named(name)), vec![], vec![ty], Origin::default());
        self.graph.node(node).outputs[0]
    }

    fn norm(&mut self, x: Value, dtype: DType) -> Value {
        let gain = self.weight(DType::F32, &[HIDDEN]);
        self.ops(Op::RmsNorm { eps: 1e-6 }, &[x, gain], dtype)[0]
    }

    /// A matmul with `rows.len()` weights, its extras by the bits of `extras`.
    fn linear(&mut self, x: Value, rows: &[u64], extras: u8, residual: Option<Value>, dtype: DType) -> Value {
        let k = self.graph.ty(x).columns().unwrap();
        let linear = Linear {
            weights: rows.len() as u64,
            norm_eps: (extras & 1 != 0).then_some(1e-6),
            bias: extras & 2 != 0 && extras & 4 == 0,
            swiglu: extras & 4 != 0 && rows.len() == 2 && rows[0] == rows[1],
            smooth: false,
            codes: None,
            activation: None,
            rows: None,
            residual: residual.is_some(),
        };
        let mut inputs = vec![x];
        if linear.norm_eps.is_some() {
            inputs.push(self.weight(DType::F32, &[k]));
        }
        for n in rows {
            inputs.push(self.weight(self.dtype, &[*n, k]));
        }
        if linear.bias {
            inputs.push(self.weight(DType::F32, &[rows.iter().sum()]));
        }
        inputs.extend(residual);
        self.ops(Op::Linear(linear), &inputs, dtype)[0]
    }

    fn attention(&mut self, x: Value, packed: bool, rope: bool, bias: bool) -> Value {
        let (bias, tables) = (u8::from(bias) * 2, self.tables);
        let op = |packed, rope| {
            Op::Attention(Attention { heads: 4, kv_heads: 2, head_dim: 4, packed, rope, rows: false })
        };
        let mut inputs = if packed {
            vec![self.linear(x, &[16, 8, 8], bias, None, self.dtype)]
        } else {
            [16, 8, 8].map(|n| self.linear(x, &[n], bias, None, self.dtype)).to_vec()
        };
        if !packed && !rope {
            for operand in &mut inputs[..2] {
                *operand = self.op(Op::Rope { head_dim: 4 }, &[*operand, tables[0], tables[1]]);
            }
        }
        inputs.push(self.mask);
        if rope {
            inputs.extend(tables);
        }
        self.op(op(packed, rope), &inputs)
    }

    /// Some rows of a layer over four times as many.
    fn taken(&mut self, x: Value, other: Value, rope: bool, bias: bool) -> Value {
        let (mask, tables) = (self.mask, self.tables);
        let longer = Op::Concat { axis: 1 };
        let hidden = self.wide(longer.clone(), &[x, other, x, x]);
        self.mask = self.op(longer.clone(), &[mask; 4]);
        self.tables = tables.map(|table| self.wide(longer.clone(), &[table; 4]));
        let normed = self.norm(hidden, self.dtype);
        let heads = self.attention(normed, false, rope, bias);
        let out = self.linear(heads, &[HIDDEN], 0, None, DType::F32);
        let sum = self.wide(Op::Add, &[hidden, out]);
        (self.mask, self.tables) = (mask, tables);
        self.wide(Op::TakeRows, &[sum, self.ids])
    }

    /// One random step: `choice` picks the op and its variants, `at` the operands.
    fn step(&mut self, choice: u8, at: u8) {
        let pick = |i: u8| self.hidden[self.hidden.len() - 1 - i as usize % self.hidden.len().min(3)];
        let (x, other) = (pick(at), pick(at >> 4));
        let flag = |bit: u8| at >> bit & 1 == 1;
        let t = self.dtype;
        let made = match choice % 18 {
            0 => self.norm(x, DType::F32),
            1 => self.linear(x, &[HIDDEN], at & 3, flag(3).then_some(other), DType::F32),
            2 => self.wide(Op::Add, &[x, other]),
            3 => {
                let silu = self.wide(Op::Activate(Activation::Silu), &[x]);
                let op = if flag(2) { Op::Mul } else { Op::SwiGlu };
                let product = self.wide(op, &[other, silu]);
                // Keeps magnitudes in bounds.
                self.norm(product, DType::F32)
            }
            4 => self.wide(Op::ShiftRows, &[x]),
            5 => {
                let wide = self.linear(x, &[INNER, 5, 30], 1, None, DType::F32);
                let part = self.wide(Op::Slice { start: 3, len: 40 }, &[wide]);
                self.wide(Op::Slice { start: 2, len: HIDDEN }, &[part])
            }
            6 => {
                let normed = self.norm(x, t);
                let heads = self.attention(normed, flag(1), flag(2), flag(3));
                let out = self.linear(heads, &[HIDDEN], 0, None, DType::F32);
                self.wide(Op::Add, &[x, out])
            }
            7 => {
                let (gate, up) = if flag(1) {
                    let normed = self.norm(x, t);
                    let up = self.linear(normed, &[INNER], 0, None, t);
                    (self.linear(normed, &[INNER], 0, None, t), up)
                } else {
                    let both = self.linear(x, &[INNER, INNER], 1, None, t);
                    let part = |start| Op::Slice { start, len: INNER };
                    (self.op(part(0), &[both]), self.op(part(INNER), &[both]))
                };
                let inner = self.op(Op::SwiGlu, &[gate, up]);
                self.linear(inner, &[HIDDEN], 0, Some(x), DType::F32)
            }
            8 => {
                let inner = self.linear(x, &[INNER, INNER], 5, None, t);
                self.linear(inner, &[HIDDEN], 0, Some(other), DType::F32)
            }
            9 => {
                let table = self.weight(t, &[5, HIDDEN]);
                let embedded = self.wide(Op::Embed, &[self.ids, table]);
                self.wide(Op::Add, &[x, embedded])
            }
            10 => {
                let activation = [Activation::Gelu, Activation::QuickGelu, Activation::Relu];
                self.wide(Op::Activate(activation[usize::from(at) % 3]), &[x])
            }
            11 => {
                let [gain, bias] = [(); 2].map(|()| self.weight(DType::F32, &[HIDDEN]));
                let normed = self.ops(Op::LayerNorm { eps: 1e-5 }, &[x, gain, bias], t)[0];
                self.linear(normed, &[HIDDEN], 2, flag(3).then_some(x), DType::F32)
            }
            12 => {
                // Rows put before others, and left out again.
                let both = self.wide(Op::Concat { axis: 1 }, &[other, x, x]);
                let rows = self.wide(Op::ShiftRows, &[both]);
                let table = self.weight(DType::F32, &[4, HIDDEN]);
                let spliced = self.wide(Op::Splice, &[x, self.ids, table]);
                let longer = self.wide(Op::Concat { axis: 1 }, &[spliced, rows]);
                self.wide(Op::TakeRows, &[longer, self.ids])
            }
            13 => {
                let merged = self.wide(Op::SplitRows { count: 3 }, &[x]);
                let silu = self.wide(Op::Activate(Activation::Silu), &[merged]);
                let back = self.wide(Op::MergeRows { count: 3 }, &[silu]);
                if flag(3) { self.wide(Op::Add, &[back, x]) } else { back }
            }
            14 => {
                // q, k and v as parts of one projection, as the vision tower has them.
                let qkv = self.linear(x, &[48], 2, None, t);
                let [q, k, v] = [0, 16, 32].map(|start| self.op(Op::Slice { start, len: 16 }, &[qkv]));
                let [cos, sin] = self.tables;
                let [q, k] = [q, k].map(|part| self.op(Op::Rope { head_dim: 4 }, &[part, cos, sin]));
                let op =
                    Attention { heads: 4, kv_heads: 4, head_dim: 4, packed: false, rope: false, rows: false };
                let heads = self.op(Op::Attention(op), &[q, k, v, self.mask]);
                self.linear(heads, &[HIDDEN], 2, Some(x), DType::F32)
            }
            15 => {
                let activation =
                    [Activation::Gelu, Activation::QuickGelu, Activation::Relu, Activation::Silu];
                let sums = self.linear(x, &[HIDDEN], at & 3, None, t);
                let activated = self.op(Op::Activate(activation[usize::from(at) >> 6]), &[sums]);
                self.linear(activated, &[HIDDEN], 2, flag(3).then_some(other), DType::F32)
            }
            16 => self.taken(x, other, flag(2), flag(3)),
            _ => {
                // A weight that is stored as two.
                let parts = [4, HIDDEN - 4].map(|n| self.weight(t, &[n, HIDDEN]));
                let whole = self.op(Op::Concat { axis: 0 }, &parts);
                let linear = Linear { weights: 1, ..Linear::default() };
                self.wide(Op::Linear(linear), &[x, whole])
            }
        };
        self.hidden.push(made);
    }

    /// Ops without floats: nothing may differ.
    fn integers(&mut self, choice: u8) {
        let (ids, step, stream, joint) = (self.ids, self.step, self.stream, self.joint);
        let token = u64::from(choice & 3);
        let active = self.op(Op::IsToken { token }, &[ids]);
        let lane = if choice & 4 == 0 { Lane::Token } else { Lane::Slot };
        let bits = self.op(Op::RandomBits { lane }, &[ids, stream]);
        let (steps, eps) = (6, 1e-3);
        let count = self.op(Op::TransferCount { steps, eps }, &[active, step, joint]);
        let select = self.op(Op::OriginSlots { steps, eps }, &[active, step, bits]);
        let commit = self.op(Op::Commit, &[select, self.mask, ids]);
        let next = self.op(Op::AdvanceStream, &[stream]);
        self.exact = vec![active, bits, count, select, commit, next];
    }

    fn finish(mut self, results: usize) -> Module {
        let floats = self.hidden.iter().rev().take(results);
        let all = floats.chain(&self.exact).enumerate();
        self.graph.results = all.map(|(i, v)| Port { value: *v, name: format!("r{i}") }).collect();
        Module {
            symbols: [("B".to_owned(), 3), ("S".to_owned(), 7)].into_iter().collect(),
            graphs: vec![self.graph],
        }
    }
}

fn module(dtype: DType, steps: &[(u8, u8)], results: usize) -> Module {
    let mut builder = Builder::new(dtype);
    for (choice, at) in steps {
        builder.step(*choice, *at);
    }
    builder.integers(steps[0].1);
    builder.finish(results)
}

fn inputs(module: &Module, rows: u64, length: u64, seed: u64) -> Vec<Tensor> {
    let symbols: BTreeMap<String, u64> =
        [("B".to_owned(), rows), ("S".to_owned(), length)].into_iter().collect();
    let graph = &module.graphs[0];
    let one = |(i, port): (usize, &Port)| seeded(graph.ty(port.value), &symbols, seed + i as u64);
    graph.params.iter().enumerate().map(one).collect()
}

/// The largest difference as a share of the largest magnitude; integers must be equal.
fn off(found: &Tensor, wanted: &Tensor) -> f32 {
    assert_eq!(found.dims, wanted.dims);
    let (Data::F32(x), Data::F32(y)) = (&found.data, &wanted.data) else {
        assert_eq!(found, wanted);
        return 0.0;
    };
    let scale = y.iter().fold(1e-6_f32, |max, v| max.max(v.abs()));
    let worst = |max: f32, (a, b): (&f32, &f32)| {
        let off = (a - b).abs() / scale;
        if off.is_nan() || off > max { off } else { max }
    };
    x.iter().zip(y).fold(0.0, worst)
}

/// Judges a module as it is and after the passes.
fn same_everywhere(
    before: &Module,
    inputs: &[Tensor],
    limit: f32,
    places: &[On],
) -> Result<(), TestCaseError> {
    let wanted = interpret(before, "f", inputs);
    let mut after = before.clone();
    dreamc_passes::optimize(&mut after, &mut |_, _, _| ());
    for module in [before, &after] {
        prop_assert_eq!(&parse(&module.to_string()).unwrap(), module);
        for on in places {
            let found = execute(module, "f", inputs, *on);
            prop_assert_eq!(found.len(), wanted.len());
            for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                let off = off(found, wanted);
                prop_assert!(off <= limit, "{on}: result {i} is off by {off}\n{module}");
            }
            rows_alone(module, inputs, &found, *on)?;
        }
    }
    Ok(())
}

/// The last row of a batch has the same bits where it is computed alone. Draws are left out: they know their row.
fn rows_alone(module: &Module, inputs: &[Tensor], all: &[Tensor], on: On) -> Result<(), TestCaseError> {
    let rows = inputs[0].dims[0];
    let last = |tensor: &Tensor, batched: bool| {
        if !batched {
            return tensor.clone();
        }
        let mut dims = tensor.dims.clone();
        dims[0] = 1;
        let start = |len: usize| len / rows * (rows - 1);
        let data = match &tensor.data {
            Data::F32(v) => Data::F32(v[start(v.len())..].to_vec()),
            Data::I32(v) => Data::I32(v[start(v.len())..].to_vec()),
            Data::U32(v) => Data::U32(v[start(v.len())..].to_vec()),
            Data::Bool(v) => Data::Bool(v[start(v.len())..].to_vec()),
        };
        Tensor { dims, data }
    };
    // The first three parameters have rows.
    let alone: Vec<Tensor> = inputs.iter().enumerate().map(|(i, t)| last(t, i < 3)).collect();
    for (found, all) in execute(module, "f", &alone, on).iter().zip(all) {
        if let (Data::F32(x), Data::F32(y)) = (&found.data, &last(all, true).data) {
            let same = x.iter().zip(y).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "{on}: a row alone differs\n{module}");
        }
    }
    Ok(())
}

type Case = (Vec<(u8, u8)>, usize, u64, u64, u64);

fn graphs() -> impl Strategy<Value = Case> {
    (prop::collection::vec(any::<(u8, u8)>(), 1..7), 1_usize..3, 1_u64..4, 1_u64..8, any::<u64>())
        .prop_map(|(steps, results, rows, length, seed)| (steps, results, rows, length, seed >> 8))
}

#[test]
fn random_graphs_in_f32() {
    let judge = |(steps, results, rows, length, seed): Case| {
        let module = module(DType::F32, &steps, results);
        same_everywhere(&module, &inputs(&module, rows, length, seed), 1e-4, &On::cpus())
    };
    TestRunner::new(config(96)).run(&graphs(), judge).unwrap();
}

#[test]
fn random_graphs_on_wgpu() {
    let judge = |(steps, results, rows, length, seed): Case| {
        // Weights of bf16 are exact there too, and what lies between is f32.
        let module = module(if seed % 2 == 0 { DType::F32 } else { DType::BF16 }, &steps, results);
        same_everywhere(&module, &inputs(&module, rows, length, seed), 1e-4, &[On::Wgpu])
    };
    TestRunner::new(config(16)).run(&graphs(), judge).unwrap();
}

/// The interpreter does not round activations, the device rounds each to 8 bits, off by at most 2^-9 of its value.
/// The longest case has 6 steps with up to 5 such values on a path. Were all of them off by the most and in the same
/// direction, that would be 30 * 2^-9 = 0.06 of the largest value; norms keep magnitudes alike in between.
#[test]
fn random_graphs_in_bf16() {
    let judge = |(steps, results, rows, length, seed): Case| {
        let module = module(DType::BF16, &steps, results);
        same_everywhere(&module, &inputs(&module, rows, length, seed), 0.06, &On::cpus())
    };
    TestRunner::new(config(96)).run(&graphs(), judge).unwrap();
}

/// Every mix of types that a matmul may have, at sizes around those of registers, panels and blocks.
#[test]
fn matmuls_of_all_types() {
    let dtype = |bit: u8| if bit == 0 { DType::F32 } else { DType::BF16 };
    let all = (0..8).map(|i| [dtype(i & 1), dtype(i & 2), dtype(i & 4)]);
    for [x, w, y] in all {
        for (rows, k, n) in [(1, 1, 1), (2, 7, 15), (5, 16, 16), (13, 33, 31), (3, 300, 49), (40, 64, 130)] {
            let text = format!(
                "graph @f(%0: f32[1, {rows}, {k}] \"x\", %1: f32[1, {rows}, {n}] \"residual\") {{
                   %2 = weight {{name=\"gain\"}} : f32[{k}]
                   %3 = rms_norm %0, %2 {{eps=1e-6}} : {x}[1, {rows}, {k}]
                   %4 = weight {{name=\"a\"}} : {w}[{n}, {k}]
                   %5 = weight {{name=\"bias\"}} : f32[{n}]
                   %6 = linear %3, %4, %5, %1 {{bias=1, residual=1}} : {y}[1, {rows}, {n}]
                   %7 = linear %3, %2, %4, %1 {{norm_eps=1e-6, residual=1}} : {y}[1, {rows}, {n}]
                   %8 = linear %3, %4, %4 {{weights=2, swiglu=1}} : {y}[1, {rows}, {n}]
                   return %6 \"plain\", %7 \"norm\", %8 \"swiglu\"
                 }}"
            );
            let module = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            let inputs = inputs(&module, 1, 1, 11);
            let wanted = interpret(&module, "f", &inputs);
            // Activations and results are rounded once each in bf16, and so is what the second norm makes.
            let limit = if [x, w, y] == [DType::F32; 3] { 1e-5 } else { 0.02 };
            for on in On::all() {
                for (found, wanted) in execute(&module, "f", &inputs, on).iter().zip(&wanted) {
                    let off = off(found, wanted);
                    assert!(off < limit, "{on}: {x} by {w} to {y}, {rows} by {k} by {n}: off by {off}");
                }
            }
        }
    }
}

/// A head of the tokens that may be chosen chooses as one of all tokens, and only those rows of it are stored.
#[test]
fn heads_of_some_tokens() {
    for dtype in [DType::F32, DType::BF16] {
        let text = format!(
            "graph @f(%0: f32[1, 5, 24] \"x\", %1: f32[] \"temperature\", %2: f32[] \"top_p\", %3: i32[] \"top_k\", %4: u32[1, 5] \"bits\", %5: i32[1, 5] \"canvas\") {{
               %6 = const {{ints=[0, 0, 1, 0, 0]}} : i32[1, 5]
               %7 = weight {{name=\"head\"}} : {dtype}[100, 24]
               %8 = linear %0, %7 : f32[1, 5, 100]
               %9 = keep_tokens %8, %6 {{first=37, len=20}} : f32[1, 5, 100]
               %10 = is_token %5 {{token=1}} : bool[1, 5]
               %11 = sampling_probs %9, %10, %1, %2, %3 : f32[1, 5, 100]
               %12 = draw_token %11, %10, %1, %4 : i32[1, 5]
               %13 = confidence %11, %10, %12 {{kind=margin}} : f32[1, 5]
               return %12 \"token\", %13 \"margin\"
             }}"
        );
        let before = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let mut after = before.clone();
        dreamc_passes::optimize(&mut after, &mut |_, _, _| ());
        let narrow = after.to_string();
        assert!(narrow.contains("{first=37, len=20}") && !narrow.contains("keep_tokens"), "{narrow}");
        for (temperature, top_k) in [(0.0, 0), (0.9, 0), (0.9, 30), (0.9, 4)] {
            let mut inputs = inputs(&before, 1, 1, 3);
            inputs[1] = Tensor::f32(&[], vec![temperature]);
            inputs[2] = Tensor::f32(&[], vec![1.0]);
            inputs[3] = Tensor::i32(&[], vec![top_k]);
            inputs[5] = Tensor::i32(&[1, 5], vec![1, 1, 0, 1, 1]);
            let wanted = interpret(&before, "f", &inputs);
            assert_eq!(interpret(&after, "f", &inputs), wanted);
            assert!(wanted[0].ints().iter().all(|t| *t == -1 || (37..57).contains(t)), "{wanted:?}");
            for on in On::all() {
                for module in [&before, &after] {
                    for (found, wanted) in execute(module, "f", &inputs, on).iter().zip(&wanted) {
                        let off = off(found, wanted);
                        assert!(off < 1e-4, "{on}: off by {off}\n{module}");
                    }
                }
            }
        }
    }
}

/// Each state becomes the other: none may be written over before it is read.
#[test]
fn states_that_trade_places() {
    let text = "graph @f(%0: f32[1, 2, 3] \"x\", %1: f32[1, 2, 3] \"y\") {
          %2, %3, %4 = denoise %0, %1 {steps=3, state=2, body=\"f.step\"} : f32[1, 2, 3], f32[1, 2, 3], f32[3, 1, 2, 3]
          return %2 \"first\", %3 \"second\", %4 \"history\"
        }
        graph @f.step(%0: i32[], %1: f32[1, 2, 3], %2: f32[1, 2, 3]) {
          return %2, %1
        }";
    let module = parse(text).unwrap();
    let inputs = inputs(&module, 1, 1, 5);
    assert_ne!(inputs[0], inputs[1]);
    let wanted = interpret(&module, "f", &inputs);
    for on in On::all() {
        assert_eq!(execute(&module, "f", &inputs, on), wanted, "{on}");
    }
    assert_eq!(wanted[0], inputs[1]);
}

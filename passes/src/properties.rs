//! Every pass and the whole pipeline keep what random decoder-like graphs compute.

use crate::testing::assert_same;
use crate::{PIPELINE, optimize, probe_pipeline, run_passes};
use dreamc_ir::{Activation, Attention, Dim, Graph, Linear, Module, Op, Origin, Type, Value, Weight};
use dreamc_num::DType;
use proptest::prelude::*;

/// Columns of the hidden rows.
const HIDDEN: u64 = 8;

/// A graph under construction: hidden values of one type, to draw operands from.
struct Builder {
    graph: Graph,
    hidden: Vec<Value>,
    mask: Value,
    tables: [Value; 2],
}

impl Builder {
    fn new() -> Builder {
        let mut graph = Graph::new("f");
        let x = graph.param("x", rows(HIDDEN));
        let mask = graph.param("mask", Type { dims: rows(1).dims[..2].to_vec(), dtype: DType::I32 });
        let tables = ["cos", "sin"].map(|name| graph.param(name, rows(2)));
        Builder { graph, hidden: vec![x], mask, tables }
    }

    fn push(&mut self, op: Op, inputs: Vec<Value>, ty: Type) -> Value {
        let origin = Origin::path(format!("n{}", self.graph.order().len()));
        let node = self.graph.push(op, inputs, vec![ty], origin);
        self.graph.node(node).outputs[0]
    }

    fn weight(&mut self, dims: &[u64]) -> Value {
        let name = format!("w{}", self.graph.order().len());
        let ty = Type::new(DType::F32, dims.iter().map(|n| Dim::from(*n)));
        self.push(Op::Weight(Weight::named(name)), vec![], ty)
    }

    fn norm(&mut self, x: Value) -> Value {
        let gain = self.weight(&[HIDDEN]);
        self.push(Op::RmsNorm { eps: 1e-6 }, vec![x, gain], rows(HIDDEN))
    }

    fn linear(&mut self, x: Value, columns: u64, bias: bool) -> Value {
        let k = self.graph.ty(x).columns().unwrap();
        let mut inputs = vec![x, self.weight(&[columns, k])];
        if bias {
            inputs.push(self.weight(&[columns]));
        }
        self.push(Op::Linear(Linear { weights: 1, bias, ..Linear::default() }), inputs, rows(columns))
    }

    fn attention(&mut self, x: Value, bias: bool, rope: bool, shared: bool) -> Value {
        let mut q = self.linear(x, 8, bias);
        let mut k = self.linear(x, 4, bias);
        let v = if shared { k } else { self.linear(x, 4, bias) };
        if rope {
            let [cos, sin] = self.tables;
            q = self.push(Op::Rope { head_dim: 4 }, vec![q, cos, sin], rows(8));
            k = self.push(Op::Rope { head_dim: 4 }, vec![k, cos, sin], rows(4));
        }
        let op = Attention { heads: 2, kv_heads: 1, head_dim: 4, packed: false, rope: false, rows: false };
        self.push(Op::Attention(op), vec![q, k, v, self.mask], rows(8))
    }

    /// q, k and v are parts of one projection; with `swapped` not in the order that a packed one has.
    fn joint_attention(&mut self, x: Value, rope: bool, swapped: bool) -> Value {
        let qkv = self.linear(x, 24, true);
        let starts = if swapped { [8, 0, 16] } else { [0, 8, 16] };
        let mut parts = starts.map(|start| self.push(Op::Slice { start, len: 8 }, vec![qkv], rows(8)));
        if rope {
            let [cos, sin] = self.tables;
            for part in &mut parts[..2] {
                *part = self.push(Op::Rope { head_dim: 4 }, vec![*part, cos, sin], rows(8));
            }
        }
        let op = Attention { heads: 2, kv_heads: 2, head_dim: 4, packed: false, rope: false, rows: false };
        let [q, k, v] = parts;
        self.push(Op::Attention(op), vec![q, k, v, self.mask], rows(8))
    }

    fn mlp(&mut self, x: Value, apart: bool) -> Value {
        let (gate, up) = (self.linear(x, 16, false), self.linear(x, 16, false));
        let inner = if apart {
            let silu = self.push(Op::Activate(Activation::Silu), vec![gate], rows(16));
            self.push(Op::Mul, vec![silu, up], rows(16))
        } else {
            self.push(Op::SwiGlu, vec![gate, up], rows(16))
        };
        self.linear(inner, HIDDEN, false)
    }

    /// A head that reads some rows of the last value.
    fn take(&mut self) {
        let some = |columns: u64| Type::new(DType::F32, [Dim::symbol("B"), Dim::symbol("R"), columns.into()]);
        let index = Type { dims: some(1).dims[..2].to_vec(), dtype: DType::I32 };
        let index = self.graph.param("index", index);
        let x = self.hidden[self.hidden.len() - 1];
        let taken = self.push(Op::TakeRows, vec![x, index], some(HIDDEN));
        let gain = self.weight(&[HIDDEN]);
        let normed = self.push(Op::RmsNorm { eps: 1e-6 }, vec![taken, gain], some(HIDDEN));
        self.hidden.push(normed);
    }

    /// One random step: `choice` picks the op and its variants, `at` the operands.
    fn step(&mut self, choice: u8, at: u8) {
        let pick = |i: u8| self.hidden[self.hidden.len() - 1 - i as usize % self.hidden.len().min(3)];
        let (x, other) = (pick(at), pick(at >> 4));
        let flag = |bit: u8| at >> bit & 1 == 1;
        let made = match choice % 11 {
            0 => self.norm(x),
            1 => self.linear(x, HIDDEN, flag(3)),
            2 => self.push(Op::Add, vec![x, other], rows(HIDDEN)),
            3 => {
                let silu = self.push(Op::Activate(Activation::Silu), vec![x], rows(HIDDEN));
                let mul = self.push(Op::Mul, vec![other, silu], rows(HIDDEN));
                // Keeps magnitudes in bounds.
                self.norm(mul)
            }
            4 => self.push(Op::ShiftRows, vec![x], rows(HIDDEN)),
            5 => {
                let wide = self.linear(x, 16, false);
                let part = self.push(Op::Slice { start: 3, len: 12 }, vec![wide], rows(12));
                let part = self.push(Op::Slice { start: 2, len: 8 }, vec![part], rows(HIDDEN));
                let whole = self.push(Op::Slice { start: 0, len: 8 }, vec![part], rows(HIDDEN));
                self.push(Op::Concat { axis: 0 }, vec![whole], rows(HIDDEN))
            }
            6 => {
                let normed = self.norm(x);
                let heads = self.attention(normed, flag(2), flag(3), flag(6) && flag(7));
                let out = self.linear(heads, HIDDEN, false);
                self.push(Op::Add, vec![x, out], rows(HIDDEN))
            }
            7 => {
                let normed = self.norm(x);
                let out = self.mlp(normed, flag(2));
                let sum = self.push(Op::Add, vec![x, out], rows(HIDDEN));
                self.norm(sum)
            }
            8 => {
                let heads = self.joint_attention(x, flag(2), flag(3));
                self.linear(heads, HIDDEN, true)
            }
            9 => {
                let all = [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu];
                let sums = self.linear(x, HIDDEN, flag(2));
                let activation = Op::Activate(all[at as usize >> 6]);
                let activated = self.push(activation, vec![sums], rows(HIDDEN));
                if flag(3) { self.push(Op::Add, vec![other, activated], rows(HIDDEN)) } else { activated }
            }
            _ => {
                // The last node once more.
                let Some(last) = self.graph.order().last().copied() else { return };
                let data = self.graph.node(last).clone();
                self.push(data.op, data.inputs, rows(HIDDEN))
            }
        };
        self.hidden.push(made);
    }
}

fn rows(columns: u64) -> Type {
    Type::new(DType::F32, [Dim::symbol("B"), Dim::symbol("S"), columns.into()])
}

fn module(steps: &[(u8, u8)], results: usize, taken: bool) -> Module {
    let mut builder = Builder::new();
    for (choice, at) in steps {
        builder.step(*choice, *at);
    }
    if taken {
        builder.take();
    }
    let last = builder.hidden.iter().rev().take(results);
    builder.graph.results =
        last.map(|value| dreamc_ir::Port { value: *value, name: String::new() }).collect();
    Module {
        symbols: [("B".to_owned(), 2), ("S".to_owned(), 5), ("R".to_owned(), 2)].into_iter().collect(),
        graphs: vec![builder.graph],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn passes_keep_results(steps in prop::collection::vec(any::<(u8, u8)>(), 1..8), results in 1_usize..3, taken: bool) {
        let before = module(&steps, results, taken);
        for pass in PIPELINE {
            let mut after = before.clone();
            run_passes(&[*pass], &mut after, &mut |_, _, _| ());
            assert_same(&before, &after, 3);
            let once = after.to_string();
            run_passes(&[*pass], &mut after, &mut |_, _, _| ());
            prop_assert_eq!(once, after.to_string(), "{} changes its own result", pass.name);
        }
        let mut after = before.clone();
        optimize(&mut after, &mut |_, _, _| ());
        assert_same(&before, &after, 3);
        let mut probed = before.clone();
        run_passes(&probe_pipeline(), &mut probed, &mut |_, _, _| ());
        assert_same(&before, &probed, 3);
    }
}

/// Where some rows are read, queries and all that follows them are computed for those.
#[test]
fn a_last_layer_is_fused() {
    let mut after = module(&[(6, 0b1100), (7, 0b100)], 1, true);
    optimize(&mut after, &mut |_, _, _| ());
    insta::assert_snapshot!(after);
}

/// A loop over hidden rows and a row of times: its body is a random graph, of which a part hangs on what is captured only.
fn looped(choices: &[(u8, u8)], steps: u64) -> Module {
    let mut body = Builder::new();
    body.graph.name = "f.step".to_owned();
    let step = body.graph.value(Type::scalar(DType::I32));
    body.graph.params.insert(0, dreamc_ir::Port { value: step, name: "step".to_owned() });
    let time = Type::new(DType::F32, [1.into(), 1.into(), HIDDEN.into()]);
    let given = body.graph.value(time.clone());
    body.graph.params.insert(2, dreamc_ir::Port { value: given, name: "time".to_owned() });
    let captured = body.graph.param("captured", rows(HIDDEN));
    body.hidden.push(captured);
    for (choice, at) in choices {
        body.step(*choice, *at);
    }
    let last = body.hidden.last().copied().unwrap_or(captured);
    let state = body.norm(last);
    let times = (0..steps).map(|i| i as f32 * 0.125).collect();
    let now = body.push(Op::TimestepEmbed { times, width: HIDDEN }, vec![step], time.clone());
    let weight = body.weight(&[HIDDEN, HIDDEN]);
    let linear = Op::Linear(Linear { weights: 1, ..Linear::default() });
    let now = body.push(linear, vec![now, weight], time.clone());
    let sum = body.push(Op::Add, vec![given, now], time.clone());
    body.graph.results = [state, sum].map(|value| dreamc_ir::Port { value, name: String::new() }).to_vec();

    let mut graph = Graph::new("f");
    let params: Vec<(String, Type)> =
        body.graph.params.iter().skip(1).map(|p| (p.name.clone(), body.graph.ty(p.value).clone())).collect();
    let inputs: Vec<Value> = params.into_iter().map(|(name, ty)| graph.param(name, ty)).collect();
    let mut history = rows(HIDDEN);
    history.dims.insert(0, steps.into());
    let op = Op::Denoise { steps, state: 2, body: "f.step".to_owned(), slots: None };
    let node = graph.push(op, inputs, vec![rows(HIDDEN), time, history], Origin::path("loop"));
    let outputs = graph.node(node).outputs.clone();
    graph.results = outputs.into_iter().map(|value| dreamc_ir::Port { value, name: String::new() }).collect();
    Module {
        symbols: [("B".to_owned(), 2), ("S".to_owned(), 5)].into_iter().collect(),
        graphs: vec![graph, body.graph],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn passes_keep_loops(choices in prop::collection::vec(any::<(u8, u8)>(), 1..5), steps in 1_u64..4) {
        let before = looped(&choices, steps);
        for pass in PIPELINE {
            let mut after = before.clone();
            run_passes(&[*pass], &mut after, &mut |_, _, _| ());
            assert_same(&before, &after, 3);
            let once = after.to_string();
            run_passes(&[*pass], &mut after, &mut |_, _, _| ());
            prop_assert_eq!(once, after.to_string(), "{} changes its own result", pass.name);
        }
        let mut after = before.clone();
        optimize(&mut after, &mut |_, _, _| ());
        assert_same(&before, &after, 3);
        let text = after.to_string();
        prop_assert_eq!(after.graphs.len(), if steps == 1 { 1 } else { 2 }, "{}", &text);
        prop_assert!(steps == 1 || text.contains("take_rows"), "{}", text);
    }
}

/// A whole layer comes down to four projections and attention.
#[test]
fn a_layer_is_fused() {
    let mut after = module(&[(6, 0b1100), (7, 0b100)], 1, false);
    let mut seen = Vec::new();
    optimize(&mut after, &mut |pass, _, stats| seen.push((pass.name, *stats)));
    insta::assert_snapshot!(after);
    assert_eq!(seen.len(), PIPELINE.len());
}

//! Appends nodes with inferred types: what the graphs of all models are written with.

use dreamc_ir::{Dim, Graph, Linear, Op, Origin, Port, Type, Value, Weight, infer};
use dreamc_num::DType;

/// A graph under construction.
pub(crate) struct Builder {
    pub(crate) graph: Graph,
    /// Of weights and of activations between the residual stream's reads and writes.
    pub(crate) dtype: DType,
}

impl Builder {
    pub(crate) fn new(name: &str, dtype: DType) -> Builder {
        Builder { graph: Graph::new(name), dtype }
    }

    pub(crate) fn param(&mut self, name: &str, dtype: DType, dims: &[Dim]) -> Value {
        self.graph.param(name, Type::new(dtype, dims.iter().cloned()))
    }

    pub(crate) fn result(&mut self, name: &str, value: Value) {
        self.graph.results.push(Port { value, name: name.to_owned() });
    }

    /// All results of an op. `dtype` is that of results that may have any float type.
    pub(crate) fn ops_as(&mut self, op: Op, inputs: &[Value], dtype: DType, path: &str) -> Vec<Value> {
        let types: Vec<Type> = inputs.iter().map(|v| self.graph.ty(*v).clone()).collect();
        let types = infer(&op, &types, dtype)
            .unwrap_or_else(|rule| panic!("bug: importer builds `{path}` wrongly: {rule}"));
        let node = self.graph.push(op, inputs.to_vec(), types, Origin::path(path));
        self.graph.node(node).outputs.clone()
    }

    pub(crate) fn op_as(&mut self, op: Op, inputs: &[Value], dtype: DType, path: &str) -> Value {
        self.ops_as(op, inputs, dtype, path)[0]
    }

    pub(crate) fn op(&mut self, op: Op, inputs: &[Value], path: &str) -> Value {
        self.op_as(op, inputs, self.dtype, path)
    }

    /// A constant of the given type.
    pub(crate) fn constant(&mut self, literal: dreamc_ir::Literal, ty: Type, path: &str) -> Value {
        let node = self.graph.push(Op::Const(literal), vec![], vec![ty], Origin::path(path));
        self.graph.node(node).outputs[0]
    }

    pub(crate) fn weight(&mut self, name: String, dtype: DType, dims: &[u64]) -> Value {
        let ty = Type::new(dtype, dims.iter().map(|n| Dim::from(*n)));
        let origin = Origin::path(name.as_str());
        let node = self.graph.push(Op::Weight(Weight::named(name)), vec![], vec![ty], origin);
        self.graph.node(node).outputs[0]
    }

    /// `x W^T`, with the bias if `bias`; `n` columns from `k`.
    pub(crate) fn linear(
        &mut self,
        x: Value,
        path: &str,
        [n, k]: [u64; 2],
        bias: bool,
        dtype: DType,
    ) -> Value {
        let weight = self.weight(format!("{path}.weight"), self.dtype, &[n, k]);
        let mut inputs = vec![x, weight];
        if bias {
            inputs.push(self.weight(format!("{path}.bias"), DType::F32, &[n]));
        }
        let linear = Linear { weights: 1, bias, ..Linear::default() };
        self.op_as(Op::Linear(linear), &inputs, dtype, path)
    }

    /// RMS norm with the gain of `path`.
    pub(crate) fn rms_norm(&mut self, x: Value, path: &str, width: u64, eps: f32) -> Value {
        let gain = self.weight(format!("{path}.weight"), DType::F32, &[width]);
        self.op(Op::RmsNorm { eps }, &[x, gain], path)
    }

    /// Layer norm with gain and bias of `path`.
    pub(crate) fn layer_norm(&mut self, x: Value, path: &str, width: u64, eps: f32) -> Value {
        let gain = self.weight(format!("{path}.weight"), DType::F32, &[width]);
        let bias = self.weight(format!("{path}.bias"), DType::F32, &[width]);
        self.op(Op::LayerNorm { eps }, &[x, gain, bias], path)
    }
}

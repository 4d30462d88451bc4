//! Walks a graph.

use crate::eval::eval;
use crate::rows::concat;
use crate::slots;
use crate::tensor::{Data, Tensor, dims_of};
use dreamc_ir::{Graph, Literal, Module, NodeData, Op, SLOTS, Type, Value, Verified, Weight};
use dreamc_num::DType;
use dreamc_num::quant::{BLOCK, Errors, round_row};
use std::collections::BTreeMap;

/// Why a module could not be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No graph of that name.
    #[error("there is no graph `@{0}`")]
    NoEntry(String),
    /// An input does not fit its parameter, or the inputs disagree about a symbol.
    #[error("input {index} of `@{graph}` must be {wanted}")]
    Input {
        /// Name of the graph.
        graph: String,
        /// Which parameter.
        index: usize,
        /// Its type.
        wanted: Type,
    },
    /// The weights have no such tensor, or one of another shape.
    #[error("weight `{0}` is missing or has another shape")]
    Weight(String),
    /// A token id outside the embedding table.
    #[error("token id {0} is outside the vocabulary")]
    Token(i32),
    /// A row number outside the rows.
    #[error("there is no row {0}")]
    Row(i32),
    /// A step for which a loop's op has no entry.
    #[error("there is no step {0} in the schedule")]
    Step(i32),
}

/// Where weights come from.
pub trait Weights {
    /// The tensor of this name, of this type.
    fn weight(&mut self, name: &str, ty: &Type) -> Option<Tensor>;
}

impl<F: FnMut(&str, &Type) -> Option<Tensor>> Weights for F {
    fn weight(&mut self, name: &str, ty: &Type) -> Option<Tensor> {
        self(name, ty)
    }
}

/// What was just computed.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The node.
    pub node: &'a NodeData,
    /// Which of its results.
    pub result: usize,
    /// Denoising step, 0 outside of a loop.
    pub step: u32,
}

/// Sees every value as it is computed, and may change it: probes, and replay of recorded random draws.
pub trait Observer {
    /// Called after each result of each node.
    fn after(&mut self, _event: &Event<'_>, _value: &mut Tensor) {}
}

impl Observer for () {}

/// Runs graph `entry` on inputs in the order of its parameters. Symbols take the values that the inputs' dimensions give.
pub fn run(
    module: Verified<'_>,
    entry: &str,
    inputs: &[Tensor],
    weights: &mut dyn Weights,
    observer: &mut dyn Observer,
) -> Result<Vec<Tensor>, RunError> {
    let module = module.module();
    let graph = module.graph(entry).ok_or_else(|| RunError::NoEntry(entry.to_owned()))?;
    let mut run = Run { module, weights, observer, symbols: BTreeMap::new() };
    for (index, port) in graph.params.iter().enumerate() {
        let wanted = graph.ty(port.value);
        let fits = inputs.get(index).is_some_and(|t| run.bind(t, wanted));
        if !fits {
            return Err(RunError::Input { graph: entry.to_owned(), index, wanted: wanted.clone() });
        }
    }
    run.graph(graph, inputs.to_vec(), 0)
}

struct Run<'a> {
    module: &'a Module,
    weights: &'a mut dyn Weights,
    observer: &'a mut dyn Observer,
    symbols: BTreeMap<String, u64>,
}

impl Run<'_> {
    /// Learns symbols that stand alone in a dimension or are multiplied by a number there, and checks the rest.
    fn bind(&mut self, tensor: &Tensor, ty: &Type) -> bool {
        for (dim, n) in ty.dims.iter().zip(&tensor.dims) {
            if let [(count, [name])] = dim.terms().collect::<Vec<_>>()[..] {
                // If it does not divide, the check below fails.
                self.symbols.entry(name.clone()).or_insert(*n as u64 / count);
            }
        }
        tensor.is_of(ty, &self.symbols)
    }

    fn graph(&mut self, graph: &Graph, inputs: Vec<Tensor>, step: u32) -> Result<Vec<Tensor>, RunError> {
        let mut values: BTreeMap<Value, Tensor> = graph.params.iter().map(|p| p.value).zip(inputs).collect();
        for node in graph.order() {
            let data = graph.node(*node);
            let operands: Vec<&Tensor> = data.inputs.iter().map(|v| &values[v]).collect();
            let results = match &data.op {
                Op::Weight(weight) => vec![self.weight(weight, graph.ty(data.outputs[0]))?],
                Op::Const(literal) => vec![constant(literal, graph.ty(data.outputs[0]))],
                // Where the inputs do not say how many there are, there are as many as the fullest row has.
                Op::OpenSlots { token } => slots::open(operands[0], *token, self.symbols.get(SLOTS).copied()),
                Op::Denoise { steps, state, body, .. } => {
                    self.denoise(*steps as u32, *state as usize, body, &operands)?
                }
                op => eval(op, &operands)?,
            };
            for (result, (value, mut tensor)) in data.outputs.iter().zip(results).enumerate() {
                self.observer.after(&Event { node: data, result, step }, &mut tensor);
                values.insert(*value, tensor);
            }
        }
        Ok(graph.results.iter().map(|p| values[&p.value].clone()).collect())
    }

    fn weight(&mut self, weight: &Weight, ty: &Type) -> Result<Tensor, RunError> {
        let tensor = self.stored(&weight.name, ty)?;
        let k = tensor.columns();
        let mut rounded = match &weight.columns {
            None => tensor,
            Some(columns) => {
                let factors = self.stored(columns, &Type::new(DType::F32, ty.dims.last().cloned()))?;
                let products = tensor.floats().iter().enumerate().map(|(i, x)| x * factors.floats()[i % k]);
                Tensor::f32(&tensor.dims, products.collect())
            }
        };
        if let Some(quant) = weight.quant {
            let vector = Type::new(DType::F32, ty.dims.last().cloned());
            let block = dreamc_ir::Dim::from(BLOCK as u64);
            let matrix = Type::new(DType::F32, ty.dims.last().cloned().into_iter().chain([block]));
            let mut numbers = |name: &Option<String>, ty: &Type| match name {
                Some(name) => Ok(Some(self.stored(name, ty)?.floats().to_vec())),
                None => Ok::<_, RunError>(None),
            };
            let importance = numbers(&weight.importance, &vector)?.unwrap_or_else(|| vec![1.0; k]);
            let feedback = numbers(&weight.feedback, &matrix)?.unwrap_or_default();
            let errors = Errors { importance: &importance, feedback: &feedback };
            let mut elements = rounded.floats().to_vec();
            elements.chunks_mut(k).for_each(|row| round_row(quant, row, errors));
            rounded = Tensor::f32(&rounded.dims, elements);
        }
        Ok(rounded)
    }

    /// A tensor of the checkpoint as it is there.
    fn stored(&mut self, name: &str, ty: &Type) -> Result<Tensor, RunError> {
        let tensor = self.weights.weight(name, ty).filter(|t| t.is_of(ty, &self.symbols));
        tensor.ok_or_else(|| RunError::Weight(name.to_owned()))
    }

    fn denoise(
        &mut self,
        steps: u32,
        state: usize,
        body: &str,
        operands: &[&Tensor],
    ) -> Result<Vec<Tensor>, RunError> {
        let graph = self.module.graph(body).ok_or_else(|| RunError::NoEntry(body.to_owned()))?;
        let mut states: Vec<Tensor> = operands[..state].iter().map(|t| (*t).clone()).collect();
        let mut history = Vec::new();
        for step in 0..steps {
            let mut inputs = vec![Tensor::i32(&[], vec![step as i32])];
            inputs.append(&mut states);
            inputs.extend(operands[state..].iter().map(|t| (*t).clone()));
            states = self.graph(graph, inputs, step)?;
            let mut slot = states[0].clone();
            slot.dims.insert(0, 1);
            history.push(slot);
        }
        states.push(concat(&history.iter().collect::<Vec<_>>(), 0));
        Ok(states)
    }
}

fn constant(literal: &Literal, ty: &Type) -> Tensor {
    use dreamc_num::DType;
    let dims = dims_of(ty, &BTreeMap::new()).unwrap_or_default();
    let data = match (literal, ty.dtype) {
        (Literal::Floats(v), _) => Data::F32(v.clone()),
        (Literal::Ints(v), DType::U32) => Data::U32(v.iter().map(|n| *n as u32).collect()),
        (Literal::Ints(v), DType::Bool) => Data::Bool(v.iter().map(|n| *n != 0).collect()),
        (Literal::Ints(v), DType::I32 | DType::F32 | DType::BF16 | DType::F16) => {
            Data::I32(v.iter().map(|n| *n as i32).collect())
        }
    };
    Tensor { dims, data }
}

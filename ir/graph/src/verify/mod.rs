//! The verifier. A verified module never makes a pass or a backend panic.
//!
//! Rules, all checked, all violations reported:
//! 1. every operand and result is defined before its use, once, in its own graph
//! 2. operands and results of a node have the types that [`crate::infer`] says
//! 3. a weight has constant dimensions and a float type; one name has one type in the whole module
//! 4. a constant has as many elements as its type, of its kind
//! 5. a `denoise` has at least one step, names a graph of the module that is not its own and holds no `denoise`
//!    itself, and that body takes and gives what [`Op::Denoise`] says; with `slots` the body fills slots as [`SlotSchedule`](crate::SlotSchedule) says, and no value that it takes
//!    or gives has as many elements as slots are open, a number that changes from step to step
//! 6. port names of a graph are distinct where given; a symbol's bound is at least 1
//! 7. every dimension is at least 1
//! 8. tensors of the checkpoint that are stored in fp8 are multiplied with rows in fp8, and rows in fp8 with no others

mod slots;

use crate::graph::{Graph, Module, Node, Value};
use crate::infer::infer;
use crate::op::{Linear, Op, SLOTS, SlotSchedule, Weight};
use crate::types::Type;
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A module that obeys every rule. The borrow ends at the next edit, and the promise with it.
#[derive(Clone, Copy)]
pub struct Verified<'a>(&'a Module);

impl<'a> Verified<'a> {
    /// The module.
    pub fn module(self) -> &'a Module {
        self.0
    }
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// Name of the graph.
    pub graph: String,
    /// The node as printed, with its origin; empty where no node is concerned.
    pub node: String,
    /// Which rule, and how.
    pub rule: String,
}

/// All violations of a module, at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the graph breaks {} rule(s)", self.0.len())?;
        for error in &self.0 {
            write!(f, "\n  @{}: {}", error.graph, error.rule)?;
            if !error.node.is_empty() {
                write!(f, "\n    {}", error.node)?;
            }
        }
        Ok(())
    }
}

/// Checks every rule.
pub fn verify(module: &Module) -> Result<Verified<'_>, VerifyErrors> {
    let mut errors = Vec::new();
    for (name, max) in &module.symbols {
        if *max == 0 {
            let rule = format!("symbol `{name}` must have a bound of at least 1");
            errors.push(VerifyError { graph: String::new(), node: String::new(), rule });
        }
    }
    let mut weights = BTreeMap::new();
    for graph in &module.graphs {
        let definitions = graph.definitions();
        Checker { module, graph, definitions, errors: &mut errors }.check(&mut weights);
    }
    if errors.is_empty() { Ok(Verified(module)) } else { Err(VerifyErrors(errors)) }
}

struct Checker<'a, 'e> {
    module: &'a Module,
    graph: &'a Graph,
    definitions: BTreeMap<Value, Node>,
    errors: &'e mut Vec<VerifyError>,
}

impl<'a> Checker<'a, '_> {
    fn report(&mut self, node: Option<Node>, rule: String) {
        let node = node.map(|n| self.describe(n)).unwrap_or_default();
        self.errors.push(VerifyError { graph: self.graph.name.clone(), node, rule });
    }

    fn describe(&self, node: Node) -> String {
        let data = self.graph.node(node);
        let list = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "{} = {} {} loc {}",
            list(&data.outputs),
            data.op.name(),
            list(&data.inputs),
            data.origin.0.join(", ")
        )
    }

    fn check(&mut self, weights: &mut BTreeMap<&'a str, &'a Type>) {
        let graph = self.graph;
        let mut defined = BTreeSet::new();
        for port in &graph.params {
            if !defined.insert(port.value) {
                self.report(None, format!("parameter {} is defined twice", port.value));
            }
            self.dims(None, port.value);
        }
        for node in graph.order() {
            let data = graph.node(*node);
            let in_range =
                data.inputs.iter().chain(&data.outputs).all(|v| (v.0 as usize) < graph.value_count());
            let missing: Vec<_> = data.inputs.iter().filter(|v| !defined.contains(*v)).collect();
            for value in &missing {
                self.report(Some(*node), format!("{value} is used before it is defined"));
            }
            if in_range && missing.is_empty() {
                self.types(*node, weights);
            }
            for value in &data.outputs {
                if !defined.insert(*value) {
                    self.report(Some(*node), format!("{value} is defined twice"));
                }
                if in_range {
                    self.dims(Some(*node), *value);
                }
            }
        }
        for port in &graph.results {
            if !defined.contains(&port.value) {
                self.report(None, format!("result {} is not defined", port.value));
            }
        }
        for ports in [&graph.params, &graph.results] {
            let mut names = BTreeSet::new();
            for port in ports.iter().filter(|p| !p.name.is_empty()) {
                if !names.insert(&port.name) {
                    self.report(None, format!("two ports are named `{}`", port.name));
                }
            }
        }
    }

    fn dims(&mut self, node: Option<Node>, value: Value) {
        if self.graph.ty(value).dims.iter().any(|d| d.as_constant() == Some(0)) {
            self.report(node, format!("{value} has a dimension of 0"));
        }
    }

    fn types(&mut self, node: Node, weights: &mut BTreeMap<&'a str, &'a Type>) {
        let graph = self.graph;
        let data = graph.node(node);
        let inputs: Vec<Type> = data.inputs.iter().map(|v| graph.ty(*v).clone()).collect();
        let outputs: Vec<Type> = data.outputs.iter().map(|v| graph.ty(*v).clone()).collect();
        let rule = match &data.op {
            Op::Weight(_) | Op::Const(_) if !inputs.is_empty() || outputs.len() != 1 => {
                Err("it takes no operands and has one result".to_owned())
            }
            Op::Weight(Weight { name, columns, quant, importance, feedback }) => {
                let ty = graph.ty(data.outputs[0]);
                if *weights.entry(name).or_insert(ty) != ty {
                    Err(format!("weight `{name}` has another type elsewhere"))
                } else if (columns.is_some() || quant.is_some()) && ty.dims.len() != 2 {
                    Err("only matrices are stored in few bits".to_owned())
                } else if columns.is_some() && quant.is_none() {
                    Err("only columns of a matrix that is stored in few bits are multiplied".to_owned())
                } else if importance.is_some() && !matches!(quant, Some(Quant::Int4 { .. })) {
                    Err("only columns of a matrix that is stored in groups have an importance".to_owned())
                } else if feedback.is_some() && importance.is_none() {
                    Err("errors of columns are only fed back where they have an importance".to_owned())
                } else if !ty.dtype.is_float() || ty.elements().as_constant().is_none() {
                    Err("a weight must be float, with constant dimensions".to_owned())
                } else {
                    Ok(())
                }
            }
            Op::Const(literal) if literal.fits(&outputs[0]) => Ok(()),
            Op::Const(_) => Err("the constant's elements must fill its type".to_owned()),
            Op::Denoise { steps, state, body, slots } => {
                self.denoise((*steps, *state), body, slots.as_ref(), &inputs, &outputs)
            }
            Op::Linear(linear) if !self.fp8_agrees(linear, &data.inputs) => {
                Err("weights are stored in fp8 where rows are rounded to it, and nowhere else".to_owned())
            }
            op => match outputs.first() {
                None => Err("it has no result".to_owned()),
                Some(first) => infer(op, &inputs, first.dtype).and_then(|wanted| {
                    let text =
                        |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
                    if wanted == outputs {
                        Ok(())
                    } else {
                        Err(format!("the result must be {}, not {}", text(&wanted), text(&outputs)))
                    }
                }),
            },
        };
        if let Err(rule) = rule {
            self.report(Some(node), rule);
        }
    }

    /// Whether the tensors that a matmul reads are stored in fp8 exactly where its rows are rounded to it.
    fn fp8_agrees(&self, linear: &Linear, inputs: &[Value]) -> bool {
        let wanted = linear.codes == Some(Codes::Fp8);
        let mut weights = inputs.get(linear.weight_operands()).unwrap_or_default().iter();
        weights.all(|value| match self.definitions.get(value).map(|node| &self.graph.node(*node).op) {
            Some(Op::Weight(weight)) => (weight.quant == Some(Quant::Fp8)) == wanted,
            _ => true,
        })
    }

    fn denoise(
        &self,
        (steps, state): (u64, u64),
        body: &str,
        slots: Option<&SlotSchedule>,
        inputs: &[Type],
        outputs: &[Type],
    ) -> Result<(), String> {
        if steps == 0 {
            return Err("it must have at least one step".to_owned());
        }
        let split = usize::try_from(state).ok().filter(|n| *n > 0).and_then(|n| inputs.split_at_checked(n));
        let (states, _) = split.ok_or("it takes its states, at least one, and what is captured")?;
        let first = &states[0];
        let history = Type::new(first.dtype, [steps.into()].into_iter().chain(first.dims.iter().cloned()));
        if outputs != [states, &[history]].concat() {
            return Err("its results must be the states, and the history of the first".to_owned());
        }
        if inputs.iter().flat_map(|ty| &ty.dims).any(|dim| dim.has(SLOTS)) {
            return Err(format!(
                "what it takes must not have `{SLOTS}` elements, which change from step to step"
            ));
        }
        let graph = self.module.graph(body).ok_or_else(|| format!("there is no graph `@{body}`"))?;
        if graph.order().iter().any(|n| matches!(graph.node(*n).op, Op::Denoise { .. })) {
            return Err(format!("`@{body}` must not hold a loop itself"));
        }
        let params: Vec<_> = graph.params.iter().map(|p| graph.ty(p.value).clone()).collect();
        if params != [&[Type::scalar(DType::I32)], inputs].concat() {
            return Err(format!("`@{body}` must take the step, the states and what is captured"));
        }
        let results: Vec<_> = graph.results.iter().map(|p| graph.ty(p.value).clone()).collect();
        if results != states {
            return Err(format!("`@{body}` must give the states"));
        }
        match slots {
            Some(schedule) if !slots::fills(graph, steps, schedule) => {
                Err(format!("`@{body}` must fill slots as the loop says, and change nothing else"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

//! Verified graph to program: loops inlined, kernels chosen, every value given a place.

use crate::constants::{Constants, Source};
use crate::memory::{Block, arrange};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{
    Denoise, Dim, Dispatch, Kernel, Place, Port, Program, Step, Symbol, Term, Value as PlanValue, ValueId,
};
use dreamc_artifact::{ARENA_BYTES_MAX, ELEMENTS_MAX};
use dreamc_ir::{Graph, Module, NodeData, Op, Type, Value, Verified};
use dreamc_num::DType;
use std::collections::BTreeMap;

/// Why a graph has no program for a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The module has no such graph.
    #[error("there is no entry `{0}` in the graph")]
    NoEntry(String),
    /// A symbol that memory cannot be planned for.
    #[error("symbol `{0}` has no bound; add `symbol {0} <= N` to the graph")]
    Unbounded(String),
    /// A value that no arena can hold.
    #[error(
        "`{origin}` needs a tensor {ty}, which is too large at the maxima; lower --max-prompt or --max-batch"
    )]
    TooLarge {
        /// Where the value comes from.
        origin: String,
        /// Its type.
        ty: Type,
    },
    /// More memory than a plan may ask for.
    #[error(
        "`{0}` needs more than {ARENA_BYTES_MAX} bytes of memory at the maxima; lower --max-prompt or --max-batch"
    )]
    Arena(String),
    /// The target has no kernel for an op.
    #[error("target {target} cannot run `{op}` ({origin}): {reason}")]
    Unsupported {
        /// Name of the target.
        target: &'static str,
        /// Name of the op.
        op: &'static str,
        /// Where the node comes from.
        origin: String,
        /// What is missing, and what to do.
        reason: String,
    },
}

/// What a backend decides about each op.
pub trait Target {
    /// Name for messages.
    fn name(&self) -> &'static str;

    /// The kernel for a node that is neither constant nor a loop, or why there is none.
    fn kernel(&self, graph: &Graph, node: &NodeData) -> Result<Kernel, String>;

    /// Operands over which the kernel may write its result, best first.
    fn in_place(&self, node: &NodeData) -> Vec<usize>;

    /// The order in which the kernel wants constant operand `operand` of this type.
    fn layout(&self, node: &NodeData, operand: usize, ty: &Type) -> Option<Layout>;
}

/// The program of graph `entry`, named `name`. Constants are added to `constants`.
pub fn lower(
    verified: Verified<'_>,
    entry: &str,
    name: &str,
    target: &dyn Target,
    constants: &mut Constants,
) -> Result<Program, EmitError> {
    let module = verified.module();
    let graph = module.graph(entry).ok_or_else(|| EmitError::NoEntry(entry.to_owned()))?;
    let symbols = module
        .symbols
        .iter()
        .map(|(name, max)| Symbol { name: name.clone(), max: (*max).min(u64::from(u32::MAX)) as u32 });
    let lowering = Lowering {
        module,
        target,
        constants,
        symbols: symbols.collect(),
        slots: Vec::new(),
        values: Vec::new(),
        time: 0,
    };
    lowering.run(graph, name)
}

/// What a graph value is bound to.
#[derive(Clone, Debug)]
enum Binding {
    /// A value of the program.
    Value(ValueId),
    /// A constant, and the type it has in the graph.
    Constant(Source, Type),
}

type Scope = BTreeMap<Value, Binding>;

/// One piece of the arena; values that are written in place share it.
struct Slot {
    bytes: u64,
    first: u32,
    last: u32,
}

/// A value and the slot it lies in; weights lie elsewhere.
struct Placed {
    value: PlanValue,
    slot: Option<usize>,
}

struct Lowering<'a> {
    module: &'a Module,
    target: &'a dyn Target,
    constants: &'a mut Constants,
    symbols: Vec<Symbol>,
    slots: Vec<Slot>,
    values: Vec<Placed>,
    /// Number of the next step.
    time: u32,
}

impl Lowering<'_> {
    fn run(mut self, graph: &Graph, name: &str) -> Result<Program, EmitError> {
        let mut scope = Scope::new();
        let mut inputs = Vec::new();
        for port in &graph.params {
            let value = self.new_value(graph.ty(port.value), &port.name)?;
            scope.insert(port.value, Binding::Value(value));
            inputs.push(Port { name: port.name.clone(), value });
        }
        self.time = 1;
        let steps = self.steps(graph, &mut scope, 0)?;
        let mut outputs = Vec::new();
        for port in &graph.results {
            let value = self.operand(&scope, port.value, &port.name)?;
            self.keep(value, u32::MAX);
            outputs.push(Port { name: port.name.clone(), value });
        }
        let blocks: Vec<Block> =
            self.slots.iter().map(|s| Block { bytes: s.bytes, first: s.first, last: s.last }).collect();
        let arranged = arrange(&blocks).filter(|(_, bytes)| *bytes <= ARENA_BYTES_MAX);
        let (offsets, arena_bytes) = arranged.ok_or_else(|| EmitError::Arena(name.to_owned()))?;
        let place = |p: Placed| match p.slot {
            Some(slot) => PlanValue { place: Place::Arena(offsets[slot]), ..p.value },
            None => p.value,
        };
        let values = self.values.into_iter().map(place).collect();
        Ok(Program {
            name: name.to_owned(),
            symbols: self.symbols,
            values,
            inputs,
            outputs,
            steps,
            arena_bytes,
        })
    }

    /// Lowers the nodes of a graph in order. `born` is the time from which values may be overwritten: inside a loop,
    /// what was computed outside must survive for the next iteration.
    fn steps(&mut self, graph: &Graph, scope: &mut Scope, born: u32) -> Result<Vec<Step>, EmitError> {
        let last_uses = last_uses(graph);
        let mut steps = Vec::new();
        for (at, node) in graph.order().iter().enumerate() {
            let data = graph.node(*node);
            match &data.op {
                Op::Weight { name } => {
                    let source = Source::Checkpoint(vec![name.clone()]);
                    self.bind_constant(graph, data, source, scope);
                }
                Op::Const(literal) => {
                    self.bind_constant(graph, data, Source::Literal(literal.clone()), scope)
                }
                Op::Concat { axis: 0 }
                    if data.inputs.iter().all(|v| checkpoint_names(scope, *v).is_some()) =>
                {
                    let names = data.inputs.iter().filter_map(|v| checkpoint_names(scope, *v)).flatten();
                    let source = Source::Checkpoint(names.cloned().collect());
                    self.bind_constant(graph, data, source, scope);
                }
                Op::MergeRows { .. } | Op::SplitRows { .. }
                    if last_uses.get(&data.inputs[0]) == Some(&at)
                        && let Binding::Value(id) = scope[&data.inputs[0]] =>
                {
                    // The same bytes in other dimensions; nobody looks at them in the old ones any more.
                    let (value, slot) = (data.outputs[0], self.slot_of(id));
                    let alias = self.add_value(graph.ty(value), slot, &data.origin.0.join(", "))?;
                    scope.insert(value, Binding::Value(alias));
                }
                Op::Denoise { steps: count, state, body } => {
                    let count = (*count as u32, *state as usize);
                    let results = self.denoise(count, body, data, graph, scope, &mut steps)?;
                    for (value, result) in data.outputs.iter().zip(results) {
                        scope.insert(*value, Binding::Value(result));
                    }
                }
                _ => {
                    let dying = |v: Value| last_uses.get(&v) == Some(&at);
                    let dispatch = self.dispatch(graph, data, scope, born, &dying)?;
                    steps.push(Step::Dispatch(dispatch));
                }
            }
        }
        Ok(steps)
    }

    fn bind_constant(&mut self, graph: &Graph, data: &NodeData, source: Source, scope: &mut Scope) {
        let value = data.outputs[0];
        scope.insert(value, Binding::Constant(source, graph.ty(value).clone()));
    }

    fn dispatch(
        &mut self,
        graph: &Graph,
        data: &NodeData,
        scope: &mut Scope,
        born: u32,
        dying: &dyn Fn(Value) -> bool,
    ) -> Result<Dispatch, EmitError> {
        let unsupported = |reason: String| EmitError::Unsupported {
            target: self.target.name(),
            op: data.op.name(),
            origin: data.origin.0.join(", "),
            reason,
        };
        let kernel = self.target.kernel(graph, data).map_err(unsupported)?;
        let mut reads = Vec::new();
        for (operand, value) in data.inputs.iter().enumerate() {
            let ty = graph.ty(*value);
            let layout = self.target.layout(data, operand, ty);
            let layout = layout.ok_or_else(|| unsupported(format!("it has no layout for weights {ty}")))?;
            reads.push(match &scope[value] {
                Binding::Value(id) if layout == Layout::RowMajor => *id,
                Binding::Value(_) => {
                    let reason = "its weights must come from the checkpoint, none may be computed";
                    return Err(unsupported(reason.to_owned()));
                }
                Binding::Constant(source, ty) => {
                    let (source, ty) = (source.clone(), ty.clone());
                    self.constant(&source, &ty, layout, data)?
                }
            });
        }
        reads.iter().for_each(|id| self.keep(*id, self.time));
        let reusable = |operand: &usize| {
            let (value, id) = (data.inputs[*operand], reads[*operand]);
            let alone = reads.iter().filter(|other| self.slot_of(**other) == self.slot_of(id)).count() == 1;
            let slot = self.slot_of(id).map(|slot| &self.slots[slot]);
            let free = slot.is_some_and(|s| s.first >= born && s.last <= self.time);
            let same_type = data.outputs.first().is_some_and(|out| graph.ty(*out) == graph.ty(value));
            dying(value) && alone && free && same_type
        };
        let reused = self.target.in_place(data).into_iter().find(reusable);
        let mut writes = Vec::new();
        for (result, value) in data.outputs.iter().enumerate() {
            let ty = graph.ty(*value);
            let id = match reused {
                Some(operand) if result == 0 => {
                    let slot = self.slot_of(reads[operand]);
                    self.add_value(ty, slot, &data.origin.0.join(", "))?
                }
                _ => self.new_value(ty, &data.origin.0.join(", "))?,
            };
            self.keep(id, self.time);
            scope.insert(*value, Binding::Value(id));
            writes.push(id);
        }
        self.time += 1;
        Ok(Dispatch { kernel, reads, writes, origin: data.origin.0.clone(), launches: vec![] })
    }

    /// Inlines the loop: state is copied in, the body works on it, the new state is copied over the old.
    fn denoise(
        &mut self,
        (count, states): (u32, usize),
        body: &str,
        data: &NodeData,
        graph: &Graph,
        scope: &Scope,
        steps: &mut Vec<Step>,
    ) -> Result<Vec<ValueId>, EmitError> {
        let inner = self.module.graph(body).ok_or_else(|| EmitError::NoEntry(body.to_owned()))?;
        let origin = data.origin.0.clone();
        let name = origin.join(", ");
        let copy = |reads, writes| {
            Step::Dispatch(Dispatch {
                kernel: Kernel::Copy,
                reads: vec![reads],
                writes: vec![writes],
                origin: origin.clone(),
                launches: vec![],
            })
        };
        let mut state = Vec::new();
        for value in &data.inputs[..states] {
            let initial = self.operand(scope, *value, &name)?;
            self.keep(initial, self.time);
            let kept = self.new_value(graph.ty(*value), &name)?;
            steps.push(copy(initial, kept));
            state.push(kept);
            self.time += 1;
        }
        let history = self.new_value(graph.ty(data.outputs[states]), &name)?;
        let index = self.new_value(&Type::scalar(DType::I32), &name)?;
        self.time += 1;

        let born = self.time;
        let mut bound: Vec<Binding> = [index].iter().chain(&state).map(|id| Binding::Value(*id)).collect();
        bound.extend(data.inputs[states..].iter().map(|v| scope[v].clone()));
        let mut inner_scope: Scope = inner.params.iter().map(|p| p.value).zip(bound).collect();
        let mut body = self.steps(inner, &mut inner_scope, born)?;
        // Results may depend on each other's old state: all are computed before any is copied.
        let mut copies = Vec::new();
        for (kept, result) in state.iter().zip(&inner.results) {
            let mut new = self.operand(&inner_scope, result.value, &name)?;
            self.keep(new, self.time);
            if self.slot_of(new) == self.slot_of(*kept) {
                continue;
            }
            if state.iter().any(|other| self.slot_of(*other) == self.slot_of(new)) {
                // States that trade places: the old one is put aside before any is written over.
                let aside = self.new_value(inner.ty(result.value), &name)?;
                body.push(copy(new, aside));
                new = aside;
            }
            copies.push(copy(new, *kept));
        }
        body.append(&mut copies);
        for id in inner_scope.values().chain(scope.values()).filter_map(Binding::value) {
            // What comes from outside of the body, state included, lives through every iteration.
            if self
                .slot_of(id)
                .is_some_and(|slot| self.slots[slot].first < born && self.slots[slot].last >= born)
            {
                self.keep(id, self.time);
            }
        }
        state.iter().chain([&history, &index]).for_each(|id| self.keep(*id, self.time));
        self.time += 1;
        steps.push(Step::Denoise(Denoise { steps: count, index, body, history: Some((state[0], history)) }));
        state.push(history);
        Ok(state)
    }

    /// The program's value for a result or a state, which must not be a constant.
    fn operand(&self, scope: &Scope, value: Value, origin: &str) -> Result<ValueId, EmitError> {
        scope[&value].value().ok_or_else(|| EmitError::Unsupported {
            target: self.target.name(),
            op: "return",
            origin: origin.to_owned(),
            reason: "a constant cannot be a result or the state of a loop".to_owned(),
        })
    }

    fn constant(
        &mut self,
        source: &Source,
        ty: &Type,
        layout: Layout,
        data: &NodeData,
    ) -> Result<ValueId, EmitError> {
        let too_large = || EmitError::TooLarge { origin: data.origin.0.join(", "), ty: ty.clone() };
        let index = self.constants.intern(source, ty, layout).ok_or_else(too_large)?;
        let place = Place::Weight(index);
        if let Some(known) = self.values.iter().position(|p| p.value.place == place && p.slot.is_none()) {
            return Ok(ValueId(known as u32));
        }
        let dims = self.dims(ty, &data.origin.0.join(", "))?;
        self.values.push(Placed { value: PlanValue { dtype: ty.dtype, dims, place }, slot: None });
        Ok(ValueId(self.values.len() as u32 - 1))
    }

    /// A value in a slot of its own.
    fn new_value(&mut self, ty: &Type, origin: &str) -> Result<ValueId, EmitError> {
        let max = |name: &str| self.module.symbols.get(name).copied();
        let elements = ty.elements().at(&max).filter(|n| *n <= ELEMENTS_MAX);
        let bytes = elements.and_then(|n| n.checked_mul(ty.dtype.bytes() as u64));
        let bytes = bytes.ok_or_else(|| EmitError::TooLarge { origin: origin.to_owned(), ty: ty.clone() });
        // An unknown symbol is the clearer complaint.
        self.dims(ty, origin)?;
        self.slots.push(Slot { bytes: bytes?, first: self.time, last: self.time });
        self.add_value(ty, Some(self.slots.len() - 1), origin)
    }

    fn add_value(&mut self, ty: &Type, slot: Option<usize>, origin: &str) -> Result<ValueId, EmitError> {
        let value = PlanValue { dtype: ty.dtype, dims: self.dims(ty, origin)?, place: Place::Arena(0) };
        self.values.push(Placed { value, slot });
        Ok(ValueId(self.values.len() as u32 - 1))
    }

    fn dims(&self, ty: &Type, origin: &str) -> Result<Vec<Dim>, EmitError> {
        let too_large = || EmitError::TooLarge { origin: origin.to_owned(), ty: ty.clone() };
        let mut dims = Vec::new();
        for dim in &ty.dims {
            let mut terms = Vec::new();
            for (coefficient, names) in dim.terms() {
                let index = |name: &String| {
                    let at = self.symbols.iter().position(|s| s.name == *name);
                    at.map(|i| i as u32).ok_or_else(|| EmitError::Unbounded(name.clone()))
                };
                let symbols = names.iter().map(index).collect::<Result<_, _>>()?;
                let coefficient = u32::try_from(coefficient).map_err(|_| too_large())?;
                terms.push(Term { coefficient, symbols });
            }
            dims.push(Dim { terms });
        }
        Ok(dims)
    }

    fn slot_of(&self, id: ValueId) -> Option<usize> {
        self.values[id.0 as usize].slot
    }

    /// The value is needed at `time`.
    fn keep(&mut self, id: ValueId, time: u32) {
        if let Some(slot) = self.slot_of(id) {
            self.slots[slot].last = self.slots[slot].last.max(time);
        }
    }
}

impl Binding {
    fn value(&self) -> Option<ValueId> {
        match self {
            Binding::Value(id) => Some(*id),
            Binding::Constant(..) => None,
        }
    }
}

/// Checkpoint tensors that a value consists of.
fn checkpoint_names(scope: &Scope, value: Value) -> Option<&Vec<String>> {
    match scope.get(&value) {
        Some(Binding::Constant(Source::Checkpoint(names), _)) => Some(names),
        Some(Binding::Constant(Source::Literal(_), _) | Binding::Value(_)) | None => None,
    }
}

/// Place in the order of the last node that uses each value; results are used after all of them.
fn last_uses(graph: &Graph) -> BTreeMap<Value, usize> {
    let mut last = BTreeMap::new();
    for (at, node) in graph.order().iter().enumerate() {
        for value in &graph.node(*node).inputs {
            last.insert(*value, at);
        }
    }
    for port in &graph.results {
        last.insert(port.value, usize::MAX);
    }
    last
}

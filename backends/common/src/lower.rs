//! Verified graph to program: loops inlined, kernels chosen, every value given a place.

use crate::constants::{Constants, Source};
use crate::job::{Job, Operand, User, Users};
use crate::kernel::is_matrix;
use crate::space::{COUNTERS, Space};
use dreamc_artifact::ARENA_BYTES_MAX;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Denoise, Dispatch, Kernel, Launch, Port, Program, Slots, Step, Symbol, ValueId};
use dreamc_ir::{Graph, Literal, Module, Node, NodeData, Op, SLOTS, Type, Value, Verified, Weight};
use dreamc_num::{DType, Quant};
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
        target: String,
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
    fn name(&self) -> &str;

    /// The kernel for a node that is neither constant nor a loop, or why there is none.
    fn kernel(&self, graph: &Graph, node: &NodeData) -> Result<Kernel, String>;

    /// Operands over which the kernel may write its result, best first.
    fn in_place(&self, node: &NodeData) -> Vec<usize>;

    /// The order in which the kernel wants constant operand `operand` of this type.
    fn layout(&self, node: &NodeData, operand: usize, ty: &Type) -> Option<Layout>;

    /// Whether the target takes a constant in few bits, as a matmul's weight or else, or why not.
    fn quantized(&self, _quant: Quant, _matrix: bool) -> Result<(), String> {
        Err("its kernels take no weights in few bits; build this target with --quant none".to_owned())
    }

    /// The element type in which values of `dtype` lie in the arena.
    fn stored(&self, dtype: DType) -> DType {
        dtype
    }

    /// The element type in which constant operand `operand` of this type is stored.
    fn stored_constant(&self, _node: &NodeData, _operand: usize, ty: &Type) -> DType {
        ty.dtype
    }

    /// What the device launches to compute a dispatch; nothing where the device knows the kernels itself. Why there is
    /// none otherwise.
    fn launches(&mut self, _job: &mut Job<'_, '_>) -> Result<Vec<Launch>, String> {
        Ok(Vec::new())
    }
}

/// The program of graph `entry`, named `name`. Constants are added to `constants`.
pub fn lower(
    verified: Verified<'_>,
    entry: &str,
    name: &str,
    target: &mut dyn Target,
    constants: &mut Constants,
) -> Result<Program, EmitError> {
    let module = verified.module();
    let graph = module.graph(entry).ok_or_else(|| EmitError::NoEntry(entry.to_owned()))?;
    let symbols = module
        .symbols
        .iter()
        .map(|(name, max)| Symbol { name: name.clone(), max: (*max).min(u64::from(u32::MAX)) as u32 });
    let space = Space::new(symbols.collect(), constants);
    let lowering = Lowering { module, target, space, inputs: Vec::new(), counts_slots: false };
    lowering.run(graph, name)
}

type Scope = BTreeMap<Value, Operand>;

struct Lowering<'a> {
    module: &'a Module,
    target: &'a mut dyn Target,
    space: Space<'a>,
    inputs: Vec<Port>,
    /// Whether a loop changes the number of open slots.
    counts_slots: bool,
}

impl Lowering<'_> {
    fn run(mut self, graph: &Graph, name: &str) -> Result<Program, EmitError> {
        let mut scope = Scope::new();
        for port in &graph.params {
            let value = self.space.new_value(&self.stored(graph.ty(port.value)), &port.name)?;
            scope.insert(port.value, Operand::Value(value));
            self.inputs.push(Port { name: port.name.clone(), value });
        }
        self.space.time = 1;
        let mut steps = self.steps(graph, &mut scope, 0)?;
        if let Some(counters) = self.space.counters {
            steps.insert(0, self.cleared(counters)?);
        }
        let mut outputs = Vec::new();
        for port in &graph.results {
            let value = self.operand(&scope, port.value, &port.name)?;
            self.space.keep(value, u32::MAX);
            outputs.push(Port { name: port.name.clone(), value });
        }
        let (inputs, (symbols, values, arena_bytes)) = (self.inputs, self.space.arranged(name)?);
        Ok(Program { name: name.to_owned(), symbols, values, inputs, outputs, steps, arena_bytes })
    }

    /// Lowers the nodes of a graph in order. `born` is the time from which values may be overwritten: inside a loop,
    /// what was computed outside must survive for the next iteration.
    fn steps(&mut self, graph: &Graph, scope: &mut Scope, born: u32) -> Result<Vec<Step>, EmitError> {
        let (last_uses, users) = (last_uses(graph), users(graph));
        // Constants are there from the beginning, for those too who look at what others will do.
        for data in graph.order().iter().map(|node| graph.node(*node)) {
            match &data.op {
                Op::Weight(weight) => {
                    let source = source_of(weight, graph.ty(data.outputs[0]));
                    self.bind_constant(graph, data, source, scope);
                }
                Op::Const(literal) => {
                    self.bind_constant(graph, data, Source::Literal(literal.clone()), scope);
                }
                _ => {}
            }
        }
        let mut steps = Vec::new();
        for (at, node) in graph.order().iter().enumerate() {
            let data = graph.node(*node);
            match &data.op {
                Op::Weight(_) | Op::Const(_) => {}
                Op::Concat { axis: 0 }
                    if data.inputs.iter().all(|v| checkpoint_names(scope, *v).is_some()) =>
                {
                    let names = data.inputs.iter().filter_map(|v| checkpoint_names(scope, *v)).flatten();
                    let source = Source::Checkpoint(names.cloned().collect());
                    self.bind_constant(graph, data, source, scope);
                }
                Op::MergeRows { .. } | Op::SplitRows { .. } | Op::Stack
                    if last_uses.get(&data.inputs[0]) == Some(&at)
                        && let Operand::Value(id) = scope[&data.inputs[0]] =>
                {
                    // The same bytes in other dimensions; nobody looks at them in the old ones any more.
                    let (value, slot) = (data.outputs[0], self.space.slot_of(id));
                    let alias = self.space.add_value(
                        &self.stored(graph.ty(value)),
                        slot,
                        &data.origin.0.join(", "),
                    )?;
                    scope.insert(value, Operand::Value(alias));
                }
                Op::Denoise { steps: count, state, body, .. } => {
                    let count = (*count as u32, *state as usize);
                    let results = self.denoise(count, body, data, graph, scope, &mut steps)?;
                    for (value, result) in data.outputs.iter().zip(results) {
                        scope.insert(*value, Operand::Value(result));
                    }
                }
                _ => {
                    let dying = |v: Value| last_uses.get(&v) == Some(&at);
                    let users = data.outputs.first().map(|value| self.users(graph, *value, &users, scope));
                    let users = users.unwrap_or_default();
                    let dispatch = self.dispatch(graph, data, scope, born, &dying, users)?;
                    steps.push(Step::Dispatch(dispatch));
                }
            }
        }
        Ok(steps)
    }

    /// Who uses a value, and what they read beside it.
    fn users<'g>(
        &self,
        graph: &'g Graph,
        value: Value,
        users: &BTreeMap<Value, Vec<(Node, usize)>>,
        scope: &Scope,
    ) -> Users<'g> {
        let user = |(node, operand): &(Node, usize)| {
            let (node, operand): (&NodeData, _) = (graph.node(*node), *operand);
            User { node, operand, reads: node.inputs.iter().map(|value| scope.get(value).cloned()).collect() }
        };
        let nodes = users.get(&value).into_iter().flatten().map(user).collect();
        Users { nodes, result: graph.results.iter().any(|port| port.value == value) }
    }

    fn bind_constant(&mut self, graph: &Graph, data: &NodeData, source: Source, scope: &mut Scope) {
        let value = data.outputs[0];
        scope.insert(value, Operand::Constant(source, graph.ty(value).clone()));
    }

    fn dispatch(
        &mut self,
        graph: &Graph,
        data: &NodeData,
        scope: &mut Scope,
        born: u32,
        dying: &dyn Fn(Value) -> bool,
        users: Users<'_>,
    ) -> Result<Dispatch, EmitError> {
        let unsupported = |reason: String| EmitError::Unsupported {
            target: self.target.name().to_owned(),
            op: data.op.name(),
            origin: data.origin.0.join(", "),
            reason,
        };
        let kernel = self.target.kernel(graph, data).map_err(&unsupported)?;
        let origin = data.origin.0.join(", ");
        let mut reads = Vec::new();
        for (operand, value) in data.inputs.iter().enumerate() {
            let ty = graph.ty(*value);
            let layout = match &scope[value] {
                Operand::Constant(Source::Quantized { quant, .. }, _) => {
                    let matrix = is_matrix(&data.op, operand);
                    self.target.quantized(*quant, matrix).map_err(&unsupported)?;
                    Layout::Quantized(*quant)
                }
                Operand::Constant(..) | Operand::Value(_) => {
                    let layout = self.target.layout(data, operand, ty);
                    layout.ok_or_else(|| unsupported(format!("it has no layout for weights {ty}")))?
                }
            };
            reads.push(match &scope[value] {
                Operand::Value(id) if !is_matrix(&data.op, operand) => *id,
                Operand::Value(_) => {
                    let reason = "its weights must come from the checkpoint, none may be computed";
                    return Err(unsupported(reason.to_owned()));
                }
                Operand::Constant(source, ty) => {
                    let dtype = self.target.stored_constant(data, operand, ty);
                    let (source, dims) = match &data.op {
                        Op::Linear(linear) if is_matrix(&data.op, operand) => {
                            rows_of(source, ty, linear.rows).map_err(&unsupported)?
                        }
                        _ => (source.clone(), ty.dims.clone()),
                    };
                    self.space.constant(&source, &Type { dtype, dims }, layout, &origin)?
                }
            });
        }
        let time = self.space.time;
        reads.iter().for_each(|id| self.space.keep(*id, time));
        let spare: Vec<bool> =
            (0..reads.len()).map(|i| self.is_spare(i, data, &reads, born, dying)).collect();
        let same_type = |operand: &usize| {
            data.outputs.first().is_some_and(|out| graph.ty(*out) == graph.ty(data.inputs[*operand]))
        };
        let mut places = self.target.in_place(data).into_iter();
        let reused = places.find(|operand| spare[*operand] && same_type(operand));
        let mut writes = Vec::new();
        for (result, value) in data.outputs.iter().enumerate() {
            let ty = self.stored(graph.ty(*value));
            let id = match reused {
                Some(operand) if result == 0 => {
                    let slot = self.space.slot_of(reads[operand]);
                    self.space.add_value(&ty, slot, &origin)?
                }
                _ => self.space.new_value(&ty, &origin)?,
            };
            self.space.keep(id, time);
            scope.insert(*value, Operand::Value(id));
            writes.push(id);
        }
        self.finish(kernel, reads, writes, (&spare, born), (data.op.name(), &data.origin.0), users)
    }

    /// Whether nobody needs an operand after this node. `born` and `dying`: see [`Lowering::steps`].
    fn is_spare(
        &self,
        operand: usize,
        data: &NodeData,
        reads: &[ValueId],
        born: u32,
        dying: &dyn Fn(Value) -> bool,
    ) -> bool {
        let slot_of = |id: &ValueId| self.space.slot_of(*id);
        let Some(index) = slot_of(&reads[operand]) else { return false };
        let alone = reads.iter().filter(|other| slot_of(other) == Some(index)).count() == 1;
        let slot = self.space.slot(index);
        dying(data.inputs[operand]) && alone && slot.first >= born && slot.last <= self.space.time
    }

    /// A dispatch with its launches, named by its op and its origin; time goes on.
    fn finish(
        &mut self,
        kernel: Kernel,
        reads: Vec<ValueId>,
        writes: Vec<ValueId>,
        (spare, born): (&[bool], u32),
        (op, origin): (&'static str, &[String]),
        users: Users<'_>,
    ) -> Result<Dispatch, EmitError> {
        let space = &mut self.space;
        let mut job = Job { space, kernel: &kernel, reads: &reads, writes: &writes, spare, users, born };
        let launches = self.target.launches(&mut job).map_err(|reason| EmitError::Unsupported {
            target: self.target.name().to_owned(),
            op,
            origin: origin.join(", "),
            reason,
        })?;
        self.space.time += 1;
        Ok(Dispatch { kernel, reads, writes, origin: origin.to_vec(), launches })
    }

    /// The type as the target stores it.
    fn stored(&self, ty: &Type) -> Type {
        Type { dtype: self.target.stored(ty.dtype), ..ty.clone() }
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
        let name = data.origin.0.join(", ");
        let mut state = Vec::new();
        for value in &data.inputs[..states] {
            let initial = self.operand(scope, *value, &name)?;
            self.space.keep(initial, self.space.time);
            let kept = self.space.new_value(&self.stored(graph.ty(*value)), &name)?;
            steps.push(self.copy(initial, kept, data)?);
            state.push(kept);
        }
        let history = self.space.new_value(&self.stored(graph.ty(data.outputs[states])), &name)?;
        let index = self.space.new_value(&Type::scalar(DType::I32), &name)?;
        self.space.time += 1;

        let born = self.space.time;
        let mut bound: Vec<Operand> = [index].iter().chain(&state).map(|id| Operand::Value(*id)).collect();
        bound.extend(data.inputs[states..].iter().map(|v| scope[v].clone()));
        let mut inner_scope: Scope = inner.params.iter().map(|p| p.value).zip(bound).collect();
        let mut body = self.steps(inner, &mut inner_scope, born)?;
        // Results may depend on each other's old state: all are computed before any is copied.
        let mut copies = Vec::new();
        for (kept, result) in state.iter().zip(&inner.results) {
            let mut new = self.operand(&inner_scope, result.value, &name)?;
            self.space.keep(new, self.space.time);
            if self.space.slot_of(new) == self.space.slot_of(*kept) {
                continue;
            }
            if state.iter().any(|other| self.space.slot_of(*other) == self.space.slot_of(new)) {
                // States that trade places: the old one is put aside before any is written over.
                let aside = self.space.new_value(&self.stored(inner.ty(result.value)), &name)?;
                body.push(self.copy(new, aside, data)?);
                new = aside;
            }
            copies.push((new, *kept));
        }
        for (new, kept) in copies {
            self.space.keep(new, self.space.time);
            body.push(self.copy(new, kept, data)?);
        }
        for id in inner_scope.values().chain(scope.values()).filter_map(Operand::value) {
            // What comes from outside of the body, state included, lives through every iteration.
            let slot = self.space.slot_of(id).map(|slot| self.space.slot(slot));
            if slot.is_some_and(|slot| slot.first < born && slot.last >= born) {
                self.space.keep(id, self.space.time);
            }
        }
        state.iter().chain([&history, &index]).for_each(|id| self.space.keep(*id, self.space.time));
        self.space.time += 1;
        let slots = self.slots(&data.op, inner, &inner_scope);
        self.counts_slots |= slots.is_some();
        let history_of = Some((state[0], history));
        steps.push(Step::Denoise(Denoise { steps: count, index, body, history: history_of, slots }));
        state.push(history);
        Ok(state)
    }

    /// What the runtime has to know to count the slots of a loop; nothing where it cannot look at what they depend on.
    fn slots(&self, op: &Op, body: &Graph, scope: &Scope) -> Option<Slots> {
        let Op::Denoise { slots: Some(schedule), .. } = op else { return None };
        let symbol = self.space.symbol(SLOTS).filter(|_| !self.counts_slots)?;
        let mut nodes = body.order().iter().map(|node| body.node(*node));
        let input = |value: &Value| {
            let id = scope.get(value)?.value()?;
            self.inputs.iter().any(|port| port.value == id).then_some(id)
        };
        let select = nodes.clone().find(|data| data.op == Op::SelectSlots)?;
        let draw = nodes.find(|data| matches!(data.op, Op::DrawToken { .. }))?;
        let [temperature, alg_temp, joint] =
            [draw.inputs.get(2)?, select.inputs.get(3)?, select.inputs.get(5)?];
        let idle = input(temperature).zip(input(alg_temp)).filter(|_| schedule.drop_idle);
        let token = u32::try_from(schedule.token).ok()?;
        Some(Slots { symbol, token, eps: schedule.eps, joint: input(joint)?, idle })
    }

    /// Zeros in the program's counters, as a step.
    fn cleared(&mut self, counters: ValueId) -> Result<Step, EmitError> {
        let zeros = Source::Literal(Literal::Ints(vec![0; COUNTERS as usize]));
        let ty = Type::new(DType::I32, vec![u64::from(COUNTERS).into()]);
        let zeros = self.space.constant(&zeros, &ty, Layout::RowMajor, "constants")?;
        let named: (_, &[String]) = ("copy", &["counters".to_owned()]);
        self.finish(Kernel::Copy, vec![zeros], vec![counters], (&[false], 0), named, Users::default())
            .map(Step::Dispatch)
    }

    /// The program's value for a result or a state, which must not be a constant.
    fn operand(&self, scope: &Scope, value: Value, origin: &str) -> Result<ValueId, EmitError> {
        scope[&value].value().ok_or_else(|| EmitError::Unsupported {
            target: self.target.name().to_owned(),
            op: "return",
            origin: origin.to_owned(),
            reason: "a constant cannot be a result or the state of a loop".to_owned(),
        })
    }

    /// A copy as a step.
    fn copy(&mut self, from: ValueId, to: ValueId, data: &NodeData) -> Result<Step, EmitError> {
        let time = self.space.time;
        self.space.keep(from, time);
        self.space.keep(to, time);
        let named = (data.op.name(), data.origin.0.as_slice());
        self.finish(Kernel::Copy, vec![from], vec![to], (&[false], 0), named, Users::default())
            .map(Step::Dispatch)
    }
}

/// Checkpoint tensors that a value consists of.
fn checkpoint_names(scope: &Scope, value: Value) -> Option<&Vec<String>> {
    match scope.get(&value) {
        Some(Operand::Constant(Source::Checkpoint(names), _)) => Some(names),
        Some(
            Operand::Constant(Source::Rows { .. } | Source::Quantized { .. } | Source::Literal(_), _)
            | Operand::Value(_),
        )
        | None => None,
    }
}

/// A matrix of weights, or the rows of it that are multiplied, and the dimensions of those.
fn rows_of(
    source: &Source,
    ty: &Type,
    rows: Option<(u64, u64)>,
) -> Result<(Source, Vec<dreamc_ir::Dim>), String> {
    let Some((first, len)) = rows else { return Ok((source.clone(), ty.dims.clone())) };
    match (source, ty.dims.as_slice()) {
        (Source::Checkpoint(names), [of, k]) if names.len() == 1 => {
            let of = of.as_constant().ok_or("its weights have no constant size")?;
            let source = Source::Rows { name: names[0].clone(), first, of };
            Ok((source, vec![len.into(), k.clone()]))
        }
        (whole @ Source::Quantized { first: 0, .. }, [_, k]) => {
            let mut source = whole.clone();
            if let Source::Quantized { first: begin, .. } = &mut source {
                *begin = first;
            }
            Ok((source, vec![len.into(), k.clone()]))
        }
        _ => {
            Err("its weight must be one tensor of the checkpoint, of which it multiplies some rows"
                .to_owned())
        }
    }
}

/// Where the elements of a weight come from.
fn source_of(weight: &Weight, ty: &Type) -> Source {
    let name = weight.name.clone();
    match weight.quant {
        None => Source::Checkpoint(vec![name]),
        Some(quant) => {
            let of = ty.dims.first().and_then(dreamc_ir::Dim::as_constant).unwrap_or(0);
            let Weight { columns, importance, feedback, .. } = weight.clone();
            Source::Quantized { name, first: 0, of, columns, quant, importance, feedback }
        }
    }
}

/// The nodes that use each value, in order, and as which operand.
fn users(graph: &Graph) -> BTreeMap<Value, Vec<(Node, usize)>> {
    let mut users: BTreeMap<Value, Vec<_>> = BTreeMap::new();
    for node in graph.order() {
        for (operand, value) in graph.node(*node).inputs.iter().enumerate() {
            users.entry(*value).or_default().push((*node, operand));
        }
    }
    users
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

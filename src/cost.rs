//! Cost model: arithmetic and memory traffic of a graph, from its shapes alone, at the maxima of its symbols or at lengths that are
//! given.
//!
//! - FLOP: a matmul of `[M, K]` and `[N, K]` is `2 * M * N * K`; attention is `4 * S * S * heads * head_dim` for each
//!   row of the batch, `4 * R * S` where only `R` rows have queries; the patches of several images see those of their own,
//!   and images count as equally large ([`Lengths::images`]); elementwise ops, norms, rotations and softmaxes count each arithmetic operation they are
//!   written with, a transcendental function as one. Integer work counts nothing. Fused ops cost what their parts cost.
//! - Bytes: every operand and every result once, as if each op met empty caches. A table or a slice counts with the
//!   elements that are read, a weight in few bits as it is stored.
//! - A loop costs its body as often as it runs. Where it knows its slots, each step costs what the slots cost that the
//!   schedule leaves open, and a step that fills none costs nothing if it may be left out.
//!
//! Sums stop at the largest `u64`.

mod dispatch;
mod reference;

pub use dispatch::dispatch;
pub use reference::reference;

use dreamc_artifact::STEPS_MAX;
use dreamc_artifact::layout::Layout;
use dreamc_frontend::PATCH_SEGMENTS;
use dreamc_ir::{
    Activation, Confidence, Dim, Graph, Linear, Module, NodeData, Op, SLOTS, SlotSchedule, Type, Value,
    Verified,
};
use dreamc_num::Quant;
use dreamc_num::schedule::transfer_count;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::rc::Rc;

/// Arithmetic and memory traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Floating-point operations.
    pub flop: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

impl Cost {
    fn times(self, n: u64) -> Cost {
        Cost { flop: self.flop.saturating_mul(n), bytes: self.bytes.saturating_mul(n) }
    }

    fn less(self, other: Cost) -> Cost {
        Cost { flop: self.flop.saturating_sub(other.flop), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.flop = self.flop.saturating_add(other.flop);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// All nodes of one op.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpCost {
    /// Name of the op in IR text.
    pub op: String,
    /// How often it runs, iterations of loops included.
    pub runs: u64,
    /// Of all of them together.
    #[serde(flatten)]
    pub cost: Cost,
}

/// One graph: an entry, or the body of a loop, which is one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GraphCost {
    /// Name of the graph.
    pub graph: String,
    /// The most expensive op first; ops without any cost are left out.
    pub ops: Vec<OpCost>,
    /// Sum over all ops.
    pub total: Cost,
}

/// A symbol has no bound, so shapes have no maxima.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("graph `@{graph}` has a dimension `{dim}` without a bound")]
#[diagnostic(code(cost::unbounded), help("give each symbol a bound: `symbol S <= 2048`"))]
pub struct Unbounded {
    /// Name of the graph.
    pub graph: String,
    /// The dimension.
    pub dim: String,
}

/// A request's lengths, where costs are not counted at the maxima.
#[derive(Clone, Copy, Debug)]
pub struct Lengths<'a> {
    /// Values of symbols; larger ones than the maxima are those.
    pub symbols: &'a [(&'a str, u64)],
    /// Images of one size that share all patches.
    pub images: u64,
}

/// The maxima, and one image: what it costs at most.
impl Default for Lengths<'_> {
    fn default() -> Self {
        Lengths { symbols: &[], images: 1 }
    }
}

/// The cost of every graph of a module, in the module's order.
///
/// ```
/// use dreamc::cost::{self, Lengths};
///
/// let text = "symbol L <= 4\n\ngraph @f(%0: f32[L, 8], %1: f32[L, 8]) {\n  %2 = add %0, %1 : f32[L, 8]\n  return %2\n}\n";
/// let module = dreamc_ir::parse(text).unwrap();
/// let costs = cost::of(dreamc_ir::verify(&module).unwrap(), Lengths::default()).unwrap();
/// assert_eq!((costs[0].total.flop, costs[0].total.bytes), (32, 3 * 32 * 4));
/// ```
///
/// # Errors
///
/// Where a symbol without a bound occurs in a shape.
pub fn of(module: Verified<'_>, lengths: Lengths<'_>) -> Result<Vec<GraphCost>, Unbounded> {
    let module = module.module();
    let (symbols, images) = (symbols(module, lengths), lengths.images);
    module.graphs.iter().map(|graph| Counter::new(module, graph, &symbols, images).count()).collect()
}

/// The symbols' maxima, and those of `lengths` that are smaller.
fn symbols(module: &Module, lengths: Lengths<'_>) -> BTreeMap<String, u64> {
    let mut symbols = module.symbols.clone();
    for (name, n) in lengths.symbols {
        symbols.entry((*name).to_owned()).and_modify(|max| *max = (*max).min(*n));
    }
    symbols
}

/// Size and cost of a module as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Whole {
    /// Nodes of all graphs, those of a loop's body once.
    pub nodes: u64,
    /// One run of every entry, with its loops.
    #[serde(flatten)]
    pub cost: Cost,
}

/// One run of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryCost {
    /// Name of the entry.
    pub entry: String,
    /// Steps of its loop, or 1.
    pub steps: u64,
    /// Passes through the model: the steps that are run.
    pub passes: u64,
    /// One pass as compiled: the first step of the loop, or all of an entry without one.
    pub step: Cost,
    /// All of it as compiled, with what is computed once.
    pub compiled: Cost,
}

/// The entries of a module, which are the graphs that no loop runs, in the module's order.
///
/// # Errors
///
/// Where a symbol without a bound occurs in a shape.
pub fn entries(module: Verified<'_>, lengths: Lengths<'_>) -> Result<Vec<EntryCost>, Unbounded> {
    let module = module.module();
    let (symbols, images) = (symbols(module, lengths), lengths.images);
    let counter = |graph| Counter::new(module, graph, &symbols, images);
    let mut list = Vec::new();
    for graph in module.graphs.iter().filter(|g| !is_body(module, &g.name)) {
        let compiled = counter(graph).count()?.total;
        let (mut all, mut passes, mut step) = (1, 1, compiled);
        for node in graph.order() {
            if let Op::Denoise { steps, body, slots, .. } = &graph.node(*node).op
                && let Some(body) = module.graph(body)
            {
                let counter = counter(body);
                all = *steps;
                passes = counter.slots(*steps, slots.as_ref()).values().sum();
                step = counter.count()?.total;
            }
        }
        list.push(EntryCost { entry: graph.name.clone(), steps: all, passes, step, compiled });
    }
    Ok(list)
}

/// The cost of each node of a graph of the module, in its order; nothing for loops, and where a symbol has no bound.
pub fn nodes(module: Verified<'_>, graph: &Graph) -> Vec<Cost> {
    let module = module.module();
    let counter = Counter::new(module, graph, &module.symbols, 1);
    graph.order().iter().map(|n| counter.node(graph.node(*n)).unwrap_or_default()).collect()
}

/// Whether a loop runs this graph.
fn is_body(module: &Module, name: &str) -> bool {
    let mut ops = module.graphs.iter().flat_map(|g| g.order().iter().map(|n| &g.node(*n).op));
    ops.any(|op| matches!(op, Op::Denoise { body, .. } if body == name))
}

/// What a module that verifies comes to; an entry with a dimension without a bound counts as nothing.
pub(crate) fn whole(module: &Module, lengths: Lengths<'_>) -> Whole {
    let symbols = symbols(module, lengths);
    let mut whole = Whole::default();
    for graph in &module.graphs {
        whole.nodes += graph.order().len() as u64;
        if !is_body(module, &graph.name)
            && let Ok(counted) = Counter::new(module, graph, &symbols, lengths.images).count()
        {
            whole.cost += counted.total;
        }
    }
    whole
}

type Tally = BTreeMap<&'static str, (u64, Cost)>;

/// Adds a node that runs this often.
fn add(tally: &mut Tally, data: &NodeData, times: u64, each: Cost) {
    let entry = tally.entry(data.op.name()).or_default();
    entry.0 = entry.0.saturating_add(times);
    entry.1 += each.times(times);
}

/// Whether the number of open slots is in a shape of the node.
fn of_slots(graph: &Graph, data: &NodeData) -> bool {
    let mut values = data.inputs.iter().chain(&data.outputs);
    values.any(|value| graph.ty(*value).dims.iter().any(|dim| dim.has(SLOTS)))
}

#[derive(Clone)]
struct Counter<'a> {
    module: &'a Module,
    graph: &'a Graph,
    symbols: &'a BTreeMap<String, u64>,
    /// See [`Lengths::images`].
    images: u64,
    /// Weights of the graph in few bits.
    few_bits: Rc<BTreeMap<Value, Quant>>,
}

impl<'a> Counter<'a> {
    fn new(
        module: &'a Module,
        graph: &'a Graph,
        symbols: &'a BTreeMap<String, u64>,
        images: u64,
    ) -> Counter<'a> {
        let weight = |data: &NodeData| match (&data.op, data.outputs.as_slice()) {
            (Op::Weight(weight), [value]) => Some((*value, weight.quant?)),
            _ => None,
        };
        let few_bits = graph.order().iter().filter_map(|node| weight(graph.node(*node))).collect();
        Counter { module, graph, symbols, images, few_bits: Rc::new(few_bits) }
    }

    fn count(&self) -> Result<GraphCost, Unbounded> {
        let mut ops: Vec<OpCost> = self
            .tally()?
            .into_iter()
            .filter(|(_, (_, cost))| *cost != Cost::default())
            .map(|(op, (runs, cost))| OpCost { op: op.to_owned(), runs, cost })
            .collect();
        // Stable: ops of equal cost stay in the order of their names.
        ops.sort_by_key(|op| std::cmp::Reverse((op.cost.flop, op.cost.bytes)));
        let mut total = Cost::default();
        for op in &ops {
            total += op.cost;
        }
        Ok(GraphCost { graph: self.graph.name.clone(), ops, total })
    }

    fn tally(&self) -> Result<Tally, Unbounded> {
        let mut tally = Tally::new();
        for node in self.graph.order() {
            let data = self.graph.node(*node);
            if let Op::Denoise { steps, body, slots, .. } = &data.op {
                // A verified loop names a graph that holds no loop itself.
                let Some(graph) = self.module.graph(body) else { continue };
                let numbers = self.slots(*steps, slots.as_ref());
                let body = Counter::new(self.module, graph, self.symbols, self.images);
                for node in graph.order() {
                    let data = graph.node(*node);
                    if !of_slots(graph, data) {
                        let times = numbers.values().sum();
                        add(&mut tally, data, times, body.node(data)?);
                        continue;
                    }
                    for (open, times) in &numbers {
                        let mut symbols = self.symbols.clone();
                        symbols.extend(open.map(|open| (SLOTS.to_owned(), open)));
                        let body = Counter { symbols: &symbols, ..body.clone() };
                        add(&mut tally, data, *times, body.node(data)?);
                    }
                }
            } else {
                add(&mut tally, data, 1, self.node(data)?);
            }
        }
        Ok(tally)
    }

    /// Numbers of open slots, and how many steps have each; nothing instead of a number where it stays.
    fn slots(&self, steps: u64, slots: Option<&SlotSchedule>) -> BTreeMap<Option<u64>, u64> {
        let first = self.symbols.get(SLOTS).and_then(|n| u32::try_from(*n).ok());
        let (Some(schedule), Some(mut left), Ok(count)) = (slots, first, u32::try_from(steps)) else {
            return BTreeMap::from([(None, steps)]);
        };
        // No artifact has more; IR text may say anything.
        if count > STEPS_MAX {
            return BTreeMap::from([(None, steps)]);
        }
        let mut found = BTreeMap::new();
        for step in 0..count {
            let filled = transfer_count(left, step, count, schedule.eps).min(left);
            if filled > 0 || !schedule.drop_idle {
                *found.entry(Some(u64::from(left.max(1)))).or_insert(0) += 1;
            }
            left -= filled;
        }
        found
    }

    /// Whether a mask tells the images of patches apart.
    fn is_patches(&self, mask: Value) -> bool {
        self.graph.params.iter().any(|port| port.value == mask && port.name == PATCH_SEGMENTS)
    }

    fn at_max(&self, dim: &Dim) -> Result<u64, Unbounded> {
        let symbols = self.symbols;
        let unbounded = || Unbounded { graph: self.graph.name.clone(), dim: dim.to_string() };
        let known = dim.terms().all(|(_, names)| names.iter().all(|n| symbols.contains_key(n)));
        if !known {
            return Err(unbounded());
        }
        Ok(dim.at(&|name| symbols.get(name).copied()).unwrap_or(u64::MAX))
    }

    fn elements(&self, ty: &Type) -> Result<u64, Unbounded> {
        ty.dims.iter().try_fold(1_u64, |n, dim| Ok(n.saturating_mul(self.at_max(dim)?)))
    }

    fn bytes(&self, value: Value) -> Result<u64, Unbounded> {
        let ty = self.graph.ty(value);
        if let (Some(quant), [rows, _]) = (self.few_bits.get(&value), ty.dims.as_slice()) {
            return Ok(stored(*quant, self.at_max(rows)?, ty));
        }
        Ok(self.elements(ty)?.saturating_mul(ty.dtype.bytes() as u64))
    }

    fn node(&self, data: &NodeData) -> Result<Cost, Unbounded> {
        Ok(Cost { flop: self.flop(data)?, bytes: self.traffic(data)? })
    }

    /// Bytes of operands and results.
    fn traffic(&self, data: &NodeData) -> Result<u64, Unbounded> {
        let sum = |values: &[Value]| {
            values.iter().try_fold(0_u64, |n, value| Ok(n.saturating_add(self.bytes(*value)?)))
        };
        let results = sum(&data.outputs)?;
        match (&data.op, data.inputs.as_slice(), data.outputs.as_slice()) {
            // They lie in memory already; their users count them.
            (Op::Weight(_) | Op::Const(_), _, _) => Ok(0),
            (Op::Embed, [ids, table], [rows]) => {
                let read = self
                    .elements(self.graph.ty(*rows))?
                    .saturating_mul(self.graph.ty(*table).dtype.bytes() as u64);
                Ok(self.bytes(*ids)?.saturating_add(read).saturating_add(results))
            }
            (Op::Slice { .. } | Op::DropRows { .. } | Op::TakeRows | Op::TakeSlots, _, _) => {
                Ok(results.saturating_mul(2))
            }
            // The rest of the weight is not stored.
            (Op::Linear(linear @ Linear { rows: Some((_, len)), .. }), inputs, _) => {
                let weight = linear.weight_operands().start;
                let others = inputs.iter().enumerate().filter(|(i, _)| *i != weight).map(|(_, v)| *v);
                let read = inputs.get(weight).map_or(0, |value| {
                    let ty = self.graph.ty(*value);
                    match self.few_bits.get(value) {
                        Some(quant) => stored(*quant, *len, ty),
                        None => (ty.columns().unwrap_or(0) * ty.dtype.bytes() as u64).saturating_mul(*len),
                    }
                });
                Ok(sum(&others.collect::<Vec<_>>())?.saturating_add(read).saturating_add(results))
            }
            // The same bytes in other dimensions.
            (Op::MergeRows { .. } | Op::SplitRows { .. }, _, _) => Ok(0),
            _ => Ok(sum(&data.inputs)?.saturating_add(results)),
        }
    }

    fn flop(&self, data: &NodeData) -> Result<u64, Unbounded> {
        let of = |value: Option<&Value>| value.map_or(Ok(0), |v| self.elements(self.graph.ty(*v)));
        let first_input = || of(data.inputs.first());
        let result = || of(data.outputs.first());
        let each = |elements: u64, n: u64| Ok(elements.saturating_mul(n));
        match &data.op {
            Op::Linear(linear) => {
                let x = first_input()?;
                let out = result()?;
                let gain = u64::from(linear.norm_eps.is_some());
                // `x` has M * K elements and the weights have N * K: their products over K are the multiplications.
                let weights = data.inputs.get(linear.weight_operands()).unwrap_or_default();
                let rows = weights.iter().try_fold(0_u64, |n, weight| {
                    let rows = self.graph.ty(*weight).dims.first();
                    Ok(n.saturating_add(rows.map_or(Ok(0), |d| self.at_max(d))?))
                })?;
                let rows = linear.rows.map_or(rows, |(_, len)| len);
                let epilogue = u64::from(linear.bias) + u64::from(linear.residual);
                let epilogue = epilogue + if linear.swiglu { SWIGLU } else { 0 };
                let epilogue = epilogue + linear.activation.map_or(0, activation);
                let product = x.saturating_mul(rows).saturating_mul(2);
                let norm = x.saturating_mul(gain * RMS_NORM);
                Ok(product.saturating_add(norm).saturating_add(out.saturating_mul(epilogue)))
            }
            Op::Attention(attention) => {
                let Some(out) = data.outputs.first() else { return Ok(0) };
                let ty = self.graph.ty(*out);
                // The keys: packed with the queries, or the second operand.
                let keys = data.inputs.get(usize::from(!attention.packed)).map(|v| self.graph.ty(*v));
                let length = keys.and_then(|ty| ty.dims.get(1)).map_or(Ok(0), |d| self.at_max(d))?;
                let batch = ty.dims.first().map_or(Ok(0), |d| self.at_max(d))?;
                // The result has an element for each of B * R * heads * head_dim.
                let queries = self.elements(ty)?;
                let mask = data.inputs.get(if attention.packed { 1 } else { 3 });
                let seen = if mask.is_some_and(|mask| self.is_patches(*mask)) {
                    length.div_ceil(self.images.max(1))
                } else {
                    length
                };
                let scores = queries.saturating_mul(seen).saturating_mul(4);
                let key_columns = attention.kv_heads.saturating_mul(attention.head_dim);
                let keys = batch.saturating_mul(length).saturating_mul(key_columns);
                let rotated =
                    if attention.rope { queries.saturating_add(keys).saturating_mul(ROPE) } else { 0 };
                Ok(scores.saturating_add(rotated))
            }
            Op::RmsNorm { .. } => each(first_input()?, RMS_NORM),
            // Mean, difference, square, sum, product, gain, bias.
            Op::LayerNorm { .. } => each(first_input()?, 7),
            Op::Rope { .. } => each(first_input()?, ROPE),
            // The angle, its cosine and its sine.
            Op::RopeTable(_) => each(result()?, 3),
            Op::Add | Op::Mul => result(),
            Op::Activate(kind) => each(result()?, activation(*kind)),
            // The angle, its sine or cosine.
            Op::TimestepEmbed { .. } => each(result()?, 2),
            Op::EulerStep { .. } => each(result()?, 2),
            // Three products, a difference, a quotient, a sum; the square roots are of the step.
            Op::DdimStep { .. } => each(result()?, 6),
            Op::SwiGlu => each(result()?, SWIGLU),
            // Division by the temperature, maximum, difference, exponential, sum, quotient.
            Op::SamplingProbs => each(result()?, 6),
            // A comparison.
            Op::DrawToken { .. } => first_input(),
            Op::Confidence(Confidence::Probability) => Ok(0),
            Op::Confidence(Confidence::Margin) => each(first_input()?, 2),
            // Sum, logarithm, product, sum.
            Op::Confidence(Confidence::NegativeEntropy) => each(first_input()?, 4),
            // One column.
            Op::EosPenalty { .. } => {
                let columns = data.outputs.first().and_then(|v| self.graph.ty(*v).columns());
                Ok(result()? / columns.unwrap_or(1).max(1))
            }
            Op::Weight(_)
            | Op::Const(_)
            | Op::Embed
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::MergeRows { .. }
            | Op::SplitRows { .. }
            | Op::DropRows { .. }
            | Op::TakeRows
            | Op::Splice
            | Op::Stack
            | Op::KeepTokens { .. }
            | Op::ShiftRows
            | Op::IsToken { .. }
            | Op::RandomBits { .. }
            | Op::TransferCount { .. }
            | Op::SelectSlots
            | Op::OriginSlots { .. }
            | Op::Commit
            | Op::AdvanceStream
            | Op::OpenSlots { .. }
            | Op::ReadRows { .. }
            | Op::SlotBits { .. }
            | Op::TakeSlots
            | Op::CommitSlots
            | Op::Denoise { .. } => Ok(0),
        }
    }
}

/// Bytes of some rows of a matrix in few bits, with scales and filling.
fn stored(quant: Quant, rows: u64, ty: &Type) -> u64 {
    let bytes = ty.columns().and_then(|k| Layout::Quantized(quant).stored_bytes(ty.dtype, &[rows, k]));
    bytes.unwrap_or(u64::MAX)
}

/// For each element.
const fn activation(kind: Activation) -> u64 {
    match kind {
        // Negation or scale, exponential, sum, quotient; or error function, sum, two products.
        Activation::Silu | Activation::Gelu => 4,
        Activation::QuickGelu => 5,
        Activation::Relu => 1,
    }
}

/// For each element: square, sum, two products.
const RMS_NORM: u64 = 4;
/// For each element: two products and a sum.
const ROPE: u64 = 3;
/// For each element of the result: silu and a product.
const SWIGLU: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_frontend::Size;
    use dreamc_frontend::module::{Architecture, Options, module};
    use dreamc_frontend::sampler::{Alg, Sampler};
    use dreamc_num::DType;

    fn costs(text: &str) -> Vec<GraphCost> {
        let module = dreamc_ir::parse(text).unwrap();
        of(dreamc_ir::verify(&module).unwrap(), Lengths::default()).unwrap()
    }

    #[test]
    fn linear_and_attention() {
        let text = "symbol B <= 2\nsymbol S <= 5\n
            graph @f(%0: f32[B, S, 8], %1: i32[B, S]) {
              %2 = weight {name=\"w\"} : f32[24, 8]
              %3 = linear %0, %2 : f32[B, S, 24]
              %4 = slice %3 {start=0, len=8} : f32[B, S, 8]
              %5 = attention %4, %4, %4, %1 {heads=2, kv_heads=2, head_dim=4} : f32[B, S, 8]
              return %5
            }";
        let cost = costs(text).remove(0);
        let of = |name: &str| cost.ops.iter().find(|o| o.op == name).unwrap().cost;
        assert_eq!(of("linear"), Cost { flop: 2 * 10 * 24 * 8, bytes: 4 * (10 * 8 + 24 * 8 + 10 * 24) });
        assert_eq!(of("slice"), Cost { flop: 0, bytes: 2 * 4 * 10 * 8 });
        assert_eq!(of("attention").flop, 2 * 4 * 5 * 5 * 2 * 4);
        assert!(cost.ops.iter().all(|o| o.op != "weight"));
    }

    /// Patches see those of their own image; words see all words, however many images there are.
    #[test]
    fn attention_of_several_images() {
        let flop = |name: &str, more: &str, images| {
            let text = format!(
                "symbol M <= 3\n
                graph @f(%0: f32[1, 4*M, 24], %1: f32[1, 4*M, 8], %2: i32[1, 4*M] \"{name}\") {{
                  %3 = attention {more} : f32[1, 4*M, 8]
                  return %3
                }}"
            );
            let module = dreamc_ir::parse(&text).unwrap();
            let lengths = Lengths { images, ..Lengths::default() };
            of(dreamc_ir::verify(&module).unwrap(), lengths).unwrap()[0].total.flop
        };
        let apart = "%1, %1, %1, %2 {heads=2, kv_heads=2, head_dim=4}";
        let packed = "%0, %2 {heads=2, kv_heads=2, head_dim=4, packed=1}";
        for more in [apart, packed] {
            assert_eq!(flop(PATCH_SEGMENTS, more, 1), 4 * 12 * 12 * 8);
            assert_eq!(flop(PATCH_SEGMENTS, more, 3), 3 * 4 * 4 * 4 * 8);
            assert_eq!(flop("attention_mask", more, 3), 4 * 12 * 12 * 8);
        }
    }

    /// 17 rows are two panels: 32 scales and sums, and 8 columns of codes.
    #[test]
    fn weights_in_few_bits() {
        let bytes = |weight: &str, linear: &str| {
            let text = format!(
                "graph @f(%0: f32[1, 5, 8]) {{\n  %1 = weight {{name=\"w\"{weight}}} : f32[17, 8]\n  \
                 %2 = linear %0, %1{linear}\n  return %2\n}}"
            );
            costs(&text)[0].total.bytes
        };
        let around = |n: u64| 4 * 5 * (8 + n);
        assert_eq!(bytes("", " : f32[1, 5, 17]"), around(17) + 4 * 17 * 8);
        assert_eq!(bytes(", bits=8", " : f32[1, 5, 17]"), around(17) + 2 * (128 + 8 * 16));
        assert_eq!(bytes(", bits=8", " {first=3, len=4} : f32[1, 5, 4]"), around(4) + 128 + 8 * 16);
        let group = ", bits=4, group=32, zero=1";
        assert_eq!(bytes(group, " : f32[1, 5, 17]"), around(17) + 2 * (128 + 64 + 32 * 8));
    }

    #[test]
    fn unbounded_symbols_are_named() {
        let text = "graph @f(%0: f32[L]) {\n  %1 = silu %0 : f32[L]\n  return %1\n}";
        let module = dreamc_ir::parse(text).unwrap();
        let error = of(dreamc_ir::verify(&module).unwrap(), Lengths::default()).unwrap_err();
        assert_eq!(error, Unbounded { graph: "f".to_owned(), dim: "L".to_owned() });
    }

    /// The passes may take work away, and add none.
    #[test]
    fn passes_and_loops() {
        let config = Size::Tiny.config();
        let options = Options {
            dtype: DType::BF16,
            max_batch: 2,
            max_length: 32,
            max_slots: 16,
            max_image_tokens: 1,
            sampler: Sampler { steps: 7, eps: 1e-3, alg: Alg::Entropy },
            act: None,
        };
        let layout = dreamc_frontend::Layout { lm_head: dreamc_frontend::LM_HEAD };
        let of_text = Architecture { text: &config, vision: None, mrope_section: None, layout: &layout };
        let mut module = module(&of_text, &options);
        let before = of(dreamc_ir::verify(&module).unwrap(), Lengths::default()).unwrap();
        let named = |list: &[GraphCost], name: &str| list.iter().find(|c| c.graph == name).unwrap().total;
        assert_eq!(named(&before, "generate"), named(&before, "generate.step").times(7));
        dreamc_passes::optimize(&mut module, &mut |_, _, _| ());
        let after = of(dreamc_ir::verify(&module).unwrap(), Lengths::default()).unwrap();
        for graph in ["forward", "generate"] {
            let (before, after) = (named(&before, graph), named(&after, graph));
            assert!(after.flop <= before.flop && after.bytes < before.bytes, "{before:?} {after:?}");
        }
    }

    /// Four slots in eight steps: three steps fill some, of 4, 3 and 2 that are open.
    #[test]
    fn slots_of_the_schedule() {
        let text = "symbol K <= 9\n
            graph @f(%0: i32[1, 9], %1: u32[4], %2: f32[1, 9, 8], %3: f32[], %4: i32[]) {
              %5, %6, %7 = denoise %0, %1, %2, %3, %4 {steps=8, state=2, body=\"s\", slots=1, eps=0.001, drop_idle=1} : i32[1, 9], u32[4], i32[8, 1, 9]
              return %5
            }
            graph @s(%0: i32[], %1: i32[1, 9], %2: u32[4], %3: f32[1, 9, 8], %4: f32[], %5: i32[]) {
              %6, %7 = open_slots %1 {token=1} : i32[1, K], bool[1, K]
              %8 = take_rows %3, %6 : f32[1, K, 8]
              %9 = slot_bits %6, %2 {lane=slot} : u32[1, K]
              %10 = draw_token %8, %7, %4, %9 : i32[1, K]
              %11 = confidence %8, %7, %10 {kind=margin} : f32[1, K]
              %12 = transfer_count %7, %0, %5 {steps=8, eps=0.001} : i32[1]
              %13 = select_slots %11, %7, %12, %4, %9, %5 : bool[1, K]
              %14 = commit_slots %13, %10, %6, %1 : i32[1, 9]
              %15 = advance_stream %2 : u32[4]
              return %14, %15
            }";
        let flop = |text: &str| {
            let module = dreamc_ir::parse(text).unwrap();
            let lengths = Lengths { symbols: &[(SLOTS, 4)], ..Lengths::default() };
            let costs = of(dreamc_ir::verify(&module).unwrap(), lengths).unwrap();
            costs[0].ops.iter().find(|o| o.op == "draw_token").unwrap().cost.flop
        };
        assert_eq!(flop(text), (4 + 3 + 2) * 8);
        assert_eq!(flop(&text.replace(", drop_idle=1", "")), (6 * 4 + 3 + 2) * 8);
    }
}

//! Compute only the rows that are taken.
//!
//! Requires: a verified graph; an index has at most as many rows as what it picks from.
//! Ensures: no `take_rows` of a value that nobody needs whole and that an op made row by row, or attention query by query.
//! In the last layer of a model whose head reads some rows, that leaves the keys and values alone at full length.
//! Declines: a value with another user or another index; an index that is known to be longer than its source; a `slice`,
//! whose operand is wider than what is taken from it, and ops that move rows; packed attention.
//!
//! A value is taken once for each index, before the first that asks for it.
//!
//! ```text
//! %4 = linear %0, %2, %1 {residual=1} : f32[B, S, 8]
//! %5 = take_rows %4, %3 : f32[B, 6, 8]
//! =>
//! %4 = take_rows %0, %3 : f32[B, 6, 8]
//! %5 = take_rows %1, %3 : f32[B, 6, 8]
//! %6 = linear %4, %2, %5 {residual=1} : f32[B, 6, 8]
//! ```

use crate::Stats;
use crate::rewrite::{Uses, place};
use dreamc_ir::{Attention, Graph, Linear, Node, Op, Type, Value};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    let mut stats = Stats::default();
    while let Some(removed) = step(graph) {
        stats += Stats { rewritten: 1, removed };
    }
    stats
}

/// Moves the takes of one value above the op that makes it, the last such value first. Gives the number of nodes removed.
fn step(graph: &mut Graph) -> Option<u32> {
    let uses = Uses::of(graph);
    let counts = graph.use_counts();
    let takes = takes(graph);
    let found = takes.iter().rev().find_map(|take| {
        let made = uses.definition(take.x)?;
        let same: Vec<Node> = takes.iter().filter(|t| t.same(take)).map(|t| t.node).collect();
        let alone = counts[take.x.0 as usize] as usize == same.len();
        let (op, inputs) = by_row(graph, made, take)?;
        alone.then_some((made, same, take.index, op, inputs))
    });
    let (made, same, index, op, inputs) = found?;
    sink(graph, made, &same, index, op, &inputs)
}

/// A `take_rows`.
#[derive(Clone, Copy)]
struct Take {
    node: Node,
    x: Value,
    index: Value,
}

impl Take {
    fn same(&self, other: &Take) -> bool {
        (self.x, self.index) == (other.x, other.index)
    }
}

fn takes(graph: &Graph) -> Vec<Take> {
    let take = |node: &Node| {
        let data = graph.node(*node);
        let (Op::TakeRows, &[x, index]) = (&data.op, data.inputs.as_slice()) else { return None };
        // A lone index takes a row of a table.
        if graph.ty(index).dims.len() != 2 {
            return None;
        }
        Some(Take { node: *node, x, index })
    };
    graph.order().iter().filter_map(take).collect()
}

/// An operand of an op on the rows that are taken.
enum Input {
    /// These rows of it.
    Rows(Value),
    /// All of it.
    Whole(Value),
}

/// The op that makes only the rows of the index, and its operands.
fn by_row(graph: &Graph, made: Node, take: &Take) -> Option<(Op, Vec<Input>)> {
    let data = graph.node(made);
    let [of, index] = [take.x, take.index].map(|v| graph.ty(v).dims.get(1).and_then(|d| d.as_constant()));
    if of.zip(index).is_some_and(|(of, index)| index > of) {
        return None;
    }
    let all = data.inputs.len();
    let rows: Vec<usize> = match &data.op {
        Op::Add | Op::Mul | Op::SwiGlu => vec![0, 1],
        Op::Activate(_) | Op::RmsNorm { .. } | Op::LayerNorm { .. } => vec![0],
        Op::Linear(Linear { residual: true, .. }) => vec![0, all - 1],
        Op::Linear(Linear { residual: false, .. }) => vec![0],
        Op::Rope { .. } => vec![0, 1, 2],
        Op::Attention(Attention { packed: false, rows: false, .. }) => vec![0],
        _ => return None,
    };
    let operand = |(i, value): (usize, &Value)| {
        if rows.contains(&i) { Input::Rows(*value) } else { Input::Whole(*value) }
    };
    let mut inputs: Vec<Input> = data.inputs.iter().enumerate().map(operand).collect();
    let op = match data.op {
        Op::Attention(attention) => {
            inputs.push(Input::Whole(take.index));
            Op::Attention(Attention { rows: true, ..attention })
        }
        ref op => op.clone(),
    };
    Some((op, inputs))
}

/// Puts `op` in the place of the takes `same` of what `made` makes, and takes its operands' rows. Gives the number of nodes
/// removed.
fn sink(graph: &mut Graph, made: Node, same: &[Node], index: Value, op: Op, inputs: &[Input]) -> Option<u32> {
    let first = *same.first()?;
    let mut at = place(graph, first)?;
    let before = graph.order().len();
    let (mut operands, mut added) = (Vec::new(), 1);
    for input in inputs {
        operands.push(match input {
            Input::Whole(value) => *value,
            Input::Rows(value) => {
                let (value, new) = taken(graph, at, Take { node: first, x: *value, index })?;
                at += new;
                added += new;
                value
            }
        });
    }
    let data = graph.node(made);
    let (ty, origin) = (with_rows(graph, *data.outputs.first()?, index)?, data.origin.clone());
    let node = graph.insert(at, op, operands, vec![ty], origin);
    let new = *graph.node(node).outputs.first()?;
    for take in same {
        replace(graph, *take, new);
    }
    graph.remove(made);
    Some((before + added - graph.order().len()) as u32)
}

/// The rows of `take.x`, taken before place `at`, and how many nodes that took: none where they are taken there already.
/// Later takes of the same rows are left out.
fn taken(graph: &mut Graph, at: usize, take: Take) -> Option<(Value, usize)> {
    let known: Vec<Node> = takes(graph).iter().filter(|t| t.same(&take)).map(|t| t.node).collect();
    if let Some(first) = known.first().filter(|n| place(graph, **n).is_some_and(|place| place < at)) {
        return Some((*graph.node(*first).outputs.first()?, 0));
    }
    let (ty, origin) = (with_rows(graph, take.x, take.index)?, graph.node(take.node).origin.clone());
    let node = graph.insert(at, Op::TakeRows, vec![take.x, take.index], vec![ty], origin);
    let new = *graph.node(node).outputs.first()?;
    for later in known {
        replace(graph, later, new);
    }
    Some((new, 1))
}

/// Leaves a take out: `new` is the same rows.
fn replace(graph: &mut Graph, take: Node, new: Value) {
    for old in graph.node(take).outputs.clone() {
        graph.replace_uses(old, new);
    }
    graph.remove(take);
}

/// The type of `value` with as many rows as the index.
fn with_rows(graph: &Graph, value: Value, index: Value) -> Option<Type> {
    let mut ty = graph.ty(value).clone();
    *ty.dims.get_mut(1)? = graph.ty(index).dims.get(1)?.clone();
    Some(ty)
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    /// Two norms, gate and up, and the residual stream: the layer comes down to its keys and values.
    #[test]
    fn last_layer() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 5, 8], %1: i32[2, 5], %2: f32[2, 5, 2], %3: f32[2, 5, 2], %4: i32[2, 3], %5: f32[8], %6: f32[8, 8], %7: f32[4, 8], %8: f32[16, 8], %9: f32[8, 16]) {
              %10 = rms_norm %0, %5 {eps=1e-6} : f32[2, 5, 8] loc "input_layernorm"
              %11 = linear %10, %6, %5 {bias=1} : f32[2, 5, 8] loc "q_proj"
              %12 = linear %10, %7 : f32[2, 5, 4] loc "k_proj"
              %13 = linear %10, %7 : f32[2, 5, 4] loc "v_proj"
              %14 = attention %11, %12, %13, %1, %2, %3 {heads=2, kv_heads=1, head_dim=4, rope=1} : f32[2, 5, 8] loc "self_attn"
              %15 = linear %14, %6 : f32[2, 5, 8] loc "o_proj"
              %16 = add %0, %15 : f32[2, 5, 8] loc "attn"
              %17 = rms_norm %16, %5 {eps=1e-6} : f32[2, 5, 8] loc "post_attention_layernorm"
              %18 = linear %17, %8 : f32[2, 5, 16] loc "gate_proj"
              %19 = linear %17, %8 : f32[2, 5, 16] loc "up_proj"
              %20 = swiglu %18, %19 : f32[2, 5, 16] loc "product"
              %21 = linear %20, %9 : f32[2, 5, 8] loc "down_proj"
              %22 = add %16, %21 : f32[2, 5, 8] loc "layer"
              %23 = take_rows %22, %4 : f32[2, 3, 8] loc "rows"
              %24 = rms_norm %23, %5 {eps=1e-6} : f32[2, 3, 8] loc "norm"
              return %24
            }"#
        ));
    }

    /// A rotation outside attention turns the rows that are taken by their own rows of the tables.
    #[test]
    fn rotations_norms_and_fused_projections() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: bf16[2, 5, 8], %1: i32[2, 5], %2: f32[2, 5, 2], %3: f32[2, 5, 2], %4: i32[2, 3], %5: f32[8], %6: bf16[8, 8]) {
              %7 = rope %0, %2, %3 {head_dim=4} : bf16[2, 5, 8]
              %8 = attention %7, %0, %0, %1 {heads=2, kv_heads=2, head_dim=4} : bf16[2, 5, 8]
              %9 = layer_norm %8, %5, %5 {eps=1e-6} : f32[2, 5, 8]
              %10 = linear %9, %5, %6, %9 {norm_eps=1e-6, residual=1} : f32[2, 5, 8]
              %11 = gelu %10 : f32[2, 5, 8]
              %12 = mul %11, %11 : f32[2, 5, 8]
              %13 = take_rows %12, %4 : f32[2, 3, 8]
              %14 = take_rows %12, %4 : f32[2, 3, 8]
              return %13, %14
            }"
        ));
    }

    #[test]
    fn takes_once_and_early() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 5, 8], %1: i32[2, 3], %2: f32[8, 8]) {
              %3 = linear %0, %2 : f32[2, 5, 8]
              %4 = take_rows %3, %1 : f32[2, 3, 8]
              %5 = silu %4 : f32[2, 3, 8]
              %6 = take_rows %0, %1 : f32[2, 3, 8]
              %7 = add %5, %6 : f32[2, 3, 8]
              return %7
            }"
        ));
    }

    #[test]
    fn keeps_what_is_needed_whole_or_longer() {
        for text in [
            // Another user, another index, the result itself.
            "graph @f(%0: f32[2, 5, 8], %1: i32[2, 3]) {
              %2 = silu %0 : f32[2, 5, 8]
              %3 = take_rows %2, %1 : f32[2, 3, 8]
              return %3, %2
            }",
            "graph @f(%0: f32[2, 5, 8], %1: i32[2, 3], %2: i32[2, 3]) {
              %3 = silu %0 : f32[2, 5, 8]
              %4 = take_rows %3, %1 : f32[2, 3, 8]
              %5 = take_rows %3, %2 : f32[2, 3, 8]
              return %4, %5
            }",
            // More rows than there were.
            "graph @f(%0: f32[2, 5, 8], %1: i32[2, 6]) {
              %2 = silu %0 : f32[2, 5, 8]
              %3 = take_rows %2, %1 : f32[2, 6, 8]
              return %3
            }",
            // Wider rows would be taken.
            "graph @f(%0: f32[2, 5, 8], %1: i32[2, 3]) {
              %2 = slice %0 {start=0, len=4} : f32[2, 5, 4]
              %3 = take_rows %2, %1 : f32[2, 3, 4]
              return %3
            }",
            // Rows that move, and packed queries.
            "graph @f(%0: f32[2, 5, 8], %1: i32[2, 3]) {
              %2 = shift_rows %0 : f32[2, 5, 8]
              %3 = take_rows %2, %1 : f32[2, 3, 8]
              return %3
            }",
            "graph @f(%0: f32[2, 5, 12], %1: i32[2, 5], %2: i32[2, 3]) {
              %3 = attention %0, %1 {heads=1, kv_heads=1, head_dim=4, packed=1} : f32[2, 5, 4]
              %4 = take_rows %3, %2 : f32[2, 3, 4]
              return %4
            }",
        ] {
            let report = check(run, text);
            assert!(report.contains("---- 0 rewritten, 0 removed"), "{report}");
        }
    }
}

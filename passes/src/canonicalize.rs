//! One form for what can be written in several ways.
//!
//! Requires: a verified graph.
//! Ensures: no `slice` of all columns, of a `slice`; no `concat` of one part; no `mul` with an operand that
//! is a `silu` without other users; no `shift_rows` of a `linear` without residual, an `rms_norm` or a `silu`
//! that has no other users and is not narrower than its `x`.
//! Declines: a `silu` or a shifted value with other users, which would be computed twice; moving a shift to
//! wider rows, or to both operands of a `swiglu`, since it would copy more.
//!
//! A shift that moves up copies hidden rows instead of logits.
//!
//! ```text
//! %2 = silu %0 : f32[B, S, 64]
//! %3 = mul %2, %1 : f32[B, S, 64]    =>    %3 = swiglu %0, %1 : f32[B, S, 64]
//!
//! %2 = linear %0, %1 : f32[B, S, 152064]
//! %3 = shift_rows %2 : f32[B, S, 152064]
//! =>
//! %2 = shift_rows %0 : f32[B, S, 3584]
//! %3 = linear %2, %1 : f32[B, S, 152064]
//! ```

use crate::Stats;
use crate::rewrite::{Uses, absorb, each_node, place};
use dreamc_ir::{Activation, Graph, Linear, Node, Op};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    let mut stats = Stats::default();
    loop {
        let round = each_node(graph, |graph, uses, node| {
            bypass(graph, node)
                .or_else(|| slice_of_slice(graph, uses, node))
                .or_else(|| swiglu(graph, uses, node))
                .or_else(|| raise_shift(graph, uses, node))
        });
        stats += round;
        if round == Stats::default() {
            return stats;
        }
    }
}

/// A node whose result is its operand.
fn bypass(graph: &mut Graph, node: Node) -> Option<u32> {
    let data = graph.node(node);
    let (&[input], &[output]) = (data.inputs.as_slice(), data.outputs.as_slice()) else { return None };
    let whole = match data.op {
        Op::Slice { start, len } => start == 0 && graph.ty(input).columns() == Some(len),
        _ => matches!(data.op, Op::Concat { .. }),
    };
    if !whole {
        return None;
    }
    graph.replace_uses(output, input);
    graph.remove(node);
    Some(1)
}

fn slice_of_slice(graph: &mut Graph, uses: &Uses, node: Node) -> Option<u32> {
    let data = graph.node(node);
    let Op::Slice { start, len } = data.op else { return None };
    let inner = graph.node(uses.definition(*data.inputs.first()?)?);
    let Op::Slice { start: inner_start, .. } = inner.op else { return None };
    let inputs = inner.inputs.clone();
    graph.replace(node, Op::Slice { start: inner_start + start, len }, inputs);
    Some(0)
}

fn swiglu(graph: &mut Graph, uses: &Uses, node: Node) -> Option<u32> {
    let data = graph.node(node);
    let (Op::Mul, &[left, right]) = (&data.op, data.inputs.as_slice()) else { return None };
    let silu = |value| uses.sole(value).filter(|n| graph.node(*n).op == Op::Activate(Activation::Silu));
    let (silu, up) = silu(left).map(|n| (n, right)).or_else(|| silu(right).map(|n| (n, left)))?;
    let gate = *graph.node(silu).inputs.first()?;
    Some(absorb(graph, node, &[silu], Op::SwiGlu, vec![gate, up]))
}

fn raise_shift(graph: &mut Graph, uses: &Uses, node: Node) -> Option<u32> {
    let data = graph.node(node);
    if data.op != Op::ShiftRows {
        return None;
    }
    let shifted = *data.inputs.first()?;
    let above = uses.sole(shifted)?;
    let row_wise = graph.node(above);
    if !matches!(
        row_wise.op,
        Op::Linear(Linear { residual: false, .. }) | Op::RmsNorm { .. } | Op::Activate(_)
    ) {
        return None;
    }
    let (x, rest) = row_wise.inputs.split_first()?;
    let (ty, columns) = (graph.ty(*x).clone(), graph.ty(shifted).columns()?);
    if ty.columns()? > columns {
        return None;
    }
    let (op, x, rest, origin) = (row_wise.op.clone(), *x, rest.to_vec(), data.origin.clone());
    let shift = graph.insert(place(graph, node)?, Op::ShiftRows, vec![x], vec![ty], origin);
    let inputs = [graph.node(shift).outputs.as_slice(), &rest].concat();
    absorb(graph, node, &[above], op, inputs);
    // One node left and one came.
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn bypasses_whole_slices_and_lone_concats() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[4, 8]) {
              %1 = slice %0 {start=0, len=8} : f32[4, 8]
              %2 = concat %1 : f32[4, 8]
              %3 = concat %2, %2 : f32[8, 8]
              %4 = slice %3 {start=0, len=7} : f32[8, 7]
              return %2, %4
            }"
        ));
    }

    #[test]
    fn joins_slices() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[4, 8]) {
              %1 = slice %0 {start=1, len=6} : f32[4, 6]
              %2 = slice %1 {start=2, len=3} : f32[4, 3]
              return %1, %2
            }"
        ));
    }

    #[test]
    fn joins_silu_and_mul() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @mlp(%0: f32[2, 64], %1: f32[2, 64]) {
              %2 = silu %0 : f32[2, 64] loc "act_fn"
              %3 = mul %1, %2 : f32[2, 64] loc "mlp"
              return %3
            }"#
        ));
    }

    #[test]
    fn keeps_shared_silu() {
        insta::assert_snapshot!(check(
            run,
            "graph @mlp(%0: f32[2, 64], %1: f32[2, 64]) {
              %2 = silu %0 : f32[2, 64]
              %3 = mul %2, %1 : f32[2, 64]
              return %2, %3
            }"
        ));
    }

    #[test]
    fn raises_the_shift_of_logits() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 3, 8], %1: f32[8], %2: f32[32, 8]) {
              %3 = rms_norm %0, %1 {eps=1e-6} : f32[2, 3, 8] loc "norm"
              %4 = linear %3, %2 : f32[2, 3, 32] loc "lm_head"
              %5 = shift_rows %4 : f32[2, 3, 32] loc "shift"
              return %5 "logits"
            }"#
        ));
    }

    #[test]
    fn keeps_the_shift_of_shared_logits() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[32, 8]) {
              %2 = linear %0, %1 : f32[2, 3, 32]
              %3 = shift_rows %2 : f32[2, 3, 32]
              return %2, %3
            }"
        ));
    }

    #[test]
    fn keeps_the_shift_where_rows_would_widen() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[4, 8]) {
              %2 = linear %0, %1 : f32[2, 3, 4]
              %3 = shift_rows %2 : f32[2, 3, 4]
              return %3
            }"
        ));
    }
}

//! Compute queries, keys and values in one `linear`.
//!
//! Requires: a verified graph; rotations already inside attention ([`crate::fuse_rope`]).
//! Ensures: no unpacked `attention` whose q, k and v are one-weight `linear`s of the same `x` without other
//! users, all with a bias or all without.
//! Declines: projections with a norm, a residual or other users; some with a bias and some without; a
//! rotation outside attention; queries at some rows, which are fewer than the keys.
//!
//! ```text
//! %9 = linear %0, %1 : f32[B, S, 8] loc "q"
//! %10 = linear %0, %2 : f32[B, S, 4] loc "k"
//! %11 = linear %0, %3 : f32[B, S, 4] loc "v"
//! %12 = attention %9, %10, %11, %4 {heads=2, kv_heads=1, head_dim=4} : f32[B, S, 8]
//! =>
//! %9 = linear %0, %1, %2, %3 {weights=3} : f32[B, S, 16] loc "q", "k", "v"
//! %10 = attention %9, %4 {heads=2, kv_heads=1, head_dim=4, packed=1} : f32[B, S, 8]
//! ```

use crate::Stats;
use crate::rewrite::{Uses, each_node, merged_origin, place};
use dreamc_ir::{Attention, Graph, Linear, Node, Op, Origin, Type, Value, infer};
use dreamc_num::DType;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let data = graph.node(node);
        let Op::Attention(attention @ Attention { packed: false, rows: false, .. }) = data.op else {
            return None;
        };
        let (values, rest) = data.inputs.split_at_checked(3)?;
        let (values, rest) = (values.to_vec(), rest.to_vec());
        let projections = projections(graph, uses, &values)?;
        let packed = pack(graph, uses, &projections)?;
        let op = Op::Attention(Attention { packed: true, ..attention });
        graph.replace(node, op, [&[packed], rest.as_slice()].concat());
        for gone in &projections.nodes {
            graph.remove(*gone);
        }
        Some(projections.nodes.len() as u32)
    })
}

/// The three projections of an attention.
struct Projections {
    nodes: Vec<Node>,
    x: Value,
    weights: Vec<Value>,
    /// As many as weights, or none.
    biases: Vec<Value>,
    dtype: DType,
}

fn projections(graph: &Graph, uses: &Uses, values: &[Value]) -> Option<Projections> {
    let first = *values.first()?;
    let (_, shape, data) = uses.sole_linear(graph, first)?;
    if shape != (Linear { weights: 1, bias: shape.bias, ..Linear::default() }) {
        return None;
    }
    let x = *data.inputs.first()?;
    let dtype = graph.ty(first).dtype;
    let mut found = Projections { nodes: vec![], x, weights: vec![], biases: vec![], dtype };
    for value in values {
        let (node, linear, data) = uses.sole_linear(graph, *value)?;
        if linear != shape || *data.inputs.first()? != x {
            return None;
        }
        found.nodes.push(node);
        found.weights.push(*data.inputs.get(1)?);
        found.biases.extend(data.inputs.get(2));
    }
    Some(found)
}

/// Inserts the packed projection before the last of the three, where all operands are defined.
fn pack(graph: &mut Graph, uses: &Uses, projections: &Projections) -> Option<Value> {
    let Projections { nodes, x, weights, biases, dtype } = projections;
    let mut at = nodes.iter().filter_map(|n| place(graph, *n)).max()?;
    let mut inputs = [&[*x], weights.as_slice()].concat();
    let linear = Linear { weights: 3, bias: !biases.is_empty(), ..Linear::default() };
    if linear.bias {
        let types: Vec<Type> = biases.iter().map(|v| graph.ty(*v).clone()).collect();
        let types = infer(&Op::Concat { axis: 0 }, &types, DType::F32).ok()?;
        let definitions: Vec<Node> = biases.iter().filter_map(|v| uses.definition(*v)).collect();
        let origin: Origin = merged_origin(graph, &definitions);
        let concat = graph.insert(at, Op::Concat { axis: 0 }, biases.clone(), types, origin);
        inputs.extend(&graph.node(concat).outputs);
        at += 1;
    }
    let types: Vec<Type> = inputs.iter().map(|v| graph.ty(*v).clone()).collect();
    let types = infer(&Op::Linear(linear), &types, *dtype).ok()?;
    let origin = merged_origin(graph, nodes);
    let node = graph.insert(at, Op::Linear(linear), inputs, types, origin);
    graph.node(node).outputs.first().copied()
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn merges_with_biases() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 3, 8], %1: i32[2, 3], %2: f32[2, 3, 2], %3: f32[2, 3, 2]) {
              %4 = weight {name="q.weight"} : f32[8, 8] loc "q_proj.weight"
              %5 = weight {name="k.weight"} : f32[4, 8] loc "k_proj.weight"
              %6 = weight {name="v.weight"} : f32[4, 8] loc "v_proj.weight"
              %7 = weight {name="q.bias"} : f32[8] loc "q_proj.bias"
              %8 = weight {name="k.bias"} : f32[4] loc "k_proj.bias"
              %9 = weight {name="v.bias"} : f32[4] loc "v_proj.bias"
              %10 = linear %0, %4, %7 {bias=1} : f32[2, 3, 8] loc "q_proj"
              %11 = linear %0, %5, %8 {bias=1} : f32[2, 3, 4] loc "k_proj"
              %12 = linear %0, %6, %9 {bias=1} : f32[2, 3, 4] loc "v_proj"
              %13 = attention %10, %11, %12, %1, %2, %3 {heads=2, kv_heads=1, head_dim=4, rope=1} : f32[2, 3, 8] loc "self_attn"
              return %13
            }"#
        ));
    }

    #[test]
    fn merges_without_biases() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 3, 8], %1: i32[2, 3], %2: f32[8, 8], %3: f32[4, 8], %4: f32[4, 8]) {
              %5 = linear %0, %4 : f32[2, 3, 4] loc "v"
              %6 = linear %0, %2 : f32[2, 3, 8] loc "q"
              %7 = linear %0, %3 : f32[2, 3, 4] loc "k"
              %8 = attention %6, %7, %5, %1 {heads=2, kv_heads=1, head_dim=4} : f32[2, 3, 8]
              return %8
            }"#
        ));
    }

    #[test]
    fn keeps_shared_keys_mixed_biases_and_other_rows() {
        for text in [
            "%6 = linear %0, %2 : f32[2, 3, 8]
             %7 = linear %0, %3 : f32[2, 3, 4]
             %8 = attention %6, %7, %7, %1 {heads=2, kv_heads=1, head_dim=4} : f32[2, 3, 8]",
            "%6 = linear %0, %2 : f32[2, 3, 8]
             %7 = linear %0, %3, %4 {bias=1} : f32[2, 3, 4]
             %9 = linear %0, %3, %4 {bias=1} : f32[2, 3, 4]
             %8 = attention %6, %7, %9, %1 {heads=2, kv_heads=1, head_dim=4} : f32[2, 3, 8]",
            "%6 = linear %5, %2 : f32[2, 3, 8]
             %7 = linear %0, %3 : f32[2, 3, 4]
             %9 = linear %0, %3 : f32[2, 3, 4]
             %8 = attention %6, %7, %9, %1 {heads=2, kv_heads=1, head_dim=4} : f32[2, 3, 8]",
        ] {
            let head = "graph @f(%0: f32[2, 3, 8], %1: i32[2, 3], %2: f32[8, 8], %3: f32[4, 8], %4: f32[4], %5: f32[2, 3, 8]) {";
            let report = check(run, &format!("{head}\n{text}\nreturn %8\n}}"));
            assert!(report.contains("---- 0 rewritten, 0 removed"), "{report}");
        }
    }
}

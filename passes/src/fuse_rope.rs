//! Rotate queries and keys inside `attention`.
//!
//! Requires: a verified graph.
//! Ensures: no unpacked `attention` whose q and k are both results of `rope` by the same tables, without
//! other users.
//! Declines: a rotated value with other users, since it would be rotated twice; different tables; heads of
//! another size than attention's.
//!
//! ```text
//! %6 = rope %0, %4, %5 {head_dim=4} : f32[B, S, 8]
//! %7 = rope %1, %4, %5 {head_dim=4} : f32[B, S, 4]
//! %8 = attention %6, %7, %2, %3 {heads=2, kv_heads=1, head_dim=4} : f32[B, S, 8]
//! =>
//! %8 = attention %0, %1, %2, %3, %4, %5 {heads=2, kv_heads=1, head_dim=4, rope=1} : f32[B, S, 8]
//! ```

use crate::Stats;
use crate::rewrite::{Uses, absorb, each_node};
use dreamc_ir::{Attention, Graph, Node, Op, Value};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let data = graph.node(node);
        let Op::Attention(attention @ Attention { packed: false, rope: false, rows: false, .. }) = data.op
        else {
            return None;
        };
        let &[q, k, v, mask] = data.inputs.as_slice() else { return None };
        let (q_rope, [q, q_cos, q_sin]) = rope_of(graph, uses, q, attention.head_dim)?;
        let (k_rope, [k, k_cos, k_sin]) = rope_of(graph, uses, k, attention.head_dim)?;
        if (q_cos, q_sin) != (k_cos, k_sin) {
            return None;
        }
        let op = Op::Attention(Attention { rope: true, ..attention });
        Some(absorb(graph, node, &[q_rope, k_rope], op, vec![q, k, v, mask, q_cos, q_sin]))
    })
}

fn rope_of(graph: &Graph, uses: &Uses, value: Value, wanted: u64) -> Option<(Node, [Value; 3])> {
    let node = uses.sole(value)?;
    let data = graph.node(node);
    match data.op {
        Op::Rope { head_dim } if head_dim == wanted => Some((node, data.inputs.as_slice().try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn fuses_equal_tables() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 3, 8], %1: f32[2, 3, 4], %2: f32[2, 3, 4], %3: i32[2, 3], %4: f32[2, 3, 2], %5: f32[2, 3, 2]) {
              %6 = rope %0, %4, %5 {head_dim=4} : f32[2, 3, 8] loc "q_rope"
              %7 = rope %1, %4, %5 {head_dim=4} : f32[2, 3, 4] loc "k_rope"
              %8 = attention %6, %7, %2, %3 {heads=2, kv_heads=1, head_dim=4} : f32[2, 3, 8] loc "self_attn"
              return %8
            }"#
        ));
    }

    #[test]
    fn keeps_shared_keys() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[2, 3, 4], %2: f32[2, 3, 4], %3: i32[2, 3], %4: f32[2, 3, 2], %5: f32[2, 3, 2]) {
              %6 = rope %0, %4, %5 {head_dim=4} : f32[2, 3, 8]
              %7 = rope %1, %4, %5 {head_dim=4} : f32[2, 3, 4]
              %8 = attention %6, %7, %2, %3 {heads=2, kv_heads=1, head_dim=4} : f32[2, 3, 8]
              return %8, %7
            }"
        ));
    }

    #[test]
    fn keeps_different_tables() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[2, 3, 4], %2: f32[2, 3, 4], %3: i32[2, 3], %4: f32[2, 3, 2], %5: f32[2, 3, 2]) {
              %6 = rope %0, %4, %5 {head_dim=4} : f32[2, 3, 8]
              %7 = rope %1, %5, %4 {head_dim=4} : f32[2, 3, 4]
              %8 = attention %6, %7, %2, %3 {heads=2, kv_heads=1, head_dim=4} : f32[2, 3, 8]
              return %8
            }"
        ));
    }
}

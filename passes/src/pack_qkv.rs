//! Read q, k and v where they lie: attention over three slices of one value takes the value itself.
//!
//! Requires: a verified graph; rotations fused into their attention (`fuse-rope`), or the slices are hidden behind them.
//! Ensures: no attention takes q, k and v as consecutive column ranges that cover one value.
//! Declines: slices with other users, since they would still be computed; ranges in another order.
//!
//! ```text
//! %2 = slice %0 {start=0, len=8} : f32[1, 4, 8]
//! %3 = slice %0 {start=8, len=8} : f32[1, 4, 8]
//! %4 = slice %0 {start=16, len=8} : f32[1, 4, 8]
//! %5 = attention %2, %3, %4, %1 {heads=2, kv_heads=2, head_dim=4} : f32[1, 4, 8]
//! =>
//! %5 = attention %0, %1 {heads=2, kv_heads=2, head_dim=4, packed=1} : f32[1, 4, 8]
//! ```

use crate::Stats;
use crate::rewrite::{absorb, each_node};
use dreamc_ir::{Attention, Graph, Op};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let data = graph.node(node);
        let Op::Attention(attention @ Attention { packed: false, rows: false, .. }) = data.op else {
            return None;
        };
        let (values, rest) = data.inputs.split_at_checked(3)?;
        let (mut slices, mut sources, mut end) = (Vec::new(), Vec::new(), 0);
        for value in values {
            let slice = uses.sole(*value)?;
            let Op::Slice { start, len } = graph.node(slice).op else { return None };
            if start != end {
                return None;
            }
            end += len;
            slices.push(slice);
            sources.push(*graph.node(slice).inputs.first()?);
        }
        let source = *sources.first()?;
        if sources.iter().any(|s| *s != source) || graph.ty(source).columns() != Some(end) {
            return None;
        }
        let op = Op::Attention(Attention { packed: true, ..attention });
        let inputs = [&[source], rest].concat();
        Some(absorb(graph, node, &slices, op, inputs))
    })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn packs_slices_that_cover_a_value() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[1, 4, 24], %1: i32[1, 4], %2: f32[1, 4, 2], %3: f32[1, 4, 2]) {
              %4 = slice %0 {start=0, len=8} : f32[1, 4, 8] loc "attn.q"
              %5 = slice %0 {start=8, len=8} : f32[1, 4, 8] loc "attn.k"
              %6 = slice %0 {start=16, len=8} : f32[1, 4, 8] loc "attn.v"
              %7 = attention %4, %5, %6, %1, %2, %3 {heads=2, kv_heads=2, head_dim=4, rope=1} : f32[1, 4, 8] loc "attn"
              return %7
            }"#
        ));
    }

    #[test]
    fn keeps_shared_slices_other_orders_and_parts() {
        for (q, k, v, more) in [(0, 8, 16, ", %4"), (8, 0, 16, ""), (0, 8, 8, "")] {
            let report = check(
                run,
                &format!(
                    "graph @f(%0: f32[1, 4, 24], %1: i32[1, 4]) {{
                      %4 = slice %0 {{start={q}, len=8}} : f32[1, 4, 8]
                      %5 = slice %0 {{start={k}, len=8}} : f32[1, 4, 8]
                      %6 = slice %0 {{start={v}, len=8}} : f32[1, 4, 8]
                      %7 = attention %4, %5, %6, %1 {{heads=2, kv_heads=2, head_dim=4}} : f32[1, 4, 8]
                      return %7{more}
                    }}"
                ),
            );
            assert!(report.contains("---- 0 rewritten, 0 removed"), "{report}");
        }
        let wider = check(
            run,
            "graph @f(%0: f32[1, 4, 25], %1: i32[1, 4]) {
              %4 = slice %0 {start=0, len=8} : f32[1, 4, 8]
              %5 = slice %0 {start=8, len=8} : f32[1, 4, 8]
              %6 = slice %0 {start=16, len=8} : f32[1, 4, 8]
              %7 = attention %4, %5, %6, %1 {heads=2, kv_heads=2, head_dim=4} : f32[1, 4, 8]
              return %7
            }",
        );
        assert!(wider.contains("---- 0 rewritten, 0 removed"), "{wider}");
    }
}

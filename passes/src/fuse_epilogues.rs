//! Activate inside the `linear` whose result is activated.
//!
//! Requires: a verified graph; `silu` of a gate already in a `swiglu` ([`crate::canonicalize`]).
//! Ensures: no activation of a `linear` without other users, without a residual, an activation or `swiglu`.
//! Declines: a `linear` with other users, since they want the sums; one that adds a residual, since an activation comes
//! before it.
//!
//! In 16 bits the sums are no longer rounded before they are activated: they stay f32, as the interpreter has them, so
//! the result is at least as close to what is meant.
//!
//! ```text
//! %3 = linear %0, %1, %2 {bias=1} : f32[B, S, 8] loc "fc1"
//! %4 = gelu %3 : f32[B, S, 8] loc "act"
//! =>
//! %3 = linear %0, %1, %2 {bias=1, activation=gelu} : f32[B, S, 8] loc "fc1", "act"
//! ```

use crate::Stats;
use crate::rewrite::{absorb, each_node};
use dreamc_ir::{Graph, Linear, Op};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let data = graph.node(node);
        let (Op::Activate(activation), &[x]) = (&data.op, data.inputs.as_slice()) else { return None };
        let (absorbed, linear, sums) = uses.sole_linear(graph, x)?;
        if linear.residual || linear.swiglu || linear.activation.is_some() {
            return None;
        }
        let op = Op::Linear(Linear { activation: Some(*activation), ..linear });
        Some(absorb(graph, node, &[absorbed], op, sums.inputs.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn fuses_in_every_type() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: bf16[2, 3, 8], %1: bf16[4, 8], %2: f32[4], %3: f32[8]) {
              %4 = linear %0, %1, %2 {bias=1} : bf16[2, 3, 4] loc "fc1"
              %5 = gelu %4 : bf16[2, 3, 4] loc "act"
              %6 = linear %0, %3, %1, %1 {weights=2, norm_eps=1e-6} : f32[2, 3, 8] loc "two"
              %7 = relu %6 : f32[2, 3, 8] loc "relu"
              return %5, %7
            }"#
        ));
    }

    #[test]
    fn keeps_what_is_wanted_before_or_added_to() {
        for text in [
            "graph @f(%0: f32[3, 8], %1: f32[4, 8]) {
              %2 = linear %0, %1 : f32[3, 4]
              %3 = silu %2 : f32[3, 4]
              return %3, %2
            }",
            "graph @f(%0: f32[3, 8], %1: f32[8, 8]) {
              %2 = linear %0, %1, %0 {residual=1} : f32[3, 8]
              %3 = gelu %2 : f32[3, 8]
              return %3
            }",
            "graph @f(%0: f32[3, 8], %1: f32[8, 8]) {
              %2 = linear %0, %1 {activation=relu} : f32[3, 8]
              %3 = gelu %2 : f32[3, 8]
              return %3
            }",
            "graph @f(%0: f32[3, 8], %1: f32[8, 8]) {
              %2 = linear %0, %1, %1 {weights=2, swiglu=1} : f32[3, 8]
              %3 = gelu %2 : f32[3, 8]
              return %3
            }",
        ] {
            let report = check(run, text);
            assert!(report.contains("---- 0 rewritten, 0 removed"), "{report}");
        }
    }
}

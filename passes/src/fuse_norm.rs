//! Normalise inside the `linear` that reads the norm.
//!
//! Requires: a verified graph.
//! Ensures: no `rms_norm` whose only use is as `x` of a `linear` without a norm.
//! Declines: a norm with other users, since each would normalise again. Merging projections first leaves
//! one user.
//!
//! The `linear` then reads the rows before the norm, in their own element type.
//!
//! ```text
//! %3 = rms_norm %0, %1 {eps=1e-6} : f32[B, S, 8]
//! %4 = linear %3, %2 : f32[B, S, 16]    =>    %4 = linear %0, %1, %2 {norm_eps=1e-6} : f32[B, S, 16]
//! ```

use crate::Stats;
use crate::rewrite::{absorb, each_node};
use dreamc_ir::{Graph, Linear, Op};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let data = graph.node(node);
        let Op::Linear(linear @ Linear { norm_eps: None, .. }) = data.op else { return None };
        let (x, rest) = data.inputs.split_first()?;
        let norm = uses.sole(*x)?;
        let Op::RmsNorm { eps } = graph.node(norm).op else { return None };
        let inputs = [&graph.node(norm).inputs, rest].concat();
        let op = Op::Linear(Linear { norm_eps: Some(eps), ..linear });
        Some(absorb(graph, node, &[norm], op, inputs))
    })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn fuses_a_norm_with_one_user() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 3, 8], %1: f32[8], %2: f32[4, 8], %3: f32[4]) {
              %4 = rms_norm %0, %1 {eps=1e-6} : f32[2, 3, 8] loc "norm"
              %5 = linear %4, %2, %3 {bias=1} : f32[2, 3, 4] loc "proj"
              return %5
            }"#
        ));
    }

    #[test]
    fn keeps_a_norm_with_two_users() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[8], %2: f32[4, 8]) {
              %3 = rms_norm %0, %1 {eps=1e-6} : f32[2, 3, 8]
              %4 = linear %3, %2 : f32[2, 3, 4]
              %5 = linear %3, %2 : f32[2, 3, 4]
              return %4, %5
            }"
        ));
    }

    /// The residual operand is read after the product: it is not `x`.
    #[test]
    fn keeps_a_norm_that_is_the_residual() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[8], %2: f32[8, 8]) {
              %3 = rms_norm %0, %1 {eps=1e-6} : f32[2, 3, 8]
              %4 = linear %0, %2, %3 {residual=1} : f32[2, 3, 8]
              return %4
            }"
        ));
    }

    #[test]
    fn keeps_the_outer_of_two_norms() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[8], %2: f32[8, 8]) {
              %3 = rms_norm %0, %1 {eps=1e-6} : f32[2, 3, 8]
              %4 = linear %3, %1, %2 {norm_eps=1e-5} : f32[2, 3, 8]
              return %4
            }"
        ));
    }
}

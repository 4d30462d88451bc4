//! Add the residual inside the `linear` whose result is added.
//!
//! Requires: a verified graph.
//! Ensures: no f32 `add` with an operand that is a `linear` without other users and without a residual.
//! Declines: a `linear` with other users, since they want the product alone; sums that are not f32, since
//! a residual is f32.
//!
//! ```text
//! %3 = linear %0, %1 : f32[B, S, 8] loc "o_proj"
//! %4 = add %2, %3 : f32[B, S, 8] loc "layer"
//! =>
//! %4 = linear %0, %1, %2 {residual=1} : f32[B, S, 8] loc "o_proj", "layer"
//! ```

use crate::Stats;
use crate::rewrite::{absorb, each_node};
use dreamc_ir::{Graph, Linear, Op};
use dreamc_num::DType;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let data = graph.node(node);
        let (Op::Add, &[left, right]) = (&data.op, data.inputs.as_slice()) else { return None };
        if graph.ty(left).dtype != DType::F32 {
            return None;
        }
        // The right operand first: the frontend writes `residual + product`.
        for (product, residual) in [(right, left), (left, right)] {
            let Some((absorbed, linear, data)) = uses.sole_linear(graph, product) else { continue };
            if linear.residual {
                continue;
            }
            let inputs = [data.inputs.as_slice(), &[residual]].concat();
            let op = Op::Linear(Linear { residual: true, ..linear });
            return Some(absorb(graph, node, &[absorbed], op, inputs));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn fuses_either_operand() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 3, 8], %1: f32[8, 8], %2: f32[8], %3: f32[2, 3, 8]) {
              %4 = linear %0, %1, %2 {bias=1} : f32[2, 3, 8] loc "o_proj"
              %5 = add %3, %4 : f32[2, 3, 8] loc "layer"
              %6 = linear %5, %1 : f32[2, 3, 8]
              %7 = add %6, %5 : f32[2, 3, 8]
              return %7
            }"#
        ));
    }

    #[test]
    fn keeps_a_shared_product() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[8, 8]) {
              %2 = linear %0, %1 : f32[2, 3, 8]
              %3 = add %0, %2 : f32[2, 3, 8]
              %4 = linear %3, %1 : f32[2, 3, 8]
              %5 = add %4, %4 : f32[2, 3, 8]
              return %2, %5
            }"
        ));
    }

    #[test]
    fn keeps_sums_that_are_not_f32() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: bf16[2, 3, 8], %1: bf16[8, 8]) {
              %2 = linear %0, %1 : bf16[2, 3, 8]
              %3 = add %0, %2 : bf16[2, 3, 8]
              return %3
            }"
        ));
    }
}

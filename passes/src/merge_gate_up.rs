//! Compute gate, up and their activation in one `linear`.
//!
//! Requires: a verified graph; `silu` and `mul` already joined by [`crate::canonicalize`].
//! Ensures: no `swiglu` of two plain one-weight `linear`s of the same `x` without other users.
//! Declines: projections with a bias, a norm, a residual or other users.
//!
//! ```text
//! %3 = linear %0, %1 : f32[B, S, 16]
//! %4 = linear %0, %2 : f32[B, S, 16]
//! %5 = swiglu %3, %4 : f32[B, S, 16]    =>    %5 = linear %0, %1, %2 {weights=2, swiglu=1} : f32[B, S, 16]
//! ```

use crate::Stats;
use crate::rewrite::{absorb, each_node};
use dreamc_ir::{Graph, Linear, Op};

/// A product and nothing else.
const PLAIN: Linear = Linear {
    weights: 1,
    norm_eps: None,
    bias: false,
    rows: None,
    swiglu: false,
    smooth: false,
    codes: None,
    activation: None,
    residual: false,
};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let data = graph.node(node);
        let (Op::SwiGlu, &[gate, up]) = (&data.op, data.inputs.as_slice()) else { return None };
        let (gate, gate_linear, gate_data) = uses.sole_linear(graph, gate)?;
        let (up, up_linear, up_data) = uses.sole_linear(graph, up)?;
        if gate_linear != PLAIN || up_linear != PLAIN || gate_data.inputs[0] != up_data.inputs[0] {
            return None;
        }
        let inputs = vec![gate_data.inputs[0], gate_data.inputs[1], up_data.inputs[1]];
        let op = Op::Linear(Linear { weights: 2, swiglu: true, ..PLAIN });
        Some(absorb(graph, node, &[gate, up], op, inputs))
    })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn merges_gate_and_up() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[2, 3, 8], %1: f32[16, 8], %2: f32[16, 8]) {
              %3 = linear %0, %2 : f32[2, 3, 16] loc "up_proj"
              %4 = linear %0, %1 : f32[2, 3, 16] loc "gate_proj"
              %5 = swiglu %4, %3 : f32[2, 3, 16] loc "mlp"
              return %5
            }"#
        ));
    }

    #[test]
    fn keeps_a_shared_gate() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[16, 8], %2: f32[16, 8]) {
              %3 = linear %0, %1 : f32[2, 3, 16]
              %4 = linear %0, %2 : f32[2, 3, 16]
              %5 = swiglu %3, %4 : f32[2, 3, 16]
              %6 = swiglu %4, %4 : f32[2, 3, 16]
              return %5, %6
            }"
        ));
    }

    #[test]
    fn keeps_projections_of_different_rows() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 3, 8], %1: f32[16, 8], %2: f32[2, 3, 8]) {
              %3 = linear %0, %1 : f32[2, 3, 16]
              %4 = linear %2, %1 : f32[2, 3, 16]
              %5 = swiglu %3, %4 : f32[2, 3, 16]
              return %5
            }"
        ));
    }
}

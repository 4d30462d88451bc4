//! Compute before a loop what is the same in each of its steps.
//!
//! Requires: a verified module.
//! Ensures: every node of a loop's body depends on the step or a state, or is a constant: a `weight`, a `const`, or a
//! `slice` or `concat` of such.
//! Declines: constants, which are no work and cannot be captured; a body that several loops run.
//!
//! What moves keeps its origin. The body takes its values as further captured parameters; a weight that both sides need
//! stands on both, and is stored once.
//!
//! ```text
//! graph @f(%0: f32[1, 2, 4], %1: i32[1, 2]) {
//!   %2, %3 = denoise %0, %1 {steps=4, state=1, body="f.step"} : f32[1, 2, 4], f32[4, 1, 2, 4]
//!   return %2
//! }
//! graph @f.step(%0: i32[], %1: f32[1, 2, 4], %2: i32[1, 2]) {
//!   %3, %4 = rope_table %2 {theta=10000.0, sections=[2]} : f32[1, 2, 2], f32[1, 2, 2]
//!   %5 = rope %1, %3, %4 {head_dim=4} : f32[1, 2, 4]
//!   return %5
//! }
//! =>
//! graph @f(%0: f32[1, 2, 4], %1: i32[1, 2]) {
//!   %2, %3 = rope_table %1 {theta=10000.0, sections=[2]} : f32[1, 2, 2], f32[1, 2, 2]
//!   %4, %5 = denoise %0, %1, %2, %3 {steps=4, state=1, body="f.step"} : f32[1, 2, 4], f32[4, 1, 2, 4]
//!   return %4
//! }
//! graph @f.step(%0: i32[], %1: f32[1, 2, 4], %2: i32[1, 2], %3: f32[1, 2, 2], %4: f32[1, 2, 2]) {
//!   %5 = rope %1, %3, %4 {head_dim=4} : f32[1, 2, 4]
//!   return %5
//! }
//! ```

use crate::Stats;
use crate::loops::{Loop, Outside, loops};
use dreamc_ir::{Graph, Module, Node, Op, Value};
use std::collections::BTreeSet;

/// Runs the pass.
pub fn run(module: &mut Module) -> Stats {
    let mut stats = Stats::default();
    for each in loops(module) {
        stats.rewritten += hoist(module, &each);
    }
    stats
}

/// Moves what is invariant; gives the number of nodes.
fn hoist(module: &mut Module, of: &Loop) -> u32 {
    let moved = invariants(&module.graphs[of.body], of.states);
    if moved.is_empty() {
        return 0;
    }
    let Some(mut outside) = Outside::new(module, of) else { return 0 };
    for node in &moved {
        outside.add(*node);
    }
    let moved: BTreeSet<Node> = moved.into_iter().collect();
    outside.capture(|node| moved.contains(&node));
    moved.len() as u32
}

/// Nodes of a body that depend on nothing that changes, constants left out, in program order.
fn invariants(body: &Graph, states: usize) -> Vec<Node> {
    let mut fixed: BTreeSet<Value> = body.params.iter().skip(1 + states).map(|p| p.value).collect();
    let mut constant: BTreeSet<Value> = BTreeSet::new();
    let mut found = Vec::new();
    for node in body.order() {
        let data = body.node(*node);
        if is_constant(&data.op) && data.inputs.iter().all(|v| constant.contains(v)) {
            constant.extend(&data.outputs);
        } else if data.inputs.iter().all(|v| fixed.contains(v) || constant.contains(v)) {
            fixed.extend(&data.outputs);
            found.push(*node);
        }
    }
    found
}

/// Whether an op gives a constant where its operands are some.
fn is_constant(op: &Op) -> bool {
    matches!(op, Op::Weight(_) | Op::Const(_) | Op::Slice { .. } | Op::Concat { .. })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check_module;

    #[test]
    fn hoists_tables_and_what_depends_on_them() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[1, 2, 4] "x", %1: i32[1, 2] "positions", %2: f32[1, 2, 8] "state") {
              %3, %4 = denoise %0, %1, %2 {steps=3, state=1, body="f.step"} : f32[1, 2, 4], f32[3, 1, 2, 4] loc "loop"
              return %3 "last", %4 "history"
            }
            graph @f.step(%0: i32[] "step", %1: f32[1, 2, 4] "x", %2: i32[1, 2] "positions", %3: f32[1, 2, 8] "state") {
              %4, %5 = rope_table %2 {theta=10000.0, sections=[2]} : f32[1, 2, 2], f32[1, 2, 2] loc "rotary"
              %6 = rope %1, %4, %5 {head_dim=4} : f32[1, 2, 4] loc "rotated"
              %7 = weight {name="w"} : f32[4, 8]
              %8 = linear %3, %7 : f32[1, 2, 4] loc "projector.fc1"
              %9 = gelu %8 : f32[1, 2, 4] loc "projector.act"
              %10 = add %6, %9 : f32[1, 2, 4]
              return %10
            }"#
        ));
    }

    /// A result of the body may be invariant itself.
    #[test]
    fn hoists_a_result() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[4] "x", %1: f32[4] "y") {
              %2, %3, %4 = denoise %0, %1, %1 {steps=2, state=2, body="f.step"} : f32[4], f32[4], f32[2, 4]
              return %2, %3, %4
            }
            graph @f.step(%0: i32[], %1: f32[4], %2: f32[4], %3: f32[4]) {
              %4 = silu %3 : f32[4]
              %5 = add %1, %2 : f32[4]
              return %5, %4
            }"#
        ));
    }

    #[test]
    fn keeps_constants_and_what_changes() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[1, 2, 4] "x", %1: f32[1, 2, 4] "y") {
              %2, %3 = denoise %0, %1 {steps=2, state=1, body="f.step"} : f32[1, 2, 4], f32[2, 1, 2, 4]
              return %2, %3
            }
            graph @f.step(%0: i32[], %1: f32[1, 2, 4], %2: f32[1, 2, 4]) {
              %3 = weight {name="q"} : f32[4, 4]
              %4 = weight {name="q.bias"} : f32[2]
              %5 = weight {name="k.bias"} : f32[2]
              %6 = concat %4, %5 : f32[4]
              %7 = linear %1, %3, %6 {bias=1} : f32[1, 2, 4]
              %8 = ddim_step %7, %2, %0 {alphas=[0.1, 0.4, 0.9]} : f32[1, 2, 4]
              return %8
            }"#
        ));
    }

    #[test]
    fn keeps_a_body_that_two_loops_run() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[4], %1: f32[4]) {
              %2, %3 = denoise %0, %1 {steps=2, state=1, body="f.step"} : f32[4], f32[2, 4]
              %4, %5 = denoise %2, %0 {steps=3, state=1, body="f.step"} : f32[4], f32[3, 4]
              return %4
            }
            graph @f.step(%0: i32[], %1: f32[4], %2: f32[4]) {
              %3 = silu %2 : f32[4]
              %4 = add %1, %3 : f32[4]
              return %4
            }"#
        ));
    }
}

//! A loop of one step becomes part of the graph around it.
//!
//! Requires: a verified module.
//! Ensures: no `denoise` of one step whose body no other loop names; the graphs of such bodies are gone.
//! Declines: loops of more steps, which keep one body for all of them: a plan does not grow with its steps, and what
//! differs from step to step is read from tables. A body that other loops run as well.
//!
//! The step is the constant 0; the history is the new state under one more axis.
//!
//! ```text
//! graph @f(%0: f32[4], %1: f32[4]) {
//!   %2, %3 = denoise %0, %1 {steps=1, state=1, body="f.step"} : f32[4], f32[1, 4]
//!   return %2, %3
//! }
//! graph @f.step(%0: i32[], %1: f32[4], %2: f32[4]) {
//!   %3 = add %1, %2 : f32[4]
//!   return %3
//! }
//! =>
//! graph @f(%0: f32[4], %1: f32[4]) {
//!   %2 = const {ints=[0]} : i32[]
//!   %3 = add %0, %1 : f32[4]
//!   %4 = stack %3 : f32[1, 4]
//!   return %3, %4
//! }
//! ```

use crate::Stats;
use crate::loops::{Loop, loops};
use crate::rewrite::place;
use dreamc_ir::{Graph, Literal, Module, Op, Type, Value};
use dreamc_num::DType;
use std::collections::BTreeMap;

/// Runs the pass.
pub fn run(module: &mut Module) -> Stats {
    let mut stats = Stats::default();
    while let Some(once) = loops(module).into_iter().find(|l| l.steps == 1) {
        let body = module.graphs[once.body].clone();
        if inline(&mut module.graphs[once.outer], &once, &body).is_none() {
            return stats;
        }
        module.graphs.remove(once.body);
        // The loop itself.
        stats += Stats { rewritten: 1, removed: 1 };
    }
    stats
}

/// Puts the nodes of the body where the loop stands.
fn inline(graph: &mut Graph, once: &Loop, body: &Graph) -> Option<()> {
    let data = graph.node(once.node).clone();
    let mut at = place(graph, once.node)?;
    let step = Op::Const(Literal::Ints(vec![0]));
    let step = graph.insert(at, step, vec![], vec![Type::scalar(DType::I32)], data.origin.clone());
    let params = graph.node(step).outputs.iter().chain(&data.inputs).copied();
    let mut known: BTreeMap<Value, Value> = body.params.iter().map(|p| p.value).zip(params).collect();
    for node in body.order() {
        let inner = body.node(*node);
        let inputs = inner.inputs.iter().map(|v| known.get(v).copied()).collect::<Option<_>>()?;
        let types = inner.outputs.iter().map(|v| body.ty(*v).clone()).collect();
        at += 1;
        let new = graph.insert(at, inner.op.clone(), inputs, types, inner.origin.clone());
        known.extend(inner.outputs.iter().copied().zip(graph.node(new).outputs.clone()));
    }
    let states = body.results.iter().map(|p| known.get(&p.value).copied()).collect::<Option<Vec<_>>>()?;
    let (history, states_before) = data.outputs.split_last()?;
    let ty = graph.ty(*history).clone();
    let stacked = graph.insert(at + 1, Op::Stack, vec![*states.first()?], vec![ty], data.origin.clone());
    let stacked = *graph.node(stacked).outputs.first()?;
    graph.remove(once.node);
    for (old, new) in states_before.iter().chain([history]).zip(states.into_iter().chain([stacked])) {
        graph.replace_uses(*old, new);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check_module;

    #[test]
    fn inlines_a_loop_of_one_step() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[1, 2, 3] "x", %1: f32[1, 2, 3] "v") {
              %2, %3 = denoise %0, %1 {steps=1, state=1, body="f.step"} : f32[1, 2, 3], f32[1, 1, 2, 3] loc "actions"
              %4 = add %2, %1 : f32[1, 2, 3]
              return %4 "last", %3 "history"
            }
            graph @f.step(%0: i32[], %1: f32[1, 2, 3] "noisy", %2: f32[1, 2, 3]) {
              %3 = ddim_step %1, %2, %0 {alphas=[0.1, 0.9]} : f32[1, 2, 3] loc "next"
              return %3
            }"#
        ));
    }

    #[test]
    fn states_may_trade_places() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[3] "x", %1: f32[3] "y") {
              %2, %3, %4 = denoise %0, %1 {steps=1, state=2, body="f.step"} : f32[3], f32[3], f32[1, 3]
              return %2 "first", %3 "second", %4 "history"
            }
            graph @f.step(%0: i32[], %1: f32[3], %2: f32[3]) {
              return %2, %1
            }"#
        ));
    }

    #[test]
    fn keeps_loops_of_more_steps_and_shared_bodies() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[3], %1: f32[3]) {
              %2, %3 = denoise %0, %1 {steps=2, state=1, body="f.step"} : f32[3], f32[2, 3]
              %4, %5 = denoise %0, %1 {steps=1, state=1, body="g.step"} : f32[3], f32[1, 3]
              %6, %7 = denoise %4, %1 {steps=1, state=1, body="g.step"} : f32[3], f32[1, 3]
              return %2, %3, %6
            }
            graph @f.step(%0: i32[], %1: f32[3], %2: f32[3]) {
              %3 = add %1, %2 : f32[3]
              return %3
            }
            graph @g.step(%0: i32[], %1: f32[3], %2: f32[3]) {
              %3 = mul %1, %2 : f32[3]
              return %3
            }"#
        ));
    }
}

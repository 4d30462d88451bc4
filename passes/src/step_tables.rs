//! Compute what depends on a loop's step alone once for all steps, and take a row of it in each.
//!
//! Requires: a verified module.
//! Ensures: no `timestep_embed` of a loop's step in its body, and no row-wise op of such values and constants.
//! Declines: tables of more than [`ELEMENTS_MAX`] elements; an op that joins a step's row with a captured value, which has
//! rows of its own; a body that several loops run.
//!
//! ```text
//! graph @f(%0: f32[1, 1, 8]) {
//!   %1, %2 = denoise %0 {steps=2, state=1, body="f.step"} : f32[1, 1, 8], f32[2, 1, 1, 8]
//!   return %1
//! }
//! graph @f.step(%0: i32[], %1: f32[1, 1, 8]) {
//!   %2 = timestep_embed %0 {times=[0.0, 0.5], width=8} : f32[1, 1, 8]
//!   %3 = add %1, %2 : f32[1, 1, 8]
//!   return %3
//! }
//! =>
//! graph @f(%0: f32[1, 1, 8]) {
//!   %1 = const {ints=[0, 1]} : i32[2]
//!   %2 = timestep_embed %1 {times=[0.0, 0.5], width=8} : f32[1, 2, 8]
//!   %3, %4 = denoise %0, %2 {steps=2, state=1, body="f.step"} : f32[1, 1, 8], f32[2, 1, 1, 8]
//!   return %3
//! }
//! graph @f.step(%0: i32[], %1: f32[1, 1, 8], %2: f32[1, 2, 8]) {
//!   %3 = take_rows %2, %0 : f32[1, 1, 8]
//!   %4 = add %1, %3 : f32[1, 1, 8]
//!   return %4
//! }
//! ```

use crate::Stats;
use crate::loops::{Loop, Outside, loops};
use dreamc_ir::{Graph, Linear, Literal, Module, Node, Op, Origin, Type, Value};
use dreamc_num::DType;
use std::collections::BTreeSet;

/// Larger tables are computed step by step: they would take more memory than they save work.
pub const ELEMENTS_MAX: u64 = 1 << 22;

/// Runs the pass.
pub fn run(module: &mut Module) -> Stats {
    let mut stats = Stats::default();
    for each in loops(module) {
        stats += tabulate(module, &each);
    }
    stats
}

fn tabulate(module: &mut Module, of: &Loop) -> Stats {
    let body = &module.graphs[of.body];
    let Some(step) = body.params.first().map(|p| p.value) else { return Stats::default() };
    let found = stepped(body, step, of.steps);
    if found.is_empty() {
        return Stats::default();
    }
    let Some(mut outside) = Outside::new(module, of) else { return Stats::default() };
    let all = Literal::Ints((0..of.steps as i64).collect());
    let ty = Type::new(DType::I32, [of.steps.into()]);
    let steps = outside.insert(Op::Const(all), vec![], vec![ty], Origin::default());
    steps.first().iter().for_each(|all| outside.define(step, **all));
    for node in &found {
        outside.add_as(*node, |ty| rows(ty, of.steps));
    }
    let nodes: BTreeSet<Node> = found.iter().copied().collect();
    let removed = outside.look_up(step, &nodes);
    Stats { rewritten: found.len() as u32, removed }
}

/// The type of a table with a row of this type for each step.
fn rows(ty: &Type, steps: u64) -> Type {
    let mut table = ty.clone();
    if let Some(rows) = table.dims.get_mut(1) {
        *rows = steps.into();
    }
    table
}

/// Nodes that give a row for the step, in program order.
fn stepped(body: &Graph, step: Value, steps: u64) -> Vec<Node> {
    let (mut constant, mut by_step) = (BTreeSet::<Value>::new(), BTreeSet::<Value>::new());
    let mut found = Vec::new();
    for node in body.order() {
        let data = body.node(*node);
        let of_step = |list: &[Value]| !list.is_empty() && list.iter().all(|v| by_step.contains(v));
        let constants = |list: &[Value]| list.iter().all(|v| constant.contains(v));
        let depends = match (&data.op, data.inputs.as_slice()) {
            (Op::Weight(_) | Op::Const(_), _) => {
                constant.extend(&data.outputs);
                false
            }
            (Op::Concat { axis: 0 }, parts) if constants(parts) => {
                constant.extend(&data.outputs);
                false
            }
            (Op::TimestepEmbed { .. }, [index]) => *index == step,
            (Op::Add | Op::Mul | Op::SwiGlu | Op::Activate(_) | Op::Slice { .. }, all) => of_step(all),
            (
                Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Linear(Linear { residual: false, .. }),
                [x, rest @ ..],
            ) => of_step(&[*x]) && constants(rest),
            _ => false,
        };
        let small = |v: &Value| {
            let elements = rows(body.ty(*v), steps).elements().as_constant();
            elements.is_some_and(|n| n <= ELEMENTS_MAX)
        };
        if depends && data.outputs.iter().all(small) {
            by_step.extend(&data.outputs);
            found.push(*node);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check_module;

    #[test]
    fn tabulates_what_follows_from_the_step() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[1, 2, 4] "x", %1: f32[1, 1, 4] "before") {
              %2, %3 = denoise %0, %1 {steps=3, state=1, body="f.step"} : f32[1, 2, 4], f32[3, 1, 2, 4] loc "loop"
              return %2 "last", %3 "history"
            }
            graph @f.step(%0: i32[] "step", %1: f32[1, 2, 4] "x", %2: f32[1, 1, 4]) {
              %3 = timestep_embed %0 {times=[0.0, 0.25, 0.5], width=8} : f32[1, 1, 8] loc "time_encoder"
              %4 = weight {name="w"} : f32[4, 8]
              %5 = linear %3, %4 : f32[1, 1, 4] loc "time_encoder.fc"
              %6 = silu %5 : f32[1, 1, 4] loc "time_encoder.act"
              %7 = add %6, %2 : f32[1, 1, 4] loc "joined"
              %8 = concat %6, %7 {axis=1} : f32[1, 2, 4]
              %9 = add %1, %8 : f32[1, 2, 4]
              return %9
            }"#
        ));
    }

    #[test]
    fn keeps_other_steps_and_schedules() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[1, 1, 4] "x", %1: i32[] "given") {
              %2, %3 = denoise %0, %1 {steps=2, state=1, body="f.step"} : f32[1, 1, 4], f32[2, 1, 1, 4]
              return %2, %3
            }
            graph @f.step(%0: i32[], %1: f32[1, 1, 4], %2: i32[]) {
              %3 = timestep_embed %2 {times=[0.0, 0.25, 0.5, 0.75], width=4} : f32[1, 1, 4]
              %4 = ddim_step %1, %3, %0 {alphas=[0.1, 0.4, 0.9]} : f32[1, 1, 4]
              return %4
            }"#
        ));
    }

    #[test]
    fn keeps_large_tables() {
        insta::assert_snapshot!(check_module(
            run,
            r#"graph @f(%0: f32[1, 1, 2097154] "x") {
              %1, %2 = denoise %0 {steps=2, state=1, body="f.step"} : f32[1, 1, 2097154], f32[2, 1, 1, 2097154]
              return %1
            }
            graph @f.step(%0: i32[], %1: f32[1, 1, 2097154]) {
              %2 = timestep_embed %0 {times=[0.0, 0.5], width=2097154} : f32[1, 1, 2097154]
              return %2
            }"#
        ));
    }
}

//! Steps that fill no slot may be left out.
//!
//! Requires: a verified graph.
//! Ensures: every `denoise` that knows its slots may drop the steps in which the schedule fills none, where nothing is
//! drawn at random; whether that is so is known when a request is made.
//! Declines: a loop without a schedule; one whose other states are used, since streams move on in every step.
//!
//! ```text
//! %2, %3, %4 = denoise %0, %1 {steps=8, state=2, body="step", slots=502, eps=0.001}
//! =>
//! %2, %3, %4 = denoise %0, %1 {steps=8, state=2, body="step", slots=502, eps=0.001, drop_idle=1}
//! ```

use crate::Stats;
use crate::rewrite::each_node;
use dreamc_ir::{Graph, Op, SlotSchedule};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    let counts = graph.use_counts();
    each_node(graph, |graph, _, node| {
        let data = graph.node_mut(node);
        let Op::Denoise { slots: Some(SlotSchedule { drop_idle, .. }), state, .. } = &mut data.op else {
            return None;
        };
        let others = data.outputs.iter().take(*state as usize).skip(1);
        if *drop_idle || others.into_iter().any(|v| counts[v.0 as usize] > 0) {
            return None;
        }
        *drop_idle = true;
        Some(0)
    })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    fn looped(schedule: &str, result: &str) -> String {
        format!(
            "graph @f(%0: i32[1, 4], %1: u32[4], %2: f32[1, 4, 3], %3: f32[], %4: i32[]) {{
              %5, %6, %7 = denoise %0, %1, %2, %3, %4 {{steps=2, state=2, body=\"step\"{schedule}}} : i32[1, 4], u32[4], i32[2, 1, 4]
              return %5, {result}
            }}
            graph @step(%0: i32[], %1: i32[1, 4], %2: u32[4], %3: f32[1, 4, 3], %4: f32[], %5: i32[]) {{
              %6 = is_token %1 {{token=1}} : bool[1, 4]
              %7 = random_bits %1, %2 {{lane=slot}} : u32[1, 4]
              %8 = draw_token %3, %6, %4, %7 : i32[1, 4]
              %9 = confidence %3, %6, %8 {{kind=probability}} : f32[1, 4]
              %10 = transfer_count %6, %0, %5 {{steps=2, eps=0.001}} : i32[1]
              %11 = select_slots %9, %6, %10, %4, %7, %5 : bool[1, 4]
              %12 = commit %11, %8, %1 : i32[1, 4]
              %13 = advance_stream %2 : u32[4]
              return %12, %13
            }}"
        )
    }

    #[test]
    fn drops_steps_that_fill_no_slot() {
        insta::assert_snapshot!(check(run, &looped(", slots=1, eps=0.001", "%7")));
    }

    #[test]
    fn keeps_steps_whose_stream_is_used() {
        insta::assert_snapshot!(check(run, &looped(", slots=1, eps=0.001", "%6")));
    }

    #[test]
    fn keeps_steps_without_a_schedule() {
        insta::assert_snapshot!(check(run, &looped("", "%7")));
    }
}

//! Whether a loop's body fills slots as the loop says.

use crate::graph::{Graph, Node, NodeData, Value};
use crate::op::{Op, SlotSchedule};
use std::collections::BTreeMap;

/// Whether the first state, parameter 1, is written where it holds the token only, as often in each row as the schedule
/// of `steps` says, and every other state is handed on or is a stream.
pub(super) fn fills(body: &Graph, steps: u64, schedule: &SlotSchedule) -> bool {
    Body { graph: body, definitions: body.definitions() }.fills(steps, schedule).is_some()
}

struct Body<'a> {
    graph: &'a Graph,
    definitions: BTreeMap<Value, Node>,
}

impl<'a> Body<'a> {
    fn node(&self, value: Value) -> Option<&'a NodeData> {
        self.definitions.get(&value).map(|node| self.graph.node(*node))
    }

    fn fills(&self, steps: u64, schedule: &SlotSchedule) -> Option<()> {
        let step = self.graph.params.first()?.value;
        let (canvas, others) = self.graph.results.split_first()?;
        let old = self.graph.params.get(1)?.value;
        let commit = self.node(canvas.value)?;
        let select = match (&commit.op, commit.inputs.as_slice()) {
            (Op::Commit, [select, _, canvas]) if *canvas == old => *select,
            (Op::CommitSlots, [select, _, slots, canvas]) if *canvas == old => {
                self.open(*slots, old, schedule.token)?;
                *select
            }
            _ => return None,
        };
        let select = self.node(select).filter(|node| node.op == Op::SelectSlots)?;
        let (active, count) = (*select.inputs.get(1)?, self.node(*select.inputs.get(2)?)?);
        self.open(active, old, schedule.token)?;
        let of_schedule = Op::TransferCount { steps, eps: schedule.eps } == count.op
            && count.inputs.get(..2) == Some(&[active, step]);
        let handed_on = |(state, param): (Value, Value)| {
            let node = self.node(state);
            state == param || node.is_some_and(|n| n.op == Op::AdvanceStream && n.inputs == [param])
        };
        let states = others.iter().map(|p| p.value).zip(self.graph.params.iter().skip(2).map(|p| p.value));
        (of_schedule && states.into_iter().all(handed_on)).then_some(())
    }

    /// Whether `value` says where the canvas holds the token.
    fn open(&self, value: Value, canvas: Value, token: u64) -> Option<()> {
        let node = self.node(value)?;
        let ops = [Op::IsToken { token }, Op::OpenSlots { token }];
        (ops.contains(&node.op) && node.inputs == [canvas]).then_some(())
    }
}

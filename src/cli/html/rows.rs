//! The dispatches of a program as rows: what each costs, and what lies in the arena meanwhile.

use crate::cli::plan::kernel;
use dreamc::cost::{self, Cost};
use dreamc_artifact::plan::{Dispatch, Program, Step, ValueId};
use dreamc_backend::Liveness;
use dreamc_ir::{Graph, NodeData, Op, Verified};
use std::collections::BTreeMap;

/// Names of the largest values that are told.
const LARGEST: usize = 3;

/// One dispatch.
pub(super) struct Row {
    /// Kernel and settings.
    pub(super) kernel: String,
    /// Where it comes from.
    pub(super) origin: String,
    /// How often it runs.
    pub(super) runs: u32,
    /// One run; none where the IR does not say.
    pub(super) cost: Option<Cost>,
    /// Bytes of the arena that are needed meanwhile.
    pub(super) live_bytes: u64,
    /// The largest values among them, with their bytes.
    pub(super) largest: Vec<(String, u64)>,
}

impl Row {
    /// The layer or the part of the model that it belongs to.
    pub(super) fn group(&self) -> String {
        let first = self.origin.split(", ").next().unwrap_or_default();
        let parts: Vec<&str> = first.split('.').collect();
        match parts.iter().position(|p| p.bytes().all(|b| b.is_ascii_digit()) && !p.is_empty()) {
            Some(number) => parts[..=number].join("."),
            None => parts.first().map_or("other", |part| part).to_owned(),
        }
    }
}

/// The rows of a program, in order; those of a loop once.
pub(super) fn rows(program: &Program, module: Verified<'_>) -> Vec<Row> {
    let mut dispatches = Vec::new();
    flatten(&program.steps, 1, &mut dispatches);
    let (live, names) = (Liveness::of(program), names(program, &dispatches));
    let (bytes, costs) = (live.bytes(), costs(program, module, &dispatches));
    let row = |(time, ((dispatch, runs), cost)): (usize, (&(&Dispatch, u32), Option<Cost>))| {
        let now = live.blocks.iter().filter(|b| (b.first..=b.last).contains(&time));
        let mut now: Vec<_> = now.collect();
        now.sort_by_key(|b| (std::cmp::Reverse(b.bytes), b.offset));
        let name = |id: ValueId| names.get(&id).cloned().unwrap_or_else(|| "scratch memory".to_owned());
        Row {
            kernel: kernel(&dispatch.kernel),
            origin: dispatch.origin.join(", "),
            runs: *runs,
            cost,
            live_bytes: bytes.get(time).copied().unwrap_or(0),
            largest: now.iter().take(LARGEST).map(|b| (name(b.value), b.bytes)).collect(),
        }
    };
    dispatches.iter().zip(costs).enumerate().map(row).collect()
}

fn flatten<'a>(steps: &'a [Step], runs: u32, list: &mut Vec<(&'a Dispatch, u32)>) {
    for step in steps {
        match step {
            Step::Dispatch(dispatch) => list.push((dispatch, runs)),
            Step::Denoise(denoise) => flatten(&denoise.body, denoise.steps, list),
        }
    }
}

/// What each value is: an input, or the result of a module.
fn names(program: &Program, dispatches: &[(&Dispatch, u32)]) -> BTreeMap<ValueId, String> {
    let mut names = BTreeMap::new();
    for port in &program.inputs {
        names.insert(port.value, port.name.clone());
    }
    for (dispatch, _) in dispatches {
        for id in &dispatch.writes {
            names.entry(*id).or_insert_with(|| dispatch.origin.join(", "));
        }
    }
    for port in &program.outputs {
        names.entry(port.value).or_insert_with(|| port.name.clone());
    }
    names
}

/// The costs of the dispatches, by the nodes of the graph that the program was lowered from: both stand in one order.
fn costs(program: &Program, module: Verified<'_>, dispatches: &[(&Dispatch, u32)]) -> Vec<Option<Cost>> {
    let mut nodes: Vec<(&NodeData, Cost)> = Vec::new();
    if let Some(graph) = module.module().graph(&program.name) {
        lowered(graph, module, &mut nodes);
    }
    let mut next = 0;
    let mut cost = |(dispatch, _): &(&Dispatch, u32)| {
        let same = |(data, _): &(&NodeData, Cost)| {
            data.origin.0 == dispatch.origin
                && dreamc_backend::kernel(&data.op).is_ok_and(|kernel| kernel == dispatch.kernel)
        };
        let at = next + nodes[next..].iter().position(same)?;
        next = at + 1;
        Some(nodes[at].1)
    };
    dispatches.iter().map(&mut cost).collect()
}

fn lowered<'a>(graph: &'a Graph, module: Verified<'a>, list: &mut Vec<(&'a NodeData, Cost)>) {
    for (node, cost) in graph.order().iter().zip(cost::nodes(module, graph)) {
        let data = graph.node(*node);
        match &data.op {
            Op::Denoise { body, .. } => {
                if let Some(body) = module.module().graph(body) {
                    lowered(body, module, list);
                }
            }
            _ => list.push((data, cost)),
        }
    }
}

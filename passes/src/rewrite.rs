//! What every pass needs: who defines a value, whether it has one use only, and merged origins.

use crate::Stats;
use dreamc_ir::{Graph, Linear, Node, NodeData, Op, Origin, Value};
use std::collections::BTreeMap;

/// Definitions and uses of a graph's values, as they were when this was made.
pub(crate) struct Uses {
    definitions: BTreeMap<Value, Node>,
    counts: Vec<u32>,
}

impl Uses {
    pub(crate) fn of(graph: &Graph) -> Uses {
        Uses { definitions: graph.definitions(), counts: graph.use_counts() }
    }

    /// The node that defines `value`; none for a parameter.
    pub(crate) fn definition(&self, value: Value) -> Option<Node> {
        self.definitions.get(&value).copied()
    }

    /// The node that defines `value` if `value` is used exactly once, so that the node may move into its user.
    pub(crate) fn sole(&self, value: Value) -> Option<Node> {
        if self.counts[value.0 as usize] == 1 { self.definition(value) } else { None }
    }

    /// As [`Uses::sole`], where the node is a `linear`.
    pub(crate) fn sole_linear<'g>(
        &self,
        graph: &'g Graph,
        value: Value,
    ) -> Option<(Node, Linear, &'g NodeData)> {
        let node = self.sole(value)?;
        let data = graph.node(node);
        if let Op::Linear(linear) = data.op { Some((node, linear, data)) } else { None }
    }
}

/// Offers each node, in program order, to `rule`, which says how many nodes it removed, or none if it left
/// the graph alone.
pub(crate) fn each_node(
    graph: &mut Graph,
    mut rule: impl FnMut(&mut Graph, &Uses, Node) -> Option<u32>,
) -> Stats {
    let mut stats = Stats::default();
    let mut uses = Uses::of(graph);
    for node in graph.order().to_vec() {
        if let Some(removed) = rule(graph, &uses, node) {
            stats += Stats { rewritten: 1, removed };
            uses = Uses::of(graph);
        }
    }
    stats
}

/// Origins of these nodes in this order, each path once.
pub(crate) fn merged_origin(graph: &Graph, nodes: &[Node]) -> Origin {
    let mut merged = Origin::default();
    for path in nodes.iter().flat_map(|n| &graph.node(*n).origin.0) {
        if !merged.0.contains(path) {
            merged.0.push(path.clone());
        }
    }
    merged
}

/// `node` becomes `op`, which does the work of `absorbed` too; those leave the program.
/// Gives the number of nodes removed.
pub(crate) fn absorb(graph: &mut Graph, node: Node, absorbed: &[Node], op: Op, inputs: Vec<Value>) -> u32 {
    let origin = merged_origin(graph, &[absorbed, &[node]].concat());
    graph.replace(node, op, inputs);
    graph.node_mut(node).origin = origin;
    for gone in absorbed {
        graph.remove(*gone);
    }
    absorbed.len() as u32
}

/// Place of a node in the program order.
pub(crate) fn place(graph: &Graph, node: Node) -> Option<usize> {
    graph.order().iter().position(|n| *n == node)
}

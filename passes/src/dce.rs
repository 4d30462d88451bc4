//! Remove nodes none of whose values are used.
//!
//! Requires: a verified graph.
//! Ensures: every node has a value that a later node or a result uses.
//! Declines: nothing. All ops are pure, so what is not used need not be computed; parameters stay, since
//! they are the graph's signature.
//!
//! ```text
//! %1 = silu %0 : f32[4]
//! %2 = silu %1 : f32[4]
//! return %1                =>    %1 = silu %0 : f32[4]
//! ```

use crate::Stats;
use dreamc_ir::{Graph, Node, Value};
use std::collections::BTreeSet;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    let mut used: BTreeSet<Value> = graph.results.iter().map(|p| p.value).collect();
    let mut live: BTreeSet<Node> = BTreeSet::new();
    for node in graph.order().iter().rev() {
        let data = graph.node(*node);
        if data.outputs.iter().any(|v| used.contains(v)) {
            live.insert(*node);
            used.extend(&data.inputs);
        }
    }
    let removed = (graph.order().len() - live.len()) as u32;
    graph.retain(|node| live.contains(&node));
    Stats { rewritten: 0, removed }
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn removes_a_dead_chain() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[4]) {
              %1 = silu %0 : f32[4]
              %2 = silu %1 : f32[4]
              %3 = add %2, %0 : f32[4]
              return %1
            }"
        ));
    }

    #[test]
    fn keeps_a_node_with_one_used_value() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: i32[1, 3]) {
              %1, %2 = rope_table %0 {theta=10000.0, sections=[2]} : f32[1, 3, 2], f32[1, 3, 2]
              return %2
            }"
        ));
    }
}

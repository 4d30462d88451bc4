//! Compute equal expressions once.
//!
//! Requires: a verified graph.
//! Ensures: no two nodes have the same op, operands and result types.
//! Declines: nothing. The first node and its origin stay.
//!
//! ```text
//! %1 = silu %0 : f32[4]
//! %2 = silu %0 : f32[4]
//! %3 = add %1, %2 : f32[4]    =>    %3 = add %1, %1 : f32[4]
//! ```

use crate::Stats;
use dreamc_ir::{Graph, Type, Value};
use std::collections::BTreeMap;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    let mut stats = Stats::default();
    let mut seen: BTreeMap<(String, Vec<Value>, Vec<Type>), Vec<Value>> = BTreeMap::new();
    for node in graph.order().to_vec() {
        let data = graph.node(node);
        let types = data.outputs.iter().map(|v| graph.ty(*v).clone()).collect();
        let outputs = data.outputs.clone();
        // Debug text tells attributes apart exactly, floats included.
        let key = (format!("{:?}", data.op), data.inputs.clone(), types);
        match seen.get(&key) {
            None => {
                seen.insert(key, outputs);
            }
            Some(first) => {
                for (old, new) in outputs.iter().zip(first) {
                    graph.replace_uses(*old, *new);
                }
                graph.remove(node);
                stats += Stats { rewritten: 1, removed: 1 };
            }
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn merges_chains() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[4]) {
              %1 = silu %0 : f32[4] loc "first"
              %2 = silu %0 : f32[4] loc "second"
              %3 = mul %1, %0 : f32[4]
              %4 = mul %2, %0 : f32[4]
              %5 = add %3, %4 : f32[4]
              return %5, %4
            }"#
        ));
    }

    #[test]
    fn keeps_other_attributes_operands_and_types() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2, 4], %1: f32[4]) {
              %2 = rms_norm %0, %1 {eps=1e-6} : f32[2, 4]
              %3 = rms_norm %0, %1 {eps=1e-5} : f32[2, 4]
              %4 = rms_norm %2, %1 {eps=1e-6} : f32[2, 4]
              %5 = rms_norm %0, %1 {eps=1e-6} : bf16[2, 4]
              return %2, %3, %4, %5
            }"
        ));
    }
}

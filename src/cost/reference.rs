//! What an entry costs as the reference runs it, to compare what was compiled with.
//!
//! The module as imported computes what the reference computes, but for action models with slots that are no masks: there
//! the reference runs the whole model in every pass (`spec/actions.md` sections 4 to 6), that is the vision tower, the
//! embeddings and the projector of the state again in each step of a loop, and the vocabulary's head on all rows, also
//! where its logits are not used. Of the final norm the rows before the prompt, at most two, are not counted.

use super::{Cost, Counter, Unbounded};
use dreamc_frontend::{EMBEDDING, LM_HEAD};
use dreamc_ir::{Dim, Graph, Linear, Module, NodeData, Op, Origin, Type, Weight};
use dreamc_num::DType;

/// Final norm, which [`LM_HEAD`] reads.
const NORM: &str = "model.norm";

/// One run of an entry of the module as imported. `repeats`: whether the reference runs the whole model in every pass.
/// `images`: see [`Lengths::images`](super::Lengths::images). Nothing where there is no such entry, or a symbol has no bound.
pub fn reference(module: &Module, entry: &str, repeats: bool, images: u64) -> Option<Cost> {
    let counter = |graph| Counter::new(module, graph, &module.symbols, images);
    let graph = module.graph(entry)?;
    let mut cost = counter(graph).count().ok()?.total;
    if !repeats {
        return Some(cost);
    }
    let (passes, body) = match graph.order().iter().find_map(|n| denoise(&graph.node(*n).op)) {
        Some((steps, body)) => (steps, Some(module.graph(body)?)),
        None => (1, None),
    };
    if let Some(body) = body {
        let inside = counter(body).count().ok()?.total.times(passes);
        cost += cost.less(inside).times(passes.saturating_sub(1));
    }
    let own = counter(body.unwrap_or(graph)).of_head().ok()?;
    cost += all_rows(module, entry)?.less(own).times(passes);
    Some(cost)
}

fn denoise(op: &Op) -> Option<(u64, &str)> {
    if let Op::Denoise { steps, body, .. } = op { Some((*steps, body)) } else { None }
}

impl Counter<'_> {
    /// What the graph itself spends on the final norm and the vocabulary's head.
    fn of_head(&self) -> Result<Cost, Unbounded> {
        let is_head = |data: &NodeData| data.origin.0.iter().any(|path| path == NORM || path == LM_HEAD_PATH);
        let mut cost = Cost::default();
        for data in self.graph.order().iter().map(|n| self.graph.node(*n)).filter(|data| is_head(data)) {
            cost += self.node(data)?;
        }
        Ok(cost)
    }
}

/// Origin of the vocabulary's head.
const LM_HEAD_PATH: &str = "lm_head";

/// Norm and vocabulary's head on every row of the canvas.
fn all_rows(module: &Module, entry: &str) -> Option<Cost> {
    let table = module.graphs.iter().find_map(|graph| {
        let named = |data: &&NodeData| matches!(&data.op, Op::Weight(weight) if weight.name == EMBEDDING);
        let node = graph.order().iter().map(|n| graph.node(*n)).find(named)?;
        Some(graph.ty(*node.outputs.first()?).clone())
    })?;
    let [vocabulary, hidden] = table.dims.as_slice() else { return None };
    let rows = |dtype, columns: &Dim| Type::new(dtype, [1.into(), Dim::symbol("S"), columns.clone()]);
    let mut graph = Graph::new(entry);
    let weight = |graph: &mut Graph, name: &str, ty: Type| {
        let node = graph.push(Op::Weight(Weight::named(name)), vec![], vec![ty], Origin::default());
        graph.node(node).outputs.clone()
    };
    let x = graph.param("hidden", rows(DType::F32, hidden));
    let gain = weight(&mut graph, NORM, Type::new(DType::F32, [hidden.clone()]));
    let inputs = [&[x], gain.as_slice()].concat();
    let norm =
        graph.push(Op::RmsNorm { eps: 1e-6 }, inputs, vec![rows(table.dtype, hidden)], Origin::default());
    let head = weight(&mut graph, LM_HEAD, table.clone());
    let inputs = [graph.node(norm).outputs.as_slice(), &head].concat();
    let linear = Op::Linear(Linear { weights: 1, ..Linear::default() });
    graph.push(linear, inputs, vec![rows(DType::F32, vocabulary)], Origin::default());
    Some(Counter::new(module, &graph, &module.symbols, 1).count().ok()?.total)
}

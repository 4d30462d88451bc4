//! Give the weights of matmuls few bits.
//!
//! Requires: verified modules, after the pipeline.
//! Ensures: every `linear` whose weights are tensors of the checkpoint reads them as the scheme says, and none that is kept
//! changes. The weights of one `linear` are treated alike, and a tensor alike in all modules. What else reads a tensor, as
//! an embedding does, reads it as before.
//! Declines: weights that are not stored as they are in the checkpoint.
//!
//! This changes what is computed, so it is no pass of the pipeline.
//!
//! ```text
//! %1 = weight {name="w"} : f32[16, 64]          %1 = weight {name="w", bits=8} : f32[16, 64]
//! %2 = linear %0, %1 : f32[B, S, 16]      =>    %2 = linear %0, %1 {int8=1} : f32[B, S, 16]
//! ```

use dreamc_ir::{Graph, Linear, Module, Node, Op, Value, Weight};
use dreamc_num::Quant;
use std::collections::{BTreeMap, BTreeSet};

/// How weights are rounded, and which.
#[derive(Clone, Copy)]
pub struct Scheme<'a> {
    /// What becomes of weights.
    pub weights: Rounding,
    /// What becomes of weights that are kept; none leaves them as they are.
    pub kept: Option<Rounding>,
    /// Whether a tensor is kept.
    pub keeps: &'a dyn Fn(&str) -> bool,
}

/// How a matmul is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// Its weights.
    pub quant: Quant,
    /// Whether the rows that are multiplied are rounded to 8 bits too.
    pub int8: bool,
}

/// What was decided about each tensor that a matmul reads, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// All of them.
    pub tensors: BTreeMap<String, Decision>,
}

/// What was decided about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is rounded.
    Rounded,
    /// It is kept: the scheme says so.
    Kept,
    /// It is kept since this one is, with which it is multiplied.
    KeptWith(String),
}

/// Runs the transformation on all modules of a build together.
pub fn run(modules: &mut [&mut Module], scheme: &Scheme<'_>) -> Decisions {
    let decisions = decide(modules, scheme);
    let graphs = modules.iter_mut().flat_map(|module| &mut module.graphs);
    graphs.for_each(|graph| apply(graph, scheme, &decisions));
    decisions
}

fn decide(modules: &[&mut Module], scheme: &Scheme<'_>) -> Decisions {
    let graphs = modules.iter().flat_map(|module| &module.graphs);
    let together: BTreeSet<Vec<String>> = graphs
        .flat_map(|graph| {
            let named =
                |node: &Node| Some(matmul(graph, *node)?.1.into_iter().map(|(_, name)| name).collect());
            graph.order().iter().filter_map(named).collect::<Vec<_>>()
        })
        .collect();
    let decision = |name: &String| if (scheme.keeps)(name) { Decision::Kept } else { Decision::Rounded };
    let names = together.iter().flatten();
    let mut tensors: BTreeMap<String, Decision> = names.map(|n| (n.clone(), decision(n))).collect();
    // A tensor that is kept for another's sake may keep others where it is multiplied elsewhere.
    loop {
        let mut settled = true;
        for names in &together {
            let Some(kept) = names.iter().find(|name| tensors[*name] != Decision::Rounded) else { continue };
            for name in names {
                if tensors[name] == Decision::Rounded {
                    tensors.insert(name.clone(), Decision::KeptWith(kept.clone()));
                    settled = false;
                }
            }
        }
        if settled {
            return Decisions { tensors };
        }
    }
}

/// A node that multiplies by tensors of the checkpoint, none of them rounded yet: its settings, and its weights by operand.
fn matmul(graph: &Graph, node: Node) -> Option<(Linear, Vec<(usize, String)>)> {
    let data = graph.node(node);
    let Op::Linear(linear) = data.op else { return None };
    let first = 1 + usize::from(linear.norm_eps.is_some()) + usize::from(linear.smooth);
    let names = (first..first + linear.weights as usize).map(|operand| {
        let value = data.inputs.get(operand)?;
        let mut nodes = graph.order().iter().map(|node| graph.node(*node));
        match &nodes.find(|data| data.outputs.contains(value))?.op {
            Op::Weight(Weight { name, columns: None, quant: None }) => Some((operand, name.clone())),
            _ => None,
        }
    });
    Some((linear, names.collect::<Option<_>>()?))
}

fn apply(graph: &mut Graph, scheme: &Scheme<'_>, decisions: &Decisions) {
    let mut rounded: BTreeMap<(Value, Quant), Value> = BTreeMap::new();
    let mut replaced: BTreeSet<Value> = BTreeSet::new();
    for node in graph.order().to_vec() {
        let Some((linear, weights)) = matmul(graph, node) else { continue };
        let kept = weights.iter().any(|(_, name)| decisions.tensors[name] != Decision::Rounded);
        let Some(rounding) = (if kept { scheme.kept } else { Some(scheme.weights) }) else { continue };
        let mut inputs = graph.node(node).inputs.clone();
        for (operand, _) in weights {
            let value = inputs[operand];
            let known = rounded.get(&(value, rounding.quant)).copied();
            inputs[operand] = known.unwrap_or_else(|| stored(graph, value, rounding.quant));
            rounded.insert((value, rounding.quant), inputs[operand]);
            replaced.insert(value);
        }
        graph.replace(node, Op::Linear(Linear { int8: rounding.int8, ..linear }), inputs);
    }
    let uses = graph.use_counts();
    let gone: BTreeSet<Node> = graph
        .definitions()
        .into_iter()
        .filter(|(value, _)| replaced.contains(value) && uses[value.0 as usize] == 0)
        .map(|(_, node)| node)
        .collect();
    graph.retain(|node| !gone.contains(&node));
}

/// The tensor of `value` in few bits, behind the node that defines it.
fn stored(graph: &mut Graph, value: Value, quant: Quant) -> Value {
    let node = graph.definitions()[&value];
    let at = graph.order().iter().position(|n| *n == node).unwrap_or(0);
    let (mut data, ty) = (graph.node(node).clone(), graph.ty(value).clone());
    if let Op::Weight(weight) = &mut data.op {
        weight.quant = Some(quant);
    }
    let node = graph.insert(at + 1, data.op, vec![], vec![ty], data.origin);
    graph.node(node).outputs[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_ir::{parse, verify};

    const W8A8: Rounding = Rounding { quant: Quant::Int8, int8: true };
    const W4A16: Rounding = Rounding { quant: Quant::Int4 { group: 32, zero: true }, int8: false };

    /// Text and decisions after the run; both modules verify, and a second run changes nothing.
    fn check(weights: Rounding, kept: Option<Rounding>, keep: &[&str], text: &str) -> String {
        let keeps = |name: &str| keep.contains(&name);
        let scheme = Scheme { weights, kept, keeps: &keeps };
        let mut module = parse(text).unwrap();
        verify(&module).unwrap();
        let decisions = run(&mut [&mut module], &scheme);
        verify(&module).unwrap();
        let once = module.to_string();
        assert_eq!(parse(&once).unwrap(), module);
        run(&mut [&mut module], &scheme);
        assert_eq!(once, module.to_string(), "a second run changes the graph");
        format!("{:?}\n{module}", decisions.tensors)
    }

    const MERGED: &str = r#"graph @f(%0: f32[1, 3, 64]) {
      %1 = weight {name="gain"} : f32[64]
      %2 = weight {name="gate"} : f32[16, 64]
      %3 = weight {name="up"} : f32[16, 64]
      %4 = weight {name="down"} : f32[64, 16]
      %5 = linear %0, %1, %2, %3 {weights=2, norm_eps=1e-6, swiglu=1} : f32[1, 3, 16]
      %6 = linear %5, %4, %0 {residual=1} : f32[1, 3, 64]
      return %6
    }"#;

    #[test]
    fn rounds_weights_and_rows() {
        insta::assert_snapshot!(check(W8A8, None, &[], MERGED));
    }

    #[test]
    fn keeps_all_weights_of_a_matmul() {
        insta::assert_snapshot!(check(W4A16, None, &["up"], MERGED));
    }

    #[test]
    fn gives_kept_weights_more_bits() {
        let kept = Rounding { quant: Quant::Int8, int8: false };
        insta::assert_snapshot!(check(W4A16, Some(kept), &["down"], MERGED));
    }

    /// The table of an embedding is no matmul's weight, also where it is one elsewhere.
    #[test]
    fn leaves_embeddings_alone() {
        insta::assert_snapshot!(check(
            W8A8,
            None,
            &[],
            r#"graph @f(%0: i32[1, 3]) {
              %1 = weight {name="table"} : f32[32, 64]
              %2 = embed %0, %1 : f32[1, 3, 64]
              %3 = linear %2, %1 {first=8, len=4} : f32[1, 3, 4]
              return %3
            }"#
        ));
    }

    #[test]
    fn leaves_computed_weights_alone() {
        insta::assert_snapshot!(check(
            W8A8,
            None,
            &[],
            r#"graph @f(%0: f32[1, 3, 64], %1: f32[16, 64]) {
              %2 = linear %0, %1 : f32[1, 3, 16]
              return %2
            }"#
        ));
    }

    /// What one module multiplies together stays together in another that does not.
    #[test]
    fn decides_for_all_modules_alike() {
        let apart = r#"graph @f(%0: f32[1, 3, 64]) {
          %2 = weight {name="gate"} : f32[16, 64]
          %5 = linear %0, %2 : f32[1, 3, 16]
          return %5
        }"#;
        let (mut first, mut second) = (parse(apart).unwrap(), parse(MERGED).unwrap());
        let scheme = Scheme { weights: W8A8, kept: None, keeps: &|name| name == "up" };
        let decisions = run(&mut [&mut first, &mut second], &scheme);
        assert_eq!(decisions.tensors["gate"], Decision::KeptWith("up".to_owned()));
        assert_eq!(first, parse(apart).unwrap());
    }
}

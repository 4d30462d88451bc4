//! Give the weights of matmuls few bits.
//!
//! Requires: verified modules, after the pipeline.
//! Ensures: every `linear` whose weights are tensors of the checkpoint reads them as the scheme says, and none that is kept
//! changes. The weights of one `linear` are treated alike, and a tensor alike in all modules. What else reads a tensor, as
//! an embedding does, reads it as before.
//! Where calibration has factors for the columns of a tensor, its weights are multiplied by them, and the rows divided.
//! Declines: weights that are not stored as they are in the checkpoint.
//!
//! This changes what is computed, so it is no pass of the pipeline.
//!
//! ```text
//! %1 = weight {name="w"} : f32[16, 64]          %1 = weight {name="w", bits=8} : f32[16, 64]
//! %2 = linear %0, %1 : f32[B, S, 16]      =>    %2 = linear %0, %1 {int8=1} : f32[B, S, 16]
//! ```

use dreamc_ir::{Graph, Linear, Module, Node, Op, Type, Value, Weight};
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};
use std::collections::{BTreeMap, BTreeSet};

/// How weights are rounded, and which.
#[derive(Clone, Copy)]
pub struct Scheme<'a> {
    /// What becomes of weights.
    pub weights: Rounding,
    /// What becomes of weights that are kept; none leaves them as they are.
    pub kept: Option<Rounding>,
    /// What calibration knows of the columns of a tensor that is not kept; the same for all that are multiplied together.
    pub calibrated: &'a dyn Fn(&str) -> Columns,
}

/// How a matmul is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// Its weights.
    pub quant: Quant,
    /// What the rows that are multiplied are rounded to, if they are too.
    pub codes: Option<Codes>,
}

/// Names of vectors that calibration has for the columns of a tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Columns {
    /// What weights are multiplied by, and rows divided by, before they are rounded.
    pub factors: Option<String>,
    /// How much errors of the weights count, in groups.
    pub importance: Option<String>,
    /// How the errors of the weights are fed back, in groups.
    pub feedback: Option<String>,
}

/// Name of the vector `of` divided by `factors`, element by element; without `of`, one divided by them.
pub fn quotient(of: Option<&str>, factors: &str) -> String {
    format!("{} / {factors}", of.unwrap_or("1"))
}

/// What [`quotient`] made a name of.
pub fn as_quotient(name: &str) -> Option<(Option<&str>, &str)> {
    let (of, factors) = name.split_once(" / ")?;
    Some((Some(of).filter(|of| *of != "1"), factors))
}

/// Tensors of the checkpoint that are multiplied together, and which rows of the only one, if not all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Matmul {
    /// Names of the tensors.
    pub names: Vec<String>,
    /// First row and number of rows.
    pub rows: Option<(u64, u64)>,
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

/// The matmuls of all modules whose weights are tensors of the checkpoint that nothing is done to yet.
pub fn matmuls(modules: &[&mut Module]) -> BTreeSet<Matmul> {
    let graphs = modules.iter().flat_map(|module| &module.graphs);
    graphs
        .flat_map(|graph| {
            let definitions = graph.definitions();
            let of = |node: &Node| {
                let (linear, weights) = matmul(graph, &definitions, *node)?;
                Some(Matmul { names: weights.into_iter().map(|(_, name)| name).collect(), rows: linear.rows })
            };
            graph.order().iter().filter_map(of).collect::<Vec<_>>()
        })
        .collect()
}

/// Decides about the tensors of all [`matmuls`] of a build together. `keeps` says whether a tensor is kept.
pub fn decide(matmuls: &BTreeSet<Matmul>, keeps: &dyn Fn(&str) -> bool) -> Decisions {
    let decision = |name: &String| if keeps(name) { Decision::Kept } else { Decision::Rounded };
    let names = matmuls.iter().flat_map(|matmul| &matmul.names);
    let mut tensors: BTreeMap<String, Decision> = names.map(|n| (n.clone(), decision(n))).collect();
    // A tensor that is kept for another's sake may keep others where it is multiplied elsewhere.
    loop {
        let mut settled = true;
        for Matmul { names, .. } in matmuls {
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

/// Runs the transformation on all modules of a build, whose tensors were decided about.
pub fn run(modules: &mut [&mut Module], scheme: &Scheme<'_>, decisions: &Decisions) {
    let graphs = modules.iter_mut().flat_map(|module| &mut module.graphs);
    graphs.for_each(|graph| apply(graph, scheme, decisions));
}

/// A node that multiplies by tensors of the checkpoint, none of them rounded yet: its settings, and its weights by operand.
fn matmul(
    graph: &Graph,
    definitions: &BTreeMap<Value, Node>,
    node: Node,
) -> Option<(Linear, Vec<(usize, String)>)> {
    let data = graph.node(node);
    let Op::Linear(linear) = data.op else { return None };
    let names = linear.weight_operands().map(|operand| {
        let weight = weight(graph, definitions, *data.inputs.get(operand)?)?;
        (weight.quant.is_none()).then(|| (operand, weight.name.clone()))
    });
    Some((linear, names.collect::<Option<_>>()?))
}

/// The tensor that a value is.
fn weight<'a>(graph: &'a Graph, definitions: &BTreeMap<Value, Node>, value: Value) -> Option<&'a Weight> {
    match &graph.node(*definitions.get(&value)?).op {
        Op::Weight(weight) => Some(weight),
        _ => None,
    }
}

fn apply(graph: &mut Graph, scheme: &Scheme<'_>, decisions: &Decisions) {
    let definitions = graph.definitions();
    let mut made = Made::default();
    let mut replaced: BTreeSet<Value> = BTreeSet::new();
    for node in graph.order().to_vec() {
        let Some((mut linear, weights)) = matmul(graph, &definitions, node) else { continue };
        let kept = weights.iter().any(|(_, name)| decisions.tensors[name] != Decision::Rounded);
        let Some(rounding) = (if kept { scheme.kept } else { Some(scheme.weights) }) else { continue };
        let columns = match weights.first() {
            Some((_, name)) if !kept => (scheme.calibrated)(name),
            Some(_) | None => Columns::default(),
        };
        linear.codes = rounding.codes;
        let mut inputs = graph.node(node).inputs.clone();
        let first = definitions[&inputs[linear.weight_operands().start]];
        for (operand, name) in weights {
            let tensor = Weight {
                name,
                quant: Some(rounding.quant),
                columns: columns.factors.clone(),
                importance: columns.importance.clone(),
                feedback: columns.feedback.clone(),
            };
            replaced.insert(inputs[operand]);
            let ty = graph.ty(inputs[operand]).clone();
            inputs[operand] = made.weight(graph, definitions[&inputs[operand]], tensor, ty);
        }
        // Rows are divided in the gain of their norm, which is a constant of this node, else by an operand.
        if let Some(factors) = &columns.factors {
            let gain = linear.norm_eps.and_then(|_| weight(graph, &definitions, inputs[1]));
            if let Some(name) = gain.map(|gain| quotient(Some(&gain.name), factors)) {
                replaced.insert(inputs[1]);
                let ty = graph.ty(inputs[1]).clone();
                inputs[1] = made.weight(graph, definitions[&inputs[1]], Weight::named(name), ty);
            } else {
                let ty = Type::new(DType::F32, graph.ty(inputs[0]).dims.last().cloned());
                let inverse = made.weight(graph, first, Weight::named(quotient(None, factors)), ty);
                inputs.insert(linear.weight_operands().start, inverse);
                linear.smooth = true;
            }
        }
        graph.replace(node, Op::Linear(linear), inputs);
    }
    let uses = graph.use_counts();
    let gone: BTreeSet<Node> = definitions
        .into_iter()
        .filter(|(value, _)| replaced.contains(value) && uses[value.0 as usize] == 0)
        .map(|(_, node)| node)
        .collect();
    graph.retain(|node| !gone.contains(&node));
}

/// The tensors that were put into a graph, by name and form.
#[derive(Default)]
struct Made(BTreeMap<(String, Option<Quant>), Value>);

impl Made {
    /// A tensor, which is defined behind `node` if it is new.
    fn weight(&mut self, graph: &mut Graph, node: Node, weight: Weight, ty: Type) -> Value {
        let key = (weight.name.clone(), weight.quant);
        *self.0.entry(key).or_insert_with(|| {
            let at = graph.order().iter().position(|n| *n == node).map_or(0, |at| at + 1);
            let origin = graph.node(node).origin.clone();
            let made = graph.insert(at, Op::Weight(weight), vec![], vec![ty], origin);
            graph.node(made).outputs[0]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_ir::{parse, verify};

    const W8A8: Rounding = Rounding { quant: Quant::Int8, codes: Some(Codes::Int8) };
    const W4A16: Rounding = Rounding { quant: Quant::Int4 { group: 32, zero: true }, codes: None };

    /// Text and decisions after the run; both modules verify, and a second run changes nothing.
    fn check(weights: Rounding, kept: Option<Rounding>, keep: &[&str], text: &str) -> String {
        check_with(&Scheme { weights, kept, calibrated: &|_| Columns::default() }, keep, text)
    }

    fn check_with(scheme: &Scheme<'_>, keep: &[&str], text: &str) -> String {
        let mut module = parse(text).unwrap();
        verify(&module).unwrap();
        let decisions = decide(&matmuls(&[&mut module]), &|name| keep.contains(&name));
        run(&mut [&mut module], scheme, &decisions);
        verify(&module).unwrap();
        let once = module.to_string();
        assert_eq!(parse(&once).unwrap(), module);
        run(&mut [&mut module], scheme, &decisions);
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
    fn rounds_weights_and_rows_to_fp8() {
        let fp8 = Rounding { quant: Quant::Fp8, codes: Some(Codes::Fp8) };
        insta::assert_snapshot!(check(fp8, None, &["down"], MERGED));
    }

    #[test]
    fn keeps_all_weights_of_a_matmul() {
        insta::assert_snapshot!(check(W4A16, None, &["up"], MERGED));
    }

    #[test]
    fn gives_kept_weights_more_bits() {
        let kept = Rounding { quant: Quant::Int8, codes: None };
        insta::assert_snapshot!(check(W4A16, Some(kept), &["down"], MERGED));
    }

    /// Rows are divided in the gain of a norm, or by an operand.
    #[test]
    fn divides_rows_by_what_weights_are_multiplied_by() {
        let calibrated = |name: &str| Columns {
            factors: Some(format!("{name}.columns")),
            importance: Some(format!("{name}.importance")),
            feedback: Some(format!("{name}.feedback")),
        };
        let int4 = Quant::Int4 { group: 32, zero: true };
        let weights = Rounding { quant: int4, codes: Some(Codes::Int8) };
        let scheme = Scheme { weights, kept: None, calibrated: &calibrated };
        insta::assert_snapshot!(check_with(&scheme, &[], MERGED));
        assert_eq!(as_quotient(&quotient(Some("gain"), "a.columns")), Some((Some("gain"), "a.columns")));
        assert_eq!(as_quotient(&quotient(None, "a.columns")), Some((None, "a.columns")));
        assert_eq!(as_quotient("gain"), None);
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
        let scheme = Scheme { weights: W8A8, kept: None, calibrated: &|_| Columns::default() };
        let decisions = decide(&matmuls(&[&mut first, &mut second]), &|name| name == "up");
        run(&mut [&mut first, &mut second], &scheme, &decisions);
        assert_eq!(decisions.tensors["gate"], Decision::KeptWith("up".to_owned()));
        assert_eq!(first, parse(apart).unwrap());
    }
}

//! Compute only the logits of tokens that may be chosen.
//!
//! Requires: a verified graph.
//! Ensures: no `keep_tokens` that restricts every row, between a head without bias or residual and the choice of a token.
//! The head multiplies the rows of its weight that are kept, and the choice counts from the first of them.
//! Declines: restrictions that a request decides on; logits or probabilities that somebody else reads; the confidence
//! `probability`, which looks a token up by its number.
//!
//! The other tokens had probability 0, so tokens, draws and confidences are the same.
//!
//! ```text
//! %3 = const {ints=[0, 0]} : i32[1, 2]
//! %4 = linear %0, %1 : f32[1, 2, 500]
//! %5 = keep_tokens %4, %3 {first=300, len=20} : f32[1, 2, 500]
//! %6 = sampling_probs %5, .. : f32[1, 2, 500]
//! %7 = draw_token %6, .. : i32[1, 2]
//! =>
//! %3 = linear %0, %1 {first=300, len=20} : f32[1, 2, 20]
//! %4 = sampling_probs %3, .. : f32[1, 2, 20]
//! %5 = draw_token %4, .. {first=300} : i32[1, 2]
//! ```

use crate::Stats;
use crate::rewrite::{Uses, each_node, place};
use dreamc_ir::{Confidence, Dim, Graph, Linear, Literal, Node, Op, Type, Value};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let found = find(graph, uses, node)?;
        let before = graph.order().len();
        narrow(graph, &found)?;
        Some((before - graph.order().len()) as u32)
    })
}

/// A head, what is done to its logits, and the choices from them, all of tokens `first..first + len`.
struct Found {
    first: u64,
    len: u64,
    head: Node,
    linear: Linear,
    /// From the head on; the restriction last.
    between: Vec<Node>,
    /// A distribution, and who reads it.
    choices: Vec<(Node, Vec<Node>)>,
}

fn find(graph: &Graph, uses: &Uses, node: Node) -> Option<Found> {
    let data = graph.node(node);
    let (&Op::KeepTokens { first, len }, &[logits, rows]) = (&data.op, data.inputs.as_slice()) else {
        return None;
    };
    let Op::Const(Literal::Ints(marks)) = &graph.node(uses.definition(rows)?).op else { return None };
    if marks.iter().any(|mark| *mark < 0) {
        return None;
    }
    let (mut between, mut value) = (vec![node], logits);
    let (head, linear) = loop {
        let made = uses.sole(value)?;
        let data = graph.node(made);
        match data.op {
            Op::EosPenalty { .. } | Op::ShiftRows => between.push(made),
            Op::Linear(linear) => break (made, linear),
            _ => return None,
        }
        value = *data.inputs.first()?;
    };
    between.reverse();
    let plain = Linear { weights: 1, norm_eps: linear.norm_eps, ..Linear::default() };
    if linear != plain {
        return None;
    }
    let mut choices = Vec::new();
    for probs in readers(graph, *data.outputs.first()?)? {
        let data = graph.node(probs);
        let users = readers(graph, *data.outputs.first()?)?;
        let chooses = |user: &Node| {
            let op = &graph.node(*user).op;
            matches!(
                op,
                Op::DrawToken { .. } | Op::Confidence(Confidence::Margin | Confidence::NegativeEntropy)
            )
        };
        if data.op != Op::SamplingProbs || !users.iter().all(chooses) {
            return None;
        }
        choices.push((probs, users));
    }
    Some(Found { first, len, head, linear, between, choices })
}

/// The nodes whose first operand is `value`; `None` where it is used otherwise too, or not at all.
fn readers(graph: &Graph, value: Value) -> Option<Vec<Node>> {
    let reads = |node: &Node| graph.node(*node).inputs.first() == Some(&value);
    let readers: Vec<Node> = graph.order().iter().copied().filter(reads).collect();
    let uses = graph.use_counts()[value.0 as usize] as usize;
    (uses > 0 && readers.len() == uses).then_some(readers)
}

/// Puts narrow nodes in the place of wide ones.
fn narrow(graph: &mut Graph, found: &Found) -> Option<()> {
    let Found { first, len, head, linear, .. } = *found;
    let op = Op::Linear(Linear { rows: Some((first, len)), ..linear });
    let x = *graph.node(head).inputs.first()?;
    let mut logits = instead(graph, head, op, x, len)?;
    for node in &found.between {
        let op = match graph.node(*node).op {
            // The penalty of a token that cannot be chosen is no matter.
            Op::EosPenalty { token, steps, eps } => {
                let inside = token.checked_sub(first).filter(|token| *token < len);
                inside.map(|token| Op::EosPenalty { token, steps, eps })
            }
            Op::ShiftRows => Some(Op::ShiftRows),
            _ => None,
        };
        match op {
            Some(op) => logits = instead(graph, *node, op, logits, len)?,
            None => graph.remove(*node),
        }
    }
    for (probs, users) in &found.choices {
        let probs = instead(graph, *probs, Op::SamplingProbs, logits, len)?;
        for user in users {
            let data = graph.node(*user);
            let op = match &data.op {
                Op::DrawToken { first: before } => Op::DrawToken { first: before + first },
                other => other.clone(),
            };
            let rest = data.inputs.get(1..)?.to_vec();
            graph.replace(*user, op, [vec![probs], rest].concat());
        }
    }
    Some(())
}

/// A node of `len` columns that stands for `node`, reading `x` first.
fn instead(graph: &mut Graph, node: Node, op: Op, x: Value, len: u64) -> Option<Value> {
    let at = place(graph, node)?;
    let data = graph.node(node).clone();
    let wide: &Type = graph.ty(*data.outputs.first()?);
    let outer = wide.dims.split_last()?.1.iter().cloned();
    let ty = Type::new(wide.dtype, outer.chain([Dim::from(len)]));
    let inputs = [&[x], data.inputs.get(1..)?].concat();
    let new = graph.insert(at, op, inputs, vec![ty], data.origin);
    graph.remove(node);
    graph.node(new).outputs.first().copied()
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    /// Everything that may stand between, a penalty inside and one outside.
    #[test]
    fn narrows_the_head() {
        insta::assert_snapshot!(check(
            run,
            r#"graph @f(%0: f32[1, 4, 8], %1: f32[40, 8], %2: f32[], %3: f32[], %4: i32[], %5: i32[1, 4], %6: u32[1, 4], %7: f32[8]) {
              %8 = const {ints=[0, 3, 1, 0]} : i32[1, 4]
              %9 = is_token %5 {token=1} : bool[1, 4]
              %10 = linear %0, %7, %1 {norm_eps=1e-6} : f32[1, 4, 40] loc "lm_head"
              %11 = shift_rows %10 : f32[1, 4, 40]
              %12 = eos_penalty %11, %2, %4 {token=31, steps=6, eps=0.001} : f32[1, 4, 40]
              %13 = eos_penalty %12, %2, %4 {token=5, steps=6, eps=0.001} : f32[1, 4, 40]
              %14 = keep_tokens %13, %8 {first=30, len=7} : f32[1, 4, 40] loc "kept"
              %15 = sampling_probs %14, %9, %2, %3, %4 : f32[1, 4, 40]
              %16 = draw_token %15, %9, %2, %6 : i32[1, 4] loc "token"
              %17 = confidence %15, %9, %16 {kind=margin} : f32[1, 4]
              %18 = confidence %15, %9, %16 {kind=negative_entropy} : f32[1, 4]
              return %16, %17, %18
            }"#
        ));
    }

    #[test]
    fn keeps_logits_that_others_want() {
        let graph = |marks: &str, head: &str, kind: &str, results: &str| {
            format!(
                "graph @f(%0: f32[1, 2, 8], %1: f32[40, 8], %2: f32[], %3: f32[], %4: i32[], %5: i32[1, 2], %6: u32[1, 2], %7: f32[40]) {{
                  %8 = const {{ints=[{marks}]}} : i32[1, 2]
                  %9 = is_token %5 {{token=1}} : bool[1, 2]
                  %10 = linear %0, %1{head} : f32[1, 2, 40]
                  %11 = keep_tokens %10, %8 {{first=30, len=7}} : f32[1, 2, 40]
                  %12 = sampling_probs %11, %9, %2, %3, %4 : f32[1, 2, 40]
                  %13 = draw_token %12, %9, %2, %6 : i32[1, 2]
                  %14 = confidence %12, %9, %13 {{kind={kind}}} : f32[1, 2]
                  return %13, %14{results}
                }}"
            )
        };
        for text in [
            graph("0, -1", "", "margin", ""),
            graph("0, 0", ", %7 {bias=1}", "margin", ""),
            graph("0, 0", "", "probability", ""),
            graph("0, 0", "", "margin", ", %10"),
            graph("0, 0", "", "margin", ", %11"),
            graph("0, 0", "", "margin", ", %12"),
        ] {
            let report = check(run, &text);
            assert!(report.contains("---- 0 rewritten, 0 removed"), "{report}");
        }
        let report = check(run, &graph("0, 0", "", "margin", ""));
        assert!(report.contains("---- 1 rewritten, 1 removed"), "{report}");
    }
}

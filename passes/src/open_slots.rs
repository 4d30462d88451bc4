//! The sampler of a loop computes only the rows of open slots.
//!
//! Requires: a verified graph, before `canonicalize` moves the shift of the logits.
//! Ensures: no `is_token` of a canvas that a loop's body commits to. What lay between it, the shifted logits and the
//! `commit` has a row for each of the `K` open slots instead of one for each of the `S` positions. Rows are taken before
//! the final norm and the head where nobody else uses them. What an open slot takes and whether it is committed stays
//! the same: slots are in the order of their positions, and bits are those of their positions.
//! Declines: a graph that is no body of a loop over a canvas; a canvas in which several tokens are looked for; values of
//! the sampler that are results or have a user that does not go row by row.
//!
//! ```text
//! %2 = is_token %1 {token=502} : bool[B, S]
//! %4 = linear %3, %w : f32[B, S, 512]
//! %5 = shift_rows %4 : f32[B, S, 512]
//! %6 = sampling_probs %5, %2, ..
//! =>
//! %2, %3 = open_slots %1 {token=502} : i32[B, K], bool[B, K]
//! %5 = read_rows %2 {before=0} : i32[B, K]
//! %6 = take_rows %4, %5 : f32[B, K, 64]
//! %7 = linear %6, %w : f32[B, K, 512]
//! %8 = sampling_probs %7, %3, ..
//! ```

use crate::Stats;
use crate::rewrite::{Uses, place};
use dreamc_ir::{Graph, Linear, Node, Op, Origin, Type, Value, infer};
use dreamc_num::DType;
use std::collections::BTreeSet;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    let Some(sampler) = Sampler::find(graph) else { return Stats::default() };
    let before = graph.order().len();
    let rewritten = sampler.nodes.len() as u32;
    sampler.rewrite(graph);
    Stats { rewritten, removed: before.saturating_sub(graph.order().len()) as u32 }
}

/// What is to be rewritten.
struct Sampler {
    canvas: Value,
    token: u64,
    /// In program order, from the first of `is_token`, `random_bits` and `shift_rows` to the `commit`.
    nodes: Vec<Node>,
}

impl Sampler {
    fn find(graph: &Graph) -> Option<Sampler> {
        let [step, canvas, ..] = graph.params.as_slice() else { return None };
        let canvas = canvas.value;
        if *graph.ty(step.value) != Type::scalar(DType::I32) {
            return None;
        }
        let uses = Uses::of(graph);
        let commit = uses.definition(graph.results.first()?.value)?;
        let committed = graph.node(commit);
        if committed.op != Op::Commit || committed.inputs.get(2) != Some(&canvas) {
            return None;
        }
        let mut token = None;
        let (mut nodes, mut by_slot) = (Vec::new(), BTreeSet::new());
        for node in graph.order() {
            let data = graph.node(*node);
            let takes = |operands: &[usize]| operands.iter().all(|i| by_slot.contains(&data.inputs[*i]));
            let touches = data.inputs.iter().any(|v| by_slot.contains(v));
            let becomes = match &data.op {
                Op::IsToken { token: found } if data.inputs == [canvas] => {
                    if token.replace(*found).is_some() {
                        return None;
                    }
                    true
                }
                Op::RandomBits { .. } => data.inputs[0] == canvas,
                Op::ShiftRows => !touches && is_read_by_sampler(graph, data.outputs[0]),
                Op::EosPenalty { .. } | Op::KeepTokens { .. } => takes(&[0]),
                Op::SamplingProbs => takes(&[0, 1]),
                Op::DrawToken { .. } => takes(&[0, 1, 3]),
                Op::Confidence(_) => takes(&[0, 1, 2]),
                Op::SelectSlots => takes(&[0, 1, 4]),
                Op::OriginSlots { .. } => takes(&[0, 2]),
                // A number for each row of the canvas, as before.
                Op::TransferCount { .. } if takes(&[0]) => continue,
                Op::Commit if *node == commit => takes(&[0, 1]),
                _ => false,
            };
            if becomes {
                nodes.push(*node);
                if *node != commit {
                    by_slot.insert(data.outputs[0]);
                }
            } else if touches || *node == commit {
                return None;
            }
        }
        let kept = graph.results.iter().any(|port| by_slot.contains(&port.value));
        if kept { None } else { Some(Sampler { canvas, token: token?, nodes }) }
    }

    fn rewrite(self, graph: &mut Graph) {
        let Sampler { canvas, token, nodes } = self;
        let active = nodes.iter().copied().find(|n| matches!(graph.node(*n).op, Op::IsToken { .. }));
        let Some(active) = active else { return };
        // Slots come first: all other nodes use them.
        let origin = graph.node(active).origin.clone();
        let at = nodes.first().and_then(|first| place(graph, *first)).unwrap_or(0);
        let found = insert(graph, at, Op::OpenSlots { token }, vec![canvas], DType::I32, origin);
        let (slots, open) = (found[0], found[1]);
        for node in nodes {
            let data = graph.node(node).clone();
            match data.op {
                Op::IsToken { .. } => supersede(graph, node, open),
                Op::RandomBits { lane } => {
                    again(graph, node, Op::SlotBits { lane }, vec![slots, data.inputs[1]]);
                }
                Op::ShiftRows => take(graph, node, slots),
                Op::KeepTokens { .. } => {
                    let at = place(graph, node).unwrap_or(0);
                    let (marks, origin) = (vec![data.inputs[1], slots], data.origin);
                    let marks = insert(graph, at, Op::TakeSlots, marks, DType::I32, origin)[0];
                    again(graph, node, data.op, vec![data.inputs[0], marks]);
                }
                Op::Commit => {
                    let [select, token, canvas] = [0, 1, 2].map(|i| data.inputs[i]);
                    graph.replace(node, Op::CommitSlots, vec![select, token, slots, canvas]);
                }
                op => again(graph, node, op, data.inputs),
            }
        }
    }
}

/// Whether a node of the sampler takes `value` for its logits.
fn is_read_by_sampler(graph: &Graph, value: Value) -> bool {
    graph.order().iter().map(|node| graph.node(*node)).any(|data| {
        let takes_logits =
            matches!(data.op, Op::EosPenalty { .. } | Op::KeepTokens { .. } | Op::SamplingProbs);
        takes_logits && data.inputs.first() == Some(&value)
    })
}

/// `shift_rows` becomes a `take_rows` of the rows that the slots read, as far up as nobody else uses what is computed.
fn take(graph: &mut Graph, shift: Node, slots: Value) {
    let uses = Uses::of(graph);
    let mut source = graph.node(shift).inputs[0];
    // From below.
    let (mut row_wise, mut unread) = (Vec::new(), None);
    while let Some(node) = uses.sole(source) {
        let data = graph.node(node);
        if !matches!(data.op, Op::Linear(Linear { residual: false, .. }) | Op::RmsNorm { .. }) {
            break;
        }
        row_wise.push(node);
        source = data.inputs[0];
    }
    let mut before = 0;
    if let Some(node) = uses.definition(source)
        && let Op::DropRows { count } = graph.node(node).op
    {
        if uses.sole(source).is_some() {
            unread = Some(node);
        }
        (before, source) = (count, graph.node(node).inputs[0]);
    }
    let at = place(graph, shift).unwrap_or(0);
    let origin = graph.node(shift).origin.clone();
    let rows = insert(graph, at, Op::ReadRows { before }, vec![slots], DType::I32, origin.clone())[0];
    let dtype = graph.ty(source).dtype;
    let mut taken = insert(graph, at + 1, Op::TakeRows, vec![source, rows], dtype, origin)[0];
    for (next, node) in row_wise.iter().rev().enumerate() {
        let data = graph.node(*node).clone();
        let mut inputs = data.inputs;
        inputs[0] = taken;
        let dtype = graph.ty(data.outputs[0]).dtype;
        taken = insert(graph, at + 2 + next, data.op, inputs, dtype, data.origin)[0];
    }
    supersede(graph, shift, taken);
    row_wise.into_iter().chain(unread).for_each(|node| graph.remove(node));
}

/// The node once more at its place, on other operands and so of another type.
fn again(graph: &mut Graph, node: Node, op: Op, inputs: Vec<Value>) {
    let data = graph.node(node);
    let (origin, dtype) = (data.origin.clone(), graph.ty(data.outputs[0]).dtype);
    let at = place(graph, node).unwrap_or(0);
    let new = insert(graph, at, op, inputs, dtype, origin)[0];
    supersede(graph, node, new);
}

/// Users of the node's value use `new`; the node leaves the program.
fn supersede(graph: &mut Graph, node: Node, new: Value) {
    let old = graph.node(node).outputs[0];
    graph.replace_uses(old, new);
    graph.remove(node);
}

fn insert(
    graph: &mut Graph,
    at: usize,
    op: Op,
    inputs: Vec<Value>,
    dtype: DType,
    origin: Origin,
) -> Vec<Value> {
    let given: Vec<Type> = inputs.iter().map(|v| graph.ty(*v).clone()).collect();
    let types = infer(&op, &given, dtype)
        .unwrap_or_else(|rule| panic!("bug: open-slots gives `{}` other operands: {rule}", op.name()));
    let node = graph.insert(at, op, inputs, types, origin);
    graph.node(node).outputs.clone()
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    /// A loop over a canvas; `sampler` is what its body does.
    fn looped(results: &str, sampler: &str) -> String {
        let head = "symbol B <= 2\nsymbol K <= 6\nsymbol S <= 6\n
            graph @f(%0: i32[B, S], %1: u32[4], %2: f32[B, S, 4], %3: f32[], %4: f32[], %5: i32[], %6: i32[], %7: i32[B, S]) {
              %8, %9, %10 = denoise %0, %1, %2, %3, %4, %5, %6, %7 {steps=3, state=2, body=\"step\"} : i32[B, S], u32[4], i32[3, B, S]
              return %8, %10
            }
            graph @step(%0: i32[], %1: i32[B, S], %2: u32[4], %3: f32[B, S, 4], %4: f32[], %5: f32[], %6: i32[], %7: i32[], %8: i32[B, S]) {
              %9 = is_token %1 {token=1} : bool[B, S] loc \"active\"
              %10 = weight {name=\"gain\"} : f32[4]
              %11 = weight {name=\"head\"} : f32[5, 4]
              %12 = rms_norm %3, %10 {eps=1e-6} : f32[B, S, 4] loc \"norm\"
              %13 = linear %12, %11 : f32[B, S, 5] loc \"head\"
              %14 = shift_rows %13 : f32[B, S, 5] loc \"shift\"";
        let tail = "%90 = advance_stream %2 : u32[4]";
        format!("{head}\n{sampler}\n{tail}\nreturn {results}, %90\n}}")
    }

    const CONFIDENT: &str = "
        %15 = eos_penalty %14, %4, %0 {token=3, steps=3, eps=0.001} : f32[B, S, 5]
        %16 = sampling_probs %15, %9, %4, %5, %6 : f32[B, S, 5]
        %17 = random_bits %1, %2 {lane=token} : u32[B, S] loc \"token_bits\"
        %18 = draw_token %16, %9, %4, %17 : i32[B, S]
        %19 = confidence %16, %9, %18 {kind=margin} : f32[B, S]
        %20 = random_bits %1, %2 {lane=slot} : u32[B, S]
        %21 = transfer_count %9, %0, %7 {steps=3, eps=0.001} : i32[B]
        %22 = select_slots %19, %9, %21, %5, %20, %7 : bool[B, S]
        %23 = commit %22, %18, %1 : i32[B, S] loc \"canvas\"";

    #[test]
    fn takes_the_rows_of_slots() {
        insta::assert_snapshot!(check(run, &looped("%23", CONFIDENT)));
    }

    #[test]
    fn takes_the_rows_of_slots_drawn_by_chance() {
        let text = "
        %15 = keep_tokens %14, %8 {first=1, len=3} : f32[B, S, 5]
        %16 = sampling_probs %15, %9, %4, %5, %6 : f32[B, S, 5]
        %17 = random_bits %1, %2 {lane=token} : u32[B, S]
        %18 = draw_token %16, %9, %4, %17 : i32[B, S]
        %19 = random_bits %1, %2 {lane=slot} : u32[B, S]
        %22 = origin_slots %9, %0, %19 {steps=3, eps=0.001} : bool[B, S]
        %23 = commit %22, %18, %1 : i32[B, S]";
        insta::assert_snapshot!(check(run, &looped("%23", text)));
    }

    /// Rows before the canvas are counted, not copied.
    #[test]
    fn counts_the_rows_before() {
        insta::assert_snapshot!(check(run, &prefixed()));
    }

    fn prefixed() -> String {
        looped("%23", CONFIDENT)
            .replace("%12 = rms_norm %3,", "%30 = weight {name=\"row\"} : f32[1, 2, 4]\n%31 = concat %30, %3 {axis=1} : f32[1, S+2, 4]\n%32 = drop_rows %31 {count=2} : f32[1, S, 4]\n%12 = rms_norm %32,")
            .replace("symbol B <= 2\n", "")
            .replace("[B]", "[1]")
            .replace("B, ", "1, ")
    }

    /// The head computes all rows for whoever else looks at them; the sampler takes its rows from the logits.
    #[test]
    fn keeps_shared_logits() {
        let more = format!(
            "{CONFIDENT}\n%24 = slice %13 {{start=0, len=4}} : f32[B, S, 4]\n%25 = add %24, %3 : f32[B, S, 4]"
        );
        insta::assert_snapshot!(check(run, &looped("%23", &more)));
    }

    #[test]
    fn keeps_a_sampler_whose_values_are_results() {
        let text = looped("%18", CONFIDENT);
        insta::assert_snapshot!(check(run, &text));
    }

    #[test]
    fn keeps_a_sampler_with_another_user() {
        let more = CONFIDENT.replace("%16 =", "%40 = add %15, %15 : f32[B, S, 5]\n%16 =");
        insta::assert_snapshot!(check(run, &looped("%23", &more)));
    }

    #[test]
    fn keeps_a_canvas_with_two_tokens() {
        let more = CONFIDENT.replace("%15 =", "%40 = is_token %1 {token=2} : bool[B, S]\n%15 =");
        insta::assert_snapshot!(check(run, &looped("%23", &more)));
    }

    #[test]
    fn keeps_logits_that_are_not_shifted() {
        insta::assert_snapshot!(check(
            run,
            &looped("%23", &CONFIDENT.replace("eos_penalty %14", "eos_penalty %13"))
        ));
    }

    /// No loop, so nobody would say how many slots there are.
    #[test]
    fn keeps_a_sampler_outside_of_a_loop() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: bool[1, 3], %1: i32[1, 3], %2: i32[1, 3]) {
              %3 = is_token %2 {token=1} : bool[1, 3]
              %4 = commit %3, %1, %2 : i32[1, 3]
              return %4
            }"
        ));
    }
}

//! Compute at compile time what depends on constants only.
//!
//! Requires: a verified graph.
//! Ensures: no `add`, `mul`, `slice`, `concat`, `shift_rows`, `is_token`, `commit` or `advance_stream` of
//! constants, within the limits below.
//! Declines: more than [`ELEMENTS_MAX`] elements, which belong in the weights; ops whose result is rounded
//! in a way that devices differ in (`silu` and all with an exponential or a root); sums and products that
//! are not f32 or not finite.
//!
//! ```text
//! %0 = const {ints=[1, 2]} : i32[1, 2]
//! %1 = is_token %0 {token=2} : bool[1, 2]    =>    %1 = const {ints=[0, 1]} : bool[1, 2]
//! ```

use crate::Stats;
use crate::rewrite::{Uses, each_node};
use dreamc_ir::{Graph, Literal, Node, Op, Type};
use dreamc_num::DType;
use dreamc_num::stream::StreamState;

/// Larger results stay computed.
pub const ELEMENTS_MAX: usize = 4096;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Stats {
    each_node(graph, |graph, uses, node| {
        let literal = evaluate(graph, uses, node)?;
        let ty = graph.ty(*graph.node(node).outputs.first()?);
        if !literal.fits(ty) {
            return None;
        }
        graph.replace(node, Op::Const(literal), vec![]);
        Some(0)
    })
}

fn evaluate(graph: &Graph, uses: &Uses, node: Node) -> Option<Literal> {
    let data = graph.node(node);
    let output = graph.ty(*data.outputs.first()?);
    if output.elements().as_constant()? > ELEMENTS_MAX as u64 {
        return None;
    }
    let mut inputs: Vec<(&Literal, &Type)> = Vec::new();
    for value in &data.inputs {
        let Op::Const(literal) = &graph.node(uses.definition(*value)?).op else { return None };
        inputs.push((literal, graph.ty(*value)));
    }
    let columns = |ty: &Type| ty.columns().map(|n| n as usize);
    match (&data.op, inputs.as_slice()) {
        (Op::Add, [(a, _), (b, _)]) => pairwise(a, b, output, |x, y| x + y),
        (Op::Mul, [(a, _), (b, _)]) => pairwise(a, b, output, |x, y| x * y),
        (Op::Slice { start, len }, [(x, ty)]) => {
            let (start, len, width) = (*start as usize, *len as usize, columns(ty)?);
            Some(gather(x, |n| (0..n).filter(|i| (start..start + len).contains(&(i % width))).collect()))
        }
        (Op::Concat { axis: 0 }, [(first, _), rest @ ..]) => {
            rest.iter().try_fold((*first).clone(), |all, (part, _)| joined(all, part))
        }
        (Op::ShiftRows, [(x, ty)]) => {
            let (width, rows) = (columns(ty)?, ty.dims.get(1)?.as_constant()? as usize);
            let source = |i: usize| if (i / width).is_multiple_of(rows) { i } else { i - width };
            Some(gather(x, |n| (0..n).map(source).collect()))
        }
        (Op::IsToken { token }, [(Literal::Ints(canvas), _)]) => {
            let token = i64::try_from(*token).ok()?;
            Some(Literal::Ints(canvas.iter().map(|t| i64::from(*t == token)).collect()))
        }
        (Op::Commit, [(Literal::Ints(select), _), (Literal::Ints(token), _), (Literal::Ints(canvas), _)]) => {
            let chosen = select.iter().zip(token).zip(canvas);
            Some(Literal::Ints(chosen.map(|((on, t), c)| if *on != 0 { *t } else { *c }).collect()))
        }
        (Op::AdvanceStream, [(Literal::Ints(words), _)]) => {
            let words: Vec<u32> = words.iter().map(|w| u32::try_from(*w).ok()).collect::<Option<_>>()?;
            let mut state = StreamState::from_words(words.try_into().ok()?);
            state.step = state.step.wrapping_add(1);
            Some(Literal::Ints(state.words().map(i64::from).to_vec()))
        }
        _ => None,
    }
}

fn pairwise(a: &Literal, b: &Literal, ty: &Type, op: fn(f32, f32) -> f32) -> Option<Literal> {
    let (Literal::Floats(a), Literal::Floats(b)) = (a, b) else { return None };
    if ty.dtype != DType::F32 {
        return None;
    }
    let result: Vec<f32> = a.iter().zip(b).map(|(x, y)| op(*x, *y)).collect();
    result.iter().all(|x| x.is_finite()).then_some(Literal::Floats(result))
}

/// Elements of `x` at the places that `places` gives for their number.
fn gather(x: &Literal, places: impl Fn(usize) -> Vec<usize>) -> Literal {
    match x {
        Literal::Floats(v) => Literal::Floats(places(v.len()).into_iter().map(|i| v[i]).collect()),
        Literal::Ints(v) => Literal::Ints(places(v.len()).into_iter().map(|i| v[i]).collect()),
    }
}

fn joined(all: Literal, part: &Literal) -> Option<Literal> {
    match (all, part) {
        (Literal::Floats(a), Literal::Floats(b)) => Some(Literal::Floats([a.as_slice(), b].concat())),
        (Literal::Ints(a), Literal::Ints(b)) => Some(Literal::Ints([a.as_slice(), b].concat())),
        (Literal::Floats(_), Literal::Ints(_)) | (Literal::Ints(_), Literal::Floats(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::check;

    #[test]
    fn folds_a_chain() {
        insta::assert_snapshot!(check(
            run,
            "graph @f() {
              %0 = const {floats=[1.0, 2.0, 3.0, 4.0]} : f32[1, 2, 2]
              %1 = add %0, %0 : f32[1, 2, 2]
              %2 = mul %1, %0 : f32[1, 2, 2]
              %3 = shift_rows %2 : f32[1, 2, 2]
              %4 = concat %3, %2 : f32[2, 2, 2]
              %5 = slice %4 {start=1, len=1} : f32[2, 2, 1]
              return %5
            }"
        ));
    }

    #[test]
    fn folds_tokens_and_the_stream() {
        insta::assert_snapshot!(check(
            run,
            "graph @f() {
              %0 = const {ints=[1, 2, 3]} : i32[1, 3]
              %1 = is_token %0 {token=2} : bool[1, 3]
              %2 = const {ints=[7, 8, 9]} : i32[1, 3]
              %3 = commit %1, %2, %0 : i32[1, 3]
              %4 = const {ints=[1, 2, 3, 4294967295]} : u32[4]
              %5 = advance_stream %4 : u32[4]
              return %3, %5
            }"
        ));
    }

    #[test]
    fn keeps_what_is_rounded_large_or_not_constant() {
        insta::assert_snapshot!(check(
            run,
            "graph @f(%0: f32[2]) {
              %1 = const {floats=[3e38, 2.0]} : f32[2]
              %2 = add %1, %1 : f32[2]
              %3 = silu %1 : f32[2]
              %4 = add %0, %3 : f32[2]
              %5 = const {floats=[0.1, 0.2]} : bf16[2]
              %6 = mul %5, %5 : bf16[2]
              return %2, %4, %6
            }"
        ));
    }
}

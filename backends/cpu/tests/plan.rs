//! Where values lie: snapshots of lowered programs, and the rules that every one of them keeps.
//! Re-bless with `INSTA_UPDATE=always cargo test -p dreamc-backend-cpu`.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{Replay, arena, bytes, render};
use dreamc_artifact::plan::{ARENA_ALIGN, Dispatch, Place, Program, Step, ValueId};
use dreamc_backend::{Constants, EmitError};
use dreamc_ir::{Module, parse, verify};
use std::fmt::Write;

fn lowered(text: &str) -> Result<Program, EmitError> {
    let module: Module = parse(text).unwrap();
    let verified = verify(&module).unwrap_or_else(|e| panic!("{e}"));
    let mut constants = Constants::default();
    let name = module.graphs[0].name.clone();
    let program = dreamc_backend_cpu::emit(verified, &name, &name, &mut constants)?;
    let again = dreamc_backend_cpu::emit(verified, &name, &name, &mut Constants::default())?;
    assert_eq!(program, again, "two lowerings differ");
    let plan = dreamc_artifact::plan::Plan { programs: vec![program.clone()] };
    dreamc_artifact::validate(&plan, &dreamc_artifact::code::Code::default(), &constants.table().unwrap())
        .unwrap();
    Replay::new(&program).run();
    Ok(program)
}

/// Place of the value that a path writes, and of the first operand it reads.
fn written_by(program: &Program, path: &str) -> (Option<u64>, Vec<Option<u64>>) {
    fn find<'a>(steps: &'a [Step], path: &str) -> Option<&'a Dispatch> {
        steps.iter().find_map(|step| match step {
            Step::Dispatch(d) if d.origin == [path] => Some(d),
            Step::Dispatch(_) => None,
            Step::Denoise(d) => find(&d.body, path),
        })
    }
    let dispatch = find(&program.steps, path).unwrap();
    let reads = dispatch.reads.iter().map(|id| arena(program, *id)).collect();
    (arena(program, dispatch.writes[0]), reads)
}

#[track_caller]
fn in_place(program: &Program, path: &str, operand: usize) {
    let (write, reads) = written_by(program, path);
    assert_eq!(write, reads[operand], "`{path}` is not written in place\n{}", render(program));
}

#[track_caller]
fn apart(program: &Program, path: &str) {
    let (write, reads) = written_by(program, path);
    assert!(!reads.contains(&write), "`{path}` is written over an operand\n{}", render(program));
}

/// One layer, as the passes leave it.
const LAYER: &str = r#"symbol B <= 2
symbol S <= 16

graph @layer(%0: f32[B, S, 8] "hidden", %1: i32[B, S] "mask", %2: i32[B, S] "positions") {
  %3, %4 = rope_table %2 {theta=1000000.0, sections=[2]} : f32[B, S, 2], f32[B, S, 2] loc "rope"
  %5 = weight {name="input_norm"} : f32[8]
  %6 = weight {name="q_proj"} : bf16[8, 8]
  %7 = weight {name="kv_proj"} : bf16[8, 8]
  %8 = weight {name="bias"} : f32[16]
  %9 = linear %0, %5, %6, %7, %8 {weights=2, norm_eps=1e-6, bias=1} : bf16[B, S, 16] loc "qkv"
  %10 = attention %9, %1, %3, %4 {heads=2, kv_heads=1, head_dim=4, packed=1, rope=1} : bf16[B, S, 8] loc "attention"
  %11 = weight {name="o_proj"} : bf16[8, 8]
  %12 = linear %10, %11, %0 {residual=1} : f32[B, S, 8] loc "o"
  %13 = weight {name="post_norm"} : f32[8]
  %14 = weight {name="gate_proj"} : bf16[24, 8]
  %15 = weight {name="up_proj"} : bf16[24, 8]
  %16 = linear %12, %13, %14, %15 {weights=2, norm_eps=1e-6, swiglu=1} : bf16[B, S, 24] loc "gate_up"
  %17 = weight {name="down_proj"} : bf16[8, 24]
  %18 = linear %16, %17, %12 {residual=1} : f32[B, S, 8] loc "down"
  return %18 "out"
}
"#;

#[test]
fn decoder_layer() {
    let program = lowered(LAYER).unwrap();
    insta::assert_snapshot!(render(&program));
    // The residual stream stays where it is.
    in_place(&program, "o", 2);
    in_place(&program, "down", 2);
}

/// A loop around a model of one matmul.
fn generate(steps: u32, results: &str) -> String {
    format!(
        r#"symbol B <= 2
symbol S <= 4

graph @generate(%0: i32[B, S] "canvas", %1: u32[4] "stream", %2: f32[] "temperature", %3: f32[] "top_p", %4: i32[] "top_k",
    %5: f32[] "alg_temp", %6: f32[] "eos_penalty", %7: i32[B, S] "positions", %13: i32[] "joint") {{
  %8, %9 = rope_table %7 {{theta=10000.0, sections=[2]}} : f32[B, S, 2], f32[B, S, 2] loc "rope"
  %10, %11, %12 = denoise %0, %1, %2, %3, %4, %5, %6, %8, %9, %13 {{steps={steps}, state=2, body="generate.step"}} : i32[B, S], u32[4], i32[{steps}, B, S] loc "sampler"
  return {results}
}}

graph @generate.step(%0: i32[], %1: i32[B, S], %2: u32[4], %3: f32[], %4: f32[], %5: i32[], %6: f32[], %7: f32[],
    %8: f32[B, S, 2], %9: f32[B, S, 2], %26: i32[]) {{
  %10 = weight {{name="embedding"}} : f32[32, 8]
  %11 = embed %1, %10 : f32[B, S, 8] loc "embed"
  %12 = rope %11, %8, %9 {{head_dim=4}} : f32[B, S, 8] loc "rotated"
  %13 = linear %12, %10 : f32[B, S, 32] loc "lm_head"
  %14 = is_token %1 {{token=31}} : bool[B, S] loc "active"
  %15 = shift_rows %13 : f32[B, S, 32] loc "shift"
  %16 = eos_penalty %15, %7, %0 {{token=30, steps={steps}, eps=1e-3}} : f32[B, S, 32] loc "logits"
  %17 = sampling_probs %16, %14, %3, %4, %5 : f32[B, S, 32] loc "probs"
  %18 = random_bits %1, %2 {{lane=token}} : u32[B, S] loc "token_bits"
  %19 = draw_token %17, %14, %3, %18 : i32[B, S] loc "token"
  %20 = confidence %17, %14, %19 {{kind=negative_entropy}} : f32[B, S] loc "confidence"
  %21 = transfer_count %14, %0, %26 {{steps={steps}, eps=1e-3}} : i32[B] loc "count"
  %22 = random_bits %1, %2 {{lane=slot}} : u32[B, S] loc "slot_bits"
  %23 = select_slots %20, %14, %21, %6, %22, %26 : bool[B, S] loc "select"
  %24 = commit %23, %19, %1 : i32[B, S] loc "commit"
  %25 = advance_stream %2 : u32[4] loc "advance"
  return %24, %25
}}
"#
    )
}

const RESULTS: &str = r#"%10 "canvas", %12 "history""#;

#[test]
fn generate_loop() {
    let program = lowered(&generate(4, RESULTS)).unwrap();
    insta::assert_snapshot!(render(&program));
    in_place(&program, "rotated", 0);
    in_place(&program, "logits", 0);
    in_place(&program, "probs", 0);
    // A row takes its neighbour's.
    apart(&program, "shift");
    // Canvas and stream come from outside of the body.
    apart(&program, "commit");
    apart(&program, "advance");
}

/// What the loop captures and what is returned beside its results is not touched.
#[test]
fn values_from_outside_outlive_the_loop() {
    let program = lowered(&generate(3, &format!("{RESULTS}, %8 \"cos\", %11 \"stream\""))).unwrap();
    insta::assert_snapshot!(render(&program));
}

/// Only the history grows with the number of steps.
#[test]
fn arena_does_not_depend_on_steps() {
    let arena_of = |steps: u32| lowered(&generate(steps, RESULTS)).unwrap().arena_bytes;
    let history_of = |steps: u64| (steps * 2 * 4 * 4).next_multiple_of(ARENA_ALIGN);
    let base = arena_of(2) - history_of(2);
    for steps in [4, 16, 64, 256] {
        assert_eq!(arena_of(steps) - history_of(steps.into()), base, "{steps} steps");
    }
}

/// Twenty values of which two live at a time take the room of two.
#[test]
fn the_dead_make_room() {
    let mut text = "symbol S <= 32\ngraph @f(%0: f32[1, S, 64] \"x\") {\n".to_owned();
    for i in 1..=20 {
        let _ = writeln!(text, "  %{i} = shift_rows %{} : f32[1, S, 64] loc \"n{i}\"", i - 1);
    }
    text.push_str("  return %20 \"y\"\n}\n");
    let program = lowered(&text).unwrap();
    let all: u64 = (0..program.values.len() as u32).map(|i| bytes(&program, ValueId(i))).sum();
    assert_eq!((program.arena_bytes, all), (2 * 32 * 64 * 4, 21 * 32 * 64 * 4));
}

fn unary(body: &str) -> Program {
    lowered(&format!(
        "graph @f(%0: f32[1, 4, 8] \"x\", %1: f32[1, 4, 8] \"y\", %2: bf16[1, 4, 8] \"h\") {{\n{body}\n}}\n"
    ))
    .unwrap()
}

#[test]
fn in_place_where_nobody_else_reads() {
    let program = unary(
        "  %3 = silu %0 : f32[1, 4, 8] loc \"silu\"\n  %4 = mul %1, %3 : f32[1, 4, 8] loc \"mul\"\n  return %4 \"z\"",
    );
    in_place(&program, "silu", 0);
    in_place(&program, "mul", 0);
    assert_eq!(program.arena_bytes, 3 * ARENA_ALIGN);
}

#[test]
fn second_operand_where_the_first_is_used_later() {
    let program = unary(
        "  %3 = add %0, %1 : f32[1, 4, 8] loc \"add\"\n  %4 = mul %0, %3 : f32[1, 4, 8] loc \"mul\"\n  return %4 \"z\"",
    );
    in_place(&program, "add", 1);
    in_place(&program, "mul", 0);
}

#[test]
fn not_over_a_value_used_later() {
    let program = unary(
        "  %3 = silu %0 : f32[1, 4, 8] loc \"silu\"\n  %4 = shift_rows %0 : f32[1, 4, 8] loc \"shift\"\n  \
         %5 = add %3, %4 : f32[1, 4, 8] loc \"add\"\n  return %5 \"z\"",
    );
    apart(&program, "silu");
    in_place(&program, "add", 0);
}

#[test]
fn not_over_a_result() {
    let program = unary(
        "  %3 = silu %0 : f32[1, 4, 8] loc \"a\"\n  %4 = silu %3 : f32[1, 4, 8] loc \"b\"\n  return %3 \"a\", %4 \"b\", %1 \"y\"",
    );
    in_place(&program, "a", 0);
    apart(&program, "b");
}

#[test]
fn not_over_a_value_read_twice() {
    let program = unary("  %3 = add %0, %0 : f32[1, 4, 8] loc \"twice\"\n  return %3 \"z\"");
    apart(&program, "twice");
}

/// The same bytes in another type would not be the same place for the loader.
#[test]
fn not_over_another_type() {
    let program = unary(
        "  %3 = weight {name=\"w\"} : bf16[8, 8]\n  %4 = linear %2, %3, %0 {residual=1} : bf16[1, 4, 8] loc \"sum\"\n  return %4 \"z\"",
    );
    apart(&program, "sum");
}

#[test]
fn weights_are_stored_once() {
    let program = unary(
        "  %3 = weight {name=\"w\"} : f32[8, 8]\n  %4 = linear %0, %3 : f32[1, 4, 8] loc \"a\"\n  \
         %5 = linear %4, %3 : f32[1, 4, 8] loc \"b\"\n  return %5 \"z\"",
    );
    let weights = program.values.iter().filter(|v| matches!(v.place, Place::Weight(_))).count();
    assert_eq!(weights, 1);
}

#[test]
fn a_symbol_needs_a_bound() {
    let error =
        lowered("graph @f(%0: f32[S, 8] \"x\") {\n  %1 = silu %0 : f32[S, 8]\n  return %1 \"y\"\n}\n");
    assert_eq!(error, Err(EmitError::Unbounded("S".to_owned())));
    assert!(error.unwrap_err().to_string().contains("add `symbol S <= N`"));
}

#[test]
fn f16_is_refused_with_the_way_out() {
    let error = lowered(
        "graph @f(%0: f16[4, 8] \"x\") {\n  %1 = silu %0 : f16[4, 8] loc \"model.act\"\n  return %1 \"y\"\n}\n",
    );
    let text = error.unwrap_err().to_string();
    for part in ["cpu", "silu", "model.act", "f16", "--dtype bf16 or f32"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// What the loader would refuse is refused here, with a reason.
#[test]
fn what_no_kernel_does_is_refused() {
    let refused = |params: &str, body: &str, ty: &str, reason: &str| {
        let error = lowered(&format!("graph @f({params}) {{\n{body}\n  return %9 \"y\"\n}}\n"));
        let text = error.unwrap_err().to_string();
        assert!(text.contains(reason) && text.contains("model.x"), "{ty}: {text}");
    };
    refused(
        "%0: f32[1, 4, 8] \"x\", %1: f32[3, 8] \"w\"",
        "  %9 = linear %0, %1 : f32[1, 4, 3] loc \"model.x\"",
        "computed weight",
        "must come from the checkpoint",
    );
    refused(
        "%0: f32[1, 4, 8] \"x\"",
        "  %1 = weight {name=\"a\"} : f32[3, 8]\n  %2 = weight {name=\"b\"} : bf16[3, 8]\n  \
         %9 = linear %0, %1, %2 {weights=2} : f32[1, 4, 6] loc \"model.x\"",
        "weights of two types",
        "the same type",
    );
    refused(
        "%0: i32[1, 4, 8] \"x\"",
        "  %9 = shift_rows %0 : i32[1, 4, 8] loc \"model.x\"",
        "integers",
        "floats only",
    );
}

#[test]
fn too_large_is_an_error() {
    let error = lowered(
        "symbol S <= 4294967295\ngraph @f(%0: f32[S, S, S] \"x\") {\n  %1 = silu %0 : f32[S, S, S] loc \"model.act\"\n  return %1 \"y\"\n}\n",
    );
    assert!(matches!(error, Err(EmitError::TooLarge { .. })), "{error:?}");
}

#[test]
fn a_constant_is_no_result() {
    let error = lowered("graph @f() {\n  %0 = weight {name=\"w\"} : f32[8]\n  return %0 \"w\"\n}\n");
    assert!(matches!(error, Err(EmitError::Unsupported { op: "return", .. })), "{error:?}");
}

#[test]
fn no_entry() {
    let module = parse("graph @f() {\n  return\n}\n").unwrap();
    let verified = verify(&module).unwrap();
    let error = dreamc_backend_cpu::emit(verified, "g", "g", &mut Constants::default());
    assert_eq!(error, Err(EmitError::NoEntry("g".to_owned())));
}

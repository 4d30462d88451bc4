//! The text form and the verifier, seen from outside.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_ir::{parse, verify};

const LAYER: &str = r#"symbol B <= 2
symbol S <= 16

graph @forward(%0: i32[B, S] "input_ids", %1: i32[B, S] "attention_mask", %2: i32[B, S] "position_ids") {
  %3 = weight {name="model.embed_tokens.weight"} : bf16[32, 8]
  %4 = embed %0, %3 : f32[B, S, 8] loc "model.embed_tokens"
  %5, %6 = rope_table %2 {theta=1000000.0, sections=[2]} : f32[B, S, 2], f32[B, S, 2] loc "model.rotary_emb"
  %7 = weight {name="norm"} : f32[8]
  %8 = weight {name="q"} : bf16[8, 8]
  %9 = weight {name="kv"} : bf16[8, 8]
  %10 = linear %4, %7, %8, %9 {weights=2, norm_eps=1e-6} : bf16[B, S, 16] loc "q_proj", "kv"
  %11 = attention %10, %1, %5, %6 {heads=2, kv_heads=1, head_dim=4, packed=1, rope=1} : bf16[B, S, 8] loc "attn"
  return %11 "logits"
}

graph @generate(%0: i32[B, S] "canvas", %1: u32[4] "stream") {
  %2, %3, %4 = denoise %0, %1 {steps=4, state=2, body="generate.step"} : i32[B, S], u32[4], i32[4, B, S] loc "sampler"
  return %2 "canvas", %4 "history"
}

graph @generate.step(%0: i32[], %1: i32[B, S], %2: u32[4]) {
  %3 = is_token %1 {token=31} : bool[B, S] loc "sampler.active"
  %4 = random_bits %1, %2 {lane=slot} : u32[B, S]
  %5 = origin_slots %3, %0, %4 {steps=4, eps=0.001} : bool[B, S]
  %6 = const {ints=[-1, 2]} : i32[2]
  %7 = const {floats=[0.5]} : f32[1]
  %8 = commit %5, %1, %1 : i32[B, S]
  %9 = advance_stream %2 : u32[4]
  return %8, %9
}
"#;

#[test]
fn round_trip() {
    let module = parse(LAYER).unwrap();
    // `bf16` operands and the packed columns do not agree here on purpose elsewhere; this one is sound.
    let text = module.to_string();
    assert_eq!(text, LAYER);
    assert_eq!(parse(&text).unwrap(), module);
}

#[test]
fn sound_module_verifies() {
    verify(&parse(LAYER).unwrap()).unwrap();
}

/// Images, and noisy actions that a loop refines.
const ACT: &str = r#"symbol M <= 8
symbol S <= 16

graph @act(%0: i32[1, S] "input_ids", %1: f32[1, 2, 3] "noise", %2: i32[1, S] "slot_index", %3: i32[1, 6] "action_rows", %4: f32[1, 4*M, 8] "pixel_values", %5: i32[1, 4*M] "patch_segments", %6: i32[2, 1, 4*M] "patch_positions", %7: f32[1, S, 8] "embeddings") {
  %8, %9 = rope_table %6 {theta=10000.0, sections=[1, 1], axial=1} : f32[1, 4*M, 2], f32[1, 4*M, 2]
  %10 = rope %4, %8, %9 {head_dim=4} : f32[1, 4*M, 8]
  %11 = attention %10, %10, %4, %5 {heads=2, kv_heads=2, head_dim=4} : f32[1, 4*M, 8]
  %12 = merge_rows %11 {count=4} : f32[1, M, 32]
  %13 = slice %12 {start=0, len=8} : f32[1, M, 8]
  %14 = quick_gelu %13 : f32[1, M, 8]
  %15 = splice %7, %0, %14 : f32[1, S, 8]
  %16, %17 = denoise %1, %2, %3, %15 {steps=2, state=1, body="act.step"} : f32[1, 2, 3], f32[2, 1, 2, 3] loc "actions"
  return %16 "normalized_actions", %17 "history"
}

graph @act.step(%0: i32[], %1: f32[1, 2, 3], %2: i32[1, S], %3: i32[1, 6], %4: f32[1, S, 8]) {
  %5 = split_rows %1 {count=3} : f32[1, 6, 1]
  %6 = weight {name="fc"} : f32[8, 1]
  %7 = linear %5, %6 {first=0, len=8, activation=quick_gelu} : f32[1, 6, 8]
  %8 = splice %4, %2, %7 : f32[1, S, 8]
  %9 = timestep_embed %0 {times=[0.0, 0.5], width=8} : f32[1, 1, 8]
  %10 = concat %9, %8 {axis=1} : f32[1, S+1, 8]
  %11 = take_rows %10, %3 : f32[1, 6, 8]
  %12 = weight {name="gain"} : f32[8]
  %13 = layer_norm %11, %12, %12 {eps=1e-5} : f32[1, 6, 8]
  %14 = slice %13 {start=0, len=1} : f32[1, 6, 1]
  %15 = relu %14 : f32[1, 6, 1]
  %16 = merge_rows %15 {count=3} : f32[1, 2, 3]
  %17 = drop_rows %10 {count=1} : f32[1, S, 8]
  %18 = keep_tokens %17, %2 {first=2, len=3} : f32[1, S, 8]
  %19 = ddim_step %1, %16, %0 {alphas=[0.1, 0.5, 1.0]} : f32[1, 2, 3]
  %20 = euler_step %1, %16 {dt=0.5} : f32[1, 2, 3]
  %21 = stack %20 : f32[1, 1, 2, 3]
  %22 = const {ints=[0, 1]} : i32[2]
  %23 = timestep_embed %22 {times=[0.0, 0.5], width=8} : f32[1, 2, 8]
  %24 = take_rows %23, %0 : f32[1, 1, 8]
  return %20
}
"#;

#[test]
fn images_and_actions() {
    let module = parse(ACT).unwrap();
    assert_eq!(module.to_string(), ACT);
    verify(&module).unwrap();
    let cases = [
        ("sections=[1, 1]", "sections=[1, 1, 1]", "i32[axes, B, S]"),
        ("merge_rows %11 {count=4}", "merge_rows %11 {count=3}", "multiple of `count`"),
        ("split_rows %1 {count=3}", "split_rows %1 {count=2}", "multiple of `count`"),
        ("drop_rows %10 {count=1}", "drop_rows %10 {count=2}", "`count` rows in any case"),
        ("concat %9, %8 {axis=1}", "concat %9, %8 {axis=3}", "must have this axis"),
        ("concat %9, %8 {axis=1}", "concat %9, %8", "the one axis only"),
        ("splice %4, %2, %7", "splice %4, %3, %7", "index must be i32[B, S]"),
        ("take_rows %10, %3", "take_rows %10, %4", "the index i32[B, R]"),
        ("layer_norm %11, %12, %12", "layer_norm %11, %12, %0", "gain and bias"),
        ("times=[0.0, 0.5], width=8", "times=[0.0, 0.5], width=7", "even and at least 4"),
        ("alphas=[0.1, 0.5, 1.0]", "alphas=[0.1, 0.0]", "above 0"),
        ("len=3} : f32[1, S, 8]", "len=7} : f32[1, S, 8]", "inside the vocabulary"),
        ("euler_step %1, %16", "euler_step %1, %14", "one f32 type"),
        (
            "%6 {first=0, len=8, activation",
            "%6, %6 {weights=2, swiglu=1, activation",
            "swiglu takes no activation",
        ),
        ("%6 {first=0", "%6, %6 {weights=2, first=0", "those of one weight"),
        ("first=0, len=8", "first=1, len=8", "inside the weight"),
        ("first=0, len=8", "first=0, len=7", "the result must be f32[1, 6, 7]"),
        ("stack %20 : f32[1, 1, 2, 3]", "stack %20 : f32[2, 1, 2, 3]", "must be f32[1, 1, 2, 3]"),
        ("timestep_embed %22", "timestep_embed %2", "i32[] or i32[N]"),
        ("f32[1, 2, 8]\n", "f32[1, 1, 8]\n", "must be f32[1, 2, 8]"),
        ("take_rows %23, %0", "take_rows %12, %0", "[1, S, N] for an index i32[]"),
    ];
    for (from, to, message) in cases {
        assert!(ACT.contains(from), "{from}");
        let errors = verify(&parse(&ACT.replacen(from, to, 1)).unwrap()).err();
        let errors = errors.unwrap_or_else(|| panic!("`{to}` passes")).to_string();
        assert!(errors.contains(message), "`{to}` gives: {errors}");
    }
}

/// A loop that fills the open slots of a canvas.
const SLOTS: &str = r#"symbol B <= 2
symbol K <= 16
symbol S <= 16

graph @generate(%0: i32[B, S] "canvas", %1: u32[4] "stream", %2: f32[B, S+2, 8] "hidden", %3: f32[] "temperature", %4: i32[] "joint", %5: i32[B, S] "kinds") {
  %6, %7, %8 = denoise %0, %1, %2, %3, %4, %5 {steps=4, state=2, body="generate.step", slots=7, eps=0.001, drop_idle=1} : i32[B, S], u32[4], i32[4, B, S] loc "sampler"
  return %6 "canvas", %8 "history"
}

graph @generate.step(%0: i32[], %1: i32[B, S], %2: u32[4], %3: f32[B, S+2, 8], %4: f32[], %5: i32[], %6: i32[B, S]) {
  %7, %8 = open_slots %1 {token=7} : i32[B, K], bool[B, K] loc "sampler.slots"
  %9 = read_rows %7 {before=2} : i32[B, K]
  %10 = take_rows %3, %9 : f32[B, K, 8]
  %11 = take_slots %6, %7 : i32[B, K]
  %12 = keep_tokens %10, %11 {first=1, len=3} : f32[B, K, 8]
  %13 = slot_bits %7, %2 {lane=slot} : u32[B, K]
  %14 = draw_token %12, %8, %4, %13 : i32[B, K]
  %15 = confidence %12, %8, %14 {kind=margin} : f32[B, K]
  %16 = transfer_count %8, %0, %5 {steps=4, eps=0.001} : i32[B]
  %17 = select_slots %15, %8, %16, %4, %13, %5 : bool[B, K]
  %18 = commit_slots %17, %14, %7, %1 : i32[B, S]
  %19 = advance_stream %2 : u32[4]
  return %18, %19
}
"#;

#[test]
fn slots() {
    let module = parse(SLOTS).unwrap();
    assert_eq!(module.to_string(), SLOTS);
    verify(&module).unwrap();
    let cases = [
        // What the ops take and give.
        ("%7, %8 = open_slots %1", "%7, %8 = open_slots %2", "the canvas must be i32[B, S]"),
        ("{token=7}", "{token=4294967298}", "the token must fit i32"),
        ("i32[B, K], bool[B, K]", "i32[B, S], bool[B, S]", "the result must be i32[B, K], bool[B, K]"),
        ("read_rows %7", "read_rows %8", "the slots must be i32[B, K]"),
        ("before=2", "before=4294967298", "the rows before must fit i32"),
        ("take_slots %6, %7", "take_slots %3, %7", "`x` must be i32[B, S]"),
        ("take_slots %6, %7", "take_slots %6, %8", "the slots must be i32[B, K]"),
        ("slot_bits %7, %2", "slot_bits %7, %1", "the stream must be u32[4]"),
        ("slot_bits %7", "slot_bits %8", "the slots must be i32[B, K]"),
        ("commit_slots %17, %14", "commit_slots %7, %14", "the selection must be bool[B, K]"),
        ("commit_slots %17, %14", "commit_slots %17, %6", "tokens and slots must have the same type"),
        ("%7, %1 : i32[B, S]", "%7, %2 : i32[B, S]", "the canvas must be i32[B, S]"),
        // What the loop says of them.
        ("slots=7", "slots=8", "must fill slots as the loop says"),
        ("eps=0.001, drop_idle", "eps=0.002, drop_idle", "must fill slots as the loop says"),
        ("transfer_count %8, %0", "transfer_count %8, %5", "must fill slots as the loop says"),
        ("return %18, %19", "return %1, %19", "must fill slots as the loop says"),
    ];
    for (from, to, message) in cases {
        assert!(SLOTS.contains(from), "{from}");
        let errors = verify(&parse(&SLOTS.replacen(from, to, 1)).unwrap()).err();
        let errors = errors.unwrap_or_else(|| panic!("`{to}` passes")).to_string();
        assert!(errors.contains(message), "`{to}` gives: {errors}");
    }
}

/// One edit per rule; the message must name what is wrong.
#[test]
fn broken_modules_are_named() {
    let cases = [
        ("%8, %9\n}", "%8, %3\n}", "must give the states"),
        ("bf16[B, S, 16]", "bf16[B, S, 17]", "the result must be bf16[B, S, 16]"),
        ("heads=2, kv_heads=1", "heads=2, kv_heads=2", "must be whole heads"),
        ("symbol S <= 16", "symbol S <= 0", "a bound of at least 1"),
        ("body=\"generate.step\"", "body=\"other\"", "there is no graph `@other`"),
        ("ints=[-1, 2]", "ints=[-1]", "must fill its type"),
        ("name=\"kv\"} : bf16[8, 8]", "name=\"q\"} : bf16[8, 9]", "another type elsewhere"),
        ("\"attention_mask\"", "\"input_ids\"", "two ports are named"),
        ("i32[4, B, S]", "i32[5, B, S]", "the states, and the history of the first"),
        ("steps=4, state", "steps=0, state", "at least one step"),
        ("state=2", "state=3", "it takes its states"),
        ("sections=[2]", "sections=[0]", "must have a frequency"),
        ("sections=[2]", "sections=[1, 1]", "i32[axes, B, S]"),
        ("ints=[-1, 2]", "ints=[-1, 4294967298]", "must fill its type"),
        ("token=31", "token=4294967298", "the token must fit i32"),
        ("f32[8]\n", "f32[0]\n", "dimension of 0"),
    ];
    for (from, to, message) in cases {
        assert!(LAYER.contains(from), "{from}");
        let module = parse(&LAYER.replacen(from, to, 1)).unwrap();
        let errors = verify(&module).err().unwrap_or_else(|| panic!("`{to}` passes")).to_string();
        assert!(errors.contains(message), "`{to}` gives: {errors}");
    }
}

#[test]
fn all_violations_are_collected() {
    let text = LAYER.replace("bf16[B, S, 16]", "bf16[B, S, 17]").replace("ints=[-1, 2]", "ints=[3]");
    assert!(verify(&parse(&text).unwrap()).err().unwrap().0.len() >= 2);
}

#[test]
fn parse_errors_point_at_the_place() {
    let cases = [
        (
            "graph @f(%0: f32[2]) {\n  %1 = silu %2 : f32[2]\n  return %1\n}",
            2,
            "%2 is not defined before its use",
        ),
        ("graph @f() {\n  %1 = sulu %1\n", 2, "not defined"),
        ("graph @f() {\n  %1 = sulu : f32[2]\n  return %1\n}", 2, "unknown op `sulu`"),
        ("graph @f() {\n  %1 = rope {head_dim=4, x=1} : f32[2]\n  return\n}", 2, "no attribute `x`"),
        ("graph @f(%0: f99[2]) {", 1, "expected a type"),
        ("symbol S <= 4\nsymbol S <= 5\n", 3, "declared twice"),
        ("graph @f(%0: f32[2]", 2, "expected `,` or `)`"),
        ("\"open", 1, "no closing quote"),
        ("graph @f(%0: f32[1, 1, 1, 1, 1]) {", 1, "at most 4 dimensions"),
        ("graph @f(%0: f32[1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1]) {", 1, "at most 16 numbers"),
        ("graph @f() {\n  %0 = const {floats=[1e39]} : f32[1]\n  return %0\n}", 2, "not a finite one"),
    ];
    for (text, line, message) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, line, "{text}: {error}");
    }
}

/// Rows that no number can count.
#[test]
fn weights_that_add_up_too_high() {
    let huge = "graph @f(%0: f32[4, 8], %1: f32[9223372036854775807, 8]) {\n  %2 = linear %0, %1, %1, %1 {weights=3} : f32[4, 8]\n  return %2\n}";
    let errors = verify(&parse(huge).unwrap()).err().unwrap().to_string();
    assert!(errors.contains("too many rows"), "{errors}");
}

/// Weights in few bits, with what calibration says of their columns.
const FEW_BITS: &str = r#"graph @f(%0: f32[1, 2, 64]) {
  %1 = weight {name="1 / w.columns"} : f32[64]
  %2 = weight {name="w", columns="w.columns", bits=4, group=32, zero=1, importance="w.importance", feedback="w.feedback"} : f32[4, 64]
  %3 = weight {name="v", bits=8} : f32[4, 64]
  %4 = linear %0, %1, %2 {smooth=1, int8=1} : f32[1, 2, 4]
  %5 = linear %0, %3 : f32[1, 2, 4]
  %6 = weight {name="u", bits=8, float=1} : f32[4, 64]
  %7 = linear %0, %6 {fp8=1} : f32[1, 2, 4]
  return %4, %5, %7
}
"#;

#[test]
fn few_bits() {
    let module = parse(FEW_BITS).unwrap();
    assert_eq!(module.to_string(), FEW_BITS);
    verify(&module).unwrap();
    for (from, to, rule) in [
        (
            "columns=\"w.columns\", bits=4, group=32, zero=1, importance=\"w.importance\", feedback=\"w.feedback\"",
            "columns=\"c\"",
            "in few bits are multiplied",
        ),
        ("%6 {fp8=1}", "%6", "stored in fp8 where rows are rounded to it"),
        ("%6 {fp8=1}", "%6 {int8=1}", "stored in fp8 where rows are rounded to it"),
        ("bits=8, float=1", "bits=8", "stored in fp8 where rows are rounded to it"),
        ("bits=8}", "bits=8, importance=\"i\"}", "in groups have an importance"),
        ("bits=8}", "importance=\"i\"}", "in groups have an importance"),
        ("bits=8}", "bits=4, group=32, feedback=\"f\"}", "where they have an importance"),
    ] {
        let text = FEW_BITS.replace(from, to);
        assert_ne!(text, FEW_BITS);
        let errors = verify(&parse(&text).unwrap()).err().unwrap().to_string();
        assert!(errors.contains(rule), "{errors}");
    }
    let error = parse(&FEW_BITS.replace("fp8=1", "int8=1, fp8=1")).unwrap_err().to_string();
    assert!(error.contains("left out beside `int8`"), "{error}");
}

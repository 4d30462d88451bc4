//! One list of ops and how their kernels are judged: graphs of one op or a few, at shapes that fit no tile, against the
//! interpreter. Whoever computes runs all of them: `tests/ops.rs` and `gpu-check`.

use crate::graph::interpret;
use dreamc_interp::{Data, Tensor, seeded};
use dreamc_ir::{Module, Port, parse};
use dreamc_num::DType;
use std::collections::BTreeMap;

/// Rows and length of the requests: one row, odd ones, more than a tile.
pub const SIZES: [(u64, u64); 4] = [(1, 1), (1, 33), (2, 5), (2, 67)];
/// Name of the graphs.
pub const ENTRY: &str = "f";

/// Computes a graph for each of several requests.
pub type Execute<'a> = &'a dyn Fn(&Module, &[Vec<Tensor>]) -> Vec<Vec<Tensor>>;

/// A graph, with `T` where the type of activations and matrices stands.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is.
    pub name: String,
    text: String,
    /// Whether it has no `T`.
    pub exact: bool,
    /// Whether it multiplies in fp8.
    pub fp8: bool,
}

impl Case {
    /// The graph in a type.
    ///
    /// # Panics
    ///
    /// Where it does not read, which is a bug of the case.
    pub fn module(&self, dtype: DType) -> Module {
        let text = self.text.replace("T[", &format!("{dtype}["));
        parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// How far its results may be off.
    pub fn limit(&self, dtype: DType) -> f32 {
        match (self.fp8, self.text.contains("= attention")) {
            (true, _) => limit(dtype).max(FP8_LIMIT),
            (_, true) => attention_limit(dtype),
            (false, false) => limit(dtype),
        }
    }

    /// Judges what `execute` computes of requests of [`SIZES`] against the interpreter; how far it is off.
    ///
    /// # Panics
    ///
    /// Where it is too far off.
    pub fn judge(&self, dtype: DType, execute: Execute<'_>) -> f32 {
        let (module, limit) = (self.module(dtype), self.limit(dtype));
        let requests: Vec<Vec<Tensor>> =
            SIZES.into_iter().zip(7..).map(|(sizes, seed)| inputs(&module, sizes, seed)).collect();
        let all = execute(&module, &requests);
        assert_eq!(all.len(), requests.len());
        let mut worst = 0.0_f32;
        for ((found, inputs), (rows, length)) in all.iter().zip(&requests).zip(SIZES) {
            let wanted = interpret(&module, ENTRY, inputs);
            assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(&wanted) {
                let off = off(found, wanted);
                assert!(
                    off <= limit,
                    "{}, {dtype}, {rows} rows of {length}: off by {off} of the largest",
                    self.name
                );
                worst = worst.max(off);
            }
        }
        worst
    }
}

/// How far results may be off, as a share of the largest: the interpreter rounds no activations, the device rounds each
/// once, and a case has at most four of them in a row. What `dreamc tune` goes by, too.
pub use dream::limit;

/// Of attention: weights are powers of scores, and in those are the roundings of both queries and keys, which are normed,
/// multiplied and turned before.
pub fn attention_limit(dtype: DType) -> f32 {
    4.0 * limit(dtype)
}

/// Of fp8: rows and weights have the interpreter's own codes, but matrix units add up a step along K in fewer bits.
pub const FP8_LIMIT: f32 = 1.0 / 256.0;

/// The largest difference as a share of the largest magnitude; integers must be equal.
pub fn off(found: &Tensor, wanted: &Tensor) -> f32 {
    assert_eq!(found.dims, wanted.dims);
    let (x, y) = match (&found.data, &wanted.data) {
        (Data::F32(x), Data::F32(y)) => (x, y),
        // Conditions are words on devices.
        (Data::U32(x), Data::Bool(y)) => {
            assert_eq!(*x, y.iter().map(|b| u32::from(*b)).collect::<Vec<u32>>());
            return 0.0;
        }
        _ => {
            assert_eq!(found, wanted);
            return 0.0;
        }
    };
    // Behind a GELU all there is may be next to nothing.
    let scale = y.iter().fold(1e-3_f32, |max, v| max.max(v.abs()));
    let worst = |max: f32, (a, b): (&f32, &f32)| {
        // Logits that cannot be chosen are as low as it goes in both.
        let off = if a == b { 0.0 } else { (a - b).abs() / scale };
        if off.is_nan() || off > max { off } else { max }
    };
    x.iter().zip(y).fold(0.0, worst)
}

/// Reproducible inputs; some names ask for values of their own.
pub fn inputs(module: &Module, (rows, length): (u64, u64), seed: u64) -> Vec<Tensor> {
    let symbols: BTreeMap<String, u64> =
        [("B".to_owned(), rows), ("S".to_owned(), length)].into_iter().collect();
    let Some(graph) = module.graph(ENTRY) else { panic!("the case has no graph `{ENTRY}`") };
    let one = |(i, port): (usize, &Port)| {
        let mut tensor = seeded(graph.ty(port.value), &symbols, seed + i as u64);
        match (port.name.as_str(), &mut tensor.data) {
            ("temperature", Data::F32(v)) => v.fill(0.7),
            ("zero", Data::F32(v)) => v.fill(0.0),
            ("top_p", Data::F32(v)) => v.fill(0.9),
            ("top_k", Data::I32(v)) => v.fill(9),
            ("step", Data::I32(v)) => v.fill(2),
            ("none", Data::I32(v)) => v.fill(0),
            ("first", Data::I32(v)) => v.fill(0),
            ("rows", Data::I32(v)) => {
                (0..).zip(v.iter_mut()).for_each(|(i, x)| *x = (i * 7) % length as i32);
            }
            ("positions", Data::I32(v)) => (0..).zip(v.iter_mut()).for_each(|(i, x)| *x = i % 97),
            ("probs", Data::F32(v)) => {
                for row in v.chunks_mut(graph.ty(port.value).columns().unwrap_or(1) as usize) {
                    row.iter_mut().for_each(|x| *x = x.abs());
                    let sum: f32 = row.iter().sum();
                    row.iter_mut().for_each(|x| *x /= sum);
                }
            }
            _ => {}
        }
        tensor
    };
    graph.params.iter().enumerate().map(one).collect()
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, text: String| {
        let (exact, fp8) = (!text.contains("T["), text.contains("fp8=1"));
        let text = format!("symbol B <= 2\nsymbol K <= 70\nsymbol S <= 70\n\ngraph @{ENTRY}({text}\n}}\n");
        cases.push(Case { name: name.to_owned(), text, exact, fp8 });
    };
    linear(&mut add);
    norm_between(&mut add);
    linear_fp8(&mut add);
    attention(&mut add);
    rows(&mut add);
    elementwise(&mut add);
    sampler(&mut add);
    slots(&mut add);
    actions(&mut add);
    cases
}

type Add<'a> = &'a mut dyn FnMut(&str, String);

/// `%0` is `x`; `%2` is it after a norm, in the type of the case.
pub fn normed(columns: usize, more: &str) -> String {
    format!(
        "%0: f32[B, S, {columns}] \"x\"{more}) {{
  %1 = weight {{name=\"gain\"}} : f32[{columns}]
  %2 = rms_norm %0, %1 {{eps=1e-6}} : T[B, S, {columns}]"
    )
}

/// Products with everything that may stand before and after them.
fn linear(add: Add<'_>) {
    for (k, n) in [(72, 40), (64, 128), (136, 264), (320, 96), (256, 1)] {
        add(
            &format!("linear {k} to {n}"),
            format!(
                "{}
  %3 = weight {{name=\"a\"}} : T[{n}, {k}]
  %4 = linear %2, %3 : T[B, S, {n}]
  %5 = linear %2, %3 : f32[B, S, {n}]
  return %4 \"narrow\", %5 \"wide\"",
                normed(k, "")
            ),
        );
        add(
            &format!("linear {k} to {n}, bias and residual"),
            format!(
                "{}
  %4 = weight {{name=\"a\"}} : T[{n}, {k}]
  %5 = weight {{name=\"bias\"}} : f32[{n}]
  %6 = linear %2, %4, %5, %3 {{bias=1, residual=1}} : f32[B, S, {n}]
  return %6 \"y\"",
                normed(k, &format!(", %3: f32[B, S, {n}] \"residual\""))
            ),
        );
        add(
            &format!("linear {k} to {n}, bias, gelu and residual"),
            format!(
                "{}
  %4 = weight {{name=\"a\"}} : T[{n}, {k}]
  %5 = weight {{name=\"bias\"}} : f32[{n}]
  %6 = linear %2, %4, %5, %3 {{bias=1, activation=gelu, residual=1}} : f32[B, S, {n}]
  %7 = linear %2, %4, %5 {{bias=1, activation=relu}} : T[B, S, {n}]
  return %6 \"wide\", %7 \"narrow\"",
                normed(k, &format!(", %3: f32[B, S, {n}] \"residual\""))
            ),
        );
        add(
            &format!("norm, linear {k} to {n}, swiglu"),
            format!(
                "%0: f32[B, S, {k}] \"x\") {{
  %1 = weight {{name=\"gain\"}} : f32[{k}]
  %2 = weight {{name=\"gate\"}} : T[{n}, {k}]
  %3 = weight {{name=\"up\"}} : T[{n}, {k}]
  %4 = linear %0, %1, %2, %3 {{weights=2, norm_eps=1e-6, swiglu=1}} : T[B, S, {n}]
  %5 = linear %0, %1, %2, %3 {{weights=2, norm_eps=1e-6}} : T[B, S, {}]
  return %4 \"gated\", %5 \"joined\"",
                2 * n
            ),
        );
    }
}

/// Two products with a norm between them, and the rows before it needed again.
fn norm_between(add: Add<'_>) {
    for (k, n, m) in [(72, 64, 40), (136, 288, 96), (64, 40, 8)] {
        add(
            &format!("linear {k} to {n}, norm, swiglu to {m}, and back"),
            format!(
                "{}
  %4 = weight {{name=\"a\"}} : T[{n}, {k}]
  %5 = linear %2, %4, %3 {{residual=1}} : f32[B, S, {n}]
  %6 = weight {{name=\"second\"}} : f32[{n}]
  %7 = weight {{name=\"gate\"}} : T[{m}, {n}]
  %8 = weight {{name=\"up\"}} : T[{m}, {n}]
  %9 = linear %5, %6, %7, %8 {{weights=2, norm_eps=1e-6, swiglu=1}} : T[B, S, {m}]
  %10 = weight {{name=\"back\"}} : T[{n}, {m}]
  %11 = linear %9, %10, %5 {{residual=1}} : f32[B, S, {n}]
  return %9 \"gated\", %11 \"y\"",
                normed(k, &format!(", %3: f32[B, S, {n}] \"residual\""))
            ),
        );
    }
}

/// Products in fp8. Rows are not normed before: what differs in the last bit may be rounded to another code.
fn linear_fp8(add: Add<'_>) {
    for (k, n) in [(72, 40), (64, 128), (136, 264), (320, 96), (256, 1)] {
        let rows = format!("%0: f32[B, S, {k}] \"x\"");
        let weight = |value: &str, name: &str| {
            format!("%{value} = weight {{name=\"{name}\", bits=8, float=1}} : T[{n}, {k}]")
        };
        add(
            &format!("linear in fp8 {k} to {n}"),
            format!(
                "{rows}) {{
  {}
  %2 = linear %0, %1 {{fp8=1}} : T[B, S, {n}]
  %3 = linear %0, %1 {{fp8=1}} : f32[B, S, {n}]
  return %2 \"narrow\", %3 \"wide\"",
                weight("1", "a")
            ),
        );
        add(
            &format!("linear in fp8 {k} to {n}, bias, gelu and residual"),
            format!(
                "{rows}, %1: f32[B, S, {n}] \"residual\") {{
  {}
  %3 = weight {{name=\"bias\"}} : f32[{n}]
  %4 = linear %0, %2, %3, %1 {{bias=1, fp8=1, residual=1}} : f32[B, S, {n}]
  %5 = linear %0, %2, %3 {{bias=1, fp8=1, activation=gelu}} : T[B, S, {n}]
  return %4 \"wide\", %5 \"narrow\"",
                weight("2", "a")
            ),
        );
        add(
            &format!("linear in fp8 {k} to {n}, swiglu and joined"),
            format!(
                "{rows}) {{
  {}
  {}
  %3 = linear %0, %1, %2 {{weights=2, swiglu=1, fp8=1}} : T[B, S, {n}]
  %4 = linear %0, %1, %2 {{weights=2, fp8=1}} : T[B, S, {}]
  return %3 \"gated\", %4 \"joined\"",
                weight("1", "gate"),
                weight("2", "up"),
                2 * n
            ),
        );
    }
}

/// Heads of the decoders and of the vision tower: rotated inside and before, packed and apart.
fn attention(add: Add<'_>) {
    for (heads, kv, d) in [(4, 2, 32), (7, 1, 128), (2, 2, 80), (3, 3, 64)] {
        let (q, kv_width) = (heads * d, kv * d);
        let width = q + 2 * kv_width;
        let half = d / 2;
        let ports = ", %3: i32[B, S] \"mask\", %4: i32[B, S] \"positions\"";
        let tables = format!(
            "%5, %6 = rope_table %4 {{theta=10000.0, sections=[{half}]}} : f32[B, S, {half}], f32[B, S, {half}]"
        );
        let shape = format!("heads={heads}, kv_heads={kv}, head_dim={d}");
        add(
            &format!("attention, {heads} heads of {d} over {kv}, packed and rotated"),
            format!(
                "{}
  {tables}
  %7 = weight {{name=\"qkv\"}} : T[{width}, 64]
  %8 = linear %2, %7 : T[B, S, {width}]
  %9 = attention %8, %3, %5, %6 {{{shape}, packed=1, rope=1}} : T[B, S, {q}]
  return %9 \"y\"",
                normed(64, ports)
            ),
        );
        add(
            &format!("attention, {heads} heads of {d} over {kv}, apart"),
            format!(
                "{}
  {tables}
  %7 = weight {{name=\"q\"}} : T[{q}, 64]
  %8 = weight {{name=\"k\"}} : T[{kv_width}, 64]
  %9 = linear %2, %7 : T[B, S, {q}]
  %10 = linear %2, %8 : T[B, S, {kv_width}]
  %11 = rope %9, %5, %6 {{head_dim={d}}} : T[B, S, {q}]
  %12 = rope %10, %5, %6 {{head_dim={d}}} : T[B, S, {kv_width}]
  %13 = attention %11, %12, %10, %3 {{{shape}}} : T[B, S, {q}]
  return %13 \"y\"",
                normed(64, ports)
            ),
        );
        add(
            &format!("attention, {heads} heads of {d} over {kv}, at some rows"),
            format!(
                "{}
  {tables}
  %8 = weight {{name=\"q\"}} : T[{q}, 64]
  %9 = weight {{name=\"k\"}} : T[{kv_width}, 64]
  %10 = linear %2, %8 : T[B, S, {q}]
  %11 = linear %2, %9 : T[B, S, {kv_width}]
  %12 = take_rows %10, %7 : T[B, S, {q}]
  %13 = attention %12, %11, %11, %3, %5, %6, %7 {{{shape}, rope=1, rows=1}} : T[B, S, {q}]
  return %13 \"y\"",
                normed(64, &format!("{ports}, %7: i32[B, S] \"rows\""))
            ),
        );
    }
    add(
        "rotation tables",
        "%0: i32[3, B, S] \"positions\", %1: i32[2, B, S] \"axes\") {
  %2, %3 = rope_table %0 {theta=1000000.0, sections=[16, 24, 24]} : f32[B, S, 64], f32[B, S, 64]
  %4, %5 = rope_table %1 {theta=10000.0, sections=[20, 20], axial=1} : f32[B, S, 40], f32[B, S, 40]
  return %2 \"cos\", %3 \"sin\", %4 \"axial_cos\", %5 \"axial_sin\""
            .to_owned(),
    );
}

/// Rows: looked up, normalised, moved, joined, cut.
fn rows(add: Add<'_>) {
    for columns in [8, 74, 1280] {
        add(
            &format!("norms of {columns}"),
            format!(
                "{}
  %3 = weight {{name=\"bias\"}} : f32[{columns}]
  %4 = layer_norm %0, %1, %3 {{eps=1e-5}} : T[B, S, {columns}]
  %5 = rms_norm %0, %1 {{eps=1e-5}} : f32[B, S, {columns}]
  return %2 \"rms\", %4 \"layer\", %5 \"wide\"",
                normed(columns, "")
            ),
        );
    }
    add(
        "embed",
        "%0: i32[B, S] \"ids\") {
  %1 = weight {name=\"table\"} : T[5, 72]
  %2 = embed %0, %1 : T[B, S, 72]
  %3 = embed %0, %1 : f32[B, S, 72]
  return %2 \"narrow\", %3 \"wide\""
            .to_owned(),
    );
    add(
        "rows moved",
        format!(
            "{}
  %6 = shift_rows %2 : T[B, S, 72]
  %7 = take_rows %2, %3 : T[B, S, 72]
  %8 = weight {{name=\"others\"}} : T[4, 72]
  %9 = splice %2, %4, %8 : T[B, S, 72]
  %10 = concat %2, %9 {{axis=1}} : T[B, 2*S, 72]
  %11 = concat %5, %0 {{axis=1}} : f32[B, S+1, 72]
  %12 = drop_rows %11 {{count=1}} : f32[B, S, 72]
  %13 = slice %2 {{start=30, len=18}} : T[B, S, 18]
  %14 = split_rows %2 {{count=4}} : T[B, 4*S, 18]
  %15 = merge_rows %14 {{count=4}} : T[B, S, 72]
  %16 = silu %15 : T[B, S, 72]
  return %6 \"shifted\", %7 \"taken\", %9 \"spliced\", %10 \"joined\", %11 \"longer\", %12 \"dropped\", %13 \"cut\", %16 \"folded\"",
            normed(72, ", %3: i32[B, S] \"rows\", %4: i32[B, S] \"ids\", %5: f32[B, 1, 72] \"before\"")
        ),
    );
}

/// Element by element.
fn elementwise(add: Add<'_>) {
    add(
        "elementwise",
        format!(
            "{}
  %4 = rms_norm %3, %1 {{eps=1e-6}} : T[B, S, 74]
  %5 = add %2, %4 : T[B, S, 74]
  %6 = mul %2, %4 : T[B, S, 74]
  %7 = swiglu %2, %4 : T[B, S, 74]
  %8 = silu %2 : T[B, S, 74]
  %9 = gelu %2 : T[B, S, 74]
  %10 = quick_gelu %2 : T[B, S, 74]
  %11 = relu %2 : T[B, S, 74]
  return %5 \"sum\", %6 \"product\", %7 \"gated\", %8 \"silu\", %9 \"gelu\", %10 \"quick_gelu\", %11 \"relu\"",
            normed(74, ", %3: f32[B, S, 74] \"other\"")
        ),
    );
}

/// The sampler: what draws, ranks and commits. Draws are from given distributions, so that they are exact.
fn sampler(add: Add<'_>) {
    add(
        "canvas",
        "%0: i32[B, S] \"canvas\", %1: u32[4] \"stream\", %2: i32[] \"step\", %3: i32[] \"none\", %4: i32[B, S] \"token\") {
  %5 = is_token %0 {token=1} : bool[B, S]
  %6 = random_bits %0, %1 {lane=token} : u32[B, S]
  %7 = transfer_count %5, %2, %3 {steps=6, eps=0.001} : i32[B]
  %8 = origin_slots %5, %2, %6 {steps=6, eps=0.001} : bool[B, S]
  %9 = commit %8, %4, %0 : i32[B, S]
  %10 = advance_stream %1 : u32[4]
  return %5 \"active\", %6 \"bits\", %7 \"count\", %8 \"select\", %9 \"next\", %10 \"stream\""
            .to_owned(),
    );
    for columns in [6, 515] {
        add(
            &format!("distributions over {columns}"),
            format!(
                "%0: f32[B, S, {columns}] \"logits\", %1: i32[B, S] \"canvas\", %2: f32[] \"temperature\", %3: f32[] \"top_p\", %4: i32[] \"top_k\", %5: f32[] \"penalty\", %6: i32[] \"step\", %7: i32[B, S] \"rows\") {{
  %8 = is_token %1 {{token=1}} : bool[B, S]
  %9 = is_token %1 {{token=9}} : bool[B, S]
  %10 = eos_penalty %0, %5, %6 {{token=3, steps=6, eps=0.001}} : f32[B, S, {columns}]
  %11 = keep_tokens %0, %7 {{first=1, len=4}} : f32[B, S, {columns}]
  return %10 \"penalised\", %11 \"kept\", %8 \"active\", %9 \"inactive\""
            ),
        );
        add(
            &format!("draws from {columns}"),
            format!(
                "%0: f32[B, S, {columns}] \"probs\", %1: i32[B, S] \"none\", %2: f32[] \"temperature\", %3: f32[] \"zero\", %4: u32[B, S] \"bits\", %5: i32[B, S] \"token\") {{
  %6 = is_token %1 {{token=0}} : bool[B, S]
  %7 = draw_token %0, %6, %2, %4 : i32[B, S]
  %8 = draw_token %0, %6, %3, %4 {{first=100}} : i32[B, S]
  %9 = confidence %0, %6, %5 {{kind=probability}} : f32[B, S]
  %10 = confidence %0, %6, %5 {{kind=margin}} : f32[B, S]
  %11 = confidence %0, %6, %5 {{kind=negative_entropy}} : f32[B, S]
  return %7 \"drawn\", %8 \"best\", %9 \"probability\", %10 \"margin\", %11 \"negative_entropy\""
            ),
        );
        add(
            &format!("filters over {columns}"),
            format!(
                "%0: f32[B, S, {columns}] \"logits\", %1: i32[B, S] \"none\", %2: f32[] \"temperature\", %3: f32[] \"top_p\", %4: i32[] \"top_k\") {{
  %5 = is_token %1 {{token=0}} : bool[B, S]
  %6 = sampling_probs %0, %5, %2, %3, %4 : f32[B, S, {columns}]
  return %6 \"probs\""
            ),
        );
    }
    for joint in ["none", "step"] {
        add(
            &format!("slots ranked, joint is {}", if joint == "none" { 0 } else { 2 }),
            format!(
                "%0: f32[B, S] \"confidence\", %1: i32[B, S] \"canvas\", %2: i32[B] \"count\", %3: f32[] \"zero\", %4: u32[B, S] \"bits\", %5: i32[] \"{joint}\", %6: f32[] \"temperature\") {{
  %7 = is_token %1 {{token=1}} : bool[B, S]
  %8 = select_slots %0, %7, %2, %3, %4, %5 : bool[B, S]
  return %8 \"select\""
            ),
        );
    }
}

/// Loops over the open slots of a canvas, which shrink from step to step; what has a row for each slot is seen in what is
/// committed. Without chance, steps that fill no slot are left out.
fn slots(add: Add<'_>) {
    for (chance, temperature) in [("by chance", "temperature"), ("without chance", "zero")] {
        add(
            &format!("slots filled {chance}"),
            format!(
                "%0: i32[B, S] \"canvas\", %1: u32[4] \"stream\", %2: f32[B, S, 6] \"probs\", %3: f32[] \"{temperature}\", %4: i32[] \"none\", %5: i32[B, S] \"others\") {{
  %6, %7, %8 = denoise %0, %1, %2, %3, %4, %5 {{steps=5, state=2, body=\"{ENTRY}.step\", slots=1, eps=0.001, drop_idle=1}} : i32[B, S], u32[4], i32[5, B, S]
  %9 = stack %6 : i32[1, B, S]
  return %9 \"canvas\", %8 \"history\"
}}

graph @{ENTRY}.step(%0: i32[], %1: i32[B, S], %2: u32[4], %3: f32[B, S, 6], %4: f32[], %5: i32[], %6: i32[B, S]) {{
  %7, %8 = open_slots %1 {{token=1}} : i32[B, K], bool[B, K]
  %9 = read_rows %7 {{before=0}} : i32[B, K]
  %10 = take_rows %3, %9 : f32[B, K, 6]
  %11 = slot_bits %7, %2 {{lane=token}} : u32[B, K]
  %12 = draw_token %10, %8, %4, %11 {{first=10}} : i32[B, K]
  %13 = take_slots %6, %7 : i32[B, K]
  %14 = confidence %10, %8, %13 {{kind=probability}} : f32[B, K]
  %15 = slot_bits %7, %2 {{lane=slot}} : u32[B, K]
  %16 = transfer_count %8, %0, %5 {{steps=5, eps=0.001}} : i32[B]
  %17 = select_slots %14, %8, %16, %4, %15, %5 : bool[B, K]
  %18 = commit_slots %17, %12, %7, %1 : i32[B, S]
  %19 = advance_stream %2 : u32[4]
  return %18, %19"
            ),
        );
    }
}

/// Loops over actions.
fn actions(add: Add<'_>) {
    add(
        "steps of actions",
        "%0: f32[1, 8, 7] \"x\", %1: f32[1, 8, 7] \"v\", %2: i32[] \"step\") {
  %3 = timestep_embed %2 {times=[0.0, 0.25, 0.5], width=72} : f32[1, 1, 72]
  %4 = euler_step %0, %1 {dt=0.25} : f32[1, 8, 7]
  %5 = ddim_step %0, %1, %2 {alphas=[0.1, 0.3, 0.6, 0.9]} : f32[1, 8, 7]
  %6 = const {ints=[2, 0, 1]} : i32[3]
  %7 = timestep_embed %6 {times=[0.0, 0.25, 0.5], width=72} : f32[1, 3, 72]
  %8 = take_rows %7, %2 : f32[1, 1, 72]
  return %3 \"time\", %4 \"euler\", %5 \"ddim\", %8 \"row\""
            .to_owned(),
    );
    add(
        "a loop whose states trade places",
        format!(
            "%0: f32[1, 2, 3] \"x\", %1: f32[1, 2, 3] \"y\") {{
  %2, %3, %4 = denoise %0, %1 {{steps=3, state=2, body=\"{ENTRY}.step\"}} : f32[1, 2, 3], f32[1, 2, 3], f32[3, 1, 2, 3]
  return %2 \"first\", %3 \"second\", %4 \"history\"
}}

graph @{ENTRY}.step(%0: i32[], %1: f32[1, 2, 3], %2: f32[1, 2, 3]) {{
  return %2, %1"
        ),
    );
}

//! Each form of a kernel at the widths of a model, against the interpreter: the tiles that a build of that model launches, at
//! rows that fill them and rows that do not.
//!
//! The interpreter computes some columns of a product, all of what it takes them from, and every row: columns do not depend on
//! each other.

use crate::fixtures::Make;

use crate::report::Checks;
use dreamc::compile::Bits;
use dreamc_frontend::Variant;
use dreamc_frontend::synth::Size;
use dreamc_golden::graph::{Emitted, interpret, interpret_given, weight};
use dreamc_golden::ops::{ENTRY, FP8_LIMIT, attention_limit, inputs, limit, normed, off};
use dreamc_interp::{Data, Tensor};
use dreamc_ir::{Module, Port, Type, parse};
use dreamc_num::DType;
use serde_json::{Map, Value};

/// Rows of the requests: one, the chunk's slots, the lengths that are timed, those of a text, and none that fits a tile.
const ROWS: [usize; 7] = [1, 17, 56, 232, 301, 384, 512];
/// Most rows of the plans.
const ROWS_MAX: usize = 512;
/// Columns that are compared.
const COLUMNS: usize = 48;
/// What the forms are judged in.
const DTYPE: DType = DType::BF16;

/// A product `[rows, k]` by `[n, k]`, and what stands around it.
struct Product {
    name: String,
    /// The graph of so many columns, with `T` for the type.
    text: Box<dyn Fn(usize) -> String>,
    n: usize,
    fp8: bool,
}

/// Another graph, compared whole at some of [`ROWS`].
struct Whole {
    name: String,
    text: String,
    rows: &'static [usize],
    /// How far results may be off.
    limit: f32,
}

/// Judges all forms; or compiles them, where nothing shall run.
pub(crate) fn judge(section: &str, make: Make, size: Size, checks: &mut Checks) {
    let fp8 = Bits::Fp8.fits(&make.place.target(DType::F32));
    for form in products(size).into_iter().filter(|form| !form.fp8 || fp8) {
        checks.check(section, &form.name, || product(make, &form));
    }
    for form in wholes(size) {
        checks.check(section, &form.name, || whole(make, &form));
    }
}

/// A graph with its type and its bounds.
fn graph(text: &str) -> Module {
    let text = text.replace("T[", &format!("{DTYPE}["));
    let text = format!("symbol B <= 1\nsymbol S <= {ROWS_MAX}\n\ngraph @{ENTRY}({text}\n}}\n");
    parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn product(make: Make, form: &Product) -> Map<String, Value> {
    let module = graph(&(form.text)(form.n));
    let emitted = Emitted::new(make.place, &module, ENTRY);
    if !make.runs {
        return Map::new();
    }
    let picked = picked(form.n);
    let some = graph(&(form.text)(picked.len()));
    let all = inputs(&module, (1, ROWS_MAX as u64), 7);
    let ports = |module: &Module| module.graph(ENTRY).map(|g| g.params.clone()).unwrap_or_default();
    let of_some = |(port, tensor): (&Port, &Tensor)| match port.name.as_str() {
        "residual" => columns(tensor, &picked),
        _ => tensor.clone(),
    };
    let few: Vec<Tensor> = ports(&module).iter().zip(&all).map(of_some).collect();
    // Matrices by their rows and biases by their elements are columns of the result.
    let (n, count) = (form.n as u64, picked.len());
    let weights = |name: &str, ty: &Type| {
        let is_result =
            matches!(name, "a" | "gate" | "up" | "bias") && ty.dims[0].as_constant() == Some(count as u64);
        if !is_result {
            return weight(name, ty);
        }
        let whole = Type::new(ty.dtype, [n.into()].into_iter().chain(ty.dims[1..].iter().cloned()));
        rows(&weight(name, &whole), &picked)
    };
    let wanted = interpret_given(&some, ENTRY, &few, &weights, &mut ());
    let requests: Vec<Vec<Tensor>> =
        ROWS.iter().map(|rows| all.iter().map(|tensor| first(tensor, *rows)).collect()).collect();
    let found = emitted.run_on(make.place, &module, ENTRY, &requests, &weight);
    let limit = if form.fp8 { limit(DTYPE).max(FP8_LIMIT) } else { limit(DTYPE) };
    let mut worst = 0.0_f32;
    for (rows, found) in ROWS.iter().zip(&found) {
        for (found, wanted) in found.iter().zip(&wanted) {
            let off = off(&columns(found, &picked), &first(wanted, *rows));
            assert!(off <= limit, "{rows} rows: off by {off} of the largest");
            worst = worst.max(off);
        }
    }
    found_off(worst, limit)
}

fn whole(make: Make, form: &Whole) -> Map<String, Value> {
    let module = graph(&form.text);
    let emitted = Emitted::new(make.place, &module, ENTRY);
    if !make.runs {
        return Map::new();
    }
    let requests: Vec<Vec<Tensor>> =
        form.rows.iter().map(|rows| inputs(&module, (1, *rows as u64), 7)).collect();
    let wanted: Vec<Vec<Tensor>> = std::thread::scope(|scope| {
        let module = &module;
        let all: Vec<_> =
            requests.iter().map(|inputs| scope.spawn(move || interpret(module, ENTRY, inputs))).collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| panic!("the interpreter failed")))
            .collect()
    });
    let found = emitted.run_on(make.place, &module, ENTRY, &requests, &weight);
    let mut worst = 0.0_f32;
    for ((rows, found), wanted) in form.rows.iter().zip(&found).zip(&wanted) {
        for (found, wanted) in found.iter().zip(wanted) {
            let off = off(found, wanted);
            assert!(off <= form.limit, "{rows} rows: off by {off} of the largest");
            worst = worst.max(off);
        }
    }
    found_off(worst, form.limit)
}

fn found_off(worst: f32, limit: f32) -> Map<String, Value> {
    let numbers = [("off", worst), ("limit", limit)];
    numbers.into_iter().map(|(name, x)| (name.to_owned(), Value::from(f64::from(x)))).collect()
}

/// Columns all over a width, both ends among them.
fn picked(n: usize) -> Vec<usize> {
    if n <= COLUMNS {
        return (0..n).collect();
    }
    let mut picked: Vec<usize> = (0..COLUMNS).map(|i| i * (n - 1) / (COLUMNS - 1)).collect();
    picked.dedup();
    picked
}

/// Some columns of a tensor.
fn columns(tensor: &Tensor, picked: &[usize]) -> Tensor {
    let width = tensor.columns();
    let mut dims = tensor.dims.clone();
    if let Some(last) = dims.last_mut() {
        *last = picked.len();
    }
    let values = tensor.floats().chunks(width).flat_map(|row| picked.iter().map(|i| row[*i])).collect();
    Tensor::f32(&dims, values)
}

/// Some rows of a matrix, or elements of a vector.
fn rows(tensor: &Tensor, picked: &[usize]) -> Tensor {
    let width = tensor.dims[1..].iter().product();
    let dims: Vec<usize> = [picked.len()].into_iter().chain(tensor.dims[1..].iter().copied()).collect();
    let all: Vec<&[f32]> = tensor.floats().chunks(width).collect();
    Tensor::f32(&dims, picked.iter().flat_map(|i| all[*i].iter().copied()).collect())
}

/// The first rows of a tensor `[1, rows, ..]`.
fn first(tensor: &Tensor, rows: usize) -> Tensor {
    let width: usize = tensor.dims[2..].iter().product();
    let dims: Vec<usize> = [1, rows].into_iter().chain(tensor.dims[2..].iter().copied()).collect();
    match &tensor.data {
        Data::F32(values) => Tensor::f32(&dims, values[..rows * width].to_vec()),
        _ => panic!("rows of a product are floats"),
    }
}

/// The products of the decoder and of the tower.
fn products(size: Size) -> Vec<Product> {
    let config = size.model_config(Variant::Vla);
    let text = &config.text;
    let (h, mlp) = (text.hidden_size as usize, text.intermediate_size as usize);
    let d = h / text.num_attention_heads as usize;
    let kv = text.num_key_value_heads as usize * d;
    let mut list = Vec::new();
    let mut add = |name: String, n: usize, fp8: bool, text: Box<dyn Fn(usize) -> String>| {
        list.push(Product { name, text, n, fp8 });
    };
    for (name, k, n) in [("q", h, h), ("k and v", h, kv)] {
        add(
            format!("{name}, {k} to {n}, with a bias"),
            n,
            false,
            Box::new(move |n| {
                format!(
                "{}\n  %3 = weight {{name=\"a\"}} : T[{n}, {k}]\n  %4 = weight {{name=\"bias\"}} : f32[{n}]
  %5 = linear %2, %3, %4 {{bias=1}} : T[B, S, {n}]\n  return %5 \"y\"",
                normed(k, "")
            )
            }),
        );
    }
    for (name, k, n) in [("o", h, h), ("down", mlp, h)] {
        add(
            format!("{name}, {k} to {n}, with a residual"),
            n,
            false,
            Box::new(move |n| {
                format!(
                    "{}\n  %4 = weight {{name=\"a\"}} : T[{n}, {k}]
  %5 = linear %2, %4, %3 {{residual=1}} : f32[B, S, {n}]\n  return %5 \"y\"",
                    normed(k, &format!(", %3: f32[B, S, {n}] \"residual\""))
                )
            }),
        );
    }
    add(
        format!("gate and up, {h} to {mlp}, with SwiGLU"),
        mlp,
        false,
        Box::new(move |n| {
            format!(
            "{}\n  %3 = weight {{name=\"gate\"}} : T[{n}, {h}]\n  %4 = weight {{name=\"up\"}} : T[{n}, {h}]
  %5 = linear %2, %3, %4 {{weights=2, swiglu=1}} : T[B, S, {n}]\n  return %5 \"y\"",
            normed(h, "")
        )
        }),
    );
    add(
        format!("gate and up, {h} to {mlp}, behind a norm behind a product"),
        mlp,
        false,
        Box::new(move |n| {
            format!(
            "{}\n  %4 = weight {{name=\"first\"}} : T[{h}, 64]\n  %5 = linear %2, %4, %3 {{residual=1}} : f32[B, S, {h}]
  %6 = weight {{name=\"second\"}} : f32[{h}]\n  %7 = weight {{name=\"gate\"}} : T[{n}, {h}]\n  %8 = weight {{name=\"up\"}} : T[{n}, {h}]
  %9 = linear %5, %6, %7, %8 {{weights=2, norm_eps=1e-6, swiglu=1}} : T[B, S, {n}]\n  return %9 \"y\"",
            normed(64, &format!(", %3: f32[B, S, {h}] \"stream\""))
        )
        }),
    );
    let vocabulary = text.vocab_size as usize;
    add(
        format!("head, {h} to {vocabulary}"),
        vocabulary,
        false,
        Box::new(move |n| {
            format!(
                "{}\n  %3 = weight {{name=\"a\"}} : T[{n}, {h}]\n  %4 = linear %2, %3 : f32[B, S, {n}]\n  return %4 \"y\"",
                normed(h, "")
            )
        }),
    );
    if let Some(vision) = &config.vision {
        let (e, m) = (vision.embed_dim as usize, vision.mlp_size as usize);
        add(
            format!("tower, {e} to {m}, with quick GELU"),
            m,
            false,
            Box::new(move |n| {
                format!(
                "{}\n  %3 = weight {{name=\"a\"}} : T[{n}, {e}]\n  %4 = weight {{name=\"bias\"}} : f32[{n}]
  %5 = linear %2, %3, %4 {{bias=1, activation=quick_gelu}} : T[B, S, {n}]\n  return %5 \"y\"",
                normed(e, "")
            )
            }),
        );
    }
    for (name, k, n) in [("o", h, h), ("down", mlp, h)] {
        add(
            format!("{name} in fp8, {k} to {n}"),
            n,
            true,
            Box::new(move |n| {
                format!(
                "%0: f32[B, S, {k}] \"x\") {{\n  %1 = weight {{name=\"a\", bits=8, float=1}} : T[{n}, {k}]
  %2 = linear %0, %1 {{fp8=1}} : f32[B, S, {n}]\n  return %2 \"y\""
            )
            }),
        );
    }
    list
}

/// Attention, norms and the sampler.
fn wholes(size: Size) -> Vec<Whole> {
    let config = size.model_config(Variant::Vla);
    let text = &config.text;
    let (h, heads, kv) = (text.hidden_size, text.num_attention_heads, text.num_key_value_heads);
    let d = h / heads;
    let mut list = vec![attention("decoder", heads, kv, d, &ROWS), attention_of_rows(heads, kv, d)];
    if let Some(vision) = &config.vision {
        let (heads, d) = (vision.num_heads, vision.embed_dim / vision.num_heads);
        list.push(attention("tower", heads, heads, d, &ROWS[..5]));
        list.push(norms(vision.embed_dim));
    }
    list.push(norms(h));
    list.push(Whole {
        name: format!("distributions and draws over {}", text.vocab_size),
        text: format!(
            "%0: f32[B, S, {v}] \"logits\", %1: i32[B, S] \"none\", %2: f32[] \"zero\", %3: f32[] \"top_p\", %4: i32[] \"top_k\", %5: u32[B, S] \"bits\") {{
  %6 = is_token %1 {{token=0}} : bool[B, S]
  %7 = sampling_probs %0, %6, %2, %3, %4 : f32[B, S, {v}]
  %8 = draw_token %7, %6, %2, %5 : i32[B, S]
  %9 = confidence %7, %6, %8 {{kind=negative_entropy}} : f32[B, S]
  return %8 \"token\", %9 \"confidence\"",
            v = text.vocab_size
        ),
        rows: &ROWS[..3],
        limit: limit(DTYPE),
    });
    list
}

fn norms(columns: u64) -> Whole {
    let text = format!(
        "{}\n  %3 = weight {{name=\"bias\"}} : f32[{columns}]\n  %4 = layer_norm %0, %1, %3 {{eps=1e-6}} : T[B, S, {columns}]
  return %2 \"rms\", %4 \"layer\"",
        normed(columns as usize, "")
    );
    Whole { name: format!("norms of {columns}"), text, rows: &ROWS, limit: limit(DTYPE) }
}

/// Mask, positions and what they turn by.
fn turning(d: u64) -> [String; 2] {
    let half = d / 2;
    [
        ", %3: i32[B, S] \"mask\", %4: i32[B, S] \"positions\"".to_owned(),
        format!(
            "%5, %6 = rope_table %4 {{theta=1000000.0, sections=[{half}]}} : f32[B, S, {half}], f32[B, S, {half}]"
        ),
    ]
}

fn attention(name: &str, heads: u64, kv: u64, d: u64, rows: &'static [usize]) -> Whole {
    let (q, width) = (heads * d, (heads + 2 * kv) * d);
    let [ports, tables] = turning(d);
    let text = format!(
        "{}\n  {tables}\n  %7 = weight {{name=\"qkv\"}} : T[{width}, 64]\n  %8 = linear %2, %7 : T[B, S, {width}]
  %9 = attention %8, %3, %5, %6 {{heads={heads}, kv_heads={kv}, head_dim={d}, packed=1, rope=1}} : T[B, S, {q}]
  return %9 \"y\"",
        normed(64, &ports)
    );
    let name = format!("attention of the {name}, {heads} heads of {d} over {kv}");
    Whole { name, text, rows, limit: attention_limit(DTYPE) }
}

fn attention_of_rows(heads: u64, kv: u64, d: u64) -> Whole {
    let (q, kv_width) = (heads * d, kv * d);
    let [ports, tables] = turning(d);
    let text = format!(
        "{}\n  {tables}\n  %8 = weight {{name=\"q\"}} : T[{q}, 64]\n  %9 = weight {{name=\"k\"}} : T[{kv_width}, 64]
  %10 = linear %2, %8 : T[B, S, {q}]\n  %11 = linear %2, %9 : T[B, S, {kv_width}]
  %12 = take_rows %10, %7 : T[B, S, {q}]
  %13 = attention %12, %11, %11, %3, %5, %6, %7 {{heads={heads}, kv_heads={kv}, head_dim={d}, rope=1, rows=1}} : T[B, S, {q}]
  return %13 \"y\"",
        normed(64, &format!("{ports}, %7: i32[B, S] \"rows\""))
    );
    let name = format!("attention at some rows, {heads} heads of {d} over {kv}");
    Whole { name, text, rows: &ROWS, limit: attention_limit(DTYPE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_a_graph() {
        for size in [Size::SevenB, Size::Tiny] {
            products(size).iter().for_each(|form| drop(graph(&(form.text)(form.n))));
            wholes(size).iter().for_each(|form| drop(graph(&form.text)));
        }
    }

    #[test]
    fn columns_of_a_width() {
        let picked = picked(18944);
        assert_eq!((picked.len(), picked[0], picked[COLUMNS - 1]), (COLUMNS, 0, 18943));
        assert_eq!(super::picked(5), [0, 1, 2, 3, 4]);
        let matrix = Tensor::f32(&[1, 2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(columns(&matrix, &[0, 2]).floats(), [0.0, 2.0, 3.0, 5.0]);
        assert_eq!(first(&matrix, 1).floats(), [0.0, 1.0, 2.0]);
        assert_eq!(rows(&Tensor::f32(&[2, 2], vec![0.0, 1.0, 2.0, 3.0]), &[1]).floats(), [2.0, 3.0]);
    }
}

//! The matmuls of the decoder and the tower, bare: nothing is fused before or behind them, as in the kernels beside them.

use crate::fixtures::Make;
use crate::report::{Checks, message};
use crate::timing::{Bench, GROUP_COUNT_MIN, SizeName, Weights};
use dreamc_frontend::Variant;
use dreamc_frontend::synth::Size;
use dreamc_golden::device;
use dreamc_golden::graph::Emitted;
use dreamc_golden::ops::{ENTRY, normed};
use dreamc_golden::runners::Place;
use dreamc_ir::{Module, parse};
use dreamc_num::DType;
use serde_json::Map;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Rows of the requests.
pub(super) const ROWS: [u32; 4] = [232, 301, 384, 512];
/// What is multiplied, and what comes out; sums are f32.
pub(super) const DTYPE: DType = DType::BF16;
/// Weights of a product are repeated until they are more than this, so that none is found in a cache: five times that of a
/// Hopper.
const WEIGHT_BYTES_MIN: usize = 256 << 20;

/// `[rows, k]` by the transpose of `[n, k]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Product {
    /// Where the models have it.
    pub(super) name: String,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// A time of ours.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ours {
    /// The kernels that were launched.
    pub(super) kernels: String,
    /// Microseconds of one product.
    pub(super) us: f64,
}

/// A time, or why there is none, at each of [`ROWS`].
type Times = [Result<Ours, String>; ROWS.len()];

impl Product {
    /// Weights that take turns.
    pub(super) fn copies(&self) -> usize {
        WEIGHT_BYTES_MIN.div_ceil(self.n * self.k * DTYPE.bytes()).min(GROUP_COUNT_MIN)
    }

    /// All copies on the same rows, which a norm makes, so that they are no zeros.
    fn module(&self) -> Module {
        let (n, k, rows) = (self.n, self.k, ROWS[ROWS.len() - 1]);
        let (mut lines, mut results) = (normed(k, ""), Vec::new());
        for copy in 0..self.copies() {
            let (a, y) = (3 + 2 * copy, 4 + 2 * copy);
            lines.push_str(&format!(
                "\n  %{a} = weight {{name=\"a{copy}\"}} : T[{n}, {k}]\n  %{y} = linear %2, %{a} : T[B, S, {n}]"
            ));
            results.push(format!("%{y} \"y{copy}\""));
        }
        let lines = lines.replace("T[", &format!("{DTYPE}["));
        let results = results.join(", ");
        let text =
            format!("symbol B <= 1\nsymbol S <= {rows}\n\ngraph @{ENTRY}({lines}\n  return {results}\n}}\n");
        parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// Our time at each of [`ROWS`], or why there is none; an error is a failure of ours.
    pub(super) fn time(&self, place: Place<'static>, iterations: usize) -> Result<Times, String> {
        let timed = catch_unwind(AssertUnwindSafe(|| {
            let emitted = Emitted::new(place, &self.module(), ENTRY);
            let weights = Weights::new(&emitted.constants);
            let device = device::open(place.device(), &emitted.code, weights.views());
            let mut bench = Bench::new(device, &emitted, 0);
            ROWS.map(|rows| {
                let (kernels, ms) = bench.product(rows, iterations);
                let us = ms * 1e3;
                if us > 0.0 {
                    return Ok(Ours { kernels, us });
                }
                Err("it takes no longer than to wait for the device".to_owned())
            })
        }));
        timed.map_err(|panic| message(panic.as_ref()))
    }
}

/// All of a size; those of one shape once.
pub(super) fn products(size: Size) -> Vec<Product> {
    let config = size.model_config(Variant::Vla);
    let text = &config.text;
    let (h, mlp) = (text.hidden_size as usize, text.intermediate_size as usize);
    let kv = text.num_key_value_heads as usize * (h / text.num_attention_heads as usize);
    let mut all = vec![
        ("q, k and v", h + 2 * kv, h),
        ("o", h, h),
        ("gate and up", 2 * mlp, h),
        ("down", h, mlp),
        ("head", text.vocab_size as usize, h),
    ];
    if let Some(vision) = &config.vision {
        let (e, m, merged) =
            (vision.embed_dim as usize, vision.mlp_size as usize, vision.merged_size() as usize);
        let out = vision.hidden_size as usize;
        all.extend([
            ("tower, patches", e, vision.patch_elements() as usize),
            ("tower, q, k and v", 3 * e, e),
            ("tower, o", e, e),
            ("tower, up", m, e),
            ("tower, down", e, m),
            ("merger, first", merged, merged),
            ("merger, second", out, merged),
            ("projector, first", h, out),
            ("projector, second", h, h),
        ]);
    }
    let mut list: Vec<Product> = Vec::new();
    for (name, n, k) in all {
        match list.iter_mut().find(|product| (product.n, product.k) == (n, k)) {
            Some(product) => product.name = format!("{}; {name}", product.name),
            None => list.push(Product { name: name.to_owned(), n, k }),
        }
    }
    list
}

/// Compiles the kernels of a size.
pub(crate) fn build(section: &str, make: Make, size: SizeName, checks: &mut Checks) {
    for product in products(size.size()) {
        checks.check(section, &format!("{size}, {}", product.name), || {
            drop(Emitted::new(make.place, &product.module(), ENTRY));
            Map::new()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_the_7b() {
        let list = products(Size::SevenB);
        let shapes: Vec<(usize, usize)> = list.iter().map(|p| (p.n, p.k)).collect();
        assert_eq!(
            shapes,
            [
                (4608, 3584),
                (3584, 3584),
                (37888, 3584),
                (3584, 18944),
                (152_064, 3584),
                (1280, 1176),
                (3840, 1280),
                (1280, 1280),
                (5120, 1280),
                (1280, 5120),
                (5120, 5120),
                (3584, 5120),
            ]
        );
        assert_eq!(list[1].name, "o; projector, first; projector, second");
    }

    #[test]
    fn copies_are_more_than_a_cache_holds() {
        let copies = |n, k| Product { name: String::new(), n, k }.copies();
        assert_eq!([copies(152_064, 3584), copies(37888, 3584), copies(3584, 3584)], [1, 1, 11]);
        assert_eq!(copies(1280, 1280), GROUP_COUNT_MIN);
    }

    #[test]
    fn every_product_is_a_graph() {
        for size in [Size::SevenB, Size::Tiny] {
            for product in products(size) {
                let module = product.module();
                assert_eq!(module.graph(ENTRY).map(|g| g.results.len()), Some(product.copies()));
            }
        }
    }
}

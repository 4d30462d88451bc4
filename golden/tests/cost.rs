//! What the passes take away from the released models, by the cost model; the table in ARCHITECTURE.md is made from this.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc::cost::{self, Cost, EntryCost, Lengths};
use dreamc_frontend::Variant;
use dreamc_frontend::module::{ACT, GENERATE, Options};
use dreamc_frontend::sampler::{Alg, Sampler};
use dreamc_frontend::synth::Size;
use dreamc_frontend::vla::{Act, Mode};
use dreamc_golden::shapes::{flow, imported};
use dreamc_ir::{Dim, Graph, Module, Op, SLOTS, verify};
use dreamc_num::DType;
use dreamc_passes::optimize;
use std::fmt::Write as _;
use std::path::Path;

/// Set to write the table instead of comparing it.
const BLESS: &str = "DREAM_BLESS";
/// Stand around the table.
const MARKS: [&str; 2] = ["<!-- cost: begin -->\n", "<!-- cost: end -->\n"];

/// A request of a 7B model.
struct Unit {
    name: &'static str,
    variant: Variant,
    /// Positions of the canvas.
    length: u64,
    image_tokens: u64,
    /// Images of one size that these are.
    images: u64,
    slots: u64,
    steps: u64,
    act: Option<Act>,
}

/// What it costs.
struct Found {
    reference: Cost,
    compiled: EntryCost,
    module: Module,
}

impl Unit {
    fn entry(&self) -> &'static str {
        if self.act.is_some() { ACT } else { GENERATE }
    }

    fn found(&self) -> Found {
        let options = Options {
            dtype: DType::BF16,
            max_batch: 1,
            max_length: self.length,
            max_slots: self.slots,
            max_image_tokens: self.image_tokens,
            sampler: Sampler { steps: self.steps, eps: 1e-3, alg: Alg::MaskgitPlus },
            act: self.act.clone(),
        };
        let mut module = imported(Size::SevenB, self.variant, &options);
        let repeats = self.act.as_ref().is_some_and(|act| act.mode != Mode::Discrete);
        let reference = cost::reference(&module, self.entry(), repeats, self.images).unwrap();
        optimize(&mut module, &mut |_, _, _| ());
        let lengths = Lengths { images: self.images, ..Lengths::default() };
        let entries = cost::entries(verify(&module).unwrap(), lengths).unwrap();
        let compiled = entries.into_iter().find(|e| e.entry == self.entry()).unwrap();
        Found { reference, compiled, module }
    }
}

impl Found {
    /// Hundredths of the reference's FLOP that are gone.
    fn less(&self) -> f64 {
        100.0 * (1.0 - self.compiled.compiled.flop as f64 / self.reference.flop as f64)
    }
}

fn units() -> [Unit; 4] {
    let discrete = Act { mode: Mode::Discrete, proprio_dim: None, integrator: None, ..flow() };
    [
        Unit {
            name: "actions by a flow of 4 steps, 2 views, state",
            variant: Variant::Vla,
            length: 232,
            image_tokens: 128,
            images: 2,
            slots: 1,
            steps: 1,
            act: Some(flow()),
        },
        Unit {
            name: "actions in 8 steps, 2 views",
            variant: Variant::Vla,
            length: 232,
            image_tokens: 128,
            images: 2,
            slots: 58,
            steps: 8,
            act: Some(discrete),
        },
        Unit {
            name: "text, 128 tokens in 128 steps after 128",
            variant: Variant::Text,
            length: 256,
            image_tokens: 1,
            images: 1,
            slots: 128,
            steps: 128,
            act: None,
        },
        Unit {
            name: "a choice about an image, 3 tokens in 1 step after 320",
            variant: Variant::Vl,
            length: 323,
            image_tokens: 256,
            images: 1,
            slots: 3,
            steps: 1,
            act: None,
        },
    ]
}

/// Rows that the vocabulary's head multiplies.
fn rows_of_head(graph: &Graph) -> Option<Dim> {
    let head = graph.order().iter().map(|n| graph.node(*n)).find(|data| {
        matches!(data.op, Op::Linear(_)) && data.origin.0.iter().any(|path| path == "lm_head")
    })?;
    graph.ty(*head.outputs.first()?).dims.get(1).cloned()
}

#[test]
fn as_much_is_gone_as_is_promised() {
    let [flow, actions, text, choice] = units().map(|unit| unit.found());
    assert!(flow.less() >= 20.0, "{}", flow.less());
    assert!(actions.less() >= 8.0, "{}", actions.less());
    assert!(text.less() >= 8.0, "{}", text.less());
    assert_eq!(text.compiled.passes, 127);
    let graph = choice.module.graph(GENERATE).unwrap();
    assert_eq!(rows_of_head(graph), Some(Dim::symbol(SLOTS)));
    assert_eq!(choice.module.symbols[SLOTS], 3);
}

#[test]
fn the_table_is_what_was_counted() {
    let mut table = String::from(
        "| request of a 7B model | reference, TFLOP | compiled, TFLOP | less | passes | compiled |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for unit in units() {
        let found = unit.found();
        let [before, after] = [found.reference.flop, found.compiled.compiled.flop].map(|f| f as f64 / 1e12);
        let steps = if unit.act.as_ref().is_some_and(|a| a.integrator.is_some()) { 4 } else { unit.steps };
        let (name, less, passes) = (unit.name, found.less(), found.compiled.passes);
        writeln!(table, "| {name} | {before:.2} | {after:.2} | {less:.1} % | {steps} | {passes} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (found, after) = rest.split_once(MARKS[1]).unwrap();
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, [before, MARKS[0], &table, MARKS[1], after].concat()).unwrap();
        return;
    }
    assert_eq!(found, table, "write it with `{BLESS}=1 cargo test -p dreamc-golden --test cost`");
}

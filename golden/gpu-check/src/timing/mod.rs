//! How long programs of the models' shapes take, in all and kernel by kernel. The weights are made up: what a kernel
//! costs depends on shapes, not on what stands in them.

mod bench;
mod cost;
mod peer;
mod weights;

pub(crate) use bench::{Bench, GROUP_COUNT_MIN};
pub(crate) use peer::{PART as PEER_PART, peer};
pub(crate) use weights::Weights;

use crate::fixtures::Make;
use crate::report::{Checks, Results, message};
use clap::ValueEnum;
use dreamc::compile::{Bits, Quantization, quantize};
use dreamc_frontend::Variant;
use dreamc_frontend::module::{ACT, FORWARD, GENERATE};
use dreamc_frontend::synth::Size;
use dreamc_golden::device;
use dreamc_golden::graph::Emitted;
use dreamc_golden::runners::Place;
use dreamc_golden::shapes;
use dreamc_ir::Module;
use dreamc_num::DType;
use serde_json::{Map, Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Lengths of the canvas: a short task with one view and with two.
pub(crate) const LENGTHS: [u32; 2] = [232, 301];
/// The file of what is found.
const PART: &str = "timing";
/// What everything is timed in.
const DTYPE: DType = DType::BF16;

/// A size of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SizeName {
    /// The released models'
    #[value(name = "7b")]
    SevenB,
    /// Between the two
    Small,
    /// For a dry run
    Tiny,
}

impl SizeName {
    /// Its shapes.
    pub(crate) fn size(self) -> Size {
        match self {
            SizeName::SevenB => Size::SevenB,
            SizeName::Small => Size::Small,
            SizeName::Tiny => Size::Tiny,
        }
    }

    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SizeName::SevenB => "7b",
            SizeName::Small => "small",
            SizeName::Tiny => "tiny",
        }
    }
}

impl std::fmt::Display for SizeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What is timed: a name, a graph, and its entry.
fn subjects(place: Place<'static>, size: Size) -> Vec<(&'static str, Module, &'static str)> {
    let mut all = vec![
        ("act: one step of the sampler, images included", shapes::act_at_once(size, DTYPE), ACT),
        ("forward: logits of all positions", shapes::text(size, DTYPE, 1), FORWARD),
        ("generate: one step of the sampler", shapes::text(size, DTYPE, 1), GENERATE),
        ("act: a flow of four steps, images included", shapes::act(size, DTYPE), ACT),
    ];
    if Bits::Fp8.fits(&place.target(DTYPE)) {
        let in_fp8 = |mut module: Module, variant: Variant| {
            let config = size.model_config(variant);
            let done = quantize(&Quantization::new(Bits::Fp8), &config, &mut [&mut module]);
            done.map(|_| module).unwrap_or_else(|e| panic!("{e}"))
        };
        let text = in_fp8(shapes::text(size, DTYPE, 1), Variant::Text);
        let act = in_fp8(shapes::act(size, DTYPE), Variant::Vla);
        all.push(("forward in fp8: logits of all positions", text, FORWARD));
        all.push(("act in fp8: a flow of four steps, images included", act, ACT));
    }
    all
}

/// Compiles the kernels of a size.
pub(crate) fn build(section: &str, make: Make, size: SizeName, checks: &mut Checks) {
    for (name, module, entry) in subjects(make.place, size.size()) {
        checks.check(section, &format!("{size}, {name}"), || {
            drop(Emitted::new(make.place, &module, entry));
            Map::new()
        });
    }
}

/// Times everything and writes it as it comes; what fails says so and does not keep the rest from being timed. Gives the
/// number of programs that failed.
pub(crate) fn time(
    place: Place<'static>,
    size: SizeName,
    lengths: &[u32],
    iterations: usize,
    results: &Results,
) -> usize {
    let (mut list, mut failed) = (Vec::new(), 0);
    for (name, module, entry) in subjects(place, size.size()) {
        let mut about =
            json!({"program": name, "entry": entry, "size": size.name(), "dtype": DTYPE.to_string()});
        if results.left().is_zero() {
            println!("timing: {name}: skipped: no time is left");
            about["skipped"] = "no time is left".into();
        } else {
            let at = list.len();
            list.push(about.clone());
            let mut found = |key: &str, value: Value| {
                about[key] = value;
                list[at] = about.clone();
                results.write(PART, &Value::from(list.clone()));
            };
            let timed = catch_unwind(AssertUnwindSafe(|| {
                program(place, size, &module, entry, lengths, iterations, &mut found)
            }));
            if let Err(panic) = timed {
                let error = message(panic.as_ref());
                println!("timing: {name}: FAILED: {error}");
                found("error", error.into());
                failed += 1;
            }
            continue;
        }
        list.push(about);
        results.write(PART, &Value::from(list.clone()));
    }
    failed
}

fn program(
    place: Place<'static>,
    size: SizeName,
    module: &Module,
    entry: &str,
    lengths: &[u32],
    iterations: usize,
    found: &mut dyn FnMut(&str, Value),
) {
    let emitted = Emitted::new(place, module, entry);
    let weights = Weights::new(&emitted.constants);
    let begin = Instant::now();
    let device = device::open(place.device(), &emitted.code, weights.views());
    let mask = i32::try_from(size.size().model_config(dreamc_frontend::Variant::Text).text.mask_token_id);
    let mut bench = Bench::new(device, &emitted, mask.unwrap_or_default());
    let prepare_seconds = begin.elapsed().as_secs_f64();
    println!(
        "timing: {entry}: {:.2} GB of weights and {} kernels are ready after {prepare_seconds:.1} s",
        weights.bytes() as f64 / 1e9,
        emitted.code.modules.len()
    );
    found("weights_bytes", weights.bytes().into());
    found("arena_bytes", emitted.program.arena_bytes.into());
    found("kernels", emitted.code.modules.len().into());
    found("prepare_seconds", prepare_seconds.into());
    let mut timed = Vec::new();
    for length in lengths {
        timed.push(bench.time(*length, iterations));
        found("lengths", Value::from(timed.clone()));
    }
}

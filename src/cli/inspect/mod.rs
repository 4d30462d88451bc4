//! `dreamc inspect`: what an artifact holds.

mod kernels;

use super::device::{ThreadArgs, open_to_read};
use super::error::Failure;
use super::families::form;
use super::output::{Format, counted, json_value, output_path, print, print_json_pretty, write_whole};
use super::{html, plan, tune};
use clap::builder::PossibleValuesParser;
use dream::{Manifest, Settings};
use dreamc::cost::{self, EntryCost, GraphCost, Lengths};
use dreamc::output_path::OutputPath;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dispatch, Launch, Plan, Program};
use dreamc_artifact::{Artifact, WeightInfo, Work};
use dreamc_backend::Liveness;
use dreamc_ir::{Module, SLOTS, Verified, parse, verify};
use dreamc_kernels::model::{GPUS, Gpu};
use kernels::{Images, Listed, Rates};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote
    file: PathBuf,
    /// Arithmetic and memory traffic of each op, at the longest and largest request
    #[arg(long)]
    cost: bool,
    /// What the runtime executes, step by step
    #[arg(long)]
    plan: bool,
    /// The kernels of each target: those that the artifact carries, and for the CPU those of the runtime that it asks for,
    /// with the rates that they reach here
    #[arg(long)]
    kernels: bool,
    /// With --kernels: what each takes on this GPU at the longest and largest request, by a model; nothing is measured
    #[arg(long, requires = "kernels", value_name = "GPU", value_parser = PossibleValuesParser::new(GPUS.map(|gpu| gpu.name)))]
    gpu: Option<String>,
    /// With --kernels: measure nothing
    #[arg(long, requires = "kernels")]
    no_rates: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    /// The graphs as text, for `dreamc opt`
    #[arg(long)]
    ir: bool,
    /// Write a page that shows the plans as timelines; it needs no network
    #[arg(long, value_name = "OUT")]
    html: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What is known; `--format json` prints it as it stands, the text form has the same figures.
#[derive(Serialize)]
struct Report<'a> {
    file_bytes: u64,
    /// `major.minor`.
    format_version: String,
    manifest: &'a Manifest,
    /// How images become tokens and tokens actions, for models that do.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<&'a Settings>,
    sections: Vec<Section>,
    entries: Vec<Entry<'a>>,
    /// Of the targets whose kernels the artifact carries.
    code: Vec<TargetCode<'a>>,
    weights: Weights,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Vec<GraphCost>>,
    /// What the entries come to, and what the reference takes for the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<Vec<Total>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Vec<TargetPlan<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<Vec<Listed<'a>>>,
    /// What the kernels' times are estimated for.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<&'a str>,
    /// What the kernels' rates were measured on.
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ir: Option<&'a str>,
}

/// One run of an entry at the longest and largest request.
#[derive(Serialize)]
struct Total {
    #[serde(flatten)]
    entry: EntryCost,
    /// As the reference computes it; none in files that do not say.
    reference: Option<Work>,
}

#[derive(Serialize)]
struct Section {
    kind: &'static str,
    offset: u64,
    bytes: u64,
    hash: String,
}

/// One program of a target's plan.
#[derive(Serialize)]
struct Entry<'a> {
    target: &'a str,
    name: &'a str,
    symbols: Vec<Symbol<'a>>,
    arena_bytes: u64,
    /// Bytes of the values that live at the same time, where they are most.
    live_bytes: u64,
    /// Kernels started in one run of the program, loops counted once.
    kernels: u64,
}

#[derive(Serialize)]
struct Symbol<'a> {
    name: &'a str,
    max: u32,
}

#[derive(Serialize)]
struct Weights {
    tensors: u64,
    bytes: u64,
    /// The same by who reads them: a matrix is stored once for each packing.
    readers: Vec<Readers>,
    /// The same by how they are stored.
    forms: Vec<Form>,
}

/// Tensors that are stored alike.
#[derive(Serialize)]
struct Form {
    /// `int8`, `int4g32z`, or the type of the elements.
    form: String,
    tensors: u64,
    elements: u64,
    bytes: u64,
    /// Of an element, scales and filling included.
    bits: f64,
}

/// Tensors that these targets read and no others.
#[derive(Serialize)]
struct Readers {
    targets: Vec<String>,
    tensors: u64,
    bytes: u64,
}

/// What the kernels of a target take.
#[derive(Serialize)]
struct TargetCode<'a> {
    target: &'a str,
    kernels: u64,
    images: Vec<Images<'a>>,
}

#[derive(Serialize)]
struct TargetPlan<'a> {
    target: &'a str,
    #[serde(flatten)]
    plan: &'a Plan,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let measures = args.kernels && !args.no_rates;
    if args.threads.are_given() && !measures {
        let message = "--threads and --pin are of no effect where nothing is measured";
        return Err(Failure::usage(message, "give them with --kernels, which runs the kernels of the CPU"));
    }
    let html = args.html.as_deref().map(|out| output_path("--html", out, &[&args.file])).transpose()?;
    let model = open_to_read(&args.file)?;
    let artifact = model.artifact();
    if let Some(out) = &html {
        write_page(out, artifact)?;
    }
    let report = report(args, artifact, model.settings())?;
    match args.format {
        Format::Json => print_json_pretty(&report),
        Format::Text => {
            let mut parts = Vec::new();
            parts.extend(report.cost.as_deref().map(cost_text));
            parts.extend(report.totals.as_deref().map(totals_text));
            parts.extend(report.plan.as_ref().map(|_| plan_text(artifact)));
            parts.extend(
                report.kernels.as_deref().map(|list| kernels::text(list, report.rates.as_ref(), report.gpu)),
            );
            if args.kernels {
                parts.extend(artifact.manifest().tuned.iter().map(tune::text));
            }
            parts.extend(report.ir.map(str::to_owned));
            if parts.is_empty() && html.is_some() {
                return Ok(());
            }
            if parts.is_empty() {
                parts.push(summary(&report)?);
            }
            print(&parts.join("\n"))
        }
    }
}

fn report<'a>(
    args: &'a Args,
    artifact: &'a Artifact<'a>,
    settings: Option<&'a Settings>,
) -> Result<Report<'a>, Failure> {
    let ir = if args.ir || args.cost { Some(ir(artifact)?) } else { None };
    let (cost, totals) = match ir {
        Some(text) if args.cost => {
            let module = module(text)?;
            let verified = sound(&module)?;
            (Some(cost::of(verified, lengths(&slots(artifact)))?), Some(totals(verified, artifact)?))
        }
        _ => (None, None),
    };
    let gpu = args.gpu.as_deref().and_then(Gpu::named);
    let rates = match args.kernels && !args.no_rates {
        true => kernels::rates(&args.file, artifact, &args.threads)?,
        false => None,
    };
    let section = |s: &dreamc_artifact::Section| Section {
        kind: s.kind.name(),
        offset: s.offset,
        bytes: s.len,
        hash: s.hash.iter().map(|b| format!("{b:02x}")).collect(),
    };
    Ok(Report {
        file_bytes: artifact.file_len(),
        format_version: artifact.version().to_string(),
        manifest: artifact.manifest(),
        settings,
        sections: artifact.sections().iter().map(section).collect(),
        entries: plans(artifact)
            .flat_map(|(target, plan)| plan.programs.iter().map(move |p| entry(target, p)))
            .collect(),
        code: artifact.manifest().targets.iter().filter_map(|target| code(artifact, target)).collect(),
        weights: weights(artifact),
        cost,
        totals,
        plan: args.plan.then(|| plans(artifact).map(|(target, plan)| TargetPlan { target, plan }).collect()),
        kernels: args.kernels.then(|| kernels::list(artifact, rates.as_ref(), gpu)),
        gpu: args.gpu.as_deref().filter(|_| args.kernels),
        rates,
        ir: ir.filter(|_| args.ir),
    })
}

fn code<'a>(artifact: &'a Artifact<'a>, target: &'a str) -> Option<TargetCode<'a>> {
    let modules = &artifact.code(target)?.modules;
    let carried = TargetCode { target, kernels: modules.len() as u64, images: kernels::images(modules) };
    (!modules.is_empty()).then_some(carried)
}

fn weights(artifact: &Artifact<'_>) -> Weights {
    let mut readers = vec![Vec::new(); artifact.weights().len()];
    for (target, plan) in plans(artifact) {
        let values = plan.programs.iter().flat_map(|program| &program.values);
        for index in values.filter_map(|value| value.place.weight()) {
            let of_weight: &mut Vec<String> = &mut readers[index as usize];
            if of_weight.last().is_none_or(|last| last != target) {
                of_weight.push(target.to_owned());
            }
        }
    }
    let mut groups: Vec<Readers> = Vec::new();
    for (targets, weight) in readers.into_iter().zip(artifact.weights()) {
        match groups.iter_mut().find(|group| group.targets == targets) {
            Some(group) => (group.tensors, group.bytes) = (group.tensors + 1, group.bytes + weight.bytes),
            None => groups.push(Readers { targets, tensors: 1, bytes: weight.bytes }),
        }
    }
    let bytes = artifact.weights().iter().map(|w| w.bytes).sum();
    Weights {
        tensors: artifact.weights().len() as u64,
        bytes,
        readers: groups,
        forms: forms(artifact.weights()),
    }
}

/// The most bytes first.
fn forms(weights: &[WeightInfo]) -> Vec<Form> {
    let mut forms: BTreeMap<String, Form> = BTreeMap::new();
    for weight in weights {
        let name = form(weight);
        let none = || Form { form: name.clone(), tensors: 0, elements: 0, bytes: 0, bits: 0.0 };
        let form = forms.entry(name.clone()).or_insert_with(none);
        form.tensors += 1;
        form.elements += weight.dims.iter().product::<u64>();
        form.bytes += weight.bytes;
        form.bits = 8.0 * form.bytes as f64 / form.elements as f64;
    }
    let mut forms: Vec<Form> = forms.into_values().collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.bytes));
    forms
}

fn plans<'a>(artifact: &'a Artifact<'a>) -> impl Iterator<Item = (&'a str, &'a Plan)> {
    artifact.manifest().targets.iter().filter_map(|target| Some((target.as_str(), artifact.plan(target)?)))
}

fn entry<'a>(target: &'a str, program: &'a Program) -> Entry<'a> {
    Entry {
        target,
        name: &program.name,
        symbols: program.symbols.iter().map(|s| Symbol { name: &s.name, max: s.max }).collect(),
        arena_bytes: program.arena_bytes,
        live_bytes: Liveness::of(program).peak_bytes(),
        // One of the CPU, or one for each launch of the longest request.
        kernels: program.dispatches().map(|d| longest(program, d).count().max(1) as u64).sum(),
    }
}

/// The launches of the longest request, as the compiler chose them.
fn longest<'p>(program: &Program, dispatch: &'p Dispatch) -> impl Iterator<Item = &'p Launch> {
    let maxima = program.maxima();
    dispatch.launches.iter().filter(move |launch| launch.is_usual() && launch.serves(&maxima) == Some(true))
}

fn ir<'a>(artifact: &Artifact<'a>) -> Result<&'a str, Failure> {
    let bytes = artifact.ir().ok_or_else(|| Failure::failed("the artifact holds no IR", REBUILD))?;
    std::str::from_utf8(bytes).map_err(|_| Failure::failed("the artifact's IR is no text", REBUILD))
}

const REBUILD: &str = "build it again with this version of dreamc";

fn module(ir: &str) -> Result<Module, Failure> {
    parse(ir).map_err(|error| Failure::failed("the artifact's IR does not read", REBUILD).because(error))
}

fn sound(module: &Module) -> Result<Verified<'_>, Failure> {
    verify(module)
        .map_err(|error| Failure::failed("the artifact's IR does not verify", REBUILD).because(error))
}

fn totals(module: Verified<'_>, artifact: &Artifact<'_>) -> Result<Vec<Total>, Failure> {
    let reference = |entry: &EntryCost| artifact.manifest().reference.get(&entry.entry).copied();
    let total = |entry: EntryCost| Total { reference: reference(&entry), entry };
    Ok(cost::entries(module, lengths(&slots(artifact)))?.into_iter().map(total).collect())
}

/// Costs are counted with as many open slots as a request appends.
fn slots(artifact: &Artifact<'_>) -> [(&'static str, u64); 1] {
    [(SLOTS, artifact.manifest().model.new_tokens.into())]
}

fn lengths<'a>(symbols: &'a [(&'a str, u64)]) -> Lengths<'a> {
    Lengths { symbols, ..Lengths::default() }
}

/// The page of `--html`.
fn write_page(out: &OutputPath, artifact: &Artifact<'_>) -> Result<(), Failure> {
    let module = module(ir(artifact)?)?;
    let programs = plans(artifact).flat_map(|(target, plan)| plan.programs.iter().map(move |p| (target, p)));
    let model = &artifact.manifest().model;
    let title = format!("Plan of a {} model in {}", model.variant, model.dtype);
    let page = html::page(&title, programs, sound(&module)?);
    write_whole(out, page.as_bytes())
}

fn summary(report: &Report<'_>) -> Result<String, Failure> {
    let mut text = format!(
        "artifact: {} bytes, format version {}\n\nmanifest\n",
        report.file_bytes, report.format_version
    );
    fields(&mut text, 1, &json_value(report.manifest)?);

    if let Some(settings) = report.settings {
        text.push_str("\nsettings\n");
        fields(&mut text, 1, &json_value(settings)?);
    }
    text.push_str("\nsections\n");
    for s in &report.sections {
        text.push_str(&format!("  {:<13} at {:>12}  {:>14} bytes  {}\n", s.kind, s.offset, s.bytes, s.hash));
    }
    text.push_str("\nentries\n");
    for e in &report.entries {
        let symbols: Vec<String> = e.symbols.iter().map(|s| format!("{} <= {}", s.name, s.max)).collect();
        let kernels = counted(e.kernels, "kernel");
        text.push_str(&format!(
            "  {} on {} ({}): {} bytes of arena, {} live at most, {kernels}\n",
            e.name,
            e.target,
            symbols.join(", "),
            e.arena_bytes,
            e.live_bytes
        ));
    }
    if !report.code.is_empty() {
        text.push_str("\ncode\n");
    }
    for TargetCode { target, kernels, images } in &report.code {
        let each = images.iter().map(|Images { form, arch, bytes }| match *arch {
            "" => format!("{form} {bytes} bytes"),
            arch => format!("{form} {arch} {bytes} bytes"),
        });
        let each: Vec<String> = each.collect();
        text.push_str(&format!("  {target}: {}; {}\n", counted(*kernels, "kernel"), each.join(", ")));
    }
    let tensors = counted(report.weights.tensors, "tensor");
    text.push_str(&format!("\nweights\n  {tensors}, {} bytes\n", report.weights.bytes));
    for group in report.weights.readers.iter().filter(|_| report.weights.readers.len() > 1) {
        let (targets, tensors) = (group.targets.join(", "), counted(group.tensors, "tensor"));
        text.push_str(&format!("  for {targets}: {tensors}, {} bytes\n", group.bytes));
    }
    for form in &report.weights.forms {
        let tensors = counted(form.tensors, "tensor");
        text.push_str(&format!(
            "  {}: {tensors}, {} bytes, {:.3} bits each\n",
            form.form, form.bytes, form.bits
        ));
    }
    Ok(text)
}

/// One field per line, those of objects further in.
fn fields(text: &mut String, depth: usize, value: &serde_json::Value) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let indent = "  ".repeat(depth);
        match value {
            serde_json::Value::Object(_) => {
                text.push_str(&format!("{indent}{key}\n"));
                fields(text, depth + 1, value);
            }
            serde_json::Value::String(word) => text.push_str(&format!("{indent}{key}: {word}\n")),
            other => text.push_str(&format!("{indent}{key}: {other}\n")),
        }
    }
}

fn cost_text(costs: &[GraphCost]) -> String {
    let mut text = String::new();
    for graph in costs {
        text.push_str(&format!(
            "{:<18}{:>12}{:>24}{:>24}\n",
            format!("@{}", graph.graph),
            "runs",
            "FLOP",
            "bytes"
        ));
        for op in &graph.ops {
            text.push_str(&format!(
                "  {:<16}{:>12}{:>24}{:>24}\n",
                op.op, op.runs, op.cost.flop, op.cost.bytes
            ));
        }
        text.push_str(&format!(
            "  {:<16}{:>12}{:>24}{:>24}\n\n",
            "total", "", graph.total.flop, graph.total.bytes
        ));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Each entry as the reference computes it and as compiled, and one pass of it.
fn totals_text(totals: &[Total]) -> String {
    let line = |name: &str, runs: String, cost: Option<(u64, u64)>| {
        let number = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        let (flop, bytes) = (number(cost.map(|c| c.0)), number(cost.map(|c| c.1)));
        format!("  {name:<16}{runs:>12}{flop:>24}{bytes:>24}\n")
    };
    let mut text = String::new();
    for Total { entry, reference } in totals {
        text.push_str(&format!("{:<18}{:>12}{:>24}{:>24}\n", entry.entry, "passes", "FLOP", "bytes"));
        let of = |cost: cost::Cost| Some((cost.flop, cost.bytes));
        text.push_str(&line("reference", entry.steps.to_string(), reference.map(|w| (w.flop, w.bytes))));
        text.push_str(&line("compiled", entry.passes.to_string(), of(entry.compiled)));
        text.push_str(&line("one pass", "1".to_owned(), of(entry.step)));
    }
    text
}

fn plan_text(artifact: &Artifact<'_>) -> String {
    let name = |w: &WeightInfo| match w.layout {
        Layout::Quantized(quant) => format!("{} {quant}", w.name),
        Layout::RowMajor | Layout::Panels | Layout::PanelPairs => w.name.clone(),
    };
    let names: Vec<String> = artifact.weights().iter().map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut text = String::new();
    for (target, plan) in plans(artifact) {
        for program in &plan.programs {
            text.push_str(&plan::text(target, program, &names));
        }
    }
    text
}

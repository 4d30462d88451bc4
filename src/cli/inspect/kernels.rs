//! `dreamc inspect --kernels`: the kernels of each target. Those of the CPU are in the runtime, so they are run here, and their
//! rates listed.

use super::super::device::ThreadArgs;
use super::super::error::Failure;
use super::super::families::{dtype, family, op};
use super::super::profile::{Seen, observe, program_names, shares};
use super::super::progress::{Progress, Unit};
use super::super::requests::{Lengths, Subject, entry, make};
use super::{longest, plans};
use dreamc::compile::Entry;
use dreamc::estimate::Request;
use dreamc_artifact::Artifact;
use dreamc_artifact::code::{Code, Form, Module};
use dreamc_artifact::plan::{Plan, Program};
use dreamc_kernels::model::{self, Gpu};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Calls of each entry that are observed, behind one that is not.
const CALLS: u32 = 3;

/// One kernel of a target.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Listed<'a> {
    /// The artifact carries it.
    Carried(Kernel<'a>),
    /// It is in the runtime: all of the CPU's are.
    Chosen(Chosen<'a>),
}

/// A kernel of the runtime, chosen by what is computed in which types and what is fused into it.
#[derive(Serialize)]
pub(super) struct Chosen<'a> {
    name: String,
    target: &'a str,
    arch: &'a str,
    form: &'static str,
    /// What it computes, as in the plan.
    op: String,
    /// Type that it goes by: of the first operand that is no id, position or condition.
    dtype: String,
    /// Dispatches in all programs of the target, loops counted once.
    launches: u64,
    /// None where rates were not asked for, and where no request runs the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
}

/// What a kernel achieves here, on average over requests that are as large as the artifact takes.
#[derive(Clone, Copy, Default, Serialize)]
struct Rate {
    /// Time in one request of each entry.
    ms: f64,
    gflops: f64,
    /// Operands and results once, weights as they are stored.
    gbytes: f64,
}

/// Rates by the name of the kernel, and what they were measured on.
#[derive(Default, Serialize)]
pub(super) struct Rates {
    device: String,
    #[serde(skip)]
    kernels: BTreeMap<String, Rate>,
}

/// One kernel of a target's code.
#[derive(Serialize)]
pub(super) struct Kernel<'a> {
    name: &'a str,
    target: &'a str,
    /// What follows the colon in the target: the processor, or what the adapter must have; empty for any.
    arch: &'a str,
    form: &'static str,
    /// Whether PTX goes with it, for processors that came later.
    ptx: bool,
    /// Of all images.
    bytes: u64,
    /// For each processor one.
    images: Vec<Images<'a>>,
    workgroup: [u32; 3],
    shared_bytes: u32,
    /// Launches in all programs of the target, loops counted once.
    launches: u64,
    /// On a GPU that was named: what the launch that takes longest takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<Estimate>,
}

/// By the model of the kernels.
#[derive(Clone, Copy, Serialize)]
struct Estimate {
    groups: u64,
    /// Times that the device is filled with them.
    waves: f64,
    limiter: &'static str,
    us: f64,
}

/// What devices of a kind load.
#[derive(Serialize)]
pub(super) struct Images<'a> {
    pub(super) form: &'static str,
    /// The processor; empty for any.
    pub(super) arch: &'a str,
    pub(super) bytes: u64,
}

/// What modules hold, by form and processor.
pub(super) fn images<'a>(modules: impl IntoIterator<Item = &'a Module>) -> Vec<Images<'a>> {
    let mut list: Vec<Images<'a>> = Vec::new();
    for image in modules.into_iter().flat_map(|module| &module.images) {
        let (form, arch, bytes) = (image.form.name(), image.arch.as_str(), image.bytes.len() as u64);
        match list.iter_mut().find(|of| (of.form, of.arch) == (form, arch)) {
            Some(of) => of.bytes += bytes,
            None => list.push(Images { form, arch, bytes }),
        }
    }
    list
}

/// Measures the kernels of the CPU, if the artifact is for it.
pub(super) fn rates(
    file: &Path,
    artifact: &Artifact<'_>,
    threads: &ThreadArgs,
) -> Result<Option<Rates>, Failure> {
    if artifact.plan("cpu").is_none() {
        return Ok(None);
    }
    let entries = &artifact.manifest().entries;
    let entries: Vec<Entry> =
        Entry::ALL.into_iter().filter(|e| entries.iter().any(|name| name == e.name())).collect();
    let model = threads.open_on_cpu(file)?;
    let device = model.device().unwrap_or_default().to_owned();
    let first = entry(None, model.manifest())?;
    let mut subject = Subject::of(model, first)?;
    let mut progress = Progress::new("measuring", Unit::Calls);
    let mut called = 0;
    let mut count = || {
        called += 1;
        progress.at(called, entries.len() as u64 * u64::from(CALLS + 1));
    };
    // Time, FLOP and bytes.
    let mut sums: BTreeMap<String, (f64, u64, u64)> = BTreeMap::new();
    for entry in &entries {
        let request = make(subject.model(), *entry, Lengths::default(), 0)?;
        subject.serve(&request, &mut ())?;
        count();
        let Seen { calls, .. } = observe(&mut subject, &request, CALLS, &mut count)?;
        for share in shares(&calls, &program_names(&subject, *entry), |named| &named.kernel) {
            let sum = sums.entry(share.name).or_default();
            *sum = (sum.0 + share.ms, sum.1 + share.flop, sum.2 + share.bytes);
        }
    }
    let rate = |(ms, flop, bytes): (f64, u64, u64)| {
        let giga = |amount: u64| if ms > 0.0 { amount as f64 / ms / 1e6 } else { 0.0 };
        Rate { ms, gflops: giga(flop), gbytes: giga(bytes) }
    };
    let kernels = sums.into_iter().map(|(name, sum)| (name, rate(sum))).collect();
    Ok(Some(Rates { device, kernels }))
}

/// The kernels of all targets; those of the CPU with their rates.
pub(super) fn list<'a>(
    artifact: &'a Artifact<'a>,
    rates: Option<&Rates>,
    gpu: Option<&Gpu>,
) -> Vec<Listed<'a>> {
    let mut list = Vec::new();
    for (target, plan) in plans(artifact) {
        let Some(code) = artifact.code(target) else { continue };
        let (kind, arch) = target.split_once(':').unwrap_or((target, ""));
        if code.modules.is_empty() {
            list.extend(chosen(artifact, plan, [kind, arch], rates).into_iter().map(Listed::Chosen));
            continue;
        }
        let mut estimates = vec![None::<Estimate>; code.modules.len()];
        for program in gpu.filter(|_| kind == "cuda").iter().flat_map(|_| &plan.programs) {
            estimate(program, code, gpu, &mut estimates);
        }
        let mut launches = vec![0_u64; code.modules.len()];
        for program in &plan.programs {
            for launch in program.dispatches().flat_map(|dispatch| longest(program, dispatch)) {
                launches[launch.module as usize] += 1;
            }
        }
        list.extend(code.modules.iter().zip(launches).zip(estimates).map(
            |((module, launches), estimate)| {
                Listed::Carried(Kernel {
                    name: &module.name,
                    target: kind,
                    arch,
                    form: module.images.first().map_or("", |image| image.form.name()),
                    ptx: module.images.iter().any(|image| image.form == Form::Ptx),
                    bytes: module.images.iter().map(|image| image.bytes.len() as u64).sum(),
                    images: images([module]),
                    workgroup: module.workgroup,
                    shared_bytes: module.shared_bytes,
                    launches,
                    estimate,
                })
            },
        ));
    }
    list
}

/// What the longest request takes of each kernel, where that is more than is known already.
fn estimate(program: &Program, code: &Code, gpu: Option<&Gpu>, estimates: &mut [Option<Estimate>]) {
    let maxima = program.maxima();
    let request = Request { symbols: &maxima, images: 1 };
    let launches = gpu.and_then(|gpu| dreamc::estimate::launches(program, code, gpu, request));
    for launch in launches.into_iter().flatten() {
        let model::Estimate { groups, waves, limiter, us, .. } = launch.estimate;
        if let Some(known) = estimates.get_mut(launch.module as usize)
            && known.is_none_or(|known| known.us < us)
        {
            *known = Some(Estimate { groups, waves, limiter: limiter.name(), us });
        }
    }
}

/// The runtime's kernels that a plan asks for, by name.
fn chosen<'a>(
    artifact: &Artifact<'_>,
    plan: &Plan,
    [target, arch]: [&'a str; 2],
    rates: Option<&Rates>,
) -> Vec<Chosen<'a>> {
    let mut list: BTreeMap<String, Chosen<'a>> = BTreeMap::new();
    for program in &plan.programs {
        for dispatch in program.dispatches() {
            let name = family(artifact.weights(), program, dispatch);
            let kernel = list.entry(name.clone()).or_insert_with(|| Chosen {
                rate: rates.and_then(|rates| rates.kernels.get(&name).copied()),
                name,
                target,
                arch,
                form: "runtime",
                op: op(&dispatch.kernel),
                dtype: dtype(program, dispatch).to_string(),
                launches: 0,
            });
            kernel.launches += 1;
        }
    }
    list.into_values().collect()
}

/// The list for people.
pub(super) fn text(kernels: &[Listed<'_>], rates: Option<&Rates>, gpu: Option<&str>) -> String {
    let name = |kernel: &Listed<'_>| match kernel {
        Listed::Carried(kernel) => kernel.name.len(),
        Listed::Chosen(kernel) => kernel.name.len(),
    };
    let widest = kernels.iter().map(name).max().unwrap_or(0);
    let mut text = format!(
        "{:<widest$}  {:<8}{:<9}{:<8}{:>9}{:>10}{:>8}",
        "kernel", "target", "arch", "form", "bytes", "launches", "shared"
    );
    if gpu.is_some() {
        text.push_str(&format!("{:>9}{:>8}{:>9}  {}", "groups", "waves", "us", "limiter"));
    }
    if rates.is_some() {
        text.push_str(&format!("{:>12}{:>10}{:>9}", "ms", "GFLOP/s", "GB/s"));
    }
    text.push('\n');
    for kernel in kernels {
        let line = match kernel {
            Listed::Carried(k) => {
                let form = if k.ptx { format!("{}+ptx", k.form) } else { k.form.to_owned() };
                let estimate = k
                    .estimate
                    .map(|e| format!("{:>9}{:>8.2}{:>9.1}  {}", e.groups, e.waves, e.us, e.limiter));
                format!(
                    "{:<widest$}  {:<8}{:<9}{form:<10}{:>7}{:>10}{:>8}{}",
                    k.name,
                    k.target,
                    k.arch,
                    k.bytes,
                    k.launches,
                    k.shared_bytes,
                    estimate.unwrap_or_default()
                )
            }
            Listed::Chosen(k) => {
                let rate = k.rate.map(|r| format!("{:>12.3}{:>10.2}{:>9.2}", r.ms, r.gflops, r.gbytes));
                let rate = rate.unwrap_or_default();
                format!(
                    "{:<widest$}  {:<8}{:<9}{:<10}{:>7}{:>10}{:>8}{rate}",
                    k.name, k.target, k.arch, k.form, "", k.launches, ""
                )
            }
        };
        // Nothing behind the last figure.
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if let Some(gpu) = gpu {
        text.push_str(&format!(
            "groups, waves and us: on {gpu} by a model, no measurement; of the launch that takes longest, at the longest request\n"
        ));
    }
    if let Some(Rates { device, .. }) = rates {
        text.push_str(&format!(
            "rates: {device}; one request of each entry, as large as they may be, without probes\n"
        ));
    }
    text
}

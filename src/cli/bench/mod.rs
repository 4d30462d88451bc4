//! `dreamc bench`: how long a request takes, in all and op by op.
//!
//! A request of the artifact's own shape is made up, the same every time. Then: the first call, cold; warm calls that nobody
//! observes, so that devices which record a run replay it; and calls that are observed dispatch by dispatch, for the
//! tables and the trace.

mod report;
mod trace;

use super::device::DeviceArgs;
use super::error::Failure;
use super::memory::{self, Faults};
use super::output::{Format, output_path, print, print_json_pretty, write_whole};
use super::profile::{Event, Named, Seen, ms, observe, program_names, shares, steps};
use super::progress::{Progress, Unit};
use super::requests::{Lengths, Request, Subject, entry, make};
use clap::builder::PossibleValuesParser;
use dreamc::compile::Entry;
use dreamc::output_path::OutputPath;
use report::{Asked, Assertion, Memory, Observed, Report, Warm};
use std::path::PathBuf;
use std::time::Instant;

/// Calls that are observed, or as many as there are warm ones.
const OBSERVED: u32 = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote
    file: PathBuf,
    /// Warm calls to time; of fewer than 100 the p99 is the longest
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    iters: u32,
    /// Calls between the first, which is reported as cold, and those that are timed
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: u32,
    /// What to ask for [default: act, generate or forward, the first that the artifact has]
    #[arg(long, value_name = "E", value_parser = PossibleValuesParser::new(Entry::ALL.map(Entry::name)))]
    entry: Option<String>,
    /// Tokens of the prompt, those of images included [default: the longest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: Option<u32>,
    /// Slots behind the prompt [default: as many as the artifact appends]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    new_tokens: Option<u32>,
    /// End with exit code 3 if the 99th percentile of the warm calls is above so many milliseconds
    #[arg(long, value_name = "MS", value_parser = limit, allow_hyphen_values = true)]
    assert_p99: Option<f64>,
    /// Write the last observed call as a trace for chrome://tracing or Perfetto
    #[arg(long, value_name = "OUT.json")]
    trace: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    device: DeviceArgs,
}

fn limit(text: &str) -> Result<f64, String> {
    let limit = text.parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms > 0.0);
    limit.ok_or_else(|| "give milliseconds, a number above 0".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let trace = args.trace.as_deref().map(|out| output_path("--trace", out, &[&args.file])).transpose();
    let trace = trace.map_err(Failure::into_usage)?;
    let given = args.entry.as_deref().and_then(|name| Entry::ALL.into_iter().find(|e| e.name() == name));
    let start = Instant::now();
    let model = args.device.open(&args.file)?;
    let entry = entry(given, model.manifest())?;
    let mut subject = Subject::of(model, entry)?;
    let load_ms = ms(start.elapsed());
    let lengths = Lengths { prompt: args.prompt_tokens, new: args.new_tokens };
    let request = make(subject.model(), entry, lengths, 0)?;

    let rounds = u64::from(args.iters) + u64::from(args.warmup) + u64::from(OBSERVED.min(args.iters)) + 1;
    let mut progress = Progress::new("calling", Unit::Calls);
    let mut called = 0;
    let mut count = || {
        called += 1;
        progress.at(called, rounds);
    };
    let start = Instant::now();
    let passes = subject.serve(&request, &mut ())?.passes();
    let cold_ms = ms(start.elapsed());
    count();
    for _ in 0..args.warmup {
        subject.serve(&request, &mut ())?;
        count();
    }
    let mut times = Vec::with_capacity(args.iters as usize);
    let of_warm_calls = memory::reset_peak();
    let before = Faults::now();
    for _ in 0..args.iters {
        let start = Instant::now();
        subject.serve(&request, &mut ())?;
        times.push(ms(start.elapsed()));
        count();
    }
    let page_faults = Faults::now().zip(before).map(|(now, before)| now.since(before));
    let peak = memory::peak_bytes().map(|peak_bytes| Memory { peak_bytes, of_warm_calls });

    let names = program_names(&subject, entry);
    let Seen { calls, sum_ms, faults } =
        observe(&mut subject, &request, args.iters.min(OBSERVED), &mut count)?;
    drop(progress);
    if let (Some(out), Some(events)) = (&trace, calls.last()) {
        write_trace(out, entry, events, &names)?;
    }
    let kernels = shares(&calls, &names, |named| &named.kernel);
    let warm = Warm::of(times, args.warmup, passes);
    let assert_p99 = args.assert_p99.map(|limit_ms| Assertion { limit_ms, holds: warm.p99_ms <= limit_ms });
    let model = subject.model();
    let report = Report {
        device: model.device().unwrap_or_default().to_owned(),
        target: model.target().unwrap_or_default().to_owned(),
        entry: entry.name(),
        request: asked(&request, passes),
        load_ms,
        cold_ms,
        warm,
        page_faults,
        memory: peak,
        observed: Observed {
            iters: calls.len(),
            call_ms: sum_ms / calls.len().max(1) as f64,
            dispatch_ms: kernels.iter().map(|share| share.ms).sum(),
            page_faults: faults,
            ops: shares(&calls, &names, |named| &named.op),
            kernels,
            steps: steps(&calls, &names),
        },
        assert_p99,
    };
    match args.format {
        Format::Json => print_json_pretty(&report)?,
        Format::Text => print(&report::text(&report))?,
    }
    match report.assert_p99 {
        Some(Assertion { limit_ms, holds: false }) => {
            let message =
                format!("p99 is {:.3} ms, above the {limit_ms} ms of --assert-p99", report.warm.p99_ms);
            let help =
                "look at the tables for where the time goes; other work on this machine counts as well";
            Err(Failure::failed(message, help).into_check())
        }
        Some(_) | None => Ok(()),
    }
}

fn asked(request: &Request, passes: u32) -> Asked {
    let row = |rows: &[Vec<i32>]| rows.first().map(Vec::len);
    let (prompt_tokens, new_tokens, images) = match request {
        Request::Forward(f) => (row(&f.input_ids), None, f.visuals.len()),
        Request::EncodeImage(visuals) => (None, None, visuals.len()),
        Request::Generate(g) => (row(&g.prompt), g.canvas.as_ref().map(Vec::len), g.visuals.len()),
        Request::Act(seen) => (None, None, seen.images.len()),
    };
    Asked { prompt_tokens, new_tokens, images, passes }
}

fn write_trace(out: &OutputPath, entry: Entry, events: &[Event], names: &[Named]) -> Result<(), Failure> {
    let trace = trace::events(entry.name(), events, names);
    let bytes = serde_json::to_vec(&trace).map_err(|error| {
        let help = "this is a bug in dreamc; report it with the command line";
        Failure::failed("the trace makes no JSON", help).because(error)
    })?;
    write_whole(out, &bytes)
}

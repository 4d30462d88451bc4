//! `dreamc golden`: records what an artifact makes of requests, and holds another to it.

mod cases;
mod closeness;
mod judge;
mod record;
mod text;

pub(super) use cases::{Cases, read_bounded};
pub(super) use judge::{Judgement, Limits};
pub(super) use record::{cut, record};
pub(super) use text::{judgement, summary};

use super::build;
use super::device::DeviceArgs;
use super::error::Failure;
use super::output::{Format, counted, note, output_path, print, print_json_pretty, write_whole};
use super::progress::{Progress, Unit};
use super::requests::{Request, Subject};
use super::{forward, run as request};
use cases::CASES_BYTES_MAX;
use clap::Parser;
use dream::{Forward, Generate, Manifest, Model};
use dreamc::compile::Entry;
use judge::judge;
use record::requests;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write what an artifact answers to made-up or given requests to a file of cases
    Record(RecordArgs),
    /// Compare what two artifacts of a checkpoint answer, or an artifact with recorded cases
    Check(CheckArgs),
}

/// Requests to record.
#[derive(Debug, clap::Args)]
struct RequestArgs {
    /// Made-up requests of each entry [default: 2, or none beside given ones]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cases: Option<u32>,
    /// Tokens of a made-up prompt [default: 32, or what the artifact takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: Option<u32>,
    /// A request of `forward` and of `generate`, as `run --ids` reads it
    #[arg(long, value_name = "FILE.json")]
    ids: Vec<PathBuf>,
    /// A request of `forward`, as `run --entry forward --inputs` reads it
    #[arg(long, value_name = "IN.safetensors")]
    inputs: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RecordArgs {
    /// Artifact, or a checkpoint, of which `forward` or `act` is built in f32 first
    #[arg(value_name = "DIR|FILE")]
    source: PathBuf,
    /// File of cases to write
    #[arg(short, long, value_name = "CASES")]
    output: PathBuf,
    #[command(flatten)]
    requests: RequestArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Artifact to judge
    file: PathBuf,
    /// Artifact to compare it with, such as the one that it is a quantised form of, or recorded cases
    #[arg(long, value_name = "PARENT|CASES")]
    against: PathBuf,
    /// Least cosine of logits, hidden states and actions
    #[arg(long, value_name = "C", default_value_t = 0.99, value_parser = share, allow_hyphen_values = true)]
    cosine: f64,
    /// Least share of positions with the same most probable token, of those where it is clearly ahead
    #[arg(long, value_name = "T", default_value_t = 0.95, value_parser = share, allow_hyphen_values = true)]
    top1: f64,
    /// Least share of equal tokens in answers; one that differs changes those after it
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = share, allow_hyphen_values = true)]
    tokens: f64,
    /// Compare also with another checkpoint
    #[arg(long)]
    any_source: bool,
    #[command(flatten)]
    requests: RequestArgs,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    device: DeviceArgs,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "give a number from 0 to 1".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Record(args) => record_file(args),
        Command::Check(args) => check(args),
    }
}

fn record_file(args: &RecordArgs) -> Result<(), Failure> {
    let RequestArgs { ids, inputs, .. } = &args.requests;
    let read: Vec<&PathBuf> = [&args.source].into_iter().chain(ids).chain(inputs).collect();
    let output = output_path("-o", &args.output, &read)?;
    let (file, _folder) = match args.source.is_dir() {
        true => {
            let (file, folder) = built(&args.source)?;
            (file, Some(folder))
        }
        false => (args.source.clone(), None),
    };
    let mut subject = record::subject(args.device.open(&file)?)?;
    let cases = record_all(&mut subject, &args.requests)?;
    let bytes = cases.to_bytes()?;
    if bytes.len() as u64 > CASES_BYTES_MAX {
        let message = format!("the cases are {} bytes, and may be {CASES_BYTES_MAX}", bytes.len());
        return Err(Failure::failed(message, "record fewer or shorter ones: --cases, --prompt-tokens"));
    }
    write_whole(&output, &bytes)?;
    let (count, size) = (cases.list.len() as u64, bytes.len());
    note(&format!(
        "wrote `{}`: {} of {}, {size} bytes",
        args.output.display(),
        counted(count, "case"),
        cases.about
    ));
    Ok(())
}

/// A checkpoint as an artifact in f32, in a folder of its own.
fn built(checkpoint: &Path) -> Result<(PathBuf, tempfile::TempDir), Failure> {
    /// A build as the command line asks for it.
    #[derive(Parser)]
    struct Build {
        #[command(flatten)]
        args: build::Args,
    }
    let folder = tempfile::tempdir().map_err(|error| Failure::io("write", &std::env::temp_dir(), &error))?;
    let file = folder.path().join("reference.dream");
    let acts = dreamc_frontend::ModelConfig::read(checkpoint)?.variant == dreamc_frontend::Variant::Vla;
    let entry = if acts { Entry::Act } else { Entry::Forward };
    let words = [
        "build".as_ref(),
        checkpoint.as_os_str(),
        "-o".as_ref(),
        file.as_os_str(),
        "--dtype".as_ref(),
        "f32".as_ref(),
        "--entries".as_ref(),
        entry.name().as_ref(),
    ];
    let parsed = Build::try_parse_from(words).map_err(|error| {
        let help = "build an artifact in f32, and name that";
        Failure::usage(format!("`{}` cannot be built", checkpoint.display()), help).because(error)
    })?;
    build::run(&parsed.args)?;
    Ok((file, folder))
}

/// Records what was asked for: given requests, made-up ones, or both.
fn record_all(subject: &mut Subject, args: &RequestArgs) -> Result<Cases, Failure> {
    let given = given(subject.model(), args)?;
    let count = args.cases.unwrap_or(if given.is_empty() { 2 } else { 0 });
    if count == 0 && args.prompt_tokens.is_some() {
        let help = "leave it out, or give --cases for made-up requests beside those of the files";
        return Err(Failure::usage("--prompt-tokens is of no effect on given requests", help));
    }
    let mut all = requests(subject.model(), count, args.prompt_tokens)?;
    all.extend(given);
    let (mut progress, total) = (Progress::new("recording", Unit::Calls), all.len() as u64);
    record(subject, all, true, &mut (), &mut |done| progress.at(done, total))
}

/// Requests from files.
fn given(model: &Model, args: &RequestArgs) -> Result<Vec<Request>, Failure> {
    let mut list = Vec::new();
    for path in &args.ids {
        list.extend(of_ids(model, request::read_ids(path)?));
    }
    for path in &args.inputs {
        let forward = forward::read(path, model)?;
        if forward.visuals.iter().any(|visual| !matches!(visual, dream::Visual::ImagePatches(_))) {
            let help = "leave out pixel_values_videos";
            return Err(Failure::failed(
                format!("`{}` holds videos, which cases do not", path.display()),
                help,
            ));
        }
        list.push(Request::Forward(forward));
    }
    if list.is_empty() && !args.ids.is_empty() {
        let help = "build with --entries forward,generate";
        return Err(Failure::failed("--ids needs an entry `forward` or `generate`", help));
    }
    Ok(list)
}

/// The same ids for each entry that takes some.
pub(super) fn of_ids(model: &Model, ids: request::Ids) -> Vec<Request> {
    let has = |entry: Entry| model.manifest().entries.iter().any(|e| e == entry.name());
    let request::Ids { input_ids, attention_mask } = ids;
    let mut list = Vec::new();
    if has(Entry::Forward) {
        let (input_ids, attention_mask) = (input_ids.clone(), attention_mask.clone());
        list.push(Request::Forward(Forward { input_ids, attention_mask, ..Forward::default() }));
    }
    if has(Entry::Generate) {
        list.push(Request::Generate(Generate { prompt: input_ids, attention_mask, ..Generate::default() }));
    }
    list
}

/// What `check --format json` prints.
#[derive(Serialize)]
struct Report<'a> {
    against: String,
    #[serde(flatten)]
    judgement: &'a Judgement,
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let limits = Limits { cosine: args.cosine, top1: args.top1, tokens: args.tokens };
    let mut subject = record::subject(args.device.open(&args.file)?)?;
    let (cases, mut parent) = if is_artifact(&args.against)? {
        let mut parent = record::subject(args.device.open(&args.against)?)?;
        // Before any work is done.
        same_source(subject.model().manifest(), &parent.model().manifest().source_hash, args)?;
        (record_all(&mut parent, &args.requests)?, Some(parent))
    } else {
        let RequestArgs { cases, prompt_tokens, ids, inputs } = &args.requests;
        if cases.is_some() || prompt_tokens.is_some() || !ids.is_empty() || !inputs.is_empty() {
            let help = "leave out --cases, --prompt-tokens, --ids and --inputs, or compare with an artifact";
            return Err(Failure::usage("recorded cases have requests of their own", help));
        }
        (Cases::read(&args.against)?, None)
    };
    same_source(subject.model().manifest(), &cases.source_hash, args)?;
    let (mut progress, total) = (Progress::new("checking", Unit::Calls), cases.list.len() as u64);
    let judgement =
        judge(&mut subject, &cases, parent.as_mut(), limits, &mut |done| progress.at(done, total))?;
    drop(progress);
    let against = format!("{} ({})", args.against.display(), cases.about);
    match args.format {
        Format::Json => print_json_pretty(&Report { against, judgement: &judgement })?,
        Format::Text => {
            let verdict = if judgement.holds { "holds" } else { "does not hold" };
            print(&format!("against  {against}\n{}{verdict}\n", text::judgement(&judgement)))?;
        }
    }
    verdict(&judgement)
}

/// Runs the cases that an artifact carries; nothing where it carries none.
pub(super) fn verify(model: Model, path: &Path) -> Result<Option<Judgement>, Failure> {
    let Some(bytes) = model.artifact().golden() else { return Ok(None) };
    let cases = Cases::from_bytes(bytes, &format!("the section of cases of `{}`", path.display()))?;
    compare(model, &cases).map(Some)
}

/// Judges an artifact by cases, with the limits of its types.
pub(super) fn compare(model: Model, cases: &Cases) -> Result<Judgement, Failure> {
    let limits = Limits::of(model.manifest());
    let mut subject = record::subject(model)?;
    let (mut progress, total) = (Progress::new("checking", Unit::Calls), cases.list.len() as u64);
    judge(&mut subject, cases, None, limits, &mut |done| progress.at(done, total))
}

/// An error where something does not hold.
pub(super) fn verdict(judgement: &Judgement) -> Result<(), Failure> {
    let Some(bad) = judgement.cases.iter().find(|case| !case.holds) else { return Ok(()) };
    let count = judgement.cases.iter().filter(|case| !case.holds).count();
    let out = match &bad.first_out {
        Some(op) => format!(
            "the first value out of tolerance is `{}`, with a cosine of {:.6} where {} is asked for",
            op.name, op.close.cosine, judgement.limits.cosine
        ),
        None => "the chosen tokens differ".to_owned(),
    };
    let cases = counted(judgement.cases.len() as u64, "case");
    let message = format!("{count} of {cases} did not hold; of case {}, {out}", bad.case);
    let help = "keep what is out of tolerance in a wider type, or ask for less: --cosine, --top1, --tokens";
    Err(Failure::failed(message, help).into_check())
}

/// Refuses cases of another checkpoint.
fn same_source(manifest: &Manifest, theirs: &str, args: &CheckArgs) -> Result<(), Failure> {
    if args.any_source || manifest.source_hash == theirs {
        return Ok(());
    }
    let message = format!(
        "`{}` is of another checkpoint than `{}`: {} and {theirs}",
        args.file.display(),
        args.against.display(),
        manifest.source_hash
    );
    let help = "compare artifacts of one checkpoint, built with the same --entries, --mode and --lora, or give --any-source";
    Err(Failure::failed(message, help))
}

/// Whether a file begins as artifacts do.
fn is_artifact(path: &Path) -> Result<bool, Failure> {
    use std::io::Read;
    let mut begin = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| Failure::io("read", path, &error))?;
    let magic = dreamc_artifact::MAGIC;
    let read = file.take(magic.len() as u64).read_to_end(&mut begin);
    read.map_err(|error| Failure::io("read", path, &error))?;
    Ok(begin == magic)
}

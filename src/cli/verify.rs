//! `dreamc verify`: whether an artifact is what was built, and answers the cases inside as they were answered.

use super::device::{DeviceArgs, failure, open_to_read};
use super::error::Failure;
use super::golden::{self, Judgement};
use super::output::{Format, note, print, print_json_pretty};
use super::progress::{Progress, Unit};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote
    file: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct Report {
    /// Whether every check held.
    holds: bool,
    /// What does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Length of the file, all of which was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    /// Hash of the checkpoint that it was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_hash: Option<String>,
    /// What became of the cases inside, if there are any and a device runs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    golden: Option<Judgement>,
    /// Why they were not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    golden_skipped: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let length =
        std::fs::metadata(&args.file).map_err(|error| Failure::io("read", &args.file, &error))?.len();
    let mut progress = Progress::new("hashing", Unit::Bytes);
    let verified = dream::verify(&args.file, |done, total| progress.at(done, total));
    drop(progress);
    let mut report = Report {
        holds: true,
        problem: None,
        file_bytes: None,
        source_hash: None,
        golden: None,
        golden_skipped: None,
    };
    let failure = match verified {
        Ok(manifest) => {
            (report.file_bytes, report.source_hash) = (Some(length), Some(manifest.source_hash));
            cases(args, &mut report)?
        }
        Err(error @ dream::Error::Read { .. }) => return Err(failure(error)),
        Err(error) => Some(failure(error).into_check()),
    };
    if let Some(failure) = &failure {
        (report.holds, report.problem) = (false, Some(failure.one_line()));
    }
    match args.format {
        Format::Json => print_json_pretty(&report)?,
        Format::Text => print(&text(&report))?,
    }
    failure.map_or(Ok(()), Err)
}

/// Runs the cases inside; what does not hold of them.
fn cases(args: &Args, report: &mut Report) -> Result<Option<Failure>, Failure> {
    if open_to_read(&args.file)?.artifact().golden().is_none() {
        return Ok(None);
    }
    let model = match args.device.open(&args.file) {
        Ok(model) => model,
        // The file may well be for another machine: its bytes were checked, and that is said.
        Err(error) if !args.device.is_chosen() => {
            note("warning: the cases inside were not run: there is no device here; name one with --device");
            report.golden_skipped = Some(error.one_line());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    report.golden = golden::verify(model, &args.file)?;
    Ok(report.golden.as_ref().and_then(|judgement| golden::verdict(judgement).err()))
}

fn text(report: &Report) -> String {
    let mut text = report.golden.as_ref().map(golden::judgement).unwrap_or_default();
    let cases = match (&report.golden, &report.golden_skipped) {
        (Some(judgement), _) => format!(", {} cases", judgement.cases.len()),
        (None, Some(why)) => format!("; cases not run: {why}"),
        (None, None) => String::new(),
    };
    match (&report.problem, report.file_bytes, &report.source_hash) {
        (Some(problem), ..) => text.push_str(&format!("does not hold: {problem}\n")),
        (None, Some(length), Some(hash)) => {
            text.push_str(&format!("holds: all {length} bytes, built from checkpoint {hash}{cases}\n"));
        }
        (None, ..) => {}
    }
    text
}

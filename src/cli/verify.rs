//! `dreamc verify`: whether an artifact is what was built.

use super::device::{DeviceArgs, failure};
use super::error::Failure;
use super::output::{Format, print, print_json_pretty};
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
    #[allow(dead_code, reason = "hashes need no device; that the flags name one is checked all the same")]
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
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let length =
        std::fs::metadata(&args.file).map_err(|error| Failure::io("read", &args.file, &error))?.len();
    let mut progress = Progress::new("hashing", Unit::Bytes);
    let verified = dream::verify(&args.file, |done, total| progress.at(done, total));
    drop(progress);
    let (report, failure) = match verified {
        Ok(manifest) => {
            let source_hash = Some(manifest.source_hash);
            (Report { holds: true, problem: None, file_bytes: Some(length), source_hash }, None)
        }
        Err(error @ dream::Error::Read { .. }) => return Err(failure(error)),
        Err(error) => {
            let failure = failure(error).into_check();
            let problem = Some(failure.one_line());
            (Report { holds: false, problem, file_bytes: None, source_hash: None }, Some(failure))
        }
    };
    match (args.format, &report.problem) {
        (Format::Json, _) => print_json_pretty(&report)?,
        (Format::Text, Some(problem)) => print(&format!("does not hold: {problem}\n"))?,
        (Format::Text, None) => {
            let hash = report.source_hash.as_deref().unwrap_or_default();
            print(&format!("holds: all {length} bytes, built from checkpoint {hash}\n"))?;
        }
    }
    failure.map_or(Ok(()), Err)
}

//! `dreamc tune`: times the kernels that an artifact carries for the same work on this machine's GPU, and records the fastest.

use super::build::{failure as build_failure, on_interrupt};
use super::device::{failure, open, warn};
use super::error::Failure;
use super::output::{counted, note, print, refused};
use super::progress::{Progress, Unit};
use super::requests::{Lengths, Request, Seen, Subject, entry, longest, make};
use dream::{DeviceChoice, Error, Held, OpenOptions, Tuned};
use dreamc::compile::{Entry, Events, rewrite};
use dreamc::output_path::OutputPath;
use dreamc_artifact::{Kind, Manifest};
use dreamc_runtime::StepError;
use indicatif::HumanBytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote for a GPU; it is written anew in its place
    file: PathBuf,
    /// Device to tune for: auto, cuda or another that the artifact has kernels for
    #[arg(long, value_name = "D", default_value = "auto")]
    device: DeviceChoice,
    /// Positions of the requests to tune at, prompt and answer together [default: the longest]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    lengths: Vec<u32>,
    /// File to write, instead of the artifact in its place
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (flag, path) = match &args.output {
        Some(output) => ("-o", output.as_path()),
        None => ("the artifact", args.file.as_path()),
    };
    let output = OutputPath::new::<&Path>(flag, path, &[]).map_err(refused)?;
    let options = OpenOptions { device: args.device, warn: Some(warn), ..OpenOptions::default() };
    let mut model = open(&args.file, &options)?;
    model.check_tunable().map_err(failure)?;
    let cancelled = on_interrupt();
    let mut subject = Subject::of(model, entry(None, &manifest_of(&args.file)?)?)?;
    let held = requests(&mut subject, &args.lengths)?;

    let start = Instant::now();
    let mut progress = Progress::new("timing", Unit::Kernels);
    let mut watch = |done, total| {
        progress.at(done, total);
        !cancelled.load(Ordering::Relaxed)
    };
    let found = subject.model_mut().tune(&held, &mut || start.elapsed(), &mut watch);
    drop(progress);
    let tuned = found.map_err(|error| match error {
        Error::Step(StepError::Stopped) => {
            Failure::failed("tuning was cancelled", "nothing was written; run the command again")
        }
        error => failure(error),
    })?;
    print(&text(&tuned))?;

    let model = subject.model();
    let mut manifest = model.manifest().clone();
    record(&mut manifest, tuned);
    let help = "this is a bug in dreamc; report it with the command line";
    let bytes = manifest.to_bytes().ok_or_else(|| Failure::failed("the manifest makes no JSON", help))?;
    let mut writing = Writing { progress: Progress::new("writing", Unit::Bytes), cancelled };
    let mut new = |kind: Kind| (kind == Kind::Manifest).then(|| bytes.clone());
    let file_bytes = rewrite(model.artifact(), &output, &mut new, &mut writing).map_err(build_failure)?;
    drop(writing);
    note(&format!("wrote `{}`: {}", path.display(), HumanBytes(file_bytes)));
    Ok(())
}

/// Puts what was found in the place of what was known of its target.
fn record(manifest: &mut Manifest, tuned: Tuned) {
    manifest.tuned.retain(|known| known.target != tuned.target);
    manifest.tuned.push(tuned);
    let order = manifest.targets.clone();
    manifest.tuned.sort_by_key(|known| order.iter().position(|target| *target == known.target));
}

/// A request of each entry at each length that it can have, as its program takes it.
fn requests(subject: &mut Subject, lengths: &[u32]) -> Result<Vec<Held>, Failure> {
    let has = |entry: &Entry| subject.model().manifest().entries.iter().any(|name| name == entry.name());
    let entries: Vec<Entry> = Entry::ALL.into_iter().filter(has).collect();
    let mut all = Vec::new();
    for entry in entries {
        if lengths.is_empty() || entry == Entry::EncodeImage {
            let request = make(subject.model(), entry, Lengths::default(), 0)?;
            all.extend(hold(subject, &request).map_err(failure)?);
            continue;
        }
        for length in lengths {
            all.extend(of_length(subject, entry, *length)?);
        }
    }
    let served = |length: &&u32| !all.iter().any(|held: &Held| held.positions() == **length);
    if let Some(length) = lengths.iter().find(served) {
        let message = format!("--lengths has {length}, and no request of the artifact has so many positions");
        return Err(Failure::failed(message, possible(subject)));
    }
    Ok(all)
}

/// What lengths there are, in words.
fn possible(subject: &Subject) -> String {
    let model = &subject.model().manifest().model;
    let most = model.max_prompt.saturating_add(model.new_tokens);
    match subject {
        Subject::Policy(_) => {
            "the images and the task of `act` decide most of its length; leave out --lengths for the usual"
                .to_owned()
        }
        Subject::Model(_) => format!("give 2 to {most}, or build for more"),
    }
}

/// A request of so many positions; none where the entry has no such request.
fn of_length(subject: &mut Subject, entry: Entry, length: u32) -> Result<Option<Held>, Failure> {
    let built = subject.model().manifest().model.clone();
    let lengths = match entry {
        Entry::Forward => {
            let fits = longest(subject.model(), entry).is_some_and(|most| length <= most);
            fits.then_some(Lengths { prompt: Some(length), new: None })
        }
        Entry::Generate => {
            let new = built.new_tokens.min(length.saturating_sub(1));
            let fits = new > 0 && length - new <= built.max_prompt;
            fits.then_some(Lengths { prompt: Some(length - new), new: Some(new) })
        }
        Entry::Act => return of_task(subject, length),
        Entry::EncodeImage => None,
    };
    let Some(lengths) = lengths else { return Ok(None) };
    let request = make(subject.model(), entry, lengths, 0)?;
    hold(subject, &request).map_err(failure)
}

/// An observation whose task is as long as it takes.
fn of_task(subject: &mut Subject, length: u32) -> Result<Option<Held>, Failure> {
    /// One token of the checkpoints.
    const WORD: &str = " block";
    let Request::Act(seen) = make(subject.model(), Entry::Act, Lengths::default(), 0)? else {
        return Ok(None);
    };
    let mut positions = |words: u32| -> Result<Option<Held>, Failure> {
        let task = format!("{}{}", seen.task, WORD.repeat(words as usize));
        match hold(subject, &Request::Act(Seen { task, ..seen.clone() })) {
            Err(Error::PromptTooLong { .. }) => Ok(None),
            held => held.map_err(failure),
        }
    };
    let (Some(none), Some(one)) = (positions(0)?, positions(1)?) else { return Ok(None) };
    let each = one.positions().saturating_sub(none.positions()).max(1);
    let Some(more) = length.checked_sub(none.positions()) else { return Ok(None) };
    Ok(positions(more / each)?.filter(|held| held.positions() == length))
}

/// A request as its program takes it.
fn hold(subject: &mut Subject, request: &Request) -> Result<Option<Held>, Error> {
    subject.model_mut().hold(true);
    let asked = subject.ask(request, &mut ());
    let held = subject.model_mut().held().pop();
    subject.model_mut().hold(false);
    match asked {
        Ok(_) | Err(Error::Step(StepError::Stopped)) => Ok(held),
        Err(error) => Err(error),
    }
}

/// The manifest, before a device is asked.
fn manifest_of(file: &Path) -> Result<Manifest, Failure> {
    Ok(super::device::open_to_read(file)?.manifest().clone())
}

/// What was found, choice by choice.
pub(super) fn text(tuned: &Tuned) -> String {
    let Tuned { target, device, arch, driver, lengths, choices } = tuned;
    let lengths: Vec<String> = lengths.iter().map(u32::to_string).collect();
    let driver = if driver.is_empty() { String::new() } else { format!(", driver {driver}") };
    let mut text = format!(
        "{target} tuned on {device} ({arch}){driver}, at {} positions: {}, {} not the compiler's\n",
        lengths.join(", "),
        counted(choices.len() as u64, "choice"),
        choices.iter().filter(|choice| choice.winner > 0).count()
    );
    for chosen in choices {
        text.push_str(&format!("  {}, choice {}\n", chosen.program, chosen.choice));
        for (nth, candidate) in (0..).zip(&chosen.candidates) {
            let mark = if nth == chosen.winner { "*" } else { " " };
            let us = candidate.us.map_or("-".to_owned(), |us| format!("{us:.1} us"));
            let error = candidate.error.map_or("-".to_owned(), |error| format!("{error:.1e}"));
            let refused = candidate.refused.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
            let kernels = candidate.kernels.join(" + ");
            text.push_str(&format!("  {mark} {us:>12}  off by {error:<8} {kernels}{refused}\n"));
        }
    }
    text
}

struct Writing {
    progress: Progress,
    cancelled: Arc<AtomicBool>,
}

impl Events for Writing {
    fn progress(&mut self, done: u64, total: u64) {
        self.progress.at(done, total);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

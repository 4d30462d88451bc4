//! `dreamc finalize`: compiles what an artifact carries as source.

use super::build::{CacheArgs, failure, on_interrupt};
use super::error::Failure;
use super::output::note;
use super::progress::{Progress, Unit};
use dreamc::compile::{Events, finalize};
use indicatif::HumanBytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote where a compiler was missing; it is written anew in its place
    file: PathBuf,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut watch = Watch {
        compiling: Progress::new("compiling", Unit::Kernels),
        progress: Progress::new("writing", Unit::Bytes),
        cancelled: on_interrupt(),
    };
    let finalized = finalize(&args.file, args.cache.folder().as_deref(), &mut watch).map_err(failure)?;
    drop(watch);
    let file = args.file.display();
    if finalized.targets.is_empty() {
        note(&format!("`{file}` carries no source: nothing was to be done"));
    } else {
        let targets = finalized.targets.join(", ");
        note(&format!(
            "compiled the kernels for {targets}; wrote `{file}`: {}",
            HumanBytes(finalized.file_bytes)
        ));
    }
    Ok(())
}

struct Watch {
    compiling: Progress,
    progress: Progress,
    cancelled: Arc<AtomicBool>,
}

impl Events for Watch {
    fn compiling(&mut self, done: u64, total: u64) {
        self.compiling.at(done, total);
        if done == total {
            self.compiling.restart();
            self.progress.restart();
        }
    }

    fn warning(&mut self, text: &str) {
        self.progress.note(&format!("warning: {text}"));
    }

    fn progress(&mut self, done: u64, total: u64) {
        self.progress.at(done, total);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

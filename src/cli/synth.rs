//! `dreamc synth`: writes a synthetic checkpoint.

use super::error::Failure;
use super::later::only;
use super::output::note;
use super::progress::{Progress, Unit};
use clap::ValueEnum;
use dreamc_frontend::{Size, synth_text};
use indicatif::HumanBytes;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind of model: text
    #[arg(long, value_name = "V", value_parser = variant)]
    variant: String,
    /// Shapes of the model: the released 7B, half a billion weights, or a few layers for tests
    #[arg(long, value_name = "S")]
    size: ModelSize,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to write to; made if need be
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModelSize {
    #[value(name = "7b")]
    SevenB,
    Small,
    Tiny,
}

fn variant(text: &str) -> Result<String, String> {
    only(text, &["text"], &["vl", "vla"])
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let size = match args.size {
        ModelSize::SevenB => Size::SevenB,
        ModelSize::Small => Size::Small,
        ModelSize::Tiny => Size::Tiny,
    };
    let mut progress = Progress::new("writing", Unit::Bytes);
    let mut total_bytes = 0;
    synth_text(size, args.seed, &args.output, &mut |at| {
        total_bytes = at.total_bytes;
        progress.at(at.done_bytes, at.total_bytes);
    })?;
    drop(progress);
    note(&format!(
        "wrote {} of {} weights to `{}`",
        HumanBytes(total_bytes),
        args.variant,
        args.output.display()
    ));
    Ok(())
}

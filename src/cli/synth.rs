//! `dreamc synth`: writes a synthetic checkpoint.

use super::error::Failure;
use super::output::note;
use super::progress::{Progress, Unit};
use clap::ValueEnum;
use dreamc_frontend::{HeadKind, Size, Synth, Variant, synth};
use indicatif::HumanBytes;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind of model: text, vl (sees) or vla (sees and acts; with a flow head)
    #[arg(long, value_name = "V")]
    variant: ModelVariant,
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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModelVariant {
    Text,
    Vl,
    Vla,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let size = match args.size {
        ModelSize::SevenB => Size::SevenB,
        ModelSize::Small => Size::Small,
        ModelSize::Tiny => Size::Tiny,
    };
    let variant = match args.variant {
        ModelVariant::Text => Variant::Text,
        ModelVariant::Vl => Variant::Vl,
        ModelVariant::Vla => Variant::Vla,
    };
    let what = Synth { variant, size, seed: args.seed, head: Some(HeadKind::Flow) };
    let mut progress = Progress::new("writing", Unit::Bytes);
    let mut total_bytes = 0;
    synth(&what, &args.output, &mut |at| {
        total_bytes = at.total_bytes;
        progress.at(at.done_bytes, at.total_bytes);
    })?;
    drop(progress);
    note(&format!(
        "wrote {} of {} weights to `{}`",
        HumanBytes(total_bytes),
        variant.name(),
        args.output.display()
    ));
    Ok(())
}

//! `dreamc build`: a checkpoint to an artifact.

use super::defaults;
use super::error::Failure;
use super::golden::Cases;
use super::later::only;
use super::opt::pass;
use super::output::{counted, note, output_path, refused};
use super::progress::{Progress, Unit};
use super::{calib, quant, table};
use clap::builder::PossibleValuesParser;
use dreamc::compile::{BuildError, BuildTarget, Entry, Events, build};
use dreamc::output_path::check_folder;
use dreamc_backend::WriteError;
use dreamc_backend::toolchain::cache_folder;
use dreamc_frontend::clock::FlowClock;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_num::DType;
use dreamc_passes::{Pass, Seen, Stats};
use indicatif::HumanBytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint
    pub(super) dir: PathBuf,
    /// File to write; it appears under this name only when it is complete
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// What to build for: cpu, cuda:ARCH, rocm:ARCH, metal, wgpu, wgpu:f16; `dreamc targets` lists them
    #[arg(long, value_name = "T,..", default_value = "cpu", value_delimiter = ',')]
    pub(super) target: Vec<BuildTarget>,
    /// Denoising steps [default: 512; of `act` 1, or 4 with mode flow and 50 with ddim]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) steps: Option<u32>,
    /// How slots are chosen [default: origin; of `act` maskgit_plus]
    #[arg(long, value_name = "A", value_parser = PossibleValuesParser::new(Alg::ALL.map(Alg::name)))]
    pub(super) alg: Option<String>,
    /// End of the schedule
    #[arg(long, value_name = "E", default_value_t = 1e-3, allow_hyphen_values = true)]
    pub(super) eps: f32,
    /// Tokens that `run` appends to a prompt [default: 128]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) new_tokens: Option<u32>,
    /// Most open slots of a row, mask tokens inside a prompt included [default: twice the new tokens]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) max_slots: Option<u32>,
    /// Longest prompt in tokens, those of images included [default: 2048, or what the model has room for; of `act` what its
    /// images and a long task need]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) max_prompt: Option<u32>,
    /// Most rows computed at a time [default: 8; 1 for `act`]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) max_batch: Option<u32>,
    /// Lengths of prompts in tokens, as --max-prompt counts them, whose runs a GPU records when the file is opened [default: none;
    /// each is recorded when it is first met]
    #[arg(long, value_name = "S,..", value_delimiter = ',')]
    pub(super) warm: Vec<u32>,
    /// Width and height of all images, in pixels [default: any]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub(super) image: Option<[u32; 2]>,
    #[command(flatten)]
    pub(super) act: ActArgs,
    /// Folder of a LoRA adapter to fold into the weights
    #[arg(long, value_name = "DIR")]
    pub(super) lora: Option<PathBuf>,
    /// Type of weights and activations: bf16, f32, or f16 where a device has it
    #[arg(long, value_name = "T", default_value = "bf16", value_parser = dtype)]
    pub(super) dtype: DType,
    #[command(flatten)]
    pub(super) quant: quant::QuantArgs,
    /// What the artifact can be asked for: forward, encode_image, generate, act [default: forward,generate, or act for
    /// checkpoints of Dream-VLA]
    #[arg(long, value_name = "E,..", value_delimiter = ',', value_parser = entry)]
    pub(super) entries: Vec<Entry>,
    /// Other kernels that travel with every matmul on a GPU's matrix units, for `dreamc tune` to choose from [default: 2
    /// with those where time is spent]
    #[arg(long, value_name = "N")]
    pub(super) candidates: Option<u32>,
    /// Cases of `dreamc golden record` to store, which `dreamc verify` runs
    #[arg(long, value_name = "CASES")]
    pub(super) golden: Option<PathBuf>,
    /// Take NaN and infinite weights as they are
    #[arg(long)]
    pub(super) allow_non_finite: bool,
    /// Write the source of emitted kernels to this folder, one below it for each target
    #[arg(long, value_name = "DIR")]
    pub(super) emit: Option<PathBuf>,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
    /// Print each graph after this pass on stderr, or after `all`
    #[arg(long, value_name = "PASS|all")]
    pub(super) print_after: Option<String>,
    /// Verify the graphs after every pass
    #[arg(long)]
    pub(super) verify_each: bool,
    /// Leave out this pass, or `all`; may be given more than once
    #[arg(long, value_name = "PASS|all")]
    pub(super) without_pass: Vec<String>,
    /// Say what each pass does and saves, and what was built
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// Where compiled kernels are kept.
#[derive(Debug, clap::Args)]
pub(super) struct CacheArgs {
    /// Folder that keeps compiled kernels for the next build [default: dreamc/kernels in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Compile every kernel anew, and keep none
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

impl CacheArgs {
    pub(super) fn folder(&self) -> Option<PathBuf> {
        let given = || self.cache.clone().or_else(cache_folder);
        (!self.no_cache).then(given).flatten()
    }
}

/// How actions are made.
#[derive(Debug, clap::Args)]
pub(super) struct ActArgs {
    /// How a chunk of actions comes about [default: what the head beside the checkpoint is for, or discrete]
    #[arg(long, value_name = "M", value_parser = PossibleValuesParser::new(Mode::ALL.map(Mode::name)))]
    pub(super) mode: Option<String>,
    /// Images of an observation [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) views: Option<u32>,
    /// Actions of a chunk [default: 8]
    #[arg(long, value_name = "C")]
    pub(super) chunk: Option<u32>,
    /// Whether the model takes the robot's state [default: on if there is a projector for it]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    pub(super) proprio: Option<bool>,
    /// Statistics of actions and state [default: dataset_statistics.json of the checkpoint]
    #[arg(long, value_name = "FILE")]
    pub(super) stats: Option<PathBuf>,
    /// Which data set of the statistics; may be left out if there is one
    #[arg(long, value_name = "K")]
    pub(super) unnorm_key: Option<String>,
    /// Folder of heads and projectors [default: that of the checkpoint]
    #[arg(long, value_name = "DIR")]
    pub(super) heads: Option<PathBuf>,
    /// Whether the time of a flow is counted in bf16 as the reference does, or exactly [default: reference]
    #[arg(long, value_name = "C", value_parser = PossibleValuesParser::new(FlowClock::ALL.map(FlowClock::name)))]
    pub(super) flow_clock: Option<String>,
    /// Restrict action slots to action tokens
    #[arg(long)]
    pub(super) only_action_ids: bool,
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is on or off".to_owned()),
    }
}

pub(super) fn size(text: &str) -> Result<[u32; 2], String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some([w.parse().ok()?, h.parse().ok()?]));
    sides.filter(|[w, h]| *w > 0 && *h > 0).ok_or_else(|| "give width and height, as in 224x224".to_owned())
}

fn dtype(text: &str) -> Result<DType, String> {
    let name = only(text, &["bf16", "f32", "f16"], &[])?;
    name.parse().map_err(|_| "unknown".to_owned())
}

fn entry(text: &str) -> Result<Entry, String> {
    let name = only(text, &Entry::ALL.map(Entry::name), &[])?;
    Entry::ALL.into_iter().find(|e| e.name() == name).ok_or_else(|| "unknown".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(name) = args.print_after.as_deref().filter(|name| *name != "all") {
        pass(name)?;
    }
    let read = [Some(&args.dir), args.lora.as_ref(), args.act.stats.as_ref(), args.act.heads.as_ref()];
    let read = read.into_iter().chain([args.golden.as_ref(), args.quant.calib.as_ref()]);
    output_path("-o", &args.output, &read.flatten().collect::<Vec<_>>())?;
    if let Some(folder) = &args.emit {
        check_folder("--emit", folder).map_err(refused)?;
    }
    let mut options = defaults::options(args)?;
    let given = args.quant.calib.as_deref().map(|path| calib::read(path, &options)).transpose()?;
    let cancelled = on_interrupt();
    let answered = match given {
        Some(given) => Some(calib::calibrate(&mut options, given, &cancelled)?),
        None => None,
    };
    let mut watch = Watch {
        compiling: Progress::new("compiling", Unit::Kernels),
        progress: Progress::new("packing", Unit::Bytes),
        print_after: args.print_after.as_deref(),
        verbose: args.verbose,
        cancelled,
    };
    let report = build(&options, &mut watch).map_err(failure)?;
    drop(watch);
    if args.verbose {
        note(table::passes(&report.passes).trim_end());
        note(table::programs(&report.programs).trim_end());
    }
    if let Some(stored) = &report.stored {
        note(quant::table(stored, args.verbose).trim_end());
        if let Some((cases, of)) = &answered {
            note(&format!("against the build without --quant, {of}: {}", calib::closeness(&options, cases)?));
        }
        if let Some(golden) = &options.golden {
            let cases = Cases::from_bytes(&golden.bytes, "the file of --golden")?;
            let close = calib::closeness(&options, &cases);
            // What does not fit is stored all the same.
            let close = close.unwrap_or_else(|failure| format!("not compared, {}", failure.message()));
            note(&format!("against --golden, {}: {close}", cases.about));
        }
    }
    let tensors = counted(report.tensors as u64, "tensor");
    note(&format!("wrote `{}`: {}, {tensors}", args.output.display(), HumanBytes(report.file_bytes)));
    Ok(())
}

/// What the build tells, on stderr.
struct Watch<'a> {
    compiling: Progress,
    progress: Progress,
    print_after: Option<&'a str>,
    verbose: bool,
    cancelled: Arc<AtomicBool>,
}

impl Events for Watch<'_> {
    fn compiling(&mut self, done: u64, total: u64) {
        self.compiling.at(done, total);
        if done == total {
            self.compiling.restart();
            self.progress.restart();
        }
    }

    fn progress(&mut self, done: u64, total: u64) {
        self.progress.at(done, total);
    }

    fn warning(&mut self, text: &str) {
        self.progress.note(&format!("warning: {text}"));
    }

    fn after_pass(&mut self, pass: &Pass, seen: Seen<'_>, stats: &Stats) {
        if self.verbose && *stats != Stats::default() {
            self.progress.note(&super::opt::line(pass, seen, stats));
        }
        if self.print_after.is_some_and(|name| name == "all" || name == pass.name) {
            self.progress.note(&format!("# after {}\n{seen}", pass.name));
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Set when the user interrupts, so that the half-written file is removed.
pub(super) fn on_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    if let Err(error) = ctrlc::set_handler(move || set.store(true, Ordering::Relaxed)) {
        note(&format!("warning: an interrupt would leave a partial file behind: {error}"));
    }
    flag
}

pub(super) fn failure(error: BuildError) -> Failure {
    match error {
        BuildError::Import(error) => error.into(),
        BuildError::Weights(error) => error.into(),
        BuildError::Tokenizer(error) => error.into(),
        BuildError::Action(error) => error.into(),
        BuildError::Artifact(error) => super::device::failure(error),
        BuildError::Output(error) => refused(error),
        error @ BuildError::Option { .. } => {
            Failure::of(&error).into_usage().with_help("`dreamc build --help` lists the options")
        }
        error @ (BuildError::Cancelled | BuildError::Write { source: WriteError::Cancelled, .. }) => {
            Failure::of(&error).with_help("nothing was left behind; run the command again")
        }
        error @ (BuildError::File { .. } | BuildError::Write { source: WriteError::Io(_), .. }) => {
            Failure::of(&error).with_help("check that the folder exists, may be written to, and has room")
        }
        error => Failure::of(&error),
    }
}

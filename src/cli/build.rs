//! `dreamc build`: a checkpoint to an artifact.

use super::error::Failure;
use super::later::only;
use super::opt::pass;
use super::output::{counted, note};
use super::progress::{Progress, Unit};
use super::targets::LATER;
use clap::builder::PossibleValuesParser;
use dreamc::compile::{BuildError, BuildOptions, Entry, Events, build};
use dreamc_backend::WriteError;
use dreamc_frontend::TextConfig;
use dreamc_frontend::sampler::Alg;
use dreamc_ir::Graph;
use dreamc_num::DType;
use dreamc_passes::{Pass, Stats};
use indicatif::HumanBytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `steps` of `spec/sampling.md`.
const STEPS_DEFAULT: u32 = 512;
/// `alg` of `spec/sampling.md`.
const ALG_DEFAULT: Alg = Alg::Origin;
/// The reference has none: it goes by the prompt's length.
const NEW_TOKENS_DEFAULT: u32 = 128;
const MAX_PROMPT_DEFAULT: u32 = 2048;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint
    dir: PathBuf,
    /// File to write; it appears under this name only when it is complete
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What to build for: cpu
    #[arg(long, value_name = "T,..", default_value = "cpu", value_delimiter = ',', value_parser = target)]
    target: Vec<String>,
    /// Denoising steps [default: 512]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    steps: Option<u32>,
    /// How slots are chosen [default: origin]
    #[arg(long, value_name = "A", value_parser = PossibleValuesParser::new(Alg::ALL.map(Alg::name)))]
    alg: Option<String>,
    /// End of the schedule
    #[arg(long, value_name = "E", default_value_t = 1e-3, allow_hyphen_values = true)]
    eps: f32,
    /// Tokens that `run` appends to a prompt [default: 128]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    new_tokens: Option<u32>,
    /// Longest prompt in tokens [default: 2048, or what the model has room for]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    max_prompt: Option<u32>,
    /// Most rows computed at a time
    #[arg(long, value_name = "N", default_value_t = 8, allow_hyphen_values = true)]
    max_batch: u32,
    /// Type of weights and activations: bf16 or f32
    #[arg(long, value_name = "T", default_value = "bf16", value_parser = dtype)]
    dtype: DType,
    /// Quantisation of the weights: none
    #[arg(long, value_name = "Q", default_value = "none", value_parser = quant)]
    quant: String,
    /// What the artifact can be asked for: forward, generate
    #[arg(long, value_name = "E,..", default_value = "forward,generate", value_delimiter = ',', value_parser = entry)]
    entries: Vec<Entry>,
    /// Take NaN and infinite weights as they are
    #[arg(long)]
    allow_non_finite: bool,
    /// Print each graph after this pass on stderr, or after `all`
    #[arg(long, value_name = "PASS|all")]
    print_after: Option<String>,
    /// Verify the graphs after every pass
    #[arg(long)]
    verify_each: bool,
    /// Say what each pass does, and what was built
    #[arg(short, long)]
    verbose: bool,
}

fn target(text: &str) -> Result<String, String> {
    only(text, &["cpu"], &LATER)
}

fn quant(text: &str) -> Result<String, String> {
    only(text, &["none"], &["w8a8", "w4a16", "w4a8", "fp8"])
}

fn dtype(text: &str) -> Result<DType, String> {
    let name = only(text, &["bf16", "f32"], &["f16"])?;
    name.parse().map_err(|_| "unknown".to_owned())
}

fn entry(text: &str) -> Result<Entry, String> {
    let name = only(text, &Entry::ALL.map(Entry::name), &["encode_image", "act"])?;
    Entry::ALL.into_iter().find(|e| e.name() == name).ok_or_else(|| "unknown".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(name) = args.print_after.as_deref().filter(|name| *name != "all") {
        pass(name)?;
    }
    let options = options(args)?;
    let mut watch = Watch {
        progress: Progress::new("packing", Unit::Bytes),
        print_after: args.print_after.as_deref(),
        verbose: args.verbose,
        cancelled: on_interrupt(),
    };
    let report = build(&options, &mut watch).map_err(failure)?;
    drop(watch);
    if args.verbose {
        for (name, arena_bytes) in &report.programs {
            note(&format!("program {name}: {} of memory", HumanBytes(*arena_bytes)));
        }
    }
    let tensors = counted(report.tensors as u64, "tensor");
    note(&format!("wrote `{}`: {}, {tensors}", args.output.display(), HumanBytes(report.file_bytes)));
    Ok(())
}

fn options(args: &Args) -> Result<BuildOptions, Failure> {
    let steps = args.steps.unwrap_or_else(|| {
        note(&format!("steps {STEPS_DEFAULT} (documented default; give --steps)"));
        STEPS_DEFAULT
    });
    let alg = match &args.alg {
        Some(name) => Alg::from_name(name).unwrap_or(ALG_DEFAULT),
        None => {
            note(&format!("alg {} (documented default; give --alg)", ALG_DEFAULT.name()));
            ALG_DEFAULT
        }
    };
    let new_tokens = args.new_tokens.unwrap_or_else(|| {
        note(&format!("new-tokens {NEW_TOKENS_DEFAULT} (default; give --new-tokens)"));
        NEW_TOKENS_DEFAULT
    });
    let max_prompt = match args.max_prompt {
        Some(given) => given,
        None => max_prompt(&args.dir, new_tokens)?,
    };
    let mut entries = args.entries.clone();
    entries.sort();
    entries.dedup();
    Ok(BuildOptions {
        checkpoint: args.dir.clone(),
        output: args.output.clone(),
        dtype: args.dtype,
        steps,
        eps: args.eps,
        alg,
        new_tokens,
        max_prompt,
        max_batch: args.max_batch,
        entries,
        allow_non_finite: args.allow_non_finite,
        verify_each: args.verify_each,
    })
}

/// The default, or less where the model has no room for it.
fn max_prompt(dir: &Path, new_tokens: u32) -> Result<u32, Failure> {
    let longest = TextConfig::read(dir)?.max_position_embeddings;
    let room = longest.saturating_sub(new_tokens.into()).max(1);
    let max_prompt = u32::try_from(room).map_or(MAX_PROMPT_DEFAULT, |room| room.min(MAX_PROMPT_DEFAULT));
    if max_prompt < MAX_PROMPT_DEFAULT {
        note(&format!(
            "max-prompt {max_prompt} (default; max_position_embeddings {longest} less {new_tokens} new tokens)"
        ));
    }
    Ok(max_prompt)
}

/// What the build tells, on stderr.
struct Watch<'a> {
    progress: Progress,
    print_after: Option<&'a str>,
    verbose: bool,
    cancelled: Arc<AtomicBool>,
}

impl Events for Watch<'_> {
    fn progress(&mut self, done: u64, total: u64) {
        self.progress.at(done, total);
    }

    fn warning(&mut self, text: &str) {
        self.progress.note(&format!("warning: {text}"));
    }

    fn after_pass(&mut self, pass: &Pass, graph: &Graph, stats: &Stats) {
        if self.verbose && *stats != Stats::default() {
            self.progress.note(&super::opt::line(pass, graph, stats));
        }
        if self.print_after.is_some_and(|name| name == "all" || name == pass.name) {
            self.progress.note(&format!("# after {}\n{graph}", pass.name));
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Set when the user interrupts, so that the half-written file is removed.
fn on_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    if let Err(error) = ctrlc::set_handler(move || set.store(true, Ordering::Relaxed)) {
        note(&format!("warning: an interrupt would leave a partial file behind: {error}"));
    }
    flag
}

fn failure(error: BuildError) -> Failure {
    match error {
        BuildError::Import(error) => error.into(),
        BuildError::Weights(error) => error.into(),
        BuildError::Tokenizer(error) => error.into(),
        error @ BuildError::Option { .. } => {
            Failure::of(&error).into_usage().with_help("`dreamc build --help` lists the options")
        }
        error @ BuildError::Write { source: WriteError::Cancelled, .. } => {
            Failure::of(&error).with_help("nothing was left behind; run the command again")
        }
        error @ (BuildError::File { .. } | BuildError::Write { source: WriteError::Io(_), .. }) => {
            Failure::of(&error).with_help("check that the folder exists, may be written to, and has room")
        }
        error => Failure::of(&error),
    }
}

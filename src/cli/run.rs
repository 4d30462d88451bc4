//! `dreamc run`: a request to an artifact.

use super::device::{DeviceArgs, failure};
use super::error::Failure;
use super::forward;
use super::output::{Format, note, print, print_json};
use super::progress::{Progress, Unit};
use clap::ValueEnum;
use dream::chat::{Message, render};
use dream::{Generate, Generated, Image, Model, Sampling, Visual};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than any canvas that an artifact takes.
const CANVAS_BYTES_MAX: u64 = 1 << 26;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote
    file: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    /// What follows the prompt: text in which `<|mask|>` is a slot and `<|mask:N|>` are N [default: as many slots as the
    /// artifact appends]
    #[arg(long, value_name = "FILE")]
    canvas: Option<PathBuf>,
    /// What the answer must be; with another the exit code is 3
    #[arg(long, value_enum)]
    expect: Option<Expect>,
    /// Images to show before the prompt, or at the `<|image_pad|>` of --raw: PNG or JPEG
    #[arg(long, value_name = "IMAGE")]
    image: Vec<PathBuf>,
    /// What to ask for
    #[arg(long, value_enum, default_value_t)]
    entry: EntryArg,
    #[command(flatten)]
    forward: forward::TensorArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Give the canvas after every step too
    #[arg(long)]
    history: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct PromptArgs {
    /// What the user says; goes through the chat template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Text to continue as it stands
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    raw: Option<String>,
    /// Token ids to continue: `{"input_ids": [[..]], "attention_mask": [[..]]}`
    #[arg(long, value_name = "FILE.json")]
    ids: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum EntryArg {
    #[default]
    Generate,
    Forward,
    #[value(name = "encode_image")]
    EncodeImage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Expect {
    /// JSON text.
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct SamplingArgs {
    /// Seed of the random draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Temperature of the tokens; 0 takes the most probable
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_hyphen_values = true)]
    temperature: f32,
    /// Keep the most probable tokens up to this sum [default: all]
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    top_p: Option<f32>,
    /// Keep this many tokens [default: all]
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    top_k: Option<u32>,
    /// Temperature of the choice of slots [default: none is drawn]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    alg_temp: Option<f32>,
    /// Above 0, makes early ends of the answer less likely
    #[arg(long, value_name = "E", default_value_t = 0.0, allow_hyphen_values = true)]
    eos_penalty: f32,
    /// Whether each row's slots are ranked by themselves, or those of all rows together
    #[arg(long, value_enum, default_value_t)]
    rank: Rank,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Rank {
    /// Each row by itself.
    #[default]
    Row,
    /// All rows of the request together, as the reference's vision-language sampler does.
    Joint,
}

/// What `--ids` reads.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ids {
    pub(super) input_ids: Vec<Vec<i32>>,
    pub(super) attention_mask: Option<Vec<Vec<i32>>>,
}

/// What `--format json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    sequences: &'a [Vec<i32>],
    text: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<&'a [Vec<Vec<i32>>]>,
    steps: u32,
    forwards: u32,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let PromptArgs { prompt, raw, ids } = &args.prompt;
    let given = prompt.is_some() || raw.is_some() || ids.is_some();
    match args.entry {
        EntryArg::Forward | EntryArg::EncodeImage
            if given
                || args.history
                || args.canvas.is_some()
                || args.expect.is_some()
                || !args.image.is_empty() =>
        {
            let help = "the entries `forward` and `encode_image` take --inputs and --outputs";
            let flags = "--prompt, --raw, --ids, --canvas, --expect, --image and --history";
            Err(Failure::usage(format!("{flags} belong to `--entry generate`"), help))
        }
        EntryArg::Forward | EntryArg::EncodeImage => {
            let files = args.forward.files(&args.file)?;
            let mut model = args.device.open(&args.file)?;
            let run = if args.entry == EntryArg::Forward { forward::run } else { forward::encode_image };
            run(&mut model, &files, args.forward.probes())
        }
        EntryArg::Generate if args.forward.any() => {
            let help = "add `--entry forward` or `--entry encode_image`";
            Err(Failure::usage("--inputs, --outputs and --probe belong to those entries", help))
        }
        EntryArg::Generate if !given => {
            let help = "give --prompt TEXT, --raw TEXT or --ids FILE.json";
            Err(Failure::usage("there is nothing to continue", help))
        }
        EntryArg::Generate => generate(args),
    }
}

fn generate(args: &Args) -> Result<(), Failure> {
    let ids = args.prompt.ids.as_deref().map(read_ids).transpose()?;
    let mut model = args.device.open(&args.file)?;
    let visuals = images(&args.image)?.into_iter().map(Visual::Image).collect::<Vec<_>>();
    let (prompt, attention_mask) = match (ids, &args.prompt.prompt, &args.prompt.raw) {
        (Some(ids), _, _) => (ids.input_ids, ids.attention_mask),
        (None, prompt, raw) => {
            let user = |text: &String| render(&[Message::about_images(visuals.len(), text)], true);
            let text = prompt.as_ref().map(user).or_else(|| raw.clone()).unwrap_or_default();
            (vec![model.encode_with(&text, &visuals).map_err(failure)?], None)
        }
    };
    let canvas = match &args.canvas {
        Some(path) => Some(model.encode_canvas(&read_canvas(path)?).map_err(failure)?),
        None => None,
    };
    let sampling = args.sampling.sampling();
    let request = Generate { prompt, attention_mask, visuals, canvas, sampling, history: args.history };
    let mut progress = Progress::new("denoising", Unit::Steps);
    let mut watch = |done: u32, steps: u32| {
        progress.at(done.into(), steps.into());
        true
    };
    let generated = model.generate(&request, &mut watch).map_err(failure)?;
    drop(progress);
    let text = match model.tokenizer() {
        Some(_) => Some(model.answers(&generated).map_err(failure)?),
        None => None,
    };
    let checked = match args.expect {
        Some(Expect::Json) => expect_json(text.as_deref()),
        None => Ok(()),
    };
    match args.format {
        Format::Json => print_json(&Answer {
            sequences: &generated.sequences,
            text: text.as_deref().unwrap_or_default(),
            history: generated.history.as_deref(),
            steps: generated.steps,
            forwards: generated.forwards,
        }),
        Format::Text => print_text(&model, &generated, text.as_deref()),
    }?;
    // The answer is shown whatever it is.
    checked
}

/// Images from files.
pub(super) fn images(paths: &[PathBuf]) -> Result<Vec<Image>, Failure> {
    paths.iter().map(|path| Ok(Image::open(path)?)).collect()
}

/// A canvas from a file, without the line break that editors put at its end.
fn read_canvas(path: &Path) -> Result<String, Failure> {
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(CANVAS_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| Failure::io("read", path, &error))?;
    if text.len() as u64 > CANVAS_BYTES_MAX {
        let message =
            format!("`{}` has more than {CANVAS_BYTES_MAX} bytes, which no canvas has", path.display());
        return Err(Failure::failed(message, "name a file with the text to fill in"));
    }
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// Whether every answer is JSON.
fn expect_json(answers: Option<&[String]>) -> Result<(), Failure> {
    let Some(answers) = answers else {
        let help = "build a checkpoint that has its tokenizer files";
        return Err(Failure::failed("`--expect json` needs text, and the artifact has no tokenizer", help));
    };
    for (row, answer) in answers.iter().enumerate() {
        if let Err(error) = serde_json::from_str::<serde_json::Value>(answer) {
            let message = format!("the answer of row {row} is no JSON");
            let help = "give a canvas with the JSON around the slots (--canvas), or more steps";
            return Err(Failure::failed(message, help).because(error).into_check());
        }
    }
    Ok(())
}

impl SamplingArgs {
    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            seed: self.seed,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            alg_temp: self.alg_temp,
            eos_penalty: self.eos_penalty,
            joint: self.rank == Rank::Joint,
        }
    }
}

pub(super) fn read_ids(path: &Path) -> Result<Ids, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("`{}` does not hold token ids", path.display());
        let help = "write `{\"input_ids\": [[..]], \"attention_mask\": [[..]]}`; the mask may be left out";
        Failure::failed(message, help).because(error)
    })
}

/// The answers one per row; without a tokenizer, the new tokens.
fn print_text(model: &Model, generated: &Generated, answers: Option<&[String]>) -> Result<(), Failure> {
    let new_of = |row: &[i32]| row[row.len().saturating_sub(generated.new_tokens)..].to_vec();
    let listed = |row: &[i32]| new_of(row).iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let mut text = String::new();
    for (canvas, step) in generated.history.iter().flatten().zip(1..) {
        for (row, ids) in canvas.iter().enumerate() {
            let shown = match model.tokenizer() {
                Some(tokenizer) => {
                    let ids: Vec<u32> = new_of(ids).iter().map(|id| *id as u32).collect();
                    format!("{:?}", tokenizer.decode(&ids, false)?)
                }
                None => listed(ids),
            };
            text.push_str(&format!("step {step} row {row}: {shown}\n"));
        }
    }
    if let Some(answers) = answers {
        for answer in answers {
            text.push_str(&format!("{answer}\n"));
        }
    } else {
        note("the artifact has no tokenizer: these are the ids of the new tokens");
        for row in &generated.sequences {
            text.push_str(&format!("{}\n", listed(row)));
        }
    }
    print(&text)
}

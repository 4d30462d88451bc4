//! `dreamc build --calib`: requests from files, what they show of the rows that matmuls read, and how far the artifact is
//! from its parent on them.

use super::build::failure;
use super::device::failure as of_model;
use super::error::Failure;
use super::golden::{Cases, compare, cut, of_ids, record, summary};
use super::output::{counted, output_path};
use super::progress::{Progress, Unit};
use super::requests::{Request, Seen, Subject};
use super::run::{Ids, images};
use dream::chat::{Message, render};
use dream::{ActOptions, Forward, Generate, Image, Model, OpenOptions, Tokenizer, Visual};
use dreamc::compile::{BuildError, BuildOptions, Entry, Events, Parent};
use dreamc_backend::WriteError;
use serde::Deserialize;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Endings of images, which requests name.
const IMAGES: [&str; 3] = ["png", "jpg", "jpeg"];
/// Answers are kept for the comparison up to so many numbers; requests behind add to the statistics alone.
const ANSWERS_MAX: usize = 1 << 26;
const HELP: &str =
    "give a file of `dreamc golden record`, or a folder of such files and of requests: `dreamc build --help`";

/// A request of a file.
pub(super) enum Given {
    /// Of a file of cases.
    Ready(Request),
    Ids(Ids),
    Prompt {
        text: String,
        images: Vec<Image>,
    },
}

/// What a file `*.json` holds: one of `input_ids`, `prompt` and `task`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    input_ids: Option<Vec<Vec<i32>>>,
    attention_mask: Option<Vec<Vec<i32>>>,
    prompt: Option<String>,
    task: Option<String>,
    #[serde(default)]
    image: Vec<PathBuf>,
    proprio: Option<Vec<f64>>,
}

/// The requests of a file of cases or of a folder, in the order of the names of its files; refuses those that the build has
/// no entry for.
pub(super) fn read(path: &Path, options: &BuildOptions) -> Result<Vec<Given>, Failure> {
    let io = |error: std::io::Error| Failure::io("read", path, &error);
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return cases(path, options);
    }
    let listed = std::fs::read_dir(path).map_err(io)?.map(|entry| Ok(entry?.path()));
    let mut files = listed.collect::<Result<Vec<PathBuf>, std::io::Error>>().map_err(io)?;
    files.sort();
    output_path("-o", &options.output, &files)?;
    let mut list = Vec::new();
    for file in files {
        let hidden = file.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with('.'));
        match file.extension().and_then(OsStr::to_str) {
            _ if hidden => {}
            Some(ending) if IMAGES.contains(&ending.to_ascii_lowercase().as_str()) => {}
            Some("json") => list.push(asked(&file, options)?),
            _ => list.extend(cases(&file, options)?),
        }
    }
    if list.is_empty() {
        return Err(Failure::failed(format!("`{}` holds no requests", path.display()), HELP));
    }
    Ok(list)
}

/// The requests of a file of cases.
fn cases(path: &Path, options: &BuildOptions) -> Result<Vec<Given>, Failure> {
    let cases = Cases::read(path)?;
    if cases.list.is_empty() {
        return Err(Failure::failed(format!("`{}` holds no cases", path.display()), HELP));
    }
    for case in &cases.list {
        entry(path, options, &[case.entry()])?;
        if let Request::Act(seen) = &case.request {
            sizes(path, options, &seen.images)?;
        }
    }
    Ok(cases.list.into_iter().map(|case| Given::Ready(case.request)).collect())
}

/// The request of a file `*.json`; images are named from its folder.
fn asked(path: &Path, options: &BuildOptions) -> Result<Given, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    let wrong = |what: &str| {
        let help = "write {\"prompt\": \"..\", \"image\": [\"a.png\"]}, {\"task\": \"..\", \"image\": [\"a.png\"], \"proprio\": [..]} \
                    or {\"input_ids\": [[..]], \"attention_mask\": [[..]]}; images, mask and state may be left out";
        Failure::failed(format!("`{}` {what}", path.display()), help)
    };
    let asked: Asked =
        serde_json::from_slice(&bytes).map_err(|error| wrong("holds no request").because(error))?;
    let longest = asked.prompt.iter().chain(&asked.task).map(String::len).max().unwrap_or(0);
    if longest > options.max_prompt as usize {
        // Before anything is built.
        Tokenizer::from_dir(&options.checkpoint)?.check_length(longest, options.max_prompt as usize, 0)?;
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let files: Vec<PathBuf> = asked.image.iter().map(|image| folder.join(image)).collect();
    output_path("-o", &options.output, &files)?;
    let (mask, proprio) = (asked.attention_mask, asked.proprio);
    match (asked.input_ids, asked.prompt, asked.task) {
        (Some(input_ids), None, None) if files.is_empty() && proprio.is_none() => {
            entry(path, options, &[Entry::Forward, Entry::Generate])?;
            Ok(Given::Ids(Ids { input_ids, attention_mask: mask }))
        }
        (None, Some(text), None) if mask.is_none() && proprio.is_none() => {
            entry(path, options, &[Entry::Generate])?;
            let images = images(&files)?;
            sizes(path, options, &images)?;
            Ok(Given::Prompt { text, images })
        }
        (None, None, Some(task)) if mask.is_none() => {
            entry(path, options, &[Entry::Act])?;
            let images = images(&files)?;
            sizes(path, options, &images)?;
            Ok(Given::Ready(Request::Act(Seen { images, task, proprio, options: ActOptions::default() })))
        }
        _ => Err(wrong("is not one request: input_ids, prompt or task, each with what belongs to it")),
    }
}

/// Refuses a request that none of these entries of the build takes.
fn entry(path: &Path, options: &BuildOptions, any: &[Entry]) -> Result<(), Failure> {
    if any.iter().any(|entry| options.entries.contains(entry)) {
        return Ok(());
    }
    let names = |list: &[Entry]| list.iter().map(|entry| entry.name()).collect::<Vec<_>>().join(", ");
    let (asks, has) =
        (any.iter().map(|entry| entry.name()).collect::<Vec<_>>().join("` or `"), names(&options.entries));
    let message = format!("`{}` asks for `{asks}`, and the artifact is to have {has} alone", path.display());
    Err(Failure::failed(message, "leave the request out, or build with other --entries"))
}

/// Refuses images of another size than the artifact is built for.
fn sizes(path: &Path, options: &BuildOptions, images: &[Image]) -> Result<(), Failure> {
    let Some(size) = options.image else { return Ok(()) };
    let Some(other) = images.iter().find(|image| [image.width(), image.height()] != size) else {
        return Ok(());
    };
    let ([width, height], found) = (size, (other.width(), other.height()));
    let message = format!(
        "`{}` shows an image of {}x{}, and the artifact is for {width}x{height}",
        path.display(),
        found.0,
        found.1
    );
    Err(Failure::failed(message, "resize it, or build with another --image"))
}

/// Adds to `options` what the requests show. Gives what the parent answered, and in words how many requests that is.
pub(super) fn calibrate(
    options: &mut BuildOptions,
    given: Vec<Given>,
    cancelled: &AtomicBool,
) -> Result<(Cases, String), Failure> {
    let mut packing = Packing { progress: Progress::new("packing the parent", Unit::Bytes), cancelled };
    let parent = Parent::build(options, &mut packing).map_err(failure)?;
    drop(packing);
    let model = Model::open(parent.path(), &OpenOptions::default()).map_err(of_model)?;
    let mut subject = Subject::of(model, main_entry(options))?;
    let mut requests = Vec::new();
    for given in given {
        requests.extend(given.requests(subject.model())?);
    }
    let stopped = || cancelled.load(Ordering::Relaxed);
    let mut collector = parent.collector().until(&stopped);
    let (mut progress, total) = (Progress::new("calibrating", Unit::Calls), requests.len() as u64);
    let (mut answered, mut numbers): (Option<Cases>, usize) = (None, 0);
    for (request, done) in requests.into_iter().zip(1..) {
        collector.show(request.sees());
        let served = if numbers < ANSWERS_MAX {
            record(&mut subject, vec![request], false, &mut collector, &mut |_| ()).map(|mut cases| {
                let values = cases.list.iter().flat_map(|case| &case.answer.values);
                numbers += values.map(|value| value.data.len()).sum::<usize>();
                match &mut answered {
                    Some(all) => all.list.append(&mut cases.list),
                    None => answered = Some(cases),
                }
            })
        } else {
            subject.serve(&request, &mut collector).map(|_| ())
        };
        if stopped() {
            let (path, source) = (options.output.clone(), WriteError::Cancelled);
            return Err(failure(BuildError::Write { path, source }));
        }
        served?;
        progress.at(done, total);
    }
    drop(progress);
    let statistics = collector.finish(total);
    if let Some(quant) = &mut options.quant {
        quant.calibration = Some(statistics);
    }
    let cases = answered.ok_or_else(|| Failure::failed("there are no requests", HELP))?;
    let compared = cases.list.len() as u64;
    let of = match compared == total {
        true => counted(total, "request"),
        false => format!("{compared} of {}", counted(total, "request")),
    };
    Ok((cases, of))
}

/// How far the artifact that was built is from what was answered, in words.
pub(super) fn closeness(options: &BuildOptions, cases: &Cases) -> Result<String, Failure> {
    let model = Model::open(&options.output, &OpenOptions::default()).map_err(of_model)?;
    Ok(summary(&compare(model, cases)?))
}

fn main_entry(options: &BuildOptions) -> Entry {
    if options.entries.contains(&Entry::Act) { Entry::Act } else { Entry::Forward }
}

impl Given {
    /// As the model takes it.
    fn requests(self, model: &Model) -> Result<Vec<Request>, Failure> {
        match self {
            Given::Ready(request) => Ok(vec![request]),
            Given::Ids(ids) => Ok(of_ids(model, ids)),
            Given::Prompt { text, images } => {
                let visuals: Vec<Visual> = images.into_iter().map(Visual::Image).collect();
                let text = render(&[Message::about_images(visuals.len(), &text)], true);
                let prompt = vec![model.encode_with(&text, &visuals).map_err(of_model)?];
                let built = &model.manifest().model;
                let mut requests = Vec::new();
                if model.manifest().entries.iter().any(|entry| entry == Entry::Forward.name()) {
                    // What the first step sees.
                    let slots = std::iter::repeat_n(built.mask_token_id as i32, built.new_tokens as usize);
                    let input_ids = vec![prompt[0].iter().copied().chain(slots).collect()];
                    let visuals = visuals.clone();
                    requests.push(Request::Forward(Forward { input_ids, visuals, ..Forward::default() }));
                }
                requests.push(Request::Generate(Generate { prompt, visuals, ..Generate::default() }));
                for request in &mut requests {
                    cut(request, model.settings())?;
                }
                Ok(requests)
            }
        }
    }
}

/// What the build of the parent tells: the build itself says the rest.
struct Packing<'a> {
    progress: Progress,
    cancelled: &'a AtomicBool,
}

impl Events for Packing<'_> {
    fn progress(&mut self, done: u64, total: u64) {
        self.progress.at(done, total);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

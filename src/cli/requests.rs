//! Requests that an artifact itself shows to be possible, made up the same every time: for `bench` and `golden`.

use super::device::failure;
use super::error::Failure;
use dream::action::Statistics;
use dream::{
    ActOptions, Actions, Forward, Generate, Generated, Image, ImageSettings, Manifest, Model, Observation,
    Observer, Output, Policy, Settings, Visual,
};
use dreamc::compile::Entry;

/// What a policy is asked to do.
const TASK: &str = "pick up the block";
/// Sides of made-up images in pixels, where the artifact was not built for one size: the first that fits.
const SIDES: [u32; 4] = [224, 112, 56, 28];

/// Lengths of a request; those of the artifact where none are given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    /// Tokens of the prompt, those of images included.
    pub(super) prompt: Option<u32>,
    /// Slots behind it.
    pub(super) new: Option<u32>,
}

/// A request of one row, or one observation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    Forward(Forward),
    EncodeImage(Vec<Visual>),
    Generate(Generate),
    Act(Seen),
}

impl Request {
    /// Whether it shows images.
    pub(super) fn sees(&self) -> bool {
        match self {
            Request::Forward(forward) => !forward.visuals.is_empty(),
            Request::Generate(generate) => !generate.visuals.is_empty(),
            Request::EncodeImage(_) | Request::Act(_) => true,
        }
    }
}

/// An observation that owns what it shows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) images: Vec<Image>,
    pub(super) task: String,
    pub(super) proprio: Option<Vec<f64>>,
    pub(super) options: ActOptions,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Tensors(Vec<Output>),
    Text(Generated),
    Actions(Actions),
}

impl Answer {
    /// Passes through the model.
    pub(super) fn passes(&self) -> u32 {
        match self {
            Answer::Tensors(_) => 1,
            Answer::Text(generated) => generated.forwards,
            Answer::Actions(actions) => actions.forwards,
        }
    }
}

/// Whoever answers: a policy is made ready when it is opened.
pub(super) enum Subject {
    Model(Box<Model>),
    Policy(Box<Policy>),
}

impl Subject {
    /// An open artifact, to be asked for `entry`.
    pub(super) fn of(model: Model, entry: Entry) -> Result<Subject, Failure> {
        Ok(match entry {
            Entry::Act => Subject::Policy(Box::new(Policy::of(model).map_err(failure)?)),
            Entry::Forward | Entry::EncodeImage | Entry::Generate => Subject::Model(Box::new(model)),
        })
    }

    pub(super) fn model(&self) -> &Model {
        match self {
            Subject::Model(model) => model,
            Subject::Policy(policy) => policy.model(),
        }
    }

    pub(super) fn model_mut(&mut self) -> &mut Model {
        match self {
            Subject::Model(model) => model,
            Subject::Policy(policy) => policy.model_mut(),
        }
    }

    /// Serves a request, watched by `observer`.
    pub(super) fn serve(
        &mut self,
        request: &Request,
        observer: &mut dyn Observer,
    ) -> Result<Answer, Failure> {
        if let (Request::Act(_), Subject::Model(_)) = (request, &*self) {
            let help = "this is a bug in dreamc; report it with the command line";
            return Err(Failure::failed("a policy was not opened as one", help));
        }
        self.ask(request, observer).map_err(failure)
    }

    /// The same, with the runtime's own error.
    pub(super) fn ask(
        &mut self,
        request: &Request,
        observer: &mut dyn Observer,
    ) -> Result<Answer, dream::Error> {
        match (request, self) {
            (Request::Act(seen), Subject::Policy(policy)) => {
                let (images, proprio) = (seen.images.as_slice(), seen.proprio.as_deref());
                let observation = Observation { images, task: &seen.task, proprio };
                policy.act_with(&observation, &seen.options, observer).map(Answer::Actions)
            }
            (Request::Act(_), Subject::Model(_)) => Err(dream::Error::Unopened),
            (Request::Forward(request), subject) => {
                subject.model_mut().forward_with(request, observer).map(Answer::Tensors)
            }
            (Request::EncodeImage(visuals), subject) => {
                subject.model_mut().encode_image_with(visuals, observer).map(Answer::Tensors)
            }
            (Request::Generate(request), subject) => {
                subject.model_mut().generate_with(request, observer).map(Answer::Text)
            }
        }
    }
}

/// The entry to ask for: the one given, or what the artifact is mainly for.
pub(super) fn entry(given: Option<Entry>, manifest: &Manifest) -> Result<Entry, Failure> {
    let has = |entry: &Entry| manifest.entries.iter().any(|e| e == entry.name());
    let list = manifest.entries.join(", ");
    match given {
        Some(entry) if has(&entry) => Ok(entry),
        Some(entry) => {
            let message = format!("the artifact has no entry `{}`, only {list}", entry.name());
            Err(Failure::failed(message, "name one of those, or build with another --entries"))
        }
        None => {
            let usual = [Entry::Act, Entry::Generate, Entry::Forward, Entry::EncodeImage];
            let help = "build it again with this version of dreamc";
            usual.into_iter().find(has).ok_or_else(|| Failure::failed("the artifact has no entry", help))
        }
    }
}

/// A request that fills what the artifact was built for, or has these lengths. `seed` tells apart several.
pub(super) fn make(model: &Model, entry: Entry, lengths: Lengths, seed: u64) -> Result<Request, Failure> {
    let (manifest, settings) = (model.manifest(), model.settings());
    let built = &manifest.model;
    let given = lengths.prompt.is_some() || lengths.new.is_some();
    match entry {
        Entry::Act | Entry::EncodeImage if given => {
            let help = "leave them out: the length follows from the images";
            let flags = "--prompt-tokens and --new-tokens";
            Err(Failure::failed(format!("{flags} are of no effect on `{}`", entry.name()), help))
        }
        Entry::Forward if lengths.new.is_some() => {
            let help = "leave it out, or ask for `--entry generate`";
            Err(Failure::failed("--new-tokens is of no effect on `forward`, which appends nothing", help))
        }
        Entry::Act => {
            let actions = settings.and_then(|s| Some((s, s.actions.as_ref()?)));
            let Some((settings, actions)) = actions else {
                let help = "build it again with this version of dreamc";
                return Err(Failure::failed("the artifact acts, and has no settings of actions", help));
            };
            // Room for the task beside the images.
            let room = (built.max_prompt.saturating_sub(TASK_TOKENS) / actions.views.max(1)) as usize;
            let (side, _) = fitting(&settings.images, room).unwrap_or((SIDES[0], 0));
            let [width, height] = settings.images.size.unwrap_or([side; 2]);
            let images =
                (0..u64::from(actions.views)).map(|view| picture(width, height, seed ^ (view << 32)));
            let proprio = actions.proprio_dim.and(midpoint(&actions.statistics));
            let options = ActOptions::default();
            Ok(Request::Act(Seen {
                images: images.collect::<Result<_, _>>()?,
                task: TASK.to_owned(),
                proprio,
                options,
            }))
        }
        Entry::EncodeImage => Ok(Request::EncodeImage(vec![any_image(settings, usize::MAX, seed)?.0])),
        Entry::Forward => {
            let max = longest(model, entry).unwrap_or(built.max_prompt);
            let (input_ids, visuals) = prompt(model, within("--prompt-tokens", lengths.prompt, max)?, seed)?;
            Ok(Request::Forward(Forward { input_ids: vec![input_ids], visuals, ..Forward::default() }))
        }
        Entry::Generate => {
            let count = within("--prompt-tokens", lengths.prompt, built.max_prompt)?;
            let new = within("--new-tokens", lengths.new, built.new_tokens)?;
            let (ids, visuals) = prompt(model, count, seed)?;
            let canvas = Some(vec![built.mask_token_id as i32; new as usize]);
            Ok(Request::Generate(Generate { prompt: vec![ids], visuals, canvas, ..Generate::default() }))
        }
    }
}

/// Tokens that a task and what surrounds it may take.
const TASK_TOKENS: u32 = 64;

fn within(flag: &str, given: Option<u32>, max: u32) -> Result<u32, Failure> {
    match given {
        Some(n) if n > max => {
            let help = format!("give 1 to {max}, or build for more");
            Err(Failure::failed(format!("{flag} is {n}, and the artifact takes at most {max}"), help))
        }
        given => Ok(given.unwrap_or(max)),
    }
}

/// Longest row of an entry's program.
pub(super) fn longest(model: &Model, entry: Entry) -> Option<u32> {
    let target = model.target().or_else(|| model.manifest().targets.first().map(String::as_str))?;
    let program = model.artifact().plan(target)?.programs.iter().find(|p| p.name == entry.name())?;
    program.symbols.iter().find(|s| s.name == "S").map(|s| s.max)
}

/// A prompt of so many tokens, with an image at its beginning for a model that sees, if there is room for one.
fn prompt(model: &Model, tokens: u32, seed: u64) -> Result<(Vec<i32>, Vec<Visual>), Failure> {
    let settings = model.settings();
    let text = words(model.manifest(), settings, tokens as usize, seed);
    let Some(settings) = settings else { return Ok((text, vec![])) };
    // One more token stands before the image, and one word behind.
    let room = (tokens as usize).saturating_sub(2);
    if fitting(&settings.images, room).is_none() {
        return Ok((text, vec![]));
    }
    let (image, count) = any_image(Some(settings), room, seed)?;
    let marks = settings.images.tokens;
    let mut ids = vec![marks.vision_start];
    ids.resize(1 + count, marks.image);
    ids.extend(text.iter().skip(ids.len()));
    Ok((ids, vec![image]))
}

/// Ids that are words: no slot, no padding, no end, nothing of images.
fn words(manifest: &Manifest, settings: Option<&Settings>, count: usize, seed: u64) -> Vec<i32> {
    let model = &manifest.model;
    let mut special = vec![model.mask_token_id as i32, model.pad_token_id as i32, model.eos_token_id as i32];
    if let Some(settings) = settings {
        let marks = settings.images.tokens;
        special.extend([marks.image, marks.video, marks.vision_start]);
    }
    let words: Vec<i32> = (0..model.vocab_size as i32).filter(|id| !special.contains(id)).collect();
    let pick = |i: u64| words.get((mixed(seed, i) % words.len().max(1) as u64) as usize).copied();
    (0..count as u64).map(|i| pick(i).unwrap_or(0)).collect()
}

/// The side of a square image of at most `room` tokens, and its tokens.
fn fitting(images: &ImageSettings, room: usize) -> Option<(u32, usize)> {
    let room = room.min(images.tokens_max as usize);
    let tokens = |[width, height]: [u32; 2]| images.processor.grid(height, width, 1).ok().map(|g| g.tokens());
    let fits = |size| tokens(size).filter(|n| *n <= room);
    match images.size {
        Some(size) => fits(size).map(|n| (size[0], n)),
        None => SIDES.into_iter().find_map(|side| fits([side; 2]).map(|n| (side, n))),
    }
}

/// An image, and how many tokens it has.
fn any_image(settings: Option<&Settings>, room: usize, seed: u64) -> Result<(Visual, usize), Failure> {
    let settings = settings.ok_or_else(|| failure(dream::Error::NoImages))?;
    let Some((side, tokens)) = fitting(&settings.images, room) else {
        let help = "build with a longer --max-prompt";
        return Err(Failure::failed("the artifact has no room for an image", help));
    };
    let [width, height] = settings.images.size.unwrap_or([side; 2]);
    Ok((Visual::Image(picture(width, height, seed)?), tokens))
}

/// An image with a gradient and some noise, so that nothing about it is flat.
fn picture(width: u32, height: u32, seed: u64) -> Result<Image, Failure> {
    let pixel = |i: u64| {
        let (x, y) = ((i / 3) % u64::from(width), i / 3 / u64::from(width));
        ((x * 3 + y * 2 + i % 3 * 40 + mixed(seed, i) % 32) % 256) as u8
    };
    let pixels = (0..u64::from(width) * u64::from(height) * 3).map(pixel).collect();
    Ok(Image::from_rgb8(width, height, pixels)?)
}

/// A state in the middle of its range.
fn midpoint(statistics: &Statistics) -> Option<Vec<f64>> {
    let (low, high, _) = statistics.proprio()?.parts();
    Some(low.iter().zip(high).map(|(low, high)| low / 2.0 + high / 2.0).collect())
}

/// Well-mixed bits of `seed` and `i` (the finaliser of splitmix64).
fn mixed(seed: u64, i: u64) -> u64 {
    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i.wrapping_add(1) << 1);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

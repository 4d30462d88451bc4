//! Text from a prompt.

use crate::engine::{Inputs, SLOTS, bytes_of, bytes_of_floats, ints_of, open_slots};
use crate::visual::Images;
use crate::{Error, Model, Visual};
use dreamc_artifact::plan::{Dispatch, Kernel};
use dreamc_num::stream::StreamState;
use dreamc_runtime::{Canvas, Observer, Shown};

/// Name of the entry.
pub(crate) const ENTRY: &str = "generate";

/// How tokens and slots are chosen. The default is the documented one: no randomness, no filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Of the random stream; matters with a temperature, with `alg_temp` and for `origin`.
    pub seed: u64,
    /// 0 takes the most probable token.
    pub temperature: f32,
    /// Keeps the most probable tokens up to this sum.
    pub top_p: Option<f32>,
    /// Keeps this many tokens.
    pub top_k: Option<u32>,
    /// Draws the slots to commit instead of taking the most confident ones.
    pub alg_temp: Option<f32>,
    /// Above 0 makes early ends of the answer less likely.
    pub eos_penalty: f32,
    /// Counts and ranks the slots of all rows together, as the reference's vision-language sampler does.
    pub joint: bool,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generate {
    /// Token ids, one list per row, all of one length. Mask tokens inside are slots too. Where an image stands, its
    /// placeholder is repeated as often as it has tokens: see [`Model::encode_with`].
    pub prompt: Vec<Vec<i32>>,
    /// 0 for padding, 1 elsewhere; none means no padding.
    pub attention_mask: Option<Vec<Vec<i32>>>,
    /// Images and videos, in the order of the rows and of the placeholders in each.
    pub visuals: Vec<Visual>,
    /// What follows each prompt instead of the artifact's `new_tokens` slots, at most as long: words with slots between them.
    pub canvas: Option<Vec<i32>>,
    /// How tokens and slots are chosen.
    pub sampling: Sampling,
    /// Whether to return the canvas after every step.
    pub history: bool,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Prompt and new tokens of every row.
    pub sequences: Vec<Vec<i32>>,
    /// How many tokens of each row are no prompt.
    pub new_tokens: usize,
    /// The rows after every step, if asked for.
    pub history: Option<Vec<Vec<Vec<i32>>>>,
    /// Steps of the schedule.
    pub steps: u32,
    /// Passes through the model that were really run, over all batches of rows: fewer than steps where some of them fill no
    /// slot, more where slots took the mask token and the request was run again.
    pub forwards: u32,
}

impl Model {
    /// Fills `new_tokens` slots behind every prompt row. `watch` is told the steps done and their number, and stops the
    /// run by returning false.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the request or the artifact.
    pub fn generate(
        &mut self,
        request: &Generate,
        watch: &mut dyn FnMut(u32, u32) -> bool,
    ) -> Result<Generated, Error> {
        self.generate_with(request, &mut Watch(watch))
    }

    /// As [`Model::generate`], with an observer that may look at values and replace them: for tests that replay
    /// recorded random draws. Where a slot takes the mask token itself, the request may be run twice, and it sees both runs.
    ///
    /// # Errors
    ///
    /// As [`Model::generate`].
    pub fn generate_with(
        &mut self,
        request: &Generate,
        observer: &mut dyn Observer,
    ) -> Result<Generated, Error> {
        request.sampling.check()?;
        // First of all: what the manifest says is compared with a program, and memory is taken by both.
        self.with_engine(|engine| engine.prepare(ENTRY, ENTRY))?;
        let model = self.manifest().model.clone();
        let longest = request.prompt.iter().map(Vec::len).max().unwrap_or(0);
        if longest > model.max_prompt as usize {
            return Err(Error::PromptTooLong { found: longest, max: model.max_prompt as usize });
        }
        let mask_token = model.mask_token_id as i32;
        let mask = request.attention_mask.as_deref();
        let slots = || vec![mask_token; model.new_tokens as usize];
        let appended = request.canvas.clone().unwrap_or_else(slots);
        if appended.len() > model.new_tokens as usize {
            return Err(Error::CanvasTooLong { found: appended.len(), max: model.new_tokens as usize });
        }
        let slots = |row: &[i32]| row.contains(&mask_token);
        if !slots(&appended) && !request.prompt.iter().all(|row| slots(row)) {
            return Err(Error::NoSlots);
        }
        let canvas = Canvas::for_generation(&request.prompt, mask, &appended, mask_token)?;
        check_tokens(&canvas, model.vocab_size)?;
        let at_a_time = model.max_batch.max(1) as usize;
        if request.sampling.joint && canvas.rows > at_a_time {
            return Err(Error::Joint { rows: canvas.rows, max: at_a_time });
        }
        let mut images = Images::new(self.settings(), &request.visuals)?;
        images.divide(&request.prompt)?;

        let mut generated = Generated {
            sequences: vec![],
            new_tokens: appended.len(),
            history: None,
            steps: model.steps,
            forwards: 0,
        };
        let mut history = request.history.then(|| vec![Vec::new(); model.steps as usize]);
        self.with_engine(|engine| {
            engine.prepare(ENTRY, ENTRY)?;
            for first in (0..canvas.rows).step_by(at_a_time) {
                let canvas = canvas.part(first, (canvas.rows - first).min(at_a_time));
                let mut inputs = request.sampling.inputs(first as u32);
                inputs.push(("canvas", bytes_of(&canvas.tokens)));
                let image_tokens = images.inputs(&canvas, first, longest, None, &mut inputs)?;
                let slots = open_slots(&canvas, mask_token, engine.slots_max())?;
                let mut outputs = [("canvas", Vec::new()), ("history", Vec::new())];
                let lengths = [
                    ("B", canvas.rows as u32),
                    ("S", canvas.length as u32),
                    ("M", image_tokens),
                    (SLOTS, slots),
                ];
                let part = (ENTRY, first);
                generated.forwards += engine.answer(part, &lengths, &inputs, observer, &mut outputs)?;
                let split = |bytes: &[u8]| -> Vec<Vec<i32>> {
                    ints_of(bytes).chunks(canvas.length).map(<[i32]>::to_vec).collect()
                };
                generated.sequences.extend(split(&outputs[0].1));
                if let Some(history) = &mut history {
                    for (step, rows) in history.iter_mut().zip(split(&outputs[1].1).chunks(canvas.rows)) {
                        step.extend_from_slice(rows);
                    }
                }
            }
            Ok::<(), Error>(())
        })?;
        generated.history = history;
        Ok(generated)
    }

    /// As [`Model::generate`], told the canvas after every step as well.
    ///
    /// # Errors
    ///
    /// As [`Model::generate`].
    pub fn generate_steps(
        &mut self,
        request: &Generate,
        watch: &mut dyn FnMut(Step<'_>) -> bool,
    ) -> Result<Generated, Error> {
        self.generate_with(request, &mut WatchCanvas { watch, canvas: Vec::new() })
    }

    /// The answers as text: the new tokens of every row without special tokens, up to the first end of text.
    ///
    /// # Errors
    ///
    /// Where the artifact has no tokenizer.
    pub fn answers(&self, generated: &Generated) -> Result<Vec<String>, Error> {
        let tokenizer = self.tokenizer().ok_or(Error::NoTokenizer)?;
        let model = &self.manifest().model;
        let answer = |row: &Vec<i32>| {
            let new = row[row.len().saturating_sub(generated.new_tokens)..].iter().map(|id| *id as u32);
            let ids: Vec<u32> = new.take_while(|id| *id != model.eos_token_id).collect();
            Ok(tokenizer.decode(&ids, true)?)
        };
        generated.sequences.iter().map(answer).collect()
    }
}

impl Sampling {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let at_least_0 = "a number from 0 up";
        let settings = [
            ("temperature", self.temperature, self.temperature >= 0.0, at_least_0),
            (
                "top_p",
                self.top_p.unwrap_or(1.0),
                self.top_p.is_none_or(|p| p > 0.0 && p <= 1.0),
                "above 0 and at most 1",
            ),
            ("top_k", self.top_k.unwrap_or(1) as f32, self.top_k.is_none_or(|k| k > 0), "at least 1"),
            ("alg_temp", self.alg_temp.unwrap_or(0.0), self.alg_temp.is_none_or(|t| t >= 0.0), at_least_0),
            ("eos_penalty", self.eos_penalty, true, "a finite number"),
        ];
        for (setting, found, fits, expected) in settings {
            if !fits || !found.is_finite() {
                return Err(Error::Setting { setting, found: f64::from(found), expected });
            }
        }
        Ok(())
    }

    /// As a program takes them; `first_row` is the request's row that the batch begins with.
    pub(crate) fn inputs(&self, first_row: u32) -> Inputs {
        let stream = StreamState { seed: self.seed, first_row, step: 0 };
        // More than any vocabulary keeps every token, as no filter does.
        let top_k = i32::try_from(self.top_k.unwrap_or(0)).unwrap_or(i32::MAX);
        vec![
            ("stream", stream.words().iter().flat_map(|w| w.to_le_bytes()).collect()),
            ("temperature", bytes_of_floats(&[self.temperature])),
            ("top_p", bytes_of_floats(&[self.top_p.unwrap_or(1.0)])),
            ("top_k", bytes_of(&[top_k])),
            ("alg_temp", bytes_of_floats(&[self.alg_temp.unwrap_or(0.0)])),
            ("eos_penalty", bytes_of_floats(&[self.eos_penalty])),
            ("joint", bytes_of(&[i32::from(self.joint)])),
        ]
    }
}

/// Refuses ids that the embedding has no row for.
pub(crate) fn check_tokens(canvas: &Canvas, vocabulary: u32) -> Result<(), Error> {
    match canvas.tokens.iter().position(|id| u32::try_from(*id).map_or(true, |id| id >= vocabulary)) {
        None => Ok(()),
        Some(at) => Err(Error::TokenOutOfRange {
            id: canvas.tokens[at],
            row: at / canvas.length,
            position: at % canvas.length,
            vocabulary,
        }),
    }
}

/// What a denoising step has left.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Steps done, from 1.
    pub done: u32,
    /// Steps of the schedule.
    pub steps: u32,
    /// The rows that are computed together, one after the other: prompt and new tokens, of which those that are still open
    /// are the mask token. Empty as long as no step has filled a slot.
    pub canvas: &'a [i32],
}

/// Keeps what was committed last.
struct WatchCanvas<'a> {
    watch: &'a mut dyn FnMut(Step<'_>) -> bool,
    canvas: Vec<i32>,
}

impl Observer for WatchCanvas<'_> {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        matches!(dispatch.kernel, Kernel::Commit | Kernel::CommitSlots)
    }

    fn after(&mut self, shown: Shown<'_>) {
        self.canvas = ints_of(shown.bytes);
    }

    fn step(&mut self, done: u32, steps: u32) -> bool {
        (self.watch)(Step { done, steps, canvas: &self.canvas })
    }
}

pub(crate) struct Watch<'a>(pub(crate) &'a mut dyn FnMut(u32, u32) -> bool);

impl Observer for Watch<'_> {
    fn step(&mut self, done: u32, steps: u32) -> bool {
        (self.0)(done, steps)
    }
}

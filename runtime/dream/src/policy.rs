//! Robot actions from an observation.

use crate::engine::{Inputs, SLOTS, bytes_of, bytes_of_floats, floats_of, ints_of, open_slots};
use crate::finite::bad_action;
use crate::visual::{Images, make_room};
use crate::{Error, Manifest, Model, OpenOptions, Sampling, Visual};
use dreamc_front::chat::{Message, render};
use dreamc_front::image::Image;
use dreamc_front::settings::{ActionSettings, Mode, Settings};
use dreamc_num::stream::normal;
use dreamc_runtime::{Canvas, Observer, StepError};
use std::path::Path;

/// Name of the entry.
pub(crate) const ENTRY: &str = "act";

/// A policy: an artifact that acts.
///
/// ```no_run
/// use dream::{ActOptions, Image, Observation, OpenOptions, Policy};
///
/// let mut policy = Policy::open("policy.dream".as_ref(), &OpenOptions::default())?;
/// let image = Image::open("camera.png".as_ref())?;
/// let observation = Observation { images: &[image], task: "pick up the red block", proprio: None };
/// let chunk = policy.act(&observation, &ActOptions::default())?;
/// for action in chunk.actions {
///     println!("{action:?}");
/// }
/// # Ok::<(), dream::Error>(())
/// ```
pub struct Policy {
    model: Model,
    settings: Settings,
    actions: ActionSettings,
}

/// What a robot sees and is told.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Its views, third-person first.
    pub images: &'a [Image],
    /// The task, as it is to be used: `pick up the red block`.
    pub task: &'a str,
    /// Its state in its own units, for policies that take it.
    pub proprio: Option<&'a [f64]>,
}

/// How a chunk is made. The default is the documented one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActOptions {
    /// How tokens are chosen, in the discrete modes; its seed also makes the noise that flow and DDIM start from.
    pub sampling: Sampling,
    /// The noise itself, [chunk, action_dim] in one list.
    pub noise: Option<Vec<f32>>,
}

/// A chunk of actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Actions {
    /// What the robot is to do: `chunk` actions in its own units.
    pub actions: Vec<Vec<f64>>,
    /// The same as the model gives them, about -1 to 1.
    pub normalized: Vec<Vec<f64>>,
    /// The tokens that say so, in the discrete modes.
    pub token_ids: Option<Vec<i32>>,
    /// How many of the tokens are no action tokens. They were read as the nearest.
    pub outside: usize,
    /// Passes through the decoder.
    pub forwards: u32,
}

impl Policy {
    /// Opens an artifact and makes it ready to act: memory is taken and the weights are compared with their hashes here,
    /// not at the first action.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the file, or that it does not act.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Policy, Error> {
        Policy::of(Model::open(path, options)?)
    }

    /// A policy of an open artifact, as [`Policy::open`].
    ///
    /// # Errors
    ///
    /// As [`Policy::open`].
    pub fn of(mut model: Model) -> Result<Policy, Error> {
        let entries = &model.manifest().entries;
        let missing = Error::NoActions { entries: entries.join(", ") };
        if !entries.iter().any(|entry| entry == ENTRY) {
            return Err(missing);
        }
        let settings = model.settings().cloned();
        let actions = settings.as_ref().and_then(|s| s.actions.clone());
        let (Some(settings), Some(actions)) = (settings, actions) else { return Err(missing) };
        if model.tokenizer().is_none() {
            return Err(Error::NoTokenizer);
        }
        model.with_engine(|engine| engine.prepare(ENTRY, ENTRY))?;
        Ok(Policy { model, settings, actions })
    }

    /// What the artifact is.
    pub fn manifest(&self) -> &Manifest {
        self.model.manifest()
    }

    /// The artifact itself.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The same for its other entries. The next chunk after a request of another entry takes longer: the device is made
    /// ready for `act` again.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// What the policy takes and gives.
    pub fn settings(&self) -> &ActionSettings {
        &self.actions
    }

    /// A chunk of actions for what the robot sees.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the observation or the artifact.
    pub fn act(&mut self, observation: &Observation<'_>, options: &ActOptions) -> Result<Actions, Error> {
        // Nobody watches, so that a device may do the whole run by itself.
        self.act_with(observation, options, &mut ())
    }

    /// As [`Policy::act`], with an observer that may look at values and replace them: for tests and probes.
    ///
    /// # Errors
    ///
    /// As [`Policy::act`].
    pub fn act_with(
        &mut self,
        observation: &Observation<'_>,
        options: &ActOptions,
        observer: &mut dyn Observer,
    ) -> Result<Actions, Error> {
        options.sampling.check()?;
        let request = self.request(observation, options)?;
        let mut outputs = [(request.output, Vec::new())];
        let mask_token = self.model.manifest().model.mask_token_id as i32;
        let forwards = self.model.with_engine(|engine| {
            engine.prepare(ENTRY, ENTRY)?;
            // With a head nothing is a slot.
            let slots = match self.actions.mode {
                Mode::Discrete => open_slots(&request.canvas, mask_token, engine.slots_max())?,
                Mode::OneStep | Mode::L1 | Mode::Flow | Mode::Ddim => 1,
            };
            let length = request.canvas.length as u32;
            let lengths = [("B", 1), ("S", length), ("M", request.image_tokens), (SLOTS, slots)];
            engine.answer((ENTRY, 0), &lengths, &request.inputs, observer, &mut outputs)
        })?;
        self.read(request.output, &outputs[0].1, request.first_slot, forwards)
    }

    /// Tokens of the prompt of an observation, with those of its images: what `--max-prompt` bounds, and what
    /// [`OpenOptions::warm`] and `--warm` name.
    ///
    /// # Errors
    ///
    /// As [`Policy::act`].
    pub fn prompt_tokens(&self, observation: &Observation<'_>) -> Result<usize, Error> {
        let (_, prompt) = self.prompt(observation)?;
        Ok(prompt.len())
    }

    fn slots(&self) -> usize {
        self.actions.chunk as usize * self.actions.action_dim as usize
    }

    /// The images, and the ids of the prompt with room for them.
    fn prompt(&self, observation: &Observation<'_>) -> Result<(Vec<Visual>, Vec<i32>), Error> {
        let (views, expected) = (observation.images.len(), self.actions.views);
        if views != expected as usize {
            return Err(Error::Views { found: views, expected });
        }
        let text = render(&[Message::action(views, observation.task)], true);
        let visuals: Vec<Visual> = observation.images.iter().cloned().map(Visual::Image).collect();
        let max = self.model.manifest().model.max_prompt as usize;
        let prompt = make_room(&self.settings.images, &self.model.encode(&text)?, &visuals, max)?;
        if prompt.len() > max {
            return Err(Error::PromptTooLong { found: prompt.len(), max });
        }
        Ok((visuals, prompt))
    }

    fn request(&self, observation: &Observation<'_>, options: &ActOptions) -> Result<Request, Error> {
        let (visuals, prompt) = self.prompt(observation)?;
        let mut images = Images::new(Some(&self.settings), &visuals)?;
        images.divide(std::slice::from_ref(&prompt))?;

        let mode = self.actions.mode;
        let discrete = mode == Mode::Discrete;
        let noisy = mode.is_continuous_loop();
        let prefix = usize::from(self.actions.proprio_dim.is_some()) + usize::from(noisy);
        let slot = if discrete {
            self.model.manifest().model.mask_token_id as i32
        } else {
            self.actions.tokens.first()
        };
        let suffix = if discrete { [slot; 2] } else { self.actions.suffix };
        let slots = self.slots();
        let mut ids = prompt.clone();
        ids.extend(std::iter::repeat_n(slot, slots).chain(suffix));

        let rows = [ids];
        let canvas = Canvas::new(&rows, None)?;
        let mut inputs = Inputs::new();
        let image_tokens = images.inputs(&canvas, 0, prompt.len(), None, &mut inputs)?;
        // Rows before the prompt are seen and counted like all others.
        inputs.retain(|(name, _)| !matches!(*name, "attention_mask" | "position_ids"));
        let places = canvas.length + prefix;
        inputs.push(("attention_mask", bytes_of(&vec![1; places])));
        inputs.push(("position_ids", bytes_of(&(1..=places as i32).collect::<Vec<_>>())));
        inputs.push((if discrete { "canvas" } else { "input_ids" }, bytes_of(&canvas.tokens)));
        inputs.extend(options.sampling.inputs(0));
        let in_slots = |value: &dyn Fn(usize) -> i32| {
            let place = |p: usize| p.checked_sub(prompt.len()).filter(|q| *q < slots).map_or(-1, value);
            bytes_of(&(0..canvas.length).map(place).collect::<Vec<_>>())
        };
        inputs.push(("slot_index", in_slots(&|slot| if noisy { slot as i32 } else { 0 })));
        let action_row = |slot: usize| (prefix + prompt.len() - 1 + slot) as i32;
        inputs.push(("action_rows", bytes_of(&(0..slots).map(action_row).collect::<Vec<_>>())));
        inputs.extend(self.proprio(observation.proprio)?);
        inputs.extend(self.noise(noisy, options)?);
        let output = match mode {
            Mode::Discrete => "canvas",
            Mode::OneStep => "tokens",
            Mode::L1 | Mode::Flow | Mode::Ddim => "normalized_actions",
        };
        let first_slot = if discrete { prompt.len() } else { 0 };
        Ok(Request { inputs, canvas, image_tokens, output, first_slot })
    }

    fn proprio(&self, given: Option<&[f64]>) -> Result<Option<(&'static str, Vec<u8>)>, Error> {
        let expected = self.actions.proprio_dim;
        match (given, expected) {
            (None, None) => Ok(None),
            (Some(raw), Some(_)) => {
                let normalized = self.actions.statistics.normalize_proprio(raw)?;
                let state: Vec<f32> = normalized.iter().map(|p| *p as f32).collect();
                Ok(Some(("proprio", bytes_of_floats(&state))))
            }
            (None, Some(_)) | (Some(_), None) => Err(Error::Proprio { expected }),
        }
    }

    fn noise(&self, noisy: bool, options: &ActOptions) -> Result<Option<(&'static str, Vec<u8>)>, Error> {
        let ActionSettings { chunk, action_dim, .. } = self.actions;
        let seeded = || (0..self.slots() as u32).map(|i| normal(options.sampling.seed, i)).collect();
        match (&options.noise, noisy) {
            (None, false) => Ok(None),
            (Some(given), false) => Err(Error::Noise { found: given.len(), expected: None }),
            (Some(given), true) if given.len() != self.slots() || given.iter().any(|x| !x.is_finite()) => {
                Err(Error::Noise { found: given.len(), expected: Some([chunk, action_dim]) })
            }
            (given, true) => Ok(Some(("noise", bytes_of_floats(&given.clone().unwrap_or_else(seeded))))),
        }
    }

    fn read(&self, output: &str, bytes: &[u8], first_slot: usize, forwards: u32) -> Result<Actions, Error> {
        let (normalized, token_ids, outside) = if output == "normalized_actions" {
            (floats_of(bytes).into_iter().map(f64::from).collect(), None, 0)
        } else {
            let ids: Vec<i32> = ints_of(bytes).into_iter().skip(first_slot).take(self.slots()).collect();
            let decoded = self.actions.tokens.decode(&ids);
            (decoded.values, Some(ids), decoded.outside)
        };
        if normalized.len() != self.slots() {
            // The ports were checked when the file was opened.
            return Err(StepError::Unsound.into());
        }
        let actions = self.actions.statistics.unnormalize(&normalized)?;
        let dimensions = self.actions.action_dim as usize;
        if let Some(what) = bad_action(actions.iter().copied(), dimensions, true) {
            return Err(Error::NotFinite { entry: ENTRY, step: forwards, steps: forwards, row: 0, what });
        }
        let rows = |list: Vec<f64>| list.chunks(dimensions).map(<[f64]>::to_vec).collect();
        Ok(Actions { actions: rows(actions), normalized: rows(normalized), token_ids, outside, forwards })
    }
}

/// An observation as the program takes it.
struct Request {
    inputs: Inputs,
    canvas: Canvas,
    image_tokens: u32,
    /// Name of the result.
    output: &'static str,
    /// Where in it the actions begin.
    first_slot: usize,
}

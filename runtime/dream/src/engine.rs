//! A mapped artifact with a device over it: programs are made ready when they are first asked for.

use crate::contract::contradiction;
use crate::device::{self, Opened};
use crate::finite::{NotFinite, first_bad};
use crate::fit::unfit;
use crate::map::Map;
use crate::model::damaged;
use crate::tune::{Choices, Held};
use crate::{Error, OpenOptions, Sampling, warm};
use dreamc_artifact::Artifact;
use dreamc_artifact::plan::{Kernel, Program};
use dreamc_front::Settings;
use dreamc_runtime::{Canvas, Device, DeviceError, Observer, StepError, Stepper, chosen};
use std::path::Path;

/// What a mapped artifact is opened into.
pub(crate) struct Engine<'a> {
    pub(crate) artifact: Artifact<'a>,
    /// What the artifact lies in.
    map: &'a Map,
    opened: Option<Opened<'a>>,
    /// That compare weights with their hashes.
    threads: usize,
    /// The program that the device is ready for.
    ready: Option<Stepper>,
    /// Which tensors have been compared with their hashes.
    checked: Vec<bool>,
    /// Prompts whose runs are recorded ahead.
    warm: Vec<u32>,
    /// Which candidates are taken, by program.
    pub(crate) choices: Choices,
    warn: Option<fn(&str)>,
    /// Requests that are kept instead of answered, if they are.
    pub(crate) held: Option<Vec<Held>>,
}

/// The length that counts the open slots of a row.
pub(crate) const SLOTS: &str = "K";

/// The output that has the state of a loop after each step.
const HISTORY: &str = "history";

/// Values by the names of a program's inputs.
pub(crate) type Inputs = Vec<(&'static str, Vec<u8>)>;

impl<'a> Engine<'a> {
    pub(crate) fn open(path: &Path, map: &'a Map, options: &OpenOptions) -> Result<Engine<'a>, Error> {
        let artifact = Artifact::open(map).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        if let Some(what) = contradiction(&artifact) {
            return Err(Error::Manifest { path: path.to_owned(), what });
        }
        let warm = options.warm.clone().unwrap_or_else(|| artifact.manifest().warm.clone());
        warm::check(&warm, artifact.manifest())?;
        let opened = device::open(&artifact, options)?;
        let checked = vec![false; artifact.weights().len()];
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if options.threads == 0 { cores() } else { options.threads };
        let warn = options.warn;
        let choices = opened.as_ref().map(|opened| Choices::recorded(&artifact, opened, warn));
        let choices = choices.unwrap_or_default();
        Ok(Engine { artifact, map, opened, threads, ready: None, checked, warm, choices, warn, held: None })
    }

    /// What runs it, in words.
    pub(crate) fn device(&self) -> Option<&str> {
        self.opened.as_ref().map(|opened| opened.about.as_str())
    }

    /// The target that it runs, as in the manifest.
    pub(crate) fn target(&self) -> Option<&str> {
        self.opened.as_ref().map(|opened| opened.target.as_str())
    }

    fn program(&self, name: &str) -> Option<&Program> {
        self.artifact.plan(&self.opened.as_ref()?.target)?.programs.iter().find(|p| p.name == name)
    }

    /// Makes the device ready for a program of entry `entry`: memory is taken here, and the tensors it touches are compared with
    /// their hashes the first time.
    pub(crate) fn prepare(&mut self, entry: &'static str, program: &str) -> Result<(), Error> {
        if self.ready.as_ref().is_some_and(|s| s.program().name == program) {
            return Ok(());
        }
        let missing = || Error::NoEntry { entry, entries: self.artifact.manifest().entries.join(", ") };
        if self.opened.is_none() {
            return Err(Error::Unopened);
        }
        let program = self.program(program).ok_or_else(missing)?.clone();
        self.check_weights(&program)?;
        self.ready = None;
        let opened = self.opened.as_mut().ok_or(Error::Unopened)?;
        let modules = self.artifact.code(&opened.target).map_or(&[][..], |code| &code.modules);
        loop {
            let taken = chosen(&program, self.choices.of(&program.name));
            match opened.device.prepare(&taken) {
                Ok(()) => {
                    let mut stepper = Stepper::new(&taken)?;
                    self.record(&mut stepper)?;
                    self.ready = Some(stepper);
                    return Ok(());
                }
                Err(DeviceError::Kernel { kernel, error }) => {
                    // Each time more choices are portable, so this ends.
                    if !self.choices.without(&program, modules, &kernel) {
                        return Err(DeviceError::Kernel { kernel, error }.into());
                    }
                    if let Some(warn) = self.warn {
                        warn(&format!(
                            "the driver does not load `{kernel}` ({error}); the portable kernel takes its place, which is slower"
                        ));
                    }
                }
                Err(error) => return Err(unfit(&self.artifact, &opened.target, &taken, error)),
            }
        }
    }

    /// Makes the device ready for the entry that is asked for first, if runs of it are to be recorded when the file is
    /// opened.
    pub(crate) fn warm_up(&mut self) -> Result<(), Error> {
        let records = self.opened.as_ref().is_some_and(|opened| opened.records);
        match warm::entry(self.artifact.manifest()).filter(|_| records && !self.warm.is_empty()) {
            Some(entry) => self.prepare(entry, entry),
            None => Ok(()),
        }
    }

    /// Has the device record the runs that are to be recorded ahead.
    fn record(&mut self, stepper: &mut Stepper) -> Result<(), Error> {
        let Engine { artifact, opened, warm, .. } = self;
        let Some(opened) = opened.as_mut().filter(|opened| opened.records && !warm.is_empty()) else {
            return Ok(());
        };
        let settings = artifact.front().and_then(Settings::from_bytes);
        for prompt in warm.iter() {
            let program = stepper.program();
            let lengths = warm::lengths(artifact.manifest(), settings.as_ref(), program, *prompt);
            let Some(lengths) = lengths else { return Ok(()) };
            stepper.resize(&lengths)?;
            stepper.keep_slots(false);
            Sampling::default().inputs(0).iter().for_each(|(name, bytes)| stepper.expect(name, bytes));
            // What the device lacks is no fault of the plan.
            stepper.warm(opened.device.as_mut()).map_err(|error| match error {
                StepError::Device { error, .. } => Error::Device(error),
                error => Error::Step(error),
            })?;
        }
        Ok(())
    }

    /// What tuning works on: the device, its identity and target, and the artifact.
    pub(crate) fn parts(&mut self) -> Option<(&mut Opened<'a>, &Artifact<'a>)> {
        // Whoever uses the device for something else leaves it without a program.
        self.ready = None;
        Some((self.opened.as_mut()?, &self.artifact))
    }

    fn check_weights(&mut self, program: &Program) -> Result<(), Error> {
        let touched = program.values.iter().filter_map(|v| v.place.weight());
        let new: Vec<u32> = touched.filter(|i| !self.checked[*i as usize]).collect();
        let (artifact, map) = (&self.artifact, self.map);
        let rows_only = read_by_rows(program);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let check = || {
            let mut bad = None;
            while let Some(index) = new.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                // Of a table few pages are needed again.
                let done = |part| {
                    if rows_only.contains(index) {
                        map.let_go(part)
                    }
                };
                if artifact.check_weight_in_parts(*index, done).is_err() {
                    bad = bad.or(Some(*index));
                }
            }
            bad
        };
        let bad = std::thread::scope(|scope| {
            // Where the system gives fewer threads, fewer do the work.
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, check).ok();
            let workers: Vec<_> = (1..self.threads).map_while(spawn).collect();
            let own = check();
            // A worker that panicked has checked nothing: its first tensor counts as bad.
            let found = workers.into_iter().filter_map(|w| w.join().unwrap_or(new.first().copied()));
            own.into_iter().chain(found).min()
        });
        if let Some(index) = bad {
            return Err(damaged(&self.artifact, index));
        }
        new.iter().for_each(|i| self.checked[*i as usize] = true);
        Ok(())
    }

    /// Runs the prepared program: lengths, inputs, steps, outputs. Returns the passes that were run.
    ///
    /// Where slots took the mask token itself, more of them are open than the schedule says: the whole request is run once
    /// more with as many in every iteration as at first. An observer then sees both runs.
    pub(crate) fn run(
        &mut self,
        lengths: &[(&str, u32)],
        inputs: &Inputs,
        observer: &mut dyn Observer,
        outputs: &mut [(&str, Vec<u8>)],
    ) -> Result<u32, Error> {
        let Engine { opened, ready, held, .. } = self;
        let device = opened.as_mut().ok_or(Error::Unopened)?.device.as_mut();
        if let (Some(held), Some(stepper)) = (held, ready.as_ref()) {
            held.push(Held::new(&stepper.program().name, lengths, inputs));
            return Err(StepError::Stopped.into());
        }
        let stepper = ready.as_mut().ok_or(dreamc_runtime::StepError::Unsound)?;
        stepper.resize(lengths)?;
        stepper.keep_slots(false);
        let mut passes = run(stepper, device, inputs, observer)?;
        if let Some(name) = stepper.scheduled().map(str::to_owned) {
            let mut history = Vec::new();
            read(stepper, device, &name, &mut history)?;
            if stepper.strayed(&history) {
                stepper.keep_slots(true);
                passes += run(stepper, device, inputs, observer)?;
            }
        }
        for (name, bytes) in outputs {
            read(stepper, device, name, bytes)?;
        }
        Ok(passes)
    }

    /// As [`Engine::run`], for `entry`, whose outputs are tokens or actions: where they are not finite, an error says so.
    /// `first_row` is the request's row that this run begins with.
    pub(crate) fn answer(
        &mut self,
        (entry, first_row): (&'static str, usize),
        lengths: &[(&str, u32)],
        inputs: &Inputs,
        observer: &mut dyn Observer,
        outputs: &mut [(&str, Vec<u8>)],
    ) -> Result<u32, Error> {
        let steps = self.stepper().map_or(1, |stepper| stepper.program().passes());
        let not_finite = |step: u32, row: usize, what: NotFinite| Error::NotFinite {
            entry,
            step: step + 1,
            steps,
            row: first_row + row,
            what,
        };
        let passes = self.run(lengths, inputs, observer, outputs).map_err(|error| match error {
            Error::Step(StepError::NoDistribution { step, row }) => {
                not_finite(step, row as usize, NotFinite::Logits)
            }
            error => error,
        })?;
        let Engine { opened, ready, .. } = self;
        let device = opened.as_mut().ok_or(Error::Unopened)?.device.as_mut();
        let stepper = ready.as_ref().ok_or(StepError::Unsound)?;
        for (name, bytes) in outputs {
            let columns = stepper.output(name).map_or(1, |(_, shape)| shape.columns());
            let Some((row, what)) = first_bad(name, bytes, columns) else { continue };
            // The history has what each step has left.
            if stepper.output(HISTORY).is_none() {
                return Err(not_finite(0, row, what));
            }
            let mut history = Vec::new();
            read(stepper, device, HISTORY, &mut history)?;
            let each = (0..).zip(history.chunks(bytes.len().max(1)));
            let mut bad = each.filter_map(|(step, bytes)| Some((step, first_bad(name, bytes, columns)?)));
            let (step, (row, what)) = bad.next().unwrap_or((steps.saturating_sub(1), (row, what)));
            return Err(not_finite(step, row, what));
        }
        Ok(passes)
    }

    /// Most open slots of a row that the prepared program takes; none where it does not count them.
    pub(crate) fn slots_max(&self) -> Option<u32> {
        let symbols = &self.ready.as_ref()?.program().symbols;
        symbols.iter().find(|s| s.name == SLOTS).map(|s| s.max)
    }

    /// The prepared program.
    pub(crate) fn stepper(&self) -> Option<&Stepper> {
        self.ready.as_ref()
    }
}

/// Inputs, steps.
fn run(
    stepper: &mut Stepper,
    device: &mut dyn Device,
    inputs: &Inputs,
    observer: &mut dyn Observer,
) -> Result<u32, StepError> {
    for port in &stepper.program().inputs.clone() {
        let given = inputs.iter().find(|(name, _)| *name == port.name);
        let (_, bytes) = given.ok_or_else(|| StepError::NoPort(port.name.clone()))?;
        stepper.write(device, &port.name, bytes)?;
    }
    stepper.run(device, observer)
}

/// An output.
fn read(
    stepper: &Stepper,
    device: &mut dyn Device,
    name: &str,
    bytes: &mut Vec<u8>,
) -> Result<(), StepError> {
    let (dtype, shape) = stepper.output(name).ok_or(StepError::Unsound)?;
    bytes.resize(shape.elements() * dtype.bytes(), 0);
    stepper.read(device, name, bytes)
}

/// The weights of which a program reads some rows only.
fn read_by_rows(program: &Program) -> Vec<u32> {
    let (mut rows, mut whole) = (Vec::new(), Vec::new());
    for dispatch in program.dispatches() {
        let to = if matches!(dispatch.kernel, Kernel::Embed) { &mut rows } else { &mut whole };
        let values = dispatch.reads.iter().filter_map(|id| program.values.get(id.0 as usize));
        to.extend(values.filter_map(|value| value.place.weight()));
    }
    rows.retain(|index| !whole.contains(index));
    rows
}

/// Open slots of the row that has most, if a program with room for `max` takes them.
pub(crate) fn open_slots(canvas: &Canvas, mask_token: i32, max: Option<u32>) -> Result<u32, Error> {
    let rows = canvas.tokens.chunks(canvas.length.max(1));
    let found = rows.map(|row| row.iter().filter(|t| **t == mask_token).count()).max().unwrap_or(0).max(1);
    match u32::try_from(found) {
        Ok(found) if max.is_none_or(|max| found <= max) => Ok(found),
        _ => Err(Error::TooManySlots { found, max: max.unwrap_or(u32::MAX) }),
    }
}

/// Elements as the device takes them.
pub(crate) fn bytes_of(ints: &[i32]) -> Vec<u8> {
    ints.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// The same of floats.
pub(crate) fn bytes_of_floats(floats: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * floats.len());
    append(&mut bytes, floats);
    bytes
}

/// Appends floats as the device takes them.
pub(crate) fn append(bytes: &mut Vec<u8>, floats: &[f32]) {
    let start = bytes.len();
    bytes.resize(start + 4 * floats.len(), 0);
    let (words, _) = bytes[start..].as_chunks_mut::<4>();
    words.iter_mut().zip(floats).for_each(|(word, x)| *word = x.to_le_bytes());
}

/// Inverse of [`bytes_of_floats`].
pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Inverse of [`bytes_of`].
pub(crate) fn ints_of(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

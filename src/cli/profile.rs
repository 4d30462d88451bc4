//! Times of single dispatches: an observer that notes when each began and ended, and what the notes come to.
//!
//! The device finishes each dispatch before the next. On the CPU it does so anyway. A GPU otherwise works ahead of the host:
//! there a time includes the launch and the way back, and the sum is more than an unobserved call takes.

use super::error::Failure;
use super::families::{family, op, origin};
use super::memory::Faults;
use super::requests::{Request, Subject};
use dream::{Done, Observer};
use dreamc::compile::Entry;
use dreamc::cost::{self, Cost};
use dreamc_artifact::plan::{Dispatch, Program, Step};
use dreamc_artifact::{Artifact, WeightInfo};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One dispatch of one call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Event {
    /// Its number in the program.
    pub(super) number: u32,
    /// Denoising step, 0 outside of the loop.
    pub(super) step: u32,
    /// Since the call began.
    pub(super) start: Duration,
    pub(super) time: Duration,
    pub(super) cost: Cost,
}

/// Notes the dispatches of one call.
pub(super) struct Profile<'a> {
    weights: &'a [u64],
    call: Instant,
    began: Instant,
    pub(super) events: Vec<Event>,
    /// Page faults until the first dispatch, and until the end of the last step.
    faults: [Option<Faults>; 2],
}

impl<'a> Profile<'a> {
    /// Of a call that begins now. `weights`: stored bytes of each. `room`: dispatches to expect.
    pub(super) fn new(weights: &'a [u64], room: usize) -> Profile<'a> {
        let now = Instant::now();
        let none = Event::default();
        // Written, so that taking notes meets no page fault.
        let mut events = vec![none; room];
        events.clear();
        Profile { weights, call: now, began: now, events, faults: [None; 2] }
    }

    /// Page faults from the first dispatch to the end of the last step.
    pub(super) fn faults(&self) -> Option<Faults> {
        let [first, last] = self.faults;
        Some(last?.since(first?))
    }
}

impl Observer for Profile<'_> {
    fn times(&self) -> bool {
        true
    }

    fn before(&mut self, _: &Dispatch) {
        if self.events.is_empty() {
            self.faults[0] = Faults::now();
        }
        self.began = Instant::now();
    }

    fn done(&mut self, done: Done<'_>) {
        let time = self.began.elapsed();
        let stored = |index: u32| self.weights.get(index as usize).copied().unwrap_or(0);
        let cost = cost::dispatch(done.dispatch, done.operands, &stored);
        let (number, step, start) = (done.number, done.step, self.began.duration_since(self.call));
        self.events.push(Event { number, step, start, time, cost });
    }

    fn step(&mut self, done: u32, steps: u32) -> bool {
        if done == steps {
            self.faults[1] = Faults::now();
        }
        true
    }
}

/// What was seen of calls that were observed.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) calls: Vec<Vec<Event>>,
    /// All of them together, in milliseconds.
    pub(super) sum_ms: f64,
    /// In the steps of the last.
    pub(super) faults: Option<Faults>,
}

/// Serves a request so many times, each of them watched.
pub(super) fn observe(
    subject: &mut Subject,
    request: &Request,
    count: u32,
    called: &mut dyn FnMut(),
) -> Result<Seen, Failure> {
    let weights = weight_bytes(subject.model().artifact());
    let mut seen = Seen::default();
    for _ in 0..count {
        let room = seen.calls.last().map_or(1024, Vec::len);
        let start = Instant::now();
        let mut profile = Profile::new(&weights, room);
        subject.serve(request, &mut profile)?;
        seen.sum_ms += ms(start.elapsed());
        seen.faults = profile.faults();
        seen.calls.push(profile.events);
        called();
    }
    Ok(seen)
}

/// What the dispatches of the entry's program are called on the device in use.
pub(super) fn program_names(subject: &Subject, entry: Entry) -> Vec<Named> {
    let model = subject.model();
    let plan = model.target().and_then(|target| model.artifact().plan(target));
    let program = plan.and_then(|plan| plan.programs.iter().find(|p| p.name == entry.name()));
    program.map(|program| names(model.artifact().weights(), program)).unwrap_or_default()
}

/// What the dispatches of a program are called.
pub(super) struct Named {
    pub(super) op: String,
    pub(super) kernel: String,
    pub(super) origin: String,
    /// Whether it is part of a denoising loop.
    pub(super) looped: bool,
}

/// By number.
fn names(weights: &[WeightInfo], program: &Program) -> Vec<Named> {
    // A loop's body holds no loop.
    let mut looped = Vec::new();
    for step in &program.steps {
        match step {
            Step::Dispatch(_) => looped.push(false),
            Step::Denoise(denoise) => looped.extend(denoise.body.iter().map(|_| true)),
        }
    }
    let named = |(dispatch, looped): (&Dispatch, bool)| Named {
        op: op(&dispatch.kernel),
        kernel: family(weights, program, dispatch),
        origin: origin(dispatch),
        looped,
    };
    program.dispatches().zip(looped).map(named).collect()
}

/// Stored bytes of each weight.
fn weight_bytes(artifact: &Artifact<'_>) -> Vec<u64> {
    artifact.weights().iter().map(|w| w.bytes).collect()
}

/// Dispatches of one kind, in a call on average.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Share {
    /// The op, or the kernel with its types and what is fused into it.
    pub(super) name: String,
    pub(super) calls: u64,
    pub(super) ms: f64,
    /// Of the time of all dispatches, 0 to 1.
    pub(super) share: f64,
    pub(super) flop: u64,
    /// Operands and results once, weights as they are stored.
    pub(super) bytes: u64,
    /// What was achieved.
    pub(super) gflops: f64,
    pub(super) gbytes: f64,
}

/// One step of the loop, or what is computed outside of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StepTime {
    /// None for what is computed once.
    pub(super) step: Option<u32>,
    pub(super) dispatches: u64,
    /// In dispatches.
    pub(super) ms: f64,
}

/// Sums over calls of the same request, by a name of each dispatch; the longest first.
pub(super) fn shares(calls: &[Vec<Event>], names: &[Named], of: fn(&Named) -> &str) -> Vec<Share> {
    let mut sums: BTreeMap<&str, (u64, Duration, Cost)> = BTreeMap::new();
    let mut all = Duration::ZERO;
    for event in calls.iter().flatten() {
        let Some(named) = names.get(event.number as usize) else { continue };
        let sum = sums.entry(of(named)).or_default();
        sum.0 += 1;
        sum.1 += event.time;
        sum.2 += event.cost;
        all += event.time;
    }
    let count = calls.len().max(1) as u64;
    let share = |(name, (calls, time, cost)): (&str, (u64, Duration, Cost))| Share {
        name: name.to_owned(),
        calls: calls / count,
        ms: ms(time) / count as f64,
        share: rate(time.as_secs_f64(), all),
        flop: cost.flop / count,
        bytes: cost.bytes / count,
        gflops: rate(cost.flop as f64 / 1e9, time),
        gbytes: rate(cost.bytes as f64 / 1e9, time),
    };
    let mut list: Vec<Share> = sums.into_iter().map(share).collect();
    list.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    list
}

/// The steps that were run, in order, behind what is computed outside of the loop.
pub(super) fn steps(calls: &[Vec<Event>], names: &[Named]) -> Vec<StepTime> {
    let mut sums: BTreeMap<Option<u32>, (u64, Duration)> = BTreeMap::new();
    for event in calls.iter().flatten() {
        let looped = names.get(event.number as usize).is_some_and(|named| named.looped);
        let sum = sums.entry(looped.then_some(event.step)).or_default();
        sum.0 += 1;
        sum.1 += event.time;
    }
    let count = calls.len().max(1) as u64;
    let step = |(step, (dispatches, time)): (Option<u32>, (u64, Duration))| StepTime {
        step,
        dispatches: dispatches / count,
        ms: ms(time) / count as f64,
    };
    sums.into_iter().map(step).collect()
}

/// Milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn rate(amount: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { amount / time.as_secs_f64() }
}

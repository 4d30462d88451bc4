//! A request's way through a program in which each candidate can be dispatched by itself.

use super::agreement::{limit, off};
use super::finding::Judged;
use super::held::Held;
use crate::Error;
use dreamc_artifact::code::Module;
use dreamc_artifact::plan::{Dispatch, Kernel, Launch, Place, Program, Step, ValueId};
use dreamc_num::DType;
use dreamc_runtime::{Device, DeviceError, Operand, StepError, Unfolded};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Times that each candidate is timed, behind one that does not count.
const ROUNDS: usize = 7;
/// Of those at least,
const ROUNDS_MIN: usize = 3;
/// where all candidates of a choice together take longer than this.
const LONG: Duration = Duration::from_millis(500);
/// Dispatches of a round, at least: one after the other, as in a step, since a device that waits for each is another.
const DISPATCHES_MIN: usize = 8;

/// See the module.
pub(super) struct Walk<'m> {
    program: Program,
    modules: &'m [Module],
    symbols: Vec<u32>,
    operands: Vec<Operand>,
    stops: Vec<Stop>,
}

/// A dispatch of the program as it was, and before which index of a loop it stands.
struct Stop {
    /// Where the index of a loop lies that begins here.
    begins: Option<u64>,
    /// Its number among all dispatches.
    number: u32,
    /// The candidates: choice, which one, number.
    candidates: Vec<(u32, u32, u32)>,
}

/// Bytes of a value.
#[derive(Clone, Copy)]
struct Spot {
    at: u64,
    bytes: usize,
}

impl Spot {
    fn overlaps(self, other: Spot) -> bool {
        self.at < other.at + other.bytes as u64 && other.at < self.at + self.bytes as u64
    }
}

impl<'m> Walk<'m> {
    /// `what` says what each dispatch of `program` is.
    pub(super) fn new(
        program: Program,
        what: Vec<Unfolded>,
        modules: &'m [Module],
        symbols: &[u32],
    ) -> Result<Walk<'m>, Error> {
        let operand = |value| dreamc_runtime::operand(value, symbols).ok_or(StepError::Unsound);
        let operands = program.values.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
        let mut begins = BTreeMap::new();
        let mut number = 0;
        for step in &program.steps {
            match step {
                Step::Dispatch(_) => number += 1,
                Step::Denoise(denoise) => {
                    let index = program.values.get(denoise.index.0 as usize).map(|value| value.place);
                    let Some(Place::Arena(offset)) = index else { return Err(StepError::Unsound.into()) };
                    begins.insert(number, offset);
                    number += denoise.body.len() as u32;
                }
            }
        }
        let mut stops: Vec<Stop> = Vec::new();
        for (number, Unfolded { of, .. }) in (0..).zip(what) {
            match (of, stops.last_mut()) {
                (Some((choice, nth)), Some(stop)) => stop.candidates.push((choice, nth, number)),
                (Some(_), None) => return Err(StepError::Unsound.into()),
                (None, _) => {
                    let begins = begins.get(&number).copied();
                    stops.push(Stop { begins, number, candidates: Vec::new() });
                }
            }
        }
        Ok(Walk { program, modules, symbols: symbols.to_vec(), operands, stops })
    }

    /// Lengths and inputs of the request.
    pub(super) fn begin(&self, device: &mut dyn Device, request: &Held) -> Result<(), Error> {
        device.resize(&self.symbols)?;
        for port in &self.program.inputs {
            let given = request.inputs.iter().find(|(name, _)| *name == port.name);
            let (_, bytes) = given.ok_or_else(|| StepError::NoPort(port.name.clone()))?;
            let spot = self.spot(port.value).ok_or(StepError::Unsound)?;
            if spot.bytes != bytes.len() {
                let (port, found) = (port.name.clone(), bytes.len());
                return Err(StepError::Bytes { port, found, expected: spot.bytes }.into());
            }
            device.write(spot.at, bytes)?;
        }
        Ok(())
    }

    /// Goes through the program, the body of a loop once. On the way each candidate of the first and the last dispatch of a
    /// choice is compared with the portable one, on the operands that are there then.
    pub(super) fn judge(
        &self,
        device: &mut dyn Device,
        tell: &mut dyn FnMut(u32, u32, Judged) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let dispatches: Vec<&Dispatch> = self.program.dispatches().collect();
        let mut ends: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (i, stop) in self.stops.iter().enumerate() {
            for (choice, ..) in &stop.candidates {
                ends.entry(*choice).or_insert((i, i)).1 = i;
            }
        }
        for (i, stop) in self.stops.iter().enumerate() {
            if let Some(index) = stop.begins {
                device.set(index, 0)?;
            }
            let here: BTreeSet<u32> = stop.candidates.iter().map(|(choice, ..)| *choice).collect();
            for choice in here {
                let is_end = ends.get(&choice).is_some_and(|(first, last)| i == *first || i == *last);
                if is_end {
                    self.compare(device, &dispatches, stop, choice, tell)?;
                }
            }
            let dispatch = dispatches.get(stop.number as usize).ok_or(StepError::Unsound)?;
            device.dispatch(stop.number, dispatch, &self.operands)?;
        }
        device.finish()?;
        Ok(())
    }

    /// Compares the candidates of one dispatch, and leaves memory as it was.
    fn compare(
        &self,
        device: &mut dyn Device,
        dispatches: &[&Dispatch],
        stop: &Stop,
        choice: u32,
        tell: &mut dyn FnMut(u32, u32, Judged) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let own = stop.candidates.iter().filter(|candidate| candidate.0 == choice);
        let own = own.map(|(_, nth, number)| {
            let dispatch = dispatches.get(*number as usize).copied().ok_or(StepError::Unsound)?;
            Ok((*nth, *number, dispatch))
        });
        let own = own.collect::<Result<Vec<_>, StepError>>()?;
        let Some((portable, others)) = own.split_last() else { return Ok(()) };
        // Without what is added last: large numbers there would hide what the kernels compute.
        let added = self.added(portable.2);
        let written: Vec<BTreeSet<ValueId>> = own.iter().map(|one| self.written(one.2)).collect();
        let touched: BTreeSet<ValueId> = written.iter().flatten().copied().chain(added).collect();
        let results = written.iter().skip(1).fold(written[0].clone(), |all, own| &all & own);
        let limit = limit(self.coarsest(&own));
        let mut before = Vec::new();
        for value in &touched {
            before.push((*value, self.read(device, *value)?));
        }
        let run = |device: &mut dyn Device, (_, number, dispatch): &(u32, u32, &Dispatch)| {
            for (value, bytes) in &before {
                self.write(device, *value, &vec![0; bytes.len()])?;
            }
            match device.dispatch(*number, dispatch, &self.operands) {
                Ok(()) => {}
                Err(error @ (DeviceError::Driver { .. } | DeviceError::Groups { .. })) => {
                    return Ok(Err(error.to_string()));
                }
                Err(error) => return Err(Error::from(error)),
            }
            let found =
                results.iter().map(|value| self.read(device, *value)).collect::<Result<Vec<_>, _>>()?;
            Ok(Ok(found))
        };
        let wanted = run(device, portable)?;
        let judged = |found: &Result<Vec<Vec<u8>>, String>| {
            let (found, wanted) = match (found, &wanted) {
                (Ok(found), Ok(wanted)) => (found, wanted),
                (Err(error), _) => return Judged::Refused(error.clone()),
                (_, Err(_)) => return Judged::NotComparable,
            };
            let offs = results.iter().zip(found.iter().zip(wanted)).map(|(value, (found, wanted))| {
                let operand = self.operands.get(value.0 as usize)?;
                off(operand.dtype, operand.shape.columns(), found, wanted)
            });
            match offs.collect::<Option<Vec<f32>>>() {
                Some(offs) if !offs.is_empty() => {
                    Judged::Off { off: offs.into_iter().fold(0.0, f32::max), limit }
                }
                Some(_) | None => Judged::NotComparable,
            }
        };
        for one in others {
            let found = run(device, one)?;
            tell(choice, one.0, judged(&found))?;
        }
        tell(choice, portable.0, judged(&wanted))?;
        for (value, bytes) in &before {
            self.write(device, *value, bytes)?;
        }
        Ok(())
    }

    /// Microseconds of a dispatch by candidate: the median of several rounds through all dispatches of the choice, candidate
    /// after candidate, so that what changes meanwhile concerns all of them.
    pub(super) fn time(
        &self,
        device: &mut dyn Device,
        choice: u32,
        candidates: &[u32],
        clock: &mut dyn FnMut() -> Duration,
    ) -> Result<Vec<(u32, f64)>, Error> {
        let dispatches: Vec<&Dispatch> = self.program.dispatches().collect();
        let members = |nth: u32| -> Result<Vec<(u32, &Dispatch)>, StepError> {
            let all = self.stops.iter().flat_map(|stop| &stop.candidates);
            let own = all.filter(|candidate| (candidate.0, candidate.1) == (choice, nth));
            own.map(|(.., number)| {
                let dispatch = dispatches.get(*number as usize).copied().ok_or(StepError::Unsound)?;
                Ok((*number, dispatch))
            })
            .collect()
        };
        let mut timed = candidates
            .iter()
            .map(|nth| Ok((*nth, members(*nth)?, Vec::new())))
            .collect::<Result<Vec<_>, StepError>>()?;
        timed.retain(|(_, members, _)| !members.is_empty());
        let mut spent = Duration::ZERO;
        for round in 0..=ROUNDS {
            if round > ROUNDS_MIN && spent > LONG {
                break;
            }
            for (_, members, times) in &mut timed {
                let repeats = DISPATCHES_MIN.div_ceil(members.len());
                device.finish()?;
                let start = clock();
                for (number, dispatch) in members.iter().cycle().take(repeats * members.len()) {
                    device.dispatch(*number, dispatch, &self.operands)?;
                }
                device.finish()?;
                let took = clock().saturating_sub(start);
                spent += took;
                if round > 0 {
                    times.push(took.as_secs_f64() * 1e6 / (repeats * members.len()) as f64);
                }
            }
        }
        let median = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).copied()
        };
        Ok(timed.into_iter().filter_map(|(nth, _, times)| Some((nth, median(times)?))).collect())
    }

    /// What the launches of a dispatch write at these lengths.
    fn written(&self, dispatch: &Dispatch) -> BTreeSet<ValueId> {
        let made = self.made(dispatch);
        let buffers = made.filter_map(|launch| Some((launch, self.modules.get(launch.module as usize)?)));
        let buffers = buffers.flat_map(|(launch, module)| launch.buffers.iter().zip(&module.buffers));
        buffers.filter(|(_, buffer)| buffer.written).map(|(binding, _)| binding.value).collect()
    }

    fn made<'d>(&self, dispatch: &'d Dispatch) -> impl Iterator<Item = &'d Launch> {
        dispatch.launches.iter().filter(|launch| launch.serves(&self.symbols) == Some(true))
    }

    /// The operand that is added last, if it lies apart from all others.
    fn added(&self, dispatch: &Dispatch) -> Option<ValueId> {
        let Kernel::Linear(linear) = &dispatch.kernel else { return None };
        let (last, others) = dispatch.reads.split_last().filter(|_| linear.residual)?;
        let own = self.spot(*last)?;
        let apart = others.iter().filter_map(|id| self.spot(*id)).all(|other| !own.overlaps(other));
        apart.then_some(*last)
    }

    /// The type with the fewest digits among the floats that candidates look at.
    fn coarsest(&self, own: &[(u32, u32, &Dispatch)]) -> DType {
        let launches = own.iter().flat_map(|one| self.made(one.2));
        let bound = launches.flat_map(|launch| &launch.buffers);
        let types = bound.filter_map(|binding| self.operands.get(binding.value.0 as usize));
        let types: Vec<DType> = types.map(|operand| operand.dtype).collect();
        let coarse = [DType::BF16, DType::F16].into_iter().find(|dtype| types.contains(dtype));
        coarse.unwrap_or(DType::F32)
    }

    /// Where a value of the arena lies.
    fn spot(&self, id: ValueId) -> Option<Spot> {
        let operand = self.operands.get(id.0 as usize)?;
        let Place::Arena(at) = operand.place else { return None };
        Some(Spot { at, bytes: operand.shape.elements() * operand.dtype.bytes() })
    }

    fn read(&self, device: &mut dyn Device, id: ValueId) -> Result<Vec<u8>, Error> {
        let Spot { at, bytes } = self.spot(id).ok_or(StepError::Unsound)?;
        let mut found = vec![0; bytes];
        device.read(at, &mut found)?;
        Ok(found)
    }

    fn write(&self, device: &mut dyn Device, id: ValueId, bytes: &[u8]) -> Result<(), Error> {
        let spot = self.spot(id).ok_or(StepError::Unsound)?;
        device.write(spot.at, bytes)?;
        Ok(())
    }
}

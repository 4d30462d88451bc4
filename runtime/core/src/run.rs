//! One run through the steps of a program.

use crate::device::{Device, DeviceError, Operand};
use crate::observer::{Done, Observer, Read, Shown};
use crate::slots::{Iteration, Open, Policy};
use crate::stepper::StepError;
use alloc::string::ToString;
use alloc::vec::Vec;
use dreamc_artifact::plan::{Denoise, Dispatch, Place, Program, Step, ValueId};

/// Passes of such a run: see [`Stepper::run`](crate::Stepper::run).
pub(crate) fn passes(program: &Program, symbols: &[u32], policy: Policy) -> u32 {
    let of = |step: &Step| match step {
        Step::Dispatch(_) => None,
        Step::Denoise(denoise) => Some(match open(denoise, symbols, policy) {
            Some(mut open) => (0..denoise.steps).map(|step| u32::from(!open.step(step).idle)).sum(),
            None => denoise.steps,
        }),
    };
    program.steps.iter().filter_map(of).reduce(u32::saturating_add).unwrap_or(1)
}

/// The slots of a loop that counts them.
fn open(denoise: &Denoise, symbols: &[u32], policy: Policy) -> Option<Open> {
    let slots = denoise.slots.as_ref()?;
    Some(Open::new(*symbols.get(slots.symbol as usize)?, denoise, slots, policy))
}

/// Shapes of all values at these lengths.
pub(crate) fn shapes(program: &Program, symbols: &[u32], operands: &mut [Operand]) -> Result<(), StepError> {
    for (operand, value) in operands.iter_mut().zip(&program.values) {
        *operand = crate::launch::operand(value, symbols).ok_or(StepError::Unsound)?;
    }
    Ok(())
}

/// A run under way.
pub(crate) struct Run<'a> {
    pub(crate) program: &'a Program,
    pub(crate) operands: &'a mut [Operand],
    pub(crate) symbols: &'a mut [u32],
    /// The symbol of open slots, where a value depends on it.
    pub(crate) slots: Option<u32>,
    pub(crate) policy: Policy,
    pub(crate) device: &'a mut dyn Device,
    pub(crate) observer: &'a mut dyn Observer,
    /// Whether the observer times.
    pub(crate) times: bool,
    pub(crate) passes: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Run<'_> {
    /// All steps of the program.
    pub(crate) fn program(&mut self) -> Result<(), StepError> {
        let steps = &self.program.steps;
        self.steps(steps, 0, &mut 0)?;
        if steps.iter().any(|step| matches!(step, Step::Denoise(_))) {
            return Ok(());
        }
        self.passes = 1;
        self.tell(1, 1)
    }

    /// Tells the observer that a step is over, run or not.
    fn tell(&mut self, done: u32, of: u32) -> Result<(), StepError> {
        if self.observer.step(done, of) { Ok(()) } else { Err(StepError::Stopped) }
    }

    /// `number`: that of the first dispatch, then that behind the last.
    fn steps(&mut self, steps: &[Step], iteration: u32, number: &mut u32) -> Result<(), StepError> {
        for step in steps {
            match step {
                Step::Dispatch(dispatch) => {
                    self.dispatch(*number, dispatch, iteration)?;
                    *number += 1;
                }
                Step::Denoise(denoise) => self.denoise(denoise, number)?,
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, number: u32, dispatch: &Dispatch, step: u32) -> Result<(), StepError> {
        let times = self.times;
        if self.observer.reads(dispatch) {
            self.show_read(dispatch)?;
        }
        if times {
            self.observer.before(dispatch);
        }
        let done = self.device.dispatch(number, dispatch, self.operands);
        let done = if times { done.and_then(|()| self.device.finish()) } else { done };
        done.map_err(|error| match error {
            DeviceError::NoDistribution { row } => StepError::NoDistribution { step, row },
            error => StepError::Device { origin: dispatch.origin.join(", "), error },
        })?;
        if times {
            self.observer.done(Done { dispatch, number, step, operands: self.operands });
        }
        if self.observer.wants(dispatch) {
            for (result, id) in dispatch.writes.iter().enumerate() {
                self.show(dispatch, result, *id, step)?;
            }
        }
        Ok(())
    }

    fn show_read(&mut self, dispatch: &Dispatch) -> Result<(), StepError> {
        let first = dispatch.reads.first().and_then(|id| self.operands.get(id.0 as usize));
        let Some(Operand { dtype, shape, place: Place::Arena(offset) }) = first.copied() else {
            return Ok(());
        };
        let failed = |error| StepError::Device { origin: dispatch.origin.join(", "), error };
        self.bytes.clear();
        self.bytes.resize(shape.elements() * dtype.bytes(), 0);
        self.device.read(offset, &mut self.bytes).map_err(failed)?;
        self.observer.read(Read { dispatch, dtype, shape, bytes: &self.bytes, operands: self.operands });
        Ok(())
    }

    fn show(&mut self, dispatch: &Dispatch, result: usize, id: ValueId, step: u32) -> Result<(), StepError> {
        let Operand { dtype, shape, place } = *self.operands.get(id.0 as usize).ok_or(StepError::Unsound)?;
        let Place::Arena(offset) = place else { return Err(StepError::Unsound) };
        let failed = |error| StepError::Device { origin: dispatch.origin.join(", "), error };
        self.bytes.clear();
        self.bytes.resize(shape.elements() * dtype.bytes(), 0);
        self.device.read(offset, &mut self.bytes).map_err(failed)?;
        self.observer.after(Shown { dispatch, result, step, dtype, shape, bytes: &mut self.bytes });
        self.device.write(offset, &self.bytes).map_err(failed)
    }

    fn denoise(&mut self, denoise: &Denoise, number: &mut u32) -> Result<(), StepError> {
        let first = self.slots.and_then(|symbol| self.symbols.get(symbol as usize).copied());
        let done = self.iterate(denoise, number);
        // Outside of the loop as many slots are open as the request says, also where it failed.
        let restored = first.map_or(Ok(()), |first| self.count_slots(first));
        done.and(restored)
    }

    /// Tells all who ask how many slots are open.
    fn count_slots(&mut self, open: u32) -> Result<(), StepError> {
        let symbol = self.slots.and_then(|symbol| self.symbols.get_mut(symbol as usize));
        let Some(symbol) = symbol.filter(|symbol| **symbol != open) else { return Ok(()) };
        *symbol = open;
        shapes(self.program, self.symbols, self.operands)?;
        let failed = |error| StepError::Device { origin: "the denoising loop".to_string(), error };
        self.device.resize_within(self.symbols).map_err(failed)
    }

    fn iterate(&mut self, denoise: &Denoise, number: &mut u32) -> Result<(), StepError> {
        let arena = |id: ValueId| match self.operands.get(id.0 as usize) {
            Some(Operand { place: Place::Arena(offset), shape, dtype }) => {
                Ok((*offset, (shape.elements() * dtype.bytes()) as u64))
            }
            Some(_) | None => Err(StepError::Unsound),
        };
        let (index, _) = arena(denoise.index)?;
        let history = denoise.history.map(|(from, into)| Ok((arena(from)?, arena(into)?))).transpose()?;
        let failed = |error| StepError::Device { origin: "the denoising loop".to_string(), error };
        let first = *number;
        let mut open = open(denoise, self.symbols, self.policy);
        for step in 0..denoise.steps {
            let Iteration { slots, idle } = match &mut open {
                Some(open) => open.step(step),
                None => Iteration { slots: 0, idle: false },
            };
            if !idle {
                *number = first;
                if open.is_some() {
                    self.count_slots(slots)?;
                }
                self.device.set(index, step).map_err(failed)?;
                self.steps(&denoise.body, step, number)?;
                self.passes = self.passes.saturating_add(1);
            }
            if let Some(((from, bytes), (into, _))) = history {
                self.device.copy(from, into + u64::from(step) * bytes, bytes).map_err(failed)?;
            }
            self.tell(step + 1, denoise.steps)?;
        }
        Ok(())
    }
}

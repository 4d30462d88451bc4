//! Steps through a program on a device.

use crate::device::{Device, DeviceError, Operand, Shape};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dreamc_artifact::plan::{Denoise, Dispatch, Place, Program, Step, ValueId};
use dreamc_num::DType;

/// Why a program could not be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The device failed.
    #[error("`{origin}` failed: {error}")]
    Device {
        /// What was being computed, as a checkpoint path.
        origin: String,
        /// Why it failed.
        error: DeviceError,
    },
    /// The program has no such input or output.
    #[error("the program has no input or output `{0}`")]
    NoPort(String),
    /// A request larger than the program was built for.
    #[error("`{symbol}` is {found}, but the artifact was built for 1 to {max}")]
    Symbol {
        /// Name of the length.
        symbol: String,
        /// What was asked for.
        found: u32,
        /// What was planned for.
        max: u32,
    },
    /// Data of another size than the input or output has.
    #[error("`{port}` takes {expected} bytes, not {found}")]
    Bytes {
        /// Name of the input or output.
        port: String,
        /// Size of the data given.
        found: usize,
        /// Size of the value.
        expected: usize,
    },
    /// The observer asked to stop.
    #[error("stopped before the last step")]
    Stopped,
    /// The validated plan is not one: a bug.
    #[error("bug: the plan passed the loader's checks and is not sound; please report it")]
    Unsound,
}

/// One result of a dispatch, shown to an [`Observer`].
#[derive(Debug)]
pub struct Shown<'a> {
    /// What was computed.
    pub dispatch: &'a Dispatch,
    /// Which of its results.
    pub result: usize,
    /// Denoising step, 0 outside of a loop.
    pub step: u32,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// The elements, little-endian; changes are written back.
    pub bytes: &'a mut Vec<u8>,
}

/// Watches a run: progress, probes, and replay of recorded random draws.
pub trait Observer {
    /// Whether it has a use for being called at all; if not, a device may do a whole run by itself.
    fn watches(&self) -> bool {
        true
    }

    /// Whether to show the results of this dispatch.
    fn wants(&self, _dispatch: &Dispatch) -> bool {
        false
    }

    /// Called with each result that is wanted.
    fn after(&mut self, _shown: Shown<'_>) {}

    /// Called after each pass, which is a denoising step or the whole of a program without a loop; `false` stops the run.
    fn step(&mut self, _done: u32, _steps: u32) -> bool {
        true
    }
}

impl Observer for () {
    fn watches(&self) -> bool {
        false
    }
}

/// A program and the lengths of the current request.
#[derive(Clone, Debug)]
pub struct Stepper {
    program: Program,
    operands: Vec<Operand>,
    symbols: Vec<u32>,
}

impl Stepper {
    /// A stepper at the program's maxima. The program is one that the loader has validated.
    pub fn new(program: &Program) -> Result<Stepper, StepError> {
        let symbols: Vec<u32> = program.symbols.iter().map(|s| s.max).collect();
        let zero = Shape::default();
        let operand =
            |v: &dreamc_artifact::plan::Value| Operand { dtype: v.dtype, shape: zero, place: v.place };
        let operands = program.values.iter().map(operand).collect();
        let mut stepper = Stepper { program: program.clone(), operands, symbols };
        stepper.shapes()?;
        Ok(stepper)
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Sets the lengths of the next request, by symbol. Others keep their values, and all do after an error. Allocates
    /// nothing.
    pub fn resize(&mut self, lengths: &[(&str, u32)]) -> Result<(), StepError> {
        let symbols = &self.program.symbols;
        let find = |name: &str| symbols.iter().position(|s| s.name == name);
        for (name, n) in lengths {
            if let Some(max) = find(name).map(|i| symbols[i].max)
                && (*n == 0 || *n > max)
            {
                return Err(StepError::Symbol { symbol: (*name).to_string(), found: *n, max });
            }
        }
        for (name, n) in lengths {
            if let Some(i) = find(name) {
                self.symbols[i] = *n;
            }
        }
        self.shapes()
    }

    fn shapes(&mut self) -> Result<(), StepError> {
        for (operand, value) in self.operands.iter_mut().zip(&self.program.values) {
            *operand = crate::launch::operand(value, &self.symbols).ok_or(StepError::Unsound)?;
        }
        Ok(())
    }

    /// Type and shape of an output in the current request.
    pub fn output(&self, name: &str) -> Option<(DType, Shape)> {
        let port = self.program.outputs.iter().find(|p| p.name == name)?;
        let operand = self.operand(port.value)?;
        Some((operand.dtype, operand.shape))
    }

    fn operand(&self, id: ValueId) -> Option<&Operand> {
        self.operands.get(id.0 as usize)
    }

    /// Place in the arena and size of a port, for data of `found` bytes.
    fn place(&self, name: &str, output: bool, found: usize) -> Result<u64, StepError> {
        let ports = if output { &self.program.outputs } else { &self.program.inputs };
        let port = ports.iter().find(|p| p.name == name);
        let operand =
            port.and_then(|p| self.operand(p.value)).ok_or_else(|| StepError::NoPort(name.to_string()))?;
        let expected = operand.shape.elements() * operand.dtype.bytes();
        match operand.place {
            _ if expected != found => Err(StepError::Bytes { port: name.to_string(), found, expected }),
            Place::Arena(offset) => Ok(offset),
            Place::Weight(_) => Err(StepError::Unsound),
        }
    }

    /// Sets an input.
    pub fn write(&self, device: &mut dyn Device, name: &str, bytes: &[u8]) -> Result<(), StepError> {
        let offset = self.place(name, false, bytes.len())?;
        device.write(offset, bytes).map_err(|error| StepError::Device { origin: name.to_string(), error })
    }

    /// Gets an output.
    pub fn read(&self, device: &mut dyn Device, name: &str, bytes: &mut [u8]) -> Result<(), StepError> {
        let offset = self.place(name, true, bytes.len())?;
        device.read(offset, bytes).map_err(|error| StepError::Device { origin: name.to_string(), error })
    }

    /// Runs all steps. Allocates nothing unless the observer wants to see values. Returns the number of passes: the
    /// iterations of loops, or 1 for a program without one, whose single step was made part of it.
    pub fn run(&self, device: &mut dyn Device, observer: &mut dyn Observer) -> Result<u32, StepError> {
        let failed = |error| StepError::Device { origin: self.program.name.clone(), error };
        device.resize(&self.symbols).map_err(failed)?;
        let alone = !observer.watches();
        if alone && device.begin().map_err(failed)? {
            return Ok(self.program.passes());
        }
        let mut run = Run { stepper: self, device, observer, passes: 0, bytes: Vec::new() };
        let done = run.program();
        if alone {
            let ended = run.device.end(done.is_ok()).map_err(failed);
            // What failed first is what there is to tell.
            done.and(ended)?;
        } else {
            done?;
        }
        Ok(run.passes)
    }
}

struct Run<'a> {
    stepper: &'a Stepper,
    device: &'a mut dyn Device,
    observer: &'a mut dyn Observer,
    passes: u32,
    bytes: Vec<u8>,
}

impl Run<'_> {
    fn program(&mut self) -> Result<(), StepError> {
        let steps = &self.stepper.program.steps;
        self.steps(steps, 0, &mut 0)?;
        if steps.iter().any(|step| matches!(step, Step::Denoise(_))) { Ok(()) } else { self.passed(1, 1) }
    }

    /// A pass is over.
    fn passed(&mut self, done: u32, of: u32) -> Result<(), StepError> {
        self.passes = self.passes.saturating_add(1);
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
        let done = self.device.dispatch(number, dispatch, &self.stepper.operands);
        done.map_err(|error| StepError::Device { origin: dispatch.origin.join(", "), error })?;
        if self.observer.wants(dispatch) {
            for (result, id) in dispatch.writes.iter().enumerate() {
                self.show(dispatch, result, *id, step)?;
            }
        }
        Ok(())
    }

    fn show(&mut self, dispatch: &Dispatch, result: usize, id: ValueId, step: u32) -> Result<(), StepError> {
        let Operand { dtype, shape, place } = *self.stepper.operand(id).ok_or(StepError::Unsound)?;
        let Place::Arena(offset) = place else { return Err(StepError::Unsound) };
        let failed = |error| StepError::Device { origin: dispatch.origin.join(", "), error };
        self.bytes.clear();
        self.bytes.resize(shape.elements() * dtype.bytes(), 0);
        self.device.read(offset, &mut self.bytes).map_err(failed)?;
        self.observer.after(Shown { dispatch, result, step, dtype, shape, bytes: &mut self.bytes });
        self.device.write(offset, &self.bytes).map_err(failed)
    }

    fn denoise(&mut self, denoise: &Denoise, number: &mut u32) -> Result<(), StepError> {
        let arena = |id: ValueId| match self.stepper.operand(id) {
            Some(Operand { place: Place::Arena(offset), shape, dtype }) => {
                Ok((*offset, (shape.elements() * dtype.bytes()) as u64))
            }
            Some(_) | None => Err(StepError::Unsound),
        };
        let (index, _) = arena(denoise.index)?;
        let history = denoise.history.map(|(from, into)| Ok((arena(from)?, arena(into)?))).transpose()?;
        let failed = |error| StepError::Device { origin: "the denoising loop".to_string(), error };
        let first = *number;
        for step in 0..denoise.steps {
            *number = first;
            self.device.set(index, step).map_err(failed)?;
            self.steps(&denoise.body, step, number)?;
            if let Some(((from, bytes), (into, _))) = history {
                self.device.copy(from, into + u64::from(step) * bytes, bytes).map_err(failed)?;
            }
            self.passed(step + 1, denoise.steps)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use dreamc_artifact::plan::{Dim, Port, Symbol, Term, Value};

    /// An arena that adds the loop's index to the first value in each iteration.
    struct Adding(Vec<u8>);

    impl Device for Adding {
        fn prepare(&mut self, _: &Program) -> Result<(), DeviceError> {
            Ok(())
        }

        fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
            self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
            bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
            Ok(())
        }

        fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError> {
            self.0.copy_within(from as usize..(from + bytes) as usize, to as usize);
            Ok(())
        }

        fn dispatch(&mut self, _: u32, _: &Dispatch, _: &[Operand]) -> Result<(), DeviceError> {
            self.0[0] += 1 + self.0[64];
            Ok(())
        }
    }

    /// The history takes values of every size of element.
    #[test]
    fn history_of_any_type() {
        for dtype in [DType::Bool, DType::BF16, DType::F32] {
            let n = Dim::constant;
            let value = |dtype, dims: Vec<Dim>, offset| Value { dtype, dims, place: Place::Arena(offset) };
            let dispatch = Dispatch {
                kernel: dreamc_artifact::plan::Kernel::Copy,
                reads: vec![],
                writes: vec![],
                origin: vec![],
                launches: vec![],
            };
            let denoise = Denoise {
                steps: 3,
                index: ValueId(1),
                body: vec![Step::Dispatch(dispatch)],
                history: Some((ValueId(0), ValueId(2))),
            };
            let program = Program {
                name: "f".to_string(),
                symbols: vec![],
                values: vec![
                    value(dtype, vec![n(2), n(1), n(3)], 0),
                    value(DType::I32, vec![], 64),
                    value(dtype, vec![n(3), n(2), n(1), n(3)], 128),
                ],
                inputs: vec![],
                outputs: vec![Port { name: "history".to_string(), value: ValueId(2) }],
                steps: vec![Step::Denoise(denoise)],
                arena_bytes: 256,
            };
            let (mut device, slot) = (Adding(vec![0; 256]), 6 * dtype.bytes());
            let stepper = Stepper::new(&program).unwrap();
            assert_eq!(stepper.run(&mut device, &mut ()), Ok(3));
            let mut history = vec![0; 3 * slot];
            stepper.read(&mut device, "history", &mut history).unwrap();
            let firsts: Vec<u8> = history.iter().step_by(slot).copied().collect();
            assert_eq!(firsts, [1, 3, 6], "{dtype:?}");
        }
    }

    /// A program without a loop is one pass, which the observer hears of and may stop.
    #[test]
    fn one_pass_without_a_loop() {
        struct Heard(Vec<(u32, u32)>, bool);
        impl Observer for Heard {
            fn step(&mut self, done: u32, steps: u32) -> bool {
                self.0.push((done, steps));
                self.1
            }
        }
        let program = Program {
            name: "f".to_string(),
            symbols: vec![],
            values: vec![],
            inputs: vec![],
            outputs: vec![],
            steps: vec![],
            arena_bytes: 256,
        };
        let stepper = Stepper::new(&program).unwrap();
        for (goes_on, wanted) in [(true, Ok(1)), (false, Err(StepError::Stopped))] {
            let mut heard = Heard(vec![], goes_on);
            assert_eq!(stepper.run(&mut Adding(vec![0; 256]), &mut heard), wanted);
            assert_eq!(heard.0, [(1, 1)]);
        }
        assert_eq!(stepper.run(&mut Adding(vec![0; 256]), &mut ()), Ok(1));
    }

    /// A refused length changes none of the others.
    #[test]
    fn resize_is_all_or_nothing() {
        let symbol = |name: &str, max| Symbol { name: name.to_string(), max };
        let dim = |symbol| Dim { terms: vec![Term { coefficient: 1, symbols: vec![symbol] }] };
        let program = Program {
            name: "f".to_string(),
            symbols: vec![symbol("B", 4), symbol("S", 8)],
            values: vec![Value { dtype: DType::I32, dims: vec![dim(0), dim(1)], place: Place::Arena(0) }],
            inputs: vec![],
            outputs: vec![Port { name: "x".to_string(), value: ValueId(0) }],
            steps: vec![],
            arena_bytes: 128,
        };
        let mut stepper = Stepper::new(&program).unwrap();
        let shape = |stepper: &Stepper| stepper.output("x").unwrap().1.dims().to_vec();
        stepper.resize(&[("B", 2), ("S", 3), ("unknown", 0)]).unwrap();
        assert_eq!(shape(&stepper), [2, 3]);
        for n in [0, 9] {
            let error = stepper.resize(&[("B", 1), ("S", n)]);
            assert_eq!(error, Err(StepError::Symbol { symbol: "S".to_string(), found: n, max: 8 }));
        }
        stepper.resize(&[]).unwrap();
        assert_eq!(shape(&stepper), [2, 3]);
    }
}

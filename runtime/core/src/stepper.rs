//! A program made ready on a device: lengths, inputs, runs, outputs.

use crate::device::{Device, DeviceError, Operand, Shape};
use crate::observer::Observer;
use crate::run::{Run, passes, shapes};
use crate::slots::{Open, Policy, counted, matters};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dreamc_artifact::plan::{Place, Port, Program, Step, ValueId};
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
    /// Logits that no token can be drawn from, on a device that says so at once.
    #[error("in step {step} the logits of row {row} hold NaN or infinity")]
    NoDistribution {
        /// Denoising step, from 0.
        step: u32,
        /// Row of the request.
        row: u32,
    },
    /// The observer asked to stop.
    #[error("stopped before the last step")]
    Stopped,
    /// The validated plan is not one: a bug.
    #[error("bug: the plan passed the loader's checks and is not sound; please report it")]
    Unsound,
}

/// A program and the lengths of the current request.
#[derive(Clone, Debug)]
pub struct Stepper {
    program: Program,
    operands: Vec<Operand>,
    symbols: Vec<u32>,
    /// The symbol of open slots, where a value depends on it.
    slots: Option<u32>,
    chance: Chance,
    keeps_slots: bool,
    /// Of the last run.
    policy: Policy,
}

/// What the inputs leave to chance. What was not written may be.
#[derive(Clone, Copy, Debug)]
struct Chance {
    /// The rows are counted together.
    joint: bool,
    /// Tokens are drawn, and slots.
    draws: [bool; 2],
}

impl Stepper {
    /// A stepper at the program's maxima. The program is one that the loader has validated.
    pub fn new(program: &Program) -> Result<Stepper, StepError> {
        let symbols = program.maxima();
        let zero = Shape::default();
        let operand =
            |v: &dreamc_artifact::plan::Value| Operand { dtype: v.dtype, shape: zero, place: v.place };
        let operands = program.values.iter().map(operand).collect();
        let slots = counted(program).map(|(_, slots)| slots.symbol).filter(|s| matters(program, *s));
        let mut stepper = Stepper {
            program: program.clone(),
            operands,
            symbols,
            slots,
            chance: Chance { joint: true, draws: [true; 2] },
            keeps_slots: false,
            policy: Policy::default(),
        };
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
        shapes(&self.program, &self.symbols, &mut self.operands)
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

    /// Whether the loop computes as many slots in every iteration as are open at first, and leaves no iteration out. Else
    /// it goes by the schedule, as far as the inputs leave nothing to chance: then the first number of open slots is to be
    /// that of the canvas, or more.
    pub fn keep_slots(&mut self, keep: bool) {
        self.keeps_slots = keep;
    }

    /// The output to show to [`Stepper::strayed`] after a run that went by the schedule.
    pub fn scheduled(&self) -> Option<&str> {
        let (denoise, _) = counted(&self.program).filter(|_| self.policy != Policy::default())?;
        let (_, history) = denoise.history?;
        self.program.outputs.iter().find(|port| port.value == history).map(|port| port.name.as_str())
    }

    /// Whether more slots were open in an iteration of the last run than its schedule says, since a slot took the mask
    /// token itself: then the iterations behind are not what they would be, and [`Stepper::keep_slots`] is needed. Takes
    /// the history.
    pub fn strayed(&self, history: &[u8]) -> bool {
        let Some((denoise, slots)) = counted(&self.program).filter(|_| self.policy != Policy::default())
        else {
            return false;
        };
        let canvas = denoise.history.and_then(|(canvas, _)| self.operand(canvas));
        let Some((shape, first)) = canvas.map(|o| o.shape).zip(self.symbols.get(slots.symbol as usize))
        else {
            return false;
        };
        let (row, rows) = (shape.columns() * 4, shape.rows());
        let mut open = Open::new(*first, denoise, slots, self.policy);
        // What is open after the last iteration concerns nobody.
        let steps = (1..denoise.steps).zip(history.chunks(row.max(1) * rows.max(1)));
        steps.into_iter().any(|(step, canvas)| {
            open.step(step - 1);
            let token = slots.token.to_le_bytes();
            let is_open = |bytes: &&[u8]| **bytes == token;
            canvas.chunks(row.max(1)).any(|row| row.chunks(4).filter(is_open).count() > open.left() as usize)
        })
    }

    /// What a run that this observer watches makes of the schedule.
    fn policy(&self, observer: &dyn Observer) -> Policy {
        let Some((denoise, slots)) = counted(&self.program) else { return Policy::default() };
        if self.keeps_slots || self.chance.joint {
            return Policy::default();
        }
        let looks = |step: &Step| matches!(step, Step::Dispatch(dispatch) if observer.wants(dispatch));
        let drops =
            slots.idle.is_some() && self.chance.draws == [false; 2] && !denoise.body.iter().any(looks);
        Policy { shrinks: self.slots.is_some(), drops }
    }

    /// Notes what an input leaves to chance.
    fn note(&mut self, name: &str, bytes: &[u8]) {
        let Some((_, slots)) = counted(&self.program) else { return };
        let is = |value: ValueId, port: &Port| port.name == name && port.value == value;
        let is_input = |value: ValueId| self.program.inputs.iter().any(|port| is(value, port));
        let some = bytes.iter().any(|byte| *byte != 0);
        if is_input(slots.joint) {
            self.chance.joint = some;
        }
        if let Some((temperature, alg_temp)) = slots.idle {
            for (draws, value) in self.chance.draws.iter_mut().zip([temperature, alg_temp]) {
                if is_input(value) {
                    *draws = some;
                }
            }
        }
    }

    /// Sets an input.
    pub fn write(&mut self, device: &mut dyn Device, name: &str, bytes: &[u8]) -> Result<(), StepError> {
        let offset = self.place(name, false, bytes.len())?;
        self.note(name, bytes);
        device.write(offset, bytes).map_err(|error| StepError::Device { origin: name.to_string(), error })
    }

    /// Gets an output.
    pub fn read(&self, device: &mut dyn Device, name: &str, bytes: &mut [u8]) -> Result<(), StepError> {
        let offset = self.place(name, true, bytes.len())?;
        device.read(offset, bytes).map_err(|error| StepError::Device { origin: name.to_string(), error })
    }

    /// Says ahead of a request what one of its inputs will be, as far as that decides which steps it has; for
    /// [`Stepper::warm`].
    pub fn expect(&mut self, name: &str, bytes: &[u8]) {
        self.note(name, bytes);
    }

    /// Has the device record the run of a request of the lengths that were set, ahead of it and without doing it: of a
    /// request that nobody watches, and with inputs as were written or [expected](Stepper::expect) last. Whether it did: not
    /// where it has recorded such a run, and not on a device that records nothing.
    pub fn warm(&mut self, device: &mut dyn Device) -> Result<bool, StepError> {
        let policy = self.policy(&());
        let Stepper { program, operands, symbols, slots, .. } = self;
        let failed = |error| StepError::Device { origin: program.name.clone(), error };
        device.resize(symbols).map_err(failed)?;
        if !device.record(policy.variant()).map_err(failed)? {
            return Ok(false);
        }
        let (slots, observer) = (*slots, &mut ());
        let (times, passes, bytes) = (false, 0, Vec::new());
        let mut run =
            Run { program, operands, symbols, slots, policy, device, observer, times, passes, bytes };
        let done = run.program();
        let kept = run.device.keep(done.is_ok()).map_err(failed);
        // What failed first is what there is to tell.
        done.and(kept).map(|()| true)
    }

    /// Runs all steps. Allocates nothing unless the observer wants to see values. Returns the number of passes: the
    /// iterations of loops that were run, or 1 for a program without one, whose single step was made part of it.
    pub fn run(&mut self, device: &mut dyn Device, observer: &mut dyn Observer) -> Result<u32, StepError> {
        let policy = self.policy(observer);
        self.policy = policy;
        let Stepper { program, operands, symbols, slots, .. } = self;
        let failed = |error| StepError::Device { origin: program.name.clone(), error };
        device.resize(symbols).map_err(failed)?;
        let alone = !observer.watches();
        if alone && device.begin(policy.variant()).map_err(failed)? {
            return Ok(passes(program, symbols, policy));
        }
        let (slots, times) = (*slots, observer.times());
        if times {
            // What was queued before is not the first dispatch's.
            device.finish().map_err(failed)?;
        }
        let (passes, bytes) = (0, Vec::new());
        let mut run =
            Run { program, operands, symbols, slots, policy, device, observer, times, passes, bytes };
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use dreamc_artifact::plan::{Denoise, Dim, Dispatch, Port, Symbol, Term, Value};

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
                slots: None,
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
            let mut stepper = Stepper::new(&program).unwrap();
            assert_eq!(stepper.run(&mut device, &mut ()), Ok(3));
            let mut history = vec![0; 3 * slot];
            stepper.read(&mut device, "history", &mut history).unwrap();
            let firsts: Vec<u8> = history.iter().step_by(slot).copied().collect();
            assert_eq!(firsts, [1, 3, 6], "{dtype:?}");
        }
    }

    /// Notes the open slots of every dispatch.
    #[derive(Default)]
    struct Counting {
        now: u32,
        seen: Vec<u32>,
        copies: u32,
        finished: u32,
    }

    impl Device for Counting {
        fn prepare(&mut self, _: &Program) -> Result<(), DeviceError> {
            Ok(())
        }

        fn resize(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
            self.now = symbols[1];
            Ok(())
        }

        fn write(&mut self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
            Ok(())
        }

        fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), DeviceError> {
            Ok(())
        }

        fn finish(&mut self) -> Result<(), DeviceError> {
            self.finished += 1;
            Ok(())
        }

        fn copy(&mut self, _: u64, _: u64, _: u64) -> Result<(), DeviceError> {
            self.copies += 1;
            Ok(())
        }

        fn dispatch(&mut self, _: u32, dispatch: &Dispatch, operands: &[Operand]) -> Result<(), DeviceError> {
            let shape = operands[dispatch.writes[0].0 as usize].shape;
            assert_eq!(shape.dims(), [1, self.now]);
            self.seen.push(self.now);
            Ok(())
        }
    }

    /// A loop over a canvas of one row, whose one dispatch has an element for each open slot.
    fn filling(steps: u32) -> Program {
        use dreamc_artifact::plan::{Kernel, Slots};
        let dim = |symbol| Dim { terms: vec![Term { coefficient: 1, symbols: vec![symbol] }] };
        let n = Dim::constant;
        let value = |dtype, dims: Vec<Dim>, at: u64| Value { dtype, dims, place: Place::Arena(at * 1024) };
        let dispatch = |writes| {
            let kernel = Kernel::ReadRows { before: 0 };
            Step::Dispatch(Dispatch {
                kernel,
                reads: vec![],
                writes: vec![writes],
                origin: vec![],
                launches: vec![],
            })
        };
        let slots =
            Slots { symbol: 1, token: 7, eps: 1e-3, joint: ValueId(4), idle: Some((ValueId(5), ValueId(6))) };
        let denoise = Denoise {
            steps,
            index: ValueId(1),
            body: vec![dispatch(ValueId(3))],
            history: Some((ValueId(0), ValueId(2))),
            slots: Some(slots),
        };
        let port = |name: &str, value| Port { name: name.to_string(), value: ValueId(value) };
        Program {
            name: "f".to_string(),
            symbols: vec![
                Symbol { name: "S".to_string(), max: 200 },
                Symbol { name: "K".to_string(), max: 200 },
            ],
            values: vec![
                value(DType::I32, vec![n(1), dim(0)], 0),
                value(DType::I32, vec![], 1),
                value(DType::I32, vec![n(steps), n(1), dim(0)], 8),
                value(DType::I32, vec![n(1), dim(1)], 2),
                value(DType::I32, vec![], 3),
                value(DType::F32, vec![], 4),
                value(DType::F32, vec![], 5),
            ],
            inputs: vec![port("canvas", 0), port("joint", 4), port("temperature", 5), port("alg_temp", 6)],
            outputs: vec![port("history", 2)],
            // After the loop there are as many as before.
            steps: vec![Step::Denoise(denoise), dispatch(ValueId(3))],
            arena_bytes: 1 << 24,
        }
    }

    /// Open slots of each iteration that was run, and of what follows the loop.
    fn counts(steps: u32, open: u32, joint: i32, temperature: f32, keep: bool) -> Vec<u32> {
        let program = filling(steps);
        let (mut device, mut stepper) = (Counting::default(), Stepper::new(&program).unwrap());
        stepper.resize(&[("S", 150), ("K", open)]).unwrap();
        stepper.keep_slots(keep);
        stepper.write(&mut device, "joint", &joint.to_le_bytes()).unwrap();
        stepper.write(&mut device, "temperature", &temperature.to_le_bytes()).unwrap();
        stepper.write(&mut device, "alg_temp", &0_f32.to_le_bytes()).unwrap();
        for _ in 0..2 {
            device.seen.clear();
            let iterations = stepper.run(&mut device, &mut ()).unwrap();
            assert_eq!(iterations as usize + 1, device.seen.len());
        }
        assert_eq!(device.copies, 2 * steps);
        device.seen
    }

    #[test]
    fn slots_of_every_iteration() {
        assert_eq!(counts(4, 16, 0, 0.0, false), [16, 13, 9, 5, 16]);
        assert_eq!(counts(8, 4, 0, 0.0, false), [4, 3, 2, 4]);
        let all = counts(128, 128, 0, 0.0, false);
        assert_eq!((all.len(), all[0], all[1], all[126], all[127]), (128, 128, 127, 2, 128));
        // Drawn at random: no iteration is left out.
        assert_eq!(counts(8, 4, 0, 0.5, false), [4, 4, 4, 4, 4, 4, 3, 2, 4]);
        // Rows that are counted together, and slots that took the mask token.
        assert_eq!(counts(4, 16, 1, 0.0, false), [16; 5]);
        assert_eq!(counts(8, 4, 0, 0.0, true), [4; 9]);
    }

    /// Who times hears of every dispatch at its lengths, when the device has finished it; else nothing is waited for.
    #[test]
    fn timed_dispatches() {
        #[derive(Default)]
        struct Timing(Vec<(u32, u32, u32)>, u32);
        impl Observer for Timing {
            fn times(&self) -> bool {
                true
            }
            fn before(&mut self, _: &Dispatch) {
                self.1 += 1;
            }
            fn done(&mut self, done: crate::Done<'_>) {
                assert_eq!(self.1 as usize, self.0.len() + 1);
                let slots = done.operands[done.dispatch.writes[0].0 as usize].shape.columns();
                self.0.push((done.number, done.step, slots as u32));
            }
        }
        let program = filling(4);
        let (mut device, mut stepper) = (Counting::default(), Stepper::new(&program).unwrap());
        stepper.resize(&[("S", 20), ("K", 16)]).unwrap();
        stepper.write(&mut device, "joint", &[0; 4]).unwrap();
        let mut timing = Timing::default();
        stepper.run(&mut device, &mut timing).unwrap();
        assert_eq!(timing.0, [(0, 0, 16), (0, 1, 13), (0, 2, 9), (0, 3, 5), (1, 0, 16)]);
        // Once before the first.
        assert_eq!(device.finished, 6);
        stepper.run(&mut device, &mut ()).unwrap();
        assert_eq!(device.finished, 6);
    }

    /// More open slots than the schedule says are found, but not behind the last step.
    #[test]
    fn strayed_histories() {
        let program = filling(4);
        let (mut device, mut stepper) = (Counting::default(), Stepper::new(&program).unwrap());
        stepper.resize(&[("S", 20), ("K", 16)]).unwrap();
        assert_eq!(stepper.scheduled(), None);
        for name in ["joint", "temperature", "alg_temp"] {
            stepper.write(&mut device, name, &[0; 4]).unwrap();
        }
        stepper.run(&mut device, &mut ()).unwrap();
        assert_eq!(stepper.scheduled(), Some("history"));
        let history = |open: [usize; 4]| -> Vec<u8> {
            let row = |n: usize| (0..20).map(move |p| if p < n { 7_i32 } else { 1 });
            open.into_iter().flat_map(row).flat_map(i32::to_le_bytes).collect()
        };
        assert!(!stepper.strayed(&history([13, 9, 5, 0])));
        assert!(!stepper.strayed(&history([13, 9, 5, 3])));
        assert!(stepper.strayed(&history([13, 10, 6, 1])));
        assert!(stepper.strayed(&history([14, 9, 5, 0])));
        stepper.keep_slots(true);
        stepper.run(&mut device, &mut ()).unwrap();
        assert!(stepper.scheduled().is_none() && !stepper.strayed(&history([14, 9, 5, 0])));
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
        let mut stepper = Stepper::new(&program).unwrap();
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

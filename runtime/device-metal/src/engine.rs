//! One program at a time in front of shared weights and kernels, on any driver.

use crate::driver::{Driver, refused, take};
use crate::kernels::Kernels;
use crate::prepared::{Prepared, Source};
use crate::weights::Weights;
use dreamc_artifact::code::Code;
use dreamc_artifact::plan::{ARENA_ALIGN, Dispatch, Place, Program, Step};
use dreamc_runtime::{Device, DeviceError, Operand, UNSOUND, WeightView};

/// A device on a driver.
#[derive(Debug)]
pub(crate) struct Engine<'a, D: Driver> {
    program: Option<Ready<D>>,
    kernels: Kernels<D>,
    weights: Weights<'a, D>,
    driver: D,
    /// Launches since the last commit.
    launches: u32,
    launches_max: u32,
    /// The module launched last, for messages.
    last: Option<u32>,
}

/// A program and its memory.
#[derive(Debug)]
struct Ready<D: Driver> {
    prepared: Prepared,
    arena: D::Memory,
    arena_bytes: u64,
    numbers: D::Memory,
    numbers_count: u32,
}

impl<D: Driver> Ready<D> {
    fn inside(&self, offset: u64, bytes: u64) -> Result<(), DeviceError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.arena_bytes => Ok(()),
            _ => Err(DeviceError::Unsupported { kernel: "memory outside the arena" }),
        }
    }
}

/// No program was prepared, or preparing it failed.
const NO_PROGRAM: DeviceError = DeviceError::Unsupported { kernel: "a step before its program" };

impl<'a, D: Driver> Engine<'a, D> {
    /// `code` and `weights` are the artifact's; commits by itself after `launches_max` launches.
    pub(crate) fn new(
        driver: D,
        code: &Code,
        weights: Vec<WeightView<'a>>,
        launches_max: u32,
    ) -> Engine<'a, D> {
        Engine {
            program: None,
            kernels: Kernels::new(code.modules.clone()),
            weights: Weights::new(weights),
            driver,
            launches: 0,
            launches_max: launches_max.max(1),
            last: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Compiles what `program` launches, uploads what it binds and takes its memory.
    fn ready(&mut self, program: &Program) -> Result<Ready<D>, DeviceError> {
        let Engine { kernels, weights, driver, .. } = self;
        let prepared = Prepared::new(program, kernels.modules())?;
        for launch in prepared.launches() {
            kernels.compile(driver, launch.module)?;
        }
        let arena = take(driver, program.arena_bytes.max(1).next_multiple_of(ARENA_ALIGN));
        let arena = arena.map_err(|error| beside(error, weights.bytes()))?;
        let numbers_count = steps_max(program);
        let numbers = take(driver, u64::from(numbers_count) * 4)?;
        let bytes: Vec<u8> = (0..numbers_count).flat_map(u32::to_le_bytes).collect();
        let written = driver.write(&numbers, 0, &bytes);
        written.map_err(|error| refused("writing the numbers of steps".to_owned(), &error))?;
        for binding in prepared.launches().flat_map(|launch| &launch.buffers) {
            let value = program.values.get(binding.value.0 as usize).ok_or(UNSOUND)?;
            if let Place::Weight(index) = value.place {
                let placed = weights.place(driver, index, value, binding);
                placed.map_err(|error| beside(error, program.arena_bytes + weights.bytes()))?;
            }
        }
        Ok(Ready { prepared, arena, arena_bytes: program.arena_bytes, numbers, numbers_count })
    }

    /// The error of a command that was recorded, handed over or waited for.
    fn failed(&self, error: &str) -> DeviceError {
        let name = self.last.and_then(|i| self.kernels.modules().get(i as usize)).map(|m| m.name.as_str());
        let what = match name {
            Some(name) => format!("running the kernels up to `{name}`"),
            None => "before the first kernel".to_owned(),
        };
        refused(what, error)
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.launches = 0;
        let waited = self.driver.wait();
        waited.map_err(|error| self.failed(&error))
    }
}

/// What did not fit counts together with what had been taken before.
fn beside(error: DeviceError, taken: u64) -> DeviceError {
    match error {
        DeviceError::OutOfMemory { bytes } => DeviceError::OutOfMemory { bytes: bytes.saturating_add(taken) },
        other => other,
    }
}

/// Steps of the longest loop, at least 1.
fn steps_max(program: &Program) -> u32 {
    let steps = program.steps.iter().map(|step| match step {
        Step::Dispatch(_) => 1,
        Step::Denoise(denoise) => denoise.steps,
    });
    steps.max().unwrap_or(1).max(1)
}

/// Records the launches of a dispatch; `launched` is told of each. Apart from [`Engine`], whose parts are borrowed.
fn launch<D: Driver>(
    (ready, kernels, weights): (&Ready<D>, &Kernels<D>, &Weights<'_, D>),
    driver: &mut D,
    (number, dispatch): (u32, &Dispatch),
    mut launched: impl FnMut(&mut D, u32) -> Result<(), String>,
) -> Result<(), DeviceError> {
    for active in ready.prepared.dispatch(number, dispatch)? {
        let sources = ready.prepared.sources(&active);
        let (module, kernel) = kernels.get(active.module)?;
        let failed = |error: String| refused(format!("launching kernel `{}`", module.name), &error);
        driver.set_kernel(kernel).map_err(failed)?;
        for (index, source) in sources.iter().enumerate() {
            let (memory, offset) = match source {
                Source::Arena(offset) => (&ready.arena, *offset),
                Source::Weight(weight, first) => (weights.get(*weight).ok_or(UNSOUND)?, *first),
            };
            driver.set_buffer(index, memory, offset).map_err(failed)?;
        }
        let info = ready.prepared.info(&active);
        if !info.is_empty() {
            driver.set_bytes(sources.len(), info).map_err(failed)?;
        }
        driver.launch(active.grid, module.workgroup).map_err(failed)?;
        launched(driver, active.module)
            .map_err(|error| refused(format!("running the kernels up to `{}`", module.name), &error))?;
    }
    Ok(())
}

impl<D: Driver> Device for Engine<'_, D> {
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError> {
        // The former arena goes first, lest both be needed at once; the driver lets go of it when it is done.
        let ended = self.wait();
        self.program = None;
        ended?;
        self.program = Some(self.ready(program)?);
        Ok(())
    }

    fn resize(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
        let ready = self.program.as_mut().ok_or(NO_PROGRAM)?;
        ready.prepared.resize(self.kernels.modules(), symbols)
    }

    fn set(&mut self, offset: u64, value: u32) -> Result<(), DeviceError> {
        let ready = self.program.as_ref().ok_or(NO_PROGRAM)?;
        ready.inside(offset, 4)?;
        if value >= ready.numbers_count || !offset.is_multiple_of(4) {
            return self.write(offset, &value.to_le_bytes());
        }
        let from = (&ready.numbers, u64::from(value) * 4);
        let copied = self.driver.copy(from, (&ready.arena, offset), 4);
        copied.map_err(|error| self.failed(&error))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.program.as_ref().ok_or(NO_PROGRAM)?.inside(offset, bytes.len() as u64)?;
        self.wait()?;
        let ready = self.program.as_ref().ok_or(NO_PROGRAM)?;
        let written = self.driver.write(&ready.arena, offset, bytes);
        written.map_err(|error| refused("writing an input".to_owned(), &error))
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.program.as_ref().ok_or(NO_PROGRAM)?.inside(offset, bytes.len() as u64)?;
        self.wait()?;
        let ready = self.program.as_ref().ok_or(NO_PROGRAM)?;
        let read = self.driver.read(&ready.arena, offset, bytes);
        read.map_err(|error| refused("reading a result".to_owned(), &error))
    }

    fn finish(&mut self) -> Result<(), DeviceError> {
        self.wait()
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError> {
        let ready = self.program.as_ref().ok_or(NO_PROGRAM)?;
        ready.inside(from, bytes)?;
        ready.inside(to, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let overlap = from.abs_diff(to) < bytes;
        if overlap || ![from, to, bytes].iter().all(|n| n.is_multiple_of(4)) {
            // No plan of ours does this: what a loop remembers are ids, or numbers of 4 bytes.
            let mut between = vec![0; bytes as usize];
            self.read(from, &mut between)?;
            return self.write(to, &between);
        }
        let copied = self.driver.copy((&ready.arena, from), (&ready.arena, to), bytes);
        copied.map_err(|error| self.failed(&error))
    }

    fn dispatch(&mut self, number: u32, dispatch: &Dispatch, _: &[Operand]) -> Result<(), DeviceError> {
        let Engine { program, kernels, weights, driver, launches, launches_max, last } = self;
        let ready = program.as_ref().ok_or(NO_PROGRAM)?;
        launch((ready, kernels, weights), driver, (number, dispatch), |driver, module| {
            *last = Some(module);
            *launches += 1;
            if *launches < *launches_max {
                return Ok(());
            }
            *launches = 0;
            driver.commit()
        })
    }
}

#[cfg(test)]
mod tests;

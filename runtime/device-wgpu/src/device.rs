//! The device: one program at a time in front of shared weights and kernels.

use crate::adapter::{Adapter, pick};
use crate::arena::Arena;
use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::modules::Kernels;
use crate::needs::features;
use crate::prepared::Prepared;
use crate::recorder::Recorder;
use crate::weights::Weights;
use dreamc_artifact::code::Code;
use dreamc_artifact::plan::{Dispatch, Program};
use dreamc_runtime::{Device, DeviceError, Operand, WeightView};

/// How to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WgpuOptions {
    /// Part of the name of the adapter to take, whatever the case; else what [`ADAPTER_VARIABLE`](crate::ADAPTER_VARIABLE)
    /// names in the environment; else the first of [`adapters()`](crate::adapters).
    pub adapter: Option<String>,
    /// Launches that go to the driver together. Few cost time on the host, many make a driver's watchdog believe that
    /// the device hangs.
    pub launches_per_submit: u32,
}

impl Default for WgpuOptions {
    fn default() -> WgpuOptions {
        WgpuOptions { adapter: None, launches_per_submit: 64 }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct WgpuDevice<'a> {
    program: Option<(Arena, Prepared)>,
    recorder: Recorder,
    kernels: Kernels,
    weights: Weights<'a>,
    gpu: Gpu,
    adapter: Adapter,
}

impl<'a> WgpuDevice<'a> {
    /// A device that runs `code` on `weights`, which [`Place::Weight`](dreamc_artifact::plan::Place::Weight) indexes.
    ///
    /// # Errors
    ///
    /// [`WgpuError`] if nothing on this machine can run the code.
    pub fn new(
        code: &Code,
        weights: Vec<WeightView<'a>>,
        options: WgpuOptions,
    ) -> Result<WgpuDevice<'a>, WgpuError> {
        let (found, adapter) = pick(options.adapter.as_deref())?;
        let features = features(code, &adapter, &found.limits())?;
        let names = code.modules.iter().map(|m| m.name.clone()).collect();
        Ok(WgpuDevice {
            program: None,
            recorder: Recorder::new(names, options.launches_per_submit),
            kernels: Kernels::new(code.modules.clone()),
            weights: Weights::new(weights),
            gpu: Gpu::open(&found, &adapter, features)?,
            adapter,
        })
    }

    /// What it runs on.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Most bytes of the arena, and most bytes of a value or of a part of a weight.
    pub fn bytes_max(&self) -> (u64, u64) {
        (self.gpu.limits.max_buffer_size, self.gpu.limits.max_storage_buffer_binding_size)
    }
}

/// No program was prepared, or preparing it failed.
const NO_PROGRAM: DeviceError = DeviceError::Unsupported { kernel: "a step before its program" };

/// What did not fit counts together with what had been taken before.
fn beside(error: DeviceError, taken: u64) -> DeviceError {
    match error {
        DeviceError::OutOfMemory { bytes } => DeviceError::OutOfMemory { bytes: bytes.saturating_add(taken) },
        other => other,
    }
}

impl Device for WgpuDevice<'_> {
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError> {
        let WgpuDevice { program: current, recorder, kernels, weights, gpu, .. } = self;
        // The former arena goes first, lest both be needed at once; the driver lets go of it when it is done.
        let ended = recorder.submit(gpu).and_then(|()| gpu.wait(|| recorder.doing()));
        *current = None;
        ended?;
        gpu.wait(|| recorder.doing())?;
        let arena = Arena::new(gpu, program).map_err(|error| beside(error, weights.bytes()))?;
        let prepared = Prepared::new(gpu, kernels, weights, program, &arena.buffer);
        let prepared = prepared.map_err(|error| beside(error, program.arena_bytes + weights.bytes()))?;
        *current = Some((arena, prepared));
        Ok(())
    }

    fn resize(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
        let WgpuDevice { program, recorder, kernels, gpu, .. } = self;
        let (_, prepared) = program.as_mut().ok_or(NO_PROGRAM)?;
        prepared.resize(gpu, kernels, recorder, symbols)
    }

    fn set(&mut self, offset: u64, value: u32) -> Result<(), DeviceError> {
        let (arena, _) = self.program.as_ref().ok_or(NO_PROGRAM)?;
        arena.set(&self.gpu, &mut self.recorder, offset, value)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let (arena, _) = self.program.as_ref().ok_or(NO_PROGRAM)?;
        arena.write(&self.gpu, &mut self.recorder, offset, bytes)
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (arena, _) = self.program.as_ref().ok_or(NO_PROGRAM)?;
        arena.read(&self.gpu, &mut self.recorder, offset, bytes)
    }

    fn finish(&mut self) -> Result<(), DeviceError> {
        self.recorder.submit(&self.gpu)?;
        self.gpu.wait(|| self.recorder.doing())
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError> {
        let (arena, _) = self.program.as_ref().ok_or(NO_PROGRAM)?;
        arena.copy(&self.gpu, &mut self.recorder, from, to, bytes)
    }

    fn dispatch(&mut self, number: u32, dispatch: &Dispatch, _: &[Operand]) -> Result<(), DeviceError> {
        let WgpuDevice { program, recorder, kernels, gpu, .. } = self;
        let (_, prepared) = program.as_ref().ok_or(NO_PROGRAM)?;
        prepared.dispatch(gpu, kernels, recorder, number, dispatch)
    }
}

//! In the place of Metal on systems that have none: a driver of which there can be no value.

use crate::driver::{Compiled, Driver, Limits};
use crate::error::MetalError;
use crate::gpu::Gpu;
use dreamc_artifact::code::Module;
use dreamc_runtime::Grid;

/// There is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Metal {}

/// Nothing is left behind here.
pub(crate) fn pooled<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// Why there is no device.
pub(crate) fn found() -> Result<Vec<(Gpu, Metal)>, MetalError> {
    Err(MetalError::NotApple)
}

/// What cannot be found cannot be opened.
pub(crate) fn open(_gpu: &Gpu, found: Metal) -> Result<Metal, MetalError> {
    match found {}
}

impl Driver for Metal {
    type Kernel = Metal;
    type Memory = Metal;

    fn limits(&self) -> Limits {
        match *self {}
    }

    fn taken_bytes(&self) -> u64 {
        match *self {}
    }

    fn memory(&self, _bytes: u64) -> Option<Metal> {
        match *self {}
    }

    fn compile(&self, _module: &Module, _text: &str) -> Result<Compiled<Metal>, String> {
        match *self {}
    }

    fn set_kernel(&mut self, _kernel: &Metal) -> Result<(), String> {
        match *self {}
    }

    fn set_buffer(&mut self, _index: usize, _memory: &Metal, _offset: u64) -> Result<(), String> {
        match *self {}
    }

    fn set_bytes(&mut self, _index: usize, _bytes: &[u8]) -> Result<(), String> {
        match *self {}
    }

    fn launch(&mut self, _groups: Grid, _units: [u32; 3]) -> Result<(), String> {
        match *self {}
    }

    fn copy(&mut self, _from: (&Metal, u64), _to: (&Metal, u64), _bytes: u64) -> Result<(), String> {
        match *self {}
    }

    fn commit(&mut self) -> Result<(), String> {
        match *self {}
    }

    fn wait(&mut self) -> Result<(), String> {
        match *self {}
    }

    fn write(&mut self, _memory: &Metal, _at: u64, _bytes: &[u8]) -> Result<(), String> {
        match *self {}
    }

    fn read(&mut self, _memory: &Metal, _at: u64, _bytes: &mut [u8]) -> Result<(), String> {
        match *self {}
    }
}

//! Weights on the device: a buffer for each weight that a launch binds, or binds a part of.

use crate::driver::{Driver, refused, take};
use dreamc_artifact::plan::{Binding, Value};
use dreamc_runtime::{DeviceError, WeightView};
use std::collections::BTreeMap;

/// Kernels may read vectors of four words: what stands behind a weight's last byte is zero up to a multiple of this.
const WEIGHT_ALIGN: u64 = 16;

/// All weights, and those that are on the device.
#[derive(Debug)]
pub(crate) struct Weights<'a, D: Driver> {
    views: Vec<WeightView<'a>>,
    placed: BTreeMap<u32, D::Memory>,
    /// Bytes of what is on the device.
    bytes: u64,
}

impl<'a, D: Driver> Weights<'a, D> {
    pub(crate) fn new(views: Vec<WeightView<'a>>) -> Weights<'a, D> {
        Weights { views, placed: BTreeMap::new(), bytes: 0 }
    }

    /// Bytes of what is on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The buffer of weight `index`, uploaded before.
    pub(crate) fn get(&self, index: u32) -> Option<&D::Memory> {
        self.placed.get(&index)
    }

    /// Uploads weight `index`, which is `value` in the program, unless it is there. `binding` names a part of it.
    pub(crate) fn place(
        &mut self,
        driver: &mut D,
        index: u32,
        value: &Value,
        binding: &Binding,
    ) -> Result<(), DeviceError> {
        let unsound = DeviceError::Unsupported { kernel: "a weight" };
        let view = self.views.get(index as usize).filter(|v| v.dtype == value.dtype && !v.bytes.is_empty());
        let bytes = view.ok_or(unsound.clone())?.bytes;
        let len = bytes.len() as u64;
        let inside =
            |(first, part): (u64, u64)| part > 0 && first.checked_add(part).is_some_and(|end| end <= len);
        if !binding.part.is_none_or(inside) {
            return Err(unsound);
        }
        if self.placed.contains_key(&index) {
            return Ok(());
        }
        let size = len.next_multiple_of(WEIGHT_ALIGN);
        let memory = take(driver, size)?;
        let failed = |error: String| refused(format!("uploading weight {index}"), &error);
        driver.write(&memory, 0, bytes).map_err(failed)?;
        self.bytes += size;
        self.placed.insert(index, memory);
        Ok(())
    }
}

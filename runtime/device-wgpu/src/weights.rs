//! Weights on the device: a buffer for each weight, or part of one, that a launch binds.

use crate::gpu::Gpu;
use dreamc_artifact::plan::{Binding, Value};
use dreamc_runtime::{DeviceError, WeightView};
use std::collections::BTreeMap;

/// Bytes that may be on their way before the host waits for them: they lie in the driver's memory meanwhile.
const UPLOAD_BYTES: usize = 32 << 20;

/// A weight, or a part of it: first byte and length.
type Key = (u32, Option<(u64, u64)>);

/// All weights, and those that are on the device.
#[derive(Debug)]
pub(crate) struct Weights<'a> {
    views: Vec<WeightView<'a>>,
    placed: BTreeMap<Key, wgpu::Buffer>,
    /// Bytes written since the host last waited.
    under_way: usize,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(views: Vec<WeightView<'a>>) -> Weights<'a> {
        Weights { views, placed: BTreeMap::new(), under_way: 0 }
    }

    /// Bytes of what is on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.placed.values().map(wgpu::Buffer::size).sum()
    }

    /// The buffer of what `binding` names of weight `index`, uploaded before.
    pub(crate) fn get(&self, index: u32, binding: &Binding) -> Option<&wgpu::Buffer> {
        self.placed.get(&(index, binding.part))
    }

    /// Uploads what `binding` names of weight `index`, which is `value` in the program, unless it is there.
    pub(crate) fn place(
        &mut self,
        gpu: &Gpu,
        index: u32,
        value: &Value,
        binding: &Binding,
    ) -> Result<(), DeviceError> {
        let key = (index, binding.part);
        if self.placed.contains_key(&key) {
            return Ok(());
        }
        let unsound = DeviceError::Unsupported { kernel: "a weight" };
        let view =
            *self.views.get(index as usize).filter(|v| v.dtype == value.dtype).ok_or(unsound.clone())?;
        let bytes = match binding.part {
            None => Some(view.bytes),
            Some((first, len)) => part(view.bytes, first, len),
        };
        let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or(unsound)?;
        let size = (bytes.len() as u64).next_multiple_of(4);
        gpu.binds(size)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffer("weights", size, usage)?;
        for (at, piece) in (0_u64..).step_by(UPLOAD_BYTES).zip(bytes.chunks(UPLOAD_BYTES)) {
            self.make_way(gpu, piece.len())?;
            put(gpu, &buffer, at, piece);
        }
        gpu.check(size, || format!("uploading weight {index}"))?;
        self.placed.insert(key, buffer);
        Ok(())
    }

    /// Waits if too much would be on its way with `bytes` more.
    fn make_way(&mut self, gpu: &Gpu, bytes: usize) -> Result<(), DeviceError> {
        if self.under_way > 0 && self.under_way + bytes > UPLOAD_BYTES {
            self.under_way = 0;
            gpu.queue.submit([]);
            gpu.wait(|| "uploading weights".to_owned())?;
        }
        self.under_way += bytes;
        Ok(())
    }
}

/// `len` bytes from `first` on.
fn part(bytes: &[u8], first: u64, len: u64) -> Option<&[u8]> {
    let (first, len) = (usize::try_from(first).ok()?, usize::try_from(len).ok()?);
    bytes.get(first..first.checked_add(len)?)
}

/// Writes `bytes`, and zeros up to the next multiple of 4, at `at`, a multiple of 4. Takes effect behind all that was
/// submitted.
pub(crate) fn put(gpu: &Gpu, buffer: &wgpu::Buffer, at: u64, bytes: &[u8]) {
    let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
    if !words.is_empty() {
        gpu.queue.write_buffer(buffer, at, words);
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        gpu.queue.write_buffer(buffer, at + words.len() as u64, &last);
    }
}

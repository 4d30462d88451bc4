//! The arena, and the ways in, out and inside it. Drivers copy words of 4 bytes at multiples of 4, and never inside one
//! buffer: the rest is done here.

use crate::faults::Fault;
use crate::gpu::Gpu;
use crate::recorder::Recorder;
use crate::weights::put;
use dreamc_artifact::plan::{ARENA_ALIGN, Program, Step, Value, ValueId};
use dreamc_runtime::DeviceError;

/// Least and most bytes of the buffers through which copies and reads go.
const DETOUR_BYTES: (u64, u64) = (64 << 10, 16 << 20);

/// The arena of a program.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) buffer: wgpu::Buffer,
    /// As the program says; the buffer is longer by what a value's end is rounded up.
    bytes: u64,
    numbers: wgpu::Buffer,
    numbers_count: u32,
    bounce: wgpu::Buffer,
    staging: wgpu::Buffer,
}

impl Arena {
    /// Takes the memory that `program` needs.
    pub(crate) fn new(gpu: &Gpu, program: &Program) -> Result<Arena, DeviceError> {
        use wgpu::BufferUsages as Usage;
        let maxima = program.maxima();
        let bytes = |id: ValueId| program.values.get(id.0 as usize).and_then(|v| value_bytes(v, &maxima));
        let detour = |bytes: u64| bytes.clamp(DETOUR_BYTES.0, DETOUR_BYTES.1).next_multiple_of(4);
        let (mut steps, mut copied) = (1, 0);
        for step in &program.steps {
            if let Step::Denoise(denoise) = step {
                steps = steps.max(denoise.steps);
                copied = copied.max(denoise.history.and_then(|(from, _)| bytes(from)).unwrap_or(0));
            }
        }
        let read = program.outputs.iter().filter_map(|port| bytes(port.value)).max().unwrap_or(0);
        let size = program.arena_bytes.max(1).next_multiple_of(ARENA_ALIGN);
        let arena = Arena {
            buffer: gpu.buffer("arena", size, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST)?,
            bytes: program.arena_bytes,
            numbers: gpu.buffer("numbers", u64::from(steps) * 4, Usage::COPY_SRC | Usage::COPY_DST)?,
            numbers_count: steps,
            bounce: gpu.buffer("bounce", detour(copied), Usage::COPY_SRC | Usage::COPY_DST)?,
            staging: gpu.buffer("staging", detour(read), Usage::MAP_READ | Usage::COPY_DST)?,
        };
        let numbers: Vec<u8> = (0..steps).flat_map(u32::to_le_bytes).collect();
        put(gpu, &arena.numbers, 0, &numbers);
        Ok(arena)
    }

    fn inside(&self, offset: u64, bytes: u64) -> Result<(), DeviceError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(DeviceError::Unsupported { kernel: "memory outside the arena" }),
        }
    }

    /// Puts a number at `offset`, in the order of launches and without submitting them if it is a loop's index.
    pub(crate) fn set(
        &self,
        gpu: &Gpu,
        recorder: &mut Recorder,
        offset: u64,
        value: u32,
    ) -> Result<(), DeviceError> {
        self.inside(offset, 4)?;
        if value >= self.numbers_count || !offset.is_multiple_of(4) {
            return self.write(gpu, recorder, offset, &value.to_le_bytes());
        }
        recorder.copy(gpu, (&self.numbers, u64::from(value) * 4), (&self.buffer, offset), 4);
        Ok(())
    }

    /// Copies `bytes` to `offset`. Where a value begins, up to 3 bytes behind them become 0: what is written there is
    /// the whole value, and its place ends at a multiple of [`ARENA_ALIGN`].
    pub(crate) fn write(
        &self,
        gpu: &Gpu,
        recorder: &mut Recorder,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let odd = !offset.is_multiple_of(4) || !bytes.len().is_multiple_of(4);
        if odd && !offset.is_multiple_of(ARENA_ALIGN) {
            return self.write_odd(gpu, recorder, offset, bytes);
        }
        self.inside(offset, bytes.len() as u64)?;
        // The queue writes before what is submitted next: what is recorded goes first.
        recorder.submit(gpu)?;
        put(gpu, &self.buffer, offset, bytes);
        gpu.check(bytes.len() as u64, || "writing an input".to_owned())
    }

    /// Copies `bytes` to `offset`, and keeps what shares their first and last word.
    fn write_odd(
        &self,
        gpu: &Gpu,
        recorder: &mut Recorder,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        self.inside(offset, bytes.len() as u64)?;
        let start = offset / 4 * 4;
        let end = (offset + bytes.len() as u64).next_multiple_of(4);
        let mut words = vec![0; (end - start) as usize];
        self.read_words(gpu, recorder, start, &mut words)?;
        let to = words.iter_mut().skip((offset - start) as usize);
        to.zip(bytes).for_each(|(to, from)| *to = *from);
        put(gpu, &self.buffer, start, &words);
        gpu.check(bytes.len() as u64, || "writing an input".to_owned())
    }

    /// Copies from `offset` into `bytes`, when all that was recorded is done.
    pub(crate) fn read(
        &self,
        gpu: &Gpu,
        recorder: &mut Recorder,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError> {
        self.inside(offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return recorder.submit(gpu);
        }
        self.read_words(gpu, recorder, offset, bytes)
    }

    /// The same for any range of the buffer.
    fn read_words(
        &self,
        gpu: &Gpu,
        recorder: &mut Recorder,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError> {
        // The first and last words are taken whole.
        let piece = self.staging.size() as usize - 4;
        for (at, to) in (offset..).step_by(piece).zip(bytes.chunks_mut(piece)) {
            let start = at / 4 * 4;
            let len = (at + to.len() as u64).next_multiple_of(4) - start;
            recorder.copy(gpu, (&self.buffer, start), (&self.staging, 0), len);
            recorder.submit(gpu)?;
            let faults = gpu.faults.clone();
            self.staging.map_async(wgpu::MapMode::Read, 0..len, move |mapped| {
                if let Err(error) = mapped {
                    faults.put(Fault::Other(error.to_string()));
                }
            });
            gpu.wait(|| recorder.doing())?;
            match self.staging.get_mapped_range(0..len) {
                Ok(view) => {
                    let skipped = (at - start) as usize;
                    if let Some(from) = view.get(skipped..skipped + to.len()) {
                        to.copy_from_slice(from);
                    }
                }
                Err(error) => gpu.faults.put(Fault::Other(error.to_string())),
            }
            self.staging.unmap();
            gpu.check(0, || recorder.doing())?;
        }
        Ok(())
    }

    /// Copies `bytes` bytes inside the arena; the two ranges may overlap.
    pub(crate) fn copy(
        &self,
        gpu: &Gpu,
        recorder: &mut Recorder,
        from: u64,
        to: u64,
        bytes: u64,
    ) -> Result<(), DeviceError> {
        self.inside(from, bytes)?;
        self.inside(to, bytes)?;
        if ![from, to, bytes].iter().all(|n| n.is_multiple_of(4)) {
            // No plan of ours does this: what a loop remembers are ids, or numbers of 4 bytes.
            let mut words = vec![0; bytes as usize];
            self.read(gpu, recorder, from, &mut words)?;
            return self.write_odd(gpu, recorder, to, &words);
        }
        let piece = self.bounce.size();
        let pieces = bytes.div_ceil(piece);
        for i in 0..pieces {
            // Backwards where going forwards would overwrite what is still to be read.
            let at = if to > from { pieces - 1 - i } else { i } * piece;
            let len = piece.min(bytes - at);
            recorder.copy(gpu, (&self.buffer, from + at), (&self.bounce, 0), len);
            recorder.copy(gpu, (&self.bounce, 0), (&self.buffer, to + at), len);
        }
        Ok(())
    }
}

/// Bytes of a value with `symbols[i]` for symbol `i`; `None` on overflow or an unknown symbol.
pub(crate) fn value_bytes(value: &Value, symbols: &[u32]) -> Option<u64> {
    let dims = value.dims.iter().map(|dim| dim.at(symbols));
    dims.into_iter().try_fold(value.dtype.bytes() as u64, |bytes, n| bytes.checked_mul(u64::from(n?)))
}

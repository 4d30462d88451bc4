//! A program made ready: what each launch binds, and what it is at the lengths of a request.

use crate::arena::value_bytes;
use crate::gpu::Gpu;
use crate::modules::Kernels;
use crate::needs::has_info;
use crate::recorder::Recorder;
use crate::weights::Weights;
use dreamc_artifact::plan::{Binding, Dispatch, Launch, Place, Program};
use dreamc_runtime::{DeviceError, Launches, UNSOUND};
use std::num::NonZeroU64;

/// All launches of a program, bound.
#[derive(Debug)]
pub(crate) struct Prepared {
    launches: Launches,
    /// The module and the buffers of each.
    bound: Vec<(u32, wgpu::BindGroup)>,
    info: wgpu::Buffer,
    /// What `info` holds.
    blocks: Vec<u8>,
}

/// Words of a block of scalars are counted in fours: some drivers count a struct in sixteens of bytes.
const BLOCK_WORDS: usize = 4;

impl Prepared {
    /// Uploads what `program` needs, compiles its kernels and binds its launches to `arena`.
    pub(crate) fn new(
        gpu: &Gpu,
        kernels: &mut Kernels,
        weights: &mut Weights<'_>,
        program: &Program,
        arena: &wgpu::Buffer,
    ) -> Result<Prepared, DeviceError> {
        for launch in program.dispatches().flat_map(|dispatch| &dispatch.launches) {
            kernels.compile(gpu, launch.module)?;
            for binding in &launch.buffers {
                let value = program.values.get(binding.value.0 as usize).ok_or(UNSOUND)?;
                if let Place::Weight(index) = value.place {
                    weights.place(gpu, index, value, binding)?;
                }
            }
        }
        let align = gpu.limits.min_storage_buffer_offset_alignment as usize / 4;
        let launches = Launches::new(program, |i| kernels.module(i).ok(), align.max(BLOCK_WORDS))?;
        let info_bytes = launches.words().len() * 4;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let info = gpu.buffer("blocks of scalars", info_bytes.max(4) as u64, usage)?;
        let binder = Binder { gpu, kernels, weights, program, arena, info: &info };
        let maxima = program.maxima();
        let mut bound = Vec::new();
        for (launch, words) in launches.all() {
            bound.push((launch.module, binder.group(launch, words.start * 4, &maxima)?));
        }
        let prepared = Prepared { launches, bound, info, blocks: vec![0; info_bytes] };
        prepared.rehearse(gpu, kernels)?;
        Ok(prepared)
    }

    /// Has the driver check all launches, with grids of nothing: what it refuses at all, it refuses now and by name.
    fn rehearse(&self, gpu: &Gpu, kernels: &Kernels) -> Result<(), DeviceError> {
        record_nothing(gpu, kernels, &self.bound)?;
        if gpu.faults.take().is_none() {
            return Ok(());
        }
        for bound in &self.bound {
            record_nothing(gpu, kernels, std::slice::from_ref(bound))?;
            let name = &kernels.module(bound.0)?.name;
            gpu.check(0, || format!("launching kernel `{name}`"))?;
        }
        Ok(())
    }

    /// Sets the lengths of the requests from here on: grids and blocks of scalars of all launches.
    pub(crate) fn resize(
        &mut self,
        gpu: &Gpu,
        kernels: &Kernels,
        recorder: &mut Recorder,
        symbols: &[u32],
    ) -> Result<(), DeviceError> {
        let groups_max = [gpu.limits.max_compute_workgroups_per_dimension; 3];
        let Prepared { launches, info, blocks, .. } = self;
        if !launches.resize(symbols, |i| kernels.module(i).ok(), |_| groups_max)? || blocks.is_empty() {
            return Ok(());
        }
        for (to, word) in blocks.chunks_exact_mut(4).zip(launches.words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        // The queue writes before what is submitted next: what is recorded goes first.
        let written = recorder.submit(gpu).and_then(|()| {
            gpu.queue.write_buffer(info, 0, blocks);
            gpu.check(blocks.len() as u64, || "writing the blocks of scalars".to_owned())
        });
        if written.is_err() {
            launches.forget();
        }
        written
    }

    /// Records the launches of dispatch `number`.
    pub(crate) fn dispatch(
        &self,
        gpu: &Gpu,
        kernels: &Kernels,
        recorder: &mut Recorder,
        number: u32,
        dispatch: &Dispatch,
    ) -> Result<(), DeviceError> {
        for active in self.launches.of(number, dispatch)? {
            let (module, group) = self.bound.get(active.index).ok_or(UNSOUND)?;
            recorder.launch(gpu, (*module, kernels.kernel(*module)?), group, active.grid)?;
        }
        Ok(())
    }
}

/// Bytes bound for the launch's scalars.
fn block_bytes(kernels: &Kernels, launch: &Launch) -> Result<usize, DeviceError> {
    Ok(kernels.module(launch.module)?.info.len().next_multiple_of(BLOCK_WORDS) * 4)
}

/// Records launches of no workgroups and lets the driver look at them. Nothing is submitted.
fn record_nothing(gpu: &Gpu, kernels: &Kernels, bound: &[(u32, wgpu::BindGroup)]) -> Result<(), DeviceError> {
    let mut encoder =
        gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("rehearsal") });
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (module, group) in bound {
            pass.set_pipeline(&kernels.kernel(*module)?.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(0, 0, 0);
        }
    }
    drop(encoder.finish());
    Ok(())
}

/// What launches are bound to.
struct Binder<'a> {
    gpu: &'a Gpu,
    kernels: &'a Kernels,
    weights: &'a Weights<'a>,
    program: &'a Program,
    arena: &'a wgpu::Buffer,
    info: &'a wgpu::Buffer,
}

impl Binder<'_> {
    fn group(&self, launch: &Launch, info_at: usize, maxima: &[u32]) -> Result<wgpu::BindGroup, DeviceError> {
        let module = self.kernels.module(launch.module)?;
        let mut bound = Vec::with_capacity(launch.buffers.len() + 1);
        for binding in &launch.buffers {
            bound.push(self.buffer(binding, maxima)?);
        }
        if has_info(module) {
            let size = NonZeroU64::new(block_bytes(self.kernels, launch)? as u64);
            bound.push(wgpu::BufferBinding { buffer: self.info, offset: info_at as u64, size });
        }
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
            .zip(bound)
            .map(|(binding, buffer)| {
                let resource = wgpu::BindingResource::Buffer(buffer);
                wgpu::BindGroupEntry { binding, resource }
            })
            .collect();
        let group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&module.name),
            layout: &self.kernels.kernel(launch.module)?.layout,
            entries: &entries,
        });
        self.gpu.check(0, || format!("binding the buffers of kernel `{}`", module.name))?;
        Ok(group)
    }

    fn buffer(&self, binding: &Binding, maxima: &[u32]) -> Result<wgpu::BufferBinding<'_>, DeviceError> {
        let value = self.program.values.get(binding.value.0 as usize).ok_or(UNSOUND)?;
        match value.place {
            Place::Weight(index) => {
                let buffer = self.weights.get(index, binding).ok_or(UNSOUND)?;
                Ok(wgpu::BufferBinding { buffer, offset: 0, size: None })
            }
            Place::Arena(offset) => {
                // Values begin at multiples of 256: what is rounded up is no one else's.
                let all = value_bytes(value, maxima).ok_or(UNSOUND)?;
                let (first, bytes) = binding.part.unwrap_or((0, all));
                let offset = offset.checked_add(first).ok_or(UNSOUND)?;
                let bytes = bytes.max(1).next_multiple_of(4);
                self.gpu.binds(bytes)?;
                let end = offset.checked_add(bytes).filter(|end| *end <= self.arena.size());
                let size = end.and_then(|_| NonZeroU64::new(bytes)).ok_or(UNSOUND)?;
                Ok(wgpu::BufferBinding { buffer: self.arena, offset, size: Some(size) })
            }
        }
    }
}

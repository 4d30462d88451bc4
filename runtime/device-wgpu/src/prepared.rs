//! A program made ready: what each launch binds, and what it is at the lengths of a request.

use crate::arena::value_bytes;
use crate::gpu::Gpu;
use crate::modules::Kernels;
use crate::needs::has_info;
use crate::recorder::Recorder;
use crate::weights::Weights;
use dreamc_artifact::plan::{Binding, Dim, Dispatch, Launch, Place, Program};
use dreamc_runtime::device::RANK_MAX;
use dreamc_runtime::{DeviceError, Grid, Operand, Shape, resolve};
use std::num::NonZeroU64;
use std::ops::Range;

/// A launch whose bindings are fixed.
#[derive(Debug)]
struct Bound {
    launch: Launch,
    group: wgpu::BindGroup,
    /// Where its block of scalars begins.
    info_at: usize,
    /// At the lengths of the request; nothing to do if there is none.
    grid: Option<Grid>,
}

/// All launches of a program.
#[derive(Debug)]
pub(crate) struct Prepared {
    bounds: Vec<Bound>,
    /// The launches of each dispatch, by its number.
    ranges: Vec<Range<usize>>,
    dims: Vec<Vec<Dim>>,
    operands: Vec<Operand>,
    /// Lengths of the request; none before the first.
    symbols: Option<Vec<u32>>,
    info: wgpu::Buffer,
    /// What `info` holds.
    blocks: Vec<u8>,
    words: Vec<u32>,
}

impl Prepared {
    /// Uploads what `program` needs, compiles its kernels and binds its launches to `arena`.
    pub(crate) fn new(
        gpu: &Gpu,
        kernels: &mut Kernels,
        weights: &mut Weights<'_>,
        program: &Program,
        arena: &wgpu::Buffer,
    ) -> Result<Prepared, DeviceError> {
        let (mut ranges, mut launches, mut places, mut info_bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let align = gpu.limits.min_storage_buffer_offset_alignment.max(4) as usize;
        for dispatch in program.dispatches() {
            let first = launches.len();
            for launch in &dispatch.launches {
                kernels.compile(gpu, launch.module)?;
                for binding in &launch.buffers {
                    let value = program.values.get(binding.value.0 as usize).ok_or(UNSOUND)?;
                    if let Place::Weight(index) = value.place {
                        weights.place(gpu, index, value, binding)?;
                    }
                }
                places.push(info_bytes);
                info_bytes += block_bytes(kernels, launch)?.next_multiple_of(align);
                launches.push(launch);
            }
            ranges.push(first..launches.len());
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let info = gpu.buffer("blocks of scalars", info_bytes.max(4) as u64, usage)?;
        let binder = Binder { gpu, kernels, weights, program, arena, info: &info };
        let maxima: Vec<u32> = program.symbols.iter().map(|s| s.max).collect();
        let mut bounds = Vec::with_capacity(launches.len());
        for (launch, info_at) in launches.into_iter().zip(places) {
            let group = binder.group(launch, info_at, &maxima)?;
            bounds.push(Bound { launch: launch.clone(), group, info_at, grid: None });
        }
        let operand = |v: &dreamc_artifact::plan::Value| Operand {
            dtype: v.dtype,
            shape: Shape::default(),
            place: v.place,
        };
        let prepared = Prepared {
            bounds,
            ranges,
            dims: program.values.iter().map(|v| v.dims.clone()).collect(),
            operands: program.values.iter().map(operand).collect(),
            symbols: None,
            info,
            blocks: vec![0; info_bytes],
            words: Vec::new(),
        };
        prepared.rehearse(gpu, kernels)?;
        Ok(prepared)
    }

    /// Has the driver check all launches, with grids of nothing: what it refuses at all, it refuses now and by name.
    fn rehearse(&self, gpu: &Gpu, kernels: &Kernels) -> Result<(), DeviceError> {
        record_nothing(gpu, kernels, &self.bounds)?;
        if gpu.faults.take().is_none() {
            return Ok(());
        }
        for bound in &self.bounds {
            record_nothing(gpu, kernels, std::slice::from_ref(bound))?;
            let name = &kernels.module(bound.launch.module)?.name;
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
        if self.symbols.as_deref() == Some(symbols) {
            return Ok(());
        }
        // Half of the launches may be at the new lengths if one of them fails.
        let mut kept = self.symbols.take().unwrap_or_default();
        for (operand, dims) in self.operands.iter_mut().zip(&self.dims) {
            let mut at = [0; RANK_MAX];
            for (to, dim) in at.iter_mut().zip(dims) {
                *to = dim.at(symbols).ok_or(UNSOUND)?;
            }
            operand.shape = at.get(..dims.len()).and_then(Shape::new).ok_or(UNSOUND)?;
        }
        let groups_max = [gpu.limits.max_compute_workgroups_per_dimension; 3];
        for bound in &mut self.bounds {
            self.words.clear();
            let module = kernels.module(bound.launch.module)?;
            let (launch, words) = (&bound.launch, &mut self.words);
            bound.grid = resolve(launch, module, &self.operands, symbols, groups_max, words)?;
            let block = self.blocks.get_mut(bound.info_at..).ok_or(UNSOUND)?;
            for (to, word) in block.chunks_exact_mut(4).zip(&self.words) {
                to.copy_from_slice(&word.to_le_bytes());
            }
        }
        if !self.blocks.is_empty() {
            // The queue writes before what is submitted next: what is recorded goes first.
            recorder.submit(gpu)?;
            gpu.queue.write_buffer(&self.info, 0, &self.blocks);
            gpu.check(self.blocks.len() as u64, || "writing the blocks of scalars".to_owned())?;
        }
        kept.clear();
        kept.extend_from_slice(symbols);
        self.symbols = Some(kept);
        Ok(())
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
        let bounds = self.ranges.get(number as usize).and_then(|range| self.bounds.get(range.clone()));
        let known = |bounds: &&[Bound]| self.symbols.is_some() && bounds.len() == dispatch.launches.len();
        for Bound { launch, group, grid, .. } in bounds.filter(known).ok_or(UNSOUND)? {
            if let Some(grid) = *grid {
                let kernel = kernels.kernel(launch.module)?;
                recorder.launch(gpu, (launch.module, kernel), group, grid)?;
            }
        }
        Ok(())
    }
}

/// A plan that the loader did not validate.
const UNSOUND: DeviceError = DeviceError::Unsupported { kernel: "a launch" };

/// Least bytes of a block of scalars: some drivers count a struct in sixteens.
const BLOCK_ALIGN: usize = 16;

/// Bytes bound for the launch's scalars.
fn block_bytes(kernels: &Kernels, launch: &Launch) -> Result<usize, DeviceError> {
    Ok((kernels.module(launch.module)?.info.len() * 4).next_multiple_of(BLOCK_ALIGN))
}

/// Records launches of no workgroups and lets the driver look at them. Nothing is submitted.
fn record_nothing(gpu: &Gpu, kernels: &Kernels, bounds: &[Bound]) -> Result<(), DeviceError> {
    let mut encoder =
        gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("rehearsal") });
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for bound in bounds {
            pass.set_pipeline(&kernels.kernel(bound.launch.module)?.pipeline);
            pass.set_bind_group(0, &bound.group, &[]);
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

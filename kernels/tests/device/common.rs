//! Runs emitted WGSL on a Vulkan device, filling bindings and scalars from what `Emitted` says alone: this is a runtime
//! without CubeCL in small.

use dreamc_interp::{Tensor, run};
use dreamc_ir::{parse, verify};
use dreamc_kernels::{Access, Emitted, Extent, Kernel, ScalarType, Target, Word};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

/// What installs a Vulkan device that needs no hardware.
const INSTALL: &str = "apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1";

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

/// Futures of the native backends are ready at once.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN;
        let instance = wgpu::Instance::new(descriptor);
        let adapter = block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))
            .unwrap_or_else(|e| panic!("no Vulkan device ({e}); this installs one: {INSTALL}"));
        // The limits that every adapter has: no kernel of target `wgsl` may need more.
        let descriptor = wgpu::DeviceDescriptor {
            required_limits: wgpu::Limits::default(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor)).expect("a device");
        Gpu { device, queue }
    })
}

/// A kernel about to be run.
pub(crate) struct Launch {
    emitted: Emitted,
    buffers: BTreeMap<&'static str, Vec<u32>>,
    scalars: BTreeMap<&'static str, u32>,
}

/// What the buffers hold after a run.
pub(crate) struct Results(BTreeMap<&'static str, Vec<u32>>);

impl Launch {
    pub(crate) fn of(kernel: &Kernel) -> Launch {
        let target = Target::named("wgsl").expect("it is there");
        let emitted = kernel.emit(&target).unwrap_or_else(|e| panic!("{e}"));
        Launch { emitted, buffers: BTreeMap::new(), scalars: BTreeMap::new() }
    }

    pub(crate) fn words(mut self, name: &'static str, words: Vec<u32>) -> Launch {
        assert!(self.emitted.buffers.iter().any(|b| b.name == name), "no buffer `{name}`");
        self.buffers.insert(name, words);
        self
    }

    pub(crate) fn floats(self, name: &'static str, floats: &[f32]) -> Launch {
        self.words(name, floats.iter().map(|x| x.to_bits()).collect())
    }

    pub(crate) fn ints(self, name: &'static str, ints: &[i32]) -> Launch {
        self.words(name, ints.iter().map(|x| *x as u32).collect())
    }

    pub(crate) fn bools(self, name: &'static str, bools: &[bool]) -> Launch {
        self.words(name, bools.iter().map(|x| u32::from(*x)).collect())
    }

    /// A tensor of any kind.
    pub(crate) fn tensor(self, name: &'static str, tensor: &Tensor) -> Launch {
        match &tensor.data {
            dreamc_interp::Data::F32(v) => self.floats(name, v),
            dreamc_interp::Data::I32(v) => self.ints(name, v),
            dreamc_interp::Data::U32(v) => self.words(name, v.clone()),
            dreamc_interp::Data::Bool(v) => self.bools(name, v),
        }
    }

    /// A result, not a number before it is written.
    pub(crate) fn result(self, name: &'static str, elements: usize) -> Launch {
        self.words(name, vec![u32::MAX; elements])
    }

    pub(crate) fn int(mut self, name: &'static str, value: usize) -> Launch {
        self.scalars.insert(name, value as u32);
        self
    }

    pub(crate) fn float(mut self, name: &'static str, value: f32) -> Launch {
        self.scalars.insert(name, value.to_bits());
        self
    }

    pub(crate) fn run(self) -> Results {
        let Launch { emitted, buffers, scalars } = self;
        let name = &emitted.name;
        let scalar = |i: u32| {
            let scalar = emitted.scalars[i as usize];
            *scalars
                .get(scalar.name)
                .unwrap_or_else(|| panic!("{name}: scalar `{}` is not given", scalar.name))
        };
        let given: Vec<&Vec<u32>> = emitted
            .buffers
            .iter()
            .map(|b| {
                buffers.get(b.name).unwrap_or_else(|| panic!("{name}: buffer `{}` is not given", b.name))
            })
            .collect();
        assert_eq!(scalars.len(), emitted.scalars.len(), "{name}: a scalar too many");
        let word = |word: &Word| match word {
            Word::Scalar(i) => scalar(*i),
            Word::Length(i) => given[*i as usize].len() as u32,
            Word::Zero => 0,
        };
        let info: Vec<u32> = emitted.info.words.iter().map(word).collect();
        let extent = |extent: &Extent| match extent {
            Extent::Constant(n) => *n,
            Extent::Ceil { of, per, .. } => {
                let i = emitted.scalars.iter().position(|s| s.name == *of).expect("a scalar of its own");
                assert_eq!(emitted.scalars[i].ty, ScalarType::U32);
                scalar(i as u32).div_ceil(*per)
            }
        };
        let after =
            dispatch(&emitted.source, name, &given, &info, [0, 1, 2].map(|i| extent(&emitted.grid[i])));
        for ((buffer, before), after) in emitted.buffers.iter().zip(&given).zip(&after) {
            if buffer.access == Access::Read {
                assert_eq!(*before, after, "{name}: wrote to `{}`, which it says it only reads", buffer.name);
            }
        }
        Results(emitted.buffers.iter().map(|b| b.name).zip(after).collect())
    }
}

impl Results {
    pub(crate) fn words(&self, name: &str) -> Vec<u32> {
        self.0[name].clone()
    }

    pub(crate) fn ints(&self, name: &str) -> Vec<i32> {
        self.0[name].iter().map(|w| *w as i32).collect()
    }

    pub(crate) fn bools(&self, name: &str) -> Vec<bool> {
        assert!(self.0[name].iter().all(|w| *w < 2), "not conditions: {:?}", self.0[name]);
        self.0[name].iter().map(|w| *w == 1).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.0[name].iter().map(|w| f32::from_bits(*w)).collect()
    }
}

/// Runs the entry and reads all buffers back.
fn dispatch(source: &str, entry: &str, buffers: &[&Vec<u32>], info: &[u32], grid: [u32; 3]) -> Vec<Vec<u32>> {
    let Gpu { device, queue } = gpu();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(entry),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let info = info.to_vec();
    let all: Vec<&Vec<u32>> = buffers.iter().copied().chain([&info]).collect();
    let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..all.len())
        .map(|i| wgpu::BindGroupLayoutEntry {
            binding: i as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: i == buffers.len() },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        ..wgpu::PipelineLayoutDescriptor::default()
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |size: usize, usage| {
        let size = (size * 4).max(16) as u64;
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let on_device: Vec<wgpu::Buffer> = all
        .iter()
        .map(|words| {
            let made = buffer(words.len(), storage);
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            queue.write_buffer(&made, 0, &bytes);
            made
        })
        .collect();
    let bound: Vec<wgpu::BindGroupEntry<'_>> = on_device
        .iter()
        .enumerate()
        .map(|(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: b.as_entire_binding() })
        .collect();
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &layout,
        entries: &bound,
    });
    let read = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let back: Vec<wgpu::Buffer> = buffers.iter().map(|words| buffer(words.len(), read)).collect();
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }
    for (from, to) in on_device.iter().zip(&back) {
        encoder.copy_buffer_to_buffer(from, 0, to, 0, to.size());
    }
    queue.submit([encoder.finish()]);
    back.iter().for_each(|b| b.slice(..).map_async(wgpu::MapMode::Read, |r| r.expect("mapped")));
    device.poll(wgpu::PollType::wait_indefinitely()).expect("it ends");
    let words = |(b, given): (&wgpu::Buffer, &&Vec<u32>)| {
        let view = b.slice(..).get_mapped_range().expect("mapped");
        let word = |c: &[u8]| u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        view.chunks_exact(4).take(given.len()).map(word).collect()
    };
    back.iter().zip(buffers).map(words).collect()
}

/// Results of graph `f` of an IR text in the interpreter.
pub(crate) fn interpret(text: &str, inputs: &[&Tensor]) -> Vec<Tensor> {
    let module = parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let inputs: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
    let mut none = |_: &str, _: &dreamc_ir::Type| None;
    run(verify(&module).unwrap_or_else(|e| panic!("{e}\n{text}")), "f", &inputs, &mut none, &mut ())
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The largest difference, relative to the largest wanted number or 1, is below `tolerance`.
#[track_caller]
pub(crate) fn near(found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len());
    let scale = wanted.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= tolerance * scale || f == w, "element {i}: {f}, wanted {w} (scale {scale})");
    }
}

/// Floats in `[-1, 1)`, reproducible.
pub(crate) fn floats(n: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| {
        let mut x =
            (i as u32).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B).wrapping_add(0x1234_5678);
        for m in [0x7FEB_352D_u32, 0x846C_A68B] {
            x = (x ^ (x >> 16)).wrapping_mul(m);
        }
        x ^ (x >> 15)
    };
    (0..n).map(|i| (word(i) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// A float tensor of [`floats`].
pub(crate) fn tensor(dims: &[usize], seed: u32) -> Tensor {
    Tensor::f32(dims, floats(dims.iter().product(), seed))
}

/// A tensor rounded to bf16, and its packed words.
pub(crate) fn bf16(tensor: &Tensor) -> (Tensor, Vec<u32>) {
    let halves: Vec<u16> = tensor
        .floats()
        .iter()
        .map(|x| {
            let bits = x.to_bits();
            ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
        })
        .collect();
    let rounded = halves.iter().map(|h| f32::from_bits(u32::from(*h) << 16)).collect();
    let word = |pair: &[u16]| u32::from(pair[0]) | pair.get(1).map_or(0, |h| u32::from(*h) << 16);
    (Tensor::f32(&tensor.dims, rounded), halves.chunks(2).map(word).collect())
}

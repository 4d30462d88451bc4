//! Runs WGSL on a Vulkan device, which may be software.

use dreamc_kernels::Emitted;
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
            required_features: adapter.features() & wgpu::Features::SHADER_F16,
            required_limits: wgpu::Limits::default(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor)).expect("a device");
        Gpu { device, queue }
    })
}

/// Whether the device has f16 in shaders: Mesa's software device has.
pub(crate) fn has_f16() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let has = gpu().device.features().contains(wgpu::Features::SHADER_F16);
        if !has {
            eprintln!("skipped: WGSL in f16, which this Vulkan device has not");
        }
        has
    })
}

/// Runs the kernel; the buffers hold afterwards what they hold there.
pub(crate) fn run(emitted: &Emitted, buffers: &mut [Vec<u8>], info: &[u32], grid: [u32; 3]) {
    let Gpu { device, queue } = gpu();
    let entry = emitted.name.as_str();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(entry),
        source: wgpu::ShaderSource::Wgsl(emitted.source.as_str().into()),
    });
    let info = info.iter().flat_map(|w| w.to_le_bytes()).collect();
    let all: Vec<&Vec<u8>> = buffers.iter().chain([&info]).collect();
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
    let buffer = |bytes: usize, usage| {
        let size = bytes.next_multiple_of(4).max(16) as u64;
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let on_device: Vec<wgpu::Buffer> = all
        .iter()
        .map(|bytes| {
            let made = buffer(bytes.len(), storage);
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(4), 0);
            queue.write_buffer(&made, 0, &padded);
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
    let back: Vec<wgpu::Buffer> = buffers.iter().map(|bytes| buffer(bytes.len(), read)).collect();
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
    for (from, to) in back.iter().zip(buffers) {
        let view = from.slice(..).get_mapped_range().expect("mapped");
        let bytes = to.len();
        to.copy_from_slice(&view[..bytes]);
    }
}

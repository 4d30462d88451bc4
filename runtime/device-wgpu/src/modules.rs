//! Kernels, compiled by the driver when a program first needs them.

use crate::gpu::{Gpu, driver};
use crate::needs::{has_info, text};
use dreamc_artifact::code::Module;
use dreamc_runtime::DeviceError;

/// A kernel that can be launched.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) pipeline: wgpu::ComputePipeline,
}

/// The kernels of an artifact, by module.
#[derive(Debug)]
pub(crate) struct Kernels {
    modules: Vec<Module>,
    compiled: Vec<Option<Kernel>>,
}

impl Kernels {
    pub(crate) fn new(modules: Vec<Module>) -> Kernels {
        let compiled = modules.iter().map(|_| None).collect();
        Kernels { modules, compiled }
    }

    pub(crate) fn module(&self, index: u32) -> Result<&Module, DeviceError> {
        self.modules.get(index as usize).ok_or(DeviceError::Unsupported { kernel: "a module" })
    }

    /// A kernel that [`Kernels::compile`] has made.
    pub(crate) fn kernel(&self, index: u32) -> Result<&Kernel, DeviceError> {
        let kernel = self.compiled.get(index as usize).and_then(Option::as_ref);
        kernel.ok_or(DeviceError::Unsupported { kernel: "a module" })
    }

    /// Compiles a module, once.
    pub(crate) fn compile(&mut self, gpu: &Gpu, index: u32) -> Result<(), DeviceError> {
        let module =
            self.modules.get(index as usize).ok_or(DeviceError::Unsupported { kernel: "a module" })?;
        if let Some(slot @ None) = self.compiled.get_mut(index as usize) {
            *slot = Some(compile(gpu, module)?);
        }
        Ok(())
    }
}

fn compile(gpu: &Gpu, module: &Module) -> Result<Kernel, DeviceError> {
    let name = Some(module.name.as_str());
    let what = || format!("compiling kernel `{}`", module.name);
    let Some(source) = text(module) else { return driver(what(), "it is not WGSL") };
    let shader = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: name,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    gpu.check(0, what)?;
    let entries: Vec<wgpu::BindGroupLayoutEntry> =
        (0..module.buffers.len() as u32).map(|i| entry(i, false)).chain(info_entry(module)).collect();
    let layout = gpu
        .device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: name, entries: &entries });
    let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: name,
        bind_group_layouts: &[Some(&layout)],
        ..wgpu::PipelineLayoutDescriptor::default()
    });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: name,
        layout: Some(&pipeline_layout),
        module: &shader,
        entry_point: name,
        compilation_options: wgpu::PipelineCompilationOptions {
            // Kernels write shared memory before they read it.
            zero_initialize_workgroup_memory: false,
            ..wgpu::PipelineCompilationOptions::default()
        },
        cache: None,
    });
    gpu.check(0, what)?;
    Ok(Kernel { layout, pipeline })
}

fn info_entry(module: &Module) -> Option<wgpu::BindGroupLayoutEntry> {
    has_info(module).then(|| entry(module.buffers.len() as u32, true))
}

fn entry(binding: u32, read_only: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

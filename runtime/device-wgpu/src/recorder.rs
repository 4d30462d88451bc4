//! Records launches and copies in order, and hands them to the driver.

use crate::gpu::Gpu;
use crate::modules::Kernel;
use dreamc_runtime::{DeviceError, Grid};

/// Commands not yet submitted.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Open only while `encoder` is there and its last command is a launch. Stands before it, to be dropped first.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    /// The module whose pipeline is set in the pass.
    module: Option<u32>,
    /// Launches since the last submission.
    launches: u32,
    launches_max: u32,
    /// Names of the modules, for messages.
    names: Vec<String>,
    /// The module launched last.
    last: Option<u32>,
}

impl Recorder {
    /// Submits by itself after `launches_max` launches.
    pub(crate) fn new(names: Vec<String>, launches_max: u32) -> Recorder {
        let launches_max = launches_max.max(1);
        Recorder { pass: None, encoder: None, module: None, launches: 0, launches_max, names, last: None }
    }

    /// Launches a kernel, module `module`, on what `group` binds.
    pub(crate) fn launch(
        &mut self,
        gpu: &Gpu,
        (module, kernel): (u32, &Kernel),
        group: &wgpu::BindGroup,
        [x, y, z]: Grid,
    ) -> Result<(), DeviceError> {
        if self.pass.is_none() {
            let encoder = self.encoder.get_or_insert_with(|| encoder(gpu));
            let pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.pass = Some(pass.forget_lifetime());
            self.module = None;
        }
        if let Some(pass) = &mut self.pass {
            if self.module != Some(module) {
                pass.set_pipeline(&kernel.pipeline);
                self.module = Some(module);
            }
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
        self.last = Some(module);
        self.launches += 1;
        if self.launches >= self.launches_max { self.submit(gpu) } else { Ok(()) }
    }

    /// Copies `bytes` bytes from one buffer to another; all numbers are multiples of 4.
    pub(crate) fn copy(
        &mut self,
        gpu: &Gpu,
        (from, from_at): (&wgpu::Buffer, u64),
        (to, to_at): (&wgpu::Buffer, u64),
        bytes: u64,
    ) {
        self.pass = None;
        let encoder = self.encoder.get_or_insert_with(|| encoder(gpu));
        encoder.copy_buffer_to_buffer(from, from_at, to, to_at, bytes);
    }

    /// Hands what was recorded to the driver.
    pub(crate) fn submit(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        self.pass = None;
        self.launches = 0;
        if let Some(encoder) = self.encoder.take() {
            gpu.queue.submit([encoder.finish()]);
        }
        gpu.check(0, || self.doing())
    }

    /// What was being done, for messages.
    pub(crate) fn doing(&self) -> String {
        match self.last.and_then(|i| self.names.get(i as usize)) {
            Some(name) => format!("running the kernels up to `{name}`"),
            None => "before the first kernel".to_owned(),
        }
    }
}

fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("dream") })
}

//! What can run WGSL on this machine, and which of it is taken.

use crate::error::WgpuError;
use std::cmp::Reverse;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Names the adapter to take where the options do not.
pub const ADAPTER_VARIABLE: &str = "DREAM_ADAPTER";

/// Where adapters are looked for. Another crate of the build may have enabled more, such as OpenGL.
const BACKENDS: wgpu::Backends =
    wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// Share of the memory budget, in percent, above which taking memory fails, rather than that the system starts to page.
const BUDGET_PERCENT_MAX: u8 = 95;

/// One device of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// As the driver spells it.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: &'static str,
    /// The driver and its version.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Whether kernels may compute in f16.
    pub f16: bool,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Adapter { name, backend, driver, kind, f16 } = self;
        write!(f, "{name} ({kind}, {backend}, {driver}, {} f16)", if *f16 { "with" } else { "without" })
    }
}

impl Adapter {
    fn of(adapter: &wgpu::Adapter) -> Adapter {
        let wgpu::AdapterInfo { name, device_type, driver, driver_info, backend, .. } = adapter.get_info();
        let kind = match device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        };
        let driver = format!("{driver} {driver_info}").trim().to_owned();
        let f16 = adapter.features().contains(wgpu::Features::SHADER_F16);
        Adapter { name, backend: backend.to_str(), driver, kind, f16 }
    }
}

/// All devices of this machine that run compute kernels, the fastest kind first.
pub fn adapters() -> Vec<Adapter> {
    found().iter().map(Adapter::of).collect()
}

/// The adapter whose name contains `wanted`, whatever the case, or the first one.
pub(crate) fn pick(wanted: Option<&str>) -> Result<(wgpu::Adapter, Adapter), WgpuError> {
    let from_environment = std::env::var(ADAPTER_VARIABLE).ok().filter(|name| !name.is_empty());
    let wanted = wanted.map(str::to_owned).or(from_environment);
    let all: Vec<(wgpu::Adapter, Adapter)> =
        found().into_iter().map(|a| (a.clone(), Adapter::of(&a))).collect();
    if all.is_empty() {
        return Err(WgpuError::NoAdapter);
    }
    let names: Vec<String> = all.iter().map(|(_, a)| format!("`{}`", a.name)).collect();
    let fits = |name: &str| wanted.as_ref().is_none_or(|w| name.to_lowercase().contains(&w.to_lowercase()));
    all.into_iter().find(|(_, a)| fits(&a.name)).ok_or_else(|| WgpuError::NoSuchAdapter {
        wanted: wanted.clone().unwrap_or_default(),
        found: names.join(", "),
    })
}

/// The adapters that compute, the fastest kind first, otherwise as the system lists them.
fn found() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    descriptor.flags = wgpu::InstanceFlags::empty();
    descriptor.memory_budget_thresholds.for_resource_creation = Some(BUDGET_PERCENT_MAX);
    let instance = wgpu::Instance::new(descriptor);
    let mut all = block_on(instance.enumerate_adapters(BACKENDS));
    let computes = wgpu::DownlevelFlags::COMPUTE_SHADERS;
    all.retain(|a| a.get_downlevel_capabilities().flags.contains(computes));
    all.sort_by_key(|a| {
        Reverse(match a.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 4,
            wgpu::DeviceType::IntegratedGpu => 3,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 1,
            wgpu::DeviceType::Cpu => 0,
        })
    });
    all
}

/// Futures of the native backends are ready at once.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        std::thread::yield_now();
    }
}

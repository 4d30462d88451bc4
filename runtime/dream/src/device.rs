//! Which device runs an artifact: the one asked for, or the best that both the file and the machine have.

use crate::{Error, OpenOptions};
use dreamc_artifact::Artifact;
use dreamc_device_cpu::{CpuDevice, CpuOptions};
use dreamc_device_cuda::{CudaDevice, GpuOptions};
use dreamc_device_metal::{MetalDevice, MetalOptions};
use dreamc_device_rocm::RocmDevice;
use dreamc_device_wgpu::{WgpuDevice, WgpuOptions};
use dreamc_runtime::{Device, WeightView};
use std::fmt;
use std::str::FromStr;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// NVIDIA's, through the CUDA driver.
    Cuda,
    /// AMD's, through the HIP runtime.
    Rocm,
    /// Apple's.
    Metal,
    /// Any that WebGPU reaches: Vulkan, Metal, Direct3D.
    Wgpu,
    /// The processor.
    Cpu,
}

impl DeviceKind {
    /// Every kind, the fastest first.
    pub const ALL: [DeviceKind; 5] =
        [DeviceKind::Cuda, DeviceKind::Rocm, DeviceKind::Metal, DeviceKind::Wgpu, DeviceKind::Cpu];

    /// The word before the colon in a target: `cuda` of `cuda:sm_90a`.
    pub const fn name(self) -> &'static str {
        match self {
            DeviceKind::Cuda => "cuda",
            DeviceKind::Rocm => "rocm",
            DeviceKind::Metal => "metal",
            DeviceKind::Wgpu => "wgpu",
            DeviceKind::Cpu => "cpu",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an artifact is to be run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first of [`DeviceKind::ALL`] for which the file has code and the machine a device. A software adapter of
    /// WebGPU comes behind the processor.
    #[default]
    Auto,
    /// This and no other.
    Only(DeviceKind),
    /// None: the file is looked at and not run.
    None,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        if text == "auto" {
            return Ok(DeviceChoice::Auto);
        }
        let kind = DeviceKind::ALL.into_iter().find(|kind| kind.name() == text);
        kind.map(DeviceChoice::Only).ok_or_else(|| {
            let names: Vec<&str> = DeviceKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("unknown; it is one of auto, {}", names.join(", "))
        })
    }
}

/// A device over an artifact's weights, and what it runs.
pub(crate) struct Opened<'a> {
    /// The target, as in the manifest.
    pub(crate) target: String,
    /// What to call it: `cpu, avx512_bf16, 2 threads`.
    pub(crate) about: String,
    /// Whether the device records runs.
    pub(crate) records: bool,
    pub(crate) device: Box<dyn Device + Send + 'a>,
    /// Of a GPU that loads the artifact's binaries.
    pub(crate) identity: Option<Identity>,
}

/// What kernels are chosen for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The device's name.
    pub(crate) name: String,
    /// Its architecture.
    pub(crate) arch: String,
    /// The driver's version; empty if unknown.
    pub(crate) driver: String,
}

/// Opens what was chosen; nothing for [`DeviceChoice::None`].
pub(crate) fn open<'a>(artifact: &Artifact<'a>, options: &OpenOptions) -> Result<Option<Opened<'a>>, Error> {
    let targets = &artifact.manifest().targets;
    let of_kind = |kind: DeviceKind| {
        let is = move |target: &&String| target.split(':').next() == Some(kind.name());
        targets.iter().filter(is).cloned().collect::<Vec<_>>()
    };
    match options.device {
        DeviceChoice::None => Ok(None),
        DeviceChoice::Only(kind) => {
            let mut failed = Error::NoTarget { device: kind.to_string(), targets: targets.join(", ") };
            for target in of_kind(kind) {
                match of_target(artifact, kind, &target, options) {
                    Ok(opened) => return Ok(Some(opened)),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }
        DeviceChoice::Auto => {
            let mut reasons = Vec::new();
            let mut software = None;
            for kind in DeviceKind::ALL {
                for target in of_kind(kind) {
                    match of_target(artifact, kind, &target, options) {
                        Ok(opened) if kind == DeviceKind::Wgpu && is_software(&opened) => {
                            software = software.or(Some(opened));
                        }
                        Ok(opened) => return Ok(Some(opened)),
                        Err(error) => reasons.push((target, error)),
                    }
                }
            }
            match (software, reasons.len()) {
                (Some(opened), _) => Ok(Some(opened)),
                (None, 1) => Err(reasons.remove(0).1),
                (None, _) => {
                    let each = reasons.iter().map(|(target, error)| format!("{target}: {error}"));
                    Err(Error::NoDevice { reasons: each.collect::<Vec<_>>().join("\n") })
                }
            }
        }
    }
}

/// How a software adapter is described.
const SOFTWARE: &str = "(software";

fn is_software(opened: &Opened<'_>) -> bool {
    opened.about.contains(SOFTWARE)
}

fn of_target<'a>(
    artifact: &Artifact<'a>,
    kind: DeviceKind,
    target: &str,
    options: &OpenOptions,
) -> Result<Opened<'a>, Error> {
    let view = |(index, w): (u32, &dreamc_artifact::WeightInfo)| WeightView {
        bytes: artifact.weight(index),
        layout: w.layout,
        dtype: w.dtype,
    };
    let weights: Vec<WeightView<'a>> = (0..).zip(artifact.weights()).map(view).collect();
    let opened = |about: String, device: Box<dyn Device + Send + 'a>| Opened {
        target: target.to_owned(),
        about,
        records: matches!(kind, DeviceKind::Cuda | DeviceKind::Rocm),
        device,
        identity: None,
    };
    let code = artifact.code(target).ok_or_else(|| Error::NoTarget {
        device: target.to_owned(),
        targets: artifact.manifest().targets.join(", "),
    })?;
    match kind {
        DeviceKind::Cpu => {
            let cpu = CpuOptions {
                threads: options.threads,
                isa: options.isa,
                pin: options.pin.clone(),
                prefault: options.lock_weights,
            };
            let device = CpuDevice::new(weights, cpu)?;
            Ok(opened(format!("cpu, {}, {} threads", device.isa(), device.threads()), Box::new(device)))
        }
        DeviceKind::Wgpu => {
            let device = WgpuDevice::new(code, weights, WgpuOptions::default())?;
            Ok(opened(format!("wgpu, {}", device.adapter()), Box::new(device)))
        }
        DeviceKind::Metal => {
            let device = MetalDevice::new(code, weights, MetalOptions::default())?;
            Ok(opened(format!("metal, {}", device.gpu()), Box::new(device)))
        }
        DeviceKind::Cuda => {
            let gpu = GpuOptions { library: options.driver.clone(), ..GpuOptions::default() };
            let device = CudaDevice::new(code, weights, &gpu)?;
            let (name, arch) = (device.name().to_owned(), device.arch());
            let identity = Some(Identity { name, arch, driver: device.driver_version() });
            Ok(Opened { identity, ..opened(format!("cuda, {}", device.about()), Box::new(device)) })
        }
        DeviceKind::Rocm => {
            let gpu = GpuOptions { library: options.driver.clone(), ..GpuOptions::default() };
            let device = RocmDevice::new(code, weights, &gpu)?;
            let (name, arch) = (device.name().to_owned(), device.arch());
            let identity = Some(Identity { name, arch, driver: device.driver_version() });
            Ok(Opened { identity, ..opened(format!("rocm, {}", device.about()), Box::new(device)) })
        }
    }
}

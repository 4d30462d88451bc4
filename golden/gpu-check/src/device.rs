//! The device that is checked: where it is, what is built for it, and what it says of itself.

use dream::DeviceKind;
use dreamc_device_cuda::GpuOptions;
use dreamc_golden::runners::Place;
use dreamc_num::DType;
use serde_json::{Value, json};
use std::process::Command;

/// Architectures of CUDA that binaries are prepared for: Hopper's, and one whose code goes on later devices too.
pub(crate) const ARCHS: [&str; 2] = ["sm_90a", "sm_80"];

/// What is built for an architecture of [`ARCHS`].
pub(crate) fn cuda(arch: &str) -> Result<Place<'static>, String> {
    match arch {
        "sm_90a" => Ok(Place::Device(DeviceKind::Cuda, "cuda:sm_90a")),
        "sm_80" => Ok(Place::Device(DeviceKind::Cuda, "cuda:sm_80")),
        _ => Err(format!("`{arch}` is none of {}", ARCHS.join(", "))),
    }
}

/// The device of a kind, with what it says of itself.
pub(crate) fn find(kind: DeviceKind) -> Result<(Place<'static>, Value), String> {
    match kind {
        DeviceKind::Cuda => {
            let all = dreamc_device_cuda::devices(&GpuOptions::default()).map_err(|e| e.to_string())?;
            let first = all.first().ok_or("there is no CUDA device")?;
            let place = cuda(if first.arch == "sm_90" { "sm_90a" } else { "sm_80" })?;
            let about = json!({"kind": "cuda", "name": first.name, "arch": first.arch, "driver": nvidia()});
            Ok((place, about))
        }
        DeviceKind::Rocm => {
            let all = dreamc_device_rocm::devices(&GpuOptions::default()).map_err(|e| e.to_string())?;
            let first = all.first().ok_or("there is no ROCm device")?;
            let targets = ["rocm:gfx90a", "rocm:gfx942", "rocm:gfx1100"];
            let target = targets.into_iter().find(|t| t.ends_with(&format!(":{}", first.arch)));
            let target = target.ok_or_else(|| format!("nothing is built for {}", first.arch))?;
            let about = json!({"kind": "rocm", "name": first.name, "arch": first.arch});
            Ok((Place::Device(kind, target), about))
        }
        DeviceKind::Wgpu => {
            let all = dreamc_device_wgpu::adapters();
            let first = all.first().ok_or("there is no WebGPU adapter")?;
            Ok((Place::Wgpu, json!({"kind": "wgpu", "name": first.to_string()})))
        }
        DeviceKind::Metal => {
            Ok((Place::Device(kind, "metal"), json!({"kind": "metal", "name": "the system's"})))
        }
        DeviceKind::Cpu => Err("this checks GPUs; `cargo xtask test` checks the CPU".to_owned()),
    }
}

/// What NVIDIA's tool says: driver, memory, clocks and limits change what times mean.
fn nvidia() -> Value {
    let fields =
        "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,persistence_mode";
    let mut command = Command::new("nvidia-smi");
    command.args(["--id=0", "--format=csv,noheader", &format!("--query-gpu={fields}")]);
    match command.output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let pairs = fields.split(',').zip(text.split(',').map(str::trim));
            pairs.map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
        }
        Ok(_) | Err(_) => Value::Null,
    }
}

/// Types that kernels are judged in.
pub(crate) fn dtypes(place: Place<'static>) -> Vec<DType> {
    let mut dtypes = vec![DType::F32, DType::BF16];
    if matches!(place.device(), DeviceKind::Cuda | DeviceKind::Rocm) {
        dtypes.push(DType::F16);
    }
    dtypes
}

//! What an artifact's code needs of an adapter.

use crate::adapter::Adapter;
use crate::error::WgpuError;
use dreamc_artifact::code::{Code, Form, Module};

/// Directive of a module that computes in f16.
const F16: &str = "enable f16;";

/// Features to ask the adapter for.
///
/// # Errors
///
/// The first kernel that `adapter` cannot run.
pub(crate) fn features(
    code: &Code,
    adapter: &Adapter,
    limits: &wgpu::Limits,
) -> Result<wgpu::Features, WgpuError> {
    let mut features = wgpu::Features::empty();
    for module in &code.modules {
        let text = text(module).ok_or_else(|| WgpuError::Form { kernel: module.name.clone() })?;
        if text.contains(F16) {
            if !adapter.f16 {
                let (adapter, kernel) = (adapter.name.clone(), module.name.clone());
                return Err(WgpuError::NoF16 { adapter, kernel });
            }
            features |= wgpu::Features::SHADER_F16;
        }
        check_limits(module, adapter, limits)?;
    }
    Ok(features)
}

/// The module's WGSL.
pub(crate) fn text(module: &Module) -> Option<&str> {
    module.text(Form::Wgsl)
}

/// Whether its block of scalars is bound, behind its buffers.
pub(crate) fn has_info(module: &Module) -> bool {
    !module.info.is_empty()
}

fn check_limits(module: &Module, adapter: &Adapter, limits: &wgpu::Limits) -> Result<(), WgpuError> {
    let [x, y, z] = module.workgroup;
    let buffers = module.buffers.len() as u64 + u64::from(has_info(module));
    let units = [x, y, z].iter().fold(1_u64, |n, axis| n.saturating_mul(u64::from(*axis)));
    let needs = [
        ("storage buffers", buffers, limits.max_storage_buffers_per_shader_stage),
        ("units in a workgroup along x", u64::from(x), limits.max_compute_workgroup_size_x),
        ("units in a workgroup along y", u64::from(y), limits.max_compute_workgroup_size_y),
        ("units in a workgroup along z", u64::from(z), limits.max_compute_workgroup_size_z),
        ("units in a workgroup", units, limits.max_compute_invocations_per_workgroup),
        ("bytes of shared memory", u64::from(module.shared_bytes), limits.max_compute_workgroup_storage_size),
    ];
    match needs.into_iter().find(|(_, needed, max)| *needed > u64::from(*max)) {
        None => Ok(()),
        Some((what, needed, max)) => Err(WgpuError::Limit {
            adapter: adapter.name.clone(),
            kernel: module.name.clone(),
            what,
            needed,
            max: u64::from(max),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_artifact::code::{Buffer, Image};

    fn module(code: &str) -> Module {
        Module {
            name: "f16_add".to_owned(),
            images: vec![Image::any(Form::Wgsl, code.as_bytes().to_vec())],
            workgroup: [8, 1, 1],
            shared_bytes: 0,
            buffers: vec![Buffer { element_bytes: 2, written: true }; 8],
            scalars: Vec::new(),
            grid: [dreamc_artifact::code::Extent::Constant(1); 3],
            info: Vec::new(),
        }
    }

    fn adapter(f16: bool) -> Adapter {
        let name = "old".to_owned();
        Adapter { name, backend: "vulkan", driver: String::new(), kind: "integrated", f16 }
    }

    fn check(module: Module, f16: bool) -> Result<wgpu::Features, WgpuError> {
        let code = Code { modules: vec![module] };
        features(&code, &adapter(f16), &wgpu::Limits::default())
    }

    #[test]
    fn f16_is_asked_for_where_a_module_enables_it() {
        assert_eq!(check(module("enable f16;\n"), true), Ok(wgpu::Features::SHADER_F16));
        assert_eq!(check(module("fn f() {}"), true), Ok(wgpu::Features::empty()));
        let lacks = check(module("enable f16;\n"), false).unwrap_err();
        assert_eq!(
            lacks.to_string(),
            "kernel `f16_add` computes in f16, which `old` cannot; build with --dtype bf16 or f32, or choose another adapter"
        );
    }

    /// WebGPU promises 8 storage buffers: a block of scalars behind 8 others is one too many.
    #[test]
    fn limits_name_the_kernel() {
        let mut wide = module("");
        wide.info = vec![dreamc_artifact::code::Word::Zero];
        let lacks = check(wide, true).unwrap_err().to_string();
        assert!(lacks.starts_with("kernel `f16_add` needs 9 storage buffers, `old` has 8;"), "{lacks}");
        let mut large = module("");
        large.workgroup = [512, 1, 1];
        assert!(matches!(check(large, true), Err(WgpuError::Limit { needed: 512, max: 256, .. })));
        let mut shared = module("");
        shared.shared_bytes = 64 << 10;
        assert!(matches!(check(shared, true), Err(WgpuError::Limit { needed: 65536, .. })));
    }

    #[test]
    fn only_wgsl_runs() {
        let mut msl = module("");
        msl.images[0].form = Form::Msl;
        assert_eq!(check(msl, true), Err(WgpuError::Form { kernel: "f16_add".to_owned() }));
        let mut broken = module("");
        broken.images[0].bytes = vec![0xff];
        assert!(matches!(check(broken, true), Err(WgpuError::Form { .. })));
    }
}

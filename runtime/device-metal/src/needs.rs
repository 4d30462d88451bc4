//! What an artifact's code needs of a device.

use crate::driver::{Compiled, Limits};
use crate::error::MetalError;
use dreamc_artifact::code::{Code, Form, Module};

/// Most buffers of a Metal kernel, the block of scalars included.
const BUFFER_COUNT_MAX: u64 = 31;

/// Whether a device of these limits may run `code`.
///
/// # Errors
///
/// The first kernel that it cannot run.
pub(crate) fn check(code: &Code, device: &str, limits: &Limits) -> Result<(), MetalError> {
    for module in &code.modules {
        if text(module).is_none() {
            return Err(MetalError::Form { kernel: module.name.clone() });
        }
        let [x, y, z] = module.workgroup.map(u64::from);
        let [x_max, y_max, z_max] = limits.units.map(u64::from);
        let buffers = module.buffers.len() as u64 + u64::from(has_info(module));
        let needs = [
            ("buffers", buffers, BUFFER_COUNT_MAX),
            ("units in a workgroup along x", x, x_max),
            ("units in a workgroup along y", y, y_max),
            ("units in a workgroup along z", z, z_max),
            ("bytes of shared memory", u64::from(module.shared_bytes), limits.shared_bytes),
        ];
        if let Some((what, needed, max)) = needs.into_iter().find(|(_, needed, max)| needed > max) {
            let (device, kernel) = (device.to_owned(), module.name.clone());
            return Err(MetalError::Limit { device, kernel, what, needed, max });
        }
    }
    Ok(())
}

/// Whether the compiled kernel takes the workgroups that it is launched with. Registers decide that: it is not known
/// before.
pub(crate) fn fits<K>(module: &Module, limits: &Limits, compiled: &Compiled<K>) -> Result<(), String> {
    let units = module.workgroup.iter().fold(1_u64, |n, axis| n.saturating_mul(u64::from(*axis)));
    if units > compiled.units_max {
        return Err(format!(
            "it is launched with {units} units in a workgroup and takes {}",
            compiled.units_max
        ));
    }
    if compiled.shared_bytes > limits.shared_bytes {
        return Err(format!(
            "it needs {} bytes of shared memory, the device has {}",
            compiled.shared_bytes, limits.shared_bytes
        ));
    }
    Ok(())
}

/// The module's MSL.
pub(crate) fn text(module: &Module) -> Option<&str> {
    module.text(Form::Msl)
}

/// Whether its block of scalars is bound, behind its buffers.
pub(crate) fn has_info(module: &Module) -> bool {
    !module.info.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{LIMITS, module};

    fn checked(module: Module) -> Result<(), MetalError> {
        check(&Code { modules: vec![module] }, "old", &LIMITS)
    }

    #[test]
    fn limits_name_the_kernel() {
        let fine = || module("f32_add", 2, &[]);
        assert_eq!(checked(fine()), Ok(()));
        let mut wide = fine();
        wide.workgroup = [1, 1, 65];
        assert_eq!(
            checked(wide).unwrap_err().to_string(),
            "kernel `f32_add` needs 65 units in a workgroup along z, `old` has 64; choose another device or another target"
        );
        let mut shared = fine();
        shared.shared_bytes = 33 << 10;
        assert!(matches!(checked(shared), Err(MetalError::Limit { needed: 33792, max: 32768, .. })));
        let mut many = module("f32_add", 31, &[]);
        assert_eq!(checked(many.clone()), Ok(()));
        many.info = vec![dreamc_artifact::code::Word::Zero];
        assert!(matches!(checked(many), Err(MetalError::Limit { what: "buffers", needed: 32, .. })));
    }

    #[test]
    fn only_msl_runs() {
        let mut wgsl = module("f32_add", 1, &[]);
        wgsl.images[0].form = Form::Wgsl;
        assert_eq!(checked(wgsl), Err(MetalError::Form { kernel: "f32_add".to_owned() }));
        let mut broken = module("f32_add", 1, &[]);
        broken.images[0].bytes = vec![0xff];
        assert!(matches!(checked(broken), Err(MetalError::Form { .. })));
    }

    #[test]
    fn a_workgroup_too_large_for_its_registers() {
        let module = module("f32_add", 1, &[]);
        let compiled = |units_max, shared_bytes| Compiled { kernel: (), units_max, shared_bytes };
        assert_eq!(fits(&module, &LIMITS, &compiled(32, 32 << 10)), Ok(()));
        assert!(fits(&module, &LIMITS, &compiled(31, 0)).unwrap_err().contains("32 units"));
        assert!(fits(&module, &LIMITS, &compiled(32, 40 << 10)).unwrap_err().contains("40960 bytes"));
    }
}

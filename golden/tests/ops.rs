//! Every op on every device that there is without one: the CPU in all instruction sets, WebGPU, and the sources for CUDA,
//! ROCm and Metal on the host.

use dreamc_golden::graph::{On, execute_all, weight};
use dreamc_golden::ops::{ENTRY, cases};
use dreamc_kernels::Target;
use dreamc_num::DType;

fn judge(on: On, dtypes: &[DType], fp8: bool) {
    for case in cases().into_iter().filter(|case| case.fp8 == fp8) {
        let all = if case.exact { &[DType::F32][..] } else { dtypes };
        for dtype in all {
            case.judge(*dtype, &|module, requests| execute_all(module, ENTRY, requests, on, &weight));
        }
    }
}

#[test]
fn on_the_cpu() {
    for on in On::cpus() {
        judge(on, &[DType::F32, DType::BF16], false);
    }
}

#[test]
fn on_wgpu() {
    judge(On::Wgpu, &[DType::F32, DType::BF16], false);
}

/// Both engines: units in f32, matrix units in 16 bits.
#[test]
fn for_cuda() {
    judge(On::Host("sm_80"), &[DType::F32, DType::BF16], false);
}

#[test]
fn for_cuda_in_fp8() {
    assert!(Target::named("sm_89").is_some_and(|target| target.capabilities().fp8));
    judge(On::Host("sm_89"), &[DType::BF16], true);
}

/// Warpgroups multiply, in bf16 and in fp8.
#[test]
fn for_hopper() {
    judge(On::Groups, &[DType::BF16], false);
    judge(On::Groups, &[DType::BF16], true);
}

#[test]
fn for_rocm() {
    judge(On::Host("gfx942"), &[DType::F32], false);
}

#[test]
fn for_metal() {
    judge(On::Host("metal3"), &[DType::F32], false);
}

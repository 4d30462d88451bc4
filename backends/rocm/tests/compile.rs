//! Every kernel becomes code for every AMD target, the same code each time, and errors say what is wrong.

#[path = "../../tests/sources.rs"]
mod sources;

use dreamc_backend::toolchain::Search;
use dreamc_backend_rocm::{Clang, CompileError};
use sources::{in_parallel, sources};

/// A kernel that uses more of the prelude than the snapshots do.
const PRELUDE: &str = r#"
#include <hip/hip_bf16.h>
extern "C" __global__ void __launch_bounds__(64) prelude(
    float *x, __half *h, __hip_bfloat16 *b, unsigned long long *u, unsigned *c) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x + gridDim.y;
  x[i] = __shfl_xor(x[i], 1) + __shfl_up(x[i], 2u) + __shfl_down(x[i], 1u) + __shfl(x[i], 3) + warpSize;
  u[i] = __shfl(u[i], 3) + __ballot(x[i] > 0);
  h[i] = __hfma(hexp(__shfl(h[i], 1)), h[i], h[i]);
  b[i] = __hmax(b[i] * b[i], __hip_bfloat16(0));
  if (__any(x[i] > 1) && __all(x[i] > 0)) atomicAdd(x, 1.0f);
  c[1] = atomicCAS(c, 1u, 2u) + atomicMax(c, 3u) + __popc(c[2]) + __clz(c[3]) + __umulhi(c[4], c[5]);
  __threadfence();
  __syncthreads();
  x[i] = pow(x[i], 2.0f) + tanh(x[i]) + erf(x[i]) + rsqrt(x[i]) + min(x[i], 1.0f) + log(x[i]) + sin(x[i]);
}
"#;

fn clang() -> Clang {
    Clang::find(&Search::new()).unwrap_or_else(|error| panic!("{error}"))
}

fn contains(code: &[u8], text: &str) -> bool {
    code.windows(text.len()).any(|window| window == text.as_bytes())
}

fn compile_all(arch: &str) {
    let clang = clang();
    in_parallel(&sources("gfx942"), |name, source| {
        let code = clang.compile(name, source, arch).unwrap_or_else(|error| panic!("{error}"));
        assert!(code.starts_with(b"\x7fELF"));
        assert!(contains(&code, &format!("{name}.kd")), "{name} has no entry");
        assert!(contains(&code, &format!("amdgcn-amd-amdhsa--{arch}")), "{name} is not for {arch}");
        // The settings are folded into the code; left as variables, every `exp` would read them.
        assert!(!contains(&code, "__oclc"), "{name} has settings");
    });
}

#[test]
fn kernels_for_cdna3() {
    compile_all("gfx942");
}

#[test]
fn kernels_for_cdna2() {
    compile_all("gfx90a");
}

#[test]
fn kernels_for_rdna3() {
    compile_all("gfx1100");
}

#[test]
fn prelude_for_planes_of_both_sizes() {
    let clang = clang();
    for arch in ["gfx90a", "gfx942", "gfx1100"] {
        clang.compile("prelude", PRELUDE, arch).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The settings of the second compiler are new, and so are all folders.
#[test]
fn the_same_bytes_twice() {
    let [a, b] = [clang(), clang()];
    let sources = sources("gfx942");
    for (name, source) in sources.iter().step_by(8) {
        let [first, second] = [&a, &b].map(|clang| clang.compile(name, source, "gfx942").unwrap());
        assert!(first == second, "{name}");
        assert!(!contains(&first, "/tmp") && !contains(&first, "/usr"), "{name} holds a path");
    }
}

#[test]
fn broken_source_is_shown() {
    let error =
        clang().compile("f32_broken", "extern \"C\" __global__ void f32_broken() { x = 1; }", "gfx942");
    let error = error.unwrap_err();
    assert!(matches!(error, CompileError::Source { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("kernel `f32_broken` does not compile:\nkernel.hip:1:"), "{text}");
    assert!(text.contains("undeclared identifier 'x'"), "{text}");
}

#[test]
fn unknown_architectures_are_refused() {
    for arch in ["gfx999", "sm_80", ""] {
        let error = clang().compile("prelude", PRELUDE, arch).unwrap_err();
        assert!(matches!(error, CompileError::Arch { .. }), "{error}");
        assert!(error.to_string().contains(&format!("cannot compile for `{arch}`")), "{error}");
    }
}

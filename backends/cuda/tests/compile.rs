//! Every kernel becomes code for NVIDIA devices, the same code each time, and errors say what is wrong.

#[path = "../../tests/sources.rs"]
mod sources;

use dreamc_backend::toolchain::Search;
use dreamc_backend_cuda::{CompileError, Nvrtc, ToolchainError};
use sources::{in_parallel, sources};

/// Needs the headers of all packages.
const MATRIX: &str = r#"
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <mma.h>
#include <cuda/std/type_traits>
extern "C" __global__ void bf16_matrix(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *y) {
  nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16, nvcuda::wmma::row_major> fa;
  nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16, nvcuda::wmma::col_major> fb;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> fy;
  nvcuda::wmma::fill_fragment(fy, 0.0f);
  nvcuda::wmma::load_matrix_sync(fa, a, 16);
  nvcuda::wmma::load_matrix_sync(fb, b, 16);
  nvcuda::wmma::mma_sync(fy, fa, fb, fy);
  nvcuda::wmma::store_matrix_sync(y, fy, 16, nvcuda::wmma::mem_row_major);
}
"#;

fn nvrtc() -> Nvrtc {
    Nvrtc::find(&Search::new()).unwrap_or_else(|error| panic!("{error}"))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn compile_all(arch: &str) {
    let nvrtc = nvrtc();
    in_parallel(&sources("sm_80"), |name, source| {
        let binary = nvrtc.compile(name, source, arch).unwrap_or_else(|error| panic!("{error}"));
        assert!(binary.cubin.starts_with(b"\x7fELF"));
        assert!(contains(&binary.cubin, &format!(".text.{name}")), "{name} has no entry");
        assert!(contains(&binary.ptx, &format!(".target {arch}")), "{name} is not for {arch}");
        assert_eq!(binary.ptx.last(), Some(&0));
        if name.contains("_matrix") {
            assert!(contains(&binary.ptx, "mma.sync.aligned"), "{name} has no use of matrix units");
        }
    });
}

#[test]
fn kernels_for_ampere() {
    compile_all("sm_80");
}

#[test]
fn kernels_for_hopper() {
    compile_all("sm_90a");
}

/// Every other architecture that there is a target for takes what matrix units run.
#[test]
fn kernels_for_the_others() {
    let nvrtc = nvrtc();
    let mut sources = sources("sm_80");
    sources.retain(|(name, _)| name.contains("_matrix"));
    assert!(sources.len() >= 4);
    for arch in ["sm_86", "sm_87", "sm_89", "sm_100", "sm_103", "sm_120", "sm_121"] {
        in_parallel(&sources, |name, source| {
            let binary = nvrtc.compile(name, source, arch).unwrap_or_else(|error| panic!("{error}"));
            assert!(contains(&binary.ptx, &format!(".target {arch}")), "{name} is not for {arch}");
        });
    }
}

/// For the architecture that multiplies fp8.
#[test]
fn kernels_of_fp8() {
    const MMA: &str = "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32";
    let (nvrtc, sources) = (nvrtc(), sources("sm_89"));
    assert!(sources.len() >= 3);
    in_parallel(&sources, |name, source| {
        let binary = nvrtc.compile(name, source, "sm_89").unwrap_or_else(|error| panic!("{error}"));
        assert!(contains(&binary.cubin, &format!(".text.{name}")), "{name} has no entry");
        assert_eq!(contains(&binary.ptx, MMA), name.contains("_linear_"), "{name}");
    });
}

#[test]
fn headers_are_there() {
    let binary = nvrtc().compile("bf16_matrix", MATRIX, "sm_80").unwrap_or_else(|error| panic!("{error}"));
    assert!(contains(&binary.ptx, "wmma.mma.sync"));
}

#[test]
fn the_same_bytes_twice() {
    let [a, b] = [nvrtc(), nvrtc()];
    let mut sources = sources("sm_80");
    sources.push(("bf16_matrix".to_owned(), MATRIX.to_owned()));
    for (name, source) in sources.iter().rev().step_by(8) {
        let [first, second] = [&a, &b].map(|nvrtc| nvrtc.compile(name, source, "sm_80").unwrap());
        assert!(first == second, "{name}");
        for part in [&first.cubin, &first.ptx] {
            let path =
                ["/toolchain/", "/usr/", "include/", ".cu\0"].into_iter().find(|it| contains(part, it));
            assert_eq!(path, None, "{name}");
        }
    }
}

#[test]
fn broken_source_is_shown() {
    let source = "extern \"C\" __global__ void f32_broken() { x = 1; }";
    let error = nvrtc().compile("f32_broken", source, "sm_80").unwrap_err();
    assert!(matches!(error, CompileError::Source { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("kernel `f32_broken` does not compile:\nf32_broken.cu(1): error:"), "{text}");
    assert!(text.contains("identifier \"x\" is undefined"), "{text}");
    let error = nvrtc().compile("f32_zero", "a\0b", "sm_80").unwrap_err();
    assert!(matches!(error, CompileError::ZeroByte { .. }), "{error}");
}

#[test]
fn unknown_architectures_are_refused() {
    for arch in ["sm_999", "compute_80", "gfx942", ""] {
        let error = nvrtc().compile("bf16_matrix", MATRIX, arch).unwrap_err();
        assert!(matches!(error, CompileError::Arch { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("cannot compile for `{arch}`")) && text.contains("sm_80"), "{text}");
    }
}

#[test]
fn missing_toolchain_says_how_to_get_it() {
    let error = Nvrtc::find(&Search::nowhere().and("/no/such/folder")).unwrap_err();
    assert!(matches!(error, ToolchainError::Missing(_)), "{error}");
    let text = error.to_string();
    for part in ["cargo xtask toolchain", "DREAM_TOOLCHAIN", "/no/such/folder/cuda/lib/libnvrtc.so.12"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

#[test]
fn unusable_library_is_named() {
    // A file in the library's place that is none.
    let folder = std::env::temp_dir().join(format!("dreamc-backend-cuda-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("cuda/lib")).unwrap();
    std::fs::write(folder.join("cuda/lib/libnvrtc.so.12"), "not a library").unwrap();
    let error = Nvrtc::find(&Search::nowhere().and(&folder)).unwrap_err();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(error, ToolchainError::Unusable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("cuda/lib/libnvrtc.so.12 cannot be used"), "{text}");
    assert!(text.contains("cargo xtask toolchain"), "{text}");
}

//! Every kernel parses, and what is not Metal is refused.

#[path = "../../tests/sources.rs"]
mod sources;

use dreamc_backend::toolchain::Search;
use dreamc_backend_metal::{CheckError, Checker};
use sources::{in_parallel, sources};

fn checker() -> Checker {
    Checker::find(&Search::new()).unwrap_or_else(|error| panic!("{error}"))
}

/// A kernel with `body`.
fn kernel(body: &str) -> String {
    format!(
        "#include <metal_stdlib>\nusing namespace metal;\n\
         [[kernel]] void k(device float *y [[buffer(0)]], constant float &x, uint3 i [[thread_position_in_grid]]) {{\n\
         {body}\n}}\n"
    )
}

#[test]
fn kernels_parse() {
    let checker = checker();
    in_parallel(&sources("metal3"), |name, source| {
        checker.check(name, source).unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn planes_and_matrices_parse() {
    let body = "
        threadgroup half a[64];
        simdgroup_half8x8 m_store;
        thread simdgroup_half8x8 *m = &m_store;
        simdgroup_float8x8 c_store;
        thread simdgroup_float8x8 *c = &c_store;
        *c = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        simdgroup_load(*m, a, 8, 0, false);
        simdgroup_multiply_accumulate(*c, *m, *m, *c);
        simdgroup_store(*c, y, 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        y[i[0]] = simd_sum(y[i[0]]) + float(uint(ulong(simd_ballot(x > 0.0f)))) + c->thread_elements()[1];
        y[0] = simd_shuffle_xor(y[0], 1u);
    ";
    checker().check("k", &kernel(body)).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_is_wrong_is_refused() {
    let checker = checker();
    for (body, said) in [
        ("y[0] = ;", "expected expression"),
        ("y[0] = no_such_function(1.0f);", "no_such_function"),
        ("threadgroup float s[4]; device float *p = &s[0];", "cannot initialize"),
        ("thread float *p = y;", "cannot initialize"),
        ("x = 1.0f;", "cannot assign"),
    ] {
        let error = checker.check("k", &kernel(body)).unwrap_err();
        assert!(matches!(error, CheckError::Source { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("kernel `k` is not Metal:\nkernel.metal:4:"), "{text}");
        assert!(text.contains(said), "no `{said}` in: {text}");
    }
    let error = checker.check("k", "[[kernal]] void k() {}").unwrap_err();
    assert!(matches!(error, CheckError::Attribute { ref attribute, .. } if attribute == "kernal"), "{error}");
    assert!(matches!(checker.check("other", &kernel("")), Err(CheckError::Entry { .. })));
}

#[test]
fn missing_clang_says_how_to_get_it() {
    let error = Checker::find(&Search::nowhere()).unwrap_err().to_string();
    assert!(error.contains("cargo xtask toolchain") && error.contains("DREAM_CLANG"), "{error}");
}

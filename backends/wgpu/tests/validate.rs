//! Every kernel is valid, and what is not is refused.

#[path = "../../tests/sources.rs"]
mod sources;

use dreamc_backend_wgpu::{ValidateError, validate};
use sources::sources;

#[test]
fn kernels_are_valid() {
    let sources = sources("wgsl");
    assert!(!sources.is_empty());
    for (name, source) in sources {
        validate(&name, &source, false).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn kernels_with_f16_are_valid_only_with_it() {
    let sources = sources("wgsl-f16");
    assert!(!sources.is_empty());
    for (name, source) in sources {
        validate(&name, &source, true).unwrap_or_else(|error| panic!("{error}"));
        assert!(validate(&name, &source, false).is_err(), "{name}");
    }
}

#[test]
fn broken_source_is_shown() {
    let error = validate("f32_broken", "fn f32_broken() { let x = ; }", false).unwrap_err();
    assert!(matches!(error, ValidateError::Parse { .. }));
    let text = error.to_string();
    assert!(text.starts_with("kernel `f32_broken` is not WGSL:") && text.contains("let x = ;"), "{text}");
}

#[test]
fn features_beyond_the_core_are_refused() {
    let source = "
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(64)
        fn f32_sum(@builtin(local_invocation_index) i: u32) { y[i] = subgroupAdd(y[i]); }
    ";
    let error = validate("f32_sum", source, false).unwrap_err();
    assert!(matches!(error, ValidateError::Invalid { f16: false, .. }), "{error}");
}

#[test]
fn entry_must_have_the_kernels_name() {
    let source = "@compute @workgroup_size(1) fn other() {}";
    assert!(matches!(validate("f32_zero", source, false), Err(ValidateError::Entry { .. })));
}

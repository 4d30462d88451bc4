//! Runs CUDA C++, HIP C++ and Metal's language on the CPU: the source as it is, compiled with the stub headers of
//! `tests/host`, whose `units.cpp` runs the units of a workgroup in turn and says what a device would not.

use crate::execute::{Executor, metal_arguments};
use crate::library::{Language, Source};
use dreamc_kernels::{Emitted, Form};
use std::path::Path;
use std::sync::LazyLock;

static EXECUTOR: LazyLock<Executor> = LazyLock::new(|| {
    let headers = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host"));
    Executor::new(headers, Path::new(env!("CARGO_TARGET_TMPDIR")))
});

/// Runs the kernel; the buffers hold afterwards what it left in them.
pub(crate) fn run(emitted: &Emitted, buffers: &mut [Vec<u8>], info: &[u32], grid: [u32; 3]) {
    let (language, rest) = match emitted.form {
        Form::Cuda => (Language::Cuda, String::new()),
        Form::Hip => (Language::Hip, String::new()),
        Form::Msl => (Language::Metal, metal_arguments(&emitted.source, emitted.buffers.len())),
        Form::Wgsl => unreachable!("it is no C++"),
    };
    let source = Source {
        name: &emitted.name,
        language,
        text: &emitted.source,
        rest,
        buffers: emitted.buffers.len(),
        words: emitted.info.words.len(),
        workgroup: emitted.workgroup,
        shared_bytes: emitted.shared_bytes,
    };
    EXECUTOR.run(&source, buffers, info, grid);
}

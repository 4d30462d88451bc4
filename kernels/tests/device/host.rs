//! Runs CUDA C++, HIP C++ and Metal's language on the CPU: the source as it is, compiled with the stub headers of
//! `tests/host`, whose `units.cpp` runs the units of a workgroup in turn and says what a device would not.

#![allow(unsafe_code, reason = "compiled kernels are loaded and called")]

#[path = "../host/library.rs"]
mod library;

use dreamc_kernels::{Emitted, Form};
use libloading::Library;
use library::{Compiler, Language, Source};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

/// As `run.h` has it.
const SHARED_GUARD_BYTES: usize = 64;

/// As `run.h` has it.
#[repr(C)]
struct Buffer {
    data: *mut c_void,
    bytes: usize,
}

/// As `run.h` has it.
#[repr(C)]
struct Run {
    unit: *const c_void,
    buffers: *const Buffer,
    count: usize,
    info: Buffer,
    grid: [u32; 3],
    block: [u32; 3],
    shared: Buffer,
    backwards: bool,
    barriers: bool,
    in_place: bool,
}

/// As `run.h` has it.
#[repr(C)]
struct Kernel {
    name: *const c_char,
    unit: *const c_void,
    shared: *mut c_void,
    shared_bytes: usize,
    buffers: u32,
    words: u32,
    block: [u32; 3],
    barriers: bool,
}

type DreamRun = unsafe extern "C" fn(*const Run) -> *const c_char;

/// A loaded kernel. Its shared memory is one block: only one launch at a time may use it.
struct Loaded {
    library: Library,
}

type Cache = BTreeMap<[u8; 32], Arc<OnceLock<Mutex<Loaded>>>>;

static COMPILER: LazyLock<Compiler> = LazyLock::new(|| {
    let headers = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host"));
    Compiler::new(headers, Path::new(env!("CARGO_TARGET_TMPDIR")))
});

fn load(path: &Path) -> Library {
    // SAFETY: what is run on loading is what a C++ compiler makes of sources without static constructors.
    unsafe { Library::new(path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What runs units.
fn units() -> &'static Library {
    static UNITS: OnceLock<Library> = OnceLock::new();
    UNITS.get_or_init(|| load(COMPILER.units()))
}

/// The arguments behind the block of scalars, by their attributes; buffers stand in the order of their numbers.
fn metal_arguments(emitted: &Emitted) -> String {
    let line = emitted.source.lines().find(|line| line.contains("[[kernel]]")).expect("an entry");
    let attributes = line.split("[[").skip(3).map(|rest| rest.split("]]").next().unwrap_or_default());
    let mut text = String::new();
    let mut buffers = 0;
    for attribute in attributes {
        text += match attribute {
            "thread_position_in_threadgroup" => ", threadIdx",
            "threadgroup_position_in_grid" => ", blockIdx",
            "threadgroups_per_grid" => ", gridDim",
            "thread_index_in_threadgroup" => {
                ", threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)"
            }
            _ => {
                assert_eq!(attribute, format!("buffer({buffers})"), "{line}");
                buffers += 1;
                ""
            }
        };
    }
    assert_eq!(buffers, emitted.buffers.len(), "{line}");
    text
}

fn compile(emitted: &Emitted) -> Loaded {
    let (language, rest) = match emitted.form {
        Form::Cuda => (Language::Cuda, String::new()),
        Form::Hip => (Language::Hip, String::new()),
        Form::Msl => (Language::Metal, metal_arguments(emitted)),
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
    Loaded { library: load(&COMPILER.kernel(&source)) }
}

/// Runs the kernel; the buffers hold afterwards what it left in them.
pub(crate) fn run(emitted: &Emitted, buffers: &mut [Vec<u8>], info: &[u32], grid: [u32; 3]) {
    static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);
    let key = *blake3::hash(emitted.source.as_bytes()).as_bytes();
    let cell = {
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cache.entry(key).or_default())
    };
    let loaded = cell.get_or_init(|| Mutex::new(compile(emitted)));
    let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
    let views: Vec<Buffer> =
        buffers.iter_mut().map(|b| Buffer { data: b.as_mut_ptr().cast(), bytes: b.len() }).collect();
    let mut info = info.to_vec();
    // SAFETY: the library and `units.cpp` define these symbols with these types; `units.cpp` copies buffers of the given
    // sizes in and out, and the block of scalars is as large as the kernel's, which the library's source asserts.
    let (wrong, tail) = unsafe {
        let kernel = loaded.library.get::<*const Kernel>("dream_kernel").expect("defined");
        let kernel = &**kernel;
        let shared_bytes = if kernel.shared.is_null() { 0 } else { kernel.shared_bytes + SHARED_GUARD_BYTES };
        let run = Run {
            unit: kernel.unit,
            buffers: views.as_ptr(),
            count: views.len(),
            info: Buffer { data: info.as_mut_ptr().cast(), bytes: 4 * info.len() },
            grid,
            block: emitted.workgroup,
            shared: Buffer { data: kernel.shared, bytes: shared_bytes },
            backwards: emitted.form == Form::Hip,
            barriers: kernel.barriers,
            in_place: false,
        };
        let wrong = units().get::<DreamRun>("dream_run").expect("defined")(&raw const run);
        let wrong = (!wrong.is_null()).then(|| CStr::from_ptr(wrong).to_string_lossy().into_owned());
        let tail = match shared_bytes.checked_sub(SHARED_GUARD_BYTES) {
            Some(first) => {
                std::slice::from_raw_parts(kernel.shared.cast::<u8>().add(first), SHARED_GUARD_BYTES).to_vec()
            }
            None => Vec::new(),
        };
        (wrong, tail)
    };
    if let Some(wrong) = wrong {
        panic!("{} as {}: {wrong}\n{}", emitted.name, emitted.form, emitted.source);
    }
    assert!(tail.iter().all(|b| *b == 0xff), "{}: wrote behind its shared memory", emitted.name);
}

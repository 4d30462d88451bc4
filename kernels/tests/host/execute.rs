//! Runs kernels that `library.rs` compiled: the units of a workgroup in turn, on this thread.

use crate::library::{Compiler, Language, Source};
use libloading::Library;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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

/// Compiles, keeps and runs kernels.
pub(crate) struct Executor {
    compiler: Compiler,
    units: OnceLock<Library>,
    cache: Mutex<Cache>,
}

fn load(path: &Path) -> Library {
    // SAFETY: what is run on loading is what a C++ compiler makes of sources without static constructors.
    unsafe { Library::new(path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What Metal's entries take behind the block of scalars, by their attributes; buffers stand in the order of their numbers.
pub(crate) fn metal_arguments(source: &str, count: usize) -> String {
    let line = source.lines().find(|line| line.contains("[[kernel]]")).expect("an entry");
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
    assert_eq!(buffers, count, "{line}");
    text
}

impl Executor {
    /// With the headers of `kernels/tests/host`, and libraries in `folder`.
    pub(crate) fn new(headers: &Path, folder: &Path) -> Executor {
        Executor { compiler: Compiler::new(headers, folder), units: OnceLock::new(), cache: Mutex::default() }
    }

    /// Runs the kernel; the buffers hold afterwards what it left in them.
    pub(crate) fn run(&self, source: &Source<'_>, buffers: &mut [Vec<u8>], info: &[u32], grid: [u32; 3]) {
        let Source { name, language, text, .. } = source;
        let key = *blake3::hash(text.as_bytes()).as_bytes();
        let cell = {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cache.entry(key).or_default())
        };
        let loaded = cell.get_or_init(|| Mutex::new(Loaded { library: load(&self.compiler.kernel(source)) }));
        let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let units = self.units.get_or_init(|| load(self.compiler.units()));
        let views: Vec<Buffer> =
            buffers.iter_mut().map(|b| Buffer { data: b.as_mut_ptr().cast(), bytes: b.len() }).collect();
        let mut info = info.to_vec();
        // SAFETY: the library and `units.cpp` define these symbols with these types; `units.cpp` copies buffers of the given
        // sizes in and out, and the block of scalars is as large as the kernel's, which the library's source asserts.
        let (wrong, tail) = unsafe {
            let kernel = loaded.library.get::<*const Kernel>("dream_kernel").expect("defined");
            let kernel = &**kernel;
            let shared_bytes =
                if kernel.shared.is_null() { 0 } else { kernel.shared_bytes + SHARED_GUARD_BYTES };
            let run = Run {
                unit: kernel.unit,
                buffers: views.as_ptr(),
                count: views.len(),
                info: Buffer { data: info.as_mut_ptr().cast(), bytes: 4 * info.len() },
                grid,
                block: source.workgroup,
                shared: Buffer { data: kernel.shared, bytes: shared_bytes },
                backwards: *language == Language::Hip,
                barriers: kernel.barriers,
                in_place: false,
            };
            let wrong = units.get::<DreamRun>("dream_run").expect("defined")(&raw const run);
            let wrong = (!wrong.is_null()).then(|| CStr::from_ptr(wrong).to_string_lossy().into_owned());
            let tail = match shared_bytes.checked_sub(SHARED_GUARD_BYTES) {
                Some(first) => {
                    std::slice::from_raw_parts(kernel.shared.cast::<u8>().add(first), SHARED_GUARD_BYTES)
                        .to_vec()
                }
                None => Vec::new(),
            };
            (wrong, tail)
        };
        if let Some(wrong) = wrong {
            panic!("{name} as {}: {wrong}\n{text}", language.name());
        }
        assert!(tail.iter().all(|b| *b == 0xff), "{name}: wrote behind its shared memory");
    }
}

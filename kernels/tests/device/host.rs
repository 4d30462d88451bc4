//! Runs CUDA C++, HIP C++ and Metal's language on the CPU: the source as it is, compiled with the stub headers of
//! `tests/host`, whose `units.cpp` runs the units of a workgroup in turn and says what a device would not.

#![allow(unsafe_code, reason = "compiled kernels are loaded and called")]

use dreamc_kernels::{Emitted, Form};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

/// Found behind the shared memory of a workgroup, and still there afterwards.
const GUARD: usize = 64;

const HEADERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host");

/// As `units.cpp` has it.
#[repr(C)]
struct Buffer {
    data: *mut c_void,
    bytes: usize,
}

/// As `units.cpp` has it.
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
}

type DreamRun = unsafe extern "C" fn(*const Run) -> *const c_char;

/// A loaded kernel. Its shared memory is one block: only one launch at a time may use it.
struct Loaded {
    library: Library,
}

type Cache = BTreeMap<[u8; 32], Arc<OnceLock<Mutex<Loaded>>>>;

/// The compiler.
fn clang() -> &'static str {
    static CLANG: OnceLock<String> = OnceLock::new();
    CLANG.get_or_init(|| {
        let given = std::env::var("DREAM_CLANG").ok();
        let names = given.into_iter().chain(["clang-19".to_owned(), "clang++".to_owned()]);
        let works = |name: &String| {
            let mut command = Command::new(name);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        names.into_iter().find(works).unwrap_or_else(|| {
            panic!("no clang; this installs one: apt-get install -y clang-19 (or name yours in DREAM_CLANG)")
        })
    })
}

/// Compiles to a library and loads it.
fn load(name: &str, source: &str, arguments: &[&str], flags: i32) -> Library {
    let path: PathBuf =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}.so", std::process::id()));
    let mut child = Command::new(clang())
        .args(["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-isystem", HEADERS])
        .args(arguments)
        .arg("-o")
        .arg(&path)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the compiler starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(source.as_bytes()).expect("the compiler reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the compiler ends");
    assert!(output.status.success(), "{name}: {}\n{source}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: what is run on loading is what a C++ compiler makes of sources without static constructors.
    let library = unsafe { Library::open(Some(&path), flags) }.unwrap_or_else(|e| panic!("{name}: {e}"));
    std::fs::remove_file(&path).expect("it was just made");
    library
}

/// What runs units; its symbols are seen by all kernels.
fn units() -> &'static Library {
    static UNITS: OnceLock<Library> = OnceLock::new();
    UNITS.get_or_init(|| {
        let source = std::fs::read_to_string(format!("{HEADERS}/units.cpp")).expect("it is there");
        load("units", &source, &["-Wall", "-Wextra", "-Werror"], RTLD_NOW | RTLD_GLOBAL)
    })
}

/// The number in parentheses behind `word`.
fn number_behind(source: &str, word: &str) -> u32 {
    let rest = &source[source.find(word).unwrap_or_else(|| panic!("no {word} in {source}")) + word.len()..];
    rest[1..rest.find(')').expect("it is closed")].parse().expect("a number")
}

/// Name of the dynamic shared memory.
fn shared_name(source: &str) -> Option<&str> {
    let line = source.split("extern __shared__ ").nth(1)?;
    line.split("[]").next()?.split(' ').next_back()
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

/// Behind the source: an entry that is called the same way whatever the form.
fn wrapped(emitted: &Emitted) -> String {
    let Emitted { name, form, source, buffers, info, shared_bytes, workgroup, .. } = emitted;
    let block = match form {
        Form::Cuda => "*static_cast<info_st const *>(info)",
        Form::Hip | Form::Msl => "Bound{info}",
        Form::Wgsl => unreachable!("it is no C++"),
    };
    let (limit, rest) = match form {
        Form::Msl => ("max_total_threads_per_threadgroup", metal_arguments(emitted)),
        _ => ("__launch_bounds__", String::new()),
    };
    assert!(number_behind(source, limit) >= workgroup.iter().product::<u32>(), "{name}: {source}");
    let mut text = format!("{source}\nstatic_assert(sizeof(info_st) == {});\n", 4 * info.words.len());
    if let Some(shared) = shared_name(source) {
        let bytes = *shared_bytes as usize + GUARD;
        let _ = writeln!(text, "__attribute__((aligned(256))) char {shared}[{bytes}];");
        let _ = writeln!(text, "extern \"C\" void *dream_shared() {{ return {shared}; }}");
    }
    let given: String = (0..buffers.len()).map(|i| format!("Bound{{buffers[{i}]}}, ")).collect();
    let _ = writeln!(
        text,
        "extern \"C\" void dream_unit(void **buffers, void *info) {{ {name}({given}{block}{rest}); }}"
    );
    text
}

fn compile(emitted: &Emitted) -> Loaded {
    // Before the kernel, which uses its symbols.
    units();
    let mut arguments = vec![
        "-w",
        "-fno-strict-aliasing",
        // The last member of `array` has the size that it says.
        "-fstrict-flex-arrays=3",
        "-fsanitize=bounds,shift,integer-divide-by-zero,float-cast-overflow,signed-integer-overflow",
        "-fsanitize-minimal-runtime",
    ];
    match emitted.form {
        Form::Cuda => arguments.extend(["-include", "cuda_runtime.h"]),
        Form::Hip => arguments.extend(["-include", "hip/hip_runtime.h"]),
        Form::Msl | Form::Wgsl => (),
    }
    let name = format!("{}-{}", emitted.form, blake3::hash(emitted.source.as_bytes()));
    Loaded { library: load(&name, &wrapped(emitted), &arguments, RTLD_NOW) }
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
    let shared_bytes = emitted.shared_bytes as usize + GUARD;
    let has_shared = shared_name(&emitted.source).is_some();
    assert!(emitted.form == Form::Msl || has_shared == (emitted.shared_bytes > 0), "{}", emitted.source);
    // SAFETY: `wrapped` and `units.cpp` define these symbols with these types; `units.cpp` copies buffers of the given
    // sizes in and out, and the block of scalars is as large as the kernel's, which `wrapped` asserts.
    let (wrong, tail) = unsafe {
        let symbol = |name: &[u8]| loaded.library.get::<unsafe extern "C" fn() -> *mut c_void>(name);
        let data =
            if has_shared { symbol(b"dream_shared").expect("defined")() } else { std::ptr::null_mut() };
        let run = Run {
            unit: symbol(b"dream_unit").expect("defined").into_raw().cast(),
            buffers: views.as_ptr(),
            count: views.len(),
            info: Buffer { data: info.as_mut_ptr().cast(), bytes: 4 * info.len() },
            grid,
            block: emitted.workgroup,
            shared: Buffer { data, bytes: if has_shared { shared_bytes } else { 0 } },
            backwards: emitted.form == Form::Hip,
            barriers: ["__syncthreads()", "threadgroup_barrier("].iter().any(|b| emitted.source.contains(b)),
        };
        let wrong = units().get::<DreamRun>(b"dream_run").expect("defined")(&raw const run);
        let wrong = (!wrong.is_null()).then(|| CStr::from_ptr(wrong).to_string_lossy().into_owned());
        let all: &[u8] =
            if has_shared { std::slice::from_raw_parts(data.cast(), shared_bytes) } else { &[0xff; GUARD] };
        (wrong, all[all.len() - GUARD..].to_vec())
    };
    if let Some(wrong) = wrong {
        panic!("{} as {}: {wrong}\n{}", emitted.name, emitted.form, emitted.source);
    }
    assert!(tail.iter().all(|b| *b == 0xff), "{}: wrote behind its shared memory", emitted.name);
}

//! Tests that hold for both drivers, on a stub of the driver's library that is made by the C compiler which Rust links with.

#![allow(dead_code, reason = "each driver's tests use a part")]
#![allow(unsafe_code, reason = "the stub's functions")]
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

pub(crate) mod cases;
pub(crate) mod failures;
pub(crate) mod program;

use dreamc_artifact::code::Form;
use dreamc_device_gpu::{Driver, GpuDevice, GpuError, GpuOptions};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Errors that a stub can be told to fail with.
pub(crate) const OUT_OF_MEMORY: i32 = 2;
pub(crate) const BAD_IMAGE: i32 = 200;
pub(crate) const LAUNCH_FAILED: i32 = 719;

/// What differs between the drivers.
pub(crate) trait Target {
    type Driver: Driver + 'static;
    /// The stub's source.
    const SOURCE: &'static str;
    /// Form of a binary, and what it is for on the stub's device.
    const BINARY: (Form, &'static str);
    /// Form of what belongs to the other driver.
    const FOREIGN: Form;
    /// How names of errors begin.
    const PREFIX: &'static str;
    /// The driver's functions that can fail, by what the device uses them for.
    const FUNCTIONS: Functions;
}

/// See [`Target::FUNCTIONS`].
pub(crate) struct Functions {
    pub(crate) take: &'static str,
    pub(crate) take_pinned: &'static str,
    /// How much memory is free.
    pub(crate) memory: &'static str,
    pub(crate) copy_in: &'static str,
    pub(crate) load: &'static str,
    pub(crate) find: &'static str,
    pub(crate) launch: &'static str,
    pub(crate) instantiate: &'static str,
    pub(crate) run: &'static str,
    pub(crate) end: &'static str,
    /// Those above and all others.
    pub(crate) all: &'static [&'static str],
}

/// A copy of the stub's library, with a state of its own.
pub(crate) struct Stub {
    library: libloading::Library,
    path: PathBuf,
}

static COPIES: AtomicU32 = AtomicU32::new(0);
static COMPILING: Mutex<()> = Mutex::new(());

/// Makes the library of `source` with some macros defined, once for what the source is.
fn compile(source: &str, defines: &[&str]) -> PathBuf {
    let _one = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, manifest) = (Path::new(env!("CARGO_TARGET_TMPDIR")), Path::new(env!("CARGO_MANIFEST_DIR")));
    let (source, shared) = (manifest.join(source), manifest.join("../device-gpu/tests/stub"));
    let files =
        ["core.h", "kernels.h", "log.h"].map(|name| shared.join(name)).into_iter().chain([source.clone()]);
    let text: Vec<u8> = files.flat_map(|file| std::fs::read(file).unwrap()).collect();
    let mark: String = dreamc_artifact::hash(&text)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let library = folder.join(format!("stub-{mark}-{}.so", defines.concat()));
    if !library.exists() {
        // Other processes may be at it as well.
        let own = library.with_extension(std::process::id().to_string());
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wno-unused-function", "-o"]).arg(&own);
        cc.args(defines.iter().map(|define| format!("-D{define}"))).arg("-I").arg(shared).arg(&source);
        let done = cc.status().expect("the C compiler that Rust links with");
        assert!(done.success(), "{} does not compile", source.display());
        std::fs::rename(own, &library).unwrap();
    }
    library
}

impl Stub {
    pub(crate) fn new<T: Target>(defines: &[&str]) -> Stub {
        let compiled = compile(T::SOURCE, defines);
        let copy = COPIES.fetch_add(1, Ordering::Relaxed);
        let path = compiled.with_extension(format!("{}.{copy}.so", std::process::id()));
        std::fs::copy(&compiled, &path).unwrap();
        // SAFETY: the stub has no initialisers.
        let library = unsafe { libloading::Library::new(&path) }.unwrap();
        Stub { library, path }
    }

    pub(crate) fn options(&self) -> GpuOptions {
        GpuOptions { library: Some(self.path.clone()), ..GpuOptions::default() }
    }

    pub(crate) fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the types below are those of the stub's source.
        unsafe { *self.library.get::<F>(name).unwrap() }
    }

    pub(crate) fn devices(&self, count: i32) {
        // SAFETY: as the stub's source has it; so for all calls here.
        unsafe { self.function::<unsafe extern "C" fn(c_int)>("stub_devices")(count) }
    }

    /// Bytes of the device's memory.
    pub(crate) fn memory(&self, bytes: u64) {
        // SAFETY: see above.
        unsafe { self.function::<unsafe extern "C" fn(u64)>("stub_memory")(bytes) }
    }

    pub(crate) fn capability(&self, major: i32, minor: i32) {
        // SAFETY: see above.
        unsafe { self.function::<unsafe extern "C" fn(c_int, c_int)>("stub_capability")(major, minor) }
    }

    pub(crate) fn version(&self, version: i32) {
        // SAFETY: see above.
        unsafe { self.function::<unsafe extern "C" fn(c_int)>("stub_version")(version) }
    }

    pub(crate) fn arch(&self, name: &str) {
        let name = CString::new(name).unwrap();
        // SAFETY: see above; the text is copied.
        unsafe { self.function::<unsafe extern "C" fn(*const c_char)>("stub_arch")(name.as_ptr()) }
    }

    /// The call of function `name` after `after` more fails.
    pub(crate) fn fail(&self, name: &str, after: i32, code: i32) {
        let name = CString::new(name).unwrap();
        type Fail = unsafe extern "C" fn(*const c_char, c_int, c_int);
        // SAFETY: see above; the text is copied.
        unsafe { self.function::<Fail>("stub_fail")(name.as_ptr(), after, code) }
    }

    pub(crate) fn number(&self, name: &str) -> i32 {
        // SAFETY: see above.
        unsafe { self.function::<unsafe extern "C" fn() -> c_int>(name)() }
    }

    /// What was written down since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        // SAFETY: see above; the text is copied before the next call.
        let text =
            unsafe { CStr::from_ptr(self.function::<unsafe extern "C" fn() -> *const c_char>("stub_log")()) };
        let lines = text.to_str().unwrap().lines().map(str::to_owned).collect();
        // SAFETY: see above.
        unsafe { self.function::<unsafe extern "C" fn()>("stub_clear")() };
        lines
    }

    /// Lines of the log that begin with one of `words`, spaces apart.
    pub(crate) fn log_of(&self, words: &[&str]) -> Vec<String> {
        let wanted = |line: &String| words.iter().any(|word| line.trim_start().starts_with(word));
        self.log().into_iter().filter(wanted).collect()
    }

    /// Nothing is taken any more, and nothing was done that a driver does not allow.
    pub(crate) fn finish(&self) {
        let live = self.number("stub_live");
        let wrong = self.number("stub_wrong");
        assert!(live == 0 && wrong == 0, "{live} taken, {wrong} wrong:\n{}", self.log().join("\n"));
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A device on the stub, for the programs of [`program`].
pub(crate) fn device<T: Target>(stub: &Stub) -> Result<GpuDevice<'static, T::Driver>, GpuError> {
    GpuDevice::new(&program::code::<T>(), program::views(), &stub.options())
}

/// The error where there must be one; devices cannot be printed.
pub(crate) fn error<D: Driver>(made: Result<GpuDevice<'_, D>, GpuError>) -> GpuError {
    made.err().expect("an error")
}

//! The functions of the driver's library that are used, as its header `cuda.h` declares them.

use dreamc_device_gpu::{
    Address, Event, Executable, Failure, Function, GpuError, GpuOptions, Graph, Library, Loaded, functions,
};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The environment variable that names the library where the system does not find it.
pub const LIBRARY_VARIABLE: &str = "DREAM_CUDA_LIBRARY";

#[cfg(windows)]
const NAMES: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const NAMES: &[&str] = &["libcuda.so.1", "libcuda.so"];

const INSTALL: &str =
    "install the NVIDIA driver, version 525 or later, or name its library in DREAM_CUDA_LIBRARY";

/// What functions return when nothing is wrong.
pub(crate) const SUCCESS: c_int = 0;
const ERROR_OUT_OF_MEMORY: c_int = 2;
pub(crate) const ERROR_NO_DEVICE: c_int = 100;

/// `CUdevice_attribute`.
pub(crate) const MAX_GRID_DIM_X: c_int = 5;
pub(crate) const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
pub(crate) const COMPUTE_CAPABILITY_MINOR: c_int = 76;
pub(crate) const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;
/// `CUfunction_attribute`.
pub(crate) const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
/// `CUstream_flags`.
pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;
/// `CUevent_flags`: no times are taken.
pub(crate) const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CUstreamCaptureMode`: what other threads do meanwhile is no part of it.
pub(crate) const STREAM_CAPTURE_MODE_THREAD_LOCAL: c_int = 1;
/// `CUjit_option`.
pub(crate) const JIT_ERROR_LOG_BUFFER: c_int = 5;
pub(crate) const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;

functions! {
    /// Pointers of the driver are numbers here, since nobody follows them.
    struct Api {
        cuInit: fn(c_uint) -> c_int;
        cuDriverGetVersion: fn(*mut c_int) -> c_int;
        cuGetErrorName: fn(c_int, *mut *const c_char) -> c_int;
        cuGetErrorString: fn(c_int, *mut *const c_char) -> c_int;
        cuDeviceGetCount: fn(*mut c_int) -> c_int;
        cuDeviceGet: fn(*mut c_int, c_int) -> c_int;
        cuDeviceGetName: fn(*mut c_char, c_int, c_int) -> c_int;
        cuDeviceGetAttribute: fn(*mut c_int, c_int, c_int) -> c_int;
        cuDevicePrimaryCtxRetain: fn(*mut usize, c_int) -> c_int;
        cuDevicePrimaryCtxRelease_v2: fn(c_int) -> c_int;
        cuCtxSetCurrent: fn(usize) -> c_int;
        cuStreamCreate: fn(*mut usize, c_uint) -> c_int;
        cuStreamDestroy_v2: fn(usize) -> c_int;
        cuStreamSynchronize: fn(usize) -> c_int;
        cuMemAlloc_v2: fn(*mut Address, usize) -> c_int;
        cuMemFree_v2: fn(Address) -> c_int;
        cuMemGetInfo_v2: fn(*mut usize, *mut usize) -> c_int;
        cuMemHostAlloc: fn(*mut *mut u8, usize, c_uint) -> c_int;
        cuMemFreeHost: fn(*mut u8) -> c_int;
        cuMemcpyHtoDAsync_v2: fn(Address, *const u8, usize, usize) -> c_int;
        cuMemcpyDtoHAsync_v2: fn(*mut u8, Address, usize, usize) -> c_int;
        cuMemcpyDtoDAsync_v2: fn(Address, Address, usize, usize) -> c_int;
        cuMemsetD32Async: fn(Address, c_uint, usize, usize) -> c_int;
        cuEventCreate: fn(*mut Event, c_uint) -> c_int;
        cuEventRecord: fn(Event, usize) -> c_int;
        cuEventSynchronize: fn(Event) -> c_int;
        cuEventDestroy_v2: fn(Event) -> c_int;
        cuModuleLoadDataEx: fn(*mut Loaded, *const u8, c_uint, *mut c_int, *mut *mut c_void) -> c_int;
        cuModuleUnload: fn(Loaded) -> c_int;
        cuModuleGetFunction: fn(*mut Function, Loaded, *const c_char) -> c_int;
        cuFuncSetAttribute: fn(Function, c_int, c_int) -> c_int;
        cuLaunchKernel: fn(
            Function, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, usize,
            *mut *mut c_void, *mut *mut c_void,
        ) -> c_int;
        cuStreamBeginCapture_v2: fn(usize, c_int) -> c_int;
        cuStreamEndCapture: fn(usize, *mut Graph) -> c_int;
        cuGraphInstantiateWithFlags: fn(*mut Executable, Graph, u64) -> c_int;
        cuGraphUpload: fn(Executable, usize) -> c_int;
        cuGraphLaunch: fn(Executable, usize) -> c_int;
        cuGraphExecDestroy: fn(Executable) -> c_int;
        cuGraphDestroy: fn(Graph) -> c_int;
    }
}

/// `cuFuncLoad` of CUDA 12.4 and later.
pub(crate) type FinishLoading = unsafe extern "system" fn(Function) -> c_int;

impl Api {
    /// Opens the library: the functions, and one that older drivers lack.
    pub(crate) fn open(options: &GpuOptions) -> Result<(Api, Option<FinishLoading>), GpuError> {
        let library = Library::open(options, LIBRARY_VARIABLE, NAMES, INSTALL)?;
        // SAFETY: the type is that of the header.
        let finish = unsafe { library.function("cuFuncLoad") }.ok();
        Ok((Api::load(&library)?, finish))
    }

    /// What the driver calls a code.
    fn say(
        &self,
        function: unsafe extern "system" fn(c_int, *mut *const c_char) -> c_int,
        code: c_int,
    ) -> String {
        let mut text = std::ptr::null();
        // SAFETY: it writes a pointer to a constant text, or nothing.
        let said = unsafe { function(code, &mut text) };
        if said != SUCCESS || text.is_null() {
            return format!("error {code}");
        }
        // SAFETY: a text of the library, which stays open.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// A result, in the driver's words where it is an error.
    pub(crate) fn check(&self, code: c_int) -> Result<(), Failure> {
        if code == SUCCESS {
            return Ok(());
        }
        let (name, text) = (self.say(self.cuGetErrorName, code), self.say(self.cuGetErrorString, code));
        Err(Failure { error: format!("{name}: {text}"), out_of_memory: code == ERROR_OUT_OF_MEMORY })
    }
}

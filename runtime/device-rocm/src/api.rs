//! The functions of HIP's library that are used, as its header `hip_runtime_api.h` declares them.

use dreamc_device_gpu::{
    Address, Event, Executable, Failure, Function, GpuError, GpuOptions, Graph, Library, Loaded, functions,
};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The environment variable that names the library where the system does not find it.
pub const LIBRARY_VARIABLE: &str = "DREAM_HIP_LIBRARY";

#[cfg(windows)]
const NAMES: &[&str] = &["amdhip64_7.dll", "amdhip64_6.dll", "amdhip64.dll"];
#[cfg(not(windows))]
const NAMES: &[&str] = &[
    "libamdhip64.so.7",
    "libamdhip64.so.6",
    "libamdhip64.so.5",
    "libamdhip64.so",
    // Where ROCm puts it, which the loader need not know.
    "/opt/rocm/lib/libamdhip64.so",
];

const INSTALL: &str = "install the HIP runtime of ROCm 5 or later (`hip-runtime-amd`), or name its library in DREAM_HIP_LIBRARY";

/// What functions return when nothing is wrong.
pub(crate) const SUCCESS: c_int = 0;
const ERROR_OUT_OF_MEMORY: c_int = 2;
pub(crate) const ERROR_NO_DEVICE: c_int = 100;
const ERROR_NO_BINARY_FOR_GPU: c_int = 209;

/// `hipDeviceAttribute_t`, whose numbers stay since ROCm 5.
pub(crate) const MAX_GRID_DIM_X: c_int = 29;
pub(crate) const MAX_SHARED_MEMORY_PER_BLOCK: c_int = 74;
/// Flag of streams.
pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;
/// Flag of events: no times are taken.
pub(crate) const EVENT_DISABLE_TIMING: c_uint = 2;
/// `hipStreamCaptureMode`: what other threads do meanwhile is no part of it.
pub(crate) const STREAM_CAPTURE_MODE_THREAD_LOCAL: c_int = 1;

functions! {
    /// Pointers of the driver are numbers here, since nobody follows them.
    struct Api {
        hipInit: fn(c_uint) -> c_int;
        hipGetErrorName: fn(c_int) -> *const c_char;
        hipGetErrorString: fn(c_int) -> *const c_char;
        hipGetDeviceCount: fn(*mut c_int) -> c_int;
        hipDeviceGet: fn(*mut c_int, c_int) -> c_int;
        hipDeviceGetName: fn(*mut c_char, c_int, c_int) -> c_int;
        hipDeviceGetAttribute: fn(*mut c_int, c_int, c_int) -> c_int;
        hipSetDevice: fn(c_int) -> c_int;
        hipStreamCreateWithFlags: fn(*mut usize, c_uint) -> c_int;
        hipStreamDestroy: fn(usize) -> c_int;
        hipStreamSynchronize: fn(usize) -> c_int;
        hipMalloc: fn(*mut Address, usize) -> c_int;
        hipFree: fn(Address) -> c_int;
        hipMemGetInfo: fn(*mut usize, *mut usize) -> c_int;
        hipHostMalloc: fn(*mut *mut u8, usize, c_uint) -> c_int;
        hipHostFree: fn(*mut u8) -> c_int;
        hipMemcpyHtoDAsync: fn(Address, *const u8, usize, usize) -> c_int;
        hipMemcpyDtoHAsync: fn(*mut u8, Address, usize, usize) -> c_int;
        hipMemcpyDtoDAsync: fn(Address, Address, usize, usize) -> c_int;
        hipMemsetD32Async: fn(Address, c_int, usize, usize) -> c_int;
        hipEventCreateWithFlags: fn(*mut Event, c_uint) -> c_int;
        hipEventRecord: fn(Event, usize) -> c_int;
        hipEventSynchronize: fn(Event) -> c_int;
        hipEventDestroy: fn(Event) -> c_int;
        hipModuleLoadData: fn(*mut Loaded, *const u8) -> c_int;
        hipModuleUnload: fn(Loaded) -> c_int;
        hipModuleGetFunction: fn(*mut Function, Loaded, *const c_char) -> c_int;
        hipModuleLaunchKernel: fn(
            Function, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, usize,
            *mut *mut c_void, *mut *mut c_void,
        ) -> c_int;
    }
}

functions! {
    /// What records runs. A library without them runs everything step by step.
    struct GraphApi {
        hipStreamBeginCapture: fn(usize, c_int) -> c_int;
        hipStreamEndCapture: fn(usize, *mut Graph) -> c_int;
        hipGraphInstantiate: fn(*mut Executable, Graph, *mut usize, *mut c_char, usize) -> c_int;
        hipGraphLaunch: fn(Executable, usize) -> c_int;
        hipGraphExecDestroy: fn(Executable) -> c_int;
        hipGraphDestroy: fn(Graph) -> c_int;
    }
}

/// Fills what it knows of a device's properties. Of the versions of this function each belongs to a struct of its own.
pub(crate) type Properties = unsafe extern "system" fn(*mut c_void, c_int) -> c_int;

impl Api {
    /// Opens the library: the functions, those that record, and the one for properties, if it has them.
    pub(crate) fn open(
        options: &GpuOptions,
    ) -> Result<(Api, Option<GraphApi>, Option<Properties>), GpuError> {
        let library = Library::open(options, LIBRARY_VARIABLE, NAMES, INSTALL)?;
        let api = Api::load(&library)?;
        let properties = ["hipGetDevicePropertiesR0600", "hipGetDeviceProperties"].into_iter();
        // SAFETY: both take a pointer to their struct and a device.
        let properties = properties.filter_map(|name| unsafe { library.function(name) }.ok()).next();
        Ok((api, GraphApi::load(&library).ok(), properties))
    }

    /// What HIP calls a code.
    fn say(&self, function: unsafe extern "system" fn(c_int) -> *const c_char, code: c_int) -> String {
        // SAFETY: it returns a pointer to a constant text.
        let text = unsafe { function(code) };
        if text.is_null() {
            return format!("error {code}");
        }
        // SAFETY: a text of the library, which stays open.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// A result, in HIP's words where it is an error.
    pub(crate) fn check(&self, code: c_int) -> Result<(), Failure> {
        if code == SUCCESS {
            return Ok(());
        }
        let (name, text) = (self.say(self.hipGetErrorName, code), self.say(self.hipGetErrorString, code));
        // Which processor a device has cannot always be asked, so this may be the first to say that it is another one.
        let help = match code {
            ERROR_NO_BINARY_FOR_GPU => {
                "; build the artifact for this device's processor, which `rocminfo` names"
            }
            _ => "",
        };
        Err(Failure { error: format!("{name}: {text}{help}"), out_of_memory: code == ERROR_OUT_OF_MEMORY })
    }
}

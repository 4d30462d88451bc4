//! One device of the driver, with a stream.

use crate::api::{
    Api, COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR, ERROR_NO_DEVICE, EVENT_DISABLE_TIMING,
    FinishLoading, JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES, MAX_DYNAMIC_SHARED_SIZE_BYTES,
    MAX_GRID_DIM_X, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, STREAM_CAPTURE_MODE_THREAD_LOCAL, STREAM_NON_BLOCKING,
};
use crate::arch::Arch;
use crate::version::Version;
use dreamc_artifact::code::{Form, Image, Module};
use dreamc_device_gpu::{
    Address, Driver, Event, Executable, Failure, Function, GpuError, GpuOptions, Graph, InfoPlace, Listed,
    Loaded, MemoryState,
};
use dreamc_runtime::Grid;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

/// Dynamic shared memory that a kernel has without asking for more, in bytes.
const SHARED_BYTES_USUAL: u32 = 48 << 10;
/// What the driver's compiler may say about PTX that it refuses, in bytes.
const LOG_BYTES: usize = 4096;

/// One device, with its primary context and a stream.
pub struct Cuda {
    api: Api,
    finish_loading: Option<FinishLoading>,
    device: c_int,
    context: usize,
    /// 0 if there is none.
    stream: usize,
    name: String,
    capability: (u32, u32),
    driver: Version,
    groups_max: Grid,
    shared_bytes_max: u32,
}

/// The CUDA devices of this host.
///
/// # Errors
///
/// Why there is none, and what to do.
pub fn devices(options: &GpuOptions) -> Result<Vec<Listed>, GpuError> {
    let (api, _) = Api::open(options)?;
    let list = |ordinal: u32| {
        let device = device(&api, ordinal)?;
        let (major, minor) = capability(&api, device)?;
        Ok(Listed { ordinal, name: name(&api, device)?, arch: format!("sm_{major}{minor}") })
    };
    (0..count(&api)?).map(list).collect()
}

/// How many devices there are; none is an error.
fn count(api: &Api) -> Result<u32, GpuError> {
    let none = GpuError::NoDevice { kind: "CUDA", tool: "`nvidia-smi`" };
    let mut count = 0;
    // SAFETY: no arguments but flags.
    let code = unsafe { (api.cuInit)(0) };
    if code == ERROR_NO_DEVICE {
        return Err(none);
    }
    api.check(code).map_err(GpuError::doing("starting the CUDA driver"))?;
    // SAFETY: it writes the number.
    api.check(unsafe { (api.cuDeviceGetCount)(&mut count) })
        .map_err(GpuError::doing("counting CUDA devices"))?;
    u32::try_from(count).ok().filter(|count| *count > 0).ok_or(none)
}

fn device(api: &Api, ordinal: u32) -> Result<c_int, GpuError> {
    let mut device = 0;
    // SAFETY: it writes the handle.
    let code = unsafe { (api.cuDeviceGet)(&mut device, c_int::try_from(ordinal).unwrap_or(c_int::MAX)) };
    api.check(code).map_err(GpuError::doing("opening a CUDA device"))?;
    Ok(device)
}

fn name(api: &Api, device: c_int) -> Result<String, GpuError> {
    let mut name = [0_u8; 256];
    // SAFETY: it writes at most so many bytes. The last is left out, so that a zero ends them.
    let code =
        unsafe { (api.cuDeviceGetName)(name.as_mut_ptr().cast::<c_char>(), name.len() as c_int - 1, device) };
    api.check(code).map_err(GpuError::doing("asking a CUDA device its name"))?;
    Ok(CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned())
}

fn attribute(api: &Api, device: c_int, attribute: c_int) -> Result<u32, GpuError> {
    let mut value = 0;
    // SAFETY: it writes the number.
    let code = unsafe { (api.cuDeviceGetAttribute)(&mut value, attribute, device) };
    api.check(code).map_err(GpuError::doing("asking a CUDA device what it can do"))?;
    Ok(u32::try_from(value).unwrap_or(0))
}

fn capability(api: &Api, device: c_int) -> Result<(u32, u32), GpuError> {
    let number = |what| attribute(api, device, what);
    Ok((number(COMPUTE_CAPABILITY_MAJOR)?, number(COMPUTE_CAPABILITY_MINOR)?))
}

impl Cuda {
    /// Refuses a driver that is older than `least`.
    fn at_least(&self, least: Version, instead: &str) -> Result<(), GpuError> {
        if self.driver >= least {
            return Ok(());
        }
        Err(GpuError::Old {
            device: self.name.clone(),
            found: self.driver.to_string(),
            least: least.to_string(),
            driver: least.driver(),
            instead: instead.to_owned(),
        })
    }
}

impl Driver for Cuda {
    const INFO: InfoPlace = InfoPlace::Value;

    fn open(options: &GpuOptions) -> Result<Cuda, GpuError> {
        let (api, finish_loading) = Api::open(options)?;
        let (ordinal, count) = (options.ordinal, count(&api)?);
        if ordinal >= count {
            return Err(GpuError::Ordinal { ordinal, count });
        }
        let device = device(&api, ordinal)?;
        let mut groups_max = [0; 3];
        for (max, axis) in groups_max.iter_mut().zip(MAX_GRID_DIM_X..) {
            *max = attribute(&api, device, axis)?;
        }
        let name = name(&api, device)?;
        let capability = capability(&api, device)?;
        let shared_bytes_max = attribute(&api, device, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let mut driver = 0;
        // SAFETY: it writes the number.
        api.check(unsafe { (api.cuDriverGetVersion)(&mut driver) })
            .map_err(GpuError::doing("asking the CUDA driver its version"))?;
        let driver = Version::of_driver(driver);
        let mut context = 0;
        // SAFETY: it writes the handle, which `Drop` gives back.
        api.check(unsafe { (api.cuDevicePrimaryCtxRetain)(&mut context, device) })
            .map_err(GpuError::doing("taking a CUDA device's context"))?;
        let mut cuda = Cuda {
            api,
            finish_loading,
            device,
            context,
            stream: 0,
            name,
            capability,
            driver,
            groups_max,
            shared_bytes_max,
        };
        cuda.at_least(Version::OF_BINARIES, "")?;
        cuda.bind().map_err(GpuError::doing("making a CUDA device current"))?;
        // SAFETY: it writes the handle, which `Drop` gives back.
        let code = unsafe { (api.cuStreamCreate)(&mut cuda.stream, STREAM_NON_BLOCKING) };
        api.check(code).map_err(GpuError::doing("making a CUDA stream"))?;
        Ok(cuda)
    }

    fn image<'c>(&self, module: &'c Module) -> Result<&'c Image, GpuError> {
        let mut best: Option<(bool, Option<Arch>, &Image)> = None;
        for image in &module.images {
            let arch = Arch::parse(&image.arch);
            let binary = image.form == Form::Cubin;
            // Code for no processor in particular is left to the driver to judge.
            let runs = image.arch.is_empty()
                || match image.form {
                    Form::Cubin => arch.is_some_and(|arch| arch.binary_runs(self.capability)),
                    Form::Ptx => arch.is_some_and(|arch| arch.ptx_runs(self.capability)),
                    other => return Err(GpuError::form(module, other, "CUDA")),
                };
            if runs && best.is_none_or(|(b, a, _)| (binary, arch) > (b, a)) {
                best = Some((binary, arch, image));
            }
        }
        let (binary, _, image) = best.ok_or_else(|| GpuError::Arch {
            built: GpuError::built(module),
            device: self.name.clone(),
            found: self.arch(),
            target: "cuda",
        })?;
        if !binary && let Some(least) = Version::of_ptx(&image.bytes) {
            let instead = format!(
                ", or build with `--target cuda:{}`, which needs no compiler in the driver",
                self.arch()
            );
            self.at_least(least, &instead)?;
        }
        Ok(image)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn arch(&self) -> String {
        let (major, minor) = self.capability;
        format!("sm_{major}{minor}")
    }

    fn version(&self) -> String {
        self.driver.to_string()
    }

    fn groups_max(&self, _workgroup: [u32; 3]) -> Grid {
        self.groups_max
    }

    fn shared_bytes_max(&self) -> u32 {
        self.shared_bytes_max
    }

    fn bind(&self) -> Result<(), Failure> {
        // SAFETY: the context is kept until `Drop`.
        self.api.check(unsafe { (self.api.cuCtxSetCurrent)(self.context) })
    }

    fn take(&self, bytes: u64) -> Result<Address, Failure> {
        let mut at = Address(0);
        // SAFETY: it writes the address.
        self.api.check(unsafe { (self.api.cuMemAlloc_v2)(&mut at, bytes as usize) })?;
        Ok(at)
    }

    unsafe fn give_back(&self, at: Address) {
        // SAFETY: the caller's promise. Nobody is left to tell an error.
        unsafe { (self.api.cuMemFree_v2)(at) };
    }

    fn memory(&self) -> Result<MemoryState, Failure> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: it writes the numbers.
        self.api.check(unsafe { (self.api.cuMemGetInfo_v2)(&mut free, &mut total) })?;
        Ok(MemoryState { free: free as u64, total: total as u64 })
    }

    fn take_pinned(&self, bytes: usize) -> Result<NonNull<u8>, Failure> {
        let mut at = std::ptr::null_mut();
        // SAFETY: it writes the pointer.
        self.api.check(unsafe { (self.api.cuMemHostAlloc)(&mut at, bytes, 0) })?;
        NonNull::new(at).ok_or(Failure { error: "no memory and no error".to_owned(), out_of_memory: true })
    }

    unsafe fn give_back_pinned(&self, at: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.cuMemFreeHost)(at.as_ptr()) };
    }

    unsafe fn copy_in(&self, to: Address, from: NonNull<u8>, bytes: usize) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.cuMemcpyHtoDAsync_v2)(to, from.as_ptr(), bytes, self.stream) })
    }

    unsafe fn copy_out(&self, to: NonNull<u8>, from: Address, bytes: usize) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.cuMemcpyDtoHAsync_v2)(to.as_ptr(), from, bytes, self.stream) })
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: u64) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.cuMemcpyDtoDAsync_v2)(to, from, bytes as usize, self.stream) })
    }

    unsafe fn fill(&self, to: Address, word: u32, words: u64) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.cuMemsetD32Async)(to, word, words as usize, self.stream) })
    }

    fn event(&self) -> Result<Event, Failure> {
        let mut event = Event(0);
        // SAFETY: it writes the handle.
        self.api.check(unsafe { (self.api.cuEventCreate)(&mut event, EVENT_DISABLE_TIMING) })?;
        Ok(event)
    }

    unsafe fn mark(&self, event: Event) -> Result<(), Failure> {
        // SAFETY: the caller's promise; the stream lives until `Drop`.
        self.api.check(unsafe { (self.api.cuEventRecord)(event, self.stream) })
    }

    unsafe fn wait(&self, event: Event) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.cuEventSynchronize)(event) })
    }

    unsafe fn destroy_event(&self, event: Event) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.cuEventDestroy_v2)(event) };
    }

    unsafe fn load(&self, image: &[u8]) -> Result<Loaded, Failure> {
        let (mut module, mut log) = (Loaded(0), [0_u8; LOG_BYTES]);
        let mut options = [JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // The size stands where a pointer would. The last byte is left out, so that a zero ends the text.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG_BYTES - 1)];
        let count = options.len() as u32;
        // SAFETY: the image is whole, as the caller promises; there are as many options and values as are counted.
        let code = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            (self.api.cuModuleLoadDataEx)(&mut module, image.as_ptr(), count, options, values)
        };
        self.api.check(code).map_err(|mut failure| {
            let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            if !said.trim().is_empty() {
                failure.error = format!("{}; {}", failure.error, said.trim());
            }
            failure
        })?;
        Ok(module)
    }

    unsafe fn unload(&self, module: Loaded) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.cuModuleUnload)(module) };
    }

    unsafe fn function(&self, module: Loaded, name: &CStr, shared_bytes: u32) -> Result<Function, Failure> {
        let mut function = Function(0);
        // SAFETY: the module is loaded, as the caller promises; the name ends with a zero.
        let code = unsafe { (self.api.cuModuleGetFunction)(&mut function, module, name.as_ptr()) };
        self.api.check(code)?;
        if shared_bytes > SHARED_BYTES_USUAL {
            let bytes = c_int::try_from(shared_bytes).unwrap_or(c_int::MAX);
            // SAFETY: the function was just found.
            let code =
                unsafe { (self.api.cuFuncSetAttribute)(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes) };
            self.api.check(code)?;
        }
        if let Some(finish) = self.finish_loading {
            // Else the driver may put it off until the first launch, which may be while a run is recorded.
            // SAFETY: as above.
            self.api.check(unsafe { finish(function) })?;
        }
        Ok(function)
    }

    unsafe fn launch(
        &self,
        function: Function,
        grid: Grid,
        workgroup: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Failure> {
        let ([gx, gy, gz], [x, y, z]) = (grid, workgroup);
        let (arguments, stream) = (arguments.as_mut_ptr(), self.stream);
        // SAFETY: the caller's promise. The arguments are copied before it returns.
        self.api.check(unsafe {
            let none = std::ptr::null_mut();
            (self.api.cuLaunchKernel)(function, gx, gy, gz, x, y, z, shared_bytes, stream, arguments, none)
        })
    }

    fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the stream lives until `Drop`.
        self.api.check(unsafe { (self.api.cuStreamSynchronize)(self.stream) })
    }

    fn records(&self) -> bool {
        true
    }

    fn begin_recording(&self) -> Result<(), Failure> {
        // SAFETY: as above.
        self.api.check(unsafe {
            (self.api.cuStreamBeginCapture_v2)(self.stream, STREAM_CAPTURE_MODE_THREAD_LOCAL)
        })
    }

    fn end_recording(&self) -> Result<Graph, Failure> {
        let mut graph = Graph(0);
        // SAFETY: it writes the handle.
        self.api.check(unsafe { (self.api.cuStreamEndCapture)(self.stream, &mut graph) })?;
        Ok(graph)
    }

    unsafe fn instantiate(&self, graph: Graph) -> Result<Executable, Failure> {
        let mut executable = Executable(0);
        // SAFETY: the graph is alive, as the caller promises.
        self.api.check(unsafe { (self.api.cuGraphInstantiateWithFlags)(&mut executable, graph, 0) })?;
        Ok(executable)
    }

    unsafe fn destroy_graph(&self, graph: Graph) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.cuGraphDestroy)(graph) };
    }

    unsafe fn upload(&self, executable: Executable) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.cuGraphUpload)(executable, self.stream) })
    }

    unsafe fn run(&self, executable: Executable) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.cuGraphLaunch)(executable, self.stream) })
    }

    unsafe fn destroy(&self, executable: Executable) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.cuGraphExecDestroy)(executable) };
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: both handles are this value's own, and nothing of the device outlives it.
        unsafe {
            (self.api.cuCtxSetCurrent)(self.context);
            if self.stream != 0 {
                (self.api.cuStreamDestroy_v2)(self.stream);
            }
            (self.api.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

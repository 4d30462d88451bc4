//! One device of HIP, with a stream.

use crate::api::{
    Api, ERROR_NO_DEVICE, EVENT_DISABLE_TIMING, GraphApi, MAX_GRID_DIM_X, MAX_SHARED_MEMORY_PER_BLOCK,
    STREAM_CAPTURE_MODE_THREAD_LOCAL, STREAM_NON_BLOCKING, SUCCESS,
};
use crate::properties::arch;
use dreamc_artifact::code::{Form, Image, Module};
use dreamc_device_gpu::{
    Address, Driver, Event, Executable, Failure, Function, GpuError, GpuOptions, Graph, InfoPlace, Listed,
    Loaded, MemoryState,
};
use dreamc_runtime::Grid;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

/// One device, with a stream.
pub struct Rocm {
    api: Api,
    graphs: Option<GraphApi>,
    device: c_int,
    stream: usize,
    name: String,
    /// Empty if unknown.
    arch: String,
    groups_max: Grid,
    shared_bytes_max: u32,
}

/// The ROCm devices of this host. A processor's name that cannot be found out is empty.
///
/// # Errors
///
/// Why there is none, and what to do.
pub fn devices(options: &GpuOptions) -> Result<Vec<Listed>, GpuError> {
    let (api, _, properties) = Api::open(options)?;
    let list = |ordinal: u32| {
        let device = device(&api, ordinal)?;
        Ok(Listed { ordinal, name: name(&api, device)?, arch: arch(properties, device) })
    };
    (0..count(&api)?).map(list).collect()
}

/// How many devices there are; none is an error.
fn count(api: &Api) -> Result<u32, GpuError> {
    let none = GpuError::NoDevice { kind: "ROCm", tool: "`rocminfo`" };
    let mut count = 0;
    // SAFETY: no arguments but flags.
    let mut code = unsafe { (api.hipInit)(0) };
    if code == SUCCESS {
        // SAFETY: it writes the number.
        code = unsafe { (api.hipGetDeviceCount)(&mut count) };
    }
    if code == ERROR_NO_DEVICE {
        return Err(none);
    }
    api.check(code).map_err(GpuError::doing("starting HIP"))?;
    u32::try_from(count).ok().filter(|count| *count > 0).ok_or(none)
}

fn device(api: &Api, ordinal: u32) -> Result<c_int, GpuError> {
    let mut device = 0;
    // SAFETY: it writes the handle.
    let code = unsafe { (api.hipDeviceGet)(&mut device, c_int::try_from(ordinal).unwrap_or(c_int::MAX)) };
    api.check(code).map_err(GpuError::doing("opening a ROCm device"))?;
    Ok(device)
}

fn name(api: &Api, device: c_int) -> Result<String, GpuError> {
    let mut name = [0_u8; 256];
    // SAFETY: it writes at most so many bytes. The last is left out, so that a zero ends them.
    let code = unsafe {
        (api.hipDeviceGetName)(name.as_mut_ptr().cast::<c_char>(), name.len() as c_int - 1, device)
    };
    api.check(code).map_err(GpuError::doing("asking a ROCm device its name"))?;
    Ok(CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned())
}

fn attribute(api: &Api, device: c_int, attribute: c_int) -> Result<u32, GpuError> {
    let mut value = 0;
    // SAFETY: it writes the number.
    let code = unsafe { (api.hipDeviceGetAttribute)(&mut value, attribute, device) };
    api.check(code).map_err(GpuError::doing("asking a ROCm device what it can do"))?;
    Ok(u32::try_from(value).unwrap_or(0))
}

/// Whether a device `found` runs code that was `built` for a processor, settings like `:xnack-` apart: those the driver
/// compares. Where either is unknown, it judges that too.
fn runs(built: &str, found: &str) -> bool {
    let processor = built.split(':').next().unwrap_or(built);
    processor.is_empty() || found.is_empty() || processor == found
}

impl Rocm {
    fn graphs(&self) -> Result<&GraphApi, Failure> {
        let none =
            || Failure { error: "this version of HIP records nothing".to_owned(), out_of_memory: false };
        self.graphs.as_ref().ok_or_else(none)
    }
}

impl Driver for Rocm {
    const INFO: InfoPlace = InfoPlace::Buffer;

    fn open(options: &GpuOptions) -> Result<Rocm, GpuError> {
        let (api, graphs, properties) = Api::open(options)?;
        let (ordinal, count) = (options.ordinal, count(&api)?);
        if ordinal >= count {
            return Err(GpuError::Ordinal { ordinal, count });
        }
        let device = device(&api, ordinal)?;
        let mut groups_max = [0; 3];
        for (max, axis) in groups_max.iter_mut().zip(MAX_GRID_DIM_X..) {
            *max = attribute(&api, device, axis)?;
        }
        let (name, arch) = (name(&api, device)?, arch(properties, device));
        let shared_bytes_max = attribute(&api, device, MAX_SHARED_MEMORY_PER_BLOCK)?;
        // SAFETY: a device that there is.
        let code = unsafe { (api.hipSetDevice)(device) };
        api.check(code).map_err(GpuError::doing("making a ROCm device current"))?;
        let mut stream = 0;
        // SAFETY: it writes the handle, which `Drop` gives back.
        let code = unsafe { (api.hipStreamCreateWithFlags)(&mut stream, STREAM_NON_BLOCKING) };
        api.check(code).map_err(GpuError::doing("making a ROCm stream"))?;
        Ok(Rocm { api, graphs, device, stream, name, arch, groups_max, shared_bytes_max })
    }

    fn image<'c>(&self, module: &'c Module) -> Result<&'c Image, GpuError> {
        if let Some(foreign) = module.images.iter().find(|image| image.form != Form::CodeObject) {
            return Err(GpuError::form(module, foreign.form, "ROCm"));
        }
        let fits = |image: &&Image| runs(&image.arch, &self.arch);
        module.images.iter().find(fits).ok_or_else(|| GpuError::Arch {
            built: GpuError::built(module),
            device: self.name.clone(),
            found: self.arch.clone(),
            target: "rocm",
        })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn arch(&self) -> String {
        self.arch.clone()
    }

    fn groups_max(&self, workgroup: [u32; 3]) -> Grid {
        // A grid is counted in units: those of an axis fit 32 bits.
        let mut max = self.groups_max;
        max.iter_mut().zip(workgroup).for_each(|(max, units)| *max = (*max).min(u32::MAX / units.max(1)));
        max
    }

    fn shared_bytes_max(&self) -> u32 {
        self.shared_bytes_max
    }

    fn bind(&self) -> Result<(), Failure> {
        // SAFETY: a device that there is.
        self.api.check(unsafe { (self.api.hipSetDevice)(self.device) })
    }

    fn take(&self, bytes: u64) -> Result<Address, Failure> {
        let mut at = Address(0);
        // SAFETY: it writes the address.
        self.api.check(unsafe { (self.api.hipMalloc)(&mut at, bytes as usize) })?;
        Ok(at)
    }

    unsafe fn give_back(&self, at: Address) {
        // SAFETY: the caller's promise. Nobody is left to tell an error.
        unsafe { (self.api.hipFree)(at) };
    }

    fn memory(&self) -> Result<MemoryState, Failure> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: it writes the numbers.
        self.api.check(unsafe { (self.api.hipMemGetInfo)(&mut free, &mut total) })?;
        Ok(MemoryState { free: free as u64, total: total as u64 })
    }

    fn take_pinned(&self, bytes: usize) -> Result<NonNull<u8>, Failure> {
        let mut at = std::ptr::null_mut();
        // SAFETY: it writes the pointer.
        self.api.check(unsafe { (self.api.hipHostMalloc)(&mut at, bytes, 0) })?;
        NonNull::new(at).ok_or(Failure { error: "no memory and no error".to_owned(), out_of_memory: true })
    }

    unsafe fn give_back_pinned(&self, at: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.hipHostFree)(at.as_ptr()) };
    }

    unsafe fn copy_in(&self, to: Address, from: NonNull<u8>, bytes: usize) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.hipMemcpyHtoDAsync)(to, from.as_ptr(), bytes, self.stream) })
    }

    unsafe fn copy_out(&self, to: NonNull<u8>, from: Address, bytes: usize) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.hipMemcpyDtoHAsync)(to.as_ptr(), from, bytes, self.stream) })
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: u64) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.hipMemcpyDtoDAsync)(to, from, bytes as usize, self.stream) })
    }

    unsafe fn fill(&self, to: Address, word: u32, words: u64) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe {
            (self.api.hipMemsetD32Async)(to, word.cast_signed(), words as usize, self.stream)
        })
    }

    fn event(&self) -> Result<Event, Failure> {
        let mut event = Event(0);
        // SAFETY: it writes the handle.
        self.api.check(unsafe { (self.api.hipEventCreateWithFlags)(&mut event, EVENT_DISABLE_TIMING) })?;
        Ok(event)
    }

    unsafe fn mark(&self, event: Event) -> Result<(), Failure> {
        // SAFETY: the caller's promise; the stream lives until `Drop`.
        self.api.check(unsafe { (self.api.hipEventRecord)(event, self.stream) })
    }

    unsafe fn wait(&self, event: Event) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (self.api.hipEventSynchronize)(event) })
    }

    unsafe fn destroy_event(&self, event: Event) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.hipEventDestroy)(event) };
    }

    unsafe fn load(&self, image: &[u8]) -> Result<Loaded, Failure> {
        let mut module = Loaded(0);
        // SAFETY: the image is whole, as the caller promises.
        self.api.check(unsafe { (self.api.hipModuleLoadData)(&mut module, image.as_ptr()) })?;
        Ok(module)
    }

    unsafe fn unload(&self, module: Loaded) {
        // SAFETY: the caller's promise.
        unsafe { (self.api.hipModuleUnload)(module) };
    }

    unsafe fn function(&self, module: Loaded, name: &CStr, _shared_bytes: u32) -> Result<Function, Failure> {
        let mut function = Function(0);
        // SAFETY: the module is loaded, as the caller promises; the name ends with a zero.
        let code = unsafe { (self.api.hipModuleGetFunction)(&mut function, module, name.as_ptr()) };
        self.api.check(code)?;
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
            (self.api.hipModuleLaunchKernel)(
                function,
                gx,
                gy,
                gz,
                x,
                y,
                z,
                shared_bytes,
                stream,
                arguments,
                none,
            )
        })
    }

    fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the stream lives until `Drop`.
        self.api.check(unsafe { (self.api.hipStreamSynchronize)(self.stream) })
    }

    fn records(&self) -> bool {
        self.graphs.is_some()
    }

    fn begin_recording(&self) -> Result<(), Failure> {
        let graphs = self.graphs()?;
        // SAFETY: the stream lives until `Drop`.
        self.api
            .check(unsafe { (graphs.hipStreamBeginCapture)(self.stream, STREAM_CAPTURE_MODE_THREAD_LOCAL) })
    }

    fn end_recording(&self) -> Result<Graph, Failure> {
        let (graphs, mut graph) = (self.graphs()?, Graph(0));
        // SAFETY: it writes the handle.
        self.api.check(unsafe { (graphs.hipStreamEndCapture)(self.stream, &mut graph) })?;
        Ok(graph)
    }

    unsafe fn instantiate(&self, graph: Graph) -> Result<Executable, Failure> {
        let (graphs, mut executable) = (self.graphs()?, Executable(0));
        let (node, log) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the graph is alive, as the caller promises; neither the failed node nor a log is asked for.
        let code = unsafe { (graphs.hipGraphInstantiate)(&mut executable, graph, node, log, 0) };
        self.api.check(code)?;
        Ok(executable)
    }

    unsafe fn destroy_graph(&self, graph: Graph) {
        if let Ok(graphs) = self.graphs() {
            // SAFETY: the caller's promise.
            unsafe { (graphs.hipGraphDestroy)(graph) };
        }
    }

    unsafe fn upload(&self, _executable: Executable) -> Result<(), Failure> {
        // HIP has nothing to do here: `hipGraphUpload` returns at once.
        Ok(())
    }

    unsafe fn run(&self, executable: Executable) -> Result<(), Failure> {
        let graphs = self.graphs()?;
        // SAFETY: the caller's promise.
        self.api.check(unsafe { (graphs.hipGraphLaunch)(executable, self.stream) })
    }

    unsafe fn destroy(&self, executable: Executable) {
        if let Ok(graphs) = self.graphs() {
            // SAFETY: the caller's promise.
            unsafe { (graphs.hipGraphExecDestroy)(executable) };
        }
    }
}

impl Drop for Rocm {
    fn drop(&mut self) {
        // SAFETY: the stream is this value's own, and nothing of the device outlives it.
        unsafe {
            (self.api.hipSetDevice)(self.device);
            (self.api.hipStreamDestroy)(self.stream);
        }
    }
}

//! A CubeCL server with no device behind it: what is launched on it is kept instead of run.
//!
//! ```text
//! kernel::launch_unchecked::<F>(client, grid, units, buffers.., scalars..)
//!     └─► Recording: definition of the kernel, block of scalars, order of the buffers
//! ```
//!
//! So kernels are launched as CubeCL documents it, and nothing here knows how its macros expand.

#![allow(unsafe_code, reason = "the trait's launch is unsafe to call, and here it has nothing to break")]

use crate::emit::{Access, Buffer, Element, Extent, Scalar, ScalarType};
use crate::target::Target;
use cubecl::bytes::Bytes;
use cubecl::device::{DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId};
use cubecl::environment::stream::StreamId;
use cubecl::future::DynFut;
use cubecl::prelude::*;
use cubecl::profile::ProfileDuration;
use cubecl::server::{
    CopyDescriptor, Handle, IoError, KernelArguments, ProfileError, ProfilingToken, Server,
    ServerCommunication, ServerError, ServerStorage, ServerUtilities,
};
use cubecl_core as cubecl;
use cubecl_runtime::client::Client;
use cubecl_runtime::dry_run::LaunchMode;
use cubecl_runtime::kernel::CubeKernel;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::{ManagedMemoryHandle, MemoryAllocationMode, StreamMemoryReport};
use cubecl_runtime::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};
use cubecl_server::allocator::ContiguousMemoryLayoutPolicy;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// One launch.
pub(crate) struct Launch {
    /// From which its definition is made.
    pub(crate) kernel: Box<dyn CubeKernel>,
    /// Its buffers and scalars.
    pub(crate) args: KernelArguments,
}

type Log = Arc<Mutex<Vec<Launch>>>;

type Clients = BTreeMap<[u8; 32], (Client, Log)>;

/// Clients by the hash of their target: a client holds a thread, and the process has few numbers for them.
static CLIENTS: LazyLock<Mutex<Clients>> = LazyLock::new(Mutex::default);

/// Lengths of buffers while recording: `FIRST_LENGTH + i` elements for buffer `i`.
pub(crate) const FIRST_LENGTH: u32 = 0x0010_0000;
/// Integers while recording.
pub(crate) const FIRST_INTEGER: u32 = 0x0020_0000;
/// Bits of floats while recording: normal numbers above 1.
pub(crate) const FIRST_FLOAT: u32 = 0x3fa0_0000;

/// What a kernel is launched with, in place of a device. Every argument gets a value of its own, by which it is found
/// again in the block of scalars.
pub(crate) struct Recorder {
    client: Client,
    buffers: RefCell<Vec<Buffer>>,
    scalars: RefCell<Vec<Scalar>>,
    grid: RefCell<[Extent; 3]>,
}

/// What was launched, and what its arguments are.
pub(crate) struct Recording {
    pub(crate) launch: Launch,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) scalars: Vec<Scalar>,
    pub(crate) grid: [Extent; 3],
}

impl Recorder {
    /// Where to launch.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The grid, as it depends on the scalars.
    pub(crate) fn grid(&self, grid: [Extent; 3]) -> CubeCount {
        *self.grid.borrow_mut() = grid;
        CubeCount::Static(1, 1, 1)
    }

    /// The next buffer. What the kernel does with it, the generator finds out.
    pub(crate) fn buffer(&self, name: &'static str, element: Element) -> BufferArg {
        self.next(name, element, Access::Unused)
    }

    /// The next buffer of a kernel with assembly that touches memory: the generator would believe that it does everything.
    pub(crate) fn declared(&self, name: &'static str, element: Element, access: Access) -> BufferArg {
        self.next(name, element, access)
    }

    fn next(&self, name: &'static str, element: Element, access: Access) -> BufferArg {
        let mut buffers = self.buffers.borrow_mut();
        let length = FIRST_LENGTH as usize + buffers.len();
        let handle: Handle = self.client.empty(length * element.bytes());
        buffers.push(Buffer { name, element, access });
        // SAFETY: nothing is ever read or written through it.
        unsafe { BufferArg::from_raw_parts(handle, length) }
    }

    /// The next scalar, an integer.
    pub(crate) fn int(&self, name: &'static str) -> u32 {
        FIRST_INTEGER + self.scalar(name, ScalarType::U32)
    }

    /// The next scalar, a number.
    pub(crate) fn float(&self, name: &'static str) -> f32 {
        f32::from_bits(FIRST_FLOAT + self.scalar(name, ScalarType::F32))
    }

    fn scalar(&self, name: &'static str, ty: ScalarType) -> u32 {
        let mut scalars = self.scalars.borrow_mut();
        scalars.push(Scalar { name, ty });
        scalars.len() as u32 - 1
    }
}

/// Records the one launch that `launch` makes. `None` if it made another number of them, which is a bug of its kernel.
pub(crate) fn record(target: &Target, launch: impl FnOnce(&Recorder)) -> Option<Recording> {
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let index = clients.len() as u16;
    let (client, log) = clients.entry(target.hash()).or_insert_with(|| open(index, target));
    log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let recorder = Recorder {
        client: client.clone(),
        buffers: RefCell::default(),
        scalars: RefCell::default(),
        grid: RefCell::new([Extent::Constant(1); 3]),
    };
    launch(&recorder);
    // A launch is handed to another thread.
    cubecl::future::block_on(client.sync()).ok()?;
    let mut launches: Vec<Launch> = log.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
    let launch = launches.pop().filter(|_| launches.is_empty())?;
    let Recorder { buffers, scalars, grid, .. } = recorder;
    Some(Recording {
        launch,
        buffers: buffers.into_inner(),
        scalars: scalars.into_inner(),
        grid: grid.into_inner(),
    })
}

/// A client of the recording server.
fn open(index: u16, target: &Target) -> (Client, Log) {
    let (device, properties) = target.properties();
    let id = DeviceId { type_id: 7, index_id: index };
    let log = Log::default();
    let align = device.memory.alignment as usize;
    let (utilities, _) = ServerUtilities::init(
        ServiceId::of::<RecordingServer>(id),
        "dreamc",
        device,
        properties,
        Arc::new(ServerLogger::default()),
        ContiguousMemoryLayoutPolicy::new(align),
    );
    (Client::init(id, RecordingServer { utilities: Arc::new(utilities), log: log.clone() }), log)
}

struct RecordingServer {
    utilities: Arc<ServerUtilities>,
    log: Log,
}

impl std::fmt::Debug for RecordingServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordingServer")
    }
}

impl DeviceService for RecordingServer {
    fn init(_: DeviceId) -> Self {
        unreachable!("a client is always opened with its server")
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for RecordingServer {}

impl Server for RecordingServer {
    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    fn read(&mut self, copies: Vec<CopyDescriptor>, _: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let zeros = |copy: &CopyDescriptor| {
            Bytes::from_bytes_vec(vec![0; copy.shape.iter().product::<usize>() * copy.elem_size])
        };
        let all = copies.iter().map(zeros).collect();
        Box::pin(async move { Ok(all) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(
        &mut self,
        _: Vec<cubecl::server::BufferBinding>,
        _: StreamId,
    ) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn check(&mut self, _: Vec<cubecl::server::BufferBinding>, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        _: CubeCount,
        args: KernelArguments,
        _: StreamId,
        _: LaunchMode,
    ) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(Launch { kernel, args });
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Ok(ProfilingToken { id: 0 })
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        unreachable!("nothing is profiled")
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

/// No memory at all.
struct NoStorage;

impl ComputeStorage for NoStorage {
    type Resource = ();

    fn alignment(&self) -> usize {
        256
    }

    fn get(&mut self, _: &StorageHandle) -> Result<(), IoError> {
        Ok(())
    }

    fn alloc(&mut self, _: u64) -> Result<StorageHandle, IoError> {
        unreachable!("handles are only numbers here")
    }

    fn dealloc(&mut self, _: StorageId) {}

    fn flush(&mut self) {}

    fn bytes_allocated(&self) -> u64 {
        0
    }
}

impl ServerStorage for RecordingServer {
    type Storage = NoStorage;

    fn get_resource(
        &mut self,
        _: cubecl::server::BufferBinding,
        _: StreamId,
    ) -> Result<ManagedResource<()>, ServerError> {
        unreachable!("nobody asks for memory")
    }
}

//! What a driver must be able to do.
//!
//! Handles are the driver's own pointers, which nobody here follows. All work goes to one stream, in order.

use crate::error::{Failure, GpuError};
use crate::library::GpuOptions;
use dreamc_artifact::code::{Image, Module};
use dreamc_runtime::Grid;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// A place in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Address(pub u64);

/// A module that the driver has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Loaded(pub usize);

/// A kernel of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Function(pub usize);

/// A recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Graph(pub usize);

/// A recording that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Executable(pub usize);

/// A place in the stream, which can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Event(pub usize);

/// How much memory a device has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryState {
    /// What nobody has taken, other processes included.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// How a kernel gets its block of scalars, behind its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfoPlace {
    /// By value: the driver copies the words when it is given the launch.
    Value,
    /// As a pointer to words in the device's memory, read when the kernel runs.
    Buffer,
}

/// One device of a driver, with a stream of its own. Dropping it gives both back.
pub trait Driver: Sized + Send + Sync {
    /// Where the block of scalars stands.
    const INFO: InfoPlace;

    /// Opens the library and the device that `options` name.
    ///
    /// # Errors
    ///
    /// What is missing on this host, and what to install.
    fn open(options: &GpuOptions) -> Result<Self, GpuError>;

    /// What to load of a module: of the binaries for this device the closest, else what its driver can compile.
    ///
    /// # Errors
    ///
    /// Where none of its images runs on this device.
    fn image<'c>(&self, module: &'c Module) -> Result<&'c Image, GpuError>;

    /// The device's name.
    fn name(&self) -> &str;

    /// Its architecture: `sm_90`, `gfx942`; empty if unknown.
    fn arch(&self) -> String;

    /// The driver's version; empty where it is not asked.
    fn version(&self) -> String {
        String::new()
    }

    /// Most workgroups of `workgroup` units along each axis.
    fn groups_max(&self, workgroup: [u32; 3]) -> Grid;

    /// Most dynamic shared memory of a workgroup, in bytes.
    fn shared_bytes_max(&self) -> u32;

    /// Makes the device the calling thread's current one, as all other functions expect.
    ///
    /// # Errors
    ///
    /// As all below, where the driver refuses.
    fn bind(&self) -> Result<(), Failure>;

    /// Takes memory of the device, at least 256 aligned.
    fn take(&self, bytes: u64) -> Result<Address, Failure>;

    /// Gives it back.
    ///
    /// # Safety
    ///
    /// `at` came from [`Driver::take`], and no work to come touches it.
    unsafe fn give_back(&self, at: Address);

    /// How much memory there is, and how much of it is free.
    fn memory(&self) -> Result<MemoryState, Failure>;

    /// Takes memory of the host that copies can go through without waiting.
    fn take_pinned(&self, bytes: usize) -> Result<NonNull<u8>, Failure>;

    /// Gives it back.
    ///
    /// # Safety
    ///
    /// `at` came from [`Driver::take_pinned`], and no work to come touches it.
    unsafe fn give_back_pinned(&self, at: NonNull<u8>);

    /// Queues a copy to the device.
    ///
    /// # Safety
    ///
    /// `from` is pinned and stays as it is until the copy is done; both ranges are inside what was taken.
    unsafe fn copy_in(&self, to: Address, from: NonNull<u8>, bytes: usize) -> Result<(), Failure>;

    /// Queues a copy from the device.
    ///
    /// # Safety
    ///
    /// `to` is pinned and nobody looks at it until the copy is done; both ranges are inside what was taken.
    unsafe fn copy_out(&self, to: NonNull<u8>, from: Address, bytes: usize) -> Result<(), Failure>;

    /// Queues a copy on the device.
    ///
    /// # Safety
    ///
    /// Both ranges are inside what was taken, and apart.
    unsafe fn copy(&self, to: Address, from: Address, bytes: u64) -> Result<(), Failure>;

    /// Queues writing `words` times `word`.
    ///
    /// # Safety
    ///
    /// The range is inside what was taken and aligned to 4.
    unsafe fn fill(&self, to: Address, word: u32, words: u64) -> Result<(), Failure>;

    /// Makes an event, which is nowhere yet.
    fn event(&self) -> Result<Event, Failure>;

    /// Puts an event behind everything queued.
    ///
    /// # Safety
    ///
    /// It has not been destroyed.
    unsafe fn mark(&self, event: Event) -> Result<(), Failure>;

    /// Waits for everything before an event; for nothing where it is nowhere.
    ///
    /// # Safety
    ///
    /// It has not been destroyed.
    unsafe fn wait(&self, event: Event) -> Result<(), Failure>;

    /// Destroys an event.
    ///
    /// # Safety
    ///
    /// It has not been destroyed before.
    unsafe fn destroy_event(&self, event: Event);

    /// Loads a module.
    ///
    /// # Safety
    ///
    /// The image is whole and ends with a zero byte: the driver is not told its length.
    unsafe fn load(&self, image: &[u8]) -> Result<Loaded, Failure>;

    /// Unloads it.
    ///
    /// # Safety
    ///
    /// It is loaded, and no work to come uses it.
    unsafe fn unload(&self, module: Loaded);

    /// Finds a kernel and lets it have `shared_bytes` of dynamic shared memory.
    ///
    /// # Safety
    ///
    /// The module is loaded.
    unsafe fn function(&self, module: Loaded, name: &CStr, shared_bytes: u32) -> Result<Function, Failure>;

    /// Queues a launch; `arguments` point to the kernel's arguments.
    ///
    /// # Safety
    ///
    /// The function's module is loaded; the arguments are those that the kernel takes, in number and size.
    unsafe fn launch(
        &self,
        function: Function,
        grid: Grid,
        workgroup: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Failure>;

    /// Waits for everything queued.
    fn synchronize(&self) -> Result<(), Failure>;

    /// Whether work can be recorded.
    fn records(&self) -> bool;

    /// From here on work is recorded, not done.
    fn begin_recording(&self) -> Result<(), Failure>;

    /// Ends the recording, also a broken one.
    fn end_recording(&self) -> Result<Graph, Failure>;

    /// Makes a recording executable. The recording stays.
    ///
    /// # Safety
    ///
    /// The recording has not been destroyed.
    unsafe fn instantiate(&self, graph: Graph) -> Result<Executable, Failure>;

    /// Destroys a recording.
    ///
    /// # Safety
    ///
    /// It has not been destroyed before.
    unsafe fn destroy_graph(&self, graph: Graph);

    /// Brings what was made executable to the device ahead of its first run, where the driver can.
    ///
    /// # Safety
    ///
    /// As [`Driver::run`].
    unsafe fn upload(&self, executable: Executable) -> Result<(), Failure>;

    /// Queues all that was recorded.
    ///
    /// # Safety
    ///
    /// It has not been destroyed, and neither has memory or a module that it uses.
    unsafe fn run(&self, executable: Executable) -> Result<(), Failure>;

    /// Destroys what was made executable.
    ///
    /// # Safety
    ///
    /// It has not been destroyed before, and does not run.
    unsafe fn destroy(&self, executable: Executable);
}

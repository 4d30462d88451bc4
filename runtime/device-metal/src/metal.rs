//! The driver: all calls of Metal. Command buffers keep what they use alive, and buffers are tracked by Metal, so that
//! commands take effect in the order in which they are recorded.
//!
//! Every call stands inside of [`pooled`]: Metal leaves objects behind that only a pool lets go of.

use crate::driver::{Compiled, Driver, Limits};
use crate::error::MetalError;
use crate::gpu::Gpu;
use dreamc_artifact::code::Module;
use dreamc_runtime::Grid;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::{NSError, NSString};
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder,
    MTLCommandQueue, MTLCompileOptions, MTLComputeCommandEncoder, MTLComputePipelineState, MTLCopyAllDevices,
    MTLDevice, MTLLibrary, MTLMathFloatingPointFunctions, MTLMathMode, MTLResourceOptions, MTLSize,
};
use std::collections::VecDeque;
use std::ptr::NonNull;

/// A device that was found.
pub(crate) type Found = Retained<ProtocolObject<dyn MTLDevice>>;

/// Runs `body`, and lets go of what Metal leaves behind.
pub(crate) fn pooled<R>(body: impl FnOnce() -> R) -> R {
    autoreleasepool(|_| body())
}

/// All devices, the fastest kind first, otherwise as the system lists them.
pub(crate) fn found() -> Result<Vec<(Gpu, Found)>, MetalError> {
    let mut all: Vec<Found> = MTLCopyAllDevices().iter().collect();
    all.sort_by_key(|device| (cfg!(target_os = "macos") && device.isLowPower(), is_removable(device)));
    Ok(all.into_iter().map(|device| (about(&device), device)).collect())
}

/// Whether it is outside of the machine. Only Macs know the question, and end a process that asks it elsewhere.
fn is_removable(device: &ProtocolObject<dyn MTLDevice>) -> bool {
    cfg!(target_os = "macos") && device.isRemovable()
}

fn about(device: &ProtocolObject<dyn MTLDevice>) -> Gpu {
    let unified = device.hasUnifiedMemory();
    Gpu {
        name: device.name().to_string(),
        kind: match (is_removable(device), unified) {
            (true, _) => "external",
            (false, true) => "integrated",
            (false, false) => "discrete",
        },
        unified,
        buffer_bytes_max: device.maxBufferLength() as u64,
        memory_bytes_max: device.recommendedMaxWorkingSetSize(),
    }
}

/// Opens a device.
pub(crate) fn open(gpu: &Gpu, device: Found) -> Result<Metal, MetalError> {
    let queue = device.newCommandQueue().ok_or_else(|| MetalError::Open { device: gpu.name.clone() })?;
    Ok(Metal { device, queue, commands: None, launches: None, under_way: VecDeque::new() })
}

type Commands = Retained<ProtocolObject<dyn MTLCommandBuffer>>;
type Launches = Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>;

/// A device and its queue.
#[derive(Debug)]
pub(crate) struct Metal {
    device: Found,
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    /// Not yet committed.
    commands: Option<Commands>,
    /// Open only while `commands` is there and its last command is a launch.
    launches: Option<Launches>,
    /// Committed, in order, and not yet known to be done.
    under_way: VecDeque<Commands>,
}

// SAFETY: Metal's objects belong to no thread. Command buffers and encoders may not be used by two at once: they are
// private, and reached through `&mut self` alone.
unsafe impl Send for Metal {}

/// A buffer in memory that the host shares.
#[derive(Debug)]
pub(crate) struct Memory(Retained<ProtocolObject<dyn MTLBuffer>>);

// SAFETY: Metal's objects belong to no thread; what the buffer holds is reached through `Metal` alone.
unsafe impl Send for Memory {}

impl Memory {
    /// Whether `bytes` bytes from byte `at` on are its own.
    fn check(&self, at: u64, bytes: u64) -> Result<(), String> {
        let len = self.0.length() as u64;
        match at.checked_add(bytes) {
            Some(end) if end <= len => Ok(()),
            _ => Err(format!("bytes {at} to {at} + {bytes} of a buffer of {len}")),
        }
    }

    /// Byte `at`, of `bytes` that are checked to be its own.
    fn pointer(&self, at: u64, bytes: u64) -> Result<*mut u8, String> {
        self.check(at, bytes)?;
        // SAFETY: `contents` points to `length` bytes, and `at` is among them or just behind.
        Ok(unsafe { self.0.contents().cast::<u8>().as_ptr().add(at as usize) })
    }
}

impl Metal {
    fn commands(&mut self) -> Result<&Commands, String> {
        if self.commands.is_none() {
            self.commands = self.queue.commandBuffer();
        }
        self.commands.as_ref().ok_or_else(|| "the queue gives no command buffer".to_owned())
    }

    /// The open encoder.
    fn encoder(&self) -> Result<&Launches, String> {
        self.launches.as_ref().ok_or_else(|| "no kernel is set".to_owned())
    }

    /// Ends the encoder of launches: Metal allows one at a time, and ends the process if one is let go of open.
    fn end_launches(&mut self) {
        if let Some(launches) = self.launches.take() {
            launches.endEncoding();
        }
    }

    /// Forgets what is done. The first failure, if there was one.
    fn settle(&mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        while let Some(first) = self.under_way.front() {
            let status = first.status();
            if status.0 < MTLCommandBufferStatus::Completed.0 {
                break;
            }
            if status == MTLCommandBufferStatus::Error && outcome.is_ok() {
                let error = first.error();
                outcome = Err(error.map_or_else(|| "the device gave up".to_owned(), |error| text(&error)));
            }
            self.under_way.pop_front();
        }
        outcome
    }
}

impl Drop for Metal {
    fn drop(&mut self) {
        pooled(|| self.end_launches());
    }
}

impl Driver for Metal {
    type Kernel = Retained<ProtocolObject<dyn MTLComputePipelineState>>;
    type Memory = Memory;

    fn limits(&self) -> Limits {
        let MTLSize { width, height, depth } = self.device.maxThreadsPerThreadgroup();
        Limits {
            buffer_bytes: self.device.maxBufferLength() as u64,
            memory_bytes: self.device.recommendedMaxWorkingSetSize(),
            units: [width, height, depth].map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            shared_bytes: self.device.maxThreadgroupMemoryLength() as u64,
        }
    }

    fn taken_bytes(&self) -> u64 {
        self.device.currentAllocatedSize() as u64
    }

    fn memory(&self, bytes: u64) -> Option<Memory> {
        // The driver clears it.
        let shared = MTLResourceOptions::StorageModeShared;
        self.device.newBufferWithLength_options(usize::try_from(bytes).ok()?, shared).map(Memory)
    }

    fn compile(&self, module: &Module, source: &str) -> Result<Compiled<Self::Kernel>, String> {
        let source = NSString::from_str(source);
        let library = self.device.newLibraryWithSource_options_error(&source, Some(&exact()));
        let library = library.map_err(|error| text(&error))?;
        let function = library.newFunctionWithName(&NSString::from_str(&module.name));
        let function = function.ok_or_else(|| "there is no kernel of this name in its text".to_owned())?;
        let kernel = self.device.newComputePipelineStateWithFunction_error(&function);
        let kernel = kernel.map_err(|error| text(&error))?;
        let units_max = kernel.maxTotalThreadsPerThreadgroup() as u64;
        let shared_bytes = kernel.staticThreadgroupMemoryLength() as u64;
        Ok(Compiled { kernel, units_max, shared_bytes })
    }

    fn set_kernel(&mut self, kernel: &Self::Kernel) -> Result<(), String> {
        if self.launches.is_none() {
            // Serial: a launch sees what those before it wrote.
            let launches = self.commands()?.computeCommandEncoder();
            self.launches = Some(launches.ok_or_else(|| "the command buffer takes no launches".to_owned())?);
        }
        self.encoder()?.setComputePipelineState(kernel);
        Ok(())
    }

    fn set_buffer(&mut self, index: usize, memory: &Memory, offset: u64) -> Result<(), String> {
        memory.check(offset, 1)?;
        // SAFETY: the offset is inside the buffer; the index is below the 31 that `needs::check` allows. What the kernel
        // does there is what the compiler made: the artifact's hashes say that it is.
        unsafe { self.encoder()?.setBuffer_offset_atIndex(Some(&memory.0), offset as usize, index) };
        Ok(())
    }

    fn set_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), String> {
        // SAFETY: the bytes are copied before the call returns; the index as for buffers.
        unsafe { self.encoder()?.setBytes_length_atIndex(NonNull::from(bytes).cast(), bytes.len(), index) };
        Ok(())
    }

    fn launch(&mut self, groups: Grid, units: [u32; 3]) -> Result<(), String> {
        self.encoder()?.dispatchThreadgroups_threadsPerThreadgroup(size(groups), size(units));
        Ok(())
    }

    fn copy(&mut self, from: (&Memory, u64), to: (&Memory, u64), bytes: u64) -> Result<(), String> {
        from.0.check(from.1, bytes)?;
        to.0.check(to.1, bytes)?;
        self.end_launches();
        let copies = self.commands()?.blitCommandEncoder();
        let copies = copies.ok_or_else(|| "the command buffer takes no copies".to_owned())?;
        // SAFETY: both ranges are inside their buffers.
        unsafe {
            copies.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                &from.0.0,
                from.1 as usize,
                &to.0.0,
                to.1 as usize,
                bytes as usize,
            );
        }
        copies.endEncoding();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), String> {
        self.end_launches();
        if let Some(commands) = self.commands.take() {
            commands.commit();
            self.under_way.push_back(commands);
        }
        self.settle()
    }

    fn wait(&mut self) -> Result<(), String> {
        let committed = self.commit();
        self.under_way.iter().for_each(|commands| commands.waitUntilCompleted());
        let settled = self.settle();
        committed.and(settled)
    }

    fn write(&mut self, memory: &Memory, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.wait()?;
        let to = memory.pointer(at, bytes.len() as u64)?;
        // SAFETY: `to` points to as many bytes, which nobody else uses: the device has done all that was recorded.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn read(&mut self, memory: &Memory, at: u64, bytes: &mut [u8]) -> Result<(), String> {
        self.wait()?;
        let from = memory.pointer(at, bytes.len() as u64)?;
        // SAFETY: `from` points to as many bytes, which nobody writes: the device has done all that was recorded.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }
}

/// Options under which arithmetic is what the kernels say: no reordering, and infinities as they are.
fn exact() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    #[expect(deprecated, reason = "what came in its place is not there before macOS 15")]
    options.setFastMathEnabled(false);
    if options.respondsToSelector(sel!(setMathMode:)) {
        options.setMathMode(MTLMathMode::Safe);
        options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    }
    options
}

fn size([x, y, z]: [u32; 3]) -> MTLSize {
    MTLSize { width: x as usize, height: y as usize, depth: z as usize }
}

fn text(error: &NSError) -> String {
    error.localizedDescription().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::module;
    use crate::gpu::pick;

    /// As kernels are emitted: the block of scalars has no index of its own and stands behind the buffers.
    const TEXT: &str = "
#include <metal_stdlib>
using namespace metal;
struct info_st {
    uint scalars[2];
};
[[max_total_threads_per_threadgroup(32)]] [[kernel]] void add(device uint const* const x [[buffer(0)]],
    device uint* const y [[buffer(1)]], constant info_st const* const info,
    uint3 const unit [[thread_position_in_threadgroup]], uint3 const group [[threadgroup_position_in_grid]]) {
alignas(4) threadgroup char shared[128];
threadgroup uint* const words = reinterpret_cast<threadgroup uint*>(&shared[0]);
uint const i = group[0] * 32 + unit[0];
words[unit[0]] = i < info->scalars[0] ? x[i] : 0;
threadgroup_barrier(mem_flags::mem_threadgroup);
if (i < info->scalars[0]) y[i] += words[unit[0]] + info->scalars[1];
}
";

    /// The first device; says so where there is none.
    fn opened() -> Option<Metal> {
        match found().and_then(|all| pick(all, None)).and_then(|(gpu, device)| open(&gpu, device)) {
            Ok(metal) => Some(metal),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn commands_take_effect_in_order() {
        pooled(|| {
            let Some(mut metal) = opened() else { return };
            let add = metal.compile(&module("add", 2, &[]), TEXT).unwrap();
            assert!(add.units_max >= 32 && add.shared_bytes >= 128);
            let (x, y) = (metal.memory(1024).unwrap(), metal.memory(1024).unwrap());
            metal.write(&x, 256, &bytes(&(0..100).collect::<Vec<_>>())).unwrap();
            for _ in 0..2 {
                metal.set_kernel(&add.kernel).unwrap();
                metal.set_buffer(0, &x, 256).unwrap();
                metal.set_buffer(1, &y, 512).unwrap();
                metal.set_bytes(2, &bytes(&[40, 1000])).unwrap();
                metal.launch([2, 1, 1], [32, 1, 1]).unwrap();
                metal.copy((&y, 512), (&y, 0), 8).unwrap();
                metal.commit().unwrap();
            }
            let mut sums = [0; 41 * 4];
            metal.read(&y, 512, &mut sums).unwrap();
            let wanted: Vec<u32> = (0..40).map(|i| 2 * (i + 1000)).chain([0]).collect();
            assert_eq!(sums, *bytes(&wanted));
            metal.read(&y, 0, &mut sums[..12]).unwrap();
            assert_eq!(sums[..12], *bytes(&[2000, 2002, 0]));
            // An open encoder is ended when the device goes.
            metal.set_kernel(&add.kernel).unwrap();
        });
    }

    #[test]
    fn what_is_refused() {
        pooled(|| {
            let Some(mut metal) = opened() else { return };
            let error = metal.compile(&module("add", 2, &[]), "[[kernel]] void add(wrong w) {}").unwrap_err();
            assert!(error.contains("wrong"), "{error}");
            assert!(metal.compile(&module("sub", 2, &[]), TEXT).is_err());
            let memory = metal.memory(16).unwrap();
            assert!(metal.write(&memory, 13, &[0; 4]).is_err());
            assert!(metal.read(&memory, u64::MAX, &mut [0; 4]).is_err());
            assert!(metal.copy((&memory, 0), (&memory, 12), 8).is_err());
            assert!(metal.set_bytes(0, &[0; 4]).is_err(), "no kernel is set");
        });
    }
}

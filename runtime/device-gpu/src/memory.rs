//! Memory that is given back when it is dropped.

use crate::driver::{Address, Driver};
use crate::error::Failure;
use dreamc_runtime::{DeviceError, Memory};
use std::ptr::NonNull;
use std::sync::Arc;

/// Half of the pinned memory: while one half is being copied, the other is filled.
pub(crate) const HALF_BYTES: usize = 4 << 20;

/// Memory of the device.
pub(crate) struct DeviceMemory<D: Driver> {
    driver: Arc<D>,
    at: Address,
    bytes: u64,
}

impl<D: Driver> DeviceMemory<D> {
    /// Takes `bytes`, at least 4 and a multiple of 4. What is in it is not specified.
    pub(crate) fn take(driver: &Arc<D>, bytes: u64) -> Result<DeviceMemory<D>, Failure> {
        let bytes = bytes.max(4).next_multiple_of(4);
        Ok(DeviceMemory { driver: driver.clone(), at: driver.take(bytes)?, bytes })
    }

    /// Queues filling it with zeros.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        // SAFETY: all of what was taken, a multiple of 4.
        unsafe { self.driver.fill(self.at, 0, self.bytes / 4) }
    }

    /// How much was taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where `bytes` bytes at `offset` begin; `None` if they are not all inside.
    pub(crate) fn part(&self, offset: u64, bytes: u64) -> Option<Address> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then_some(Address(self.at.0 + offset))
    }
}

impl<D: Driver> Drop for DeviceMemory<D> {
    fn drop(&mut self) {
        // SAFETY: it was taken from this driver. The device waits before it drops what work may touch.
        unsafe { self.driver.give_back(self.at) };
    }
}

/// Takes what a program needs of the device's memory. Where that runs out, the error has all that it needs.
pub(crate) struct Taking<D: Driver> {
    driver: Arc<D>,
    /// Bytes of all its weights.
    weights: u64,
    /// Bytes of what it works in.
    arena: u64,
    /// Bytes that the program has so far.
    held: u64,
}

impl<D: Driver> Taking<D> {
    /// For a program of which `held` bytes of the weights are there.
    pub(crate) fn new(driver: &Arc<D>, weights: u64, arena: u64, held: u64) -> Taking<D> {
        Taking { driver: driver.clone(), weights, arena, held }
    }

    /// Takes `bytes` of it.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<DeviceMemory<D>, DeviceError> {
        let failure = match DeviceMemory::take(&self.driver, bytes) {
            Ok(memory) => {
                self.held += memory.bytes();
                return Ok(memory);
            }
            Err(failure) => failure,
        };
        if !failure.out_of_memory {
            return Err(failure.doing("taking memory of the device"));
        }
        let Ok(state) = self.driver.memory() else { return Err(DeviceError::OutOfMemory { bytes }) };
        let (free, total) = (state.free.saturating_add(self.held), state.total);
        let memory = Memory { weights: self.weights, arena: self.arena, free, total };
        Err(DeviceError::OutOfDeviceMemory { memory })
    }
}

/// Pinned memory that bytes go through on their way to the device and back.
pub(crate) struct Staging<D: Driver> {
    driver: Arc<D>,
    start: NonNull<u8>,
    /// Which half is filled next, 0 or 1. No copy out of it is under way.
    half: usize,
}

// SAFETY: it alone owns the memory, which may be touched from any thread.
unsafe impl<D: Driver> Send for Staging<D> {}

impl<D: Driver> Staging<D> {
    /// Bytes of both halves.
    pub(crate) const BYTES: usize = 2 * HALF_BYTES;

    pub(crate) fn take(driver: &Arc<D>) -> Result<Staging<D>, Failure> {
        Ok(Staging { driver: driver.clone(), start: driver.take_pinned(Self::BYTES)?, half: 0 })
    }

    fn half(&self) -> NonNull<u8> {
        // SAFETY: `half` is 0 or 1, and there are two halves.
        unsafe { self.start.add(self.half * HALF_BYTES) }
    }

    /// Writes `bytes` to `to`, where there is room for them. The last copies may still be under way.
    pub(crate) fn write(&mut self, to: Address, bytes: &[u8]) -> Result<(), Failure> {
        let mut to = to;
        for chunk in bytes.chunks(HALF_BYTES) {
            let half = self.half();
            // SAFETY: a chunk fits a half; the last copy out of this half ended at the latest when the copy out of the
            // other one was queued.
            unsafe { std::ptr::copy_nonoverlapping(chunk.as_ptr(), half.as_ptr(), chunk.len()) };
            self.driver.synchronize()?;
            // SAFETY: the half is left alone until a later copy has waited for this one.
            unsafe { self.driver.copy_in(to, half, chunk.len()) }?;
            to = Address(to.0 + chunk.len() as u64);
            self.half ^= 1;
        }
        Ok(())
    }

    /// Reads into `bytes` from `from`, where there are as many.
    pub(crate) fn read(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Failure> {
        let mut from = from;
        let mut chunks = bytes.chunks_mut(HALF_BYTES).peekable();
        if let Some(first) = chunks.peek() {
            // SAFETY: the copies queued before come before it; it is waited for below.
            unsafe { self.driver.copy_out(self.half(), from, first.len()) }?;
        }
        while let Some(chunk) = chunks.next() {
            self.driver.synchronize()?;
            let half = self.half();
            self.half ^= 1;
            from = Address(from.0 + chunk.len() as u64);
            if let Some(next) = chunks.peek() {
                // SAFETY: into the other half, whose bytes have been taken away.
                unsafe { self.driver.copy_out(self.half(), from, next.len()) }?;
            }
            // SAFETY: the copy into this half is done; a chunk is not longer than a half.
            unsafe { std::ptr::copy_nonoverlapping(half.as_ptr(), chunk.as_mut_ptr(), chunk.len()) };
        }
        Ok(())
    }
}

impl<D: Driver> Drop for Staging<D> {
    fn drop(&mut self) {
        // Where the driver refuses to wait, nothing runs any more.
        let _ = self.driver.synchronize();
        // SAFETY: it was taken from this driver, and no copy is under way.
        unsafe { self.driver.give_back_pinned(self.start) };
    }
}

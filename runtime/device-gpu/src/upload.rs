//! Weights on their way to the device: several threads read ahead into pinned buffers, one copies from there.
//!
//! ```text
//! mapped file ──threads──► buffer 0 ─┐
//!                          buffer 1 ─┼─ one stream ──► memory of the device
//!                          ..       ─┘
//! ```
//!
//! Piece `p` of the weights goes through buffer `p % count`. Behind each copy stands an event; a buffer is filled anew
//! only after its event. Two copies are queued at a time, so that the link never waits for the host, and all other
//! buffers are being filled.

use crate::driver::{Address, Driver, Event};
use crate::error::Failure;
use dreamc_runtime::DeviceError;
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Most pinned buffers that weights go through.
pub const STAGING_COUNT: usize = 8;

/// Bytes of each: long enough that the link's latency is nothing, short enough that the first copy begins soon.
pub const STAGING_BYTES: usize = 8 << 20;

/// Most threads that read: a thread copies some 10 GB/s, a link takes 50. One buffer each, and two are being copied.
const READER_COUNT_MAX: usize = STAGING_COUNT - 2;

/// Bytes, and where on the device there is room for them.
pub(crate) struct Piece<'w> {
    pub(crate) to: Address,
    pub(crate) bytes: &'w [u8],
}

/// A buffer to be filled with the bytes of piece `number`.
struct Task<'w> {
    number: usize,
    bytes: &'w [u8],
    to: NonNull<u8>,
}

// SAFETY: whoever has the task is the only one that touches the buffer.
unsafe impl Send for Task<'_> {}

impl Task<'_> {
    /// Fills the buffer, and says with which piece.
    fn fill(self) -> usize {
        // SAFETY: a piece is not longer than a buffer; nobody else touches it, as above.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes.as_ptr(), self.to.as_ptr(), self.bytes.len()) };
        self.number
    }
}

/// Copies all of `weights` to the device, through buffers of `staging_bytes`. When it returns, also with an error, no copy
/// is under way.
pub(crate) fn upload<D: Driver>(
    driver: &Arc<D>,
    weights: &[Piece<'_>],
    staging_bytes: usize,
) -> Result<(), DeviceError> {
    let pieces: Vec<Piece<'_>> = weights.iter().flat_map(|weight| cut(weight, staging_bytes)).collect();
    let Some(longest) = pieces.iter().map(|piece| piece.bytes.len()).max() else { return Ok(()) };
    let count = pieces.len().min(STAGING_COUNT);
    let buffers = Buffers::take(driver, count, longest).map_err(|failure| {
        let what = format!("taking {} bytes of pinned memory of the host for weights", count * longest);
        let help = "free memory of the host, or allow the process to lock more (`ulimit -l`)";
        DeviceError::Driver { what, error: format!("{}; {help}", failure.error) }
    })?;
    let total: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
    let failed = |failure: Failure| failure.doing(format!("copying {total} bytes of weights to the device"));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (tasks, taken) = channel();
    let (filled, done) = channel();
    let taken = Mutex::new(taken);
    std::thread::scope(|scope| {
        let read = |_| {
            let (taken, filled) = (&taken, filled.clone());
            // Where the system gives fewer threads, fewer do the work; without any, this one does it.
            std::thread::Builder::new().spawn_scoped(scope, move || read_ahead(taken, &filled)).ok()
        };
        let readers = (0..threads.min(READER_COUNT_MAX)).map_while(read).count();
        let alone = (readers == 0).then(|| filled.clone());
        drop(filled);
        // Dropping `tasks` ends the readers, here and where something fails.
        copy(&buffers, &pieces, Readers { tasks, done, alone })
    })
    .and_then(|()| driver.synchronize())
    .map_err(failed)
}

/// A weight in pieces that fit a buffer.
fn cut<'w>(weight: &Piece<'w>, staging_bytes: usize) -> impl Iterator<Item = Piece<'w>> {
    let to = weight.to.0;
    let piece = move |(i, bytes)| Piece { to: Address(to + (i * staging_bytes) as u64), bytes };
    weight.bytes.chunks(staging_bytes).enumerate().map(piece)
}

/// What a thread does that reads.
fn read_ahead(taken: &Mutex<Receiver<Task<'_>>>, filled: &Sender<usize>) {
    loop {
        let next = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = next else { break };
        if filled.send(task.fill()).is_err() {
            break;
        }
    }
}

/// The threads that read.
struct Readers<'w> {
    tasks: Sender<Task<'w>>,
    done: Receiver<usize>,
    /// Where there is no thread.
    alone: Option<Sender<usize>>,
}

impl<'w> Readers<'w> {
    /// Has a buffer filled.
    fn ask(&self, task: Task<'w>) -> Result<(), Failure> {
        let asked = match &self.alone {
            Some(filled) => filled.send(task.fill()).is_ok(),
            None => self.tasks.send(task).is_ok(),
        };
        if asked { Ok(()) } else { Err(ended()) }
    }
}

/// A reader reads memory and nothing else.
fn ended() -> Failure {
    Failure {
        error: "bug: a thread that reads weights ended; please report it".to_owned(),
        out_of_memory: false,
    }
}

/// Queues the copies of all pieces in order.
fn copy<'w, D: Driver>(
    buffers: &Buffers<D>,
    pieces: &[Piece<'w>],
    readers: Readers<'w>,
) -> Result<(), Failure> {
    let count = buffers.events.len();
    let task = |number: usize, piece: &Piece<'w>| Task {
        number,
        bytes: piece.bytes,
        to: buffers.at(number % count),
    };
    for (number, piece) in pieces.iter().enumerate().take(count) {
        readers.ask(task(number, piece))?;
    }
    let mut filled = vec![false; pieces.len()];
    for (number, piece) in pieces.iter().enumerate() {
        while !filled.get(number).copied().unwrap_or(true) {
            let next = readers.done.recv().map_err(|_| ended())?;
            filled.get_mut(next).into_iter().for_each(|filled| *filled = true);
        }
        buffers.copy_in(number % count, piece)?;
        // While this copy is under way, the buffer of the one before is filled again.
        let Some(before) = number.checked_sub(1) else { continue };
        if let Some(next) = pieces.get(before + count) {
            buffers.wait(before % count)?;
            readers.ask(task(before + count, next))?;
        }
    }
    Ok(())
}

/// Pinned buffers, each with an event behind the last copy out of it.
struct Buffers<D: Driver> {
    driver: Arc<D>,
    start: NonNull<u8>,
    bytes: usize,
    events: Vec<Event>,
}

impl<D: Driver> Buffers<D> {
    /// Takes `count` buffers of `bytes` bytes.
    fn take(driver: &Arc<D>, count: usize, bytes: usize) -> Result<Buffers<D>, Failure> {
        let start = driver.take_pinned(count * bytes)?;
        // From here on they are given back whatever happens.
        let mut buffers = Buffers { driver: driver.clone(), start, bytes, events: Vec::with_capacity(count) };
        for _ in 0..count {
            buffers.events.push(driver.event()?);
        }
        Ok(buffers)
    }

    fn at(&self, index: usize) -> NonNull<u8> {
        // SAFETY: `index` is below the number of buffers.
        unsafe { self.start.add(index * self.bytes) }
    }

    /// Queues the copy of a piece that a buffer was filled with.
    fn copy_in(&self, index: usize, piece: &Piece<'_>) -> Result<(), Failure> {
        // SAFETY: the buffer is left alone until its event was waited for; there is room where the piece goes.
        unsafe { self.driver.copy_in(piece.to, self.at(index), piece.bytes.len()) }?;
        // SAFETY: events live as long as `self`.
        self.events.get(index).map_or(Ok(()), |event| unsafe { self.driver.mark(*event) })
    }

    /// Waits until the last copy out of a buffer is done.
    fn wait(&self, index: usize) -> Result<(), Failure> {
        // SAFETY: as above.
        self.events.get(index).map_or(Ok(()), |event| unsafe { self.driver.wait(*event) })
    }
}

impl<D: Driver> Drop for Buffers<D> {
    fn drop(&mut self) {
        // Where the driver refuses to wait, nothing runs any more.
        let _ = self.driver.synchronize();
        for event in &self.events {
            // SAFETY: each is this value's own.
            unsafe { self.driver.destroy_event(*event) };
        }
        // SAFETY: it was taken from this driver, and no copy is under way.
        unsafe { self.driver.give_back_pinned(self.start) };
    }
}

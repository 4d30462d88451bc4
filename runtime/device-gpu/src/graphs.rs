//! Recorded runs, one for each set of lengths and each way to run the loop.

use crate::driver::{Driver, Executable, Graph};
use crate::error::Failure;
use std::sync::Arc;

/// Most recorded runs that are kept; the one that was not used for longest makes room.
pub const GRAPH_COUNT_MAX: usize = 8;

/// Longest run that is recorded, in launches, copies and fills: a recording takes memory for each.
pub const GRAPH_NODE_COUNT_MAX: u64 = 1 << 17;

/// What a recorded run is known by: all that it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The lengths at its beginning; those of its steps follow from them and the variant.
    pub(crate) symbols: Vec<u32>,
    /// As [`dreamc_runtime::Device::begin`] was told.
    pub(crate) variant: u32,
}

/// A recorded run.
struct Run<D: Driver> {
    driver: Arc<D>,
    executable: Executable,
    key: Key,
}

impl<D: Driver> Drop for Run<D> {
    fn drop(&mut self) {
        // It may be running.
        let _ = self.driver.synchronize();
        // SAFETY: this is its only owner, and it has ended.
        unsafe { self.driver.destroy(self.executable) };
    }
}

/// The recorded runs of a program.
pub(crate) struct Graphs<D: Driver> {
    /// The one used last is the last.
    runs: Vec<Run<D>>,
}

impl<D: Driver> Graphs<D> {
    pub(crate) fn new() -> Graphs<D> {
        Graphs { runs: Vec::new() }
    }

    /// Queues the run that was recorded as `key`. Whether there is one.
    ///
    /// # Safety
    ///
    /// The memory and the modules that it uses are still there.
    pub(crate) unsafe fn run(&mut self, key: &Key) -> Result<bool, Failure> {
        let Some(found) = self.runs.iter().position(|run| run.key == *key) else { return Ok(false) };
        let run = self.runs.remove(found);
        // SAFETY: it is alive, the caller's promise covers the rest. One that fails is dropped, and recorded anew.
        unsafe { run.driver.run(run.executable) }?;
        self.runs.push(run);
        Ok(true)
    }

    /// Whether there is a run of `key`.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.runs.iter().any(|run| run.key == *key)
    }

    /// Brings the run that was kept last to the device ahead of its first time.
    ///
    /// # Safety
    ///
    /// As [`Graphs::run`].
    pub(crate) unsafe fn upload(&self) -> Result<(), Failure> {
        // SAFETY: it is alive, the caller's promise covers the rest.
        self.runs.last().map_or(Ok(()), |run| unsafe { run.driver.upload(run.executable) })
    }

    /// Keeps a recording as the run of `key`, for which there is none. Destroys the recording in any case.
    pub(crate) fn keep(&mut self, driver: &Arc<D>, graph: Graph, key: &Key) -> Result<(), Failure> {
        if self.runs.len() >= GRAPH_COUNT_MAX {
            self.runs.remove(0);
        }
        // SAFETY: the recording is destroyed further down.
        let mut made = unsafe { driver.instantiate(graph) };
        if made.as_ref().is_err_and(|failure| failure.out_of_memory) && !self.runs.is_empty() {
            self.runs.clear();
            // SAFETY: as above.
            made = unsafe { driver.instantiate(graph) };
        }
        // SAFETY: it came from this driver and is not used again.
        unsafe { driver.destroy_graph(graph) };
        self.runs.push(Run { driver: driver.clone(), executable: made?, key: key.clone() });
        Ok(())
    }
}

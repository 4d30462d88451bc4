//! What every kernel gets: the instruction set, the threads, and scratch memory.

use crate::isa::Isa;
use crate::memory::Shared;
use crate::pool::Pool;

/// Scratch that a kernel needs, in floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// One for all tasks.
    pub(crate) shared: usize,
    /// One per worker.
    pub(crate) worker: usize,
}

impl Need {
    pub(crate) fn max(self, other: Need) -> Need {
        Need { shared: self.shared.max(other.shared), worker: self.worker.max(other.worker) }
    }
}

/// See the module documentation.
#[derive(Clone, Copy)]
pub(crate) struct Context<'c> {
    pub(crate) isa: Isa,
    pub(crate) pool: &'c Pool,
    pub(crate) shared: Shared<f32>,
    pub(crate) workers: Shared<f32>,
    pub(crate) have: Need,
}

impl Context<'_> {
    /// The first `floats` of the scratch that all tasks see.
    pub(crate) fn shared(&self, floats: usize) -> Shared<f32> {
        assert!(floats <= self.have.shared);
        self.shared
    }

    /// The first `floats` of a worker's own scratch.
    ///
    /// # Safety
    ///
    /// Called by the task that `worker` is running, which drops the last result before it asks again.
    #[expect(clippy::mut_from_ref, reason = "every worker has its own")]
    pub(crate) unsafe fn worker(&self, worker: usize, floats: usize) -> &mut [f32] {
        assert!(floats <= self.have.worker && worker < self.pool.threads());
        // SAFETY: inside the allocation by the assertion; the worker's own by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.workers.get().add(worker * self.have.worker), floats) }
    }
}

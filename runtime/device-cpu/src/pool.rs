//! A fixed set of threads that claim the tasks of one job at a time.
//!
//! Tasks write disjoint results in an order fixed inside each task, so results do not depend on the
//! number of threads. Starting a job allocates nothing.
//!
//! A thread that the system has put aside takes no part in a job, unless it already has a task: then the caller sleeps, so
//! that its core is free for that thread. Where threads were put aside of late, others have work for these cores: then nobody
//! looks for long, since who looks uses up the time that it will be granted.

use crate::pin::{pin_to, times_put_aside};
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread looks for the next job, or for the end of one, before it sleeps: about half a millisecond, which is
/// longer than any dispatch that one thread does alone. A thread that slept takes long to come back, and is often woken on the
/// core of the one that wakes it, and then both share that core for some milliseconds.
const PATIENCE: usize = 40_000;
/// The same where there are more threads than cores, or others want them.
const CROWDED: usize = 2000;

/// For so many jobs cores count as crowded once a thread was put aside: some hundred milliseconds.
const CROWDED_JOBS: usize = 1000;

/// Who took this long for a job may have been put aside, and asks the system, which takes a fraction of a microsecond.
const LONG: Duration = Duration::from_micros(200);

/// Elements that are moved or added to in about the time in which a thread that waits takes up a task.
const TASK_WORK: usize = 16 * 1024;

/// Parts of a job at most.
const PARTS_MAX: usize = 8;

/// No core.
const NONE: usize = usize::MAX;

/// Part of [`Shared::gate`]: threads may still take part in the job.
const OPEN: usize = 1;
/// Part of [`Shared::gate`], once for each thread that takes part.
const INSIDE: usize = 2;

type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the threads share.
struct Shared {
    /// Counts jobs; a change is the signal to start.
    epoch: Line<AtomicUsize>,
    /// Next task of each part to claim.
    next: [Line<AtomicUsize>; PARTS_MAX],
    /// Whether the job is open, and how many threads are inside, the calling one not counted.
    gate: Line<AtomicUsize>,
    /// Whether the caller sleeps until the last one has left.
    sleeping: AtomicBool,
    sleeper: (Mutex<()>, Condvar),
    /// Set while a job runs, so that there is one at a time.
    busy: AtomicBool,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// How often a thread looks before it sleeps, where the cores are its own.
    patience: usize,
    /// The job up to which they count as crowded.
    crowded_until: AtomicUsize,
    /// Threads that are up, and bound where that was asked for.
    bound: AtomicUsize,
    /// A core that a thread could not be bound to, or `NONE`.
    unpinned: AtomicUsize,
    /// The job, its parts, and the tasks of each. Written only while it is closed and no thread is inside.
    job: UnsafeCell<Option<(*const Job<'static>, usize, usize)>>,
}

/// What has cache lines of its own: some threads look at it while others write elsewhere.
#[repr(align(128))]
struct Line<T>(T);

impl<T> std::ops::Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

// SAFETY: `job` is written before `gate` is released open, read after a thread has acquired it and gone inside, and not
// written again until all have left.
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside is only used as `Sync` says.
unsafe impl Send for Shared {}

/// A fixed set of threads, the calling one included.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, at least 1. Fewer where the system refuses them. Thread `i` is bound to the
    /// `i`-th core of `pin`, from its start again where there are more threads; with no cores none is bound.
    ///
    /// # Errors
    ///
    /// The core that a thread could not be bound to.
    pub(crate) fn new(threads: usize, pin: &[usize]) -> Result<Pool, usize> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shared = Arc::new(Shared {
            epoch: Line(AtomicUsize::new(0)),
            next: [const { Line(AtomicUsize::new(0)) }; PARTS_MAX],
            gate: Line(AtomicUsize::new(0)),
            sleeping: AtomicBool::new(false),
            sleeper: (Mutex::new(()), Condvar::new()),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            patience: if threads <= cores { PATIENCE } else { CROWDED },
            crowded_until: AtomicUsize::new(0),
            bound: AtomicUsize::new(0),
            unpinned: AtomicUsize::new(NONE),
            job: UnsafeCell::new(None),
        });
        let core = |worker: usize| pin.get(worker.checked_rem(pin.len())?).copied();
        if let Some(core) = core(0)
            && !pin_to(core)
        {
            return Err(core);
        }
        let workers = (1..threads.max(1))
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                let core = core(worker);
                let name = format!("dream-cpu-{worker}");
                let life = move || {
                    if let Some(core) = core
                        && !pin_to(core)
                    {
                        shared.unpinned.store(core, Ordering::Relaxed);
                    }
                    shared.bound.fetch_add(1, Ordering::Release);
                    work(&shared, worker);
                };
                std::thread::Builder::new().name(name).spawn(life).ok()
            })
            .collect();
        let pool = Pool { shared, workers };
        // Every thread is up and has tried to bind itself.
        while pool.shared.bound.load(Ordering::Acquire) < pool.workers.len() {
            std::thread::yield_now();
        }
        match pool.shared.unpinned.load(Ordering::Relaxed) {
            NONE => Ok(pool),
            core => Err(core),
        }
    }

    /// Number of threads, the calling one included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The task of a part that is claimed next: most likely by the thread that asks, when its own is about to end.
    pub(crate) fn upcoming(&self, part: usize) -> usize {
        self.shared.next[part].load(Ordering::Relaxed)
    }

    /// How many parts to make of `pieces`, for [`Pool::run_parts`]: of about `least` or more, and no more than threads.
    pub(crate) fn parts(&self, pieces: usize, least: usize) -> usize {
        (pieces / least).clamp(1, self.threads().min(PARTS_MAX))
    }

    /// Runs `job(row, worker)` for every row, a task being as many rows of `work` elements each as are worth waking a thread:
    /// few small rows are done by the calling thread alone.
    ///
    /// # Panics
    ///
    /// As [`Pool::run`].
    pub(crate) fn run_rows(&self, rows: usize, work: usize, job: &Job<'_>) {
        let of_task = (TASK_WORK / work.max(1)).max(1);
        self.run(rows.div_ceil(of_task), &|task, worker| {
            let first = task * of_task;
            (first..rows.min(first + of_task)).for_each(|row| job(row, worker));
        });
    }

    /// Runs `job(task, worker)` for every task in `0..tasks` and returns when all are done.
    ///
    /// # Panics
    ///
    /// If a task panics, or if the pool is already running a job.
    pub(crate) fn run(&self, tasks: usize, job: &Job<'_>) {
        self.run_parts(1, tasks, job);
    }

    /// The same with `parts` times as many tasks. Those of a part are done by the same threads, as far as may be: what one
    /// job leaves in a core's cache is there for the same part of the next.
    ///
    /// # Panics
    ///
    /// As [`Pool::run`].
    pub(crate) fn run_parts(&self, parts: usize, of_part: usize, job: &Job<'_>) {
        let tasks = parts * of_part;
        assert!(parts <= PARTS_MAX);
        if self.workers.is_empty() || tasks <= 1 {
            for task in 0..tasks {
                if self.workers.is_empty() {
                    self.shared.next[task / of_part].store(task % of_part + 1, Ordering::Relaxed);
                }
                job(task, 0);
            }
            return;
        }
        let shared = &*self.shared;
        assert!(!shared.busy.swap(true, Ordering::Acquire), "the pool runs one job at a time");
        // SAFETY: only the lifetime changes. This function returns after every thread has left the job, so the borrow
        // outlives its uses.
        let erased = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: the last job was closed and left by all.
        unsafe { *shared.job.get() = Some((erased, parts, of_part)) };
        shared.next.iter().for_each(|next| next.store(0, Ordering::Relaxed));
        shared.gate.store(OPEN, Ordering::Release);
        shared.epoch.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(|w| w.thread().unpark());
        let start = Instant::now();
        let own = catch_unwind(AssertUnwindSafe(|| claim(shared, job, (parts, of_part), 0)));
        shared.looks_back(start);
        shared.gate.fetch_sub(OPEN, Ordering::Relaxed);
        if !looked(shared.patience(), || shared.gate.load(Ordering::Acquire) == 0) {
            shared.sleep();
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        shared.busy.store(false, Ordering::Release);
        assert!(own.is_ok() && !panicked, "a task of the pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker's panics are caught inside it.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// How often a thread looks before it sleeps.
    fn patience(&self) -> usize {
        let until = self.crowded_until.load(Ordering::Relaxed);
        if self.epoch.load(Ordering::Relaxed) < until { CROWDED } else { self.patience }
    }

    /// Behind a job that began at `start`: whether the calling thread was put aside since its last long job.
    fn looks_back(&self, start: Instant) {
        thread_local! {
            /// How often this thread had been put aside then; nothing before its first.
            static BEFORE: Cell<Option<i64>> = const { Cell::new(None) };
        }
        if start.elapsed() < LONG {
            return;
        }
        let now = times_put_aside();
        if BEFORE.replace(Some(now)).is_some_and(|before| before != now) {
            let until = self.epoch.load(Ordering::Relaxed) + CROWDED_JOBS;
            self.crowded_until.store(until, Ordering::Relaxed);
        }
    }

    /// Sleeps until the last thread has left the job.
    fn sleep(&self) {
        let (lock, wake) = &self.sleeper;
        let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        // One of the two sees what the other has written: here that all have left, or there that somebody sleeps. A swap, as qemu
        // lets a load of Arm's overtake a store, and then neither sees it.
        self.sleeping.swap(true, Ordering::SeqCst);
        while self.gate.load(Ordering::SeqCst) != 0 {
            guard = wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Leaves the job.
    fn leave(&self) {
        if self.gate.fetch_sub(INSIDE, Ordering::SeqCst) == INSIDE && self.sleeping.load(Ordering::SeqCst) {
            let (lock, wake) = &self.sleeper;
            drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
            wake.notify_one();
        }
    }
}

/// Looks for a while whether something has come about.
fn looked(spins: usize, done: impl Fn() -> bool) -> bool {
    (0..spins).any(|_| {
        std::hint::spin_loop();
        done()
    })
}

/// Takes tasks until there are none left: of its own part first, then of the others.
fn claim(shared: &Shared, job: &Job<'_>, (parts, of_part): (usize, usize), worker: usize) {
    for part in (0..parts).map(|i| (worker + i) % parts) {
        loop {
            let task = shared.next[part].fetch_add(1, Ordering::Relaxed);
            if task >= of_part {
                break;
            }
            job(part * of_part + task, worker);
        }
    }
}

/// The life of one thread.
fn work(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        let called = || shared.epoch.load(Ordering::Acquire) != seen;
        while !called() && !looked(shared.patience(), called) {
            std::thread::park();
        }
        seen = shared.epoch.load(Ordering::Acquire);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let enter = |gate: usize| (gate & OPEN != 0).then_some(gate + INSIDE);
        if shared.gate.try_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
            continue;
        }
        // SAFETY: written before the gate was opened, and not again until this thread has left.
        if let Some((job, parts, of_part)) = unsafe { *shared.job.get() } {
            // SAFETY: the caller of `run` keeps the job alive until all have left.
            let job = unsafe { &*job };
            let start = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| claim(shared, job, (parts, of_part), worker))).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
            shared.looks_back(start);
        }
        shared.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads, &[]).unwrap();
            for tasks in [0, 1, 2, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, worker| {
                    assert!(worker < threads);
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn survives_a_panic() {
        let pool = Pool::new(2, &[]).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|task, _| assert!(task != 5))));
        assert!(result.is_err());
        pool.run(8, &|_, _| {});
    }
}

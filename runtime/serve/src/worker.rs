//! The model's own thread: one request at a time, a queue that is bounded, and none for clients that are gone.

use crate::metrics::{Dropped, Metrics};
use crate::opened::Opened;
use crate::refusal::Refusal;
use axum::http::StatusCode;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Whether whoever asked is gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gone(Arc<AtomicBool>);

impl Gone {
    /// Whether they are.
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Says so once the one who waits does not any more.
struct Waiting(Gone);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

type Job = Box<dyn FnOnce(&mut Opened) -> Result<(), Broken> + Send>;

/// The model panicked and is of no use any more.
struct Broken;

/// Where requests are put for the model.
#[derive(Clone)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    metrics: Arc<Metrics>,
    broken: Arc<AtomicBool>,
    /// Longest time from asking to the answer.
    timeout: Duration,
}

impl Queue {
    /// A queue of at most `length` requests, and the thread that serves them. The thread ends when the queue is dropped and all
    /// of it is served.
    pub(crate) fn new(
        mut opened: Opened,
        length: usize,
        timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Queue, std::thread::JoinHandle<()>)> {
        let (jobs, mut waiting) = mpsc::channel::<Job>(length);
        let broken = Arc::new(AtomicBool::new(false));
        let (of_thread, depth) = (Arc::clone(&broken), Arc::clone(&metrics));
        let work = move || {
            while let Some(job) = waiting.blocking_recv() {
                depth.waits(waiting.len());
                if job(&mut opened).is_err() {
                    of_thread.store(true, Ordering::Relaxed);
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("dream-model".to_owned()).spawn(work)?;
        Ok((Queue { jobs, metrics, broken, timeout }, thread))
    }

    /// Longest time from asking to the answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the model can still be asked.
    pub(crate) fn is_sound(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Has the model do something, behind all who asked before. Where the future is dropped, nobody waits any more: the
    /// request is not begun, or ends with its step.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Opened, &Gone) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let gone = Gone::default();
        let waiting = Waiting(gone.clone());
        let metrics = Arc::clone(&self.metrics);
        let job: Job = Box::new(move |opened| {
            if gone.is() {
                metrics.dropped(Dropped::BeforeItsTurn);
                return Ok(());
            }
            let start = Instant::now();
            let made = catch_unwind(AssertUnwindSafe(|| work(opened, &gone)));
            metrics.inferred(start.elapsed());
            if gone.is() {
                metrics.dropped(Dropped::WhileItRan);
            }
            let (made, outcome) = match made {
                Ok(made) => (made, Ok(())),
                Err(_) => (Err(Refusal::bug()), Err(Broken)),
            };
            // Where nobody waits there is nobody to tell.
            let _ = answer.send(made);
            outcome
        });
        let full = self.jobs.max_capacity();
        match self.jobs.try_send(job) {
            Ok(()) => self.metrics.waits(full - self.jobs.capacity()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.metrics.dropped(Dropped::QueueFull);
                return Err(Refusal::busy(full));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Refusal::bug()),
        }
        let answered = tokio::time::timeout(self.timeout, answered).await;
        drop(waiting);
        match answered {
            Ok(Ok(made)) => made,
            // The thread has ended with the job.
            Ok(Err(_)) => Err(Refusal::bug()),
            Err(_) => {
                // Counted again when its turn comes or it stops: as one that nobody waits for any more.
                self.metrics.dropped(Dropped::Timeout);
                let text = format!("there was no answer within {} s", self.timeout.as_secs_f32());
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text))
            }
        }
    }
}

//! Serves an artifact: the protocols that robots already speak, on one port. It holds no compiler.
//!
//! ```text
//! listener ── path ──► openvla.rs, openpi.rs, vla_eval.rs, open_inference.rs ──► acting.rs ──► worker.rs: the model's own thread
//!                  └─► chat.rs, chat_stream.rs ────────────────────────────────────────┘
//! ```
//!
//! Requests become trees (`value.rs`, `array.rs`), bounded before they are there; errors are one type (`refusal.rs`) that every
//! protocol says in its own words. Inference runs off the threads that read and write, one request at a time, behind a
//! queue that is bounded. A request whose client is gone is not begun, or stops between two steps.

mod acting;
mod answer;
mod array;
mod card;
mod chat;
mod chat_stream;
mod deadline;
mod json_numpy;
mod metrics;
mod open_inference;
mod opened;
mod openpi;
mod openvla;
mod page;
mod refusal;
mod server;
mod settled;
mod socket;
#[cfg(test)]
mod tests;
mod token;
mod value;
mod vla_eval;
mod worker;

pub use acting::Camera;
pub use dream::action::Gripper;
pub use openpi::Keys;

use crate::card::Card;
use crate::metrics::Metrics;
use crate::opened::Opened;
use crate::server::Served;
use crate::worker::Queue;
use dream::{Model, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Most requests that may wait.
const QUEUE_MAX: usize = 1024;
/// Longest time to an answer that can be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

/// How an artifact is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// File with the token that requests must bring; without one only this machine may ask.
    pub token_file: Option<PathBuf>,
    /// Most requests that wait, 1 to 1024.
    pub queue: usize,
    /// Longest time from a request to its answer, at most a day.
    pub timeout: Duration,
    /// An answer that takes longer counts as late (`dream_late_total`); with none, no answer does.
    pub late_after: Option<Duration>,
    /// What is done to images first.
    pub camera: Camera,
    /// What the last number of an action means.
    pub gripper: Gripper,
    /// Which fields of openpi's requests are what.
    pub keys: Keys,
    /// How the artifact is run.
    pub open: OpenOptions,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            token_file: None,
            queue: 8,
            timeout: Duration::from_secs(120),
            late_after: None,
            camera: Camera::None,
            gripper: Gripper::None,
            keys: Keys::default(),
            open: OpenOptions::default(),
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An address that others reach, and no token.
    #[error("{0} can be reached from other machines; give a token (--token-file), or listen on 127.0.0.1")]
    Unprotected(SocketAddr),
    /// The file of the token cannot be read.
    #[error("cannot read {path}")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of the token holds none.
    #[error("{path} {what}; write one line of at least 16 characters into it")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A number outside its range.
    #[error("`{setting}` must be {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the server's threads")]
    Threads(#[from] std::io::Error),
    /// The artifact cannot be opened.
    #[error(transparent)]
    Open(#[from] dream::Error),
    /// The artifact cannot read or write text, which tasks and prompts are.
    #[error(
        "{0} has no tokenizer, since its checkpoint had none: put one beside the checkpoint and build it again"
    )]
    NoTokenizer(PathBuf),
    /// The artifact does nothing that is served.
    #[error("{path} has neither `act` nor `generate`, only {entries}; build it with one of them (--entries)")]
    Nothing {
        /// The file.
        path: PathBuf,
        /// What it has.
        entries: String,
    },
}

/// A server that is about to run.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
    address: SocketAddr,
    served: Arc<Served>,
    model: std::thread::JoinHandle<()>,
    stop: Stop,
}

/// Stops a server: it takes no more requests and finishes what runs.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Stops it. Again does nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Opens the artifact, listens, and asks the model once, so that it is ready.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the file, the options or the machine.
    pub fn open(path: &Path, options: Options) -> Result<Server, ServeError> {
        if !(1..=QUEUE_MAX).contains(&options.queue) {
            return Err(ServeError::Setting { setting: "queue", expected: "1 to 1024" });
        }
        if options.timeout.is_zero() || options.timeout > TIMEOUT_MAX {
            return Err(ServeError::Setting {
                setting: "timeout",
                expected: "above 0 and at most 86400 seconds",
            });
        }
        let token = options.token_file.as_deref().map(token::read).transpose()?;
        if token.is_none() && !options.listen.ip().is_loopback() {
            return Err(ServeError::Unprotected(options.listen));
        }
        // Waiting for sockets is not much work; the model has the other cores.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).thread_name("dream-serve").enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(options.listen));
        let listener = listener.map_err(|source| ServeError::Listen { address: options.listen, source })?;
        let address = listener.local_addr()?;
        let model = Model::open(path, &options.open)?;
        let entries = model.manifest().entries.clone();
        if !entries.iter().any(|entry| entry == "act" || entry == "generate") {
            return Err(ServeError::Nothing { path: path.to_owned(), entries: entries.join(", ") });
        }
        if model.tokenizer().is_none() {
            return Err(ServeError::NoTokenizer(path.to_owned()));
        }
        let mut opened = Opened::of(model)?;
        let name =
            path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned());
        let card = Card::of(name, changed(path), &opened);
        opened.warm_up()?;
        let metrics = Arc::new(Metrics::new(options.late_after));
        metrics.serves(&card.name, &card.device);
        let (queue, model) = Queue::new(opened, options.queue, options.timeout, Arc::clone(&metrics))?;
        let (send, stop) = watch::channel(false);
        let served = Arc::new(Served {
            queue,
            card,
            metrics,
            camera: options.camera,
            gripper: options.gripper,
            keys: options.keys,
            token: token.map(|token| blake3::hash(token.as_bytes())),
            ready: AtomicBool::new(false),
            talks: AtomicUsize::new(0),
            stop,
        });
        Ok(Server { runtime, listener, address, served, model, stop: Stop(Arc::new(send)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What runs the model, in words.
    pub fn device(&self) -> &str {
        &self.served.card.device
    }

    /// What stops it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until it is stopped.
    pub fn run(self) {
        let Server { runtime, listener, served, model, stop: _stop, .. } = self;
        served.ready.store(true, Ordering::Relaxed);
        runtime.block_on(server::serve(listener, served));
        // Whoever still holds a request is let go; the model's thread ends with its queue.
        runtime.shutdown_timeout(Duration::from_secs(5));
        let _ = model.join();
    }
}

/// When a file was last changed, in seconds since 1970; 0 where its system does not know.
fn changed(path: &Path) -> u64 {
    let time = path.metadata().and_then(|metadata| metadata.modified()).ok();
    time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

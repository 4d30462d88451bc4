//! The models that are open, by their handles.
//!
//! A handle is the address of a model, and only looked up, never followed: a handle that is closed, or never was one, is
//! told from an open one. (A later model may get the address of a closed one; then that is what an old handle means.)

use crate::failure::Failure;
use crate::types::{self, Status};
use dream_rt::{Error, Model, OpenOptions, Policy};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// An open model and what its callers hold pointers to.
pub(crate) struct Opened {
    pub(crate) model: Served,
    /// What it is, in JSON.
    pub(crate) description: CString,
    /// The last answer, with a zero byte behind.
    pub(crate) answer: Vec<u8>,
}

/// What is served.
pub(crate) enum Served {
    /// Without the entry `act`.
    Model(Box<Model>),
    /// With it: ready to act.
    Policy(Box<Policy>),
}

static OPEN: Mutex<BTreeMap<usize, Arc<Mutex<Opened>>>> = Mutex::new(BTreeMap::new());

/// The table. No panic happens while it is locked, and a half-made change of it cannot be seen.
fn table() -> MutexGuard<'static, BTreeMap<usize, Arc<Mutex<Opened>>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Opened {
    /// An artifact that `open` has opened, made ready.
    pub(crate) fn new(model: Model) -> Result<Opened, Failure> {
        let manifest = model.manifest().to_bytes().unwrap_or_else(|| b"null".to_vec());
        let front = model.settings().map_or_else(|| b"null".to_vec(), dream_rt::Settings::to_bytes);
        let json = [&b"{\"manifest\": "[..], &manifest, b",\n\"settings\": ", &front, b"}\n"].concat();
        // JSON writes a zero byte as `\u0000`.
        let description = CString::new(json).unwrap_or_default();
        let acts = model.manifest().entries.iter().any(|entry| entry == "act");
        let model =
            if acts { Served::Policy(Box::new(Policy::of(model)?)) } else { Served::Model(Box::new(model)) };
        Ok(Opened { model, description, answer: vec![0] })
    }

    /// The artifact.
    pub(crate) fn model(&mut self) -> &mut Model {
        match &mut self.model {
            Served::Model(model) => model,
            Served::Policy(policy) => policy.model_mut(),
        }
    }

    /// The policy, if it acts.
    pub(crate) fn policy(&mut self) -> Result<&mut Policy, Failure> {
        match &mut self.model {
            Served::Policy(policy) => Ok(policy),
            Served::Model(model) => {
                Err(Error::NoActions { entries: model.manifest().entries.join(", ") }.into())
            }
        }
    }
}

/// What `dream_open_options` says, whose list `warm` was read.
pub(crate) fn options(given: Option<(types::OpenOptions, Vec<u32>)>) -> Result<OpenOptions, Failure> {
    let Some((given, warm)) = given else { return Ok(OpenOptions::default()) };
    if given.threads > THREADS_MAX {
        return Err(Failure::argument(format!(
            "`threads` is {}; it must be 0 to {THREADS_MAX}",
            given.threads
        )));
    }
    let lock_weights = crate::given::flag("lock_weights", given.lock_weights)?;
    let warm = (!warm.is_empty()).then_some(warm);
    Ok(OpenOptions { threads: given.threads as usize, lock_weights, warm, ..OpenOptions::default() })
}

/// More cores than machines have.
const THREADS_MAX: u32 = 1024;

/// A handle for a model.
pub(crate) fn add(opened: Opened) -> *mut types::Model {
    let opened = Arc::new(Mutex::new(opened));
    let handle = Arc::as_ptr(&opened).cast_mut().cast::<types::Model>();
    table().insert(handle.addr(), opened);
    handle
}

/// Does something with the model of a handle. Where that panics, the model is not used again.
pub(crate) fn with(
    handle: *const types::Model,
    body: impl FnOnce(&mut Opened) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if handle.is_null() {
        return Err(Failure::argument("the model is null; open one first"));
    }
    let found = table().get(&handle.addr()).cloned();
    let found = found.ok_or_else(closed)?;
    let mut opened = found.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            Failure::new(Status::Busy, "the model is in the middle of another call; make one call at a time")
        }
        TryLockError::Poisoned(_) => Failure::new(
            Status::Bug,
            "a call before this one ended in a bug, and the model is of no use any more; close it and open another",
        ),
    })?;
    body(&mut opened)
}

/// Forgets a handle. Its model is gone when a call that still uses it ends.
pub(crate) fn remove(handle: *const types::Model) -> Result<(), Failure> {
    let removed = table().remove(&handle.addr());
    removed.map(drop).ok_or_else(closed)
}

fn closed() -> Failure {
    Failure::argument("the model is not open: it was closed, or the pointer is none that `dream_open` gave")
}

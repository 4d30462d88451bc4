//! Opened artifacts: options, and one call at a time.

use crate::failure::{Failure, without_gil};
use crate::model::Model;
use crate::policy::Policy;
use dream::{DeviceChoice, OpenOptions};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;

/// More cores than machines have.
const THREADS_MAX: usize = 1024;

/// An opened artifact that one thread asks at a time; others wait. Nothing once it is closed.
pub(crate) struct Shared<T> {
    opened: Mutex<Option<T>>,
    /// Who is in a call.
    caller: Mutex<Option<ThreadId>>,
}

/// Says that a call has ended.
struct Called<'a>(&'a Mutex<Option<ThreadId>>);

impl Drop for Called<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl<T: Send> Shared<T> {
    pub(crate) fn new(opened: T) -> Shared<T> {
        Shared { opened: Mutex::new(Some(opened)), caller: Mutex::new(None) }
    }

    /// Does something with it, without the GIL. Where that panics, it is not used again.
    pub(crate) fn with<R: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut T) -> Result<R, Failure> + Send,
    ) -> Result<R, Failure> {
        self.locked(py, |opened| match opened {
            Some(opened) => body(opened),
            None => Err(Failure::argument("it is closed; open the artifact again")),
        })
    }

    /// Frees what it has. Closing twice does nothing.
    pub(crate) fn close(&self, py: Python<'_>) -> Result<(), Failure> {
        self.locked(py, |opened| {
            *opened = None;
            Ok(())
        })
    }

    fn locked<R: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut Option<T>) -> Result<R, Failure> + Send,
    ) -> Result<R, Failure> {
        let this = std::thread::current().id();
        let caller = || self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        if *caller() == Some(this) {
            return Err(Failure::busy());
        }
        without_gil(py, || {
            let mut opened = self.opened.lock().map_err(|_| {
                let text =
                    "a call before this one ended in a bug, and it is of no use any more; open another";
                Failure::Said("BugError", text.to_owned())
            })?;
            *caller() = Some(this);
            let _called = Called(&self.caller);
            body(&mut opened)
        })
    }
}

/// Options as the constructors take them.
pub(crate) fn options(
    device: &str,
    threads: usize,
    pin: Vec<usize>,
    lock_weights: bool,
    warm: Option<Vec<u32>>,
) -> Result<OpenOptions, Failure> {
    let device: DeviceChoice =
        device.parse().map_err(|text| Failure::argument(format!("device `{device}` is {text}")))?;
    if threads > THREADS_MAX {
        return Err(Failure::argument(format!("threads is {threads}; it must be 0 to {THREADS_MAX}")));
    }
    Ok(OpenOptions { device, threads, pin, lock_weights, warm, ..OpenOptions::default() })
}

/// Opens an artifact: a `Policy` where it acts, else a `Model`.
#[pyfunction]
#[pyo3(signature = (path, *, device="auto", threads=0, pin=Vec::new(), lock_weights=false, warm=None))]
pub(crate) fn load(
    py: Python<'_>,
    path: PathBuf,
    device: &str,
    threads: usize,
    pin: Vec<usize>,
    lock_weights: bool,
    warm: Option<Vec<u32>>,
) -> PyResult<Py<PyAny>> {
    let options = options(device, threads, pin, lock_weights, warm)?;
    let opened = without_gil(py, || Ok(dream::Model::open(&path, &options)?))?;
    if opened.manifest().entries.iter().any(|entry| entry == "act") {
        let policy = without_gil(py, || Ok(dream::Policy::of(opened)?))?;
        Ok(Py::new(py, Policy::of(py, policy)?)?.into_any())
    } else {
        Ok(Py::new(py, Model::of(py, opened)?)?.into_any())
    }
}

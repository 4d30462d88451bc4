//! Errors as Python raises them: classes of `dream.errors`.

use dream::{Error, Status};
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a call did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A class of `dream.errors`, and what to say.
    Said(&'static str, String),
    /// What Python raised itself, in a callback or where it was asked to convert something.
    Raised(PyErr),
}

impl Failure {
    pub(crate) fn argument(text: impl Into<String>) -> Failure {
        Failure::Said("ArgumentError", text.into())
    }

    pub(crate) fn busy() -> Failure {
        let text = "the model is in the middle of a call of this thread; a callback may not call it again";
        Failure::Said("BusyError", text.to_owned())
    }

    fn panic(cause: &(dyn Any + Send)) -> Failure {
        let texts = (cause.downcast_ref::<&str>().copied(), cause.downcast_ref::<String>());
        let said = texts.0.or(texts.1.map(String::as_str)).unwrap_or("no message");
        Failure::Said("BugError", format!("bug: the runtime panicked; please report it: {said}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let class = match error.status() {
            Status::Argument => "ArgumentError",
            Status::File => "FileError",
            Status::Artifact => "ArtifactError",
            Status::Unsupported => "UnsupportedError",
            Status::System => "SystemResourceError",
            Status::Bug => "BugError",
            Status::NotFinite => "NotFiniteError",
        };
        Failure::Said(class, error.explained())
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Failure {
        Failure::Raised(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        let (class, text) = match failure {
            Failure::Said(class, text) => (class, text),
            Failure::Raised(error) => return error,
        };
        Python::attach(|py| {
            let found = py.import("dream.errors").and_then(|errors| errors.getattr(class));
            match found.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
                Ok(class) => PyErr::from_type(class, (text,)),
                Err(error) => error,
            }
        })
    }
}

/// Runs what computes without the GIL. No panic leaves it.
pub(crate) fn without_gil<T: Send>(
    py: Python<'_>,
    body: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    py.detach(|| catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|cause| Err(Failure::panic(&*cause))))
}

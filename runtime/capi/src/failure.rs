//! How a call ends: a status for the caller, and a text that waits for [`last_error`].

use crate::types::Status;
use dream_rt::Error;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a call did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    text: String,
}

impl Failure {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }

    pub(crate) fn argument(text: impl Into<String>) -> Failure {
        Failure::new(Status::Argument, text)
    }

    /// Another number of results than was promised.
    pub(crate) fn count(promised: usize) -> Failure {
        let text = format!("bug: the policy did not give {promised} numbers; please report it");
        Failure::new(Status::Bug, text)
    }

    fn panic(cause: &(dyn Any + Send)) -> Failure {
        let texts = (cause.downcast_ref::<&str>().copied(), cause.downcast_ref::<String>());
        let said = texts.0.or(texts.1.map(String::as_str)).unwrap_or("no message");
        Failure::new(Status::Bug, format!("bug: the runtime panicked; please report it: {said}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match error.status() {
            dream_rt::Status::Argument => Status::Argument,
            dream_rt::Status::File => Status::File,
            dream_rt::Status::Artifact => Status::Artifact,
            dream_rt::Status::Unsupported => Status::Unsupported,
            dream_rt::Status::System => Status::System,
            dream_rt::Status::Bug => Status::Bug,
            dream_rt::Status::NotFinite => Status::NotFinite,
        };
        Failure { status, text: error.explained() }
    }
}

/// Room for a text; a longer one is cut off.
const TEXT_BYTES_MAX: usize = 2048;

thread_local! {
    // Written over and never freed before the thread ends: a text that is read too late is a wrong one, no more.
    static LAST: RefCell<[u8; TEXT_BYTES_MAX + 1]> = const { RefCell::new([0; TEXT_BYTES_MAX + 1]) };
}

/// Runs the body of a call: no panic leaves it, and what went wrong is kept for [`last_error`].
pub(crate) fn call(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|cause| Err(Failure::panic(&*cause)));
    let Err(Failure { status, text }) = outcome else { return Status::Ok };
    let text = text.replace('\0', " ");
    let text = &text.as_bytes()[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    LAST.with_borrow_mut(|last| {
        last[..text.len()].copy_from_slice(text);
        last[text.len()] = 0;
    });
    status
}

/// The text of this thread's last failure, empty before the first.
pub(crate) fn last_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ptr().cast())
}

//! Why a request is not served, in words of HTTP and of the frames that say the same.

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use dream::Status;
use serde_json::json;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// What is wrong, in one line.
    pub(crate) message: String,
    /// The field that it is about.
    pub(crate) param: Option<String>,
    /// What that field must be.
    pub(crate) expected: Option<String>,
}

/// Seconds after which a client may ask again.
const RETRY_SECONDS: u32 = 1;

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), param: None, expected: None }
    }

    /// A request that is none.
    pub(crate) fn request(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field: what was found in it, and what it must be.
    pub(crate) fn field(name: &str, found: impl Into<String>, expected: &str) -> Refusal {
        let message = format!("`{name}`: {}; it must be {expected}", found.into());
        let (param, expected) = (Some(name.to_owned()), Some(expected.to_owned()));
        Refusal { param, expected, ..Refusal::request(message) }
    }

    /// A field that must be there.
    pub(crate) fn missing(name: &str, expected: &str) -> Refusal {
        let message = format!("`{name}` is missing; it must be {expected}");
        let (param, expected) = (Some(name.to_owned()), Some(expected.to_owned()));
        Refusal { param, expected, ..Refusal::request(message) }
    }

    /// More requests wait than may.
    pub(crate) fn busy(waiting: usize) -> Refusal {
        let message = format!("{waiting} requests wait already; ask again later");
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, message)
    }
}

impl From<dream::Error> for Refusal {
    fn from(error: dream::Error) -> Refusal {
        let status = match error.status() {
            Status::Argument => StatusCode::BAD_REQUEST,
            Status::Unsupported => StatusCode::NOT_FOUND,
            Status::File | Status::Artifact | Status::System | Status::Bug | Status::NotFinite => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Refusal::new(status, error.explained())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal { status, message, param, expected } = self;
        let body = json!({"error": {"message": message, "param": param, "expected": expected}});
        let mut response = (status, axum::Json(body)).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into());
        }
        response
    }
}

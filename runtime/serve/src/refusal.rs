//! Why a request is not served, in words of HTTP and of the frames that say the same.

use axum::extract::rejection::BytesRejection;
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
    /// A name of OpenAI's for what is wrong.
    code: Option<&'static str>,
}

/// Seconds after which a client may ask again.
const RETRY_SECONDS: u32 = 1;

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), param: None, expected: None, code: None }
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

    /// Something that the artifact cannot be asked for.
    pub(crate) fn no_entry(entry: &str, entries: &[String]) -> Refusal {
        let ask = match entries.iter().any(|entry| entry == "act") {
            true => "ask for actions: POST /act, or a WebSocket at /",
            false => "ask for text: POST /v1/chat/completions",
        };
        let message = format!("the artifact has no entry `{entry}`, only {}; {ask}", entries.join(", "));
        Refusal::new(StatusCode::NOT_FOUND, message)
    }

    /// A model that is not served.
    pub(crate) fn no_model(found: &str, served: &str) -> Refusal {
        let (param, expected) = (Some("model".to_owned()), Some(served.to_owned()));
        let message = format!("`model`: there is no `{found}`; it must be `{served}`");
        let refusal = Refusal::new(StatusCode::NOT_FOUND, message);
        Refusal { param, expected, code: Some("model_not_found"), ..refusal }
    }

    /// The model has failed.
    pub(crate) fn bug() -> Refusal {
        let text =
            "bug: the model has failed and is of no use any more; restart the server, and please report it";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
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

impl From<BytesRejection> for Refusal {
    fn from(rejection: BytesRejection) -> Refusal {
        Refusal::new(
            rejection.status(),
            format!("the request's body cannot be read: {}", rejection.body_text()),
        )
    }
}

impl Refusal {
    /// As clients of OpenAI look for it; those of robots take any object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let Refusal { status, message, param, expected, code } = self;
        let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
        json!({"error": {"message": message, "type": kind, "param": param, "code": code, "expected": expected}})
    }

    /// As clients of the Open Inference Protocol look for it.
    pub(crate) fn into_plain_response(self) -> Response {
        self.respond(json!({"error": self.message}))
    }

    fn respond(&self, body: serde_json::Value) -> Response {
        let status = self.status;
        let mut response = (status, axum::Json(body)).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into());
        }
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.respond(self.to_json())
    }
}

//! The page for people, and the card that it shows. Nothing of it comes from elsewhere.

use crate::server::Served;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// Paths that need no token: they say nothing of the artifact.
pub(crate) const PATHS: [&str; 4] = ["/", "/page.css", "/page.js", "/draw.js"];

const HTML: &str = include_str!("../page/index.html");
const CSS: &str = include_str!("../page/page.css");
const SCRIPT: &str = include_str!("../page/page.js");
const DRAWING: &str = include_str!("../page/draw.js");

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page asks nobody but this server, and runs nothing that is not a file of it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the page needs besides itself, which is at `/`, where sockets are too.
pub(crate) fn routes() -> Router<Arc<Served>> {
    Router::new()
        .route("/page.css", get(|| async { file("text/css; charset=utf-8", CSS) }))
        .route("/page.js", get(|| async { file(JAVASCRIPT, SCRIPT) }))
        .route("/draw.js", get(|| async { file(JAVASCRIPT, DRAWING) }))
        .route("/card", get(|State(served): State<Arc<Served>>| async move { Json(served.card.clone()) }))
}

pub(crate) fn html() -> Response {
    file("text/html; charset=utf-8", HTML)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 4] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

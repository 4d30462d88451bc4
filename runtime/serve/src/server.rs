//! One listener for all protocols, told apart by path.

use crate::acting::Camera;
use crate::card::Card;
use crate::deadline::Deadline;
use crate::metrics::Metrics;
use crate::openpi::{self, Dialect, Keys, OMNI_PATH};
use crate::refusal::Refusal;
use crate::socket::{Session, talk};
use crate::worker::Queue;
use crate::{chat, chat_stream, open_inference, openvla, page, vla_eval};
use axum::Router;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, UPGRADE};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use dream::action::Gripper;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Largest body and frame of a request.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Largest frame of vLLM-Omni's clients.
const OMNI_BYTES_MAX: usize = 64 << 20;
/// What a socket reads at a time: it has this much memory even when it is idle.
const READ_BYTES: usize = 16 << 10;
/// Until the head of a request is there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Until its body is there, once the head is.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections at once.
const CONNECTIONS_MAX: usize = 1024;
/// Until what runs is finished, once the server is to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Paths that need no token, besides the page's.
const OPEN_PATHS: [&str; 6] =
    ["/healthz", "/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"];
/// Where chats are completed.
pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// All that a request needs.
pub(crate) struct Served {
    pub(crate) queue: Queue,
    pub(crate) card: Card,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) camera: Camera,
    pub(crate) gripper: Gripper,
    pub(crate) keys: Keys,
    /// Hash of the token that requests must bring.
    pub(crate) token: Option<blake3::Hash>,
    pub(crate) ready: AtomicBool,
    /// Sockets that are open.
    pub(crate) talks: AtomicUsize,
    /// Becomes true when the server is to stop.
    pub(crate) stop: watch::Receiver<bool>,
}

/// How long the model took for an answer, which the header `server-timing` tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelTime(pub(crate) Duration);

/// Waits until the server is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever could say so is gone: then it is to stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves until it is told to stop, and finishes what runs then.
pub(crate) async fn serve(listener: TcpListener, served: Arc<Served>) {
    let app = router(Arc::clone(&served));
    let mut connections = JoinSet::new();
    let mut stop = served.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            // Too many files are open, or the like: it may pass.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if connections.len() + served.talks.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        // Answers are small, and asked for one at a time.
        let _ = stream.set_nodelay(true);
        connections.spawn(connection(stream, app.clone(), served.stop.clone()));
    }
    let finished = async {
        while connections.join_next().await.is_some() {}
        while served.talks.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(STOP_TIMEOUT, finished).await;
}

/// A connection, until either side ends it. One that is upgraded goes on elsewhere.
async fn connection(stream: TcpStream, app: Router, mut stop: watch::Receiver<bool>) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(64);
    let connection = http
        .serve_connection(TokioIo::new(Deadline::new(stream)), TowerToHyperService::new(app))
        .with_upgrades();
    let mut connection = pin!(connection);
    // Broken connections are the client's affair.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// One of the sockets that are open.
struct Talking(Arc<Served>);

impl Talking {
    fn new(served: &Arc<Served>) -> Talking {
        served.talks.fetch_add(1, Ordering::Relaxed);
        Talking(Arc::clone(served))
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        self.0.talks.fetch_sub(1, Ordering::Relaxed);
    }
}

fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route("/act", post(openvla::answer))
        .route("/healthz", get(|| async { "OK\n" }))
        .route("/livez", get(lives))
        .route("/readyz", get(is_ready))
        .route("/health", get(|| async { ([(CONTENT_TYPE, "application/json")], r#"{"status": "ok"}"#) }))
        .route("/metrics", get(metrics))
        .route(CHAT_PATH, post(chat::answer))
        .route("/v1/models", get(chat::models))
        .route("/v1/models/{model}", get(chat::model))
        .merge(open_inference::routes())
        .merge(page::routes())
        .route(vla_eval::PATH, any(vla_eval_socket))
        .route(OMNI_PATH, any(omni_socket))
        .method_not_allowed_fallback(other_method)
        .fallback(openpi_socket)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(Arc::clone(&served), around))
        .with_state(served)
}

/// Tokens before a request, what is counted behind it.
async fn around(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let path = request.uri().path().to_owned();
    let upgrades = request.headers().contains_key(UPGRADE);
    let is_open = OPEN_PATHS.contains(&path.as_str()) || (page::PATHS.contains(&path.as_str()) && !upgrades);
    let uri = request.uri().clone();
    let allowed = is_open || is_allowed(request.headers(), served.token);
    let mut response = if served.token.is_none() && is_foreign(request.headers()) {
        let text =
            "a page of another site asks; only this machine may, or whoever has a token (--token-file)";
        refused(&uri, Refusal::new(StatusCode::FORBIDDEN, text))
    } else if allowed {
        // The answer itself has a limit of its own: this is for bodies that do not come.
        match tokio::time::timeout(BODY_TIMEOUT + served.queue.timeout(), next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                refused(&uri, Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not come in time"))
            }
        }
    } else {
        let text = "a token is needed (Authorization: Bearer TOKEN, or Api-Key TOKEN)";
        refused(&uri, Refusal::new(StatusCode::UNAUTHORIZED, text))
    };
    let total = start.elapsed();
    if let Some(ModelTime(model)) = response.extensions().get() {
        let [model, total] = [*model, total].map(|time| time.as_secs_f64() * 1e3);
        if let Ok(value) = format!("model;dur={model:.3}, total;dur={total:.3}").parse() {
            response.headers_mut().insert(SERVER_TIMING, value);
        }
    }
    let is_stream =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == chat_stream::KIND_OF_EVENTS);
    if let Some(known) = label(&path).filter(|_| !is_stream) {
        served.metrics.answered(known, response.status().as_u16(), total);
    }
    response
}

/// Paths that are counted. Frames of sockets are counted by their sessions.
fn label(path: &str) -> Option<&'static str> {
    if path.starts_with("/v2/models/") && path.ends_with("/infer") {
        return Some(open_inference::PATH);
    }
    ["/act", CHAT_PATH].into_iter().find(|known| *known == path)
}

/// Whether a page of another site asks, through a browser on this machine: browsers let any page open sockets and post text.
fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
    let host = origin.as_ref().and_then(Uri::host).unwrap_or_default();
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    host != "localhost" && !host.trim_matches(['[', ']']).parse().is_ok_and(is_loopback)
}

/// Whether a request may be served. Hashes are compared in a time that does not depend on them.
fn is_allowed(headers: &HeaderMap, token: Option<blake3::Hash>) -> bool {
    let Some(token) = token else { return true };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = ["Bearer ", "Api-Key "].into_iter().find_map(|kind| given.strip_prefix(kind));
    given.is_some_and(|given| blake3::hash(given.as_bytes()) == token)
}

pub(crate) async fn lives(State(served): State<Arc<Served>>) -> (StatusCode, &'static str) {
    match served.queue.is_sound() {
        true => (StatusCode::OK, "OK\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the model has failed\n"),
    }
}

pub(crate) async fn is_ready(State(served): State<Arc<Served>>) -> (StatusCode, &'static str) {
    match served.ready.load(Ordering::Relaxed) && served.queue.is_sound() && !*served.stop.borrow() {
        true => (StatusCode::OK, "OK\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

async fn metrics(State(served): State<Arc<Served>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], served.metrics.page())
}

async fn other_method(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not served at {}", uri.path());
    refused(&uri, Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text))
}

/// A refusal in the form of a path's clients.
fn refused(uri: &Uri, refusal: Refusal) -> Response {
    match uri.path().starts_with("/v2") {
        true => refusal.into_plain_response(),
        false => refusal.into_response(),
    }
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

async fn openpi_socket(
    State(served): State<Arc<Served>>,
    method: Method,
    uri: Uri,
    upgrade: Upgrade,
) -> Response {
    match upgrade {
        Ok(upgrade) => match openpi::Session::new(Dialect::Openpi, &served) {
            Ok(session) => socket(served, upgrade, Session::Openpi(session), BODY_BYTES_MAX),
            Err(refusal) => refusal.into_response(),
        },
        Err(_) if method == Method::GET && uri.path() == "/" => page::html(),
        Err(_) => {
            let text = format!(
                "there is no {method} {}; known are POST /act, {CHAT_PATH} and {}, a WebSocket at /, {OMNI_PATH} or {}, and GET /, /card, /v1/models, /v2, /healthz, /livez, /readyz, /metrics",
                uri.path(),
                open_inference::PATH,
                vla_eval::PATH
            );
            refused(&uri, Refusal::new(StatusCode::NOT_FOUND, text))
        }
    }
}

async fn omni_socket(State(served): State<Arc<Served>>, upgrade: Upgrade) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|rejection| Refusal::request(rejection.to_string()))?;
    let session = openpi::Session::new(Dialect::Omni, &served)?;
    Ok(socket(served, upgrade, Session::Openpi(session), OMNI_BYTES_MAX))
}

async fn vla_eval_socket(State(served): State<Arc<Served>>, upgrade: Upgrade) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|rejection| Refusal::request(rejection.to_string()))?;
    served.card.policy()?;
    Ok(socket(served, upgrade, Session::VlaEval(vla_eval::Session::default()), BODY_BYTES_MAX))
}

fn socket(served: Arc<Served>, upgrade: WebSocketUpgrade, session: Session, bytes_max: usize) -> Response {
    let upgrade = upgrade.max_message_size(bytes_max).max_frame_size(bytes_max).read_buffer_size(READ_BYTES);
    let talking = Talking::new(&served);
    upgrade.on_upgrade(move |socket| async move {
        let _talking = talking;
        talk(socket, served, session).await;
    })
}

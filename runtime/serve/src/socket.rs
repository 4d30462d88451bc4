//! WebSocket connections: requests one after the other, pings answered while the model works, an end for clients that are gone or
//! read nothing.

use crate::openpi;
use crate::server::{Served, stopped};
use crate::vla_eval;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Requests that a client may send ahead of answers.
const AHEAD: usize = 4;
/// A client that does not read for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// The server goes away.
const GOING_AWAY: u16 = 1001;
/// A frame that is not understood.
const UNSUPPORTED: u16 = 1003;
/// More than is allowed.
const POLICY: u16 = 1008;
/// openpi's code after an error that ends the connection.
pub(crate) const INTERNAL: u16 = 1011;

/// Who speaks.
pub(crate) enum Session {
    /// openpi, or vLLM-Omni's variant.
    Openpi(openpi::Session),
    /// vla-eval.
    VlaEval(vla_eval::Session),
}

/// What is sent back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// Nothing.
    None,
    /// A binary frame.
    Binary(Vec<u8>),
    /// A text frame: an error.
    Text(String),
    /// A text frame, and the end, with a code and a reason.
    Last(String, u16),
}

impl Session {
    fn greeting(&mut self) -> Option<Vec<u8>> {
        match self {
            Session::Openpi(session) => Some(std::mem::take(&mut session.greeting)),
            Session::VlaEval(_) => None,
        }
    }

    /// How long a connection may be silent, pings included.
    fn silence(&self) -> Duration {
        match self {
            Session::Openpi(session) => session.silence(),
            Session::VlaEval(_) => vla_eval::SILENCE,
        }
    }

    async fn answer(&mut self, served: &Served, bytes: &[u8]) -> Reply {
        match self {
            Session::Openpi(session) => session.answer(served, bytes).await,
            Session::VlaEval(session) => session.answer(served, bytes).await,
        }
    }
}

/// Talks until either side ends it.
pub(crate) async fn talk(mut socket: WebSocket, served: Arc<Served>, mut session: Session) {
    let mut stop = served.stop.clone();
    if let Some(greeting) = session.greeting()
        && send(&mut socket, Message::Binary(greeting.into())).await.is_err()
    {
        return;
    }
    let mut ahead: VecDeque<Bytes> = VecDeque::new();
    loop {
        let bytes = match ahead.pop_front() {
            Some(bytes) => bytes,
            None => {
                let next = tokio::select! {
                    next = tokio::time::timeout(session.silence(), socket.recv()) => next,
                    () = stopped(&mut stop) => {
                        return close(&mut socket, GOING_AWAY, "the server is stopping").await;
                    }
                };
                match next {
                    Err(_) => return close(&mut socket, GOING_AWAY, "nothing was heard for too long").await,
                    Ok(None | Some(Err(_) | Ok(Message::Close(_)))) => return,
                    Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                    Ok(Some(Ok(Message::Text(_)))) => {
                        return close(&mut socket, UNSUPPORTED, "requests are binary frames").await;
                    }
                    Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
                }
            }
        };
        let reply = {
            let mut answer = pin!(session.answer(&served, &bytes));
            loop {
                // Reading goes on, so that pings are answered and an end is seen.
                let message = tokio::select! {
                    reply = &mut answer => break reply,
                    message = socket.recv() => message,
                };
                match message {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Binary(bytes))) if ahead.len() < AHEAD => ahead.push_back(bytes),
                    Some(Ok(Message::Binary(_))) => {
                        return close(&mut socket, POLICY, "too many requests are sent ahead of answers")
                            .await;
                    }
                    Some(Ok(Message::Text(_))) => {
                        return close(&mut socket, UNSUPPORTED, "requests are binary frames").await;
                    }
                    None | Some(Err(_) | Ok(Message::Close(_))) => return,
                }
            }
        };
        let sent = match reply {
            Reply::None => Ok(()),
            Reply::Binary(bytes) => send(&mut socket, Message::Binary(bytes.into())).await,
            Reply::Text(text) => send(&mut socket, Message::Text(text.into())).await,
            Reply::Last(text, code) => {
                let _ = send(&mut socket, Message::Text(text.into())).await;
                return close(&mut socket, code, "the last frame says why").await;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The client reads no more.
struct Lost;

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Lost> {
    match tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Lost),
    }
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    // Where it cannot be said, the connection is gone already.
    let _ = send(socket, Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
}

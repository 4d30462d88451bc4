//! A completion as server-sent events: the settled left part of the answer grows, and the canvas is shown where it is asked for.

use crate::chat::{Asked, Completed, Head, complete};
use crate::refusal::Refusal;
use crate::server::{CHAT_PATH, Served};
use crate::settled::settled;
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use dream::{Model, Step, Tokenizer};
use futures_util::stream;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;

/// What the model's thread tells.
enum Told {
    Step { done: u32, steps: u32, delta: String, canvas: Option<Vec<Option<String>>> },
    Ended { rest: String, completed: Completed },
    Failed(Refusal),
}

/// # Errors
///
/// Where it fails before its first step; later failures are events.
pub(crate) async fn answer(served: &Arc<Served>, head: Head, asked: Asked) -> Result<Response, Refusal> {
    // The run never waits for its reader: there is room for all of its steps, and for those of a second run, which is made where
    // a slot took the mask token.
    let (tell, mut told) = mpsc::channel(2 * served.card.steps as usize + 1);
    let include_usage = asked.include_usage;
    tokio::spawn(run(Arc::clone(served), asked, tell));
    let first = match told.recv().await {
        Some(Told::Failed(refusal)) => return Err(refusal),
        Some(first) => first,
        None => return Err(Refusal::bug()),
    };
    let events = Events { head, include_usage, told: Some(told), next: Some(first) };
    let opening = events.chunk(json!({"role": "assistant", "content": ""}), None).to_string();
    let body = stream::unfold((events, vec![opening]), |(mut events, mut waiting)| async move {
        while waiting.is_empty() {
            waiting = events.more().await?;
        }
        let text: String = waiting.iter().map(|event| format!("data: {event}\n\n")).collect();
        Some((Ok::<_, Infallible>(Bytes::from(text)), (events, Vec::new())))
    });
    // A proxy that collects what it passes on would hide the steps.
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    let headers = [(CONTENT_TYPE, KIND_OF_EVENTS), (CACHE_CONTROL, "no-cache"), (unbuffered, "no")];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Asks the model, for as long as somebody listens.
async fn run(served: Arc<Served>, asked: Asked, tell: mpsc::Sender<Told>) {
    let (start, listener) = (Instant::now(), tell.clone());
    let began = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&began);
    let completed = served.queue.ask(move |opened, gone| {
        let gone = gone.clone();
        let mut sent = String::new();
        let completed = complete(opened, &asked, |model, request| {
            let first = request.prompt[0].len();
            let mut reader = Reader::of(model)?;
            model.generate_steps(request, &mut |step: Step<'_>| {
                reader.reads(step.canvas.get(first..).unwrap_or_default());
                let delta = reader.more(&asked.stops, &mut sent);
                let canvas = asked.diffusing.then(|| reader.spellings.clone());
                // Where nobody listens any more, or it took too long, the run ends here.
                begins.store(true, Ordering::Relaxed);
                let told = Told::Step { done: step.done, steps: step.steps, delta, canvas };
                !gone.is() && listener.try_send(told).is_ok()
            })
        })?;
        // What was committed stays, unless a slot took the mask token and the run was made again.
        let rest = completed.text.strip_prefix(&sent).ok_or_else(changed)?.to_owned();
        Ok((rest, completed))
    });
    let last = tokio::select! {
        made = completed => match made {
            Ok((rest, completed)) => Told::Ended { rest, completed },
            Err(refusal) => Told::Failed(refusal),
        },
        () = tell.closed() => return,
    };
    // What fails before it begins is answered, and counted, as other requests are.
    if began.load(Ordering::Relaxed) {
        let code = if let Told::Failed(refusal) = &last { refusal.status.as_u16() } else { 200 };
        served.metrics.answered(CHAT_PATH, code, start.elapsed());
    }
    // Where nobody listens there is nobody to tell.
    let _ = tell.try_send(last);
}

fn changed() -> Refusal {
    let text = "the run was made again, and its answer begins otherwise than what was sent; ask again";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// The slots as they are filled.
struct Reader {
    tokenizer: Arc<Tokenizer>,
    mask: i32,
    eos: i32,
    slots: Vec<i32>,
    /// Of every slot; none where it is open.
    spellings: Vec<Option<String>>,
}

impl Reader {
    fn of(model: &Model) -> Result<Reader, dream::Error> {
        let built = &model.manifest().model;
        let tokenizer = Arc::clone(model.tokenizer().ok_or(dream::Error::NoTokenizer)?);
        let [mask, eos] = [built.mask_token_id, built.eos_token_id].map(|id| id as i32);
        Ok(Reader { tokenizer, mask, eos, slots: Vec::new(), spellings: Vec::new() })
    }

    fn decode(&self, slots: &[i32]) -> String {
        let ids: Vec<u32> = slots.iter().map(|id| *id as u32).collect();
        // The whole answer is decoded at the end, and says what is wrong.
        self.tokenizer.decode(&ids, true).unwrap_or_default()
    }

    fn reads(&mut self, slots: &[i32]) {
        self.spellings.resize(slots.len(), None);
        for (at, id) in slots.iter().enumerate() {
            if self.slots.get(at) != Some(id) {
                self.spellings[at] = (*id != self.mask).then(|| self.decode(&[*id]));
            }
        }
        self.slots = slots.to_vec();
    }

    /// What is settled beyond `sent`, which grows by it.
    fn more(&self, stops: &[String], sent: &mut String) -> String {
        let left = self.slots.iter().take_while(|id| **id != self.mask && **id != self.eos);
        let left: Vec<i32> = left.copied().collect();
        let ended = self.slots.get(left.len()) == Some(&self.eos);
        let text = self.decode(&left);
        let (text, _) = settled(&text, stops, ended);
        let delta = text.strip_prefix(sent.as_str()).unwrap_or_default().to_owned();
        sent.push_str(&delta);
        delta
    }
}

/// The events of an answer, from what the model's thread tells.
struct Events {
    head: Head,
    include_usage: bool,
    /// None behind the last event.
    told: Option<mpsc::Receiver<Told>>,
    next: Option<Told>,
}

impl Events {
    /// The next events; none behind the last.
    async fn more(&mut self) -> Option<Vec<String>> {
        let told = match self.next.take() {
            Some(told) => told,
            None => self.told.as_mut()?.recv().await?,
        };
        if !matches!(told, Told::Step { .. }) {
            self.told = None;
        }
        Some(match told {
            Told::Step { done, steps, delta, canvas } => {
                let content = if delta.is_empty() { json!({}) } else { json!({"content": delta}) };
                match canvas {
                    None if delta.is_empty() => Vec::new(),
                    None => vec![self.chunk(content, None).to_string()],
                    Some(canvas) => {
                        let mut chunk = self.chunk(content, None);
                        chunk["dream"] = json!({"step": done, "steps": steps, "canvas": canvas});
                        vec![chunk.to_string()]
                    }
                }
            }
            Told::Ended { rest, completed } => {
                let mut events = Vec::new();
                if !rest.is_empty() {
                    events.push(self.chunk(json!({"content": rest}), None).to_string());
                }
                events.push(self.chunk(json!({}), Some(completed.finish)).to_string());
                if self.include_usage {
                    let mut chunk = self.head.object(KIND, json!([]));
                    chunk["usage"] = completed.usage;
                    events.push(chunk.to_string());
                }
                events.push("[DONE]".to_owned());
                events
            }
            Told::Failed(refusal) => vec![refusal.to_json().to_string(), "[DONE]".to_owned()],
        })
    }

    fn chunk(&self, delta: serde_json::Value, finish: Option<&str>) -> serde_json::Value {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        self.head.object(KIND, json!([choice]))
    }
}

/// Of a stream, which is counted at its end.
pub(crate) const KIND_OF_EVENTS: &str = "text/event-stream";
const KIND: &str = "chat.completion.chunk";

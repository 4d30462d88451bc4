//! `POST /v1/chat/completions` and `GET /v1/models`, as clients of OpenAI ask them. Steps, algorithm and the end of the schedule
//! are fixed in the file; what else a model of this kind has (`top_k`, `alg_temp`, `eos_penalty`, `raw`) is taken beside it.

use crate::acting::StopWatch;
use crate::array::sized;
use crate::card::{Card, ChatCard};
use crate::chat_stream;
use crate::opened::Opened;
use crate::refusal::Refusal;
use crate::server::{ModelTime, Served};
use crate::settled::settled;
use crate::value::Value;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dream::chat::{Message, Part, render};
use dream::{Generate, Generated, Image, Model, Sampling, Visual};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Most texts that end an answer, and the bytes of each.
const STOPS_MAX: usize = 4;
const STOP_BYTES_MAX: usize = 256;

/// Most pixels of all images of a request: a small file may hold very many.
const PIXELS_MAX: u64 = 1 << 26;

/// What is known of fields.
const KNOWN: &str = "a field of chat completions, or of `top_k`, `alg_temp`, `eos_penalty`, `steps`, `alg`, `eps`, `raw`, `diffusing`";

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    messages: Vec<Message>,
    visuals: Vec<Visual>,
    /// Whether the only message is taken as it stands.
    raw: bool,
    sampling: Sampling,
    /// Slots behind the prompt.
    new_tokens: u32,
    pub(crate) stops: Vec<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Whether the stream shows the canvas.
    pub(crate) diffusing: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Completed {
    pub(crate) text: String,
    /// `stop` or `length`.
    pub(crate) finish: &'static str,
    pub(crate) usage: serde_json::Value,
    took: Duration,
}

/// What all parts of an answer begin with.
pub(crate) struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn of(card: &Card) -> Head {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = format!("chatcmpl-{:x}-{}", since.as_micros(), COUNT.fetch_add(1, Ordering::Relaxed));
        Head { id, created: since.as_secs(), model: card.name.clone() }
    }

    /// An object with these fields.
    pub(crate) fn object(&self, kind: &str, choices: serde_json::Value) -> serde_json::Value {
        json!({"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices})
    }
}

pub(crate) async fn models(State(served): State<Arc<Served>>) -> Json<serde_json::Value> {
    Json(json!({"object": "list", "data": [described(&served.card)]}))
}

pub(crate) async fn model(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
) -> Result<Json<serde_json::Value>, Refusal> {
    match name == served.card.name {
        true => Ok(Json(described(&served.card))),
        false => Err(Refusal::no_model(&name, &served.card.name)),
    }
}

fn described(card: &Card) -> serde_json::Value {
    json!({"id": card.name, "object": "model", "created": card.created, "owned_by": "dreamc"})
}

pub(crate) async fn answer(
    State(served): State<Arc<Served>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = body?;
    // Images are decoded here, which takes its time.
    let reads = Arc::clone(&served);
    let asked = tokio::task::spawn_blocking(move || {
        parse(&Value::from_json(&body).map_err(Refusal::request)?, &reads.card)
    });
    let asked = asked.await.map_err(|_| Refusal::bug())??;
    let head = Head::of(&served.card);
    if asked.stream {
        return chat_stream::answer(&served, head, asked).await;
    }
    let stops = served.card.stops;
    let completed = served.queue.ask(move |opened, gone| {
        let mut watch = StopWatch { gone: gone.clone(), stops };
        complete(opened, &asked, |model, request| model.generate_with(request, &mut watch))
    });
    let Completed { text, finish, usage, took } = completed.await?;
    let message = json!({"role": "assistant", "content": text, "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish});
    let mut object = head.object("chat.completion", json!([choice]));
    object["usage"] = usage;
    let mut response = Json(object).into_response();
    response.extensions_mut().insert(ModelTime(took));
    Ok(response)
}

/// Has the model fill the slots behind a prompt, as `run` does it.
///
/// # Errors
///
/// Says what is wrong with the request.
pub(crate) fn complete(
    opened: &mut Opened,
    asked: &Asked,
    run: impl FnOnce(&mut Model, &Generate) -> Result<Generated, dream::Error>,
) -> Result<Completed, Refusal> {
    let start = Instant::now();
    let model = opened.model_mut();
    let built = &model.manifest().model;
    let (mask, eos) = (built.mask_token_id as i32, built.eos_token_id as i32);
    let text = match (asked.raw, asked.messages.as_slice()) {
        (true, [Message { parts, .. }]) => parts
            .iter()
            .filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
            .collect(),
        _ => render(&asked.messages, true),
    };
    let ids = model.encode_with(&text, &asked.visuals)?;
    let prompt_tokens = ids.len();
    let request = Generate {
        prompt: vec![ids],
        visuals: asked.visuals.clone(),
        canvas: Some(vec![mask; asked.new_tokens as usize]),
        sampling: asked.sampling.clone(),
        ..Generate::default()
    };
    let made = run(model, &request)?;
    let answer = model.answers(&made)?.swap_remove(0);
    let (text, stopped) = settled(&answer, &asked.stops, true);
    let new = made.sequences[0].get(prompt_tokens..).unwrap_or_default();
    let end = new.iter().position(|id| *id == eos);
    let completion_tokens = end.unwrap_or(new.len());
    let finish = if stopped || end.is_some() { "stop" } else { "length" };
    let usage = json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    });
    Ok(Completed { text: text.to_owned(), finish, usage, took: start.elapsed() })
}

pub(crate) fn parse(request: &Value<'_>, card: &Card) -> Result<Asked, Refusal> {
    let chat = card.chat()?;
    if !matches!(request, Value::Map(_)) {
        return Err(Refusal::request(format!("the request is {}; it must be an object", request.kind())));
    }
    let mut asked = Asked { new_tokens: chat.new_tokens, ..Asked::default() };
    let mut named = false;
    for (key, value) in request.entries() {
        if matches!(value, Value::Nil) {
            continue;
        }
        field(key, value, card, chat, &mut asked)?;
        named |= key == "model";
    }
    if ["max_tokens", "max_completion_tokens"].iter().all(|key| request.get(key).is_some()) {
        return Err(Refusal::field("max_tokens", "it stands beside `max_completion_tokens`", "the only one"));
    }
    if !named {
        return Err(Refusal::missing("model", &format!("`{}`", card.name)));
    }
    if asked.messages.is_empty() {
        return Err(Refusal::missing("messages", "a list of messages, at least one"));
    }
    if asked.raw && asked.messages.len() != 1 {
        let found = format!("there are {} messages beside it", asked.messages.len());
        return Err(Refusal::field("raw", found, "false, or beside one message"));
    }
    Ok(asked)
}

fn field(
    key: &str,
    value: &Value<'_>,
    card: &Card,
    chat: &ChatCard,
    asked: &mut Asked,
) -> Result<(), Refusal> {
    let sampling = &mut asked.sampling;
    match key {
        "model" => match value.text() {
            Some(name) if name == card.name => {}
            Some(name) => return Err(Refusal::no_model(name, &card.name)),
            None => return Err(wrong(key, value, "a text")),
        },
        "messages" => {
            let Value::List(list) = value else { return Err(wrong(key, value, "a list of messages")) };
            for (i, value) in list.iter().enumerate() {
                asked.messages.push(message(&format!("messages[{i}]"), value, chat, &mut asked.visuals)?);
            }
        }
        "max_tokens" | "max_completion_tokens" => {
            asked.new_tokens = whole(key, value, 1, chat.new_tokens.into())? as u32
        }
        "temperature" => sampling.temperature = number(key, value, 0.0, f32::MAX.into())?,
        "top_p" => sampling.top_p = Some(number(key, value, f32::MIN_POSITIVE.into(), 1.0)?),
        "top_k" => sampling.top_k = Some(whole(key, value, 1, u32::MAX.into())? as u32),
        "alg_temp" => sampling.alg_temp = Some(number(key, value, 0.0, f32::MAX.into())?),
        "eos_penalty" => sampling.eos_penalty = number(key, value, f32::MIN.into(), f32::MAX.into())?,
        "seed" => sampling.seed = whole(key, value, 0, i64::MAX)? as u64,
        "stop" => asked.stops = stops(value)?,
        "stream" => asked.stream = boolean(key, value)?,
        "raw" => asked.raw = boolean(key, value)?,
        "diffusing" => asked.diffusing = boolean(key, value)?,
        "stream_options" => {
            let Value::Map(entries) = value else { return Err(wrong(key, value, "an object")) };
            for (name, value) in entries {
                match name.as_ref() {
                    "include_usage" => asked.include_usage = boolean("stream_options.include_usage", value)?,
                    // What it would hide is not sent.
                    "include_obfuscation" => {}
                    other => {
                        return Err(Refusal::field(
                            &format!("stream_options.{other}"),
                            "it is not known",
                            "left out",
                        ));
                    }
                }
            }
        }
        "steps" | "num_denoising_steps" => {
            fixed(key, value, value.number() == Some(card.steps.into()), &card.steps.to_string())?
        }
        "alg" => fixed(key, value, value.text() == Some(&chat.alg), &format!("`{}`", chat.alg))?,
        "eps" => {
            fixed(key, value, value.number().map(|eps| eps as f32) == Some(chat.eps), &chat.eps.to_string())?
        }
        "n" => fixed(key, value, value.number() == Some(1.0), "1: one answer is made")?,
        "frequency_penalty" | "presence_penalty" => {
            fixed(key, value, value.number() == Some(0.0), "0: tokens do not come one after the other here")?;
        }
        "logprobs" => fixed(key, value, *value == Value::Bool(false), "false: there are none")?,
        "tools" => fixed(key, value, *value == Value::List(Vec::new()), "left out: no tools are called")?,
        "tool_choice" => fixed(key, value, value.text() == Some("none"), "left out: no tools are called")?,
        "response_format" => {
            let is_text = value.get("type").and_then(Value::text) == Some("text");
            fixed(key, value, is_text, "{\"type\": \"text\"}")?;
        }
        // Of no effect on an answer.
        "user" | "metadata" | "store" => {}
        _ => return Err(Refusal::field(key, "it is no field that is known here", KNOWN)),
    }
    Ok(())
}

fn wrong(name: &str, value: &Value<'_>, expected: &str) -> Refusal {
    Refusal::field(name, format!("it is {}", value.kind()), expected)
}

/// What cannot be asked for otherwise than the file has it.
fn fixed(name: &str, value: &Value<'_>, is_that: bool, expected: &str) -> Result<(), Refusal> {
    let found = match value {
        Value::Text(text) => format!("it is `{text}`"),
        Value::Integer(n) => format!("it is {n}"),
        Value::Float(x) => format!("it is {x}"),
        other => format!("it is {}", other.kind()),
    };
    if is_that { Ok(()) } else { Err(Refusal::field(name, found, expected)) }
}

fn boolean(name: &str, value: &Value<'_>) -> Result<bool, Refusal> {
    match value {
        Value::Bool(value) => Ok(*value),
        other => Err(wrong(name, other, "true or false")),
    }
}

fn whole(name: &str, value: &Value<'_>, min: i64, max: i64) -> Result<i64, Refusal> {
    let expected = format!("a whole number from {min} to {max}");
    match value {
        Value::Integer(n) if (min..=max).contains(n) => Ok(*n),
        Value::Integer(n) => Err(Refusal::field(name, format!("it is {n}"), &expected)),
        other => Err(wrong(name, other, &expected)),
    }
}

fn number(name: &str, value: &Value<'_>, min: f64, max: f64) -> Result<f32, Refusal> {
    match value.number() {
        Some(x) if x.is_finite() && (min..=max).contains(&x) => Ok(x as f32),
        Some(x) => Err(Refusal::field(name, format!("it is {x}"), &format!("a number from {min} to {max}"))),
        None => Err(wrong(name, value, "a number")),
    }
}

fn stops(value: &Value<'_>) -> Result<Vec<String>, Refusal> {
    let expected = format!("a text, or at most {STOPS_MAX}, of 1 to {STOP_BYTES_MAX} bytes");
    let list = match value {
        Value::List(list) if list.len() <= STOPS_MAX => list.as_slice(),
        Value::List(list) => {
            return Err(Refusal::field("stop", format!("there are {}", list.len()), &expected));
        }
        one => std::slice::from_ref(one),
    };
    let text = |value: &Value<'_>| match value.text() {
        Some(text) if (1..=STOP_BYTES_MAX).contains(&text.len()) => Ok(text.to_owned()),
        Some(text) => Err(Refusal::field("stop", format!("it has {} bytes", text.len()), &expected)),
        None => Err(wrong("stop", value, &expected)),
    };
    list.iter().map(text).collect()
}

fn message(
    name: &str,
    value: &Value<'_>,
    chat: &ChatCard,
    visuals: &mut Vec<Visual>,
) -> Result<Message, Refusal> {
    const ROLES: &str = "system, developer, user or assistant";
    let Value::Map(entries) = value else {
        return Err(wrong(name, value, "an object with `role` and `content`"));
    };
    let (mut role, mut parts) = (None, None);
    for (key, value) in entries {
        let at = format!("{name}.{key}");
        match key.as_ref() {
            "role" => {
                role = Some(match value.text() {
                    Some("system" | "developer") => "system",
                    Some("user") => "user",
                    Some("assistant") => "assistant",
                    Some(other) => return Err(Refusal::field(&at, format!("it is `{other}`"), ROLES)),
                    None => return Err(wrong(&at, value, ROLES)),
                });
            }
            "content" => parts = Some(content(&at, value, chat, visuals)?),
            "name" | "refusal" | "annotations" | "audio" | "function_call" | "tool_calls"
                if *value == Value::Nil => {}
            // Who speaks is not shown to the model.
            "name" => {}
            _ => return Err(Refusal::field(&at, "it is no field that is known here", "left out")),
        }
    }
    let role = role.ok_or_else(|| Refusal::missing(&format!("{name}.role"), ROLES))?;
    let parts =
        parts.ok_or_else(|| Refusal::missing(&format!("{name}.content"), "a text, or a list of parts"))?;
    Ok(Message { role: role.to_owned(), parts })
}

fn content(
    name: &str,
    value: &Value<'_>,
    chat: &ChatCard,
    visuals: &mut Vec<Visual>,
) -> Result<Vec<Part>, Refusal> {
    let list = match value {
        Value::Text(text) => return Ok(vec![Part::Text(text.clone().into_owned())]),
        Value::List(list) => list,
        other => return Err(wrong(name, other, "a text, or a list of parts")),
    };
    let mut parts = Vec::new();
    for (i, part) in list.iter().enumerate() {
        let at = format!("{name}[{i}]");
        known(&at, part, &["type", "text", "image_url"])?;
        match part.get("type").and_then(Value::text) {
            Some("text") => {
                let text = part.get("text").and_then(Value::text);
                let text = text.ok_or_else(|| Refusal::missing(&format!("{at}.text"), "a text"))?;
                parts.push(Part::Text(text.to_owned()));
            }
            Some("image_url") if !chat.sees => {
                return Err(Refusal::field(&at, "it is an image, and the model takes text alone", "a text"));
            }
            Some("image_url") => {
                // How finely it is looked at follows from its size here.
                let shown = part.get("image_url").unwrap_or(&Value::Nil);
                known(&format!("{at}.image_url"), shown, &["url", "detail"])?;
                let url = part.get("image_url").and_then(|image| image.get("url")).and_then(Value::text);
                let at = format!("{at}.image_url.url");
                let url = url.ok_or_else(|| Refusal::missing(&at, DATA_URL))?;
                visuals.push(Visual::Image(image(&at, url, visuals)?));
                parts.push(Part::Image);
            }
            Some(other) => {
                return Err(Refusal::field(
                    &at,
                    format!("its type is `{other}`"),
                    "of type text or image_url",
                ));
            }
            None => return Err(Refusal::missing(&format!("{at}.type"), "text or image_url")),
        }
    }
    Ok(parts)
}

/// That an object has no other keys.
fn known(name: &str, value: &Value<'_>, keys: &[&str]) -> Result<(), Refusal> {
    match value.entries().iter().find(|(key, _)| !keys.contains(&key.as_ref())) {
        None => Ok(()),
        Some((key, _)) => {
            Err(Refusal::field(&format!("{name}.{key}"), "it is no field that is known here", "left out"))
        }
    }
}

const DATA_URL: &str = "a data URL of a PNG or JPEG file: `data:image/png;base64,..`; others are not fetched";

/// Decodes an image, which stands behind others.
fn image(name: &str, url: &str, before: &[Visual]) -> Result<Image, Refusal> {
    let data = ["data:image/png;base64,", "data:image/jpeg;base64,", "data:image/jpg;base64,"];
    let data = data.iter().find_map(|kind| url.strip_prefix(kind));
    let data = data.ok_or_else(|| {
        let start: String = url.chars().take(40).collect();
        Refusal::field(name, format!("it begins with `{start}`"), DATA_URL)
    })?;
    let bytes = STANDARD.decode(data);
    let bytes =
        bytes.map_err(|error| Refusal::field(name, format!("its data is no base64: {error}"), DATA_URL))?;
    let image = Image::decode(&bytes, name);
    let image = sized(name, image.map_err(|error| Refusal::field(name, error.to_string(), DATA_URL))?)?;
    let pixels = |image: &Image| u64::from(image.width()) * u64::from(image.height());
    let of = |visual: &Visual| if let Visual::Image(image) = visual { pixels(image) } else { 0 };
    let all = pixels(&image) + before.iter().map(of).sum::<u64>();
    match all <= PIXELS_MAX {
        true => Ok(image),
        false => {
            let found = format!("the images up to here have {all} pixels");
            Err(Refusal::field(name, found, &format!("at most {PIXELS_MAX} pixels in all")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(sees: bool) -> Card {
        Card::of_chat(ChatCard { new_tokens: 16, max_prompt: 32, sees, alg: "entropy".into(), eps: 1e-3 })
    }

    fn parsed(fields: &str) -> Result<Asked, Refusal> {
        let text =
            format!(r#"{{"model": "text", "messages": [{{"role": "user", "content": "hi"}}]{fields}}}"#);
        parse(&Value::from_json(text.as_bytes()).unwrap(), &card(false))
    }

    #[test]
    fn what_the_file_fixes_may_be_said_and_not_changed() {
        let asked = parsed(
            r#", "steps": 4, "alg": "entropy", "eps": 0.001, "n": 1, "max_tokens": 3, "stop": ["x"], "user": "me""#,
        );
        let asked = asked.unwrap();
        assert_eq!((asked.new_tokens, asked.stops.as_slice()), (3, &["x".to_owned()][..]));
        for (fields, param) in [
            (r#", "steps": 8"#, "steps"),
            (r#", "num_denoising_steps": 8"#, "num_denoising_steps"),
            (r#", "alg": "origin""#, "alg"),
            (r#", "eps": 0.1"#, "eps"),
            (r#", "n": 2"#, "n"),
            (r#", "max_tokens": 17"#, "max_tokens"),
            (r#", "max_completion_tokens": 0"#, "max_completion_tokens"),
            (r#", "tools": [{}]"#, "tools"),
            (r#", "logprobs": true"#, "logprobs"),
            (r#", "presence_penalty": 0.5"#, "presence_penalty"),
            (r#", "temperature": "hot""#, "temperature"),
            (r#", "temperature": -1"#, "temperature"),
            (r#", "top_p": 2"#, "top_p"),
            (r#", "seed": -1"#, "seed"),
            (r#", "stop": [""]"#, "stop"),
            (r#", "frobnicate": 1"#, "frobnicate"),
            (r#", "stream": "yes""#, "stream"),
        ] {
            let refusal = parsed(fields).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(param), "{refusal:?}");
        }
        assert_eq!(parsed(r#", "stop": null, "tools": null"#).unwrap().stops, Vec::<String>::new());
    }

    #[test]
    fn models_and_messages_that_are_none() {
        for (text, what) in [
            (r#"{"messages": []}"#, "`model` is missing"),
            (r#"{"model": "gpt", "messages": []}"#, "there is no `gpt`; it must be `text`"),
            (r#"{"model": "text"}"#, "`messages` is missing"),
            (r#"{"model": "text", "messages": [{"role": "user"}]}"#, "`messages[0].content` is missing"),
            (
                r#"{"model": "text", "messages": [{"role": "tool", "content": ""}]}"#,
                "`messages[0].role`: it is `tool`",
            ),
            (
                r#"{"model": "text", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#,
                "takes text alone",
            ),
        ] {
            let refusal = parse(&Value::from_json(text.as_bytes()).unwrap(), &card(false)).unwrap_err();
            assert!(refusal.message.contains(what), "{refusal:?}");
        }
        let shown = r#"{"model": "text", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]}]}"#;
        let refusal = parse(&Value::from_json(shown.as_bytes()).unwrap(), &card(true)).unwrap_err();
        assert!(refusal.message.contains("others are not fetched"), "{refusal:?}");
    }
}

//! `POST /act`, as the servers of OpenVLA and of OpenVLA-OFT take and answer it: json-numpy, once or twice encoded.
//!
//! With `image` the answer is one action, the chunk's first (`?chunk=1`: all), with `full_image` the list of them.

use crate::acting::{Asked, act, state_of};
use crate::array::{Array, numbers};
use crate::card::PolicyCard;
use crate::json_numpy;
use crate::refusal::Refusal;
use crate::server::{ModelTime, Served};
use crate::value::Value;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Where what was passed over is named.
const IGNORED: HeaderName = HeaderName::from_static("dream-ignored");

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) asked: Asked,
    /// Whether the answer is all of the chunk.
    whole: bool,
    /// Fields that the policy has no use for.
    ignored: Vec<String>,
}

pub(crate) async fn answer(
    State(served): State<Arc<Served>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let whole = match query.as_deref() {
        None | Some("" | "chunk=0") => false,
        Some("chunk=1") => true,
        Some(other) => {
            return Err(Refusal::request(format!("the query is `{other}`; it is `chunk=1` or none")));
        }
    };
    let is_json = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.starts_with("application/json"));
    if headers.get(CONTENT_TYPE).is_some_and(|value| !is_json(value)) {
        let text = "the request must be JSON (Content-Type: application/json)";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let body = body?;
    let outer = Value::from_json(&body).map_err(Refusal::request)?;
    // Twice encoded, by clients that have no json-numpy.
    let encoded = match outer.entries() {
        [(key, Value::Text(text))] if key == "encoded" => Some(text.clone().into_owned()),
        _ => None,
    };
    let policy = served.card.policy()?;
    let parsed = match &encoded {
        Some(text) => parse(&Value::from_json(text.as_bytes()).map_err(Refusal::request)?, policy)?,
        None => parse(&outer, policy)?,
    };
    let answered = act(&served, parsed.asked).await?;
    let actions = &answered.chunk.actions;
    let text = match (parsed.whole || whole, actions.first()) {
        (false, Some(first)) => json_numpy::floats(first),
        _ => {
            format!("[{}]", actions.iter().map(|row| json_numpy::floats(row)).collect::<Vec<_>>().join(", "))
        }
    };
    let text = match encoded {
        Some(_) => serde_json::Value::String(text).to_string(),
        None => text,
    };
    let mut response = ([(CONTENT_TYPE, "application/json")], text).into_response();
    response.extensions_mut().insert(ModelTime(answered.took));
    if let (false, Ok(names)) = (parsed.ignored.is_empty(), HeaderValue::from_str(&parsed.ignored.join(", ")))
    {
        response.headers_mut().insert(IGNORED, names);
    }
    Ok(response)
}

pub(crate) fn parse(request: &Value<'_>, policy: &PolicyCard) -> Result<Parsed, Refusal> {
    if !matches!(request, Value::Map(_)) {
        return Err(Refusal::request(format!("the request is {}; it must be an object", request.kind())));
    }
    let (mut first, mut others, mut ignored) = (None, Vec::new(), Vec::new());
    let (mut task, mut state, mut seed, mut noise, mut whole) = (None, None, 0, None, false);
    for (key, value) in request.entries() {
        match key.as_ref() {
            "image" | "full_image" => {
                if first.is_some() {
                    return Err(Refusal::field(
                        key,
                        "it stands beside another",
                        "one of `image` and `full_image`",
                    ));
                }
                whole = key == "full_image";
                first = Some(image(key, value)?);
            }
            "instruction" => {
                let text = value.text();
                task = Some(
                    text.ok_or_else(|| Refusal::field(key, format!("it is {}", value.kind()), "a text"))?,
                );
            }
            "state" => match value {
                Value::Nil => {}
                value if policy.proprio_dim.is_some() => {
                    state = Some(numbers(key, value, "a list of numbers")?)
                }
                _ => ignored.push(key.to_string()),
            },
            "unnorm_key" => check_key(value, &policy.unnorm_key)?,
            "seed" => seed = seed_of(value)?,
            "noise" => noise = Some(noise_of(value, policy)?),
            wrist if wrist.contains("wrist") && policy.views == 1 => ignored.push(key.to_string()),
            wrist if wrist.contains("wrist") => others.push(image(wrist, value)?),
            _ => {
                let known = "`image` or `full_image`, keys with `wrist`, `instruction`, `state`, `unnorm_key`, `seed`, `noise`";
                return Err(Refusal::field(key, "it is no field of a request", known));
            }
        }
    }
    let first = first.ok_or_else(|| Refusal::missing("full_image", "a picture, uint8 [height, width, 3]"))?;
    let task = task.ok_or_else(|| Refusal::missing("instruction", "a text"))?.to_owned();
    let images = std::iter::once(first).chain(others).collect();
    Ok(Parsed {
        asked: Asked { images, task, state: state_of(policy, "state", state)?, seed, noise },
        whole,
        ignored,
    })
}

fn image(name: &str, value: &Value<'_>) -> Result<dream::Image, Refusal> {
    let array = Array::of(name, value)?;
    let wrong =
        || Refusal::field(name, format!("it is {}", value.kind()), "an array, uint8 [height, width, 3]");
    array.ok_or_else(wrong)?.image(name)
}

/// The statistics of the artifact, or a suite whose name leads to them.
fn check_key(value: &Value<'_>, known: &str) -> Result<(), Refusal> {
    match value {
        Value::Nil => Ok(()),
        Value::Text(key) if key == known || format!("{key}_no_noops") == known => Ok(()),
        Value::Text(key) => {
            Err(Refusal::field("unnorm_key", format!("it is `{key}`"), &format!("`{known}`")))
        }
        other => Err(Refusal::field("unnorm_key", format!("it is {}", other.kind()), &format!("`{known}`"))),
    }
}

/// A seed of a request.
///
/// # Errors
///
/// Names the field.
pub(crate) fn seed_of(value: &Value<'_>) -> Result<u64, Refusal> {
    match value {
        Value::Integer(seed) if *seed >= 0 => Ok(*seed as u64),
        Value::Nil => Ok(0),
        Value::Integer(seed) => {
            Err(Refusal::field("seed", format!("it is {seed}"), "a whole number from 0 up"))
        }
        other => Err(Refusal::field("seed", format!("it is {}", other.kind()), "a whole number from 0 up")),
    }
}

/// Noise of a request, for policies that start from some.
///
/// # Errors
///
/// Names the field.
pub(crate) fn noise_of(value: &Value<'_>, policy: &PolicyCard) -> Result<Vec<f32>, Refusal> {
    let array = Array::of("noise", value)?;
    let wrong = || Refusal::field("noise", format!("it is {}", value.kind()), "an array of numbers");
    noise_in(&array.ok_or_else(wrong)?, policy)
}

/// The same of an array.
///
/// # Errors
///
/// As [`noise_of`].
pub(crate) fn noise_in(array: &Array<'_>, policy: &PolicyCard) -> Result<Vec<f32>, Refusal> {
    let expected = format!("an array [{}, {}], all finite", policy.chunk, policy.action_dim);
    if !policy.noisy {
        return Err(Refusal::field("noise", "the policy starts from none", "left out"));
    }
    let shape = policy.shape();
    let list: Vec<f32> = array.numbers().iter().map(|x| *x as f32).collect();
    if let Some(x) = list.iter().find(|x| !x.is_finite()) {
        return Err(Refusal::field("noise", format!("it has {x}"), &expected));
    }
    if array.shape != shape && array.shape != [&[1], &shape[..]].concat() {
        return Err(Refusal::field("noise", format!("it is {:?}", array.shape), &expected));
    }
    Ok(list)
}

//! The Open Inference Protocol (KServe's version 2) over HTTP, in JSON and with binary tensors, for policies.

use crate::acting::{Answered, Asked, act, state_of};
use crate::array::{Array, Kind};
use crate::card::{Card, PolicyCard};
use crate::openvla::noise_in;
use crate::refusal::Refusal;
use crate::server::{ModelTime, Served};
use crate::value::{LISTED_MAX, Value};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::borrow::Cow;
use std::sync::Arc;

/// How many bytes of a body are JSON; tensors follow.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// The only one there is.
const VERSION: &str = "1";
/// What a request counts as.
pub(crate) const PATH: &str = "/v2/models/{model}/infer";

/// All paths.
pub(crate) fn routes() -> Router<Arc<Served>> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(crate::server::lives))
        .route("/v2/health/ready", get(crate::server::is_ready))
        .route("/v2/models/{model}", get(model))
        .route("/v2/models/{model}/ready", get(ready))
        .route(PATH, post(infer))
        .route("/v2/models/{model}/versions/{version}", get(model))
        .route("/v2/models/{model}/versions/{version}/ready", get(ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
}

/// A refusal as clients look for it.
struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.0.into_plain_response()
    }
}

/// What a path names.
#[derive(serde::Deserialize)]
struct Named {
    model: String,
    version: Option<String>,
}

fn of(named: Result<Path<Named>, PathRejection>) -> Result<Named, Refusal> {
    let named = named.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    Ok(named.0)
}

impl Named {
    fn check(&self, card: &Card) -> Result<(), Refusal> {
        if self.model != card.name {
            return Err(Refusal::no_model(&self.model, &card.name));
        }
        match self.version.as_deref() {
            None | Some(VERSION) => Ok(()),
            Some(other) => {
                let text = format!("`{}` has no version `{other}`; it must be `{VERSION}`", card.name);
                Err(Refusal::new(StatusCode::NOT_FOUND, text))
            }
        }
    }
}

async fn server(State(served): State<Arc<Served>>) -> impl IntoResponse {
    axum::Json(json!({
        "name": "dreamc",
        "version": served.card.version,
        "extensions": ["binary_tensor_data"],
        "models": [served.card.name],
    }))
}

async fn ready(
    State(served): State<Arc<Served>>,
    named: Result<Path<Named>, PathRejection>,
) -> Result<(StatusCode, &'static str), Refused> {
    of(named)?.check(&served.card)?;
    Ok(crate::server::is_ready(State(served)).await)
}

async fn model(
    State(served): State<Arc<Served>>,
    named: Result<Path<Named>, PathRejection>,
) -> Result<Response, Refused> {
    let card = &served.card;
    of(named)?.check(card)?;
    let tensor = |name: &str, datatype: &str, shape: &[i64]| json!({"name": name, "datatype": datatype, "shape": shape});
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    // A model of text is asked elsewhere, and has no tensors here.
    if let Ok(policy) = card.policy() {
        let [chunk, columns] = policy.shape().map(|side| side as i64);
        let [width, height] = policy.image_size.map_or([-1, -1], |size| size.map(i64::from));
        inputs.extend(
            (0..policy.views).map(|view| tensor(&format!("image_{view}"), "UINT8", &[height, width, 3])),
        );
        inputs.push(tensor("task", "BYTES", &[1]));
        inputs.extend(policy.proprio_dim.map(|n| tensor("proprio", "FP64", &[n.into()])));
        inputs.push(tensor("seed", "INT64", &[1]));
        inputs.extend(policy.noisy.then(|| tensor("noise", "FP32", &[chunk, columns])));
        outputs.extend(OUTPUTS.map(|name| tensor(name, "FP64", &[chunk, columns])));
    }
    let described = json!({
        "name": card.name, "versions": [VERSION], "platform": "dreamc", "inputs": inputs, "outputs": outputs,
    });
    Ok(axum::Json(described).into_response())
}

/// Names of outputs.
const OUTPUTS: [&str; 2] = ["actions", "normalized"];

async fn infer(
    State(served): State<Arc<Served>>,
    named: Result<Path<Named>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    Ok(infer_in(&served, &of(named)?, &headers, body).await?)
}

async fn infer_in(
    served: &Served,
    named: &Named,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    named.check(&served.card)?;
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let text = format!("the body is compressed ({encoding:?}); send it as it is");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let body = body?;
    let length =
        headers.get(HEADER_LENGTH).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let policy = served.card.policy()?;
    let (asked, wanted) = {
        let (text, tensors) = match length {
            None => (&body[..], &[][..]),
            Some(length) => length.and_then(|n: usize| body.split_at_checked(n)).ok_or_else(|| {
                let expected = format!("the bytes of the JSON part, at most {}", body.len());
                Refusal::field(HEADER_LENGTH.as_str(), "it is none", &expected)
            })?,
        };
        parse(&Value::from_json_of(text, LISTED_MAX).map_err(Refusal::request)?, tensors, policy)?
    };
    let answered = act(served, asked).await?;
    let mut response = written(&served.card.name, policy, &answered, &wanted);
    response.extensions_mut().insert(ModelTime(answered.took));
    Ok(response)
}

/// What is to be answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    id: Option<String>,
    /// Outputs, and whether they are binary.
    outputs: Vec<(&'static str, bool)>,
}

fn written(name: &str, policy: &PolicyCard, answered: &Answered, wanted: &Wanted) -> Response {
    let mut tensors: Vec<u8> = Vec::new();
    let mut outputs = Vec::new();
    for (name, binary) in &wanted.outputs {
        let rows = if *name == OUTPUTS[0] { &answered.chunk.actions } else { &answered.chunk.normalized };
        let mut output = json!({"name": name, "datatype": "FP64", "shape": policy.shape()});
        if *binary {
            let bytes: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
            output["parameters"] = json!({"binary_data_size": bytes.len()});
            tensors.extend(bytes);
        } else {
            output["data"] = json!(rows.concat());
        }
        outputs.push(output);
    }
    let mut answer = json!({"model_name": name, "model_version": VERSION, "outputs": outputs});
    if let Some(id) = &wanted.id {
        answer["id"] = json!(id);
    }
    let text = answer.to_string();
    if tensors.is_empty() {
        return ([(CONTENT_TYPE, "application/json")], text).into_response();
    }
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HEADER_LENGTH, HeaderValue::from(text.len())),
    ];
    (headers, [text.into_bytes(), tensors].concat()).into_response()
}

/// A tensor of a request.
enum Tensor<'a> {
    Numbers(Array<'a>),
    Texts(Vec<Cow<'a, [u8]>>),
}

/// Reads a request; `tensors` are what follows its JSON part.
///
/// # Errors
///
/// Names the field.
pub(crate) fn parse(
    request: &Value<'_>,
    tensors: &[u8],
    policy: &PolicyCard,
) -> Result<(Asked, Wanted), Refusal> {
    let (mut inputs, mut outputs, mut id, mut all_binary) = (None, None, None, false);
    if !matches!(request, Value::Map(_)) {
        return Err(Refusal::request(format!("the request is {}; it must be an object", request.kind())));
    }
    for (key, value) in request.entries() {
        match (key.as_ref(), value) {
            ("id", Value::Text(text)) => id = Some(text.clone().into_owned()),
            ("inputs", Value::List(list)) => inputs = Some(list),
            ("outputs", Value::List(list)) => outputs = Some(list),
            ("parameters", Value::Map(entries)) => {
                all_binary = asked_for("binary_data_output", entries, false)?;
            }
            ("id" | "inputs" | "outputs" | "parameters", Value::Nil) => {}
            ("id" | "inputs" | "outputs" | "parameters", other) => {
                return Err(Refusal::field(
                    key,
                    format!("it is {}", other.kind()),
                    "as the Open Inference Protocol has it",
                ));
            }
            _ => {
                return Err(Refusal::field(
                    key,
                    "it is no field of a request",
                    "id, inputs, outputs or parameters",
                ));
            }
        }
    }
    let inputs = inputs.ok_or_else(|| Refusal::missing("inputs", "a list of tensors"))?;
    let mut wanted = Wanted { id, outputs: Vec::new() };
    for output in outputs.map_or(&[][..], Vec::as_slice) {
        let (mut name, mut binary) = ("", all_binary);
        for (key, value) in output.entries() {
            match (key.as_ref(), value) {
                ("name", Value::Text(text)) => name = text,
                ("parameters", Value::Map(entries)) => {
                    binary = asked_for("binary_data", entries, all_binary)?
                }
                (other, _) => {
                    let at = format!("outputs[].{other}");
                    return Err(Refusal::field(&at, "it is not known", "`name` and `parameters`"));
                }
            }
        }
        let known = OUTPUTS.iter().find(|known| **known == name);
        let known = known.ok_or_else(|| {
            Refusal::field("outputs", format!("there is no `{name}`"), "actions, normalized")
        })?;
        wanted.outputs.push((known, binary));
    }
    if outputs.is_none() {
        wanted.outputs = OUTPUTS.map(|name| (name, all_binary)).to_vec();
    }

    let mut images: Vec<Option<dream::Image>> = vec![None; policy.views as usize];
    let (mut task, mut state, mut seed, mut noise) = (None, None, 0, None);
    let mut rest = tensors;
    let mut seen: Vec<&str> = Vec::new();
    for input in inputs {
        let name = input.get("name").and_then(Value::text);
        let name = name.ok_or_else(|| Refusal::missing("inputs[].name", "a text"))?;
        if seen.contains(&name) {
            return Err(Refusal::field(name, "it stands twice", "given once"));
        }
        seen.push(name);
        let view = name.strip_prefix("image_").and_then(|view| view.parse::<usize>().ok());
        let view = view.filter(|view| name == format!("image_{view}"));
        match (name, view.and_then(|view| images.get_mut(view)), tensor(name, input, &mut rest)?) {
            (_, Some(image), Tensor::Numbers(array)) => *image = Some(array.image(name)?),
            ("task", _, Tensor::Texts(texts)) => task = Some(only_text(&texts)?),
            ("proprio", _, Tensor::Numbers(array)) => state = Some(array.list(name, "a list of numbers")?),
            ("seed", _, Tensor::Numbers(array)) => {
                const EXPECTED: &str = "INT64 [1], a whole number from 0 up";
                let integer =
                    |array: &Array<'_>| match (array.kind, array.shape.as_slice(), array.bytes.as_ref()) {
                        (Kind::I64, [1], bytes) => bytes.try_into().ok().map(i64::from_le_bytes),
                        _ => None,
                    };
                let given = integer(&array).and_then(|seed| u64::try_from(seed).ok());
                seed = given.ok_or_else(|| {
                    Refusal::field(name, format!("it is {:?} {:?}", array.kind, array.shape), EXPECTED)
                })?;
            }
            ("noise", _, Tensor::Numbers(array)) => noise = Some(noise_in(&array, policy)?),
            (_, Some(_), Tensor::Texts(_)) | ("proprio" | "seed" | "noise", _, Tensor::Texts(_)) => {
                return Err(Refusal::field(name, "its datatype is BYTES", "of numbers"));
            }
            ("task", _, Tensor::Numbers(_)) => {
                return Err(Refusal::field(name, "it is of numbers", "BYTES [1]"));
            }
            _ => {
                let known = format!(
                    "image_0 to image_{}, task, proprio, seed, noise",
                    policy.views.saturating_sub(1)
                );
                return Err(Refusal::field(name, "it is no input of the model", &known));
            }
        }
    }
    if !rest.is_empty() {
        return Err(Refusal::request(format!("{} bytes stand behind the last tensor", rest.len())));
    }
    if policy.proprio_dim.is_none() && state.is_some() {
        return Err(Refusal::field("proprio", "the policy takes no state", "left out"));
    }
    let images = images.into_iter().enumerate().map(|(view, image)| {
        image.ok_or_else(|| Refusal::missing(&format!("image_{view}"), "UINT8 [height, width, 3]"))
    });
    let images = images.collect::<Result<_, _>>()?;
    let task = task.ok_or_else(|| Refusal::missing("task", "BYTES [1], what the robot is to do"))?;
    Ok((Asked { images, task, state: state_of(policy, "proprio", state)?, seed, noise }, wanted))
}

/// The one parameter that there is of something, true or false.
fn asked_for(name: &str, entries: &[(Cow<'_, str>, Value<'_>)], otherwise: bool) -> Result<bool, Refusal> {
    let expected = format!("`{name}`: true or false");
    entries.iter().try_fold(otherwise, |_, (key, value)| match value {
        Value::Bool(value) if key == name => Ok(*value),
        _ => Err(Refusal::field(&format!("parameters.{key}"), "it is not known", &expected)),
    })
}

fn only_text(texts: &[Cow<'_, [u8]>]) -> Result<String, Refusal> {
    let [text] = texts else {
        return Err(Refusal::field("task", format!("it has {} elements", texts.len()), "BYTES [1]"));
    };
    let text = std::str::from_utf8(text);
    text.map(str::to_owned).map_err(|error| Refusal::field("task", error.to_string(), "text in UTF-8"))
}

/// A tensor as its input describes it; a binary one is taken off `rest`.
fn tensor<'a>(name: &str, input: &'a Value<'_>, rest: &mut &'a [u8]) -> Result<Tensor<'a>, Refusal> {
    let missing = |what: &str, expected: &str| Refusal::missing(&format!("{name}.{what}"), expected);
    for (key, _) in input.entries() {
        if !["name", "datatype", "shape", "data", "parameters"].contains(&key.as_ref()) {
            let at = format!("{name}.{key}");
            return Err(Refusal::field(
                &at,
                "it is no field of an input",
                "name, datatype, shape, data or parameters",
            ));
        }
    }
    let datatype = input.get("datatype").and_then(Value::text);
    let datatype = datatype.ok_or_else(|| missing("datatype", DATATYPES))?;
    let kind = match datatype {
        "BYTES" => None,
        "UINT8" => Some(Kind::U8),
        "BOOL" => Some(Kind::Bool),
        "INT32" => Some(Kind::I32),
        "INT64" => Some(Kind::I64),
        "FP32" => Some(Kind::F32),
        "FP64" => Some(Kind::F64),
        other => {
            return Err(Refusal::field(&format!("{name}.datatype"), format!("it is `{other}`"), DATATYPES));
        }
    };
    let Some(Value::List(sides)) = input.get("shape") else {
        return Err(missing("shape", "a list of sides"));
    };
    let side = |side: &Value<'_>| if let Value::Integer(n) = side { usize::try_from(*n).ok() } else { None };
    let shape: Option<Vec<usize>> = sides.iter().map(side).collect();
    let shape = shape.filter(|shape| shape.len() <= 4);
    let shape =
        shape.ok_or_else(|| Refusal::field(&format!("{name}.shape"), "it is none", "at most four sides"))?;
    let elements = shape.iter().try_fold(1_usize, |n, side| n.checked_mul(*side));
    let size = match input.get("parameters") {
        None | Some(Value::Nil) => None,
        Some(parameters) => match parameters.entries() {
            [] => None,
            [(key, size)] if key == "binary_data_size" => Some(size),
            _ => {
                let at = format!("{name}.parameters");
                return Err(Refusal::field(&at, "not all of them are known", "`binary_data_size` alone"));
            }
        },
    };
    let found = |found: usize| {
        let expected = format!("as many elements as {shape:?} has");
        Refusal::field(name, format!("its data has {found}"), &expected)
    };
    match (size, input.get("data"), kind) {
        (Some(_), Some(_), _) => {
            Err(Refusal::field(name, "it has `data` and `binary_data_size`", "one of them"))
        }
        (None, None, _) => Err(missing("data", "a list, or binary (`parameters.binary_data_size`)")),
        (Some(size), None, kind) => {
            let size = if let Value::Integer(n) = size { usize::try_from(*n).ok() } else { None };
            let (bytes, behind) = size.and_then(|size| rest.split_at_checked(size)).ok_or_else(|| {
                let expected = format!("at most {}, the bytes that are left", rest.len());
                Refusal::field(&format!("{name}.parameters.binary_data_size"), "it is none", &expected)
            })?;
            *rest = behind;
            match kind {
                None => {
                    let texts = split_texts(bytes).filter(|texts| Some(texts.len()) == elements);
                    let expected = format!("{shape:?} texts, each behind its length in 4 bytes");
                    texts
                        .map(Tensor::Texts)
                        .ok_or_else(|| Refusal::field(name, "its bytes are others", &expected))
                }
                Some(kind) if elements.and_then(|n| n.checked_mul(kind.bytes())) == Some(bytes.len()) => {
                    Ok(Tensor::Numbers(Array { kind, shape, bytes: bytes.into() }))
                }
                Some(_) => {
                    let expected = format!("as many as a {datatype} {shape:?} has");
                    Err(Refusal::field(name, format!("it has {} bytes", bytes.len()), &expected))
                }
            }
        }
        (None, Some(data), None) => {
            let mut texts = Vec::new();
            flat(data, &mut |value| {
                texts.push(Cow::Borrowed(value.text()?.as_bytes()));
                Some(())
            })
            .ok_or_else(|| Refusal::field(name, "not all of its data are texts", "a list of texts"))?;
            if Some(texts.len()) == elements { Ok(Tensor::Texts(texts)) } else { Err(found(texts.len())) }
        }
        (None, Some(data), Some(kind)) => {
            let mut bytes = Vec::new();
            flat(data, &mut |value| kind.write(value, &mut bytes)).ok_or_else(|| {
                Refusal::field(name, format!("not all of its data are {datatype}"), "a list of such numbers")
            })?;
            let read = bytes.len() / kind.bytes();
            if Some(read) != elements {
                return Err(found(read));
            }
            Ok(Tensor::Numbers(Array { kind, shape, bytes: bytes.into() }))
        }
    }
}

const DATATYPES: &str = "BYTES, UINT8, BOOL, INT32, INT64, FP32 or FP64";

/// Gives every element of lists in lists to `take`, which may take none of it.
fn flat<'v, 'a>(value: &'v Value<'a>, take: &mut impl FnMut(&'v Value<'a>) -> Option<()>) -> Option<()> {
    match value {
        Value::List(list) => list.iter().try_for_each(|value| flat(value, take)),
        value => take(value),
    }
}

/// Texts, each behind its length.
fn split_texts(mut bytes: &[u8]) -> Option<Vec<Cow<'_, [u8]>>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        texts.push(Cow::Borrowed(text));
        bytes = rest;
    }
    Some(texts)
}

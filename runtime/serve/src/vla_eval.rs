//! vla-eval's model server: the client speaks first, and asks for one action at a time; the chunk is kept here.

use crate::acting::{Asked, act, state_of};
use crate::answer::{Answer, Floats};
use crate::array::{Array, numbers, sized};
use crate::card::PolicyCard;
use crate::refusal::Refusal;
use crate::server::Served;
use crate::socket::Reply;
use crate::value::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dream::Image;
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

/// How long a connection may be silent: between two episodes a simulator may build a scene.
pub(crate) const SILENCE: Duration = Duration::from_secs(600);
/// The protocol's version, and that of the harness that it was read from.
const VERSION: i64 = 1;
/// Where it is served.
pub(crate) const PATH: &str = "/vla-eval";

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Actions that were not asked for yet.
    chunk: VecDeque<Vec<f64>>,
}

impl Session {
    /// The answer to a frame.
    pub(crate) async fn answer(&mut self, served: &Served, bytes: &[u8]) -> Reply {
        let start = Instant::now();
        let message = match Value::from_msgpack(bytes) {
            Ok(message) => message,
            Err(text) => {
                served.metrics.answered(PATH, 400, start.elapsed());
                return frame("error", 0, Answer::Map(vec![("error", Answer::Text(text))]));
            }
        };
        let seq = match message.get("seq") {
            Some(Value::Integer(seq)) => *seq,
            _ => 0,
        };
        let made = self.made(served, &message).await;
        let code = made.as_ref().map_or_else(|refusal| refusal.status.as_u16(), |_| 200);
        served.metrics.answered(PATH, code, start.elapsed());
        match made {
            Ok(Some((kind, payload))) => frame(kind, seq, payload),
            Ok(None) => Reply::None,
            Err(refusal) => frame("error", seq, Answer::Map(vec![("error", Answer::Text(refusal.message))])),
        }
    }

    async fn made(
        &mut self,
        served: &Served,
        message: &Value<'_>,
    ) -> Result<Option<(&'static str, Answer)>, Refusal> {
        let payload = message.get("payload").unwrap_or(&Value::Nil);
        match message.get("type").and_then(Value::text) {
            Some("hello") => Ok(Some(("hello", hello(served, payload)?))),
            Some("episode_start" | "episode_end") => {
                self.chunk.clear();
                Ok(None)
            }
            Some("observation") => {
                if self.chunk.is_empty() {
                    let asked = parse(payload, served.card.policy()?)?;
                    let answered = act(served, asked).await?;
                    self.chunk = answered.chunk.actions.into();
                }
                let action = self.chunk.pop_front().unwrap_or_default();
                let shape = vec![action.len()];
                let actions = Floats { numbers: action, shape, single: false, text_keys: true };
                Ok(Some(("action", Answer::Map(vec![("actions", Answer::Array(actions))]))))
            }
            Some(other) => Err(Refusal::field(
                "type",
                format!("it is `{other}`"),
                "hello, episode_start, observation or episode_end",
            )),
            None => Err(Refusal::missing("type", "hello, episode_start, observation or episode_end")),
        }
    }
}

fn frame(kind: &str, seq: i64, payload: Answer) -> Reply {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let entries = vec![
        ("type", Answer::text(kind)),
        ("payload", payload),
        ("seq", Answer::Integer(seq)),
        ("timestamp", Answer::Float(now.as_secs_f64())),
    ];
    Reply::Binary(Answer::Map(entries).to_msgpack())
}

fn hello(served: &Served, payload: &Value<'_>) -> Result<Answer, Refusal> {
    let policy = served.card.policy()?;
    match payload.get("protocol_version") {
        Some(Value::Integer(VERSION)) => {}
        Some(other) => {
            return Err(Refusal::field("protocol_version", format!("it is {other:?}"), &VERSION.to_string()));
        }
        None => return Err(Refusal::missing("protocol_version", &VERSION.to_string())),
    }
    let version = payload.get("harness_version").and_then(Value::text).unwrap_or_default();
    let spec = |name: &'static str, dims: i64, format: &'static str| {
        let entries = vec![
            ("name", Answer::text(name)),
            ("dims", Answer::Integer(dims)),
            ("format", Answer::text(format)),
            ("range", Answer::Nil),
        ];
        (name, Answer::Map(entries))
    };
    let mut observed = vec![spec("image", 0, "rgb_hwc_uint8")];
    observed.extend(policy.proprio_dim.map(|n| spec("state", n.into(), "eef_pos3_axisangle3_gripper2")));
    Ok(Answer::Map(vec![
        ("harness_version", Answer::text(version)),
        ("protocol_version", Answer::Integer(VERSION)),
        ("model_server", Answer::text(&served.card.name)),
        ("capabilities", Answer::Map(Vec::new())),
        (
            "observation_params",
            Answer::Map(vec![
                ("send_wrist_image", Answer::Bool(policy.views > 1)),
                ("send_state", Answer::Bool(policy.proprio_dim.is_some())),
                ("env_seed", Answer::Integer(0)),
                ("quat_no_antipodal", Answer::Bool(true)),
            ]),
        ),
        (
            "action_spec",
            Answer::Map(vec![
                spec("position", 3, "delta_xyz"),
                spec("rotation", 3, "axis_angle"),
                spec("gripper", 1, "binary_close_positive"),
            ]),
        ),
        ("observation_spec", Answer::Map(observed)),
    ]))
}

pub(crate) fn parse(payload: &Value<'_>, policy: &PolicyCard) -> Result<Asked, Refusal> {
    let Some(Value::Map(cameras)) = payload.get("images") else {
        return Err(Refusal::missing("images", "a map of cameras"));
    };
    let mut images = Vec::new();
    for (name, value) in cameras.iter().take(policy.views as usize) {
        images.push(picture(name, value)?);
    }
    let task = payload.get("task_description").and_then(Value::text);
    let task = task.ok_or_else(|| Refusal::missing("task_description", "a text"))?.to_owned();
    let given = ["states", "state"].into_iter().find_map(|key| Some((key, payload.get(key)?)));
    let state = match given {
        Some((key, value)) if policy.proprio_dim.is_some() => Some(numbers(key, value, "a list of numbers")?),
        Some(_) | None => None,
    };
    Ok(Asked {
        images,
        task,
        state: state_of(policy, given.map_or("states", |(key, _)| key), state)?,
        seed: 0,
        noise: None,
    })
}

/// A camera's picture: an array, or a file.
fn picture(name: &str, value: &Value<'_>) -> Result<Image, Refusal> {
    const EXPECTED: &str = "an array, uint8 [height, width, 3], or a PNG or JPEG file";
    if let Some(array) = Array::of(name, value)? {
        return array.image(name);
    }
    if value.get("__image__").is_none() {
        return Err(Refusal::field(name, format!("it is {}", value.kind()), EXPECTED));
    }
    let bytes = match value.get("data") {
        Some(Value::Bytes(bytes)) => bytes.clone().into_owned(),
        Some(Value::Text(text)) => STANDARD
            .decode(text.as_bytes())
            .map_err(|error| Refusal::field(name, format!("its bytes are no base64: {error}"), EXPECTED))?,
        Some(_) | None => return Err(Refusal::field(name, "it has no `data`", EXPECTED)),
    };
    match value.get("format").and_then(Value::text).unwrap_or("png") {
        "raw" => {
            let Some(Value::List(sides)) = value.get("shape") else {
                return Err(Refusal::field(name, "it has no `shape`", EXPECTED));
            };
            let side = |side: &Value<'_>| side.number().filter(|n| *n >= 0.0).map(|n| n as u32);
            match sides.iter().map(side).collect::<Option<Vec<u32>>>().as_deref() {
                Some([height, width, 3]) => {
                    let image = Image::from_rgb8(*width, *height, bytes);
                    sized(name, image.map_err(|error| Refusal::field(name, error.to_string(), EXPECTED))?)
                }
                _ => Err(Refusal::field(name, format!("its shape is {sides:?}"), EXPECTED)),
            }
        }
        "png" | "jpeg" => {
            let image = Image::decode(&bytes, name);
            sized(name, image.map_err(|error| Refusal::field(name, error.to_string(), EXPECTED))?)
        }
        other => Err(Refusal::field(name, format!("its format is `{other}`"), EXPECTED)),
    }
}

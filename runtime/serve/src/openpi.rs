//! openpi's policy protocol, and vLLM-Omni's variant of it.
//!
//! The server speaks first: a map that says what is served. Requests and answers are maps in MessagePack; an error is a text
//! frame, in the variant a binary map.

use crate::acting::{Asked, act, state_of};
use crate::answer::{Answer, Floats};
use crate::array::{Array, numbers};
use crate::card::{Card, PolicyCard};
use crate::openvla::{noise_of, seed_of};
use crate::refusal::Refusal;
use crate::server::Served;
use crate::socket::{INTERNAL, Reply};
use crate::value::Value;
use dream::action::Gripper;
use std::time::{Duration, Instant};

/// Which dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Openpi,
    Omni,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Session {
    dialect: Dialect,
    /// What is served, in a first frame.
    pub(crate) greeting: Vec<u8>,
    /// How long the last request took, from its frame to its answer.
    last: Option<Duration>,
}

/// Names under which the first view comes.
const FIRST_VIEW: [&str; 7] = [
    "observation/image",
    "image",
    "observation.image",
    "observation/exterior_image_1_left",
    "base_image",
    "primary_image",
    "full_image",
];
/// Names under which the state comes.
const STATE: [&str; 3] = ["observation/state", "state", "observation.state"];
/// Names under which the task comes.
const TASK: [&str; 3] = ["prompt", "instruction", "task"];
/// What else a request may have.
const FURTHER: [&str; 5] = ["seed", "noise", "endpoint", "session_id", "sampling_params"];

impl Session {
    /// # Errors
    ///
    /// Where the artifact does not act.
    pub(crate) fn new(dialect: Dialect, served: &Served) -> Result<Session, Refusal> {
        let greeting = greeting(served, served.card.policy()?).to_msgpack();
        Ok(Session { dialect, greeting, last: None })
    }

    /// How long a connection may be silent.
    pub(crate) fn silence(&self) -> Duration {
        match self.dialect {
            // Its clients send a ping every 20 seconds.
            Dialect::Openpi => Duration::from_secs(120),
            Dialect::Omni => Duration::from_secs(30),
        }
    }

    /// The answer to a frame.
    pub(crate) async fn answer(&mut self, served: &Served, bytes: &[u8]) -> Reply {
        let start = Instant::now();
        let made = self.made(served, bytes, start).await;
        let code = made.as_ref().map_or_else(|refusal| refusal.status.as_u16(), |_| 200);
        served.metrics.answered(self.path(), code, start.elapsed());
        self.last = Some(start.elapsed());
        match (made, self.dialect) {
            (Ok(answer), _) => Reply::Binary(answer.to_msgpack()),
            (Err(refusal), Dialect::Omni) => {
                let entries =
                    vec![("type", Answer::text("error")), ("message", Answer::text(refusal.message))];
                Reply::Binary(Answer::Map(entries).to_msgpack())
            }
            // Where the stream cannot be read, nothing behind it can.
            (Err(refusal), Dialect::Openpi) if Value::from_msgpack(bytes).is_err() => {
                Reply::Last(refusal.message, INTERNAL)
            }
            (Err(refusal), Dialect::Openpi) => Reply::Text(refusal.message),
        }
    }

    fn path(&self) -> &'static str {
        match self.dialect {
            Dialect::Openpi => "/",
            Dialect::Omni => OMNI_PATH,
        }
    }

    async fn made(&mut self, served: &Served, bytes: &[u8], start: Instant) -> Result<Answer, Refusal> {
        let request = Value::from_msgpack(bytes).map_err(Refusal::request)?;
        if self.dialect == Dialect::Omni && request.get("endpoint").and_then(Value::text) == Some("reset") {
            return Ok(Answer::Map(vec![("status", Answer::text("reset successful"))]));
        }
        let asked = parse(&request, &served.card, &served.keys)?;
        let answered = act(served, asked).await?;
        let rows = Floats::rows(&answered.chunk.actions);
        if self.dialect == Dialect::Omni {
            return Ok(Answer::Array(Floats { single: true, ..rows }));
        }
        let ms = |time: Duration| Answer::Float(time.as_secs_f64() * 1e3);
        let mut timing = vec![("infer_ms", ms(start.elapsed()))];
        timing.extend(self.last.map(|last| ("prev_total_ms", ms(last))));
        Ok(Answer::Map(vec![
            ("actions", Answer::Array(rows)),
            ("policy_timing", Answer::Map(vec![("infer_ms", ms(answered.took))])),
            ("server_timing", Answer::Map(timing)),
        ]))
    }
}

/// What is served.
fn greeting(served: &Served, policy: &PolicyCard) -> Answer {
    let Served { card, keys, gripper, .. } = served;
    let sides = policy.image_size.map(|sides| sides.map(|side| Answer::Integer(side.into())).to_vec());
    let views = (0..policy.views).map(|view| Answer::Text(keys.view(view as usize)));
    Answer::Map(vec![
        ("name", Answer::text(&card.name)),
        ("version", Answer::text(card.version)),
        ("artifact_blake3", Answer::text(&card.hash)),
        ("needs_session_id", Answer::Bool(false)),
        ("action_horizon", Answer::Integer(policy.chunk.into())),
        ("action_dim", Answer::Integer(policy.action_dim.into())),
        ("image_keys", Answer::List(views.collect())),
        ("image_resolution", sides.map_or(Answer::Nil, Answer::List)),
        ("needs_wrist_camera", Answer::Bool(policy.views > 1)),
        ("proprio_dim", policy.proprio_dim.map_or(Answer::Nil, |n| Answer::Integer(n.into()))),
        ("unnorm_key", Answer::text(&policy.unnorm_key)),
        ("action_space", Answer::text("robot units")),
        // So that a client does not turn it a second time.
        ("gripper", Answer::text(if *gripper == Gripper::None { "none" } else { "libero" })),
    ])
}

/// Where vLLM-Omni's clients look for it.
pub(crate) const OMNI_PATH: &str = "/v1/realtime/robot/openpi";

/// Which fields of a request are what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    views: Vec<String>,
    state: Option<String>,
    task: Option<String>,
    ignored: Vec<String>,
}

impl Keys {
    /// `view0=cam_high,view1=cam_wrist,state=joints,task=prompt,ignore=stamp`. Parts of a path in nested maps are separated by
    /// `/`.
    ///
    /// # Errors
    ///
    /// Says which part is none.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let mut keys = Keys::default();
        for part in text.split(',') {
            let (name, key) = part.split_once('=').filter(|(_, key)| !key.is_empty()).ok_or_else(|| {
                format!("`{part}` is no NAME=KEY; names are view0, view1, .., state, task and ignore")
            })?;
            match name {
                "state" => keys.state = Some(key.to_owned()),
                "task" => keys.task = Some(key.to_owned()),
                "ignore" => keys.ignored.push(key.to_owned()),
                _ if name == format!("view{}", keys.views.len()) => keys.views.push(key.to_owned()),
                _ => {
                    return Err(format!(
                        "`{name}` is not expected; names are view0, view1, .. in order, state, task and ignore"
                    ));
                }
            }
        }
        Ok(keys)
    }

    /// Under which name view `view` is looked for first.
    fn view(&self, view: usize) -> String {
        match self.views.get(view) {
            Some(key) => key.clone(),
            None if view == 0 => FIRST_VIEW[0].to_owned(),
            None if view == 1 => "observation/wrist_image".to_owned(),
            None => format!("observation/wrist_image_{view}"),
        }
    }
}

/// The value at a key, or along a path of keys.
fn at<'v, 'a>(request: &'v Value<'a>, path: &str) -> Option<&'v Value<'a>> {
    request.get(path).or_else(|| path.split('/').try_fold(request, |value, key| value.get(key)))
}

/// The one of some names of a thing that a request has; none where it has none.
///
/// # Errors
///
/// Where it has several: which is meant?
fn only(request: &Value<'_>, names: &[&'static str]) -> Result<Option<&'static str>, Refusal> {
    let mut there = names.iter().copied().filter(|name| request.get(name).is_some());
    match (there.next(), there.next()) {
        (Some(one), Some(other)) => {
            Err(Refusal::field(other, format!("it stands beside `{one}`"), "the only one of its kind"))
        }
        (one, _) => Ok(one),
    }
}

pub(crate) fn parse(request: &Value<'_>, card: &Card, keys: &Keys) -> Result<Asked, Refusal> {
    let policy = card.policy()?;
    if !matches!(request, Value::Map(_)) {
        return Err(Refusal::request(format!("the request is {}; it must be a map", request.kind())));
    }
    let mut images = Vec::new();
    let mut used: Vec<&str> = Vec::new();
    if keys.views.is_empty() {
        let first = only(request, &FIRST_VIEW)?.ok_or_else(|| {
            let expected = format!("view 0 of {}, uint8 [height, width, 3]", policy.views);
            Refusal::missing(FIRST_VIEW[0], &expected)
        })?;
        let wrists =
            request.entries().iter().map(|(key, _)| key.as_ref()).filter(|key| key.contains("wrist"));
        used.extend(std::iter::once(first).chain(wrists));
        for key in used.iter().take(policy.views as usize) {
            images.push(picture(request, key)?);
        }
    } else {
        for key in &keys.views {
            images.push(picture(request, key)?);
        }
    }
    let missing = images.len();
    if missing < policy.views as usize {
        let wanted = keys.view(missing);
        return Err(Refusal::missing(
            &wanted,
            &format!("view {missing} of {}, uint8 [height, width, 3]", policy.views),
        ));
    }
    let named = |own: &Option<String>, known: &[&'static str]| -> Result<String, Refusal> {
        match own {
            Some(key) => Ok(key.clone()),
            None => Ok(only(request, known)?.unwrap_or(known[0]).to_owned()),
        }
    };
    let (state_key, task_key) = (named(&keys.state, &STATE)?, named(&keys.task, &TASK)?);
    let task = match at(request, &task_key) {
        Some(Value::Text(text)) => text.clone().into_owned(),
        Some(other) => return Err(Refusal::field(&task_key, format!("it is {}", other.kind()), "a text")),
        None => return Err(Refusal::missing(&task_key, "a text: what the robot is to do")),
    };
    let state = match at(request, &state_key) {
        Some(value) if policy.proprio_dim.is_some() => Some(numbers(&state_key, value, "a list of numbers")?),
        Some(_) | None => None,
    };
    for (key, _) in request.entries() {
        let of_path = |path: &String| path == key || path.split('/').next() == Some(key.as_ref());
        let own = keys.views.iter().chain(&keys.state).chain(&keys.task).chain(&keys.ignored).any(of_path);
        let known = FIRST_VIEW.iter().chain(&STATE).chain(&TASK).chain(&FURTHER).any(|known| known == key);
        if !own && !known && !key.contains("wrist") {
            return Err(Refusal::field(
                key,
                "it is no field of a request",
                "named by --keys (`ignore=..`), or left out",
            ));
        }
    }
    if let Some(value) = request.get("sampling_params").and_then(|params| params.get("num_inference_steps")) {
        let steps = i64::from(card.steps);
        if !matches!(value, Value::Nil) && *value != Value::Integer(steps) {
            let expected = format!("{steps}, with which the artifact was built");
            return Err(Refusal::field("num_inference_steps", format!("it is {value:?}"), &expected));
        }
    }
    Ok(Asked {
        images,
        task,
        state: state_of(policy, &state_key, state)?,
        seed: request.get("seed").map(seed_of).transpose()?.unwrap_or(0),
        noise: request.get("noise").map(|value| noise_of(value, policy)).transpose()?,
    })
}

fn picture(request: &Value<'_>, key: &str) -> Result<dream::Image, Refusal> {
    const EXPECTED: &str = "an array, uint8 [height, width, 3]";
    let value = at(request, key).ok_or_else(|| Refusal::missing(key, EXPECTED))?;
    let array = Array::of(key, value)?;
    array.ok_or_else(|| Refusal::field(key, format!("it is {}", value.kind()), EXPECTED))?.image(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let keys = Keys::parse("view0=images/cam_high,view1=images/wrist,state=q,ignore=t").unwrap();
        assert_eq!(keys.views, ["images/cam_high", "images/wrist"]);
        assert_eq!(keys.view(1), "images/wrist");
        for text in ["", "view1=a", "view0", "camera=a", "view0=a,view0=b", "state="] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
        assert_eq!(Keys::default().view(0), "observation/image");
    }
}

//! Whether an artifact answers recorded requests as they were answered, and where it first does not.

use super::super::device::failure;
use super::super::error::Failure;
use super::super::requests::{Request, Subject};
use super::cases::{Built, Case, Cases};
use super::closeness::{Closeness, Top1, closeness, kept};
use super::record::{answer, depth};
use dream::{Forward, Manifest, Model};
use serde::Serialize;
use std::collections::BTreeSet;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(in crate::cli) struct Limits {
    /// Least cosine of every value.
    pub(in crate::cli) cosine: f64,
    /// Least share of equal largest logits, where the margin is clear.
    pub(in crate::cli) top1: f64,
    /// Least share of equal tokens.
    pub(in crate::cli) tokens: f64,
}

impl Limits {
    /// What an artifact of these types must hold against its checkpoint in f32.
    pub(in crate::cli) fn of(manifest: &Manifest) -> Limits {
        let quantised = manifest.options.get("quant").is_some_and(|quant| quant != "none");
        match (manifest.model.dtype.as_str(), quantised) {
            (_, true) => Limits { cosine: 0.95, top1: 0.9, tokens: 0.0 },
            // Sums in another order.
            ("f32", false) => Limits { cosine: 0.999_999, top1: 1.0, tokens: 1.0 },
            (_, false) => Limits { cosine: 0.99, top1: 0.95, tokens: 0.0 },
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Judgement {
    /// Whether everything holds.
    pub(in crate::cli) holds: bool,
    pub(in crate::cli) limits: Limits,
    pub(in crate::cli) cases: Vec<Judged>,
    /// Cases that this artifact cannot be asked, and why.
    pub(in crate::cli) skipped: Vec<String>,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Judged {
    pub(in crate::cli) case: String,
    pub(in crate::cli) holds: bool,
    /// Logits, image features or actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) end: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) top1: Option<Top1>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) tokens: Option<Tokens>,
    /// Hidden states, the first layer's input first.
    pub(in crate::cli) layers: Vec<Value>,
    /// The first value of the model that is not within the limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) first_out: Option<Value>,
}

/// A value of the model.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Value {
    pub(in crate::cli) name: String,
    #[serde(flatten)]
    pub(in crate::cli) close: Closeness,
}

/// Tokens that were chosen.
#[derive(Clone, Copy, Debug, Serialize)]
pub(in crate::cli) struct Tokens {
    pub(in crate::cli) count: u64,
    pub(in crate::cli) same: u64,
}

impl Tokens {
    pub(in crate::cli) fn agreement(self) -> f64 {
        self.same as f64 / self.count.max(1) as f64
    }
}

/// Judges all cases. `parent`: whoever answered them, who can be asked where they part. `heard` is told how many are done.
pub(in crate::cli) fn judge(
    subject: &mut Subject,
    cases: &Cases,
    mut parent: Option<&mut Subject>,
    limits: Limits,
    heard: &mut dyn FnMut(u64),
) -> Result<Judgement, Failure> {
    let (mut judged, mut skipped) = (Vec::new(), Vec::new());
    for case in &cases.list {
        match unfit(subject.model(), cases, case) {
            Some(why) => skipped.push(format!("{}: {why}", case.name)),
            None => judged.push(of_case(subject, case, parent.as_deref_mut(), limits)?),
        }
        heard((judged.len() + skipped.len()) as u64);
    }
    if judged.is_empty() {
        let why = skipped.first().map_or("there is none", String::as_str);
        let help = "record cases of an artifact with the same entries and settings";
        return Err(Failure::failed(format!("none of the cases fits the artifact ({why})"), help));
    }
    Ok(Judgement { holds: judged.iter().all(|j| j.holds), limits, cases: judged, skipped })
}

/// Why a case cannot be asked of an artifact.
fn unfit(model: &Model, cases: &Cases, case: &Case) -> Option<String> {
    let manifest = model.manifest();
    let entry = case.entry().name();
    if !manifest.entries.iter().any(|e| e == entry) {
        return Some(format!("the artifact has no entry `{entry}`"));
    }
    let (own, theirs) = (Built::of(manifest, model.settings()), &cases.built);
    match &case.request {
        Request::Forward(_) | Request::EncodeImage(_) => None,
        Request::Generate(_) | Request::Act(_) if own.steps != theirs.steps => {
            Some(format!("it was answered in {} steps, and the artifact takes {}", theirs.steps, own.steps))
        }
        Request::Generate(_) if (&own.alg, own.eps) != (&theirs.alg, theirs.eps) => {
            Some(format!("it was answered by {}, and the artifact goes by {}", theirs.alg, own.alg))
        }
        Request::Act(_) if own.act != theirs.act => {
            Some("its actions are of another mode or chunk".to_owned())
        }
        Request::Generate(_) | Request::Act(_) => None,
    }
}

fn of_case(
    subject: &mut Subject,
    case: &Case,
    parent: Option<&mut Subject>,
    limits: Limits,
) -> Result<Judged, Failure> {
    let deep = case.answer.values.iter().any(|value| depth(&value.name).is_some());
    let found = answer(subject, &case.request, deep, &mut ())?;
    let keep = match &case.request {
        Request::Forward(forward) => keep(forward),
        Request::EncodeImage(_) | Request::Generate(_) | Request::Act(_) => None,
    };
    let (mut end, mut top1, mut layers) = (None, None, Vec::new());
    for wanted in &case.answer.values {
        let own = found.values.iter().find(|value| value.name == wanted.name && value.dims == wanted.dims);
        let Some(own) = own else {
            let message = format!("`{}` of case {} is not a value of this artifact", wanted.name, case.name);
            let help = "record the cases again from an artifact of the same checkpoint";
            return Err(Failure::failed(message, help));
        };
        let (own, theirs) = (kept(own, keep.as_deref()), kept(wanted, keep.as_deref()));
        let value = Value { name: wanted.name.clone(), close: closeness(&own, &theirs) };
        if depth(&wanted.name).is_some() {
            layers.push(value);
            continue;
        }
        if wanted.name == "logits" {
            top1 = Some(Top1::of(&own, &theirs, wanted.dims.last().copied().unwrap_or(1)));
        }
        end = Some(value);
    }
    layers.sort_by_key(|value| depth(&value.name));
    let tokens = match (&found.tokens, &case.answer.tokens) {
        (Some(own), Some(theirs)) => Some(tokens(own, theirs, &case.request)),
        (None, _) | (_, None) => None,
    };
    // What is no number is within nothing.
    let within = |value: &Value| value.close.cosine >= limits.cosine;
    let holds = layers.iter().chain(&end).all(within)
        && top1.is_none_or(|top1| top1.agreement() >= limits.top1)
        && tokens.is_none_or(|tokens| tokens.agreement() >= limits.tokens);
    let mut first_out = layers.iter().chain(&end).find(|value| !within(value)).cloned();
    if let (Some(first), Request::Forward(forward), Some(parent)) = (&first_out, &case.request, parent)
        && let Some(op) = op_out(subject, parent, forward, &first.name, limits)?
    {
        first_out = Some(op);
    } else if let Some(first) = &mut first_out {
        // As a path of the checkpoint, which says more than a number.
        let aliases = &subject.model().manifest().aliases;
        if let Some((_, path)) = aliases.iter().find(|(alias, _)| *alias == first.name) {
            first.name.clone_from(path);
        }
    }
    Ok(Judged { case: case.name.clone(), holds, end, top1, tokens, layers, first_out })
}

/// Rows that are no padding; nothing where all are none.
fn keep(forward: &Forward) -> Option<Vec<bool>> {
    Some(forward.attention_mask.as_ref()?.iter().flatten().map(|m| *m != 0).collect())
}

/// New tokens of the rows, and how many are the same.
fn tokens(own: &[Vec<i32>], theirs: &[Vec<i32>], request: &Request) -> Tokens {
    let prompt = match request {
        Request::Generate(generate) => generate.prompt.first().map_or(0, Vec::len),
        Request::Forward(_) | Request::EncodeImage(_) | Request::Act(_) => 0,
    };
    let mut tokens = Tokens { count: 0, same: 0 };
    for (row, theirs) in theirs.iter().enumerate() {
        for (i, id) in theirs.iter().enumerate().skip(prompt) {
            tokens.count += 1;
            tokens.same += u64::from(own.get(row).and_then(|own| own.get(i)) == Some(id));
        }
    }
    tokens
}

/// The first op of the layer that ends in the value `last` whose result is not within the limits.
fn op_out(
    subject: &mut Subject,
    parent: &mut Subject,
    request: &Forward,
    last: &str,
    limits: Limits,
) -> Result<Option<Value>, Failure> {
    let (layer, keep) = (layer(subject.model(), last), keep(request));
    // Only what both have: passes may differ.
    let known: BTreeSet<&String> = layer.iter().collect();
    let theirs = paths(parent.model());
    let shared: Vec<&str> = theirs.iter().filter(|path| known.contains(path)).map(String::as_str).collect();
    if shared.is_empty() {
        return Ok(None);
    }
    let own = subject.model_mut().forward(request, &shared).map_err(failure)?;
    let theirs = parent.model_mut().forward(request, &shared).map_err(failure)?;
    for path in &layer {
        let find = |list: &[dream::Output]| list.iter().position(|value| value.name == *path);
        let (Some(a), Some(b)) = (find(&own), find(&theirs)) else { continue };
        let [found, wanted] = [&own[a], &theirs[b]].map(|value| kept(value, keep.as_deref()));
        let close = closeness(&found, &wanted);
        let out = close.cosine.is_nan() || close.cosine < limits.cosine;
        if out {
            return Ok(Some(Value { name: path.clone(), close }));
        }
    }
    Ok(None)
}

/// Paths of the ops that the probed program computes, in its order.
fn paths(model: &Model) -> Vec<String> {
    let plan = model.target().and_then(|target| model.artifact().plan(target));
    let program = plan.and_then(|plan| plan.programs.iter().find(|p| p.name == "forward.probe"));
    let all = program.into_iter().flat_map(|program| program.dispatches());
    let single = all.filter(|dispatch| dispatch.origin.len() == 1);
    single.flat_map(|dispatch| dispatch.origin.iter().cloned()).collect()
}

/// Those of one layer: behind the state before it, up to the value `last`.
fn layer(model: &Model, last: &str) -> Vec<String> {
    let manifest = model.manifest();
    let path = |name: &str| {
        let alias = manifest.aliases.iter().find(|(alias, _)| alias == name);
        alias.map_or_else(|| name.to_owned(), |(_, path)| path.clone())
    };
    let before = match depth(last) {
        Some(n) => n.checked_sub(1),
        // Behind the last of them.
        None => manifest.aliases.iter().filter_map(|(alias, _)| depth(alias)).max(),
    };
    let before = before.map(|n| path(&format!("hidden.{n}")));
    let (all, end) = (paths(model), path(last));
    let from = before.and_then(|before| all.iter().position(|p| *p == before)).map_or(0, |at| at + 1);
    let to = all.iter().position(|p| *p == end).map_or(all.len(), |at| at + 1);
    // A path with a `*` would be a pattern; none has.
    all.get(from..to.max(from)).unwrap_or_default().to_vec()
}

//! One call as a trace that chrome://tracing and Perfetto open: an array of complete events, times in microseconds.

use super::super::profile::{Event, Named};
use serde::Serialize;
use std::time::Duration;

/// A complete event.
#[derive(Debug, Serialize)]
pub(super) struct Complete<'a> {
    name: String,
    cat: &'a str,
    ph: &'static str,
    /// Microseconds since the call began.
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
    args: Args<'a>,
}

/// What is shown of an event that is chosen.
#[derive(Debug, Default, Serialize)]
struct Args<'a> {
    /// What is computed, as a path in the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flop: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// The call, its steps below, and their dispatches below those.
pub(super) fn events<'a>(entry: &'a str, events: &[Event], names: &'a [Named]) -> Vec<Complete<'a>> {
    let end = |event: &Event| event.start + event.time;
    let looped = |event: &Event| names.get(event.number as usize).is_some_and(|named| named.looped);
    let mut list = Vec::new();
    if let (Some(first), Some(last)) = (events.first(), events.last()) {
        list.push(complete(entry.to_owned(), "call", first.start, end(last), Args::default()));
    }
    for of_step in events.chunk_by(|a, b| looped(a) == looped(b) && a.step == b.step) {
        let (Some(first), Some(last)) = (of_step.first(), of_step.last()) else { continue };
        if looped(first) {
            let args = Args { step: Some(first.step), ..Args::default() };
            list.push(complete(format!("step {}", first.step), "step", first.start, end(last), args));
        }
        for event in of_step {
            let Some(named) = names.get(event.number as usize) else { continue };
            let args = Args {
                origin: Some(&named.origin),
                step: named.looped.then_some(event.step),
                flop: Some(event.cost.flop),
                bytes: Some(event.cost.bytes),
            };
            list.push(complete(named.kernel.clone(), &named.op, event.start, end(event), args));
        }
    }
    list
}

fn complete<'a>(name: String, cat: &'a str, start: Duration, end: Duration, args: Args<'a>) -> Complete<'a> {
    let us = |time: Duration| time.as_nanos() as f64 / 1e3;
    Complete { name, cat, ph: "X", ts: us(start), dur: us(end.saturating_sub(start)), pid: 1, tid: 1, args }
}

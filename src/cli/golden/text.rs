//! A judgement for people; JSON has the same figures.

use super::closeness::Top1;
use super::judge::{Judged, Judgement, Tokens, Value};
use std::collections::BTreeMap;

/// All cases, with a line for every layer.
pub(in crate::cli) fn judgement(judgement: &Judgement) -> String {
    let mut text = String::new();
    let limits = judgement.limits;
    text.push_str(&format!(
        "limits   cosine {}, top-1 where clear {}, tokens {}\n",
        limits.cosine, limits.top1, limits.tokens
    ));
    for case in &judgement.cases {
        text.push('\n');
        text.push_str(&of_case(case));
    }
    for skipped in &judgement.skipped {
        text.push_str(&format!("\nskipped  {skipped}\n"));
    }
    text.push('\n');
    text
}

/// A line for all cases: how far their ends are from what they were.
pub(in crate::cli) fn summary(judgement: &Judgement) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut ends: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for value in judgement.cases.iter().filter_map(|case| case.end.as_ref()) {
        ends.entry(&value.name).or_default().push(value.close.cosine);
    }
    for (name, cosines) in ends {
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        // What is no number is the least.
        let least = cosines.iter().copied().reduce(|a, b| if a < b { a } else { b }).unwrap_or(mean);
        parts.push(format!("{name} cosine {mean:.6}, least {least:.6}"));
    }
    let top1 = judgement.cases.iter().filter_map(|case| case.top1);
    if let Some((same, rows)) = sums(top1.map(|top1| (top1.same, top1.rows))) {
        parts.push(format!("top-1 the same in {same} of {rows} rows"));
    }
    let tokens = judgement.cases.iter().filter_map(|case| case.tokens);
    if let Some((same, count)) = sums(tokens.map(|tokens| (tokens.same, tokens.count))) {
        parts.push(format!("{same} of {count} chosen tokens the same"));
    }
    parts.join("; ")
}

/// Sums of both numbers; nothing where there are none.
fn sums(pairs: impl Iterator<Item = (u64, u64)>) -> Option<(u64, u64)> {
    pairs.reduce(|a, b| (a.0 + b.0, a.1 + b.1))
}

fn of_case(case: &Judged) -> String {
    let mut text = format!("{:<24}{}\n", case.case, if case.holds { "holds" } else { "does not hold" });
    if case.end.is_some() || !case.layers.is_empty() {
        text.push_str(&format!("  {:<30}{:>12}{:>14}\n", "value", "cosine", "max abs"));
    }
    let line = |value: &Value| {
        format!("  {:<30}{:>12.8}{:>14.6e}\n", value.name, value.close.cosine, value.close.max_abs)
    };
    case.layers.iter().chain(&case.end).for_each(|value| text.push_str(&line(value)));
    if let Some(Top1 { rows, same, clear_rows, clear_same }) = case.top1 {
        text.push_str(&format!(
            "  top-1: {same} of {rows} rows the same, {clear_same} of {clear_rows} with a clear margin\n"
        ));
    }
    if let Some(Tokens { count, same }) = case.tokens {
        text.push_str(&format!("  tokens: {same} of {count} the same\n"));
    }
    if let Some(value) = &case.first_out {
        text.push_str(&format!("  first out of tolerance: {}, {:.8}\n", value.name, value.close.cosine));
    }
    text
}

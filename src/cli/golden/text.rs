//! A judgement for people; JSON has the same figures.

use super::closeness::Top1;
use super::judge::{Judged, Judgement, Tokens, Value};

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

//! What was measured, as text and as JSON: both have the same figures.

use super::super::memory::Faults;
use super::super::output::counted;
use super::super::profile::{Share, StepTime};
use indicatif::HumanBytes;
use serde::Serialize;

/// Rows of the table of steps; more are summed up.
const STEP_LINES: usize = 16;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What it was run on, in words.
    pub(super) device: String,
    /// Which of the artifact's targets that is.
    pub(super) target: String,
    pub(super) entry: &'static str,
    pub(super) request: Asked,
    /// Opening the file; for `act` with the weights' hashes and all memory.
    pub(super) load_ms: f64,
    /// The first call.
    pub(super) cold_ms: f64,
    pub(super) warm: Warm,
    /// Of all warm calls together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page_faults: Option<Faults>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
    /// Of calls that were observed, dispatch by dispatch.
    pub(super) observed: Observed,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) assert_p99: Option<Assertion>,
}

#[derive(Debug, Serialize)]
pub(super) struct Asked {
    pub(super) prompt_tokens: Option<usize>,
    pub(super) new_tokens: Option<usize>,
    pub(super) images: usize,
    /// Passes through the model in one call.
    pub(super) passes: u32,
}

/// Calls that nobody observed.
#[derive(Debug, Serialize)]
pub(super) struct Warm {
    pub(super) iters: usize,
    pub(super) warmup: u32,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    pub(super) min_ms: f64,
    pub(super) mean_ms: f64,
    /// `p50_ms` by passes.
    pub(super) step_ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) peak_bytes: u64,
    /// Whether that is the peak of the warm calls; else of the whole process.
    pub(super) of_warm_calls: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Observed {
    pub(super) iters: usize,
    /// Mean time of such a call.
    pub(super) call_ms: f64,
    /// Of it in dispatches.
    pub(super) dispatch_ms: f64,
    /// Of the last such call, from the first dispatch to the end of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page_faults: Option<Faults>,
    pub(super) ops: Vec<Share>,
    pub(super) kernels: Vec<Share>,
    pub(super) steps: Vec<StepTime>,
}

#[derive(Debug, Serialize)]
pub(super) struct Assertion {
    pub(super) limit_ms: f64,
    pub(super) holds: bool,
}

/// The nearest-rank percentile: the smallest of the times that at least `percent` of them do not exceed. Below 100 times the
/// 99th is the largest. `sorted`: ascending, not empty.
pub(super) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

impl Warm {
    /// `times`: of the warm calls, in milliseconds.
    pub(super) fn of(mut times: Vec<f64>, warmup: u32, passes: u32) -> Warm {
        times.sort_by(f64::total_cmp);
        let p50_ms = percentile(&times, 50.0);
        let ends = |time: Option<&f64>| time.copied().unwrap_or(f64::NAN);
        Warm {
            iters: times.len(),
            warmup,
            p50_ms,
            p99_ms: percentile(&times, 99.0),
            max_ms: ends(times.last()),
            min_ms: ends(times.first()),
            mean_ms: times.iter().sum::<f64>() / times.len().max(1) as f64,
            step_ms: p50_ms / f64::from(passes.max(1)),
        }
    }
}

/// The report for people.
pub(super) fn text(report: &Report) -> String {
    let Report { warm, observed, .. } = report;
    let mut text = format!("device   {}\nrequest  {}\n", report.device, asked(report));
    let mut line = |name: &str, figures: String| text.push_str(&format!("{name:<9}{figures}\n"));
    line("load", format!("{:.3} ms", report.load_ms));
    line("cold", format!("{:.3} ms, the first call", report.cold_ms));
    let [p50, p99, max, mean, min] = [warm.p50_ms, warm.p99_ms, warm.max_ms, warm.mean_ms, warm.min_ms];
    let figures =
        format!("p50 {p50:.3} ms, p99 {p99:.3} ms, max {max:.3} ms, mean {mean:.3} ms, min {min:.3} ms");
    line("warm", format!("{figures}; {}", counted(warm.iters as u64, "call")));
    line("step", format!("{:.3} ms, p50 by passes", warm.step_ms));
    if let Some(Faults { minor, major }) = report.page_faults {
        let steps = |f: Faults| format!("; in the steps of one {} minor, {} major", f.minor, f.major);
        let steps = observed.page_faults.map(steps).unwrap_or_default();
        line("faults", format!("{minor} minor, {major} major in all warm calls{steps}"));
    }
    if let Some(Memory { peak_bytes, of_warm_calls }) = report.memory {
        let of = if of_warm_calls { "of the warm calls" } else { "of the process" };
        line("memory", format!("{} resident at the peak {of}", HumanBytes(peak_bytes)));
    }
    if let Some(Assertion { limit_ms, holds }) = report.assert_p99 {
        line("p99", format!("{} {limit_ms} ms", if holds { "within" } else { "above" }));
    }
    let calls = counted(observed.iters as u64, "observed call");
    text.push_str(&format!(
        "\n{calls}, {:.3} ms each, {:.3} ms of it in dispatches\n",
        observed.call_ms, observed.dispatch_ms
    ));
    if report.target != "cpu" {
        text.push_str(
            "the device finishes each dispatch before the next: times include the way there and back\n",
        );
    }
    text.push_str(&table("op", &observed.ops));
    text.push_str(&table("kernel", &observed.kernels));
    text.push_str(&steps(&observed.steps));
    text
}

fn asked(report: &Report) -> String {
    let Asked { prompt_tokens, new_tokens, images, passes } = report.request;
    let mut parts = vec![report.entry.to_owned()];
    parts.extend(prompt_tokens.map(|n| format!("{} of prompt", counted(n as u64, "token"))));
    parts.extend(new_tokens.map(|n| counted(n as u64, "slot")));
    parts.extend((images > 0).then(|| counted(images as u64, "image")));
    parts.push(format!("{passes} {}", if passes == 1 { "pass" } else { "passes" }));
    parts.join(", ")
}

fn table(what: &str, shares: &[Share]) -> String {
    let widest = shares.iter().map(|s| s.name.len()).max().unwrap_or(0).max(what.len());
    let columns = ["calls", "ms", "share", "FLOP", "bytes", "GFLOP/s", "GB/s"];
    let [calls, ms, share, flop, bytes, gflops, gbytes] = columns;
    let mut text = format!(
        "\n{what:<widest$}{calls:>9}{ms:>12}{share:>9}{flop:>18}{bytes:>18}{gflops:>10}{gbytes:>9}\n"
    );
    for s in shares {
        text.push_str(&format!(
            "{:<widest$}{:>9}{:>12.3}{:>7.1} %{:>18}{:>18}{:>10.2}{:>9.2}\n",
            s.name,
            s.calls,
            s.ms,
            s.share * 100.0,
            s.flop,
            s.bytes,
            s.gflops,
            s.gbytes
        ));
    }
    text
}

fn steps(steps: &[StepTime]) -> String {
    let mut text = format!("\n{:<9}{:>11}{:>12}\n", "step", "dispatches", "ms");
    let line = |s: &StepTime| {
        let name = s.step.map_or_else(|| "once".to_owned(), |step| step.to_string());
        format!("{name:<9}{:>11}{:>12.3}\n", s.dispatches, s.ms)
    };
    steps.iter().take(STEP_LINES).for_each(|s| text.push_str(&line(s)));
    if steps.len() > STEP_LINES {
        let rest = &steps[STEP_LINES..];
        let mean = rest.iter().map(|s| s.ms).sum::<f64>() / rest.len() as f64;
        text.push_str(&format!("{} more, {mean:.3} ms on average\n", rest.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|p| percentile(&times, p)), [100.0, 198.0, 200.0]);
        assert_eq!([50.0, 99.0].map(|p| percentile(&[1.0, 2.0, 3.0], p)), [2.0, 3.0]);
        assert_eq!([0.0, 50.0, 99.0].map(|p| percentile(&[7.0], p)), [7.0; 3]);
        let warm = Warm::of(vec![4.0, 1.0, 3.0, 2.0], 1, 2);
        assert_eq!([warm.p50_ms, warm.p99_ms, warm.mean_ms, warm.step_ms], [2.0, 4.0, 2.5, 1.0]);
        assert_eq!([warm.min_ms, warm.max_ms], [1.0, 4.0]);
    }
}

//! What `/metrics` tells, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the histograms, in seconds.
const BUCKETS: [f64; 12] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0];

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dropped {
    /// Too many wait.
    QueueFull,
    /// The client went before its turn.
    BeforeItsTurn,
    /// The client went while it was served.
    WhileItRan,
    /// It took too long.
    Timeout,
}

impl Dropped {
    const ALL: [Dropped; 4] =
        [Dropped::QueueFull, Dropped::BeforeItsTurn, Dropped::WhileItRan, Dropped::Timeout];

    fn name(self) -> &'static str {
        match self {
            Dropped::QueueFull => "queue_full",
            Dropped::BeforeItsTurn => "gone_before",
            Dropped::WhileItRan => "gone_while_served",
            Dropped::Timeout => "timeout",
        }
    }
}

/// Times, by how long they were.
#[derive(Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.count += 1;
        self.seconds += seconds;
        if let Some(i) = BUCKETS.iter().position(|end| seconds <= *end) {
            self.counts[i] += 1;
        }
    }

    fn write(&self, name: &str, text: &mut String) {
        let _ = writeln!(text, "# TYPE {name} histogram");
        let mut up_to = 0;
        for (end, count) in BUCKETS.iter().zip(self.counts) {
            up_to += count;
            let _ = writeln!(text, "{name}_bucket{{le=\"{end}\"}} {up_to}");
        }
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(text, "{name}_sum {}\n{name}_count {}", self.seconds, self.count);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Labels of `dream_info`.
    info: Mutex<[String; 2]>,
    /// By path and code.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    request_times: Mutex<Histogram>,
    inference_times: Mutex<Histogram>,
    depth: AtomicUsize,
    /// An answer that takes longer is late.
    late_after: Option<Duration>,
    late: AtomicU64,
    dropped: [AtomicU64; 4],
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Numbers are whole whatever happens while they are held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    /// Nothing is counted yet. Answers that take longer than `late_after` will be late.
    pub(crate) fn new(late_after: Option<Duration>) -> Metrics {
        Metrics { late_after, ..Metrics::default() }
    }

    /// Says what is served.
    pub(crate) fn serves(&self, artifact: &str, device: &str) {
        *locked(&self.info) = [artifact, device].map(str::to_owned);
    }

    /// A request on one of the known paths is answered with a code of HTTP.
    pub(crate) fn answered(&self, path: &'static str, code: u16, time: Duration) {
        *locked(&self.requests).entry((path, code)).or_insert(0) += 1;
        locked(&self.request_times).add(time);
        if self.late_after.is_some_and(|after| time > after) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The model worked so long.
    pub(crate) fn inferred(&self, time: Duration) {
        locked(&self.inference_times).add(time);
    }

    /// So many wait.
    pub(crate) fn waits(&self, depth: usize) {
        self.depth.store(depth, Ordering::Relaxed);
    }

    /// A request has no answer.
    pub(crate) fn dropped(&self, why: Dropped) {
        self.dropped[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The page.
    pub(crate) fn page(&self) -> String {
        let mut text = String::new();
        let [artifact, device] = locked(&self.info).clone().map(|label| escaped(&label));
        let _ = writeln!(
            text,
            "# TYPE dream_info gauge\ndream_info{{artifact=\"{artifact}\",device=\"{device}\"}} 1"
        );
        let _ = writeln!(text, "# TYPE dream_requests_total counter");
        for ((path, code), count) in locked(&self.requests).iter() {
            let _ = writeln!(text, "dream_requests_total{{path=\"{path}\",code=\"{code}\"}} {count}");
        }
        locked(&self.request_times).write("dream_request_seconds", &mut text);
        locked(&self.inference_times).write("dream_inference_seconds", &mut text);
        let _ = writeln!(
            text,
            "# TYPE dream_queue_depth gauge\ndream_queue_depth {}",
            self.depth.load(Ordering::Relaxed)
        );
        let late = self.late.load(Ordering::Relaxed);
        let _ = writeln!(text, "# TYPE dream_late_total counter\ndream_late_total {late}");
        let _ = writeln!(text, "# TYPE dream_dropped_total counter");
        for why in Dropped::ALL {
            let count = self.dropped[why as usize].load(Ordering::Relaxed);
            let _ = writeln!(text, "dream_dropped_total{{reason=\"{}\"}} {count}", why.name());
        }
        text
    }
}

/// A label's value.
fn escaped(label: &str) -> String {
    label.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_every_name() {
        let metrics = Metrics::new(Some(Duration::from_secs(1)));
        metrics.serves("a\"b", "cpu");
        metrics.answered("/act", 200, Duration::from_millis(3));
        metrics.answered("/act", 200, Duration::from_secs(60));
        metrics.inferred(Duration::from_millis(1));
        metrics.dropped(Dropped::Timeout);
        let page = metrics.page();
        for line in [
            "dream_info{artifact=\"a\\\"b\",device=\"cpu\"} 1",
            "dream_requests_total{path=\"/act\",code=\"200\"} 2",
            "dream_request_seconds_bucket{le=\"0.005\"} 1",
            "dream_request_seconds_bucket{le=\"+Inf\"} 2",
            "dream_request_seconds_count 2",
            "dream_inference_seconds_count 1",
            "dream_queue_depth 0",
            "dream_late_total 1",
            "dream_dropped_total{reason=\"timeout\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}

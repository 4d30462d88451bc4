//! Progress of long work on stderr: a bar with rate and time left on a terminal, plain lines elsewhere.

use super::output::note;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Lines are at least this far apart, and short work prints none.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Denoising steps.
    Steps,
    /// Requests.
    Calls,
    /// Kernels.
    Kernels,
}

/// Reports how far some work is.
pub(crate) struct Progress {
    what: &'static str,
    unit: Unit,
    /// On a terminal, from the first figures on.
    bar: Option<ProgressBar>,
    terminal: bool,
    start: Instant,
    last_line: Instant,
}

impl Progress {
    /// Work that begins now; `what` says which.
    pub(crate) fn new(what: &'static str, unit: Unit) -> Progress {
        let now = Instant::now();
        Progress {
            what,
            unit,
            bar: None,
            terminal: std::io::stderr().is_terminal(),
            start: now,
            last_line: now,
        }
    }

    /// `done` of `total` is done.
    pub(crate) fn at(&mut self, done: u64, total: u64) {
        if done == 0 {
            self.start = Instant::now();
        }
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| bar(self.what, self.unit, total));
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            note(&line(self.what, self.unit, done, total, self.start.elapsed()));
        }
    }

    /// Clears the bar and begins anew.
    pub(crate) fn restart(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.start = Instant::now();
    }

    /// Says something in between.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }
}

impl Drop for Progress {
    /// Clears the bar, so that messages start on a line of their own.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, unit: Unit, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let figures = match unit {
        Unit::Bytes => "{bytes} of {total_bytes}, {bytes_per_sec}",
        Unit::Calls => "{pos} of {len} calls, {per_sec}",
        Unit::Kernels => "{pos} of {len} kernels, {per_sec}",
        Unit::Steps => "{pos} of {len} steps, {per_sec}",
    };
    let template = format!("{{msg}} [{{bar:30}}] {{percent}} % ({figures}, {{eta}} left)");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what)
}

fn line(what: &str, unit: Unit, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / rate).unwrap_or(Duration::MAX);
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    let figures = match unit {
        Unit::Bytes => {
            format!("{} of {}, {}/s", HumanBytes(done), HumanBytes(total), HumanBytes(rate as u64))
        }
        Unit::Calls => format!("{done} of {total} calls, {rate:.2}/s"),
        Unit::Kernels => format!("{done} of {total} kernels, {rate:.2}/s"),
        Unit::Steps => format!("{done} of {total} steps, {rate:.2}/s"),
    };
    format!("{what}: {percent} % ({figures}, {} left)", HumanDuration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_rate_and_time_left() {
        let half = line("packing", Unit::Bytes, 1 << 20, 2 << 20, Duration::from_secs(2));
        assert_eq!(half, "packing: 50 % (1.00 MiB of 2.00 MiB, 512.00 KiB/s, 2 seconds left)");
        let steps = line("denoising", Unit::Steps, 4, 16, Duration::from_secs(2));
        assert_eq!(steps, "denoising: 25 % (4 of 16 steps, 2.00/s, 6 seconds left)");
        // Nothing done yet, or nothing to do: no figure that would panic.
        assert!(line("x", Unit::Steps, 0, 3, Duration::ZERO).starts_with("x: 0 %"));
        assert!(line("x", Unit::Bytes, 0, 0, Duration::ZERO).starts_with("x: 100 %"));
    }
}

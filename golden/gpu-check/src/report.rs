//! What was found: a line for each check, and one JSON document.

use dreamc_golden::fixture::take_worst;
use serde_json::{Map, Value, json};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Outcomes of checks.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    list: Vec<Value>,
    failed: usize,
}

impl Checks {
    /// Does a check, whose failure is a panic. Details come from the check, and from the judges' own limits.
    pub(crate) fn check(&mut self, section: &str, name: &str, check: impl FnOnce() -> Map<String, Value>) {
        let _ = take_worst();
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(check));
        let seconds = begin.elapsed().as_secs_f64();
        let mut entry = json!({"section": section, "name": name, "ok": outcome.is_ok(), "seconds": seconds});
        if let Some(worst) = take_worst() {
            entry["worst"] = json!({"what": worst.what, "off": worst.off, "limit": worst.limit});
        }
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{section}: {name}: {word} ({seconds:.1} s)");
        match outcome {
            Ok(details) => details.into_iter().for_each(|(key, value)| entry[key] = value),
            Err(panic) => {
                self.failed += 1;
                entry["error"] = message(panic.as_ref()).into();
            }
        }
        self.list.push(entry);
    }

    /// How many checks did not hold, of how many.
    pub(crate) fn failed(&self) -> (usize, usize) {
        (self.failed, self.list.len())
    }

    /// All of them.
    pub(crate) fn into_json(self) -> Value {
        self.list.into()
    }
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// Numbers in order of size.
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts them.
    pub(crate) fn new(mut numbers: Vec<f64>) -> Sorted {
        numbers.sort_by(f64::total_cmp);
        Sorted(numbers)
    }

    /// The number that a share of all is not above.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let sorted = Sorted::new((0..=100).rev().map(f64::from).collect());
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| sorted.at(share)), [0.0, 50.0, 99.0, 100.0]);
        assert!(Sorted::new(Vec::new()).at(0.5).is_nan());
    }

    #[test]
    fn a_panic_is_a_failed_check() {
        let mut checks = Checks::default();
        checks.check("a", "b", Map::new);
        checks.check("a", "c", || panic!("off by {}", 2));
        assert_eq!(checks.failed(), (1, 2));
        assert_eq!(checks.into_json()[1]["error"], "off by 2");
    }
}

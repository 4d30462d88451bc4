//! What was found: a line for each check, and a JSON document for each part.

use dreamc_golden::fixture::take_worst;
use serde_json::{Map, Value, json};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where what is found is written as it comes: a file for each part, flat in one folder.
#[derive(Debug)]
pub(crate) struct Results {
    folder: PathBuf,
    /// When to begin nothing more.
    end: Instant,
}

impl Results {
    /// In this folder, which is made; nothing is begun after so many minutes.
    pub(crate) fn new(folder: &Path, minutes: u32) -> Result<Results, String> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let end = Instant::now() + Duration::from_secs(60 * u64::from(minutes));
        Ok(Results { folder: folder.to_owned(), end })
    }

    /// Time that is left.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Sets a field of a part that is an object, and leaves its other fields as they are in the folder. A part that is
    /// not there, or is no object, is begun anew.
    pub(crate) fn set(&self, part: &str, field: &str, value: Value) {
        let known = std::fs::read(self.folder.join(format!("{part}.json"))).unwrap_or_default();
        let mut known: Map<String, Value> = serde_json::from_slice(&known).unwrap_or_default();
        known.insert(field.to_owned(), value);
        self.write(part, &Value::from(known));
    }

    /// Writes a part anew. A folder that takes no more is said once a time and keeps nothing from going on.
    pub(crate) fn write(&self, part: &str, value: &Value) {
        let path = self.folder.join(format!("{part}.json"));
        let partial = path.with_extension("partial");
        let text = format!("{value:#}\n");
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &path));
        if let Err(error) = written {
            println!("{}: {error}", path.display());
        }
    }
}

/// Outcomes of checks.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// By the part that they belong to.
    lists: BTreeMap<&'static str, Vec<Value>>,
    failed: usize,
    skipped: usize,
    count: usize,
    results: Option<Results>,
}

/// The part of a section, and so the name of its file.
fn part_of(section: &str) -> &'static str {
    match section {
        "forms" => "forms",
        "kernels" => "kernels",
        "repeat" => "repeat",
        _ => "fixtures",
    }
}

impl Checks {
    /// Checks whose outcomes are written as they come.
    pub(crate) fn writing(results: Results) -> Checks {
        Checks { results: Some(results), ..Checks::default() }
    }

    /// Where they are written.
    pub(crate) fn results(&self) -> Option<&Results> {
        self.results.as_ref()
    }

    /// Does a check, whose failure is a panic. Details come from the check, and from the judges' own limits.
    pub(crate) fn check(&mut self, section: &str, name: &str, check: impl FnOnce() -> Map<String, Value>) {
        self.count += 1;
        if self.results.as_ref().is_some_and(|results| results.left().is_zero()) {
            self.skipped += 1;
            println!("{section}: {name}: skipped: no time is left");
            self.put(section, json!({"section": section, "name": name, "skipped": "no time is left"}));
            return;
        }
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
        self.put(section, entry);
    }

    fn put(&mut self, section: &str, entry: Value) {
        let part = part_of(section);
        let list = self.lists.entry(part).or_default();
        list.push(entry);
        if let Some(results) = &self.results {
            results.write(part, &Value::from(list.clone()));
        }
    }

    /// How many checks did not hold, of how many.
    pub(crate) fn failed(&self) -> (usize, usize) {
        (self.failed, self.count)
    }

    /// How many there was no time for.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped
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
#[allow(clippy::unwrap_used, reason = "tests")]
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
        assert_eq!(checks.lists["fixtures"][1]["error"], "off by 2");
    }

    #[test]
    fn outcomes_are_written_as_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.path().join(name)).unwrap()).unwrap()
        };
        let mut checks = Checks::writing(Results::new(folder.path(), 1).unwrap());
        checks.check("forms", "a", Map::new);
        assert_eq!(read("forms.json")[0]["ok"], true);
        checks.check("vl", "b", Map::new);
        assert_eq!(read("fixtures.json")[0]["section"], "vl");
        let mut late = Checks::writing(Results::new(folder.path(), 0).unwrap());
        late.check("repeat", "c", || panic!("there is no time"));
        assert!(read("repeat.json")[0]["skipped"].is_string());
        assert_eq!((late.failed(), late.skipped()), ((0, 1), 1));
    }

    #[test]
    fn a_field_leaves_the_others_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results::new(folder.path(), 1).unwrap();
        let read = || -> Value {
            serde_json::from_slice(&std::fs::read(folder.path().join("a.json")).unwrap()).unwrap()
        };
        results.set("a", "x", 1.into());
        assert_eq!(read(), json!({"x": 1}));
        results.write("a", &json!({"lines": [2], "x": 3}));
        results.set("a", "x", 4.into());
        assert_eq!(read(), json!({"lines": [2], "x": 4}));
        results.write("a", &json!([5]));
        results.set("a", "x", 6.into());
        assert_eq!(read(), json!({"x": 6}));
    }
}

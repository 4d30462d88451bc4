//! What the benches share: where they ran, and how numbers become one.

use std::process::Command;

/// Set to write the results.
pub(crate) const BLESS: &str = "DREAM_BLESS";

/// Quartiles of numbers: the middle one is the median.
pub(crate) fn quartiles(mut of: Vec<f64>) -> [f64; 3] {
    of.sort_by(f64::total_cmp);
    let last = of.len().saturating_sub(1) as f64;
    [0.25, 0.5, 0.75].map(|part| {
        let at = part * last;
        let (low, high) = (of[at.floor() as usize], of[at.ceil() as usize]);
        low + (high - low) * at.fract()
    })
}

/// The processor, in words, and as part of a file's name.
pub(crate) fn processor() -> (String, String) {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let of = |name: &str| field(name).unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (name, family, model) = (of("model name"), of("cpu family"), of("model"));
    let words = format!("{name}, family {family} model {model}, {cores} cores");
    let slug = format!("{name} family {family}").to_lowercase();
    let parts: Vec<&str> =
        slug.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()).collect();
    (words, parts.join("-"))
}

/// What is measured, as git names it; results do not count as changes.
pub(crate) fn commit() -> Option<String> {
    let git = |args: &[&str]| Command::new("git").args(args).output().ok();
    let named = git(&["describe", "--always", "--abbrev=12"])?;
    let named = String::from_utf8(named.stdout).ok()?.trim().to_owned();
    let changes = git(&["diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)*/benches/results/*"])?;
    Some(if changes.status.success() { named } else { format!("{named}-dirty") })
}

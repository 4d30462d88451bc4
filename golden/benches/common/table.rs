//! The table of units of work beside other runtimes, made of the results.

use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where results and table are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results")
}

/// The file of the table.
pub(crate) fn file() -> PathBuf {
    folder().join("units.md")
}

/// The table of all `units-*.json`.
pub(crate) fn table() -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the results are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("units-") && name.ends_with(".json")
        })
        .collect();
    files.sort();
    let mut text = String::from(
        "# Units of work beside other runtimes\n\n\
         Made by `DREAM_BLESS=1 cargo bench -p dreamc-golden --bench units` of the JSON beside it. Seconds are medians; *theirs / ours* is \
         the median over rounds in which all took turns, above 1 where dreamc is faster.\n",
    );
    for file in files {
        let json = std::fs::read_to_string(&file).expect("results can be read");
        let json: Value = serde_json::from_str(&json).expect("results are JSON");
        section(&json, &mut text);
    }
    text
}

fn section(json: &Value, text: &mut String) {
    let words = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let _ = write!(text, "\n## {}, {} threads\n\n", words(&json["device"]), json["threads"]);
    text.push_str(
        "| unit | ours | seconds | MB | theirs | seconds | MB | theirs / ours | rounds | commit |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    let units = json["units"].as_object().expect("results have units");
    for unit in units.values() {
        let rows = unit["rows"].as_array().expect("a unit has rows");
        let seconds = |row: &Value| {
            let all = row["seconds"].as_array().expect("a row has seconds");
            median(all.iter().filter_map(Value::as_f64).collect())
        };
        let name = |row: &Value| format!("{} {}", words(&row["name"]), words(&row["dtype"]));
        let megabytes = |row: &Value| row["megabytes_max"].as_f64().unwrap_or(f64::NAN);
        let ours = &rows[0];
        for theirs in &rows[1..] {
            let _ = writeln!(
                text,
                "| {} | {} | {:.4} | {:.0} | {} | {:.4} | {:.0} | {:.2} | {} | {} |",
                words(&unit["unit"]),
                words(&unit["dtype"]),
                seconds(ours),
                megabytes(ours),
                name(theirs),
                seconds(theirs),
                megabytes(theirs),
                theirs["times_ours_quartiles"][1].as_f64().unwrap_or(f64::NAN),
                ours["seconds"].as_array().map_or(0, Vec::len),
                words(&unit["commit"]),
            );
        }
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    let half = of.len() / 2;
    if of.len().is_multiple_of(2) { f64::midpoint(of[half - 1], of[half]) } else { of[half] }
}

//! The same layers in PyTorch, where there is one.

use crate::report::Results;
use crate::script::{Heard, Script};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The script beside the program.
const SCRIPT: &str = "torch_peer.py";
/// The file of what it finds.
pub(crate) const PART: &str = "torch";
/// Most time that it gets: it compiles first.
const TIME_MAX: Duration = Duration::from_secs(150);

/// Runs the script and writes what it finds line by line, or why there is nothing.
pub(crate) fn peer(folder: &Path, size: &str, lengths: &[u32], results: &Results) {
    let has_torch = Command::new("python3").args(["-c", "import torch"]).output();
    if !has_torch.is_ok_and(|output| output.status.success()) {
        println!("torch: skipped: python3 has no torch");
        results.write(PART, &json!({"skipped": "python3 has no torch"}));
        return;
    }
    let time = results.left().min(TIME_MAX);
    println!("torch: it compiles first, which takes minutes; {} s are for it", time.as_secs());
    let mut found = json!({"lines": []});
    if let Err(error) = run(&folder.join(SCRIPT), size, lengths, time, &mut |lines| {
        found["lines"] = Value::from(lines.to_vec());
        results.write(PART, &found);
    }) {
        println!("torch: {error}");
        found["error"] = error.into();
    }
    results.write(PART, &found);
}

fn run(
    script: &Path,
    size: &str,
    lengths: &[u32],
    time: Duration,
    found: &mut dyn FnMut(&[Value]),
) -> Result<(), String> {
    let lengths: Vec<String> = lengths.iter().map(u32::to_string).collect();
    let mut command = Command::new("python3");
    command.arg(script).args(["--size", size, "--lengths", &lengths.join(",")]);
    let script = Script::start(&mut command, "").map_err(|error| error.to_string())?;
    let (end, mut values) = (Instant::now() + time, Vec::new());
    loop {
        match script.line(end) {
            Heard::Line(line) => {
                println!("torch: {line}");
                values.extend(serde_json::from_str::<Value>(&line));
                found(&values);
            }
            Heard::End => return script.end(end),
            Heard::Late => return Err(format!("stopped after {} s", time.as_secs())),
        }
    }
}

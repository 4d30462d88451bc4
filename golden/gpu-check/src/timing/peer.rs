//! The same layers in PyTorch, where there is one.

use crate::report::Results;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The script beside the program.
const SCRIPT: &str = "torch_peer.py";
/// The file of what it finds.
const PART: &str = "torch";
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
    let mut child = Command::new("python3")
        .arg(script)
        .args(["--size", size, "--lengths", &lengths.join(",")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let (lines, errors) = (child.stdout.take(), child.stderr.take());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = lines.into_iter().flat_map(|out| BufReader::new(out).lines());
        lines.map_while(Result::ok).try_for_each(|line| send.send(line).ok())
    });
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        errors.into_iter().for_each(|mut errors| drop(errors.read_to_string(&mut text)));
        text
    });
    let (end, mut values) = (Instant::now() + time, Vec::new());
    // The channel is closed when the script is done.
    while let Ok(line) = receive.recv_timeout(end.saturating_duration_since(Instant::now())) {
        println!("torch: {line}");
        values.extend(serde_json::from_str::<Value>(&line));
        found(&values);
    }
    if Instant::now() >= end {
        // It may have ended just now.
        drop(child.kill());
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    if Instant::now() >= end {
        return Err(format!("stopped after {} s", time.as_secs()));
    }
    let said = said.join().unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(20).collect();
    Err(last.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

//! The same layers in PyTorch, where there is one.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The script beside the program.
const SCRIPT: &str = "torch_peer.py";

/// What the script finds: a list, or why there is none.
pub(crate) fn peer(folder: &Path, size: &str) -> Value {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    match python(&["-c", "import torch; print(torch.__version__)"]) {
        Ok(output) if output.status.success() => {}
        Ok(_) | Err(_) => return json!({"skipped": "python3 has no torch"}),
    }
    let script = folder.join(SCRIPT);
    println!("torch: {} is running; it compiles first, which takes minutes", script.display());
    let output = match python(&[&script.to_string_lossy(), "--size", size]) {
        Ok(output) => output,
        Err(error) => return json!({"error": error.to_string()}),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().for_each(|line| println!("torch: {line}"));
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(20).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return json!({"error": last.join("\n"), "lines": lines});
    }
    json!({"lines": lines})
}

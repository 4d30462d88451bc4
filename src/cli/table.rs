//! What `dreamc build -v` tells of passes and programs, as tables.

use dreamc::compile::{PassReport, ProgramReport};
use dreamc::cost::Whole;

/// Nodes, arithmetic and traffic of the module before and after each pass.
///
/// ```text
/// pass                nodes before     after     FLOP before       after    bytes before       after
/// dce                          214       214        1234567     1234567         2345678     2345678
/// ```
pub(super) fn passes(reports: &[PassReport]) -> String {
    let columns = ["nodes before", "after", "FLOP before", "after", "bytes before", "after"];
    let mut text = row("pass", columns.map(str::to_owned));
    for PassReport { name, before, after } in reports {
        let [(n, flop, bytes), (m, less_flop, less_bytes)] =
            [before, after].map(|Whole { nodes, cost }| (*nodes, cost.flop, cost.bytes));
        text.push_str(&row(name, [n, m, flop, less_flop, bytes, less_bytes].map(|n| n.to_string())));
    }
    text
}

fn row(name: &str, [nodes, m, flop, less_flop, bytes, less_bytes]: [String; 6]) -> String {
    format!("{name:<18}{nodes:>13}{m:>8}{flop:>21}{less_flop:>21}{bytes:>21}{less_bytes:>21}\n")
}

/// Arena and peak of live bytes of each program.
pub(super) fn programs(reports: &[ProgramReport]) -> String {
    let widest = reports.iter().map(|p| p.name.len()).max().unwrap_or(0);
    let line = |p: &ProgramReport| {
        let memory = memory(p.arena_bytes, p.live_bytes);
        format!("program {:<widest$}  {memory}\n", p.name)
    };
    reports.iter().map(line).collect()
}

/// `1000 bytes of arena, 900 live at most, ratio 1.111`
pub(super) fn memory(arena_bytes: u64, live_bytes: u64) -> String {
    let ratio = arena_bytes as f64 / live_bytes.max(1) as f64;
    format!("{arena_bytes} bytes of arena, {live_bytes} live at most, ratio {ratio:.3}")
}

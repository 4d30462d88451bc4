//! A plan as a page that opens without a network: dispatches in order, what they cost, and the arena over time.

mod rows;

use dreamc_artifact::plan::Program;
use dreamc_backend::Liveness;
use dreamc_ir::Verified;
use rows::{Row, rows};

const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// The page of some programs, each with its target; `module` is what they were lowered from.
pub(super) fn page<'a>(
    title: &str,
    programs: impl Iterator<Item = (&'a str, &'a Program)>,
    module: Verified<'_>,
) -> String {
    let title = escaped(title);
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>\n{CSS}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p>Lengths at their maxima. Operations are counted from shapes; a loop's rows are one of its steps.</p>\n"
    );
    for (number, (target, program)) in programs.enumerate() {
        section(&mut text, number, target, program, module);
    }
    text.push_str(&format!("<script>\n{JS}</script>\n</body>\n</html>\n"));
    text
}

fn section(text: &mut String, number: usize, target: &str, program: &Program, module: Verified<'_>) {
    let rows = rows(program, module);
    let peak = Liveness::of(program).peak_bytes();
    let symbols: Vec<String> = program.symbols.iter().map(|s| format!("{} <= {}", s.name, s.max)).collect();
    text.push_str(&format!(
        "<section>\n<h2>{} on {}</h2>\n<p>{}; {} dispatches, {} passes, {}.</p>\n",
        escaped(&program.name),
        escaped(target),
        escaped(&symbols.join(", ")),
        rows.len(),
        program.passes(),
        super::table::memory(program.arena_bytes, peak),
    ));
    arena(text, number, &rows, program.arena_bytes);
    groups(text, number, &rows);
    text.push_str("</section>\n");
}

/// Live bytes at each dispatch, under the line of the arena's size.
fn arena(text: &mut String, number: usize, rows: &[Row], arena_bytes: u64) {
    const HEIGHT: u64 = 1000;
    let width = rows.len().max(1);
    text.push_str(&format!(
        "<svg viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\">\n\
         <line x1=\"0\" y1=\"1\" x2=\"{width}\" y2=\"1\"><title>{arena_bytes} bytes of arena</title></line>\n"
    ));
    for (i, row) in rows.iter().enumerate() {
        let high = share(row.live_bytes, arena_bytes, HEIGHT);
        text.push_str(&format!(
            "<rect x=\"{i}\" y=\"{}\" width=\"1\" height=\"{high}\" data-row=\"{}\"><title>{}</title></rect>\n",
            HEIGHT - high,
            id(number, i),
            escaped(&hover(row)),
        ));
    }
    text.push_str("</svg>\n");
}

/// The rows, those of one layer and of as many runs together.
fn groups(text: &mut String, number: usize, rows: &[Row]) {
    let most = |of: fn(&Row) -> u64| rows.iter().map(of).max().unwrap_or(0);
    let (flop, bytes) = (most(row_flop), most(row_bytes));
    let key = |row: &Row| (row.group(), row.runs);
    let mut at = 0;
    for group in rows.chunk_by(|a, b| key(a) == key(b)) {
        let [first, ..] = group else { continue };
        let (class, times) = match first.runs {
            1 => ("once", String::new()),
            n => ("loop", format!(", in each of {n} steps")),
        };
        let sum = |of: fn(&Row) -> u64| group.iter().map(of).fold(0, u64::saturating_add);
        text.push_str(&format!(
            "<details class=\"{class}\"><summary>{}{times}: {} FLOP, {} bytes</summary>\n<table>\n",
            escaped(&first.group()),
            sum(row_flop),
            sum(row_bytes),
        ));
        for row in group {
            let known = |n: u64| if row.cost.is_some() { n.to_string() } else { "unknown".to_owned() };
            text.push_str(&format!(
                "<tr id=\"{}\" title=\"{}\"><td>{}</td><td>{}</td><td class=\"number\">{}</td>\
                 <td class=\"bar\"><i style=\"width:{}%\"></i></td><td class=\"number\">{}</td>\
                 <td class=\"bar\"><i class=\"bytes\" style=\"width:{}%\"></i></td></tr>\n",
                id(number, at),
                escaped(&hover(row)),
                escaped(&row.origin),
                escaped(&row.kernel),
                known(row_flop(row)),
                share(row_flop(row), flop, 100),
                known(row_bytes(row)),
                share(row_bytes(row), bytes, 100),
            ));
            at += 1;
        }
        text.push_str("</table>\n</details>\n");
    }
}

fn row_flop(row: &Row) -> u64 {
    row.cost.map_or(0, |cost| cost.flop)
}

fn row_bytes(row: &Row) -> u64 {
    row.cost.map_or(0, |cost| cost.bytes)
}

fn id(program: usize, row: usize) -> String {
    format!("p{program}r{row}")
}

fn hover(row: &Row) -> String {
    let largest: Vec<String> =
        row.largest.iter().map(|(name, bytes)| format!("{name}: {bytes} bytes")).collect();
    let cost = match row.cost {
        Some(cost) => format!("{} FLOP, {} bytes read and written", cost.flop, cost.bytes),
        None => "cost unknown: the graph in the file has no such node".to_owned(),
    };
    format!("{} ({})\n{cost}\n{} bytes live\n{}", row.origin, row.kernel, row.live_bytes, largest.join("\n"))
}

/// `part` of `whole`, as so many of `parts`.
fn share(part: u64, whole: u64, parts: u64) -> u64 {
    let share = u128::from(part.min(whole)) * u128::from(parts) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(parts)
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_shares_are_bounded() {
        assert_eq!(escaped("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
        assert_eq!((share(1, 3, 100), share(5, 3, 100), share(1, 0, 100)), (33, 100, 0));
        assert_eq!(share(u64::MAX, u64::MAX, 1000), 1000);
    }
}

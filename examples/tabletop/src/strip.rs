//! Episodes as text: a few pictures beside each other.

use crate::episode::Outcome;
use crate::scene::{Point, SIDE, Scene};

/// Characters of a picture.
const COLUMNS: usize = 24;
const ROWS: usize = 12;
/// Pictures of an episode.
const PICTURES: usize = 3;
const GAP: &str = "   ";
const LETTERS: [char; 3] = ['r', 'g', 'b'];
/// How the blocks, the gripper and the table are coloured on a terminal.
const BLOCKS: [&str; 3] = ["\x1b[41;97m", "\x1b[42;97m", "\x1b[44;97m"];
const GRIPPER: &str = "\x1b[1;93m";
const TABLE: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// An episode in pictures: its start, its middle and its end. `scenes` is the table before the first action and after
/// each. In `colour`, it is for a terminal.
pub fn strip(scenes: &[Scene], outcome: &Outcome, colour: bool) -> String {
    let last = scenes.len().saturating_sub(1);
    let mut shown: Vec<usize> = (0..PICTURES).map(|i| last * i / (PICTURES - 1)).collect();
    shown.dedup();
    let caption = |at: usize| {
        let after = format!("after {at}");
        match (at, outcome.closed, outcome.success) {
            (0, ..) => "start".to_owned(),
            (1, ..) if at < last => format!("{after} action"),
            _ if at < last => format!("{after} actions"),
            (_, true, true) => format!("{after}: picked up"),
            (_, true, false) => format!("{after}: missed"),
            (_, false, _) => format!("{after}: never closed"),
        }
    };
    let mut text = String::new();
    let mut line = |parts: Vec<String>| {
        text.push_str(parts.join(GAP).trim_end());
        text.push('\n');
    };
    line(shown.iter().map(|at| format!("{:<COLUMNS$}", caption(*at))).collect());
    for row in 0..ROWS {
        line(shown.iter().filter_map(|at| Some(picture_row(scenes.get(*at)?, row, colour))).collect());
    }
    text
}

fn picture_row(scene: &Scene, row: usize, colour: bool) -> String {
    let mut text = String::new();
    for column in 0..COLUMNS {
        let (letter, style) = cell(scene, column, row);
        if colour {
            text.extend([style, letter.encode_utf8(&mut [0; 4]), PLAIN]);
        } else {
            text.push(letter);
        }
    }
    text
}

/// What stands at a place of the picture, and its colour.
fn cell(scene: &Scene, column: usize, row: usize) -> (char, &'static str) {
    let place = |p: Point| [p[0] as usize * COLUMNS / SIDE, p[1] as usize * ROWS / SIDE];
    let [x, y] = place(scene.grip);
    match (column.abs_diff(x), row.abs_diff(y)) {
        (0, 0) => return ('┼', GRIPPER),
        (1, 0) => return ('─', GRIPPER),
        (0, 1) => return ('│', GRIPPER),
        _ => {}
    }
    let covers = |block: &Point| {
        let [x, y] = place(*block);
        column.abs_diff(x) <= 1 && row == y
    };
    match scene.blocks.iter().position(covers) {
        Some(block) => (LETTERS[block], BLOCKS[block]),
        None => ('·', TABLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_from_start_to_end() {
        let start = Scene::new(0);
        let mut end = start.clone();
        end.grip = end.goal();
        let outcome = Outcome { success: true, closed: true, actions: 2, grip: end.grip, error_px: 0 };
        let scenes = [start.clone(), start, end];
        let text = strip(&scenes, &outcome, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + ROWS);
        let words: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
        assert_eq!(words, ["start", "after 1 action", "after 2: picked up"]);
        assert_eq!(text.matches('┼').count(), PICTURES);
        assert!(!text.contains('\x1b'));
        assert!(strip(&scenes, &outcome, true).contains(GRIPPER));
        // An episode of a single scene is one picture.
        assert_eq!(strip(&scenes[..1], &outcome, false).lines().count(), 1 + ROWS);
    }
}

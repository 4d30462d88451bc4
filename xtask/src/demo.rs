//! `cargo xtask demo`: builds the command, compiles checkpoints that lie in the repository, solves a puzzle, and drives a
//! simulated robot.
//!
//! Every command is printed before it runs, in a form to repeat. Grids and episodes go to stdout, all else to stderr.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;
use serde::Deserialize;

use crate::CHECK_FAILED;
use crate::layering;
use crate::step::{CommandLine, step_command, workspace_root};

const CHECKPOINT: &str = "golden/fixtures/sudoku-text/checkpoint";
const BUILD_OPTIONS: &str = "--alg entropy --steps 16 --new-tokens 16 --max-prompt 32";
/// Row after row; 0 is an empty cell.
const PUZZLE: &str = "3014010200002001";

/// Cells of a side, and digits.
const SIDE: usize = 4;
/// Cells of a side of a box.
const BOX: usize = 2;
const MASK: char = '·';
/// Grids beside each other where they are not drawn over each other.
const FRAMES_PER_BAND: usize = 4;
const PAUSE: Duration = Duration::from_millis(150);

/// Two policies for one robot: where they lie, how they are built, and the seeds of the scenes that they are shown.
const ROBOTS: [(&str, &str, &str); 2] = [
    ("tabletop-vla", "--mode discrete --steps 1", "1000..1010"),
    ("tabletop-vla-flow", "--steps 4", "3000..3010"),
];
const ROBOT_OPTIONS: &str = "--views 1 --chunk 5 --image 112x112";
/// Of ten episodes; the policies do 99 of 100.
const ROBOT_SUCCESSES: &str = "8";

/// A model breaks the rules of the puzzle, or leaves the blocks where they are: a check did not hold.
#[derive(Debug)]
pub(crate) struct WrongAnswer(String);

impl std::error::Error for WrongAnswer {}

impl fmt::Display for WrongAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What `dreamc run --history --format json` prints, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Answer {
    sequences: Vec<Vec<i64>>,
    text: Vec<String>,
    history: Vec<Vec<Vec<i64>>>,
}

/// Runs the demo; the error is a [`WrongAnswer`] where a model does not do what it should.
pub(crate) fn run() -> Result<()> {
    let root = workspace_root()?;
    let build = CommandLine::new(BUILD);
    eprintln!("$ {build}");
    step_command("build", &build)?;
    let [program, robot] = built_programs()?.map(|path| relative(&root, &path));
    let folder = layering::metadata(&root)?.target_directory.into_std_path_buf().join("demo");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    let artifact = relative(&root, &folder.join("sudoku.dream"));

    let dreamc = |command: &str| CommandLine::program(&program).arg(command);
    show(&dreamc("build").arg(CHECKPOINT).arg("-o").arg(&artifact).args(BUILD_OPTIONS))?;
    show(&dreamc("inspect").arg(&artifact))?;
    show(&dreamc("verify").arg(&artifact))?;
    let solve = dreamc("run").arg(&artifact).arg("--raw").arg(format!("{PUZZLE}\n"));
    let solve = solve.args("--history --format json");
    eprintln!("\n$ {solve}");
    let answer = serde_json::from_str(&solve.capture()?).context("`dreamc run` printed no such JSON")?;

    let text = draw(&answer)?;
    check(PUZZLE, &text)
        .map_err(|fault| WrongAnswer(format!("`{text}` does not solve `{PUZZLE}`: {fault}")))?;
    eprintln!("\nsolved: {PUZZLE} -> {text}");

    for (fixture, options, seeds) in ROBOTS {
        let file = |ending: &str| relative(&root, &folder.join(format!("{fixture}.{ending}")));
        let build = dreamc("build").arg(format!("golden/fixtures/{fixture}/checkpoint")).arg("-o");
        show(&build.arg(file("dream")).args(options).args(ROBOT_OPTIONS))?;
        let drive = CommandLine::program(&robot).arg(file("dream")).args("--episodes").arg(seeds);
        let drive = drive.args("--threads 1 --draw --gif").arg(file("gif"));
        episodes(&drive.args("--at-least").arg(ROBOT_SUCCESSES))?;
    }
    Ok(())
}

/// Runs episodes; the example draws them itself.
fn episodes(drive: &CommandLine) -> Result<()> {
    eprintln!("\n$ {drive}");
    match drive.status()?.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(CHECK_FAILED) => {
            Err(WrongAnswer(format!("the robot misses too often in `{drive}`")).into())
        }
        _ => bail!("`{drive}` did not succeed"),
    }
}

const BUILD: &str = "cargo build --locked --package dreamc --package tabletop";

/// The command and the robot as the last `cargo build` made them.
fn built_programs() -> Result<[PathBuf; 2]> {
    let list = CommandLine::new(BUILD).args("--quiet --message-format json").capture()?;
    let mut programs = BTreeMap::new();
    for message in Message::parse_stream(list.as_bytes()) {
        if let Message::CompilerArtifact(artifact) = message.context("`cargo build` printed no such JSON")?
            && let Some(program) = artifact.executable
        {
            programs.insert(artifact.target.name, program.into_std_path_buf());
        }
    }
    match (programs.remove("dreamc"), programs.remove("tabletop")) {
        (Some(dreamc), Some(tabletop)) => Ok([dreamc, tabletop]),
        _ => bail!("`cargo build` made no programs `dreamc` and `tabletop`"),
    }
}

/// `path` as seen from the workspace root, where commands run; as it is where it lies elsewhere.
fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

/// Runs a command; what it prints goes to stderr, since stdout is for the grids.
fn show(command: &CommandLine) -> Result<()> {
    eprintln!("\n$ {command}");
    eprint!("{}", command.capture()?);
    Ok(())
}

/// Draws the canvas after every step and gives the answer: over each other with pauses on a terminal, else beside
/// each other.
fn draw(answer: &Answer) -> Result<String> {
    let ([row], [text]) = (&answer.sequences[..], &answer.text[..]) else {
        bail!("`dreamc run` gave other than one answer")
    };
    let digits: Vec<char> = text.chars().collect();
    let start = row.len().checked_sub(SIDE * SIDE).context("the answer is shorter than the grid")?;
    if digits.len() != SIDE * SIDE {
        return Ok(text.clone());
    }
    // Whatever the answer has no spelling for was a mask: what is committed stays.
    let spelling: BTreeMap<i64, char> = row[start..].iter().copied().zip(digits).collect();
    let grids: Vec<Vec<Option<char>>> = answer
        .history
        .iter()
        .map(|rows| rows.iter().flat_map(|row| row.iter().skip(start)))
        .map(|slots| slots.map(|id| spelling.get(id).copied()).collect())
        .collect();

    let mut out = std::io::stdout().lock();
    let terminal = out.is_terminal();
    let masks = vec![None; SIDE * SIDE];
    let before = std::iter::once(&masks).chain(&grids);
    let frames: Vec<Vec<String>> = (1..)
        .zip(before.zip(&grids))
        .map(|(step, (old, new))| frame(&format!("step {step}/{}", grids.len()), old, new, terminal))
        .collect();
    let given: Vec<Option<char>> = PUZZLE.chars().map(|digit| (digit != '0').then_some(digit)).collect();
    writeln!(out, "\n{}\n", frame("puzzle", &given, &given, terminal).join("\n"))?;
    if terminal {
        for (at, frame) in frames.iter().enumerate() {
            if at > 0 {
                write!(out, "\x1b[{}A", frame.len())?;
            }
            writeln!(out, "{}", frame.join("\n"))?;
            out.flush()?;
            std::thread::sleep(PAUSE);
        }
    } else {
        for band in frames.chunks(FRAMES_PER_BAND) {
            for line in 0..band[0].len() {
                let parts: Vec<String> = band.iter().map(|frame| format!("{:<14}", frame[line])).collect();
                writeln!(out, "{}", parts.concat().trim_end())?;
            }
            writeln!(out)?;
        }
    }
    Ok(text.clone())
}

/// A title and a grid, line by line. Digits that `old` does not have stand out where `colour` is allowed.
fn frame(title: &str, old: &[Option<char>], new: &[Option<char>], colour: bool) -> Vec<String> {
    let digit = |grid: &[Option<char>], at: usize| grid.get(at).copied().flatten();
    let cell = |at: usize| match (digit(old, at), digit(new, at)) {
        (_, None) => MASK.to_string(),
        (None, Some(digit)) if colour => format!("\x1b[1;32m{digit}\x1b[0m"),
        (_, Some(digit)) => digit.to_string(),
    };
    let mut lines = vec![title.to_owned()];
    for row in 0..SIDE {
        if row == BOX {
            lines.push("────┼────".to_owned());
        }
        let half =
            |start: usize| (0..BOX).map(|i| cell(row * SIDE + start + i)).collect::<Vec<_>>().join(" ");
        lines.push(format!("{} │ {}", half(0), half(BOX)));
    }
    lines
}

/// Whether `answer` solves `puzzle`: it keeps what was given, and every row, column and box has every digit.
fn check(puzzle: &str, answer: &str) -> Result<(), String> {
    let (given, cells): (Vec<char>, Vec<char>) = (puzzle.chars().collect(), answer.chars().collect());
    if given.len() != SIDE * SIDE || cells.len() != SIDE * SIDE {
        return Err(format!("it has {} cells, not {}", cells.len(), SIDE * SIDE));
    }
    if let Some(at) = (0..SIDE * SIDE).find(|at| given[*at] != '0' && given[*at] != cells[*at]) {
        return Err(format!("row {}, column {} was given as {}", at / SIDE + 1, at % SIDE + 1, given[at]));
    }
    for unit in 0..SIDE {
        let (top, left) = (unit / BOX * BOX, unit % BOX * BOX);
        let row: Vec<usize> = (0..SIDE).map(|i| unit * SIDE + i).collect();
        let column = (0..SIDE).map(|i| i * SIDE + unit).collect();
        let square = (0..SIDE).map(|i| (top + i / BOX) * SIDE + left + i % BOX).collect();
        for (name, places) in [("row", row), ("column", column), ("box", square)] {
            if let Some(missing) = ('1'..='4').find(|digit| places.iter().all(|at| cells[*at] != *digit)) {
                return Err(format!("{name} {} has no {missing}", unit + 1));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str) -> Vec<Option<char>> {
        text.chars().map(|c| (c != MASK).then_some(c)).collect()
    }

    #[test]
    fn frame_shows_masks_and_boxes() {
        let lines = frame("step 3/16", &grid("················"), &grid("3·14·1·2····2··1"), false);
        assert_eq!(lines, ["step 3/16", "3 · │ 1 4", "· 1 │ · 2", "────┼────", "· · │ · ·", "2 · │ · 1"]);
    }

    #[test]
    fn frame_marks_what_is_new() {
        let lines = frame("", &grid("3···············"), &grid("32··············"), true);
        assert_eq!(lines[1], "3 \x1b[1;32m2\x1b[0m │ · ·");
    }

    #[test]
    fn solution_is_accepted() {
        assert_eq!(check(PUZZLE, "3214413214232341"), Ok(()));
    }

    #[test]
    fn wrong_answers_are_named() {
        let fault = |answer: &str| check(PUZZLE, answer).unwrap_err();
        assert_eq!(fault("321441321423234"), "it has 15 cells, not 16");
        assert_eq!(fault("2314413214232341"), "row 1, column 1 was given as 3");
        assert_eq!(fault("3314413214232341"), "row 1 has no 2");
        // Rows are right, columns are not.
        assert_eq!(check("0000000000000000", "1234123412341234"), Err("column 1 has no 2".to_owned()));
        // Rows and columns are right, boxes are not.
        assert_eq!(check("0000000000000000", "1234234134124123"), Err("box 1 has no 4".to_owned()));
    }
}

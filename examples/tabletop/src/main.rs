//! `tabletop`: episodes of the simulated robot, driven by an artifact that `dreamc build` wrote.
//!
//! Results go to stdout, everything else to stderr. Exit codes as those of `dreamc`: 0 fine, 1 something failed, 2 wrong
//! usage, 3 fewer successes than `--at-least`.

mod noise;

use anyhow::{Context, Result};
use clap::Parser;
use dream::{OpenOptions, Policy};
use noise::Noise;
use serde::Serialize;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tabletop::film::Film;
use tabletop::robot::Ran;
use tabletop::strip::strip;
use tabletop::{Robot, Scene};
use tempfile::NamedTempFile;

/// Runs episodes of a robot that picks up the block that is named, closed loop: frame, policy, actions, next frame.
///
/// An episode ends when the gripper closes, or after 6 queries. It is a success if the gripper closed within 6 pixels
/// of the block's centre.
#[derive(Debug, Parser)]
#[command(name = "tabletop", version)]
struct Args {
    /// Artifact that `dreamc build` wrote from one of golden/fixtures/tabletop-vla*
    policy: PathBuf,
    /// Seeds of the scenes; the last is not included
    #[arg(long, value_name = "FROM..TO", default_value = "1000..1010", value_parser = seeds)]
    episodes: Range<u64>,
    /// Write the episodes as an animated GIF
    #[arg(long, value_name = "FILE.gif")]
    gif: Option<PathBuf>,
    /// Draw the first episode as text, before the results
    #[arg(long)]
    draw: bool,
    /// Noise that a flow starts from, a tensor `episode_noise` [episodes, 6, chunk, 7] [default: the runtime's own of the
    /// seed 6 * episode + query]
    #[arg(long, value_name = "FILE.safetensors")]
    noise: Option<PathBuf>,
    /// Number of threads; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u16,
    /// Exit with 3 if fewer episodes succeed
    #[arg(long, value_name = "N", default_value_t = 0)]
    at_least: usize,
    /// How to print: text, or a line of JSON for each episode and one for all
    #[arg(long, value_name = "F", value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// Most episodes of a run.
const EPISODES_MAX: u64 = 1_000_000;

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = text.split_once("..").and_then(|(from, to)| Some(number(from)?..number(to)?));
    let range = range.ok_or("give two seeds, as in 1000..1010; the last is not included")?;
    if range.is_empty() {
        return Err(format!(
            "there is no seed in it; {}..{} is one episode",
            range.start,
            range.start.saturating_add(1)
        ));
    }
    if range.end - range.start > EPISODES_MAX {
        return Err(format!("these are more than {EPISODES_MAX} episodes"));
    }
    Ok(range)
}

/// An episode as `--format json` prints it.
#[derive(Serialize)]
struct Episode {
    seed: u64,
    instruction: String,
    success: bool,
    closed: bool,
    actions: usize,
    error_px: i32,
    ms_per_query: f64,
}

/// All episodes.
#[derive(Serialize)]
struct Totals {
    episodes: usize,
    success: usize,
    within_2px: usize,
    ms_per_query: f64,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // When the terminal is gone there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    if args.draw && args.format == Format::Json {
        eprintln!("error: --draw is text; leave it out with --format json");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(success) if success < args.at_least => {
            eprintln!("error: {success} episodes succeeded, fewer than {}", args.at_least);
            ExitCode::from(3)
        }
        Ok(_) => ExitCode::SUCCESS,
        // Nobody reads on, as behind `head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// Runs all episodes and gives the number of successes.
fn run(args: &Args) -> Result<usize> {
    let options = OpenOptions { threads: args.threads.into(), ..OpenOptions::default() };
    let mut robot = Robot::new(Policy::open(&args.policy, &options)?)?;
    let chunk = robot.settings().chunk as usize;
    let episodes = (args.episodes.end - args.episodes.start) as usize;
    let noise = args.noise.as_deref().map(|path| Noise::read(path, episodes, chunk)).transpose()?;
    let mode = robot.settings().mode.name();
    let manifest = robot.policy().manifest();
    eprintln!(
        "{}: mode {mode}, chunk {chunk}, steps {}, {}",
        args.policy.display(),
        manifest.model.steps,
        manifest.options.get("dtype").map_or("", String::as_str),
    );
    let mut movie = args.gif.as_deref().map(Movie::new).transpose()?;
    let mut report = Report::new(args.format);
    let mut queries = Vec::new();
    let mut totals = Totals { episodes, success: 0, within_2px: 0, ms_per_query: 0.0 };
    for (at, seed) in args.episodes.clone().enumerate() {
        report.progress(at, episodes);
        let mut scenes = Vec::new();
        let noise = noise.as_ref().map(|noise| noise.of_episode(at));
        let ran = robot.episode(seed, noise, |scene| scenes.push(scene.clone()))?;
        let outcome = &ran.outcome;
        if let Some(movie) = &mut movie {
            movie.episode(&scenes, outcome.success)?;
        }
        if args.draw && at == 0 {
            let instruction = scenes[0].instruction();
            let pictures = strip(&scenes, outcome, std::io::stdout().is_terminal());
            report.print(&format!("seed {seed}: {instruction}\n\n{pictures}\n"))?;
        }
        totals.success += usize::from(outcome.success);
        totals.within_2px += usize::from(outcome.is_exact());
        report.episode(&episode(seed, &scenes[0], &ran))?;
        queries.extend(ran.queries);
    }
    totals.ms_per_query = median_ms(queries);
    report.totals(&totals)?;
    movie.map(Movie::finish).transpose()?;
    Ok(totals.success)
}

fn episode(seed: u64, scene: &Scene, ran: &Ran) -> Episode {
    let outcome = &ran.outcome;
    Episode {
        seed,
        instruction: scene.instruction(),
        success: outcome.success,
        closed: outcome.closed,
        actions: outcome.actions,
        error_px: outcome.error_px,
        ms_per_query: median_ms(ran.queries.clone()),
    }
}

/// The median, in milliseconds with three decimals.
fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median.as_secs_f64() * 1e6).round() / 1e3
}

/// What is printed.
struct Report {
    format: Format,
    header: bool,
    /// Whether stderr shows a line that counts; stdout shows the episodes themselves where it is a terminal.
    counts: bool,
}

impl Report {
    fn new(format: Format) -> Report {
        let counts = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        Report { format, header: true, counts }
    }

    fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    fn progress(&self, at: usize, episodes: usize) {
        if self.counts {
            eprint!("\repisode {} of {episodes}{}", at + 1, if at + 1 == episodes { "\n" } else { "" });
        }
    }

    fn episode(&mut self, it: &Episode) -> Result<()> {
        if self.format == Format::Json {
            return self.print(&(serde_json::to_string(it)? + "\n"));
        }
        if std::mem::take(&mut self.header) {
            self.print("seed    instruction              success  actions  error_px  ms/query\n")?;
        }
        let Episode { seed, instruction, actions, error_px, ms_per_query, .. } = it;
        let success = if it.success { "yes" } else { "no" };
        self.print(&format!(
            "{seed:<6}  {instruction:<23}  {success:<7}  {actions:>7}  {error_px:>8}  {ms_per_query:>8.1}\n"
        ))
    }

    fn totals(&self, it: &Totals) -> Result<()> {
        if self.format == Format::Json {
            return self.print(&(serde_json::to_string(it)? + "\n"));
        }
        let Totals { episodes, success, within_2px, ms_per_query } = it;
        self.print(&format!(
            "success {success} of {episodes}, within 2 px {within_2px} of {episodes}, {ms_per_query:.1} ms a query\n"
        ))
    }
}

/// A GIF under a temporary name, which it loses only when it is complete.
struct Movie<'a> {
    path: &'a Path,
    film: Film<BufWriter<NamedTempFile>>,
}

impl<'a> Movie<'a> {
    fn new(path: &'a Path) -> Result<Movie<'a>> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tabletop-").suffix(".partial");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file: the process's mask takes away what the user does not want.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).with_context(|| cannot_write(path))?;
        let film = Film::new(BufWriter::new(file)).with_context(|| cannot_write(path))?;
        Ok(Movie { path, film })
    }

    fn episode(&mut self, scenes: &[Scene], success: bool) -> Result<()> {
        let frames: Vec<Vec<u8>> = scenes.iter().map(Scene::frame).collect();
        self.film.episode(&frames, success).with_context(|| cannot_write(self.path))
    }

    fn finish(self) -> Result<()> {
        let file = self.film.finish().with_context(|| cannot_write(self.path))?;
        let file = file.into_inner().map_err(|e| e.into_error()).with_context(|| cannot_write(self.path))?;
        file.persist(self.path).map_err(|e| e.error).with_context(|| cannot_write(self.path))?;
        eprintln!("wrote `{}`", self.path.display());
        Ok(())
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write `{}`; check that the folder exists and has room", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn seeds_are_a_range() {
        assert_eq!(seeds("1000..1010"), Ok(1000..1010));
        for (wrong, says) in [("1000", "1000..1010"), ("a..b", "two seeds"), ("..", "two"), ("5..5", "5..6")]
        {
            let error = seeds(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
        assert!(seeds("0..9999999").is_err());
        assert!(seeds("18446744073709551615..0").is_err());
    }

    #[test]
    fn median_of_times() {
        let ms = |list: &[u64]| median_ms(list.iter().map(|n| Duration::from_millis(*n)).collect());
        assert_eq!(ms(&[]), 0.0);
        assert_eq!(ms(&[9, 1, 2]), 2.0);
    }
}

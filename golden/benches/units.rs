//! Units of work beside other runtimes: layers and generations of made-up models.
//!
//! | unit | what |
//! |---|---|
//! | M1 | one matmul, `[512x3584] x [3584x18944]`; the bench `matmul` of `dreamc-device-cpu` measures it |
//! | U1 | one layer of the 7B width, 512 rows |
//! | U2 | four such layers and the head on the last 64 of 320 rows, greedy, one step |
//! | U3x1, U3x8 | the model `small`, 128 tokens after 128 by entropy, in 1 and 8 steps |
//!
//! `cargo bench -p dreamc-golden --bench units -- U1 bf16` prints one line, `dreamc U1 bf16 seconds megabytes`: the median
//! of some calls and the most memory that the process held. The artifact is built by one process and run by another,
//! so that building is no part of either.
//!
//! With `--beside-load` another process keeps one core busy all the while, as a camera, a planner or a server may.
//!
//! With `--beside COMMAND`, any number of them, whatever prints such lines takes turns with us, `--rounds` times, and the
//! figure is the median of the ratios of a round. With `--ours COMMAND` that command measures us. `DREAM_BLESS=1` adds the
//! rounds to `benches/results/units-*.json` and makes the table of all results anew.

#![allow(clippy::print_stdout, reason = "the lines are what it is for")]

mod common;
#[path = "common/table.rs"]
mod table;

use common::{BLESS, commit, processor, quartiles};
use dream::{Forward, Generate, Model, OpenOptions};
use dreamc::compile::{Bits, BuildOptions, Entry, Keep, Quantization};
use dreamc_frontend::Variant;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::synth::{Size, Synth, synth};
use dreamc_golden::runners::{Built, build_options};
use dreamc_num::DType;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

/// Calls that count, after one that does not.
const CALLS: usize = 5;
const THREADS: usize = 2;
const ROUNDS: usize = 5;

/// What to measure.
struct Unit {
    name: &'static str,
    size: Size,
    entry: Entry,
    prompt: u32,
    tokens: u32,
    steps: u32,
}

const UNITS: [Unit; 4] = [
    Unit { name: "U1", size: Size::SevenBLayer, entry: Entry::Forward, prompt: 512, tokens: 1, steps: 1 },
    Unit { name: "U2", size: Size::SevenBQuarter, entry: Entry::Generate, prompt: 256, tokens: 64, steps: 1 },
    Unit { name: "U3x1", size: Size::Small, entry: Entry::Generate, prompt: 128, tokens: 128, steps: 1 },
    Unit { name: "U3x8", size: Size::Small, entry: Entry::Generate, prompt: 128, tokens: 128, steps: 8 },
];

impl Unit {
    fn build(&self, dtype: &str) -> Built {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let what = Synth { variant: Variant::Text, size: self.size, seed: 1, head: None };
        synth(&what, folder.path(), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let few = |bits, keep| Some(Quantization { keep, ..Quantization::new(bits) });
        let (dtype, quant) = match dtype {
            "f32" => (DType::F32, None),
            "bf16" => (DType::BF16, None),
            "w8a8" => (DType::BF16, few(Bits::W8A8, Keep::Rule)),
            "w8a8-keep-none" => (DType::BF16, few(Bits::W8A8, Keep::Nothing)),
            "w4a16" => (DType::BF16, few(Bits::W4A16, Keep::Rule)),
            other => panic!("`{other}` is no type; there are f32, bf16, w8a8, w8a8-keep-none and w4a16"),
        };
        Built::new(&BuildOptions {
            dtype,
            quant,
            steps: self.steps,
            alg: Alg::Entropy,
            new_tokens: self.tokens,
            max_prompt: self.prompt,
            max_batch: 1,
            entries: vec![self.entry],
            ..build_options(folder.path())
        })
    }

    /// Seconds of each call.
    fn measure(&self, artifact: &Path) -> Vec<f64> {
        let options = OpenOptions { threads: THREADS, ..OpenOptions::default() };
        let mut model = Model::open(artifact, &options).unwrap_or_else(|e| panic!("{e}"));
        let ids: Vec<i32> = (0..self.prompt as i32).map(|i| i * 37 % 499).collect();
        let mut call = || match self.entry {
            Entry::Forward => {
                let request = Forward { input_ids: vec![ids.clone()], ..Forward::default() };
                model.forward(&request, &[]).map(|_| ())
            }
            _ => {
                let request = Generate { prompt: vec![ids.clone()], ..Generate::default() };
                model.generate(&request, &mut |_, _| true).map(|_| ())
            }
        };
        let mut timed = || {
            let start = Instant::now();
            call().unwrap_or_else(|e| panic!("{e}"));
            start.elapsed().as_secs_f64()
        };
        timed();
        (0..CALLS).map(|_| timed()).collect()
    }
}

/// The most memory that this process held, in megabytes; none where the system does not tell.
fn peak_megabytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

/// `name unit dtype seconds megabytes`, as a process of its own printed it.
struct Line {
    name: String,
    dtype: String,
    seconds: f64,
    megabytes: f64,
}

impl Line {
    fn of(command: &mut Command) -> Line {
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let (name, _unit, dtype) = (words.next()?, words.next()?, words.next()?);
            let (seconds, megabytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Line { name: name.to_owned(), dtype: dtype.to_owned(), seconds, megabytes })
        });
        line.unwrap_or_else(|| {
            panic!("{command:?} printed no line `name unit dtype seconds megabytes`: {text}")
        })
    }
}

/// Who measures us: another command, or this program with an artifact that is there as long as this is.
enum Ours {
    Command(String),
    Artifact(Built),
}

impl Ours {
    fn line(&self, unit: &str, dtype: &str) -> Line {
        match self {
            Ours::Command(command) => Line::of(Command::new("sh").args(["-c", command])),
            Ours::Artifact(built) => {
                let this = std::env::current_exe().expect("this program has a path");
                Line::of(Command::new(this).args(["--measure", unit, dtype]).arg(built.path()))
            }
        }
    }
}

fn beside(unit: &str, dtype: &str, ours: &Ours, commands: &[String], rounds: usize) -> Value {
    let mut turns: Vec<Vec<Line>> = (0..=commands.len()).map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        turns[0].push(ours.line(unit, dtype));
        for (command, lines) in commands.iter().zip(&mut turns[1..]) {
            lines.push(Line::of(Command::new("sh").args(["-c", command])));
        }
    }
    let row = |lines: &Vec<Line>| {
        let ratios =
            lines.iter().zip(&turns[0]).map(|(theirs, ours)| theirs.seconds / ours.seconds).collect();
        let (name, dtype) = (&lines[0].name, &lines[0].dtype);
        let seconds: Vec<f64> = lines.iter().map(|line| line.seconds).collect();
        let megabytes = lines.iter().map(|line| line.megabytes).fold(0.0, f64::max);
        let ratio = quartiles(ratios);
        let median = quartiles(seconds.clone())[1];
        println!("{unit} {name} {dtype} {median:.4} s {megabytes:.0} MB, {:.3} times ours", ratio[1]);
        json!({
            "name": name, "dtype": dtype, "seconds": seconds, "megabytes_max": megabytes,
            "times_ours_quartiles": ratio,
        })
    };
    json!({ "unit": unit, "dtype": dtype, "rows": turns.iter().map(row).collect::<Vec<_>>() })
}

/// A process that does nothing, as fast as it can.
struct Load(Child);

impl Load {
    fn start() -> Load {
        let this = std::env::current_exe().expect("this program has a path");
        Load(Command::new(this).arg("--spin").spawn().expect("another process can be started"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let unit = |name: &str| {
        let found = UNITS.into_iter().find(|unit| unit.name == name);
        found.unwrap_or_else(|| panic!("`{name}` is no unit; there are U1, U2, U3x1 and U3x8"))
    };
    if let [flag, name, dtype, file] = args.as_slice()
        && flag == "--measure"
    {
        let seconds = quartiles(unit(name).measure(Path::new(file)))[1];
        println!("dreamc {name} {dtype} {seconds:.4} {}", peak_megabytes().unwrap_or(0));
        return;
    }
    if args == ["--spin"] {
        loop {
            std::hint::spin_loop();
        }
    }
    // `cargo test --benches` asks whether the bench starts; `cargo bench` measures.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let (mut words, mut commands, mut ours, mut rounds, mut load) =
        (Vec::new(), Vec::new(), None, ROUNDS, false);
    let mut rest = args.iter().filter(|arg| *arg != "--bench");
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().unwrap_or_else(|| panic!("{arg} takes a value")).clone();
        match arg.as_str() {
            "--beside" => commands.push(value()),
            "--ours" => ours = Some(Ours::Command(value())),
            "--beside-load" => load = true,
            "--rounds" => rounds = value().parse().expect("--rounds takes a number"),
            _ => words.push(arg.as_str()),
        }
    }
    let _load = load.then(Load::start);
    let [name, dtype] = words[..] else { panic!("give a unit and a type, such as `U1 bf16`") };
    let commit = commit();
    let ours = ours.unwrap_or_else(|| Ours::Artifact(unit(name).build(dtype)));
    let mut found = beside(name, dtype, &ours, &commands, rounds.max(1));
    let name = if load { format!("{name} beside load") } else { name.to_owned() };
    found["unit"] = json!(name);
    if std::env::var_os(BLESS).is_none() {
        return;
    }
    let (device, slug) = processor();
    let file = table::folder().join(format!("units-{slug}.json"));
    let mut all: Value = match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).expect("the results so far are JSON"),
        Err(_) => json!({
            "bench": "units",
            "device": device,
            "threads": THREADS,
            "statistic": format!("quartiles of the ratios of rounds run in turns; each the median of {CALLS} calls after a warm-up"),
            "units": {},
        }),
    };
    found["commit"] = json!(commit);
    all["units"][format!("{name} {dtype}")] = found;
    let text = serde_json::to_string_pretty(&all).expect("numbers and texts have a form") + "\n";
    std::fs::write(&file, text).expect("the results can be written");
    std::fs::write(table::file(), table::table()).expect("the table can be written");
    eprintln!("written: {} and {}", file.display(), table::file().display());
}

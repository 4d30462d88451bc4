//! Whole generations of the `small` model (bf16, 2 threads): with all passes, and without those that know the loop, beside
//! what the cost model says of the two. Stored results: `benches/results/`, written with `DREAM_BLESS=1`.
//!
//! Not on criterion: it times one function after the other, so that whatever else the machine does meanwhile is a
//! difference between them. Here the two take turns, each pair in the other order than the last, and the figure is the
//! median of the pairs' ratios. The processor's own time is measured too, as the kernel counts it for our threads: it
//! leaves out what others take.

mod common;

use common::{BLESS, commit, processor, quartiles};
use dream::{Generate, Model, OpenOptions};
use dreamc::compile::{BuildOptions, Entry};
use dreamc::cost::{self, Lengths};
use dreamc_artifact::Artifact;
use dreamc_frontend::Variant;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::synth::{Size, Synth, synth};
use dreamc_golden::runners::{Built, build_options};
use dreamc_ir::{SLOTS, parse, verify};
use dreamc_num::DType;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Passes that take work away because the schedule and the rows that are read are known.
const OF_THE_LOOP: [&str; 5] =
    ["open-slots", "drop-idle-steps", "hoist-invariants", "step-tables", "needed-rows"];
const THREADS: usize = 2;
/// How often both are opened anew, so that where a model's memory happens to lie favours neither throughout.
const ROUNDS: usize = 4;
/// Generations of both in a round, after one that does not count.
const PAIRS: usize = 6;

/// Prompts and schedules; each fills the canvas that it is built for.
const SHAPES: [Shape; 3] = [
    Shape { name: "small_128_in_8_after_128", prompt: 128, tokens: 128, steps: 8 },
    Shape { name: "small_16_in_8_after_240", prompt: 240, tokens: 16, steps: 8 },
    Shape { name: "small_16_in_1_after_240", prompt: 240, tokens: 16, steps: 1 },
];

/// A request.
struct Shape {
    name: &'static str,
    prompt: u32,
    tokens: u32,
    steps: u32,
}

impl Shape {
    fn build(&self, checkpoint: &Path, without: &[&str]) -> Built {
        Built::new(&BuildOptions {
            dtype: DType::BF16,
            steps: self.steps,
            alg: Alg::Entropy,
            new_tokens: self.tokens,
            max_prompt: self.prompt,
            max_batch: 1,
            entries: vec![Entry::Generate],
            without: without.iter().map(|name| (*name).to_owned()).collect(),
            ..build_options(checkpoint)
        })
    }

    /// FLOP of a generation, as the file's own IR says.
    fn flop(&self, built: &Built) -> u64 {
        let bytes = std::fs::read(built.path()).expect("the file can be read");
        let artifact = Artifact::open(&bytes).expect("the file is sound");
        let text = artifact.ir().and_then(|ir| std::str::from_utf8(ir).ok()).expect("the file has IR");
        let module = parse(text).expect("it parses");
        let verified = verify(&module).expect("it verifies");
        let lengths = Lengths { symbols: &[(SLOTS, self.tokens.into())], ..Lengths::default() };
        let entries = cost::entries(verified, lengths).expect("symbols have bounds");
        let entry = entries.into_iter().find(|e| e.entry == "generate");
        entry.expect("the file generates").compiled.flop
    }

    fn request(&self) -> Generate {
        let prompt = (0..self.prompt as i32).map(|i| i * 37 % 7000).collect();
        Generate { prompt: vec![prompt], ..Generate::default() }
    }
}

/// What one generation took.
#[derive(Clone, Copy)]
struct Time {
    wall_ms: f64,
    /// Of all our threads; none where the system does not tell.
    cpu_ms: Option<f64>,
}

fn timed(model: &mut Model, request: &Generate) -> (Time, u32) {
    let (start, cpu) = (Instant::now(), cpu_ms());
    let done = model.generate(request, &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
    let wall_ms = start.elapsed().as_secs_f64() * 1e3;
    let cpu_ms = cpu.zip(cpu_ms()).map(|(before, after)| after - before);
    (Time { wall_ms, cpu_ms }, done.forwards)
}

/// Time on a processor so far, of all threads of this process.
fn cpu_ms() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let of = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some(threads.map(of).sum::<Option<f64>>()? / 1e6)
}

/// Percent of the time without that is gone with all passes, pair by pair.
fn gone(pairs: &[[Time; 2]], of: impl Fn(&Time) -> Option<f64>) -> Option<[f64; 3]> {
    let each = pairs.iter().map(|[with, without]| Some(100.0 * (1.0 - of(with)? / of(without)?)));
    each.collect::<Option<Vec<f64>>>().map(quartiles)
}

fn measure(shape: &Shape, checkpoint: &Path) -> Value {
    let built = [shape.build(checkpoint, &[]), shape.build(checkpoint, &OF_THE_LOOP)];
    let [with, without] = [0, 1].map(|i| shape.flop(&built[i]));
    let model_says = 100.0 * (1.0 - with as f64 / without as f64);
    let open = |b: &Built| b.open_with(&OpenOptions { threads: THREADS, ..OpenOptions::default() });
    let request = shape.request();
    let (mut forwards, mut pairs) = ([0; 2], Vec::new());
    for _ in 0..ROUNDS {
        let mut models = [open(&built[0]), open(&built[1])];
        forwards = [0, 1].map(|i| timed(&mut models[i], &request).1);
        for pair in 0..PAIRS {
            // Neither is always the first.
            let mut times = [0, 1].map(|i| (i + pair) % 2).map(|i| (i, timed(&mut models[i], &request).0));
            times.sort_by_key(|(i, _)| *i);
            pairs.push(times.map(|(_, time)| time));
        }
    }
    let found = [
        ("wall", gone(&pairs, |t| Some(t.wall_ms)), medians(&pairs, |t| Some(t.wall_ms))),
        ("cpu", gone(&pairs, |t| t.cpu_ms), medians(&pairs, |t| t.cpu_ms)),
    ];
    eprintln!("{}: the cost model says {model_says:.1} % less with all passes", shape.name);
    for (clock, less, medians) in &found {
        if let (Some([low, median, high]), Some([with, without])) = (less, medians) {
            eprintln!(
                "  {clock} time: {median:.1} % less [{low:.1}, {high:.1}], {with:.0} ms against {without:.0} ms"
            );
        }
    }
    let rounded = |ms: f64| (ms * 1e3).round() / 1e3;
    let row = |i: usize| {
        let times = |of: &dyn Fn(&Time) -> Option<f64>| {
            pairs.iter().map(|pair| of(&pair[i]).map(rounded)).collect::<Vec<_>>()
        };
        json!({ "wall_ms": times(&|t| Some(t.wall_ms)), "cpu_ms": times(&|t| t.cpu_ms) })
    };
    let summary = |(clock, less, medians): &(&str, Option<[f64; 3]>, Option<[f64; 2]>)| {
        json!({
            "clock": clock,
            "percent_less_quartiles": less.map(|less| less.map(rounded)),
            "median_ms_with_all_passes": medians.map(|m| rounded(m[0])),
            "median_ms_without": medians.map(|m| rounded(m[1])),
        })
    };
    json!({
        "bench": shape.name,
        "shape": { "prompt": shape.prompt, "new_tokens": shape.tokens, "steps": shape.steps, "batch": 1 },
        "cost_model": { "flop_with_all_passes": with, "flop_without": without, "percent_less": rounded(model_says) },
        "forwards": { "with_all_passes": forwards[0], "without": forwards[1] },
        "results": found.iter().map(summary).collect::<Vec<_>>(),
        "pairs": { "with_all_passes": row(0), "without": row(1) },
    })
}

fn medians(pairs: &[[Time; 2]], of: impl Fn(&Time) -> Option<f64>) -> Option<[f64; 2]> {
    let median = |i: usize| {
        let times = pairs.iter().map(|pair| of(&pair[i])).collect::<Option<Vec<f64>>>()?;
        Some(quartiles(times)[1])
    };
    Some([median(0)?, median(1)?])
}

fn main() {
    // `cargo test --benches` asks whether the bench starts; `cargo bench` measures.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    // Asked first: measuring takes minutes, and the sources may change meanwhile.
    let commit = commit();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let what = Synth { variant: Variant::Text, size: Size::Small, seed: 1, head: None };
    synth(&what, folder.path(), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let results: Vec<Value> = SHAPES.iter().map(|shape| measure(shape, folder.path())).collect();
    if std::env::var_os(BLESS).is_none() {
        return;
    }
    let (device, slug) = processor();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/results/generation-{slug}.json"));
    let all = json!({
        "bench": "generation",
        "device": device,
        "model": "small, made-up weights of seed 1",
        "dtype": "bf16",
        "threads": THREADS,
        "commit": commit,
        "passes_left_out": OF_THE_LOOP,
        "statistic": format!("quartiles of the ratios of {} pairs, run in turns; both opened anew {ROUNDS} times, each time one warm-up", ROUNDS * PAIRS),
        "command": format!("{BLESS}=1 cargo bench -p dreamc-golden --bench generation"),
        "benches": results,
    });
    let text = serde_json::to_string_pretty(&all).expect("numbers and texts have a form") + "\n";
    std::fs::create_dir_all(file.parent().unwrap_or(&file)).expect("the folder can be made");
    std::fs::write(&file, text).expect("the results can be written");
    eprintln!("written: {}", file.display());
}

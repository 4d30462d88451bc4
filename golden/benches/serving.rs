//! What a server adds to `act`, by the protocols of its clients: two views of 224x224 over loopback, asked in turns with the same
//! policy in process.
//!
//! `cargo bench -p dreamc-golden --bench serving`; with `-- --python PROGRAM`, an interpreter that has `openpi-client` and
//! `json-numpy` (`cargo xtask python` makes one: `target/python/env/bin/python`), those two are asked as well. What is added is
//! the time there and back less the time that the server's model says that it took. The clients here are compiled: what a
//! client takes to pack and to read is in it. Stored results: `benches/results/`, written with `DREAM_BLESS=1`.

#![allow(clippy::print_stdout, reason = "the lines are what it is for")]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{BLESS, commit, processor, quartiles};
use dream::{ActOptions, Image, Observation, OpenOptions, Policy};
use dream_serve::{Options, Server};
use dreamc::compile::{self, BuildOptions, Entry};
use dreamc_frontend::Variant;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::synth::{Size, Synth, synth};
use dreamc_golden::runners::{Built, build_options};
use dreamc_num::DType;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

const SIDE: u32 = 224;
const TASK: &str = "pick up the block";
const THREADS: usize = 2;
/// How often all of them take turns, and the calls of each in one.
const ROUNDS: usize = 5;
const CALLS: usize = 300;
/// Calls of each that do not count.
const WARM: usize = 20;
/// A client in Python, `python FILE ADDRESS NAME CALLS`, which prints milliseconds there and back and of the model, by line.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/serving_clients.py");

fn built() -> Built {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let what = Synth { variant: Variant::Vla, size: Size::Tiny, seed: 1, head: None };
    synth(&what, folder.path(), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    Built::new(&BuildOptions {
        dtype: DType::BF16,
        alg: Alg::MaskgitPlus,
        max_prompt: 287,
        max_batch: 1,
        entries: vec![Entry::Act],
        image: Some([SIDE, SIDE]),
        act: compile::ActOptions { views: 2, ..compile::ActOptions::default() },
        ..build_options(folder.path())
    })
}

fn open() -> OpenOptions {
    OpenOptions { threads: THREADS, ..OpenOptions::default() }
}

/// Two pictures with nothing flat about them.
fn views() -> [Vec<u8>; 2] {
    let pixels = 3 * (SIDE * SIDE) as usize;
    [7, 11].map(|step| (0..pixels).map(|i| (i * step % 251) as u8).collect())
}

/// A server in a process of its own.
struct Serving {
    process: Child,
    address: String,
}

impl Serving {
    fn start(file: &Path) -> Serving {
        let this = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(this);
        let mut process =
            command.arg("--serve").arg(file).stdout(Stdio::piped()).spawn().expect("a server starts");
        let mut address = String::new();
        let said = process.stdout.as_mut().expect("it is piped");
        BufReader::new(said).read_line(&mut address).expect("it says where it listens");
        Serving { process, address: address.trim().to_owned() }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(file: &Path) {
    let listen = ([127, 0, 0, 1], 0).into();
    let server = Server::open(file, Options { listen, open: open(), ..Options::default() });
    let server = server.unwrap_or_else(|e| panic!("{e}"));
    println!("{}", server.address());
    server.run();
}

/// There and back, and the model's part.
#[derive(Clone, Copy)]
struct Took {
    whole: Duration,
    model: Duration,
}

/// openpi's protocol.
struct Openpi(WebSocket<MaybeTlsStream<TcpStream>>);

impl Openpi {
    fn new(address: &str) -> Openpi {
        let (mut socket, _) = tungstenite::connect(format!("ws://{address}/")).expect("it is answered");
        if let MaybeTlsStream::Plain(stream) = socket.get_mut() {
            stream.set_nodelay(true).expect("a socket of TCP has it");
        }
        socket.read().expect("the server speaks first");
        Openpi(socket)
    }

    fn ask(&mut self, views: &[Vec<u8>; 2]) -> Took {
        let start = Instant::now();
        let mut request = vec![0x83];
        for (name, pixels) in ["observation/image", "observation/wrist_image"].iter().zip(views) {
            text(&mut request, name);
            request.extend_from_slice(b"\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc6");
            request.extend_from_slice(&(pixels.len() as u32).to_be_bytes());
            request.extend_from_slice(pixels);
            request.extend_from_slice(b"\xc4\x05dtype\xa3|u1\xc4\x05shape\x93\xcc\xe0\xcc\xe0\x03");
        }
        text(&mut request, "prompt");
        text(&mut request, TASK);
        self.0.send(Message::Binary(request.into())).expect("it is read");
        let answer = self.0.read().expect("there is an answer").into_data();
        let whole = start.elapsed();
        // The first is the policy's: a float of eight bytes behind its name.
        let name = b"infer_ms\xcb";
        let at = answer.windows(name.len()).position(|part| part == name).expect("it says how long it took");
        let bytes = answer[at + name.len()..].first_chunk().expect("a float has eight bytes");
        Took { whole, model: Duration::from_secs_f64(f64::from_be_bytes(*bytes) / 1e3) }
    }
}

fn text(request: &mut Vec<u8>, text: &str) {
    request.push(0xa0 | text.len() as u8);
    request.extend_from_slice(text.as_bytes());
}

/// OpenVLA-OFT's, in json-numpy.
struct Act(BufReader<TcpStream>);

impl Act {
    fn new(address: &str) -> Act {
        let stream = TcpStream::connect(address).expect("it is answered");
        stream.set_nodelay(true).expect("a socket of TCP has it");
        Act(BufReader::new(stream))
    }

    fn ask(&mut self, views: &[Vec<u8>; 2]) -> Took {
        let start = Instant::now();
        let [first, wrist] = views.each_ref().map(|pixels| {
            format!(
                r#"{{"__numpy__": "{}", "dtype": "|u1", "shape": [{SIDE}, {SIDE}, 3]}}"#,
                STANDARD.encode(pixels)
            )
        });
        let body = format!(r#"{{"full_image": {first}, "wrist_image": {wrist}, "instruction": "{TASK}"}}"#);
        let head = format!(
            "POST /act HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all((head + &body).as_bytes()).expect("it is read");
        let (mut length, mut model) = (0, None);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("there is an answer");
            let line = line.trim();
            if line.is_empty() {
                break;
            }
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            }
            if let Some(value) = lower.strip_prefix("server-timing: model;dur=") {
                let ms = value.split([',', ';']).next().and_then(|ms| ms.parse::<f64>().ok());
                model = ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).expect("all of it comes");
        let whole = start.elapsed();
        Took { whole, model: model.expect("it says how long it took") }
    }
}

/// Clients in Python, in one process for all calls of a round.
fn in_python(python: &str, address: &str, name: &str) -> Vec<Took> {
    // As it is seen from the workspace, where `cargo` was called.
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(python);
    let output = Command::new(&python).args([SCRIPT, address, name, &(WARM + CALLS).to_string()]).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}", python.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<f64>());
        let mut next = || Duration::from_secs_f64(numbers.next().expect("a number").expect("a number") / 1e3);
        Took { whole: next(), model: next() }
    };
    String::from_utf8_lossy(&output.stdout).lines().map(line).skip(WARM).collect()
}

/// Of sorted numbers.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted
        .get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

fn row(name: &str, took: &[Took]) -> Value {
    let sorted = |of: &dyn Fn(&Took) -> f64| {
        let mut list: Vec<f64> = took.iter().map(of).collect();
        list.sort_by(f64::total_cmp);
        list
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let added = sorted(&|took| ms(took.whole) - ms(took.model));
    let whole = sorted(&|took| ms(took.whole));
    let [p50, p99] = [0.5, 0.99].map(|part| quantile(&added, part));
    println!(
        "{name}: adds {p50:.3} ms, at most {p99:.3} ms in 99 of 100; {:.3} ms in all",
        quantile(&whole, 0.5)
    );
    json!({
        "client": name, "calls": took.len(),
        "added_ms": {"p50": p50, "p99": p99, "max": added.last()},
        "there_and_back_ms": {"p50": quantile(&whole, 0.5), "p99": quantile(&whole, 0.99)},
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, file] = args.as_slice()
        && flag == "--serve"
    {
        return serve(Path::new(file));
    }
    // `cargo test --benches` asks whether the bench starts; `cargo bench` measures.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let python = args.iter().position(|arg| arg == "--python").and_then(|at| args.get(at + 1));
    let commit = commit();
    let built = built();
    let serving = Serving::start(&built.path());
    let views = views();
    let mut policy = Policy::open(&built.path(), &open()).unwrap_or_else(|e| panic!("{e}"));
    let images =
        views.clone().map(|pixels| Image::from_rgb8(SIDE, SIDE, pixels).unwrap_or_else(|e| panic!("{e}")));
    let mut in_process = || {
        let start = Instant::now();
        let observation = Observation { images: &images, task: TASK, proprio: None };
        policy.act(&observation, &ActOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        start.elapsed().as_secs_f64() * 1e3
    };
    let (mut openpi, mut act) = (Openpi::new(&serving.address), Act::new(&serving.address));
    let mut alone = Vec::new();
    let mut took: [Vec<Took>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for call in 0..WARM + CALLS {
            let mine = in_process();
            let turn = [openpi.ask(&views), act.ask(&views)];
            if call >= WARM {
                alone.push(mine);
                took[0].push(turn[0]);
                took[1].push(turn[1]);
            }
        }
        if let Some(python) = python {
            took[2].extend(in_python(python, &serving.address, "openpi-client"));
            took[3].extend(in_python(python, &serving.address, "json-numpy"));
        }
    }
    let alone = quartiles(alone);
    println!("in process: {:.3} ms", alone[1]);
    let names = [
        "openpi's WebSocket, compiled",
        "json-numpy over HTTP, compiled",
        "openpi-client (Python)",
        "json-numpy and requests (Python)",
    ];
    let rows = names.iter().zip(&took).filter(|(_, took)| !took.is_empty());
    let rows: Vec<Value> = rows.map(|(name, took)| row(name, took)).collect();
    if std::env::var_os(BLESS).is_none() {
        return;
    }
    let (device, slug) = processor();
    let all = json!({
        "bench": "serving",
        "device": device,
        "commit": commit,
        "threads": THREADS,
        "what": "what a server adds to `act` with two views of 224x224 over loopback: the time there and back less the model's, all asked in turns",
        "in_process_act_ms_quartiles": alone,
        "rows": rows,
    });
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(format!("serving-{slug}.json"));
    let text = serde_json::to_string_pretty(&all).expect("numbers and texts have a form") + "\n";
    std::fs::write(&file, text).expect("the results can be written");
    eprintln!("written: {}", file.display());
}

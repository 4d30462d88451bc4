//! What the 7B models take on GPUs that nobody here has, by the model of `kernels/src/model.rs`: the table in
//! `golden/gpu/model.md`, and what it must come to.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc::compile::BuildTarget;
use dreamc::estimate::{Estimated, Request, launches};
use dreamc_artifact::plan::Program;
use dreamc_backend::Constants;
use dreamc_backend_gpu::Modules;
use dreamc_device_gpu::GRAPH_NODE_COUNT_MAX;
use dreamc_frontend::module::{ACT, GENERATE};
use dreamc_frontend::synth::Size;
use dreamc_golden::shapes::{act, act_at_once, act_at_once_in_fp8, text};
use dreamc_ir::{Module, verify};
use dreamc_kernels::model::{Gpu, Launched};
use dreamc_kernels::{Engine, Float, Kernel, Linear, MatrixTile, Target};
use dreamc_num::DType;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Set to write the table instead of comparing it.
const BLESS: &str = "DREAM_BLESS";

/// Launches of a decoder layer, and of a vision block.
const LAYER_MOST: usize = 6;
const BLOCK_MOST: usize = 7;

/// A request of a 7B model in bf16, of one row.
struct Asked {
    name: &'static str,
    entry: &'static str,
    module: Module,
    /// By the names of symbols.
    lengths: &'static [(&'static str, u32)],
    images: u32,
    /// Whether it is looked at for Hopper alone.
    hopper: bool,
}

fn asked() -> Vec<Asked> {
    let (size, dtype) = (Size::SevenB, DType::BF16);
    vec![
        Asked {
            name: "actions in 1 step, 2 views, 301 positions",
            entry: ACT,
            module: act_at_once(size, dtype),
            lengths: &[("B", 1), ("S", 301), ("K", 56), ("M", 128)],
            images: 2,
            hopper: false,
        },
        Asked {
            name: "actions by a flow of 4 steps, 2 views, 301 positions",
            entry: ACT,
            module: act(size, dtype),
            lengths: &[("B", 1), ("S", 301), ("K", 8), ("M", 128)],
            images: 2,
            hopper: false,
        },
        Asked {
            name: "a step of text, 384 positions, 256 open slots",
            entry: GENERATE,
            module: text(size, dtype, 1),
            lengths: &[("B", 1), ("S", 384), ("K", 256)],
            images: 1,
            hopper: false,
        },
        Asked {
            name: "actions in fp8, in 1 step, 2 views, 301 positions",
            entry: ACT,
            module: act_at_once_in_fp8(size, dtype),
            lengths: &[("B", 1), ("S", 301), ("K", 56), ("M", 128)],
            images: 2,
            hopper: true,
        },
    ]
}

/// The plans that GPUs are looked at with: those of `--target cuda`, and Hopper's own.
const TARGETS: [(&str, &[&str]); 2] =
    [("cuda", &["a100", "rtx4090", "rtx5090", "orin"]), ("cuda:sm_90a", &["h100", "h200"])];

/// A request on a GPU.
struct Found {
    request: &'static str,
    gpu: &'static Gpu,
    target: &'static str,
    /// Names of modules.
    kernels: Vec<String>,
    launches: Vec<Estimated>,
}

impl Found {
    fn ms(&self) -> f64 {
        self.launches.iter().map(|l| l.times as f64 * l.estimate.us).sum::<f64>() / 1e3
    }

    fn floor_ms(&self) -> f64 {
        self.launches.iter().map(|l| l.times as f64 * l.estimate.floor_us).sum::<f64>() / 1e3
    }

    fn count(&self) -> u64 {
        self.launches.iter().map(|l| l.times).sum()
    }

    /// Launches that compute something of one layer, by the beginning of its path.
    fn of_layer(&self, path: &str) -> Vec<&str> {
        let of = self.launches.iter().filter(|l| l.origin.starts_with(path));
        of.map(|l| self.kernels[l.module as usize].as_str()).collect()
    }
}

/// All requests on all GPUs. What programs have in common is emitted once for a target.
fn all() -> Vec<Found> {
    let asked = asked();
    let mut all = Vec::new();
    for (target, gpus) in TARGETS {
        let built: BuildTarget = target.parse().unwrap();
        let mut modules = Modules::new(built.kernels().unwrap());
        let mut program = |asked: &Asked| {
            let verified = verify(&asked.module).unwrap_or_else(|e| panic!("{e}"));
            let (entry, mut constants) = (asked.entry, Constants::default());
            dreamc_backend_gpu::emit(verified, entry, entry, &mut constants, &mut modules)
                .unwrap_or_else(|e| panic!("{e}"))
        };
        let asked: Vec<&Asked> = asked.iter().filter(|it| target == "cuda:sm_90a" || !it.hopper).collect();
        let programs: Vec<Program> = asked.iter().map(|asked| program(asked)).collect();
        let code = modules.to_code();
        for (asked, program) in asked.iter().zip(&programs) {
            let length = |name: &str| {
                asked.lengths.iter().find(|(of, _)| *of == name).map_or(0, |(_, length)| *length)
            };
            let symbols: Vec<u32> = program.symbols.iter().map(|symbol| length(&symbol.name)).collect();
            let request = Request { symbols: &symbols, images: asked.images };
            for name in gpus {
                let gpu = Gpu::named(name).unwrap();
                let launches = launches(program, &code, gpu, request).unwrap();
                let kernels = code.modules.iter().map(|module| module.name.clone()).collect();
                all.push(Found { request: asked.name, gpu, target, kernels, launches });
            }
        }
    }
    all
}

/// What all of it comes to, and on Hopper each kernel.
fn table(all: &[Found]) -> String {
    let mut text = String::from(
        "# What the 7B models take, by a model\n\n\
         Made by `DREAM_BLESS=1 cargo test -p dreamc-golden --test model`. **Nothing here was measured**: the model of \
         `kernels/src/model.rs` goes by registers and instructions counted in the machine code, and by the makers' papers. \
         One row, in bf16 where nothing else is said, all open slots in every step; `floor` is the least that products and bytes of each launch allow.\n\n\
         | request | GPU | plan of | launches | ms | floor, ms | ms / floor |\n| --- | --- | --- | ---: | ---: | ---: | ---: |\n",
    );
    for found in all {
        let (ms, floor) = (found.ms(), found.floor_ms());
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {ms:.1} | {floor:.1} | {:.2} |",
            found.request,
            found.gpu.name,
            found.target,
            found.count(),
            ms / floor
        );
    }
    for found in all.iter().filter(|found| found.gpu.name == "h100") {
        let _ = write!(
            text,
            "\n## {}, on {}\n\n| kernel | launches | groups | waves | limiter | us | floor, us | ms in all |\n\
             | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |\n",
            found.request, found.gpu.name
        );
        let mut kernels: BTreeMap<(&str, u64), (u64, &Estimated)> = BTreeMap::new();
        for launch in &found.launches {
            let name = found.kernels[launch.module as usize].as_str();
            kernels.entry((name, launch.estimate.groups)).or_insert((0, launch)).0 += launch.times;
        }
        let mut kernels: Vec<_> = kernels.into_iter().collect();
        let in_all = |(times, launch): &(u64, &Estimated)| *times as f64 * launch.estimate.us / 1e3;
        kernels.sort_by(|a, b| in_all(&b.1).total_cmp(&in_all(&a.1)));
        for ((name, groups), entry) in kernels {
            let (times, Estimated { estimate: of, .. }) = entry;
            let _ = writeln!(
                text,
                "| `{name}` | {times} | {groups} | {:.2} | {} | {:.1} | {:.1} | {:.2} |",
                of.waves,
                of.limiter.name(),
                of.us,
                of.floor_us,
                in_all(&entry)
            );
        }
    }
    text
}

/// Attention of the decoder on Hopper: a layer of text, and how near long ones come to what products allow.
fn attention_bounds() {
    let gpu = Gpu::named("h100").unwrap();
    let of = |positions: u32| {
        gpu.estimate(&Launched {
            name: "bf16_attention_packed_h28kv4d128_matrix64x64",
            grid: [positions.div_ceil(64), 28, 1],
            units: 128,
            shared_bytes: 2 * 64 * 272,
            bytes: u64::from(positions) * 2 * (36 * 128 + 28 * 128),
            rows: 1,
            positions,
            segments: 1,
        })
    };
    assert!(of(384).us <= 20.0, "{:?}", of(384));
    assert!(of(2048).us <= 2.5 * of(2048).floor_us, "{:?}", of(2048));
}

/// Where rows are few, weights are read nearly as fast as memory gives them.
fn few_rows() {
    let (gpu, target) = (Gpu::named("h100").unwrap(), Target::named("sm_90a").unwrap());
    for (n, more, k, swiglu) in [
        (3584, [512, 512], 3584, false),
        (3584, [0; 2], 3584, false),
        (18944, [0; 2], 3584, true),
        (3584, [0; 2], 18944, false),
        (152_064, [0; 2], 3584, false),
    ] {
        // All three at once are of whole requests: of 33 to 64 positions few, and a twelfth of a layer's bytes.
        let most = if more == [0; 2] { 64 } else { 32 };
        for rows in [1, 16, 32, 48, 56, 64].into_iter().filter(|rows| *rows <= most) {
            let plain = Linear::plain(Float::BF16, n, k, Engine::Matrix(MatrixTile::FLAT));
            let linear = Linear { more, swiglu, ..plain };
            let table = linear.fitted(rows, &target);
            let (_, fitted) = table.last().unwrap();
            let Engine::Matrix(tile) = fitted.engine else { panic!("{fitted:?}") };
            let features = n + more[0] + more[1];
            let columns = features * if swiglu { 2 } else { 1 };
            let weights = u64::from(columns * k) * 2;
            let found = gpu.estimate(&Launched {
                name: &Kernel::Linear(*fitted).name(),
                grid: [rows.div_ceil(tile.rows), columns.div_ceil(tile.columns), 1],
                units: 128,
                shared_bytes: tile.shared_bytes(),
                bytes: weights + u64::from(rows * (k + features)) * 2,
                rows,
                positions: 0,
                segments: 1,
            });
            // Without the gap before a launch, and until its first bytes are there.
            let reached = weights as f64 / (found.us - 1.0 - 0.5) / (gpu.memory * 1e3);
            assert!(
                reached >= 0.85,
                "{rows} rows of {n} x {k}: {reached:.2} of the bandwidth, {found:?} {tile:?}"
            );
        }
    }
}

#[test]
fn table_and_bounds() {
    let all = all();
    let text = table(&all);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/model.md");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let on = |gpu: &str, request: &str| {
        let found = all.iter().find(|found| found.gpu.name == gpu && found.request.starts_with(request));
        found.unwrap_or_else(|| panic!("{request} on {gpu}"))
    };
    for (request, most) in [
        ("actions in 1 step", 9.5),
        ("actions by a flow", 31.0),
        ("a step of text", 9.5),
        ("actions in fp8", 7.0),
    ] {
        let ms = on("h100", request).ms();
        assert!(ms <= most, "{request} on h100: {ms:.2} ms, at most {most}");
    }
    for request in ["actions in 1 step", "actions by a flow", "a step of text"] {
        let (ms, floor) = (on("a100", request).ms(), on("a100", request).floor_ms());
        assert!(ms <= 1.7 * floor, "{request} on a100: {ms:.2} ms, the floor is {floor:.2}");
    }
    let layer = on("h100", "actions in 1 step").of_layer("model.layers.3.");
    assert!(layer.len() <= LAYER_MOST, "a decoder layer: {layer:?}");
    let block = on("h100", "actions in 1 step").of_layer("visual.blocks.3.");
    assert!(block.len() <= BLOCK_MOST, "a vision block: {block:?}");
    // Logits of greedy rows are looked at twice, and nothing is written over them.
    let sampler = |name: &str| {
        let text = on("h100", "a step of text");
        text.launches.iter().filter(|l| text.kernels[l.module as usize].contains(name)).count()
    };
    assert_eq!(["greedy_statistics", "greedy_candidates", "bisected_behind_greedy"].map(sampler), [1, 1, 1]);
    // The documented default of text, 512 steps, is recorded as a whole.
    let launches = on("h100", "a step of text").count();
    assert!(512 * (launches + 2) <= GRAPH_NODE_COUNT_MAX, "{launches} launches a step");
    attention_bounds();
    few_rows();
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is another; make it anew with DREAM_BLESS=1", path.display());
}

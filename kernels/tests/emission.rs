//! Emission itself: determinism, the block of scalars, what a target cannot do, and the sources as snapshots.

use dreamc_kernels::{
    Activation, Attention, AttentionEngine, Behind, Confidence, Elementwise, Embed, EmitError, Emitted,
    Engine, Extent, Float, Form, Greedy, Groups, Instruction, Kernel, Linear, LinearFp8, Map, MatrixTile,
    Norm, Open, Residual, Rope, RopeTable, RoundRows, Rows, Sampler, Segments, Slots, Statistic, Table,
    Target, Tile, TimestepEmbed, Weigh, Word,
};
use dreamc_num::stream::Lane;
use std::fmt::Write as _;

/// A small case of every kernel.
fn kernels() -> Vec<Kernel> {
    let float = Float::F32;
    let linear = |weights, swiglu, residual, bias| {
        let engine = Engine::Units(Tile { rows: 4, columns: 8, depth: 4, side: 1 });
        let plain = Linear::plain(float, 8, 16, engine);
        Kernel::Linear(Linear { weights, bias, swiglu, residual, ..plain })
    };
    let attention = |packed, rows| {
        Kernel::Attention(Attention {
            float,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            packed,
            rows,
            engine: AttentionEngine::Units { queries: 4, keys: 8 },
        })
    };
    let activated = |activation, residual| {
        let engine = Engine::Units(Tile { rows: 4, columns: 8, depth: 4, side: 1 });
        let plain = Linear::plain(float, 8, 16, engine);
        Kernel::Linear(Linear { bias: true, activation: Some(activation), residual, ..plain })
    };
    let maps = [
        (Map::Add, true),
        (Map::Mul, false),
        (Map::SwiGlu, false),
        (Map::Silu, true),
        (Map::Gelu, false),
        (Map::QuickGelu, false),
        (Map::Relu, false),
        (Map::Euler, true),
        (Map::Ddim, true),
    ];
    let mut all: Vec<Kernel> =
        maps.map(|(map, in_place)| Kernel::Elementwise(Elementwise { map, float, in_place })).into();
    all.extend([
        Kernel::Norm(Norm { statistic: Statistic::RootMeanSquare, x: float, y: float }),
        Kernel::Norm(Norm { statistic: Statistic::Variance, x: float, y: float }),
        Kernel::RopeTable(RopeTable),
        Kernel::Rope(Rope { float, head_dim: 16, in_place: true }),
        Kernel::Embed(Embed { table: Table::PackedBF16, y: float }),
        Kernel::Embed(Embed { table: Table::PackedF16, y: float }),
        Kernel::Rows(Rows::Copy(float)),
        Kernel::Rows(Rows::Take(float)),
        Kernel::Rows(Rows::Splice { float, in_place: false }),
        Kernel::Rows(Rows::Shift(float)),
        linear(Table::PackedBF16, false, Residual::InPlace, true),
        linear(Table::PackedBF16, true, Residual::None, false),
        linear(Table::PackedF16, false, Residual::None, true),
        linear(Table::Floats(float), false, Residual::Apart, false),
        activated(Activation::Gelu, Residual::None),
        activated(Activation::Relu, Residual::InPlace),
        attention(false, false),
        attention(true, false),
        attention(false, true),
        Kernel::TimestepEmbed(TimestepEmbed),
    ]);
    let confidences = [Confidence::Probability, Confidence::Margin, Confidence::NegativeEntropy];
    all.extend(confidences.map(|kind| Kernel::Sampler(Sampler::Confidence(kind, Behind::Nothing))));
    let on_logits = [
        Sampler::EosPenalty,
        Sampler::KeepTokens,
        Sampler::SamplingProbs(Behind::Nothing),
        Sampler::DrawToken(Behind::Nothing),
    ];
    all.extend(on_logits.map(Kernel::Sampler));
    let on_slots = [
        Slots::IsToken,
        Slots::RandomBits(Lane::Token),
        Slots::RandomBits(Lane::Slot),
        Slots::AdvanceStream,
        Slots::Commit,
        Slots::TransferCount,
        Slots::OriginSlots,
        Slots::SelectSlots,
    ];
    all.extend(on_slots.map(Kernel::Slots));
    let on_open = [
        Open::Find,
        Open::ReadRows,
        Open::Bits(Lane::Token),
        Open::Bits(Lane::Slot),
        Open::Take,
        Open::Commit,
    ];
    all.extend(on_open.map(Kernel::Open));
    all
}

/// What greedy requests need, where barriers may stand behind branches.
fn greedy() -> Vec<Kernel> {
    let groups = Groups(8);
    let looks = [
        Greedy::Statistics(groups),
        Greedy::Candidates(Confidence::Probability, groups),
        Greedy::Candidates(Confidence::Margin, groups),
        Greedy::Candidates(Confidence::NegativeEntropy, groups),
    ];
    let behind = [
        Sampler::SamplingProbs(Behind::Greedy),
        Sampler::DrawToken(Behind::Greedy),
        Sampler::Confidence(Confidence::Probability, Behind::Greedy),
        Sampler::Confidence(Confidence::Margin, Behind::Greedy),
        Sampler::Confidence(Confidence::NegativeEntropy, Behind::Greedy),
    ];
    looks.map(Kernel::Greedy).into_iter().chain(behind.map(Kernel::Sampler)).collect()
}

/// Small cases on matrix units: every epilogue, both attentions.
fn on_matrix_units() -> Vec<Kernel> {
    let case = |float, k, swiglu, residual, bias| {
        let plain = Linear::plain(float, 8, k, Engine::Matrix(SMALL));
        Linear { bias, swiglu, residual, ..plain }
    };
    let attention = |float, packed, rows| {
        let (heads, kv_heads, head_dim, engine) = (4, 2, 16, AttentionEngine::Matrix);
        Kernel::Attention(Attention { float, heads, kv_heads, head_dim, packed, rows, engine })
    };
    let weighted = case(Float::BF16, 32, false, Residual::InPlace, false);
    let linears = [
        case(Float::BF16, 32, false, Residual::InPlace, true),
        case(Float::BF16, 24, true, Residual::None, false),
        case(Float::F16, 8, false, Residual::Apart, false),
        Linear { n: 32, y: Float::F32, weighted: true, ..weighted },
        Linear { scaled: true, ..case(Float::BF16, 32, true, Residual::None, false) },
    ];
    let attentions =
        [attention(Float::BF16, true, false), attention(Float::F16, false, true), Kernel::Segments(Segments)];
    let attentions = attentions.into_iter().chain([Kernel::Weigh(Weigh { y: Float::F32 })]);
    linears.map(Kernel::Linear).into_iter().chain(attentions).collect()
}

const SMALL: MatrixTile = MatrixTile { columns: 32, ..MatrixTile::LOW };

/// Small cases of fp8.
fn in_fp8(tile: MatrixTile) -> Vec<Kernel> {
    let case = |y, k, swiglu, residual, bias| {
        let activation = None;
        Kernel::LinearFp8(LinearFp8 { y, n: 8, more: [0; 2], k, bias, swiglu, activation, residual, tile })
    };
    vec![
        Kernel::RoundRows(RoundRows { x: Float::BF16 }),
        case(Float::BF16, 64, false, Residual::InPlace, true),
        case(Float::F32, 20, true, Residual::None, false),
    ]
}

/// The same in 16 bits, for targets that have them.
fn half(kernel: &Kernel, half: Float) -> Kernel {
    let mut kernel = kernel.clone();
    match &mut kernel {
        Kernel::Elementwise(k) => k.float = half,
        Kernel::Norm(k) => k.y = half,
        Kernel::RopeTable(_)
        | Kernel::TimestepEmbed(_)
        | Kernel::Sampler(_)
        | Kernel::Greedy(_)
        | Kernel::Segments(_)
        | Kernel::Slots(_)
        | Kernel::Open(_) => (),
        Kernel::Rope(k) => k.float = half,
        Kernel::Embed(k) => (k.table, k.y) = (Table::Floats(half), half),
        Kernel::Rows(Rows::Copy(f) | Rows::Take(f) | Rows::Splice { float: f, .. } | Rows::Shift(f)) => {
            *f = half
        }
        Kernel::Linear(k) => (k.x, k.weights) = (half, Table::Floats(half)),
        Kernel::Attention(k) => k.float = half,
        Kernel::RoundRows(k) => k.x = half,
        Kernel::LinearFp8(k) => k.y = half,
        Kernel::Weigh(k) => k.y = half,
    }
    kernel
}

fn target(name: &str) -> Target {
    Target::named(name).unwrap_or_else(|| panic!("no target `{name}`"))
}

/// All that a launcher is told, in words.
fn describe(emitted: &Emitted) -> String {
    let Emitted { workgroup, shared_bytes, buffers, scalars, grid, info, .. } = emitted;
    let mut text = format!("workgroup {workgroup:?}, shared {shared_bytes} bytes\n");
    for buffer in buffers {
        let _ = writeln!(text, "buffer {}: {:?}, {:?}", buffer.name, buffer.element, buffer.access);
    }
    let extents: Vec<String> = grid
        .iter()
        .map(|extent| match extent {
            Extent::Constant(n) => n.to_string(),
            Extent::Ceil { of, per, any } => format!("{of} / {per}{}", if *any { " or any" } else { "" }),
        })
        .collect();
    let words: Vec<String> = info
        .words
        .iter()
        .map(|word| match word {
            Word::Scalar(i) => format!("{}: {:?}", scalars[*i as usize].name, scalars[*i as usize].ty),
            Word::Length(i) => format!("length of {}", buffers[*i as usize].name),
            Word::Zero => "0".to_owned(),
        })
        .collect();
    let _ = writeln!(text, "grid [{}]\ninfo [{}]", extents.join(", "), words.join(", "));
    text
}

#[test]
fn snapshots() {
    for name in ["wgsl", "sm_80", "gfx942", "metal3"] {
        for kernel in kernels() {
            snapshot(name, &kernel);
        }
    }
    for kernel in greedy().iter().chain(&on_matrix_units()) {
        snapshot("sm_80", kernel);
    }
    for kernel in in_fp8(SMALL) {
        snapshot("sm_89", &kernel);
    }
    let plain = Linear::plain(Float::BF16, 8, 64, Engine::Matrix(MatrixTile::group(8, 64, 4)));
    snapshot("sm_90a", &Kernel::Linear(plain));
    snapshot("sm_90a", &Kernel::LinearFp8(LinearFp8 { tile: MatrixTile::group(8, 64, 4), ..small_fp8() }));
}

/// In 16 bits, some that convert at every load and store, and that have most to compute between.
#[test]
fn snapshots_in_16_bits() {
    let with_bf16 = ["sm_80", "gfx942", "metal3"].map(|name| (name, &[Float::F16, Float::BF16][..]));
    for (name, floats) in with_bf16.into_iter().chain([("wgsl-f16", &[Float::F16][..])]) {
        for kernel in kernels() {
            let chosen = match &kernel {
                Kernel::Elementwise(k) => k.map == Map::Gelu,
                Kernel::Norm(k) => k.statistic == Statistic::RootMeanSquare,
                Kernel::Linear(k) => k.swiglu,
                Kernel::Attention(k) => !k.packed,
                Kernel::RopeTable(_)
                | Kernel::Rope(_)
                | Kernel::Embed(_)
                | Kernel::Rows(_)
                | Kernel::TimestepEmbed(_)
                | Kernel::Sampler(_)
                | Kernel::Greedy(_)
                | Kernel::Segments(_)
                | Kernel::Slots(_)
                | Kernel::Open(_)
                | Kernel::RoundRows(_)
                | Kernel::LinearFp8(_)
                | Kernel::Weigh(_) => false,
            };
            for float in floats.iter().filter(|_| chosen) {
                snapshot(name, &half(&kernel, *float));
            }
        }
    }
}

fn snapshot(name: &str, kernel: &Kernel) {
    let emitted = kernel.emit(&target(name)).unwrap_or_else(|e| panic!("{e}"));
    let text = format!("{}\n{}", describe(&emitted), emitted.source);
    insta::with_settings!({ snapshot_path => format!("snapshots/{name}"), prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(emitted.name, text);
    });
}

#[test]
fn the_same_bytes_twice() {
    // Targets of CUDA differ in nothing else that sources do.
    let differ = ["sm_80", "sm_89", "sm_90a"];
    let told_apart = |target: &Target| target.form() != Form::Cuda || differ.contains(&target.name());
    for target in Target::all().into_iter().filter(told_apart) {
        let matrix = if target.capabilities().matrix.is_empty() { Vec::new() } else { on_matrix_units() };
        let greedy = if Greedy::runs(&target) { greedy() } else { Vec::new() };
        let fp8 = match (target.capabilities().fp8, target.capabilities().multiplies_fp8()) {
            (true, _) => in_fp8(SMALL),
            (false, true) => in_fp8(MatrixTile::group(8, 64, 4)),
            (false, false) => Vec::new(),
        };
        for kernel in kernels().into_iter().chain(greedy).chain(matrix).chain(fp8) {
            let [a, b] = [(); 2].map(|()| kernel.emit(&target).unwrap_or_else(|e| panic!("{e}")));
            assert!(a == b, "{}\n{}\n{}", target.name(), a.source, b.source);
        }
    }
}

/// Only what multiplies OCP's e4m3 has kernels for it, and no other says anything of it in its sources.
#[test]
fn fp8_where_there_is_any() {
    let mut with = Vec::new();
    for target in Target::all() {
        let tile = if target.name() == "sm_90a" { MatrixTile::group(8, 64, 4) } else { SMALL };
        let found: Vec<_> = in_fp8(tile).iter().map(|kernel| kernel.emit(&target)).collect();
        if found.iter().all(Result::is_ok) {
            with.push(target.name().to_owned());
        } else {
            let lacks =
                |e: &EmitError| e.to_string().contains(&format!("target `{}` has no ", target.name()));
            assert!(found.iter().all(|e| e.as_ref().is_err_and(lacks)), "{}", target.name());
            let last = found.last().and_then(|e| e.as_ref().err()).map(ToString::to_string);
            assert!(last.is_some_and(|e| e.ends_with("no matrices of fp8")), "{}", target.name());
        }
    }
    assert_eq!(with, ["sm_89", "sm_90a", "sm_120", "sm_121"]);
    let [of_warps, of_groups] =
        [SMALL, MatrixTile::group(8, 64, 4)].map(|tile| Kernel::LinearFp8(LinearFp8 { tile, ..small_fp8() }));
    assert!(of_warps.emit(&target("sm_90a")).is_err() && of_groups.emit(&target("sm_89")).is_err());
    let tile = MatrixTile { depth: 64, ..MatrixTile::FLAT };
    for (wrong, reason) in [
        (LinearFp8 { tile, ..small_fp8() }, "cannot share"),
        (
            LinearFp8 { tile: MatrixTile { depth: 256, ..LinearFp8::tile(MatrixTile::WIDE) }, ..small_fp8() },
            "shared memory",
        ),
        (LinearFp8 { swiglu: true, bias: true, ..small_fp8() }, "no bias"),
        (LinearFp8 { k: 0, ..small_fp8() }, "at least 1"),
    ] {
        let error = Kernel::LinearFp8(wrong).emit(&target("sm_89")).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

fn small_fp8() -> LinearFp8 {
    let (y, residual, tile) = (Float::F32, Residual::None, MatrixTile::FLAT);
    LinearFp8 { y, n: 8, more: [0; 2], k: 64, bias: false, swiglu: false, activation: None, residual, tile }
}

#[test]
fn names_are_distinct_and_entries() {
    let mut names: Vec<String> = Vec::new();
    for kernel in kernels() {
        let emitted = kernel.emit(&target("sm_80")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(emitted.name, kernel.name());
        assert_eq!(emitted.source.matches(&format!(" {}(", emitted.name)).count(), 1, "{}", emitted.source);
        assert!(emitted.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        names.push(emitted.name);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), kernels().len());
}

/// Valid without any extension, with few enough buffers and little enough shared memory.
#[test]
fn wgsl_is_valid() {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    for (name, capabilities) in [("wgsl", Capabilities::empty()), ("wgsl-f16", Capabilities::SHADER_FLOAT16)]
    {
        let target = target(name);
        for kernel in kernels() {
            let kernel = if name == "wgsl" { kernel } else { half(&kernel, Float::F16) };
            let emitted = kernel.emit(&target).unwrap_or_else(|e| panic!("{e}"));
            let module = naga::front::wgsl::parse_str(&emitted.source)
                .unwrap_or_else(|e| panic!("{}", e.emit_to_string(&emitted.source)));
            Validator::new(ValidationFlags::all(), capabilities)
                .validate(&module)
                .unwrap_or_else(|e| panic!("{}: {e:?}\n{}", emitted.name, emitted.source));
            let limits = target.capabilities();
            assert!(emitted.buffers.len() < limits.buffers_max as usize, "{}", emitted.name);
            assert!(emitted.shared_bytes <= limits.shared_bytes, "{}", emitted.name);
            assert!(emitted.workgroup.iter().product::<u32>() <= limits.units_max, "{}", emitted.name);
        }
    }
}

/// Every target emits every kernel, in all the types that it has.
#[test]
fn all_targets() {
    for target in Target::all() {
        for kernel in kernels() {
            for (float, has) in
                [(Float::F16, target.capabilities().f16), (Float::BF16, target.capabilities().bf16)]
            {
                let kernel = half(&kernel, float);
                match kernel.emit(&target) {
                    Ok(emitted) => assert_eq!(emitted.form, target.form()),
                    Err(EmitError::Unsupported { lacks, .. }) => {
                        assert!(!has && lacks == float.name(), "{} {lacks}", target.name());
                    }
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }
}

/// Matrix units are taken where a target has them for the types, and then every shape of the models is emitted.
#[test]
fn linears_fit_their_target() {
    let (f32, bf16) = (Float::F32, Float::BF16);
    let linear = |x, stored, n, k, swiglu| {
        let (weights, engine) = (Table::Floats(stored), Engine::Units(Tile::WIDE));
        Linear { weights, y: bf16, swiglu, ..Linear::plain(x, n, k, engine) }
    };
    let engines = |linear: Linear, rows, name| -> Vec<(u32, Engine)> {
        linear.fitted(rows, &target(name)).into_iter().map(|(up_to, kernel)| (up_to, kernel.engine)).collect()
    };
    for name in ["sm_80", "sm_86", "sm_89", "sm_90a"] {
        let shapes = [(512, 3584, false), (18944, 3584, true), (3584, 18944, false), (152_064, 3584, false)];
        for (n, k, swiglu) in shapes.into_iter().chain([(1280, 1280, false), (5, 8, true)]) {
            let table = linear(bf16, bf16, n, k, swiglu).fitted(4096, &target(name));
            assert!(table.is_sorted_by(|a, b| a.0 < b.0) && table.last().is_some_and(|last| last.0 >= 4096));
            for (_, kernel) in table {
                assert!(matches!(kernel.engine, Engine::Matrix(_)), "{kernel:?}");
            }
        }
        let units = vec![(u32::MAX, Engine::Units(Tile::WIDE))];
        assert_eq!(engines(linear(f32, bf16, 64, 64, false), 64, name), units);
        // Rows that are no whole chunks.
        assert_eq!(engines(linear(bf16, bf16, 64, 60, false), 64, name), units);
    }
    let plain = linear(bf16, bf16, 3584, 3584, false);
    // What suits a request of one row does not depend on how long requests may be.
    let [few, many] = [16, 4096].map(|rows| engines(plain, rows, "sm_90a"));
    assert_eq!(few, [(16, Engine::Matrix(MatrixTile::FLAT))]);
    assert_eq!(many[0], few[0]);
    assert!(many[1].0 >= 32 && many[1].1 == Engine::Matrix(MatrixTile::LOW), "{many:?}");
    // Behind the last there is always one for more.
    let last = engines(plain, 4096, "sm_80").pop();
    assert!(matches!(last, Some((u32::MAX, Engine::Matrix(tile))) if tile.rows >= 96), "{last:?}");
    // Many rows are for warpgroups, where there are any.
    let by_groups = |(up_to, engine): &(u32, Engine)| {
        let by = matches!(engine, Engine::Matrix(tile) if tile.instruction == Instruction::Wgmma);
        assert_eq!(by, *up_to > 64, "{up_to}: {engine:?}");
    };
    many.iter().for_each(by_groups);
    for name in ["gfx942", "metal3"] {
        assert_eq!(engines(plain, 16, name), [(u32::MAX, Engine::Units(Tile::FLAT))]);
        assert_eq!(engines(plain, 17, name), [(u32::MAX, Engine::Units(Tile::WIDE))]);
    }
}

#[test]
fn targets_are_read() {
    let all = Target::all();
    let names: Vec<&str> = all.iter().map(Target::name).collect();
    assert!(names.len() == 15, "{names:?}");
    let mut hashes: Vec<[u8; 32]> = all.iter().map(Target::hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), all.len());
    let text = "name = 'x'\nform = 'hip'\narch = 'sm_80'\n";
    assert!(Target::parse(text).is_err_and(|e| e.to_string().contains("capabilities")));
    assert_eq!(Form::Cuda.to_string(), "cuda");
}

#[test]
fn what_cannot_be_is_said() {
    let kernel = Kernel::Elementwise(Elementwise { map: Map::Add, float: Float::BF16, in_place: false });
    let error = kernel.emit(&target("wgsl")).expect_err("no bf16").to_string();
    assert_eq!(error, "kernel `bf16_add_apart`: target `wgsl` has no bf16");
    let error = on_matrix_units()[0].emit(&target("metal3")).expect_err("no matrix units").to_string();
    assert!(error.ends_with("target `metal3` has no matrices of bf16 by bf16"), "{error}");
    let wide = Attention {
        float: Float::F32,
        heads: 1,
        kv_heads: 1,
        head_dim: 256,
        packed: false,
        rows: false,
        engine: AttentionEngine::Units { queries: 16, keys: 16 },
    };
    let error = Kernel::Attention(wide).emit(&target("wgsl")).expect_err("too much").to_string();
    assert!(error.contains("bytes of shared memory, the target has 16384"), "{error}");
}

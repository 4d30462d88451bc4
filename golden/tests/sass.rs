//! What NVRTC makes of the kernels on matrix units at the widths of the 7B models: the order of instructions decides
//! whether matrix units wait, and no emulation shows it.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_backend::toolchain::Search;
use dreamc_backend_cuda::Nvrtc;
use dreamc_kernels::model::{self, Counts};
use dreamc_kernels::{
    Activation, Attention, AttentionEngine, Engine, Float, Instruction, Kernel, Linear, LinearFp8,
    MatrixTile, Residual, Target, Turned,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A listing of a kernel's machine code.
struct Listing {
    /// Opcode and operands, without what they depend on.
    instructions: Vec<String>,
    /// Instruction that a label stands before.
    labels: BTreeMap<String, usize>,
}

impl Listing {
    fn parse(text: &str) -> Listing {
        let (mut instructions, mut labels) = (Vec::new(), BTreeMap::new());
        for line in text.lines().map(str::trim) {
            if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L_x_")) {
                labels.insert(label.to_owned(), instructions.len());
            }
            // `/*01a0*/  @!P0 LDG.E R0, [R2.64] ;`
            let Some((address, rest)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) else {
                continue;
            };
            let code = rest.trim().trim_end_matches(';').trim();
            let is_code = code.starts_with(|c: char| c.is_ascii_uppercase() || c == '@');
            if address.len() >= 4 && is_code {
                let code = if code.starts_with('@') { code.split_once(' ').unwrap().1.trim() } else { code };
                instructions.push(code.to_owned());
            }
        }
        Listing { instructions, labels }
    }

    fn is(&self, at: usize, opcode: &str) -> bool {
        let own = self.instructions[at].split([' ', '.']).next().unwrap_or_default();
        own == opcode
    }

    /// Of a unit.
    fn registers(&self) -> u32 {
        let number = |word: &str| {
            let digits: String = word.strip_prefix('R')?.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().ok()
        };
        let words = self.instructions.iter().flat_map(|it| it.split(|c: char| !c.is_ascii_alphanumeric()));
        words.filter_map(number).max().map_or(0, |last| last + 1)
    }

    fn count(&self, range: std::ops::RangeInclusive<usize>, opcode: &str) -> usize {
        range.filter(|at| self.is(*at, opcode)).count()
    }

    /// Instructions of matrix units.
    fn products(&self, range: std::ops::RangeInclusive<usize>) -> usize {
        ["HMMA", "QMMA", "HGMMA", "QGMMA"].map(|opcode| self.count(range.clone(), opcode)).iter().sum()
    }

    /// The shortest loop that multiplies: the one along K, or along the keys. All products, where a loop of a few steps was
    /// written out.
    fn main_loop(&self) -> std::ops::RangeInclusive<usize> {
        let back = |at: usize| {
            let to = self.instructions[at].split("`(").nth(1)?.split(')').next()?;
            let first = *self.labels.get(to).filter(|first| **first <= at && self.is(at, "BRA"))?;
            (self.products(first..=at) > 0).then_some(first..=at)
        };
        let loops = (0..self.instructions.len()).filter_map(back);
        loops.min_by_key(|range| range.end() - range.start()).unwrap_or_else(|| {
            let multiplies = |at: &usize| self.products(*at..=*at) > 0;
            let mut products = (0..self.instructions.len()).filter(multiplies);
            let first = products.next().expect("it multiplies");
            first..=products.next_back().unwrap_or(first)
        })
    }
}

fn nvdisasm() -> PathBuf {
    let found = Search::new().folders().iter().map(|it| it.join("cuda/bin/nvdisasm")).find(|it| it.is_file());
    found.expect("nvdisasm is there; `cargo xtask toolchain` installs it")
}

/// Does something with the listing of each kernel, on all processors.
fn each(kernels: &[Kernel], arch: &str, check: &(dyn Fn(&Kernel, &Listing) + Sync)) {
    let (target, nvrtc, disassembler) =
        (Target::named(arch).unwrap(), Nvrtc::find(&Search::new()).unwrap(), nvdisasm());
    let failed = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            let emitted = kernel.emit(&target).unwrap();
            let binary =
                nvrtc.compile(&emitted.name, &emitted.source, arch).unwrap_or_else(|e| panic!("{e}"));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("kernel.cubin");
            std::fs::write(&path, &binary.cubin).unwrap();
            let output = Command::new(&disassembler).arg(&path).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let listing = Listing::parse(&String::from_utf8(output.stdout).unwrap());
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(kernel, &listing)));
            if checked.is_err() {
                failed.lock().unwrap().push(emitted.name);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    assert_eq!(failed.into_inner().unwrap(), Vec::<String>::new(), "{arch}");
}

fn linear(tile: MatrixTile, n: u32, k: u32) -> Linear {
    Linear::plain(Float::BF16, n, k, Engine::Matrix(tile))
}

/// Every tile with every epilogue of the models.
fn linears() -> Vec<Kernel> {
    let forms = |tile| {
        let (in_place, apart) = (Residual::InPlace, Residual::Apart);
        [
            Linear {
                scaled: true,
                bias: true,
                more: [512, 512],
                rope: Some(Turned { heads: 32, head_dim: 128 }),
                ..linear(tile, 3584, 3584)
            },
            Linear { residual: in_place, y: Float::F32, ..linear(tile, 3584, 18944) },
            Linear { residual: in_place, y: Float::F32, weighted: true, ..linear(tile, 3584, 3584) },
            Linear { scaled: true, swiglu: true, ..linear(tile, 18944, 3584) },
            Linear { bias: true, residual: apart, y: Float::F32, ..linear(tile, 1280, 5120) },
            Linear { bias: true, activation: Some(Activation::QuickGelu), ..linear(tile, 5120, 1280) },
        ]
    };
    // Several workgroups share K, and the heads of the vision tower are no whole tiles.
    let shared =
        [(MatrixTile::WIDE, 3), (MatrixTile::WIDE, 2), (MatrixTile::HALF, 2)].map(|(tile, splits)| Linear {
            residual: Residual::InPlace,
            y: Float::F32,
            weighted: true,
            ..linear(MatrixTile { splits, ..tile }, 3584, 18944)
        });
    let rope = Some(Turned { heads: 32, head_dim: 80 });
    let vision = Linear { bias: true, rope, ..linear(MatrixTile::WIDE, 3840, 1280) };
    let all = MatrixTile::ALL.into_iter().flat_map(forms).chain(shared).chain([vision]);
    all.map(Kernel::Linear).collect()
}

/// No register goes to memory and comes back; memory is not waited for between two products, and everything that is
/// added is read before the first result is written.
fn judge(kernel: &Kernel, listing: &Listing) {
    let all = 0..=listing.instructions.len() - 1;
    assert_eq!(listing.count(all.clone(), "LDL") + listing.count(all, "STL"), 0, "spilled");
    let main = listing.main_loop();
    let products = listing.products(main.clone());
    assert!(listing.count(main.clone(), "LDGSTS") > 0, "copies are not asynchronous");
    let by_groups = match kernel {
        Kernel::Linear(Linear { engine: Engine::Matrix(tile), .. })
        | Kernel::LinearFp8(LinearFp8 { tile, .. }) => tile.instruction == Instruction::Wgmma,
        _ => false,
    };
    if by_groups {
        return judge_groups(kernel, listing);
    }
    assert!(listing.count(main.clone(), "LDSM") > 0, "fragments are loaded word by word");
    let Kernel::Linear(Linear { engine: Engine::Matrix(tile), .. }) = kernel else { return };
    // Where there is no loop, what is added may be asked for before the last products.
    let waited = if listing.is(*main.end(), "BRA") { listing.count(main.clone(), "LDG") } else { 0 };
    assert_eq!(waited, 0, "memory is waited for in the loop");
    // A step of 16 elements of 16 x 8 results a product.
    let wanted = tile.warp_rows / 16 * (tile.warp_columns / 8) * (tile.depth / 32 / tile.slices);
    assert_eq!(products % wanted as usize, 0, "{products} products where a stage has {wanted}");
    let behind = main.end() + 1..listing.instructions.len();
    let mut written = false;
    for at in behind {
        written |= listing.is(at, "STG");
        let read = listing.is(at, "LDG");
        assert!(!(written && read), "instruction {at} reads memory behind a write");
        // Every batch begins anew, and so do those who share K where all of them have come.
        written &= !(listing.is(at, "BRA") || listing.is(at, "MEMBAR"));
    }
}

/// Warpgroups multiply, a stage at once: nothing between its four instructions waits for one of them or touches the sums, and
/// memory is not waited for.
fn judge_groups(kernel: &Kernel, listing: &Listing) {
    let main = listing.main_loop();
    let (opcode, sums, sets, ways) = match kernel {
        // A workgroup goes one way of those that several weights and turned heads have.
        Kernel::Linear(Linear { engine: Engine::Matrix(tile), more, .. }) => {
            ("HGMMA", tile.rows / 2, 1, 1 + more.iter().filter(|n| **n > 0).count() as u32)
        }
        Kernel::LinearFp8(LinearFp8 { tile, .. }) => ("QGMMA", tile.rows / 2, 2, 1),
        _ => unreachable!("a matmul"),
    };
    let products: Vec<usize> = main.clone().filter(|at| listing.is(*at, opcode)).collect();
    // Of narrow tiles the compiler has written out two steps.
    assert!(matches!(products.len(), 4 | 8), "{} instructions of a step", products.len());
    assert_eq!(listing.count(main.clone(), "LDG"), 0, "memory is waited for in the loop");
    let waits = |at: &usize| listing.instructions[*at].starts_with("WARPGROUP.DEPBAR");
    for step in products.chunks(4) {
        // Only the last counts as a group: else the compiler has put them in a row (its warning C7510).
        let counted: Vec<bool> = step.iter().map(|at| listing.instructions[*at].contains("gsb0")).collect();
        assert_eq!(counted, [false, false, false, true], "each is waited for");
        let (first, last) = (step[0], step[3]);
        assert!(!(first..=last).any(|at| waits(&at)), "products are waited for between products");
        // The copies of the next stage are begun while they multiply.
        let wait = (last..=*main.end()).find(waits).expect("the products before are waited for");
        assert!(listing.count(last..=wait, "LDGSTS") > 0, "nothing is copied while they multiply");
    }
    let Counts { registers: beside, instructions } = model::GROUP;
    let registers = listing.registers();
    assert!(registers <= sums * sets + beside, "{registers} registers");
    let steps = products.len() as u32 / 4;
    let most = steps * (instructions * (1 + ways) / 2 + if sets == 2 { sums } else { 0 });
    assert!(main.clone().count() as u32 <= most, "{} instructions in the loop", main.count());
    // The loop behind has a way for rows that are no whole fours as well, one by one.
    let behind = main.end() + 1..listing.instructions.len();
    let length = |at: usize| {
        let to = listing.instructions[at].split("`(").nth(1)?.split(')').next()?;
        let first = *listing.labels.get(to).filter(|first| **first < at && listing.is(at, "BRA"))?;
        (first > *main.end()).then_some(at - first + 1)
    };
    let longest = behind.filter_map(length).max().unwrap_or(0);
    let name = kernel.name();
    let of_result = model::RESULT.iter().find(|(form, _)| name.contains(form)).map_or(0, |(_, count)| *count);
    assert!(longest <= 8 * of_result as usize + 150, "{longest} instructions for eight results");
}

/// The matmuls of the 7B models.
fn of_the_models() -> Vec<Linear> {
    let plain = |n, k| Linear::plain(Float::BF16, n, k, Engine::Matrix(MatrixTile::WIDE));
    let (in_place, y) = (Residual::InPlace, Float::F32);
    let turned = |heads, head_dim| Some(Turned { heads, head_dim });
    vec![
        Linear { scaled: true, bias: true, more: [512, 512], rope: turned(32, 128), ..plain(3584, 3584) },
        Linear { residual: in_place, y, weighted: true, ..plain(3584, 3584) },
        Linear { scaled: true, swiglu: true, ..plain(18944, 3584) },
        Linear { residual: in_place, y, weighted: true, ..plain(3584, 18944) },
        Linear { bias: true, rope: turned(32, 80), ..plain(3840, 1280) },
        Linear { bias: true, residual: in_place, y, ..plain(1280, 1280) },
        Linear { bias: true, activation: Some(Activation::QuickGelu), ..plain(5120, 1280) },
        Linear { bias: true, residual: in_place, y, ..plain(1280, 5120) },
        Linear { scaled: true, y, ..plain(152_064, 3584) },
    ]
}

/// Rows of requests: a short prompt and two views, a longer one, text, two views' patches, a batch.
const ROWS: [u32; 5] = [232, 301, 384, 512, 1024];

/// Every large matmul is by warpgroups.
#[test]
fn large_matmuls_for_hopper() {
    let target = Target::named("sm_90a").unwrap();
    let serving = |rows: u32| {
        let target = &target;
        of_the_models().into_iter().map(move |linear| {
            let table = linear.fitted(4096, target);
            table.into_iter().find(|(up_to, _)| rows <= *up_to).unwrap().1
        })
    };
    let all: BTreeSet<Kernel> = ROWS.into_iter().flat_map(serving).map(Kernel::Linear).collect();
    for kernel in &all {
        assert!(kernel.name().contains("wgmma"), "{}", kernel.name());
    }
    each(&all.into_iter().collect::<Vec<Kernel>>(), "sm_90a", &judge);
}

#[test]
fn linears_for_ampere() {
    each(&linears(), "sm_80", &judge);
}

/// Few rows are for warps there as well.
#[test]
fn linears_for_hopper() {
    let few = |kernel: &Kernel| match kernel {
        Kernel::Linear(Linear { engine: Engine::Matrix(tile), .. }) => tile.rows <= 64,
        _ => false,
    };
    let few: Vec<Kernel> = linears().into_iter().filter(few).collect();
    each(&few, "sm_90a", &judge);
}

#[test]
fn attention() {
    let attention = |heads, kv_heads, head_dim, packed: bool| {
        let (float, engine, rows) = (Float::BF16, AttentionEngine::Matrix, !packed);
        Kernel::Attention(Attention { float, heads, kv_heads, head_dim, packed, rows, engine })
    };
    let all = [attention(28, 4, 128, true), attention(28, 4, 128, false), attention(16, 16, 80, true)];
    for arch in ["sm_80", "sm_90a"] {
        each(&all, arch, &judge);
    }
}

/// The model of `kernels` goes by what is in the machine code.
#[test]
fn counts() {
    let plain = |tile| Linear { residual: Residual::InPlace, y: Float::F32, ..linear(tile, 3584, 18944) };
    let form = |tile| Linear { weighted: true, ..plain(tile) };
    let linears: Vec<Kernel> = MatrixTile::ALL.into_iter().map(form).map(Kernel::Linear).collect();
    let attentions = [(80, 16, 16), (128, 28, 4)].map(|(head_dim, heads, kv_heads)| {
        let (float, packed, rows, engine) = (Float::BF16, true, false, AttentionEngine::Matrix);
        Kernel::Attention(Attention { float, heads, kv_heads, head_dim, packed, rows, engine })
    });
    let counted = |listing: &Listing| Counts {
        registers: listing.registers(),
        instructions: listing.main_loop().count() as u32,
    };
    let kernels: Vec<Kernel> = linears.into_iter().chain(attentions).collect();
    each(&kernels, "sm_80", &|kernel, listing| {
        let kept = match kernel {
            Kernel::Linear(Linear { engine: Engine::Matrix(tile), .. }) => {
                model::LINEAR.iter().find(|(of, _)| of == tile).map(|(_, kept)| *kept)
            }
            Kernel::Attention(attention) => {
                model::ATTENTION.iter().find(|(of, _)| *of == attention.head_dim).map(|(_, kept)| *kept)
            }
            _ => None,
        };
        assert_eq!(kept, Some(counted(listing)), "kernels/src/model.rs: {}", kernel.name());
    });
}

#[test]
fn fp8() {
    let of = |tile| {
        let (bias, swiglu, activation, residual) = (false, false, None, Residual::InPlace);
        Kernel::LinearFp8(LinearFp8 {
            y: Float::F32,
            n: 3584,
            more: [0; 2],
            k: 18944,
            bias,
            swiglu,
            activation,
            residual,
            tile,
        })
    };
    each(&MatrixTile::ALL.map(LinearFp8::tile).map(of), "sm_89", &judge);
    let target = Target::named("sm_90a").unwrap();
    let Kernel::LinearFp8(linear) = of(MatrixTile::WIDE) else { unreachable!("it is one") };
    let table = linear.fitted(512, &target).into_iter().map(|(_, kernel)| Kernel::LinearFp8(kernel));
    each(&table.collect::<Vec<Kernel>>(), "sm_90a", &judge);
}

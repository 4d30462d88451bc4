//! How well plans are packed: the arena against what lives at the same time, from shapes alone.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc::compile::BuildTarget;
use dreamc_artifact::plan::Program;
use dreamc_backend::{Constants, Liveness};
use dreamc_backend_gpu::Modules;
use dreamc_frontend::module::GENERATE;
use dreamc_frontend::synth::Size;
use dreamc_golden::shapes::{LENGTH_MAX, models, text};
use dreamc_ir::{Module, verify};
use dreamc_num::DType;

/// The program of an entry for the CPU, or for a target with kernels.
fn program(module: &Module, entry: &str, modules: Option<&mut Modules>) -> Program {
    let mut constants = Constants::default();
    let verified = verify(module).unwrap_or_else(|e| panic!("{e}"));
    match modules {
        Some(modules) => dreamc_backend_gpu::emit(verified, entry, entry, &mut constants, modules),
        None => dreamc_backend_cpu::emit(verified, entry, entry, &mut constants),
    }
    .unwrap_or_else(|e| panic!("{e}"))
}

/// The arena is at most a tenth larger than what lives at the same time, and never smaller.
#[test]
fn arenas_are_packed() {
    for size in [Size::Tiny, Size::SevenB] {
        for (module, entries) in models(size, DType::BF16) {
            for target in ["cpu", "cuda:sm_80", "wgpu"] {
                let target: BuildTarget = target.parse().unwrap();
                let mut modules = target.kernels().map(Modules::new);
                for entry in &entries {
                    let program = program(&module, entry, modules.as_mut());
                    let (arena, live) = (program.arena_bytes, Liveness::of(&program).peak_bytes());
                    assert!(arena >= live, "{entry} on {target}: {arena} bytes for {live}");
                    assert!(10 * arena <= 11 * live, "{entry} on {target}: {arena} bytes for {live}");
                }
            }
        }
    }
}

/// More steps take no more memory, but for the history that is asked for.
#[test]
fn steps_cost_no_memory() {
    let arena = |steps| program(&text(Size::SevenB, DType::BF16, steps), GENERATE, None).arena_bytes;
    let row = LENGTH_MAX * DType::I32.bytes() as u64;
    assert_eq!(arena(512) - arena(8), (512 - 8) * row);
}

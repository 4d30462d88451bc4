//! The kernels of plans with the shapes of the 7B models: emitted for every target, and compiled or validated by what
//! can be had with no GPU. No weights are needed for that.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; one prints how many kernels there are")]

use dreamc::compile::BuildTarget;
use dreamc_artifact::plan::{Place, Plan, Step};
use dreamc_artifact::{place, validate};
use dreamc_backend::Constants;
use dreamc_backend::toolchain::Search;
use dreamc_backend_gpu::{Candidates, Modules};
use dreamc_frontend::synth::Size;
use dreamc_golden::shapes::models;
use dreamc_ir::verify;
use dreamc_kernels::{Capabilities, Emitted, Form};
use dreamc_num::DType;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All kernels of the models for a target. The plans pass the loader's checks.
fn emit(target: &BuildTarget, dtype: DType) -> Vec<Emitted> {
    emit_with(target, dtype, Candidates::NONE).0
}

/// The same with candidates; which of the kernels are launched without being chosen, and how many choices all programs leave.
fn emit_with(
    target: &BuildTarget,
    dtype: DType,
    candidates: Candidates,
) -> (Vec<Emitted>, BTreeSet<u32>, usize) {
    let (mut usual, mut choices) = (BTreeSet::new(), 0);
    let mut modules = Modules::new(target.kernels().unwrap()).with(candidates);
    for (module, entries) in models(Size::SevenB, dtype) {
        let mut constants = Constants::default();
        let verified = verify(&module).unwrap_or_else(|e| panic!("{e}"));
        let mut emit = |entry: &&str| {
            dreamc_backend_gpu::emit(verified, entry, entry, &mut constants, &mut modules)
                .unwrap_or_else(|e| panic!("{e}"))
        };
        let mut programs: Vec<_> = entries.iter().map(&mut emit).collect();
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        let plan = Plan { programs };
        let mut table = constants.table().unwrap();
        place(&mut table).unwrap();
        validate(&plan, &modules.to_code(), &table).unwrap_or_else(|e| panic!("{target}: {e}"));
        assert_bindings(&plan, &modules);
        let launches = plan.programs.iter().flat_map(|p| p.dispatches()).flat_map(|d| &d.launches);
        usual.extend(launches.filter(|launch| launch.is_usual()).map(|launch| launch.module));
        choices += plan.programs.iter().map(|program| program.choices().len()).sum::<usize>();
    }
    (modules.list().to_vec(), usual, choices)
}

/// Candidates travel where time is spent, on matrix units: the build takes them, and no more than that.
#[test]
fn candidates_of_7b() {
    let (kernels, usual, choices) = emit_with(&target("cuda"), DType::BF16, Candidates::HOT);
    println!("{} kernels, {} with candidates, {choices} choices", usual.len(), kernels.len());
    assert!(choices > 20, "{choices} choices");
    assert!(kernels.len() <= 3 * usual.len(), "{} kernels instead of {}", kernels.len(), usual.len());
}

/// No launch binds more than the target can: `lm_head` alone has 1.09 GB.
fn assert_bindings(plan: &Plan, modules: &Modules) {
    let max = modules.target().capabilities().binding_bytes_max;
    for program in &plan.programs {
        let maxima = program.maxima();
        let steps = program.steps.iter().flat_map(|step| match step {
            Step::Dispatch(_) => std::slice::from_ref(step),
            Step::Denoise(denoise) => &denoise.body,
        });
        for step in steps {
            let Step::Dispatch(dispatch) = step else { continue };
            for launch in &dispatch.launches {
                for binding in &launch.buffers {
                    let value = &program.values[binding.value.0 as usize];
                    let elements: u64 =
                        value.dims.iter().map(|d| u64::from(d.at(&maxima).unwrap())).product();
                    let bytes =
                        binding.part.map_or(elements * value.dtype.bytes() as u64, |(_, bytes)| bytes);
                    let kind = if matches!(value.place, Place::Weight(_)) { "weights" } else { "values" };
                    assert!(bytes <= max, "{:?}: {bytes} bytes of {kind}", dispatch.origin);
                }
            }
        }
    }
}

/// Does something with every kernel, on all cores.
fn each(kernels: &[Emitted], check: &(dyn Fn(&Emitted) + Sync)) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            check(kernel);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
}

fn target(spelling: &str) -> BuildTarget {
    spelling.parse().unwrap()
}

/// Every target has all kernels, in the type that it computes best with; twice the same.
#[test]
fn every_target() {
    let ampere = target("cuda:sm_80").kernels().unwrap().capabilities().clone();
    for target in BuildTarget::all() {
        // All GPUs of CUDA together have the kernels of Ampere.
        let Some(kernels) = target.kernels().filter(|_| target.spelling() != "cuda") else { continue };
        if kernels.form() == Form::Cuda && kernels.name() != "sm_80" {
            // What has all that Ampere has, and room for its tiles, has all its kernels.
            let Capabilities {
                shared_bytes, processors, products, group_products, memory_bytes, fp8, ..
            } = *kernels.capabilities();
            assert!(shared_bytes >= 99 << 10 && processors > 0 && products > 0, "{target}");
            let same = Capabilities {
                shared_bytes,
                processors,
                products,
                group_products,
                memory_bytes,
                fp8,
                ..ampere.clone()
            };
            assert_eq!(*kernels.capabilities(), same, "{target}");
            continue;
        }
        let kernels = emit(&target, DType::BF16);
        assert!(kernels.len() > 40, "{target}: {} kernels", kernels.len());
        if target.spelling() == "wgpu" {
            assert_eq!(kernels, emit(&target, DType::BF16));
        }
    }
}

#[test]
fn wgsl_is_valid() {
    for (spelling, dtype) in [("wgpu", DType::BF16), ("wgpu", DType::F32), ("wgpu:f16", DType::F16)] {
        let f16 = spelling == "wgpu:f16";
        let validate = |k: &Emitted| {
            dreamc_backend_wgpu::validate(&k.name, &k.source, f16).unwrap_or_else(|e| panic!("{e}"))
        };
        each(&emit(&target(spelling), dtype), &validate);
    }
}

#[test]
fn cuda_compiles() {
    let nvrtc = dreamc_backend_cuda::Nvrtc::find(&Search::new()).unwrap_or_else(|e| panic!("{e}"));
    for arch in ["sm_80", "sm_90a"] {
        let mut kernels = emit(&target(&format!("cuda:{arch}")), DType::BF16);
        // Those on matrix units take most of the time, and `sass.rs` compiles them for both.
        kernels.retain(|k| arch == "sm_90a" || !k.name.contains("_matrix"));
        each(&kernels, &|k| {
            let binary = nvrtc.compile(&k.name, &k.source, arch).unwrap_or_else(|e| panic!("{e}"));
            assert!(binary.cubin.starts_with(b"\x7fELF"), "{}", k.name);
        });
    }
}

#[test]
fn rocm_compiles() {
    let clang = dreamc_backend_rocm::Clang::find(&Search::new()).unwrap_or_else(|e| panic!("{e}"));
    each(&emit(&target("rocm:gfx942"), DType::BF16), &|k| {
        let code = clang.compile(&k.name, &k.source, "gfx942").unwrap_or_else(|e| panic!("{e}"));
        assert!(code.starts_with(b"\x7fELF"), "{}", k.name);
    });
}

#[test]
fn metal_parses() {
    let checker = dreamc_backend_metal::Checker::find(&Search::new()).unwrap_or_else(|e| panic!("{e}"));
    each(&emit(&target("metal"), DType::BF16), &|k| {
        checker.check(&k.name, &k.source).unwrap_or_else(|e| panic!("{e}"));
    });
}

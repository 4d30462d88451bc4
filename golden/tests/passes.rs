//! Every pass may be left out: the reference's outputs come out with all passes, with none, and with each alone missing.

use dreamc::compile::BuildOptions;
use dreamc_golden::runners::{Compiled, CompiledPolicy, Place};
use dreamc_golden::vla::{HeadFiles, judge_predict_named};
use dreamc_golden::{text, vl};
use dreamc_passes::{ALL, names};

/// What is left out: nothing, each pass alone, everything.
fn variants() -> Vec<Vec<String>> {
    let alone = names().into_iter().chain([ALL]).map(|name| vec![name.to_owned()]);
    [vec![]].into_iter().chain(alone).collect()
}

fn left_out(options: &BuildOptions, without: &[String]) -> BuildOptions {
    BuildOptions { without: without.to_vec(), verify_each: true, ..options.clone() }
}

/// A loop, and one of a single step.
fn judge_text(place: Place<'_>) {
    for without in variants() {
        let make = |options: &BuildOptions| Compiled::of(place, &left_out(options, &without));
        text::judge_sampling_named("entropy_s4_n16", &make);
        text::judge_sampling_named("maskgit_plus_s1_n16", &make);
    }
}

fn judge_vl(place: Place<'_>) {
    for without in variants() {
        let make = |options: &BuildOptions| Compiled::of(place, &left_out(options, &without));
        vl::judge_sampling_named("batch_left_pad", &make);
    }
}

/// A flow each time. The others take long, a vocabulary or more builds: a single pass and a canvas where all passes run,
/// where none does, and the canvas also where its one step stays a loop.
fn judge_vla(place: Place<'_>) {
    for without in variants() {
        let cases = match without.first().map(String::as_str) {
            None | Some(ALL) => vec!["discrete_diffusion_maskgit_plus_s1", "flow_s4", "l1"],
            Some("unroll-steps") => vec!["discrete_diffusion_maskgit_plus_s1", "flow_s4"],
            Some(_) => vec!["flow_s4"],
        };
        let make = |options: &BuildOptions| CompiledPolicy::of(place, &left_out(options, &without));
        judge_predict_named(&cases, HeadFiles::Safetensors, &make, true);
    }
}

#[test]
fn text_on_the_cpu() {
    judge_text(Place::Cpu);
}

#[test]
fn text_on_wgpu() {
    judge_text(Place::Wgpu);
}

#[test]
fn vl_on_the_cpu() {
    judge_vl(Place::Cpu);
}

#[test]
fn vl_on_wgpu() {
    judge_vl(Place::Wgpu);
}

#[test]
fn vla_on_the_cpu() {
    judge_vla(Place::Cpu);
}

#[test]
fn vla_on_wgpu() {
    judge_vla(Place::Wgpu);
}

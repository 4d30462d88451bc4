//! NaN and infinity become neither text nor actions: on the CPU with every instruction set, in every mode, however weights are
//! stored, and on WebGPU.

use dreamc::compile::{Bits, Keep, Quantization};
use dreamc_frontend::vla::Mode;
use dreamc_golden::not_finite::{FIRST_NORM, LAST_NORM, Spoiled, judge_act, judge_places, judge_text};
use dreamc_golden::runners::Place;
use dreamc_num::DType;

const POLICIES: [(&str, Mode, u32); 4] = [
    ("tabletop-vla", Mode::Discrete, 4),
    ("tabletop-vla", Mode::OneStep, 1),
    ("tabletop-vla-l1", Mode::L1, 1),
    ("tabletop-vla-flow", Mode::Flow, 4),
];

fn plain(tensor: &'static str, dtype: DType) -> Spoiled {
    Spoiled { tensor, dtype, quant: None }
}

fn all(place: Place<'_>, spoiled: &Spoiled) {
    judge_text(place, spoiled);
    for (name, mode, steps) in POLICIES {
        judge_act(place, name, mode, steps, spoiled);
    }
}

#[test]
fn on_the_cpu() {
    for dtype in [DType::F32, DType::BF16] {
        all(Place::Cpu, &plain(LAST_NORM, dtype));
        all(Place::Cpu, &plain(FIRST_NORM, dtype));
    }
}

/// Rows that are rounded to codes keep what is not finite.
#[test]
fn quantised() {
    for bits in [Bits::W8A8, Bits::W4A8, Bits::W4A16] {
        let quant = Quantization { keep: Keep::Nothing, ..Quantization::new(bits) };
        for tensor in [LAST_NORM, FIRST_NORM] {
            all(Place::Cpu, &Spoiled { tensor, dtype: DType::BF16, quant: Some(quant.clone()) });
        }
    }
}

#[test]
fn on_wgpu() {
    all(Place::Wgpu, &plain(LAST_NORM, DType::BF16));
    all(Place::Wgpu, &plain(FIRST_NORM, DType::F32));
}

#[test]
fn step_and_row_are_named() {
    judge_places(Place::Cpu);
    judge_places(Place::Wgpu);
}

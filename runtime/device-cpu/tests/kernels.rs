//! Every kernel against the interpreter, on every instruction set of the host and several thread counts.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::{bench, check, decoder, elements, quantized, sampler, vision};
use dreamc_device_cpu::Isa;
use dreamc_interp as interp;

/// Where it is known what the host has, as under an emulator, no instruction set is left out in silence.
#[test]
fn expected_instruction_set() {
    match std::env::var("DREAMC_EXPECT_ISA") {
        Ok(expected) => assert_eq!(Isa::detect().to_string(), expected),
        Err(_) => eprintln!("skipped: DREAMC_EXPECT_ISA does not say what this host has"),
    }
}

#[test]
fn rows() {
    decoder::rows().iter().for_each(check);
}

#[test]
fn linear() {
    decoder::linear().iter().for_each(check);
}

#[test]
fn linear_in_few_bits() {
    quantized::linear().iter().for_each(check);
}

#[test]
fn linear_in_few_bits_is_exact_where_numbers_are() {
    quantized::exact().iter().for_each(check);
}

#[test]
fn attention() {
    decoder::attention().iter().for_each(check);
}

#[test]
fn attention_at_some_rows() {
    decoder::attention_rows().iter().for_each(check);
}

/// A row's result does not depend on which other rows have a query.
#[test]
fn attention_at_all_rows_is_the_same_to_the_bit() {
    for some in decoder::attention_rows() {
        let all = decoder::at_all_rows(&some);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let results = |case| {
                let mut bench = bench(case, isa, 2, None);
                bench.run().unwrap();
                bench.results().remove(0)
            };
            let (found, whole) = (results(&some), results(&all));
            let row = whole.bytes.len() / (whole.dims[0] * whole.dims[1]) as usize;
            let interp::Data::I32(index) = elements(some.reads.last().unwrap()) else { panic!("an index") };
            for (i, at) in index.iter().enumerate() {
                let from = (i / found.dims[1] as usize * whole.dims[1] as usize + *at as usize) * row;
                assert!(found.bytes[i * row..][..row] == whole.bytes[from..][..row], "{isa:?} {i} {at}");
            }
        }
    }
}

#[test]
fn layers() {
    vision::layers().iter().for_each(check);
}

#[test]
fn moves() {
    vision::moves().iter().for_each(check);
}

#[test]
fn actions() {
    vision::actions().iter().for_each(check);
}

#[test]
fn sampling_probs() {
    sampler::sampling_probs().iter().for_each(check);
}

#[test]
fn tokens() {
    sampler::tokens().iter().for_each(check);
}

#[test]
fn open_slots() {
    sampler::open_slots().iter().for_each(check);
}

#[test]
fn slots() {
    sampler::slots().iter().for_each(check);
}

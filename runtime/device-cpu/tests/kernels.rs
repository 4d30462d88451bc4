//! Every kernel against the interpreter, on every instruction set of the host and several thread counts.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::{check, decoder, sampler, vision};

#[test]
fn rows() {
    decoder::rows().iter().for_each(check);
}

#[test]
fn linear() {
    decoder::linear().iter().for_each(check);
}

#[test]
fn attention() {
    decoder::attention().iter().for_each(check);
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

//! Whole generations of the `small` model (128 tokens in 8 steps after 128, bf16): with all passes, and without those that
//! know the loop. What the cost model says of the two is printed first. Stored results: `benches/results/`.
#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use criterion::{Criterion, criterion_group, criterion_main};
use dream::{Generate, OpenOptions};
use dreamc::compile::{BuildOptions, Entry};
use dreamc::cost;
use dreamc_frontend::Variant;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::synth::{Size, Synth, synth};
use dreamc_golden::runners::{Built, build_options};
use dreamc_ir::{SLOTS, parse, verify};
use dreamc_num::DType;
use std::time::Duration;

/// Passes that take work away because the schedule and the rows that are read are known.
const OF_THE_LOOP: [&str; 5] =
    ["open-slots", "drop-idle-steps", "hoist-invariants", "step-tables", "needed-rows"];
const TOKENS: u32 = 128;

/// FLOP of the entry, as the file's own IR says.
fn flop(built: &Built) -> u64 {
    let bytes = std::fs::read(built.path()).expect("the file can be read");
    let artifact = dreamc_artifact::Artifact::open(&bytes).expect("the file is sound");
    let text = artifact.ir().and_then(|ir| std::str::from_utf8(ir).ok()).expect("the file has IR");
    let module = parse(text).expect("it parses");
    let verified = verify(&module).expect("it verifies");
    let entries = cost::entries(verified, &[(SLOTS, TOKENS.into())]).expect("symbols have bounds");
    let entry = entries.into_iter().find(|e| e.entry == "generate");
    entry.expect("the file generates").compiled.flop
}

fn generation(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let what = Synth { variant: Variant::Text, size: Size::Small, seed: 1, head: None };
    synth(&what, folder.path(), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let build = |without: &[&str]| {
        Built::new(&BuildOptions {
            dtype: DType::BF16,
            steps: 8,
            alg: Alg::Entropy,
            new_tokens: TOKENS,
            max_prompt: 128,
            max_batch: 1,
            entries: vec![Entry::Generate],
            without: without.iter().map(|name| (*name).to_owned()).collect(),
            ..build_options(folder.path())
        })
    };
    let all = [("all", build(&[])), ("without", build(&OF_THE_LOOP))];
    let [on, off] = [0, 1].map(|i| flop(&all[i].1) as f64);
    eprintln!("by the cost model: {:.1} % less with all passes", 100.0 * (1.0 - on / off));
    let prompt = vec![(0..128).map(|i| i * 37 % 7000).collect::<Vec<i32>>()];
    let request = Generate { prompt, ..Generate::default() };
    let mut group = c.benchmark_group("small_128_in_8");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(60));
    for (name, built) in &all {
        let mut model = built.open_with(&OpenOptions { threads: 2, ..OpenOptions::default() });
        group.bench_function(*name, |b| {
            b.iter(|| model.generate(&request, &mut |_, _| true).unwrap_or_else(|e| panic!("{e}")));
        });
    }
    group.finish();
}

criterion_group!(benches, generation);
criterion_main!(benches);

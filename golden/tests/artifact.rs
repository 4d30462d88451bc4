//! A real artifact: the same bytes every time, and no damage that goes unnoticed.
#![allow(clippy::unwrap_used, reason = "tests")]

use dream::{Generate, Generated, Model, OpenOptions};
use dreamc::compile::{ActOptions, BuildOptions, BuildTarget, Entry, build};
use dreamc_artifact::plan::Program;
use dreamc_artifact::{Artifact, Kind, assemble, encode_plan, table_hash};
use dreamc_frontend::Variant;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_golden::Fixture;
use dreamc_golden::tabletop::Trained;
use dreamc_golden::vla::{HeadFiles, checkpoint};
use dreamc_num::DType;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::path::Path;

fn options(checkpoint: &Path, output: &Path) -> BuildOptions {
    BuildOptions {
        checkpoint: checkpoint.to_owned(),
        output: output.to_owned(),
        targets: vec![BuildTarget::cpu()],
        emit: None,
        cache: None,
        sources: false,
        dtype: DType::BF16,
        steps: 2,
        eps: 1e-3,
        alg: Alg::Entropy,
        new_tokens: 16,
        max_slots: None,
        max_prompt: 17,
        max_batch: 2,
        entries: vec![Entry::Generate],
        image: None,
        act: ActOptions::default(),
        lora: None,
        quant: None,
        allow_non_finite: false,
        candidates: None,
        verify_each: false,
        without: vec![],
        golden: None,
        warm: vec![],
    }
}

/// Neither the folder, nor the file's name, nor where the checkpoint lies gets into the file.
#[test]
fn same_checkpoint_same_bytes() {
    let fixture = Fixture::open("sudoku-text");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("another checkpoint");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(fixture.path("checkpoint")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let make = |checkpoint: &Path, name: &str, entries: &[Entry]| {
        let output = folder.path().join(name);
        let options = BuildOptions { entries: entries.to_vec(), ..options(checkpoint, &output) };
        build(&options, &mut ()).unwrap();
        std::fs::read(output).unwrap()
    };
    for entries in [Entry::of(Variant::Text), &[Entry::Forward], &[Entry::Generate]] {
        let first = make(&fixture.path("checkpoint"), "a.dream", entries);
        assert!(first == make(&fixture.path("checkpoint"), "a.dream", entries), "the second build differs");
        assert!(first == make(&copy, "b", entries), "another place, other bytes");
    }
}

/// The same with images, a head, a projector and statistics.
#[test]
fn same_policy_same_bytes() {
    let fixture = Fixture::open("tiny-vla");
    let make = || {
        let folder = checkpoint(&fixture, &["diffusion", "proprio"], HeadFiles::Archives);
        let output = folder.path().join("policy.dream");
        let act = ActOptions {
            mode: Mode::Ddim,
            proprio: true,
            unnorm_key: Some("other_mask".to_owned()),
            ..ActOptions::default()
        };
        let entries = Entry::of(Variant::Vla).to_vec();
        build(&BuildOptions { entries, act, ..options(folder.path(), &output) }, &mut ()).unwrap();
        std::fs::read(output).unwrap()
    };
    assert!(make() == make(), "the second build differs");
}

fn open_and_run(path: &Path) -> Result<Generated, dream::Error> {
    let mut model = Model::open(path, &OpenOptions { threads: 1, ..OpenOptions::default() })?;
    let prompt = vec![vec![18, 15, 16, 19, 15, 16, 15, 17, 15, 15, 15, 15, 17, 15, 15, 16, 198]];
    model.generate(&Generate { prompt, history: true, ..Generate::default() }, &mut |_, _| true)
}

/// What is done to the file.
#[derive(Clone, Debug)]
enum Damage {
    Flip { at: usize, bit: u8 },
    Cut { len: usize },
    Append { count: usize },
    Zero { at: usize, count: usize },
}

/// The small sections are hit as often as the large weights.
fn damage(len: usize, weights_at: usize) -> impl Strategy<Value = Damage> {
    let small = 0..weights_at;
    let place = prop_oneof![0..512_usize.min(weights_at), small, 0..len];
    prop_oneof![
        6 => (place.clone(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        2 => place.clone().prop_map(|len| Damage::Cut { len }),
        1 => (1_usize..5000).prop_map(|count| Damage::Append { count }),
        1 => (place, 1_usize..300).prop_map(|(at, count)| Damage::Zero { at, count }),
    ]
}

/// `verify` finds every damage. What opens and runs all the same answers as the whole file does.
#[test]
fn damage_never_passes() {
    let fixture = Fixture::open("sudoku-text");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.dream");
    build(&options(&fixture.path("checkpoint"), &path), &mut ()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let answer = open_and_run(&path).unwrap();
    dream::verify(&path, |_, _| ()).unwrap();
    let sections = dreamc_artifact::Artifact::open(&whole).unwrap().sections().to_vec();
    let weights = sections.iter().find(|s| s.kind == dreamc_artifact::Kind::Weights).unwrap();

    let bad = folder.path().join("bad.dream");
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let still_ran = Cell::new(0);
    runner
        .run(&damage(whole.len(), weights.offset as usize), |damage| {
            let mut bytes = whole.clone();
            match damage {
                Damage::Flip { at, bit } => bytes[at] ^= 1 << bit,
                Damage::Cut { len } => bytes.truncate(len),
                Damage::Append { count } => bytes.resize(whole.len() + count, 0),
                Damage::Zero { at, count } => {
                    let end = (at + count).min(bytes.len());
                    bytes[at..end].fill(0);
                }
            }
            prop_assume!(bytes != whole);
            std::fs::write(&bad, bytes).unwrap();
            prop_assert!(dream::verify(&bad, |_, _| ()).is_err(), "verify does not notice");
            match open_and_run(&bad) {
                Err(error) => prop_assert!(!error.to_string().is_empty()),
                Ok(found) => {
                    prop_assert_eq!(&found, &answer, "another answer");
                    still_ran.set(still_ran.get() + 1);
                }
            }
            Ok(())
        })
        .unwrap();
    // Bytes between tensors are read by nobody but `verify`.
    assert!(still_ran.get() < 20, "{still_ran:?} of 200 damaged files ran");
}

/// A well-hashed file whose manifest asks for more than its plan: nothing may be allocated by it.
#[test]
fn manifest_and_plan_must_agree() {
    let fixture = Fixture::open("sudoku-text");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dream");
    build(&options(&fixture.path("checkpoint"), &path), &mut ()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let artifact = Artifact::open(&bytes).unwrap();
    type Edit = fn(&mut dreamc_artifact::Model);
    let edits: [(Edit, &str); 4] = [
        (|m| m.steps = u32::MAX, "steps"),
        (|m| m.new_tokens = u32::MAX, "length"),
        (|m| m.max_prompt += 1, "length"),
        (|m| m.max_batch = 0, "batch"),
    ];
    for (edit, what) in edits {
        let mut manifest = artifact.manifest().clone();
        edit(&mut manifest.model);
        let content = |s: &dreamc_artifact::Section| match s.kind {
            Kind::Manifest => (s.kind, manifest.to_bytes().unwrap()),
            kind => (kind, bytes[s.offset as usize..(s.offset + s.len) as usize].to_vec()),
        };
        let sections: Vec<_> = artifact.sections().iter().map(content).collect();
        let forged = folder.path().join("forged.dream");
        std::fs::write(&forged, assemble(&sections, table_hash(artifact.weights())).unwrap()).unwrap();
        let error = Model::open(&forged, &OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    }
}

/// A well-hashed file whose programs take or give something else than their entries promise is refused when it is opened, and
/// `verify` says so: nobody waits for numbers that are never written.
#[test]
fn ports_must_be_those_of_the_entry() {
    type Edit = fn(&mut Program);
    let to_scalar = |program: &mut Program, name: &str| {
        let scalar = program.inputs.iter().find(|port| port.name == "temperature").unwrap().value;
        program.outputs.iter_mut().filter(|port| port.name == name).for_each(|port| port.value = scalar);
    };
    let edits: [(Edit, &str); 6] = [
        (|p| p.outputs.retain(|port| port.name != "canvas"), "`canvas`"),
        (|p| p.outputs.retain(|port| port.name != "history"), "`history`"),
        (|p| p.outputs.iter_mut().for_each(|port| port.name.push('s')), "`canvas`"),
        (|p| p.inputs[0].name = "slots".to_owned(), "`slots`"),
        (|p| p.inputs.swap(0, 1), ""),
        (|p| (p.inputs[0].value, p.inputs[1].value) = (p.inputs[1].value, p.inputs[0].value), "the input"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dream");
    let trained = Trained::open("tabletop-vla").options(2, DType::F32, &[Entry::Act]);
    build(&BuildOptions { output: path.clone(), ..trained }, &mut ()).unwrap();
    let forge = |edit: &dyn Fn(&mut Program)| {
        let bytes = std::fs::read(&path).unwrap();
        let artifact = Artifact::open(&bytes).unwrap();
        let mut plan = artifact.plan("cpu").unwrap().clone();
        plan.programs.iter_mut().for_each(edit);
        let content = |s: &dreamc_artifact::Section| match s.kind {
            Kind::Plan => (s.kind, encode_plan(&plan).unwrap()),
            kind => (kind, bytes[s.offset as usize..(s.offset + s.len) as usize].to_vec()),
        };
        let sections: Vec<_> = artifact.sections().iter().map(content).collect();
        let forged = folder.path().join("forged.dream");
        std::fs::write(&forged, assemble(&sections, table_hash(artifact.weights())).unwrap()).unwrap();
        let opened = Model::open(&forged, &OpenOptions::default()).err().map(|error| error.to_string());
        let verified = dream::verify(&forged, |_, _| ()).err().map(|error| error.to_string());
        // What the weights are is not in these bytes: `verify` gets that far with a sound plan.
        (opened, verified)
    };
    for (edit, what) in edits {
        let (opened, verified) = forge(&edit);
        if what.is_empty() {
            assert_eq!(opened, None, "the order of ports is nobody's business");
            continue;
        }
        for error in [opened.unwrap(), verified.unwrap()] {
            assert!(error.contains(what) && error.contains("act"), "{error}");
        }
    }
    for name in ["canvas", "history"] {
        let error = forge(&|program: &mut Program| to_scalar(program, name)).0.unwrap();
        assert!(error.contains(name), "{error}");
    }
}

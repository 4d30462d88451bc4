//! A small artifact with a loop, packed weights and an in-place result.

#![allow(dead_code, reason = "each test file uses a part")]

use dreamc_artifact::code::{Code, encode_code};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::*;
use dreamc_artifact::*;
use dreamc_num::DType;
use std::collections::BTreeMap;

fn value(dtype: DType, dims: &[Dim], place: Place) -> Value {
    Value { dtype, dims: dims.to_vec(), place }
}

fn symbol(index: u32) -> Dim {
    Dim { terms: vec![Term { coefficient: 1, symbols: vec![index] }] }
}

fn run(kernel: Kernel, reads: &[u32], writes: &[u32]) -> Step {
    let ids = |ids: &[u32]| ids.iter().map(|id| ValueId(*id)).collect();
    Step::Dispatch(Dispatch {
        kernel,
        reads: ids(reads),
        writes: ids(writes),
        origin: vec!["model".into()],
        launches: vec![],
    })
}

pub(crate) fn plan() -> Plan {
    let bs = [symbol(0), symbol(1)];
    let bsh = [symbol(0), symbol(1), Dim::constant(8)];
    let arena = |slot: u64| Place::Arena(slot * 1024);
    let values = vec![
        value(DType::I32, &bs, arena(0)),
        value(DType::F32, &[Dim::constant(20), Dim::constant(8)], Place::Weight(0)),
        value(DType::F32, &bsh, arena(1)),
        value(DType::F32, &[Dim::constant(8), Dim::constant(8)], Place::Weight(1)),
        value(DType::F32, &bsh, arena(1)),
        value(DType::I32, &[], arena(2)),
        value(DType::I32, &[Dim::constant(3), symbol(0), symbol(1)], arena(3)),
        value(DType::F32, &bsh, arena(4)),
        value(DType::Bool, &bs, arena(5)),
        value(DType::I32, &bs, arena(0)),
        value(DType::I32, &bs, arena(6)),
    ];
    let linear = Linear {
        norm_eps: None,
        weights: 1,
        bias: false,
        residual: true,
        swiglu: false,
        smooth: false,
        codes: None,
        activation: None,
    };
    let body = vec![
        run(Kernel::Embed, &[0, 1], &[2]),
        run(Kernel::Activate(Activation::Silu), &[2], &[7]),
        run(Kernel::Linear(linear), &[7, 3, 2], &[4]),
        run(Kernel::IsToken { token: 7 }, &[0], &[8]),
        run(Kernel::Commit, &[8, 10, 9], &[9]),
    ];
    let denoise =
        Denoise { steps: 3, index: ValueId(5), body, history: Some((ValueId(0), ValueId(6))), slots: None };
    let program = Program {
        name: "generate".into(),
        symbols: vec![Symbol { name: "B".into(), max: 2 }, Symbol { name: "S".into(), max: 16 }],
        values,
        inputs: vec![Port { name: "input_ids".into(), value: ValueId(0) }],
        outputs: vec![Port { name: "history".into(), value: ValueId(6) }],
        steps: vec![Step::Denoise(denoise)],
        arena_bytes: 7 * 1024,
    };
    Plan { programs: vec![program] }
}

pub(crate) fn weights() -> (Vec<WeightInfo>, Vec<u8>) {
    let info = |name: &str, dims: Vec<u64>, layout: Layout| {
        let bytes = layout.stored_bytes(DType::F32, &dims).unwrap();
        WeightInfo { name: name.into(), dtype: DType::F32, dims, layout, offset: 0, bytes, hash: [0; 32] }
    };
    let mut table = vec![info("embed", vec![20, 8], Layout::RowMajor), info("o", vec![8, 8], Layout::Panels)];
    let mut bytes = vec![0; place(&mut table).unwrap() as usize];
    for weight in &mut table {
        let stored = &mut bytes[weight.offset as usize..][..weight.bytes as usize];
        stored.iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8);
        weight.hash = hash(stored);
    }
    (table, bytes)
}

pub(crate) fn manifest() -> Manifest {
    Manifest {
        compiler_version: "0.1.0".into(),
        targets: vec!["cpu".into()],
        source_hash: "00".into(),
        options: BTreeMap::from([("dtype".into(), "f32".into())]),
        model: Model {
            variant: "text".into(),
            dtype: "f32".into(),
            vocab_size: 20,
            hidden_size: 8,
            layers: 1,
            mask_token_id: 7,
            pad_token_id: 8,
            eos_token_id: 8,
            max_prompt: 8,
            new_tokens: 8,
            max_batch: 2,
            steps: 3,
            alg: "entropy".into(),
            eps: 1e-3,
        },
        entries: vec!["generate".into()],
        aliases: vec![("hidden.0".into(), "model".into())],
        reference: [("forward".into(), dreamc_artifact::Work { flop: 3, bytes: 4 })].into(),
        warm: vec![],
        tuned: Vec::new(),
    }
}

pub(crate) fn file() -> Vec<u8> {
    let (table, bytes) = weights();
    let sections = [
        (Kind::Manifest, manifest().to_bytes().unwrap()),
        (Kind::Plan, encode_plan(&plan()).unwrap()),
        (Kind::Code, encode_code(&Code::default()).unwrap()),
        (Kind::WeightTable, encode_table(&table).unwrap()),
        (Kind::Tokenizer, b"tokenizer".to_vec()),
        (Kind::Weights, bytes),
    ];
    assemble(&sections, table_hash(&table)).unwrap()
}

//! The cases of `fixtures/tiny-text`, judged at the fixture's own tolerances.

use crate::Fixture;
use crate::fixture::{assert_within, max_difference, rows};
use crate::replay;
use crate::runners::{Make, build_options};
use dream::Forward;
use dreamc::compile::{BuildOptions, Entry};
use dreamc_num::DType;
use dreamc_runtime::Canvas;

/// Modules of a layer and the names that the fixture gives to their outputs.
const LAYER_PARTS: [(&str, &str); 8] = [
    ("model.layers.0.input_layernorm", "input_layernorm"),
    ("model.layers.0.self_attn.q_proj", "q_proj"),
    ("model.layers.0.self_attn.k_proj", "k_proj"),
    ("model.layers.0.self_attn.v_proj", "v_proj"),
    ("model.layers.0.self_attn.attention_out", "attention_out"),
    ("model.layers.0.self_attn.o_proj", "o_proj"),
    ("model.layers.0.post_attention_layernorm", "post_attention_layernorm"),
    ("model.layers.0.mlp.down_proj", "mlp"),
];
/// Modules whose outputs are the fixture's `hidden.0` ...
const HIDDEN: [&str; 4] = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"];

/// Every forward case, padding included: logits and hidden states; and the inside of layer 0.
pub fn judge_forward(make: Make<'_>) {
    let fixture = Fixture::open("tiny-text");
    let options = BuildOptions { max_prompt: 20, ..build_options(&fixture.path("checkpoint")) };
    let (logits_abs, hidden_abs) = (fixture.tolerance("logits_abs"), fixture.tolerance("hidden_abs"));
    let mut runners = make(&options);
    let probes: Vec<&str> = HIDDEN.into_iter().chain(LAYER_PARTS.map(|(path, _)| path)).collect();
    for case in fixture.cases("forward_cases") {
        let golden = |name: &str| fixture.find(&format!("forward/{case}/{name}"));
        let ids = rows(&fixture.tensor(&format!("forward/{case}/input_ids")));
        let mask = golden("attention_mask").map(|m| rows(&m));
        let canvas = Canvas::new(&ids, mask.as_deref()).expect("the case is sound");
        if let Some(positions) = golden("position_ids") {
            assert_eq!(positions.ints(), canvas.position_ids, "{case}");
        }
        let request = Forward { input_ids: ids, attention_mask: mask, ..Forward::default() };
        for runner in &mut runners {
            let mut judged = 0;
            for (path, value) in runner.forward(&request, &probes) {
                let hidden = HIDDEN.iter().position(|p| *p == path).map(|i| format!("hidden.{i}"));
                let part =
                    LAYER_PARTS.iter().find(|(p, _)| *p == path).map(|(_, name)| format!("layer0/{name}"));
                let name = hidden.or(part).unwrap_or(path);
                let Some(wanted) = golden(&name) else { continue };
                let off = max_difference(&value, &wanted, |row| canvas.attention_mask[row] == 1);
                let limit = if name == "logits" { logits_abs } else { hidden_abs };
                assert_within(off, limit, &format!("{case}: {name}"));
                judged += 1;
            }
            assert!(judged >= if case == "full_b1" { 13 } else { 5 }, "{case}: {judged} values judged");
        }
    }
}

/// Logits of a build in 16 bits: no further from the reference's f32 than the reference's own bf16 is.
pub fn judge_16_bits(dtype: DType, make: Make<'_>) {
    let fixture = Fixture::open("tiny-text");
    let base = build_options(&fixture.path("checkpoint"));
    let options = BuildOptions { max_prompt: 20, entries: vec![Entry::Forward], dtype, ..base };
    let wanted = fixture.tensor("forward/full_b1/logits");
    let effect = max_difference(&fixture.tensor("bf16/full_b1/logits"), &wanted, |_| true);
    let input_ids = rows(&fixture.tensor("forward/full_b1/input_ids"));
    let request = Forward { input_ids, ..Forward::default() };
    for mut runner in make(&options) {
        for (path, logits) in runner.forward(&request, &[]) {
            let off = max_difference(&logits, &wanted, |_| true);
            assert_within(off, effect, &format!("{dtype}: {path}"));
        }
    }
}

/// One sampling case.
pub fn judge_sampling_named(case: &str, make: Make<'_>) {
    let fixture = Fixture::open("tiny-text");
    replay::judge_sampling(&fixture, case, &build_options(&fixture.path("checkpoint")), &[], false, make);
}

/// Every sampling case but the one that is refused.
pub fn judge_sampling(make: Make<'_>) {
    let fixture = Fixture::open("tiny-text");
    let options = build_options(&fixture.path("checkpoint"));
    let cases: Vec<_> =
        fixture.cases("sampling_cases").into_iter().filter(|c| c != "quirk_uneven_masks").collect();
    assert_eq!(cases.len(), 24);
    for case in cases {
        replay::judge_sampling(&fixture, &case, &options, &[], false, make);
    }
}

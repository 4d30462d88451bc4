//! `fixtures/tiny-text` through the interpreter, at the fixtures' own tolerances.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_frontend::lm::{Alg, FORWARD, TextOptions};
use dreamc_golden::Fixture;
use dreamc_golden::fixture::{max_difference, rows};
use dreamc_golden::interp::{Probes, Settings, TextModel, canvas_inputs};
use dreamc_interp::{Data, Event, Observer, Tensor};
use dreamc_num::{DType, schedule};
use dreamc_runtime::{Canvas, CanvasError};

fn options(alg: Alg, steps: u64, eps: f32) -> TextOptions {
    TextOptions { dtype: DType::F32, max_batch: 8, max_length: 64, steps, eps, alg }
}

#[test]
fn forward() {
    let fixture = Fixture::open("tiny-text");
    let model = TextModel::open(&fixture.path("checkpoint"));
    let module = model.module(&options(Alg::Entropy, 1, 1e-3));
    let (logits_abs, hidden_abs) = (tolerance(&fixture, "logits_abs"), tolerance(&fixture, "hidden_abs"));
    let hidden = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"];
    for case in fixture.cases("forward_cases") {
        let golden = |name: &str| fixture.find(&format!("forward/{case}/{name}"));
        let ids = rows(&golden("input_ids").unwrap());
        let mask = golden("attention_mask").map(|m| rows(&m));
        let canvas = Canvas::new(&ids, mask.as_deref()).unwrap();
        if let Some(positions) = golden("position_ids") {
            assert_eq!(positions.ints(), canvas.position_ids, "{case}");
        }
        let mut probes = Probes::of(&hidden);
        let logits = model.run(&module, FORWARD, &canvas_inputs(&canvas), &mut probes).unwrap().remove(0);
        let real = |row: usize| canvas.attention_mask[row] == 1;
        let off = max_difference(&logits, &golden("logits").unwrap(), real);
        assert!(off < logits_abs, "{case}: logits off by {off}");
        for (i, (path, value)) in probes.seen.iter().enumerate() {
            let off = max_difference(value, &golden(&format!("hidden.{i}")).unwrap(), real);
            assert!(off < hidden_abs, "{case}: {path} off by {off}");
        }
        assert_eq!(probes.seen.len(), hidden.len());
    }
}

#[test]
fn layer_internals() {
    let fixture = Fixture::open("tiny-text");
    let model = TextModel::open(&fixture.path("checkpoint"));
    let module = model.module(&options(Alg::Entropy, 1, 1e-3));
    let canvas = Canvas::new(&rows(&fixture.tensor("forward/full_b1/input_ids")), None).unwrap();
    let parts = [
        ("model.layers.0.input_layernorm", "input_layernorm"),
        ("model.layers.0.self_attn.q_proj", "q_proj"),
        ("model.layers.0.self_attn.k_proj", "k_proj"),
        ("model.layers.0.self_attn.v_proj", "v_proj"),
        ("model.layers.0.self_attn.attention_out", "attention_out"),
        ("model.layers.0.self_attn.o_proj", "o_proj"),
        ("model.layers.0.post_attention_layernorm", "post_attention_layernorm"),
        ("model.layers.0.mlp.down_proj", "mlp"),
    ];
    let mut probes = Probes::of(&parts.map(|(path, _)| path));
    model.run(&module, FORWARD, &canvas_inputs(&canvas), &mut probes).unwrap();
    assert_eq!(probes.seen.len(), parts.len());
    for (path, value) in &probes.seen {
        let (_, name) = parts.iter().find(|(p, _)| p == path).unwrap();
        let off = max_difference(value, &fixture.tensor(&format!("forward/full_b1/layer0/{name}")), |_| true);
        assert!(off < tolerance(&fixture, "hidden_abs"), "{path} off by {off}");
    }
    // The fixture repeats the half tables twice, as the reference does.
    let mut tables = Probes::of(&["model.rotary_emb", "model.rotary_emb.1"]);
    model.run(&module, FORWARD, &canvas_inputs(&canvas), &mut tables).unwrap();
    for ((_, table), name) in tables.seen.iter().zip(["rope_cos", "rope_sin"]) {
        let doubled = table.floats().chunks(8).flat_map(|half| [half, half].concat()).collect();
        let doubled = Tensor::f32(&[1, 17, 16], doubled);
        let off = max_difference(&doubled, &fixture.tensor(&format!("forward/full_b1/{name}")), |_| true);
        assert!(off < 1e-6, "{name} off by {off}");
    }
}

/// Every history of every case; random ones by replaying the recorded draws.
#[test]
fn sampling_histories() {
    let fixture = Fixture::open("tiny-text");
    let model = TextModel::open(&fixture.path("checkpoint"));
    let cases: Vec<_> =
        fixture.cases("sampling_cases").into_iter().filter(|c| c != "quirk_uneven_masks").collect();
    assert_eq!(cases.len(), 24);
    for case in cases {
        let about = &fixture.json["sampling_cases"][&case];
        let set = |key: &str| about["settings"][key].as_f64();
        let alg = Alg::from_name(about["settings"]["alg"].as_str().unwrap()).unwrap();
        let module = model.module(&options(alg, set("steps").unwrap() as u64, set("eps").unwrap() as f32));
        let settings = Settings {
            temperature: set("temperature").unwrap_or(0.0) as f32,
            top_p: set("top_p").unwrap_or(1.0) as f32,
            top_k: set("top_k").unwrap_or(0.0) as i32,
            alg_temp: set("alg_temp").unwrap_or(0.0) as f32,
            ..Settings::default()
        };
        let golden = |name: &str| fixture.find(&format!("sampling/{case}/{name}"));
        let prompt = rows(&golden("input_ids").unwrap());
        let mask = golden("attention_mask").map(|m| rows(&m));
        let new_tokens = set("max_new_tokens").unwrap() as usize;
        let mask_token = model.config.mask_token_id as i32;
        let canvas = Canvas::for_generation(&prompt, mask.as_deref(), new_tokens, mask_token).unwrap();
        let mut replay =
            Replay { fixture: &fixture, case: &case, random: settings.temperature > 0.0, worst: 0.0 };
        let [last, history] = model.generate(&module, &canvas, &settings, &mut replay);
        assert_eq!(history, golden("history").unwrap(), "{case}");
        assert_eq!(last.ints(), &history.ints()[history.ints().len() - last.ints().len()..], "{case}");
        assert!(
            replay.worst < tolerance(&fixture, "confidence_abs"),
            "{case}: confidence off by {}",
            replay.worst
        );
    }
}

/// The reference overwrites prompt tokens there; we refuse.
#[test]
fn uneven_masks_are_refused() {
    let fixture = Fixture::open("tiny-text");
    let prompt = rows(&fixture.tensor("sampling/quirk_uneven_masks/input_ids"));
    let canvas = Canvas::for_generation(&prompt, None, 4, 502);
    assert!(matches!(canvas, Err(CanvasError::UnevenMasks { .. })), "{canvas:?}");
}

/// The whole schedule table, exact.
#[test]
fn schedule_table() {
    let fixture = Fixture::open("tiny-text");
    let table: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(fixture.path("schedule.json")).unwrap()).unwrap();
    assert!(table.len() > 100);
    for row in table {
        let (steps, masks) = (row["steps"].as_u64().unwrap() as u32, row["masks"].as_u64().unwrap() as u32);
        let eps = row["eps"].as_f64().unwrap() as f32;
        let mut left = masks;
        for (step, wanted) in row["reveal"].as_array().unwrap().iter().enumerate() {
            let count = schedule::transfer_count(left, step as u32, steps, eps);
            assert_eq!(
                u64::from(count),
                wanted.as_u64().unwrap(),
                "{masks} masks, step {step} of {steps}, eps {eps}"
            );
            left -= count;
        }
        assert_eq!(left, 0);
    }
}

fn tolerance(fixture: &Fixture, key: &str) -> f32 {
    fixture.json["tolerance"][key].as_f64().unwrap() as f32
}

/// Puts recorded draws in the place of random ones, and compares what can be compared.
struct Replay<'a> {
    fixture: &'a Fixture,
    case: &'a str,
    random: bool,
    worst: f32,
}

impl Replay<'_> {
    /// The part of a `[steps, ..]` tensor that belongs to a step.
    fn at(&self, name: &str, step: u32) -> Option<Tensor> {
        let all = self.fixture.find(&format!("sampling/{}/{name}", self.case))?;
        let dims = all.dims[1..].to_vec();
        let len: usize = dims.iter().product();
        let range = step as usize * len..(step as usize + 1) * len;
        let data = match &all.data {
            Data::F32(v) => Data::F32(v[range].to_vec()),
            Data::I32(v) => Data::I32(v[range].to_vec()),
            Data::U32(_) | Data::Bool(_) => panic!("not recorded"),
        };
        Some(Tensor { dims, data })
    }
}

impl Observer for Replay<'_> {
    fn after(&mut self, event: &Event<'_>, value: &mut Tensor) {
        let step = event.step;
        match event.node.origin.0.first().map_or("", String::as_str) {
            "sampler.token" => {
                let Some(recorded) = self.at("candidate", step) else { return };
                if self.random {
                    *value = recorded;
                } else {
                    assert_eq!(*value, recorded, "{}: candidates of step {step}", self.case);
                }
            }
            "sampler.confidence" => {
                let Some(recorded) = self.at("confidence", step) else { return };
                let off = max_difference(value, &recorded, |_| true);
                self.worst = if off.is_nan() { off } else { self.worst.max(off) };
            }
            "sampler.slot_bits" => {
                // A recorded draw is a multiple of 2^-24: exactly the bits that `uniform` reads.
                let Some(recorded) = self.at("rand", step) else { return };
                let bits = recorded.floats().iter().map(|u| ((u * 16_777_216.0) as u32) << 8).collect();
                *value = Tensor::u32(&recorded.dims, bits);
            }
            "sampler.select" => {
                let name = format!("sampling/{}/transfer_index.{step}", self.case);
                let Some(recorded) = self.fixture.find(&name) else { return };
                let columns = value.columns();
                let mut selected = vec![false; value.bools().len()];
                for (row, slots) in rows(&recorded).iter().enumerate() {
                    slots.iter().for_each(|p| selected[row * columns + *p as usize] = true);
                }
                *value = Tensor::bool(&value.dims, selected);
            }
            _ => {}
        }
    }
}

//! The cases of `fixtures/tiny-text`, judged at the fixture's own tolerances.

use crate::Fixture;
use crate::fixture::{max_difference, rows};
use dream::Sampling;
use dreamc_frontend::sampler::Alg;
use dreamc_interp::{Data, Tensor};
use dreamc_runtime::Canvas;
use std::path::{Path, PathBuf};

/// What a runner is made for.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Directory of the checkpoint.
    pub checkpoint: &'a Path,
    /// How slots are chosen.
    pub alg: Alg,
    /// Denoising steps.
    pub steps: u32,
    /// End of the schedule.
    pub eps: f32,
    /// Tokens to append.
    pub new_tokens: u32,
    /// Longest prompt.
    pub max_prompt: u32,
    /// Most rows at a time.
    pub max_batch: u32,
}

/// Computes cases.
pub trait TextRunner {
    /// `logits`, once or more, and the values of the paths in `probes`, in any order.
    fn forward(&mut self, canvas: &Canvas, probes: &[&str]) -> Vec<(String, Tensor)>;

    /// The final canvas and the history. Every value of [`Replay::PATHS`] is passed through `replay`.
    fn generate(&mut self, canvas: &Canvas, sampling: &Sampling, replay: &mut Replay<'_>) -> [Tensor; 2];
}

/// Makes runners.
pub type Make<'a> = &'a dyn Fn(&Job<'_>) -> Box<dyn TextRunner>;

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

fn checkpoint(fixture: &Fixture) -> PathBuf {
    fixture.path("checkpoint")
}

fn tolerance(fixture: &Fixture, key: &str) -> f32 {
    fixture.json["tolerance"][key].as_f64().expect("the fixture states its tolerances") as f32
}

/// Every forward case, padding included: logits and hidden states; and the inside of layer 0.
pub fn judge_forward(make: Make<'_>) {
    let fixture = Fixture::open("tiny-text");
    let checkpoint = checkpoint(&fixture);
    let job = Job {
        checkpoint: &checkpoint,
        alg: Alg::Entropy,
        steps: 1,
        eps: 1e-3,
        new_tokens: 4,
        max_prompt: 20,
        max_batch: 2,
    };
    let mut runner = make(&job);
    let (logits_abs, hidden_abs) = (tolerance(&fixture, "logits_abs"), tolerance(&fixture, "hidden_abs"));
    let probes: Vec<&str> = HIDDEN.into_iter().chain(LAYER_PARTS.map(|(path, _)| path)).collect();
    for case in fixture.cases("forward_cases") {
        let golden = |name: &str| fixture.find(&format!("forward/{case}/{name}"));
        let ids = rows(&fixture.tensor(&format!("forward/{case}/input_ids")));
        let mask = golden("attention_mask").map(|m| rows(&m));
        let canvas = Canvas::new(&ids, mask.as_deref()).expect("the case is sound");
        if let Some(positions) = golden("position_ids") {
            assert_eq!(positions.ints(), canvas.position_ids, "{case}");
        }
        let mut judged = 0;
        for (path, value) in runner.forward(&canvas, &probes) {
            let hidden = HIDDEN.iter().position(|p| *p == path).map(|i| format!("hidden.{i}"));
            let part = LAYER_PARTS.iter().find(|(p, _)| *p == path).map(|(_, name)| format!("layer0/{name}"));
            let name = hidden.or(part).unwrap_or(path);
            let Some(wanted) = golden(&name) else { continue };
            let off = max_difference(&value, &wanted, |row| canvas.attention_mask[row] == 1);
            let limit = if name == "logits" { logits_abs } else { hidden_abs };
            assert!(off < limit, "{case}: {name} is off by {off}");
            judged += 1;
        }
        assert!(judged >= if case == "full_b1" { 13 } else { 5 }, "{case}: {judged} values judged");
    }
}

/// Every sampling case but the one that is refused: candidates, confidences, histories. Random draws are replayed.
pub fn judge_sampling(make: Make<'_>) {
    let fixture = Fixture::open("tiny-text");
    let checkpoint = checkpoint(&fixture);
    let cases: Vec<_> =
        fixture.cases("sampling_cases").into_iter().filter(|c| c != "quirk_uneven_masks").collect();
    assert_eq!(cases.len(), 24);
    for case in cases {
        let about = &fixture.json["sampling_cases"][&case];
        let set = |key: &str| about["settings"][key].as_f64();
        let count = |key: &str| set(key).expect("every case states it") as u32;
        let alg = about["settings"]["alg"].as_str().and_then(Alg::from_name).expect("a known algorithm");
        let job = Job {
            checkpoint: &checkpoint,
            alg,
            steps: count("steps"),
            eps: set("eps").expect("every case states it") as f32,
            new_tokens: count("max_new_tokens"),
            max_prompt: 12,
            max_batch: 2,
        };
        let mut runner = make(&job);
        let sampling = Sampling {
            temperature: set("temperature").unwrap_or(0.0) as f32,
            top_p: set("top_p").map(|p| p as f32),
            top_k: set("top_k").map(|k| k as u32),
            alg_temp: set("alg_temp").map(|t| t as f32),
            ..Sampling::default()
        };
        let golden = |name: &str| fixture.find(&format!("sampling/{case}/{name}"));
        let prompt = rows(&fixture.tensor(&format!("sampling/{case}/input_ids")));
        let mask = golden("attention_mask").map(|m| rows(&m));
        let canvas =
            Canvas::for_generation(&prompt, mask.as_deref(), &vec![502; job.new_tokens as usize], 502);
        let canvas = canvas.expect("the case is sound");
        let mut replay = Replay {
            fixture: &fixture,
            case: &case,
            random: sampling.temperature > 0.0,
            worst: 0.0,
            seen: 0,
        };
        let [last, history] = runner.generate(&canvas, &sampling, &mut replay);
        assert_eq!(Some(&history), golden("history").as_ref(), "{case}");
        let end = history.ints().len() - last.ints().len();
        assert_eq!(last.ints(), &history.ints()[end..], "{case}");
        assert!(
            replay.worst < tolerance(&fixture, "confidence_abs"),
            "{case}: confidence off by {}",
            replay.worst
        );
        assert!(replay.seen >= 3 * job.steps, "{case}: {} values were shown", replay.seen);
    }
}

/// Puts recorded draws in the place of random ones, and judges candidates and confidences.
pub struct Replay<'a> {
    fixture: &'a Fixture,
    case: &'a str,
    random: bool,
    worst: f32,
    seen: u32,
}

impl Replay<'_> {
    /// Values that must be passed to [`Replay::value`].
    pub const PATHS: [&'static str; 4] =
        ["sampler.token", "sampler.confidence", "sampler.slot_bits", "sampler.select"];

    /// The part of a recorded `[steps, ..]` tensor that belongs to a step.
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

    /// Judges or replaces one value of step `step`.
    pub fn value(&mut self, path: &str, step: u32, value: &mut Tensor) {
        self.seen += u32::from(Replay::PATHS.contains(&path));
        match path {
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

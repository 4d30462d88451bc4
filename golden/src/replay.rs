//! Recorded runs of the sampler, of any model.

use crate::Fixture;
use crate::fixture::{assert_within, last_rows, max_difference, rows, worse};
use crate::runners::Make;
use crate::spy::Spy;
use dream::{Generate, Sampling, Visual};
use dreamc::compile::BuildOptions;
use dreamc_frontend::sampler::Alg;
use dreamc_interp::{Data, Tensor};

/// Of confidences: what the fixtures' README states, for a fixture that does not say it again.
pub const CONFIDENCE_ABS: f32 = 2e-5;

/// Judges `sampling/<case>`: candidates, confidences, the logits of the first step, history. Random draws are replayed.
/// The build is `base` with the case's settings; `joint` as in [`Sampling`].
pub fn judge_sampling(
    fixture: &Fixture,
    case: &str,
    base: &BuildOptions,
    visuals: &[Visual],
    joint: bool,
    make: Make<'_>,
) {
    let settings = &fixture.json["sampling_cases"][case]["settings"];
    let set = |key: &str| settings[key].as_f64();
    let count = |key: &str| set(key).expect("every case states it") as u32;
    let options = BuildOptions {
        alg: settings["alg"].as_str().and_then(Alg::from_name).expect("a known algorithm"),
        steps: count("steps"),
        eps: set("eps").expect("every case states it") as f32,
        new_tokens: count("max_new_tokens"),
        ..base.clone()
    };
    let sampling = Sampling {
        temperature: set("temperature").unwrap_or(0.0) as f32,
        top_p: set("top_p").map(|p| p as f32),
        top_k: set("top_k").map(|k| k as u32),
        alg_temp: set("alg_temp").map(|t| t as f32),
        eos_penalty: set("eos_penalty").unwrap_or(0.0) as f32,
        joint,
        ..Sampling::default()
    };
    let golden = |name: &str| fixture.find(&format!("sampling/{case}/{name}"));
    let mask_token = fixture.json["config"]["mask_token_id"].as_i64().expect("the config states it") as i32;
    let request = Generate {
        prompt: rows(&golden("input_ids").expect("every case has a prompt")),
        attention_mask: golden("attention_mask").map(|m| rows(&m)),
        visuals: visuals.to_vec(),
        canvas: Some(vec![mask_token; options.new_tokens as usize]),
        sampling,
        history: true,
    };
    let stated = fixture.json["tolerance"]["confidence_abs"].as_f64();
    let confidence_abs = stated.map_or(CONFIDENCE_ABS, |limit| limit as f32);
    for mut runner in make(&options) {
        let mut replay = Replay::new(fixture, case, request.sampling.temperature > 0.0);
        let [last, history] = runner.generate(&request, &mut replay);
        assert_eq!(Some(&history), golden("history").as_ref(), "{case}");
        let end = history.ints().len() - last.ints().len();
        assert_eq!(last.ints(), &history.ints()[end..], "{case}");
        replay.finish(options.steps, confidence_abs, fixture.tolerance("logits_abs"));
    }
}

/// Puts recorded draws in the place of random ones, and judges candidates, confidences and the logits of step 0.
pub struct Replay<'a> {
    fixture: &'a Fixture,
    case: &'a str,
    random: bool,
    first: FirstLogits,
    confidence: f32,
    logits: f32,
    seen: u32,
    /// Positions of the open slots of this step, where the sampler looks at no others.
    slots: Option<Slots>,
}

/// The slots of a step, `[B, K]`: ascending, position 0 behind the last.
struct Slots {
    dims: Vec<usize>,
    positions: Vec<i32>,
}

impl Slots {
    fn new(value: &Tensor) -> Option<Slots> {
        let Data::I32(positions) = &value.data else { return None };
        Some(Slots { dims: value.dims.clone(), positions: positions.clone() })
    }

    /// What belongs to the slots of `[B, S]` elements; `none` where there is no slot.
    fn of<T: Copy>(&self, all: &[T], none: T) -> Vec<T> {
        let (rows, k) = (self.dims[0], self.dims[1]);
        let s = all.len() / rows;
        let at = |i: usize| {
            let p = self.positions[i];
            let is_open = i.is_multiple_of(k) || p > self.positions[i - 1];
            if is_open { all[i / k * s + p as usize] } else { none }
        };
        (0..rows * k).map(at).collect()
    }

    fn narrowed(&self, all: &Tensor) -> Tensor {
        let data = match &all.data {
            Data::F32(v) => Data::F32(self.of(v, 0.0)),
            Data::I32(v) => Data::I32(self.of(v, -1)),
            Data::U32(v) => Data::U32(self.of(v, 0)),
            Data::Bool(v) => Data::Bool(self.of(v, false)),
        };
        Tensor { dims: self.dims.clone(), data }
    }
}

/// Where the slots are looked for.
const ACTIVE: &str = "sampler.active";

/// Modules whose results are shown to a [`Replay`].
const PATHS: [&str; 4] = ["sampler.token", "sampler.confidence", "sampler.slot_bits", "sampler.select"];

impl<'a> Replay<'a> {
    /// For `sampling/<case>`; tokens are drawn at random where `random`.
    pub fn new(fixture: &'a Fixture, case: &'a str, random: bool) -> Replay<'a> {
        let first = FirstLogits::new(fixture);
        Replay { fixture, case, random, first, confidence: 0.0, logits: 0.0, seen: 0, slots: None }
    }

    /// Asserts that all was shown and that nothing was further off than this.
    pub fn finish(self, steps: u32, confidence_abs: f32, logits_abs: f32) {
        let Replay { case, ref first, confidence, logits, seen, .. } = self;
        assert!(first.found, "{case}: no logits were shown");
        assert_within(confidence, confidence_abs, &format!("{case}: confidence"));
        assert_within(logits, logits_abs, &format!("{case}: logits of the first step"));
        assert!(seen >= 3 * steps, "{case}: {seen} values were shown");
    }

    fn find(&self, name: &str) -> Option<Tensor> {
        self.fixture.find(&format!("sampling/{}/{name}", self.case))
    }

    /// A `[B, S]` tensor as the sampler has it.
    fn seen(&self, all: Tensor) -> Tensor {
        self.slots.as_ref().map_or_else(|| all.clone(), |slots| slots.narrowed(&all))
    }

    /// The part of a recorded `[steps, B, S]` tensor that belongs to a step, as the sampler has it.
    fn at(&self, name: &str, step: u32) -> Option<Tensor> {
        let all = self.find(name)?;
        let dims = all.dims[1..].to_vec();
        let len: usize = dims.iter().product();
        let range = step as usize * len..(step as usize + 1) * len;
        let data = match &all.data {
            Data::F32(v) => Data::F32(v[range].to_vec()),
            Data::I32(v) => Data::I32(v[range].to_vec()),
            Data::U32(_) | Data::Bool(_) => panic!("not recorded"),
        };
        Some(self.seen(Tensor { dims, data }))
    }
}

impl Spy for Replay<'_> {
    fn wants(&self, path: &str) -> bool {
        PATHS.contains(&path) || path == ACTIVE || self.first.wants(path)
    }

    fn value(&mut self, path: &str, step: u32, value: &mut Tensor) {
        self.seen += u32::from(PATHS.contains(&path));
        match path {
            ACTIVE => self.slots = Slots::new(value),
            _ if self.first.are(path, value) => {
                let Some(recorded) = self.find("first_step_logits") else { return };
                let off = max_difference(&last_rows(value, recorded.dims[1]), &recorded, |_| true);
                self.logits = worse(self.logits, off);
            }
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
                self.confidence = worse(self.confidence, off);
            }
            "sampler.slot_bits" => {
                // A recorded draw is a multiple of 2^-24: exactly the bits that `uniform` reads.
                let Some(recorded) = self.at("rand", step) else { return };
                let bits = recorded.floats().iter().map(|u| ((u * 16_777_216.0) as u32) << 8).collect();
                *value = Tensor::u32(&recorded.dims, bits);
            }
            "sampler.select" => {
                let Some(recorded) = self.find(&format!("transfer_index.{step}")) else { return };
                let Some(history) = self.find("history") else { return };
                let (dims, columns) = (&history.dims[1..], history.columns());
                let mut selected = vec![false; dims.iter().product()];
                for (row, slots) in rows(&recorded).iter().enumerate() {
                    slots.iter().for_each(|p| selected[row * columns + *p as usize] = true);
                }
                *value = self.seen(Tensor::bool(dims, selected));
            }
            _ => {}
        }
    }
}

/// Waits for the logits of the first step, as the sampler reads them: row `i` from position `i - 1`. Passes move the shift
/// before the vocabulary's head; the later of the two gives them.
pub struct FirstLogits {
    vocabulary: usize,
    shifted: bool,
    /// Whether they were shown.
    pub found: bool,
}

impl FirstLogits {
    /// For a fixture with a model.
    pub fn new(fixture: &Fixture) -> FirstLogits {
        let vocabulary =
            fixture.json["config"]["vocab_size"].as_u64().expect("the config states it") as usize;
        FirstLogits { vocabulary, shifted: false, found: false }
    }

    /// Whether they may be what this module gives.
    pub fn wants(&self, path: &str) -> bool {
        !self.found && ["sampler.shift", "lm_head"].contains(&path)
    }

    /// Whether they are this value.
    pub fn are(&mut self, path: &str, value: &Tensor) -> bool {
        if !self.wants(path) {
            return false;
        }
        self.shifted |= path == "sampler.shift";
        self.found = self.shifted && value.columns() == self.vocabulary;
        self.found
    }
}

//! The trained policies of `fixtures/tabletop-*`, built, loaded and run: what they make of single observations, and
//! whether the robot picks up the block.

use crate::Fixture;
use crate::fixture::{max_difference, note};
use crate::runners::Place;
use dream::chat::{Message, render};
use dream::{ActOptions, DeviceChoice, Forward, Image, Model, OpenOptions, Output, Policy, Visual};
use dreamc::compile::{self, BuildOptions, Entry, Quantization};
use dreamc_artifact::plan::Dispatch;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_interp::Tensor;
use dreamc_num::DType;
use dreamc_runtime::{Observer, Shown};
use serde_json::Value;
use std::path::PathBuf;
use tabletop::episode::{ACTION_DIM, QUERIES_MAX};
use tabletop::{Robot, Scene};
use tempfile::TempDir;

/// Tolerances of the fixture's README, for f32.
const PIXELS_ABS: f32 = 2e-6;
const IMAGE_ROWS_ABS: f32 = 5e-5;
const LOGITS_ABS: f32 = 5e-4;
const NORMALIZED_ABS: f32 = 1e-4;
/// Pixels and the gripper: normalised actions span 2, pixels 20.
const ACTIONS_ABS: f32 = 10.0 * NORMALIZED_ABS;
/// Of 100 episodes.
const SUCCESS_POINTS: i64 = 2;
const EXACT_POINTS: i64 = 6;
/// In f32. An action next to a half may round otherwise on another instruction set.
const SAME_MIN: i64 = 95;

/// A trained policy with the reference's own outputs.
pub struct Trained {
    /// The folder.
    pub fixture: Fixture,
    /// How it makes actions.
    pub mode: Mode,
    chunk: usize,
    place: Place<'static>,
    quant: Option<Quantization>,
}

/// An artifact; the file goes when this does.
pub struct Artifact {
    folder: TempDir,
    place: Place<'static>,
}

impl Trained {
    /// Opens `fixtures/<name>`.
    pub fn open(name: &str) -> Trained {
        let fixture = Fixture::open(name);
        let mode = fixture.json["mode"].as_str().and_then(Mode::from_name).expect("a known mode");
        let chunk = fixture.json["chunk"].as_u64().expect("it states its chunk") as usize;
        Trained { fixture, mode, chunk, place: Place::Cpu, quant: None }
    }

    /// The same, built for another place.
    #[must_use]
    pub fn on(self, place: Place<'static>) -> Trained {
        Trained { place, ..self }
    }

    /// The same with weights in few bits.
    #[must_use]
    pub fn stored(self, quant: Quantization) -> Trained {
        Trained { quant: Some(quant), ..self }
    }

    /// Numbers of steps that the reference has results for.
    pub fn steps(&self) -> Vec<u32> {
        let steps = self.fixture.cases("success_of_100_by_steps");
        steps.iter().map(|n| n.parse().expect("steps are numbers")).collect()
    }

    /// Builds it with this entry besides those that are judged in f32.
    pub fn build(&self, steps: u32, dtype: DType, entries: &[Entry]) -> Artifact {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let options =
            BuildOptions { output: folder.path().join(FILE), ..self.options(steps, dtype, entries) };
        compile::build(&options, &mut ()).unwrap_or_else(|e| panic!("{e}"));
        Artifact { folder, place: self.place }
    }

    /// What is built, but for the place of the file.
    pub fn options(&self, steps: u32, dtype: DType, entries: &[Entry]) -> BuildOptions {
        BuildOptions {
            targets: vec![self.place.target(dtype)],
            emit: None,
            cache: None,
            sources: false,
            checkpoint: self.fixture.path("checkpoint"),
            output: PathBuf::new(),
            dtype,
            steps,
            eps: 1e-3,
            alg: Alg::MaskgitPlus,
            new_tokens: 37,
            max_slots: None,
            max_prompt: 64,
            max_batch: 1,
            entries: entries.to_vec(),
            image: Some([112, 112]),
            act: compile::ActOptions {
                mode: self.mode,
                chunk: self.chunk as u32,
                proprio: self.fixture.json["settings"]["proprio"] == true,
                ..compile::ActOptions::default()
            },
            lora: None,
            quant: self.quant.clone(),
            allow_non_finite: false,
            candidates: None,
            verify_each: false,
            without: vec![],
            golden: None,
            warm: vec![],
        }
    }

    /// Builds it to act.
    pub fn robot(&self, steps: u32, dtype: DType) -> Robot {
        // The file may go: its map stays.
        self.build(steps, dtype, &[Entry::Act]).robot(1)
    }

    /// Noise of a query: row `at` of a golden tensor, if the mode starts from noise.
    fn noise(&self, name: &str) -> Option<Tensor> {
        self.mode.is_continuous_loop().then(|| self.fixture.tensor(name))
    }

    fn observations(&self) -> Vec<(Scene, &Value)> {
        let all = self.fixture.json["observations"].as_array().expect("it has observations");
        assert_eq!(all.len(), 50);
        all.iter().map(|about| (Scene::new(about["seed"].as_u64().expect("a seed")), about)).collect()
    }
}

/// Name of a built file in its folder.
const FILE: &str = "model.dream";

impl Artifact {
    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    /// Opens it where it was built for; `threads` are the CPU's.
    pub fn model(&self, threads: usize) -> Model {
        let device = DeviceChoice::Only(self.place.device());
        let options = OpenOptions { threads, device, ..OpenOptions::default() };
        Model::open(&self.path(), &options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Opens it to act.
    pub fn robot(&self, threads: usize) -> Robot {
        let policy = Policy::of(self.model(threads)).unwrap_or_else(|e| panic!("{e}"));
        Robot::new(policy).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// What the camera sees.
fn image(scene: &Scene) -> Image {
    let side = tabletop::scene::SIDE as u32;
    Image::from_rgb8(side, side, scene.frame()).expect("a frame is an image")
}

/// Row `at` of a tensor of rows.
fn row(tensor: &Tensor, at: usize) -> Tensor {
    let dims = &tensor.dims[1..];
    let len: usize = dims.iter().product();
    Tensor::f32(dims, tensor.floats()[at * len..][..len].to_vec())
}

fn close(found: &Tensor, wanted: &Tensor, limit: f32, what: &str) {
    let off = max_difference(found, wanted, |_| true);
    note(off, limit, what);
    assert!(off < limit, "{what} is off by {off}");
}

/// Entries of the build that [`judge_vision`] judges.
pub const VISION_ENTRIES: [Entry; 3] = [Entry::Forward, Entry::EncodeImage, Entry::Act];

/// Prompts, pixels, image rows and, where the reference has them, the logits of an empty canvas, in f32.
pub fn judge_vision(trained: &Trained) {
    let mut model = trained.build(1, DType::F32, &VISION_ENTRIES).model(1);
    let processor = model.settings().expect("it sees").images.processor.clone();
    let mask = model.manifest().model.mask_token_id as i32;
    let (pixels, rows) = (trained.fixture.tensor("pixel_values"), trained.fixture.tensor("image_rows"));
    let logits = trained.fixture.find("canvas_logits");
    for (k, (scene, about)) in trained.observations().iter().enumerate() {
        let image = image(scene);
        let visuals = [Visual::Image(image.clone())];
        let text = render(&[Message::action(1, &scene.instruction())], true);
        let prompt = model.encode_with(&text, &visuals).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(prompt, ids(&about["prompt_ids"]), "observation {k}");

        if k < pixels.dims[0] {
            let patches = processor.preprocess(&[image]).expect("a frame has patches");
            let found = Tensor::f32(&pixels.dims[1..], patches.values);
            close(&found, &row(&pixels, k), PIXELS_ABS, &format!("observation {k}: pixel_values"));
        }
        let Output { data, .. } =
            model.encode_image(&visuals, &[]).unwrap_or_else(|e| panic!("{e}")).remove(0);
        let found = Tensor::f32(&rows.dims[1..], data);
        close(&found, &row(&rows, k), IMAGE_ROWS_ABS, &format!("observation {k}: image_rows"));

        let Some(wanted) = logits.as_ref().filter(|all| k < all.dims[0]).map(|all| row(all, k)) else {
            continue;
        };
        let (slots, columns) = (wanted.dims[0], wanted.columns());
        let canvas = [prompt.clone(), vec![mask; slots]].concat();
        let request = Forward { input_ids: vec![canvas], visuals: visuals.to_vec(), ..Forward::default() };
        let Output { data, .. } = model.forward(&request, &[]).unwrap_or_else(|e| panic!("{e}")).remove(0);
        // A row predicts the token after it.
        let shifted = data[(prompt.len() - 1) * columns..][..slots * columns].to_vec();
        let found = Tensor::f32(&wanted.dims, shifted);
        close(&found, &wanted, LOGITS_ABS, &format!("observation {k}: canvas_logits"));
    }
}

fn ids(value: &Value) -> Vec<i32> {
    let id = |n: &Value| n.as_i64().expect("ids are integers") as i32;
    value.as_array().expect("a list of ids").iter().map(id).collect()
}

/// Chunks of all observations in f32: tokens where the reference's choice is clear, numbers in the other modes.
pub fn judge_observations(trained: &Trained, steps: u32, robot: &mut Robot) {
    let suffix = if trained.mode == Mode::L1 { String::new() } else { format!("_steps{steps}") };
    let actions = trained.fixture.tensor(&format!("actions{suffix}"));
    let normalized = trained.fixture.find(&format!("normalised{suffix}"));
    let velocity = trained.fixture.find("velocity_t0");
    let noise = trained.noise("obs_noise");
    let mut clear = 0;
    for (k, (scene, about)) in trained.observations().iter().enumerate() {
        let options = ActOptions {
            noise: noise.as_ref().map(|all| row(all, k).floats().to_vec()),
            ..ActOptions::default()
        };
        let mut seen = Seen::default();
        let chunk = robot.act_with(scene, &options, &mut seen).unwrap_or_else(|e| panic!("{e}"));
        let about_k = format!("{steps} steps, observation {k}");
        let dims = &actions.dims[1..];
        let tensor = |rows: &[Vec<f64>]| Tensor::f32(dims, rows.concat().iter().map(|x| *x as f32).collect());
        if let Some(found) = &chunk.token_ids {
            let wanted = &about[format!("steps{steps}")];
            // The flag says that two runs with noise gave the same; a tie of slots can hide from it.
            let is_clear = wanted["stable_1e-3"] == true
                && seen.gap.is_none_or(|gap| gap > 1e-3)
                && (steps > 1 || wanted["tok_margin"].as_f64().is_some_and(|margin| margin > 1e-3));
            if is_clear {
                clear += 1;
                assert_eq!(*found, ids(&wanted["ids"])[..found.len()], "{about_k}");
                close(&tensor(&chunk.actions), &row(&actions, k), 1e-5, &format!("{about_k}: actions"));
            }
        } else {
            let wanted = normalized.as_ref().expect("heads have golden outputs");
            let found = tensor(&chunk.normalized);
            close(&found, &row(wanted, k), NORMALIZED_ABS, &format!("{about_k}: normalised actions"));
            close(&tensor(&chunk.actions), &row(&actions, k), ACTIONS_ABS, &format!("{about_k}: actions"));
        }
        if let Some(wanted) = &velocity {
            assert_eq!(seen.velocities.len(), steps as usize, "{about_k}");
            let found = Tensor::f32(dims, seen.velocities.remove(0));
            close(&found, &row(wanted, k), NORMALIZED_ABS, &format!("{about_k}: velocity"));
        }
    }
    assert!(trained.mode != Mode::Discrete || clear >= 40, "{steps} steps: {clear} observations are clear");
}

/// Keeps the velocities, and how clear it was which slots a step commits.
#[derive(Default)]
struct Seen {
    velocities: Vec<Vec<f32>>,
    confidence: Vec<f32>,
    /// Least distance between a slot that was committed and one that was not, as a difference of logits.
    gap: Option<f32>,
}

const VELOCITY: &str = "action_head.fc2";
const CONFIDENCE: &str = "sampler.confidence";
const SELECT: &str = "sampler.select";

impl Observer for Seen {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        dispatch.origin.last().is_some_and(|path| [VELOCITY, CONFIDENCE, SELECT].contains(&path.as_str()))
    }

    fn after(&mut self, shown: Shown<'_>) {
        let floats = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match shown.dispatch.origin.last().map(String::as_str) {
            Some(VELOCITY) => self.velocities.push(floats(shown.bytes)),
            Some(CONFIDENCE) => self.confidence = floats(shown.bytes),
            Some(SELECT) => {
                let logit = |p: f32| (p / (1.0 - p)).ln();
                // GPUs keep conditions as words.
                let conditions =
                    shown.bytes.chunks(shown.dtype.bytes()).map(|c| c.iter().any(|byte| *byte != 0));
                let slots: Vec<(f32, bool)> = self.confidence.iter().copied().zip(conditions).collect();
                let of = |selected: bool| {
                    // Other places than empty slots have no confidence.
                    slots.iter().filter(move |(p, s)| *p > 0.0 && *s == selected).map(move |(p, _)| logit(*p))
                };
                let least = of(true).reduce(f32::min);
                let gap = least.zip(of(false).reduce(f32::max)).map(|(least, next)| least - next);
                self.gap = [self.gap, gap].into_iter().flatten().reduce(f32::min);
            }
            _ => {}
        }
    }
}

/// All episodes, closed loop: as many successes as the reference, up to some points. With `closely`, for f32, also as many
/// within 2 pixels, and nearly every episode ends in the reference's place after as many actions. Returns a line that says
/// how many.
pub fn judge_episodes(trained: &Trained, steps: u32, robot: &mut Robot, closely: bool) -> String {
    let json = &trained.fixture.json;
    let episodes = json["episodes"].as_array().expect("it has episodes");
    assert_eq!(episodes.len(), 100);
    let noise = trained.noise("episode_noise");
    let per_episode = QUERIES_MAX * trained.chunk * ACTION_DIM;
    let (mut success, mut exact, mut same) = (0, 0, 0);
    for (k, wanted) in episodes.iter().enumerate() {
        let seed = wanted["seed"].as_u64().expect("a seed");
        let noise = noise.as_ref().map(|all| &all.floats()[k * per_episode..][..per_episode]);
        let ran = robot.episode(seed, noise, |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let (outcome, wanted) = (ran.outcome, &wanted[steps.to_string()]);
        success += i64::from(outcome.success);
        exact += i64::from(outcome.is_exact());
        let end = ids(&wanted["final"]);
        same += i64::from(wanted["actions"] == outcome.actions && end == outcome.grip);
    }
    let reference = |key: &str| json[key][steps.to_string()].as_i64().expect("the reference counted");
    let (wanted, wanted_exact) =
        (reference("success_of_100_by_steps"), reference("within_2px_of_100_by_steps"));
    let mode = trained.mode.name();
    assert!((success - wanted).abs() <= SUCCESS_POINTS, "{mode}, {steps} steps: {success}, not {wanted}");
    assert!(
        !closely || (exact - wanted_exact).abs() <= EXACT_POINTS,
        "{mode}, {steps} steps: {exact} within 2 pixels, not {wanted_exact}"
    );
    assert!(
        !closely || same >= SAME_MIN,
        "{mode}, {steps} steps: only {same} episodes end as the reference's"
    );
    format!(
        "{mode}, {steps} steps: success {success} (reference {wanted}), within 2 px {exact} ({wanted_exact}), \
         {same} episodes end as the reference's"
    )
}

//! The cases of `fixtures/tiny-vla` that run the model, judged at the fixture's own tolerances.

use crate::Fixture;
use crate::fixture::{assert_within, last_rows, max_difference, rows};
use crate::replay::{CONFIDENCE_ABS, FirstLogits};
use crate::runners::{Make, build_options};
use crate::spy::Spy;
use dream::{Actions, Forward, Patches, Visual};
use dreamc::compile::{ActOptions, BuildOptions, Entry};
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_interp::Tensor;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Acts on the observation of a case.
pub trait Actor {
    /// A chunk of actions. Every value that `spy` wants is shown to it.
    fn act(&mut self, case: &Case<'_>, spy: &mut dyn Spy) -> Actions;
}

/// Makes all that shall compute the cases of a build.
pub type MakeActors<'a> = &'a dyn Fn(&BuildOptions) -> Vec<Box<dyn Actor>>;

/// In which form heads lie beside the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFiles {
    /// As training writes them: `.pt`.
    Archives,
    /// The same tensors as safetensors.
    Safetensors,
}

/// Token ids of which the fixture has logits: from this one on.
const FIRST_LOGIT: usize = 151_660;
/// Name of the robot's data set.
const KEY: &str = "libero_tiny_no_noops";

/// An observation and how it is acted on.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// `fixtures/tiny-vla`.
    pub fixture: &'a Fixture,
    /// Its name there.
    pub name: &'a str,
    /// How actions are made.
    pub mode: Mode,
    /// Number of images.
    pub images: usize,
    /// Whether the robot's state is given.
    pub proprio: bool,
}

impl<'a> Case<'a> {
    fn new(fixture: &'a Fixture, name: &'a str) -> Case<'a> {
        let modes = [
            ("discrete_diffusion", Mode::Discrete),
            ("discrete_one_pass", Mode::OneStep),
            ("l1", Mode::L1),
            ("flow", Mode::Flow),
            ("diffusion_ddim", Mode::Ddim),
        ];
        let mode = modes.iter().find(|(prefix, _)| name.starts_with(prefix));
        let mode = mode.unwrap_or_else(|| panic!("`{name}` is of no known mode")).1;
        let about = &fixture.json["cases"][name];
        let images = about["images"].as_u64().expect("it is stated") as usize;
        let proprio = about["proprio"].as_bool().expect("it is stated");
        Case { fixture, name, mode, images, proprio }
    }

    fn about(&self) -> &'a serde_json::Value {
        &self.fixture.json["cases"][self.name]
    }

    /// What the robot is to do.
    pub fn task(&self) -> &'a str {
        self.fixture.json["prompts"][0]["task"].as_str().expect("it is stated")
    }

    fn ids(&self) -> Tensor {
        self.fixture.tensor(&format!("inputs/images{}/input_ids", self.images))
    }

    /// The recorded prompt, its images expanded.
    pub fn prompt(&self) -> Vec<i32> {
        self.ids().ints().to_vec()
    }

    /// Number of action tokens.
    pub fn slots(&self) -> usize {
        let [chunk, dim] = ["action_chunk", "action_dim"].map(|key| self.fixture.json["robot"][key].as_u64());
        (chunk.expect("it is stated") * dim.expect("it is stated")) as usize
    }

    fn constant(&self, value: &serde_json::Value) -> i32 {
        value.as_i64().expect("the constants are stated") as i32
    }

    /// The token that stands at slots which are no masks.
    pub fn placeholder(&self) -> i32 {
        self.constant(&self.fixture.json["constants"]["placeholder_action_token"])
    }

    /// What follows the slots.
    pub fn suffix(&self) -> [i32; 2] {
        [0, 1].map(|i| self.constant(&self.fixture.json["constants"]["suffix_tokens"][i]))
    }

    /// The recorded patches of its images.
    pub fn patches(&self) -> Vec<Patches> {
        self.fixture.patches("inputs/pixel_values", &format!("inputs/images{}/image_grid_thw", self.images))
    }

    /// The files of its images.
    pub fn image_files(&self) -> Vec<PathBuf> {
        (0..self.images).map(|i| self.fixture.path(&format!("images/cam{i}.png"))).collect()
    }

    /// The noise to begin with, where the mode takes one.
    pub fn noise(&self) -> Option<Vec<f32>> {
        self.mode.is_continuous_loop().then(|| self.fixture.tensor("inputs/noise").floats().to_vec())
    }

    fn golden(&self, name: &str) -> Option<Tensor> {
        self.fixture.find(&format!("predict/{}/{name}", self.name))
    }

    fn recorded(&self, name: &str) -> Tensor {
        self.golden(name).unwrap_or_else(|| panic!("{}: there is no `{name}`", self.name))
    }

    /// Steps that a build is asked for.
    fn steps(&self) -> u32 {
        let about = self.about();
        let stated = || about["settings"]["steps"].as_u64().or_else(|| about["iterations"].as_u64());
        let listed = about["timesteps"].as_array().map(|list| list.len() as u64);
        listed.or_else(stated).unwrap_or(1) as u32
    }

    fn options(&self, checkpoint: &Path) -> BuildOptions {
        let alg = self.about()["settings"]["alg"].as_str().and_then(Alg::from_name);
        BuildOptions {
            alg: alg.unwrap_or(Alg::MaskgitPlus),
            steps: self.steps(),
            max_prompt: self.prompt().len() as u32,
            max_batch: 1,
            entries: vec![Entry::Act],
            act: ActOptions {
                mode: self.mode,
                views: self.images as u32,
                proprio: self.proprio,
                unnorm_key: Some(KEY.to_owned()),
                ..ActOptions::default()
            },
            ..build_options(checkpoint)
        }
    }

    /// The folder of the fixture that has the mode's head.
    fn objective(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Discrete | Mode::OneStep => None,
            Mode::L1 => Some("l1_regression"),
            Mode::Flow => Some("flow_matching"),
            Mode::Ddim => Some("diffusion"),
        }
    }
}

/// A folder as a user has it: the checkpoint, the files of its tokenizer, and the heads of some folders of `heads/`.
pub fn checkpoint(fixture: &Fixture, heads: &[&str], form: HeadFiles) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let take = |path: &Path| {
        let to = folder.path().join(path.file_name().expect("it is a file"));
        let linked = std::fs::hard_link(path, &to).or_else(|_| std::fs::copy(path, &to).map(|_| ()));
        linked.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    };
    let all = |dir: PathBuf| {
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        entries.map(|entry| entry.expect("the folder can be read").path())
    };
    all(fixture.path("checkpoint")).for_each(|path| take(&path));
    ["vocab.json", "merges.txt"].iter().for_each(|name| take(&fixture.path(&format!("../tokenizer/{name}"))));
    let extension = match form {
        HeadFiles::Archives => "pt",
        HeadFiles::Safetensors => "safetensors",
    };
    for head in heads {
        let files = all(fixture.path(&format!("heads/{head}")));
        files.filter(|path| path.extension().is_some_and(|e| e == extension)).for_each(|path| take(&path));
    }
    folder
}

/// One pass over a prompt with empty slots, from patches and from the image file.
pub fn judge_forward(make: Make<'_>, fused: bool) {
    let fixture = Fixture::open("tiny-vla");
    let folder = checkpoint(&fixture, &[], HeadFiles::Archives);
    let ids = rows(&fixture.tensor("forward/input_ids"));
    let options = BuildOptions {
        max_prompt: ids[0].len() as u32,
        max_batch: 1,
        entries: vec![Entry::Forward],
        ..build_options(folder.path())
    };
    let probes = [("model.inputs_embeds", "inputs_embeds"), ("model.norm", "hidden_final")];
    let in_patches = fixture.patches("inputs/pixel_values", "inputs/images1/image_grid_thw");
    let in_patches = in_patches.into_iter().map(Visual::ImagePatches).collect();
    for mut runner in make(&options) {
        for visuals in [&in_patches, &crate::vl::files(&fixture, &["cam0"])] {
            let request = Forward { input_ids: ids.clone(), visuals: visuals.clone(), ..Forward::default() };
            let mut judged = 0;
            for (path, value) in runner.forward(&request, &probes.map(|(path, _)| path)) {
                let name = probes.iter().find(|(p, _)| *p == path).map_or("logits_slice", |(_, name)| name);
                let wanted = fixture.tensor(&format!("forward/{name}"));
                let (value, limit) = match name {
                    "logits_slice" => (sliced(&value, wanted.columns()), "logits_abs"),
                    _ => (value, "hidden_abs"),
                };
                let off = max_difference(&value, &wanted, |_| true);
                assert_within(off, fixture.tolerance(limit), &format!("forward: {path}"));
                judged += 1;
            }
            assert!(judged > if fused { 0 } else { probes.len() }, "{judged} values judged");
        }
    }
}

/// The recorded columns of logits.
fn sliced(logits: &Tensor, columns: usize) -> Tensor {
    let rows = logits.floats().chunks(logits.columns());
    let kept = rows.flat_map(|row| &row[FIRST_LOGIT..FIRST_LOGIT + columns]).copied().collect();
    let outer = &logits.dims[..logits.dims.len() - 1];
    Tensor::f32(&[outer, &[columns]].concat(), kept)
}

/// Every case of `predict/` in some modes: what the model says on the way, tokens, actions. `fused` for runners in which
/// the norm before the vocabulary's head cannot be seen.
pub fn judge_predict(modes: &[Mode], form: HeadFiles, make: MakeActors<'_>, fused: bool) {
    judge_cases(&|case| modes.contains(&case.mode), form, make, fused);
}

/// The cases of these names, as [`judge_predict`] judges them.
pub fn judge_predict_named(names: &[&str], form: HeadFiles, make: MakeActors<'_>, fused: bool) {
    judge_cases(&|case| names.contains(&case.name), form, make, fused);
}

fn judge_cases(chosen: &dyn Fn(&Case<'_>) -> bool, form: HeadFiles, make: MakeActors<'_>, fused: bool) {
    let fixture = Fixture::open("tiny-vla");
    let names = fixture.cases("cases");
    assert_eq!(names.len(), 17);
    for name in &names {
        let case = Case::new(&fixture, name);
        if !chosen(&case) {
            continue;
        }
        let heads: Vec<&str> =
            case.objective().into_iter().chain(case.proprio.then_some("proprio")).collect();
        let folder = checkpoint(&fixture, &heads, form);
        for mut actor in make(&case.options(folder.path())) {
            // End to end unless the fixture says that this is chaotic; DDIM also step by step.
            if !case.about()["compare"].is_string() {
                judge_case(&case, actor.as_mut(), fused, false);
            }
            if case.mode == Mode::Ddim {
                judge_case(&case, actor.as_mut(), fused, true);
            }
        }
    }
}

/// `by_step` gives every step the recorded state to begin with.
fn judge_case(case: &Case<'_>, actor: &mut dyn Actor, fused: bool, by_step: bool) {
    let fixture = case.fixture;
    let mut watch = Watch { case, by_step, first: FirstLogits::new(fixture), hidden: None, judged: 0 };
    let found = actor.act(case, &mut watch);
    let Watch { hidden, judged, .. } = watch;
    let expected = match case.mode {
        // Logits and confidence of the first step, a canvas in each.
        Mode::Discrete => 2 + case.steps(),
        Mode::OneStep => 1,
        Mode::L1 | Mode::Flow => 0,
        Mode::Ddim => 2 * case.steps(),
    };
    assert_eq!(judged, expected, "{}: values judged on the way", case.name);
    assert_eq!(found.forwards, case.steps(), "{}", case.name);
    if let Some(wanted) = case.golden("actions_hidden")
        && !(fused && case.mode == Mode::OneStep)
        // What the last step of DDIM begins with may be further off than its rows.
        && (by_step || case.mode != Mode::Ddim)
    {
        let off = max_difference(&hidden.expect("it was shown"), &wanted, |_| true);
        assert_within(off, fixture.tolerance("hidden_abs"), &format!("{}: actions_hidden", case.name));
    }
    let limit = match case.mode {
        Mode::Discrete | Mode::OneStep => "token_actions_abs",
        Mode::L1 => "predict_l1_abs",
        Mode::Flow => "predict_flow_abs",
        Mode::Ddim => "predict_diffusion_abs",
    };
    let limit = fixture.json["tolerance"][limit].as_f64().expect("it is stated");
    let lists = [("actions", &found.actions), ("normalized_actions", &found.normalized)];
    for (list, values) in lists {
        if case.mode == Mode::Discrete && list == "normalized_actions" {
            // Not recorded there.
            continue;
        }
        let wanted = fixture.doubles(&format!("predict/{}/{list}", case.name));
        let found = values.concat();
        assert_eq!(found.len(), wanted.len(), "{}", case.name);
        let off = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(found.iter().all(|x| x.is_finite()), "{}: {list} {found:?}", case.name);
        assert!(off <= limit, "{}: {list} off by {off}", case.name);
    }
    let recorded = match case.mode {
        Mode::Discrete => {
            let history = case.recorded("history");
            Some(history.ints()[history.ints().len() - history.columns()..][..case.slots()].to_vec())
        }
        Mode::OneStep => Some(case.recorded("token_ids").ints().to_vec()),
        Mode::L1 | Mode::Flow | Mode::Ddim => None,
    };
    assert_eq!(found.token_ids, recorded, "{}", case.name);
    let outside = found.token_ids.iter().flatten().filter(|id| !(151_667..151_923).contains(*id)).count();
    assert_eq!(found.outside, outside, "{}", case.name);
}

/// Judges what the model says on the way.
struct Watch<'a> {
    case: &'a Case<'a>,
    by_step: bool,
    first: FirstLogits,
    /// The rows that the actions are read from, of the last step.
    hidden: Option<Tensor>,
    judged: u32,
}

impl Watch<'_> {
    fn within(&mut self, off: f32, limit: f32, what: &str, step: u32) {
        assert_within(off, limit, &format!("{}: {what} of step {step}", self.case.name));
        self.judged += 1;
    }

    /// Part `step` of a recorded trajectory, `[chunk, action_dim]`.
    fn at(&self, name: &str, step: u32) -> Option<Tensor> {
        let all = self.case.recorded(&format!("trajectory/{name}"));
        let size = all.dims[1] * all.dims[2];
        let part = all.floats().chunks(size).nth(step as usize)?;
        Some(Tensor::f32(&[1, all.dims[1], all.dims[2]], part.to_vec()))
    }
}

impl Spy for Watch<'_> {
    fn wants(&self, path: &str) -> bool {
        match self.case.mode {
            Mode::Discrete => {
                self.first.wants(path) || ["sampler.confidence", "sampler.canvas"].contains(&path)
            }
            Mode::OneStep => ["model.norm", "lm_head"].contains(&path),
            Mode::L1 | Mode::Flow => path == "model.norm",
            Mode::Ddim => ["model.norm", "action_head.fc2", "actions.next"].contains(&path),
        }
    }

    fn value(&mut self, path: &str, step: u32, value: &mut Tensor) {
        let (case, fixture) = (self.case, self.case.fixture);
        match path {
            "model.norm" => self.hidden = Some(value.clone()),
            _ if case.mode == Mode::Discrete && self.first.are(path, value) => {
                let wanted = case.recorded("first_step_action_logits");
                let mut found = sliced(&last_rows(value, wanted.dims[0]), wanted.columns());
                found.dims.remove(0);
                let off = max_difference(&found, &wanted, |_| true);
                self.within(off, fixture.tolerance("logits_abs"), "action logits", step);
            }
            "lm_head" if case.mode == Mode::OneStep => {
                let wanted = case.recorded("action_logits");
                let off = max_difference(&sliced(value, wanted.columns()), &wanted, |_| true);
                self.within(off, fixture.tolerance("logits_abs"), "action logits", step);
            }
            "sampler.confidence" if step == 0 => {
                let wanted = case.recorded("first_step_confidence");
                let n = wanted.floats().len();
                let found = Tensor::f32(&[n], value.floats()[value.floats().len() - n..].to_vec());
                self.within(max_difference(&found, &wanted, |_| true), CONFIDENCE_ABS, "confidence", step);
            }
            "sampler.canvas" => {
                let history = case.recorded("history");
                let wanted = &rows(&history)[step as usize];
                let found = &value.ints()[value.ints().len() - wanted.len()..];
                assert_eq!(found, wanted, "{}: step {step}", case.name);
                self.judged += 1;
            }
            "action_head.fc2" | "actions.next" => {
                let name = if path == "actions.next" { "prev_sample" } else { "noise_pred" };
                let wanted = self.at(name, step).expect("every step is recorded");
                let off = max_difference(value, &wanted, |_| true);
                self.within(off, fixture.tolerance("predict_diffusion_abs"), name, step);
                if path == "actions.next"
                    && self.by_step
                    && let Some(next) = self.at("sample", step + 1)
                {
                    *value = next;
                }
            }
            _ => {}
        }
    }
}

//! Who computes the cases that act.

use super::compiled::{Built, Place, everywhere};
use super::interpreter::{Interpreter, Named, sampling, tower};
use crate::emulator::Emulator;
use crate::spy::{Spy, Spying};
use crate::vla::{Actor, Case};
use dream::{ActOptions, Actions, DeviceKind, Image, Model, Observation, Patches, Policy, Sampling};
use dreamc::compile::BuildOptions;
use dreamc_front::action::ActionTokens;
use dreamc_frontend::module::ACT;
use dreamc_frontend::vla::Mode;
use dreamc_interp::Tensor;
use std::rc::Rc;

/// An artifact that acts: it is given files and the robot's own numbers.
pub struct CompiledPolicy {
    policy: Policy,
    /// Keeps the artifact as long as it is mapped.
    _built: Rc<Built>,
}

impl CompiledPolicy {
    /// Builds an artifact and opens it on the CPU, for every instruction set.
    pub fn all(options: &BuildOptions) -> Vec<Box<dyn Actor>> {
        CompiledPolicy::of(Place::Cpu, options)
    }

    /// Builds an artifact and opens it on the WebGPU adapter.
    pub fn wgpu(options: &BuildOptions) -> Vec<Box<dyn Actor>> {
        CompiledPolicy::of(Place::Wgpu, options)
    }

    /// Builds an artifact and opens it on an emulated device.
    pub fn emulated(emulator: &Emulator, kind: DeviceKind, options: &BuildOptions) -> Vec<Box<dyn Actor>> {
        CompiledPolicy::of(Place::Emulated(emulator, kind), options)
    }

    /// Builds an artifact for a place, and opens it there.
    pub fn of(place: Place<'_>, options: &BuildOptions) -> Vec<Box<dyn Actor>> {
        everywhere(place, options, |model: Model, built| {
            let policy = Policy::of(model).unwrap_or_else(|e| panic!("{e}"));
            Box::new(CompiledPolicy { policy, _built: built }) as Box<dyn Actor>
        })
    }
}

impl Actor for CompiledPolicy {
    fn act(&mut self, case: &Case<'_>, spy: &mut dyn Spy) -> Actions {
        let images: Vec<Image> = case
            .image_files()
            .iter()
            .map(|path| Image::open(path).unwrap_or_else(|e| panic!("{e}")))
            .collect();
        let proprio = case.proprio.then(|| case.fixture.doubles("inputs/proprio_raw"));
        let observation = Observation { images: &images, task: case.task(), proprio: proprio.as_deref() };
        let options = ActOptions { noise: case.noise(), ..ActOptions::default() };
        self.policy.act_with(&observation, &options, &mut Spying(spy)).unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Interpreter {
    /// As the cases that act take them.
    pub fn actor(options: &BuildOptions, optimized: bool) -> Vec<Box<dyn Actor>> {
        vec![Box::new(Interpreter::new(options, optimized))]
    }

    /// The inputs of `act`, made of the recorded ones.
    fn act_inputs(&self, case: &Case<'_>) -> Named {
        let fixture = case.fixture;
        let (prompt, slots) = (case.prompt(), case.slots());
        let (slot, suffix) = match case.mode {
            Mode::Discrete => (self.mask_token(), [self.mask_token(); 2]),
            Mode::OneStep | Mode::L1 | Mode::Flow | Mode::Ddim => (case.placeholder(), case.suffix()),
        };
        let ids: Vec<i32> =
            prompt.iter().copied().chain(std::iter::repeat_n(slot, slots)).chain(suffix).collect();
        let before = usize::from(case.proprio) + usize::from(case.mode.is_continuous_loop());
        let (length, all) = (ids.len(), ids.len() + before);
        let row = |values: Vec<i32>| Tensor::i32(&[1, values.len()], values);
        let in_slots = |value: &dyn Fn(usize) -> i32| {
            let place = |p: usize| p.checked_sub(prompt.len()).filter(|q| *q < slots).map_or(-1, value);
            row((0..length).map(place).collect())
        };
        let patches: Vec<Patches> = case.patches();
        let index = self.image_index(&prompt, &patches).into_iter().chain(std::iter::repeat(-1)).take(length);
        let first = before + prompt.len() - 1;
        let mut named = vec![
            ("image_index", row(index.collect())),
            ("attention_mask", row(vec![1; all])),
            ("position_ids", row((1..=all as i32).collect())),
            ("slot_index", in_slots(&|q| if case.mode.is_continuous_loop() { q as i32 } else { 0 })),
            ("action_rows", row((first..first + slots).map(|p| p as i32).collect())),
            ("noise", fixture.tensor("inputs/noise")),
        ];
        let mut proprio = fixture.tensor("inputs/proprio_normalized");
        proprio.dims.insert(0, 1);
        named.push(("proprio", proprio));
        named.push((if case.mode == Mode::Discrete { "canvas" } else { "input_ids" }, row(ids)));
        named.extend(sampling(&Sampling::default()));
        named.extend(tower(&patches));
        named
    }
}

impl Actor for Interpreter {
    fn act(&mut self, case: &Case<'_>, spy: &mut dyn Spy) -> Actions {
        let named = self.act_inputs(case);
        let output = self.run(ACT, &named, &mut Spying(spy)).remove(0);
        let (normalized, token_ids, outside) = match case.mode {
            Mode::Discrete | Mode::OneStep => {
                let first = if case.mode == Mode::Discrete { case.prompt().len() } else { 0 };
                let ids = output.ints()[first..first + case.slots()].to_vec();
                let vocabulary = case.fixture.json["vocab_len"].as_u64().expect("it is stated") as usize;
                let tokens = ActionTokens::new(case.placeholder(), vocabulary).expect("they are sound");
                let decoded = tokens.decode(&ids);
                (decoded.values, Some(ids), decoded.outside)
            }
            Mode::L1 | Mode::Flow | Mode::Ddim => {
                (output.floats().iter().map(|x| f64::from(*x)).collect(), None, 0)
            }
        };
        let statistics = self.statistics.as_ref().expect("the build acts");
        let actions = statistics.unnormalize(&normalized).expect("the actions are numbers");
        let width = statistics.action().width();
        let rows = |list: Vec<f64>| list.chunks(width).map(<[f64]>::to_vec).collect();
        Actions {
            actions: rows(actions),
            normalized: rows(normalized),
            token_ids,
            outside,
            forwards: self.act_forwards,
        }
    }
}

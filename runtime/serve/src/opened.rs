//! The artifact, as the model's thread holds it.

use crate::refusal::Refusal;
use dream::{ActOptions, Generate, Image, Model, Observation, Policy};

/// A policy where it acts, else a model that generates.
pub(crate) enum Opened {
    Policy(Box<Policy>),
    Model(Box<Model>),
}

impl Opened {
    /// # Errors
    ///
    /// Where the artifact says that it acts, and cannot.
    pub(crate) fn of(model: Model) -> Result<Opened, dream::Error> {
        match model.manifest().entries.iter().any(|entry| entry == "act") {
            true => Ok(Opened::Policy(Box::new(Policy::of(model)?))),
            false => Ok(Opened::Model(Box::new(model))),
        }
    }

    pub(crate) fn model(&self) -> &Model {
        match self {
            Opened::Policy(policy) => policy.model(),
            Opened::Model(model) => model,
        }
    }

    pub(crate) fn model_mut(&mut self) -> &mut Model {
        match self {
            Opened::Policy(policy) => policy.model_mut(),
            Opened::Model(model) => model,
        }
    }

    pub(crate) fn policy(&mut self) -> Result<&mut Policy, Refusal> {
        match self {
            Opened::Policy(policy) => Ok(policy),
            Opened::Model(model) => Err(Refusal::no_entry("act", &model.manifest().entries)),
        }
    }

    /// One request of each kind, so that the first that comes is not slower than others.
    pub(crate) fn warm_up(&mut self) -> Result<(), dream::Error> {
        if let Opened::Policy(policy) = self {
            act(policy)?;
        }
        match self.model().manifest().entries.iter().any(|entry| entry == "generate") {
            true => generate(self.model_mut()),
            false => Ok(()),
        }
    }
}

fn act(policy: &mut Policy) -> Result<(), dream::Error> {
    const SIDE: u32 = 224;
    let settings = policy.settings().clone();
    let size = policy.model().settings().and_then(|settings| settings.images.size);
    let [width, height] = size.unwrap_or([SIDE, SIDE]);
    let image = Image::from_rgb8(width, height, vec![0; 3 * width as usize * height as usize])?;
    let images = vec![image; settings.views as usize];
    let state = settings.proprio_dim.map(|n| vec![0.0; n as usize]);
    let observation = Observation { images: &images, task: "be ready", proprio: state.as_deref() };
    policy.act(&observation, &ActOptions::default()).map(|_| ())
}

/// A single slot: steps that fill none cost nothing.
fn generate(model: &mut Model) -> Result<(), dream::Error> {
    let mask = model.manifest().model.mask_token_id as i32;
    let prompt = vec![model.encode("be ready")?];
    let request = Generate { prompt, canvas: Some(vec![mask]), ..Generate::default() };
    model.generate(&request, &mut |_, _| true).map(|_| ())
}

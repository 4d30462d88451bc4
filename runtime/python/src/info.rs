//! What a model takes and gives.

use pyo3::prelude::*;

/// What a policy takes and gives.
#[pyclass(frozen, get_all, module = "dream")]
pub(crate) struct PolicyInfo {
    /// Actions of a chunk.
    chunk: u32,
    /// Numbers of an action.
    action_dim: u32,
    /// Images of an observation.
    views: u32,
    /// Numbers of the robot's state, if the policy takes it.
    proprio_dim: Option<u32>,
    /// How a chunk comes about: `discrete`, `one-step`, `l1`, `flow`, `ddim`.
    mode: &'static str,
    /// Whose statistics scale the actions.
    unnorm_key: String,
    /// Width and height of all images, if the artifact was built for one size.
    image_size: Option<(u32, u32)>,
    /// What runs it, in words.
    device: String,
    /// Which of the artifact's targets that is.
    target: String,
}

/// What a model takes and gives.
#[pyclass(frozen, get_all, module = "dream")]
pub(crate) struct ModelInfo {
    /// `text`, `vl` or `vla`.
    variant: String,
    /// What it can be asked for.
    entries: Vec<String>,
    /// Longest prompt in tokens.
    max_prompt: u32,
    /// Slots behind a prompt.
    new_tokens: u32,
    /// Denoising steps.
    steps: u32,
    /// Whether it takes images.
    sees: bool,
    /// What runs it, in words.
    device: String,
    /// Which of the artifact's targets that is.
    target: String,
}

impl PolicyInfo {
    pub(crate) fn of(policy: &dream::Policy) -> PolicyInfo {
        let (settings, model) = (policy.settings(), policy.model());
        let size = model.settings().and_then(|settings| settings.images.size);
        PolicyInfo {
            chunk: settings.chunk,
            action_dim: settings.action_dim,
            views: settings.views,
            proprio_dim: settings.proprio_dim,
            mode: settings.mode.name(),
            unnorm_key: settings.statistics.key().to_owned(),
            image_size: size.map(|[width, height]| (width, height)),
            device: model.device().unwrap_or_default().to_owned(),
            target: model.target().unwrap_or_default().to_owned(),
        }
    }

    /// `[chunk, action_dim]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.chunk as usize, self.action_dim as usize]
    }
}

impl ModelInfo {
    pub(crate) fn of(model: &dream::Model) -> ModelInfo {
        let manifest = model.manifest();
        ModelInfo {
            variant: manifest.model.variant.clone(),
            entries: manifest.entries.clone(),
            max_prompt: manifest.model.max_prompt,
            new_tokens: manifest.model.new_tokens,
            steps: manifest.model.steps,
            sees: model.settings().is_some(),
            device: model.device().unwrap_or_default().to_owned(),
            target: model.target().unwrap_or_default().to_owned(),
        }
    }
}

#[pymethods]
impl PolicyInfo {
    fn __repr__(&self) -> String {
        let state =
            self.proprio_dim.map_or_else(|| "no state".to_owned(), |n| format!("{n} numbers of state"));
        format!(
            "PolicyInfo({} actions of {}, {} views, {state}, {}, on {})",
            self.chunk, self.action_dim, self.views, self.mode, self.device
        )
    }
}

#[pymethods]
impl ModelInfo {
    fn __repr__(&self) -> String {
        format!(
            "ModelInfo({}, {}, {} tokens in {} steps, on {})",
            self.variant,
            self.entries.join(", "),
            self.new_tokens,
            self.steps,
            self.device
        )
    }
}

//! What surrounds the tensors of one model, as its artifact carries it: JSON in a section of its own.

use crate::VisionTokens;
use crate::action::{ActionTokens, Statistics};
use crate::image::ImageProcessor;
use serde::{Deserialize, Serialize};

/// Of a model that sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How images become tokens.
    pub images: ImageSettings,
    /// How actions are asked for and read, if the model acts.
    pub actions: Option<ActionSettings>,
}

/// How images become tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageSettings {
    /// Sizes and normalisation.
    pub processor: ImageProcessor,
    /// The tokens that stand for images.
    pub tokens: VisionTokens,
    /// How positions count.
    pub positions: Positions,
    /// Most image tokens that the plan has room for, over all rows computed at a time.
    pub tokens_max: u32,
    /// Width and height of all images, if the artifact was built for one size.
    pub size: Option<[u32; 2]>,
}

/// How the positions of a row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// From 0, with a time, a row and a column: [`vl_positions`](crate::positions::vl_positions).
    Vl,
    /// From 1: [`vla_positions`](crate::positions::vla_positions).
    Vla,
}

/// How a chunk of actions is made (`spec/actions.md` sections 5 and 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Discrete diffusion of action tokens.
    Discrete,
    /// Action tokens in one pass over empty slots.
    OneStep,
    /// A head that gives the actions in one pass.
    L1,
    /// Flow matching: a head gives the velocity of noisy actions.
    Flow,
    /// DDIM: a head gives the noise of noisy actions.
    Ddim,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 5] = [Mode::Discrete, Mode::OneStep, Mode::L1, Mode::Flow, Mode::Ddim];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Discrete => "discrete",
            Mode::OneStep => "one-step",
            Mode::L1 => "l1",
            Mode::Flow => "flow",
            Mode::Ddim => "ddim",
        }
    }

    /// Inverse of [`Mode::name`].
    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether noisy actions are refined in a loop, with a row that says the time.
    pub const fn is_continuous_loop(self) -> bool {
        matches!(self, Mode::Flow | Mode::Ddim)
    }
}

/// How actions are asked for and read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionSettings {
    /// How a chunk comes about.
    pub mode: Mode,
    /// Actions of a chunk.
    pub chunk: u32,
    /// Numbers of an action.
    pub action_dim: u32,
    /// Images of an observation.
    pub views: u32,
    /// Numbers of the robot's state, if the model takes it.
    pub proprio_dim: Option<u32>,
    /// Which ids are actions.
    pub tokens: ActionTokens,
    /// The two tokens that end a training sequence.
    pub suffix: [i32; 2],
    /// Ranges of actions and state.
    pub statistics: Statistics,
}

impl Settings {
    /// The section's bytes: JSON text with keys in a fixed order.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Every number was checked to be finite, and all keys are strings.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Inverse of [`Settings::to_bytes`], from a file that may be hostile: what the parts demand of themselves is checked.
    pub fn from_bytes(bytes: &[u8]) -> Option<Settings> {
        let settings: Settings = serde_json::from_slice(bytes).ok()?;
        let fits = |a: &ActionSettings| {
            let proprio = a.statistics.proprio().map(|p| p.width() as u64);
            (1..=CHUNK_MAX).contains(&a.chunk)
                && a.statistics.action().width() as u64 == u64::from(a.action_dim)
                && a.proprio_dim.is_none_or(|n| proprio == Some(n.into()))
                && (1..=VIEWS_MAX).contains(&a.views)
        };
        settings.actions.as_ref().is_none_or(fits).then_some(settings)
    }
}

/// Most actions of a chunk.
pub const CHUNK_MAX: u32 = 1024;
/// Most images of an observation.
pub const VIEWS_MAX: u32 = 64;

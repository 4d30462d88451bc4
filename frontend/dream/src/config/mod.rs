//! config.json of a checkpoint, checked (`spec/checkpoint-layout.md` sections 2, 7 and 8).
//!
//! Keys that fix a shape are required, since their defaults in the reference's classes are not those of the released
//! models. Field names are the keys of the file.

mod action;
mod keys;
mod text;
mod vision;

pub use action::ActionConfig;
pub use text::TextConfig;
pub use vision::VisionConfig;

use crate::ImportError;
use keys::Keys;
use std::path::Path;

/// The name of the file.
pub const CONFIG_FILE: &str = "config.json";

/// The members of the model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Text diffusion, model_type `Dream`.
    Text,
    /// Text and images, model_type `dream-vl`.
    Vl,
    /// Vision, language and actions, model_type `dream-vla`.
    Vla,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Variant; 3] = [Variant::Text, Variant::Vl, Variant::Vla];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Variant::Text => "text",
            Variant::Vl => "vl",
            Variant::Vla => "vla",
        }
    }

    /// Inverse of [`Variant::name`].
    pub fn from_name(name: &str) -> Option<Variant> {
        Variant::ALL.into_iter().find(|v| v.name() == name)
    }

    /// The `model_type` in config.json.
    pub const fn model_type(self) -> &'static str {
        match self {
            Variant::Text => "Dream",
            Variant::Vl => "dream-vl",
            Variant::Vla => "dream-vla",
        }
    }

    /// The class in `architectures` of config.json.
    pub const fn architecture(self) -> &'static str {
        match self {
            Variant::Text => "DreamModel",
            Variant::Vl => "DreamVLModel",
            Variant::Vla => "DreamVLAForActionPrediction",
        }
    }

    /// Whether it has a vision tower.
    pub const fn sees(self) -> bool {
        match self {
            Variant::Text => false,
            Variant::Vl | Variant::Vla => true,
        }
    }
}

/// The settings of a model of any variant.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which member of the family it is.
    pub variant: Variant,
    /// The decoder.
    pub text: TextConfig,
    /// The vision tower and what joins it to the decoder: there unless the variant is text.
    pub vision: Option<VisionConfig>,
    /// What the action model adds: there if the variant is VLA.
    pub action: Option<ActionConfig>,
}

impl ModelConfig {
    /// Reads and checks config.json in a checkpoint directory.
    pub fn read(dir: impl AsRef<Path>) -> Result<ModelConfig, ImportError> {
        let keys = Keys::read(dir.as_ref())?;
        let variant = keys.variant()?;
        keys.check_architectures(variant)?;
        keys.check_unsupported(variant)?;
        let text = TextConfig::of(&keys)?;
        let vision = variant.sees().then(|| VisionConfig::of(&keys, &text)).transpose()?;
        let action = (variant == Variant::Vla).then(|| ActionConfig::of(&keys)).transpose()?;
        Ok(ModelConfig { variant, text, vision, action })
    }
}

impl From<TextConfig> for ModelConfig {
    /// A text model.
    fn from(text: TextConfig) -> ModelConfig {
        ModelConfig { variant: Variant::Text, text, vision: None, action: None }
    }
}

/// A [`ModelConfig`] by its parts: what checks of tensors and tokens ask for. A [`TextConfig`] alone is a text model.
#[derive(Clone, Copy, Debug)]
pub struct ModelRef<'a> {
    /// Which member of the family it is.
    pub variant: Variant,
    /// The decoder.
    pub text: &'a TextConfig,
    /// The vision tower.
    pub vision: Option<&'a VisionConfig>,
}

impl<'a> From<&'a ModelConfig> for ModelRef<'a> {
    fn from(config: &'a ModelConfig) -> ModelRef<'a> {
        ModelRef { variant: config.variant, text: &config.text, vision: config.vision.as_ref() }
    }
}

impl<'a> From<&'a TextConfig> for ModelRef<'a> {
    fn from(text: &'a TextConfig) -> ModelRef<'a> {
        ModelRef { variant: Variant::Text, text, vision: None }
    }
}

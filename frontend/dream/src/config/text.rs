//! config.json of a text checkpoint.

use crate::ImportError;
use dreamc_weights::read_limited;
use serde_json::{Map, Value};
use std::path::Path;

/// The name of the file.
pub const CONFIG_FILE: &str = "config.json";
/// The longest config.json read. A real one has under 4 KiB.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Token ids are stored as i32 and u32 alike, and no dimension of a real model comes near this.
const DIMENSION_MAX: u64 = 1 << 30;
/// The deepest model accepted.
const LAYERS_MAX: u64 = 4096;
/// `mask_token_id` where config.json has none.
const MASK_TOKEN_ID_DEFAULT: u32 = 151_666;
/// `pad_token_id` and `eos_token_id` where config.json has none.
const PAD_TOKEN_ID_DEFAULT: u32 = 151_643;

/// The members of the model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Text diffusion, model_type `Dream`.
    Text,
    /// Text and images, model_type `dream-vl`.
    Vl,
    /// Vision, language and actions, model_type `dream-vla`.
    Vla,
}

impl Variant {
    /// The `model_type` in config.json.
    const fn model_type(self) -> &'static str {
        match self {
            Variant::Text => "Dream",
            Variant::Vl => "dream-vl",
            Variant::Vla => "dream-vla",
        }
    }

    /// The class in `architectures` of config.json.
    const fn architecture(self) -> &'static str {
        match self {
            Variant::Text => "DreamModel",
            Variant::Vl => "DreamVLModel",
            Variant::Vla => "DreamVLAForActionPrediction",
        }
    }
}

/// The settings of a text model, checked. Field names are the keys of config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Width of the gated MLP.
    pub intermediate_size: u64,
    /// Number of decoder layers.
    pub num_hidden_layers: u64,
    /// Number of query heads.
    pub num_attention_heads: u64,
    /// Number of key and value heads.
    pub num_key_value_heads: u64,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest sequence the config allows.
    pub max_position_embeddings: u64,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// The token that marks a position to fill.
    pub mask_token_id: u32,
    /// The padding token.
    pub pad_token_id: u32,
    /// The end of a text.
    pub eos_token_id: u32,
}

impl TextConfig {
    /// Reads and checks config.json in a checkpoint directory.
    pub fn read(dir: impl AsRef<Path>) -> Result<TextConfig, ImportError> {
        let keys = Keys::read(dir.as_ref())?;
        match keys.variant()? {
            Variant::Text => {}
            other @ (Variant::Vl | Variant::Vla) => {
                return Err(ImportError::UnsupportedVariant { found: other.model_type().to_owned() });
            }
        }
        keys.check_architectures(Variant::Text)?;
        keys.check_unsupported()?;
        let vocab_size = keys.dimension("vocab_size", DIMENSION_MAX)?;
        let config = TextConfig {
            vocab_size,
            hidden_size: keys.dimension("hidden_size", DIMENSION_MAX)?,
            intermediate_size: keys.dimension("intermediate_size", DIMENSION_MAX)?,
            num_hidden_layers: keys.dimension("num_hidden_layers", LAYERS_MAX)?,
            num_attention_heads: keys.dimension("num_attention_heads", DIMENSION_MAX)?,
            num_key_value_heads: keys.dimension("num_key_value_heads", DIMENSION_MAX)?,
            rms_norm_eps: keys.positive("rms_norm_eps")?,
            rope_theta: keys.positive("rope_theta")?,
            max_position_embeddings: keys.dimension("max_position_embeddings", DIMENSION_MAX)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            mask_token_id: keys.token("mask_token_id", MASK_TOKEN_ID_DEFAULT, vocab_size)?,
            pad_token_id: keys.token("pad_token_id", PAD_TOKEN_ID_DEFAULT, vocab_size)?,
            eos_token_id: keys.token("eos_token_id", PAD_TOKEN_ID_DEFAULT, vocab_size)?,
        };
        config.check_heads(&keys)?;
        Ok(config)
    }

    /// Width of one head.
    pub fn head_dim(&self) -> u64 {
        self.hidden_size / self.num_attention_heads
    }

    /// Width of all keys, and of all values.
    pub fn kv_size(&self) -> u64 {
        self.num_key_value_heads * self.head_dim()
    }

    fn check_heads(&self, keys: &Keys) -> Result<(), ImportError> {
        let (hidden_size, num_attention_heads) = (self.hidden_size, self.num_attention_heads);
        let num_key_value_heads = self.num_key_value_heads;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            return Err(ImportError::HeadsIndivisible { hidden_size, num_attention_heads });
        }
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(ImportError::KvHeadsIndivisible { num_attention_heads, num_key_value_heads });
        }
        let head_dim = self.head_dim();
        if keys.get("head_dim").is_some() {
            let found = keys.dimension("head_dim", DIMENSION_MAX)?;
            if found != head_dim {
                return Err(ImportError::HeadDim { found, expected: head_dim });
            }
        }
        if !head_dim.is_multiple_of(2) {
            return Err(ImportError::HeadDimOdd { head_dim });
        }
        Ok(())
    }
}

/// The object in config.json. A null counts as absent.
struct Keys {
    map: Map<String, Value>,
}

impl Keys {
    fn read(dir: &Path) -> Result<Keys, ImportError> {
        let path = dir.join(CONFIG_FILE);
        let text = read_limited(&path, CONFIG_BYTES_MAX)?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(map)) => Ok(Keys { map }),
            Ok(_) => Err(ImportError::Json { path, reason: "not an object".to_owned() }),
            Err(e) => Err(ImportError::Json { path, reason: e.to_string() }),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn bad(&self, key: &'static str, found: &Value, expected: impl Into<String>) -> ImportError {
        ImportError::BadValue { key, found: found.to_string(), expected: expected.into() }
    }

    fn text(&self, key: &'static str) -> Result<Option<&str>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad(key, value, "a string"))
    }

    fn dimension(&self, key: &'static str, max: u64) -> Result<u64, ImportError> {
        let value = self.get(key).ok_or(ImportError::MissingKey { key })?;
        value
            .as_u64()
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| self.bad(key, value, format!("a whole number from 1 to {max}")))
    }

    fn positive(&self, key: &'static str) -> Result<f64, ImportError> {
        let value = self.get(key).ok_or(ImportError::MissingKey { key })?;
        // The model computes in f32, so the value must survive there too.
        value
            .as_f64()
            .filter(|&x| x > 0.0 && (x as f32).is_normal())
            .ok_or_else(|| self.bad(key, value, "a positive number"))
    }

    fn flag(&self, key: &'static str) -> Result<bool, ImportError> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.bad(key, value, "true or false"))
    }

    fn token(&self, key: &'static str, default: u32, vocab_size: u64) -> Result<u32, ImportError> {
        let found = match self.get(key) {
            None => u64::from(default),
            Some(value) => value.as_u64().ok_or_else(|| self.bad(key, value, "a token id"))?,
        };
        match u32::try_from(found) {
            Ok(id) if found < vocab_size => Ok(id),
            _ if key == "mask_token_id" => {
                Err(ImportError::MaskTokenRange { mask_token_id: found, vocab_size })
            }
            _ => Err(ImportError::TokenRange { key, found, vocab_size }),
        }
    }

    fn variant(&self) -> Result<Variant, ImportError> {
        match self.text("model_type")?.ok_or(ImportError::MissingKey { key: "model_type" })? {
            "Dream" => Ok(Variant::Text),
            "dream-vl" => Ok(Variant::Vl),
            "dream-vla" => Ok(Variant::Vla),
            "llava_dream" => Err(ImportError::TrainingCheckpoint),
            other => Err(ImportError::UnknownModelType { found: other.to_owned() }),
        }
    }

    fn check_architectures(&self, variant: Variant) -> Result<(), ImportError> {
        let key = "architectures";
        let Some(value) = self.get(key) else { return Ok(()) };
        let list = value.as_array().ok_or_else(|| self.bad(key, value, "a list of class names"))?;
        for class in list {
            let found = class.as_str().ok_or_else(|| self.bad(key, value, "a list of class names"))?;
            if found != variant.architecture() {
                return Err(ImportError::Architecture {
                    found: found.to_owned(),
                    model_type: variant.model_type(),
                    expected: variant.architecture(),
                });
            }
        }
        Ok(())
    }

    fn check_unsupported(&self) -> Result<(), ImportError> {
        if self.get("quantization_config").is_some() {
            return Err(ImportError::Quantised);
        }
        if let Some(value) = self.get("rope_scaling") {
            return Err(ImportError::RopeScaling { found: value.to_string() });
        }
        if let Some(value) = self.get("partial_rotary_factor").filter(|v| v.as_f64() != Some(1.0)) {
            return Err(ImportError::PartialRotary { found: value.to_string() });
        }
        if self.flag("use_mrope")? {
            return Err(ImportError::Mrope);
        }
        if self.flag("use_sliding_window")? {
            return Err(ImportError::SlidingWindow);
        }
        match self.text("hidden_act")? {
            None | Some("silu") => {}
            Some(other) => return Err(ImportError::HiddenAct { found: other.to_owned() }),
        }
        if self.get("vision_config").is_some() {
            return Err(ImportError::VisionConfig);
        }
        Ok(())
    }
}

//! The object in config.json, and the checks of single keys.

use super::{CONFIG_FILE, Variant};
use crate::{ImportError, VisionError};
use dreamc_weights::read_limited;
use serde_json::{Map, Value};
use std::path::Path;

/// The longest config.json read. A real one has under 4 KiB.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Token ids are stored as i32 and u32 alike, and no dimension of a real model comes near this.
pub(super) const DIMENSION_MAX: u64 = 1 << 30;
/// The deepest model accepted.
pub(super) const LAYERS_MAX: u64 = 4096;

/// The object in config.json. A null counts as absent; `vision_config.depth` is a key of the object within.
pub(super) struct Keys {
    map: Map<String, Value>,
}

impl Keys {
    pub(super) fn read(dir: &Path) -> Result<Keys, ImportError> {
        let path = dir.join(CONFIG_FILE);
        let text = read_limited(&path, CONFIG_BYTES_MAX)?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(map)) => Ok(Keys { map }),
            Ok(_) => Err(ImportError::Json { path, reason: "not an object".to_owned() }),
            Err(e) => Err(ImportError::Json { path, reason: e.to_string() }),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let value = match key.split_once('.') {
            Some((outer, inner)) => self.map.get(outer)?.get(inner),
            None => self.map.get(key),
        };
        value.filter(|v| !v.is_null())
    }

    pub(super) fn bad(&self, key: &'static str, found: &Value, expected: impl Into<String>) -> ImportError {
        ImportError::BadValue { key, found: found.to_string(), expected: expected.into() }
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<&str>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad(key, value, "a string"))
    }

    pub(super) fn object(&self, key: &'static str) -> Result<Option<&Map<String, Value>>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.bad(key, value, "an object"))
    }

    pub(super) fn dimension(&self, key: &'static str, max: u64) -> Result<u64, ImportError> {
        let value = self.get(key).ok_or(ImportError::MissingKey { key })?;
        value
            .as_u64()
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| self.bad(key, value, format!("a whole number from 1 to {max}")))
    }

    /// Like [`Keys::dimension`], where there is a safe default.
    pub(super) fn dimension_or(&self, key: &'static str, default: u64) -> Result<u64, ImportError> {
        if self.get(key).is_some() { self.dimension(key, DIMENSION_MAX) } else { Ok(default) }
    }

    pub(super) fn positive(&self, key: &'static str) -> Result<f64, ImportError> {
        let value = self.get(key).ok_or(ImportError::MissingKey { key })?;
        // The model computes in f32, so the value must survive there too.
        value
            .as_f64()
            .filter(|&x| x > 0.0 && (x as f32).is_normal())
            .ok_or_else(|| self.bad(key, value, "a positive number"))
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<bool, ImportError> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.bad(key, value, "true or false"))
    }

    pub(super) fn token(&self, key: &'static str, default: u32, vocab_size: u64) -> Result<u32, ImportError> {
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

    pub(super) fn variant(&self) -> Result<Variant, ImportError> {
        match self.text("model_type")?.ok_or(ImportError::MissingKey { key: "model_type" })? {
            "llava_dream" => Err(ImportError::TrainingCheckpoint),
            found => Variant::ALL
                .into_iter()
                .find(|v| v.model_type() == found)
                .ok_or_else(|| ImportError::UnknownModelType { found: found.to_owned() }),
        }
    }

    pub(super) fn check_architectures(&self, variant: Variant) -> Result<(), ImportError> {
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

    /// Features that no model of the family uses, and parts that this one cannot have.
    pub(super) fn check_unsupported(&self, variant: Variant) -> Result<(), ImportError> {
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
        match (self.object("vision_config")?, variant.sees()) {
            (Some(_), false) => Err(ImportError::VisionConfig),
            (None, true) => Err(VisionError::NoConfig { model_type: variant.model_type() }.into()),
            (Some(_), true) | (None, false) => Ok(()),
        }
    }
}

//! `adapter_config.json`.

use super::{ADAPTER_CONFIG_FILE, AdapterError};
use crate::{WeightsError, read_limited};
use serde_json::{Map, Value};
use std::path::Path;

/// The longest file read. A real one has under 2 KiB.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The highest rank. Above the width of a 7B model an adapter is larger than what it changes.
const RANK_MAX: u64 = 4096;
/// Keys that do not change what the adapter means, or that the tensors themselves tell.
const HARMLESS: [&str; 19] = [
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "loftq_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// The settings that count.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    pub(super) r: u64,
    alpha: f64,
    /// Last parts of module paths, or paths; `None` where config.json has a pattern.
    target_modules: Option<Vec<String>>,
}

impl Config {
    /// Reads the settings in an adapter folder.
    pub(super) fn read(dir: &Path) -> Result<Config, WeightsError> {
        let path = dir.join(ADAPTER_CONFIG_FILE);
        let text = read_limited(&path, CONFIG_BYTES_MAX)?;
        let keys: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|e| AdapterError::Json { path, reason: e.to_string() })?;
        Ok(Config::of(&keys)?)
    }

    fn of(keys: &Map<String, Value>) -> Result<Config, AdapterError> {
        check_plain(keys)?;
        let bad = |key: &'static str, expected: &'static str| AdapterError::Value {
            key,
            found: keys.get(key).unwrap_or(&Value::Null).to_string(),
            expected,
        };
        let r = keys.get("r").and_then(Value::as_u64).filter(|r| (1..=RANK_MAX).contains(r));
        let r = r.ok_or_else(|| bad("r", "a rank from 1 to 4096"))?;
        let alpha = keys.get("lora_alpha").and_then(Value::as_f64).filter(|a| (*a as f32).is_finite());
        let alpha = alpha.ok_or_else(|| bad("lora_alpha", "a number"))?;
        let names = || bad("target_modules", "a list of module names, or a pattern");
        let target_modules = match keys.get("target_modules") {
            None | Some(Value::Null | Value::String(_)) => None,
            Some(Value::Array(list)) => {
                let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(names);
                Some(list.iter().map(text).collect::<Result<_, _>>()?)
            }
            Some(_) => return Err(names()),
        };
        Ok(Config { r, alpha, target_modules })
    }

    /// `lora_alpha / r`.
    pub(super) fn scale(&self) -> f32 {
        (self.alpha / self.r as f64) as f32
    }

    /// Whether a module is among those that the settings name.
    pub(super) fn targets(&self, path: &str) -> bool {
        let ends = |name: &String| {
            path.strip_suffix(name.as_str()).is_some_and(|p| p.is_empty() || p.ends_with('.'))
        };
        self.target_modules.as_ref().is_none_or(|names| names.iter().any(ends))
    }
}

/// Refuses every setting that makes of the adapter something else than `W + (lora_alpha / r) B A`.
fn check_plain(keys: &Map<String, Value>) -> Result<(), AdapterError> {
    match keys.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        _ => {
            let found = keys.get("peft_type").unwrap_or(&Value::Null).to_string();
            return Err(AdapterError::NotLora { found });
        }
    }
    for (key, value) in keys.iter().filter(|(key, _)| !HARMLESS.contains(&key.as_str())) {
        let plain = match key.as_str() {
            "bias" => value == "none",
            // The others change the base model too.
            "init_lora_weights" => value.is_boolean() || value == "gaussian" || value == "orthogonal",
            _ => is_off(value),
        };
        if !plain && !value.is_null() {
            return Err(AdapterError::NotPlain { key: key.clone(), found: value.to_string() });
        }
    }
    Ok(())
}

/// Whether a value says that a feature is not used.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(changes: Value) -> Result<Config, AdapterError> {
        let mut keys = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "a.b"],
            "bias": "none", "use_dora": false, "rank_pattern": {}, "modules_to_save": null, "lora_dropout": 0.1,
            "init_lora_weights": true, "megatron_core": "megatron.core" });
        for (key, value) in changes.as_object().unwrap() {
            keys[key] = value.clone();
        }
        Config::of(keys.as_object().unwrap())
    }

    #[test]
    fn plain_settings() {
        let config = of(json!({})).unwrap();
        assert_eq!((config.r, config.scale()), (4, 2.0));
        assert!(
            config.targets("model.layers.0.self_attn.q_proj")
                && config.targets("a.b")
                && config.targets("x.a.b")
        );
        assert!(!config.targets("xq_proj") && !config.targets("b"));
        assert!(of(json!({ "target_modules": "all-linear" })).unwrap().targets("anything"));
    }

    #[test]
    fn other_settings_are_refused() {
        for (key, value) in [
            ("use_rslora", json!(true)),
            ("use_dora", json!(true)),
            ("bias", json!("all")),
            ("fan_in_fan_out", json!(true)),
            ("rank_pattern", json!({ "q_proj": 8 })),
            ("alpha_pattern", json!({ "q_proj": 8 })),
            ("modules_to_save", json!(["lm_head"])),
            ("init_lora_weights", json!("pissa")),
            ("layer_replication", json!([[0, 1]])),
            ("some_later_feature", json!(1)),
        ] {
            let found = of(json!({ key: value }));
            assert!(
                matches!(&found, Err(AdapterError::NotPlain { key: k, .. }) if k == key),
                "{key}: {found:?}"
            );
        }
        assert!(matches!(of(json!({ "peft_type": "LOHA" })), Err(AdapterError::NotLora { .. })));
        for (key, value) in
            [("r", json!(0)), ("r", json!(5000)), ("lora_alpha", json!(null)), ("target_modules", json!(1))]
        {
            let found = of(json!({ key: value }));
            assert!(
                matches!(&found, Err(AdapterError::Value { key: k, .. }) if *k == key),
                "{key}: {found:?}"
            );
        }
    }
}

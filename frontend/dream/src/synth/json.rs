//! The files of JSON beside the weights, with the keys of the released ones.

use crate::{ModelConfig, Variant};
use serde_json::{Value, json};

/// config.json.
pub(super) fn config(config: &ModelConfig) -> Value {
    let mut keys = decoder(config);
    let (Some(vision), variant) = (&config.vision, config.variant) else { return keys };
    let text = &config.text;
    let class = if variant == Variant::Vla { "DreamVLAConfig" } else { "DreamVLConfig" };
    let extra = json!({
        "auto_map": {
            "AutoConfig": format!("configuration_dreamvl.{class}"),
            "AutoModel": format!("modeling_dreamvl.{}", variant.architecture()),
        },
        "full_attn_mask": true,
        "image_token_id": vision.image_token_id,
        "mrope_section": vision.mrope_section,
        "projector_hidden_act": "gelu",
        "transformers_version": "4.51.3",
        "use_cache": false,
        "video_token_id": vision.video_token_id,
        "vision_config": {
            "depth": vision.depth,
            "embed_dim": vision.embed_dim,
            "hidden_act": "quick_gelu",
            "hidden_size": vision.hidden_size,
            "in_chans": vision.in_channels,
            "mlp_ratio": vision.mlp_size / vision.embed_dim,
            "num_heads": vision.num_heads,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "spatial_patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
        },
        "vision_end_token_id": vision.vision_start_token_id + 1,
        "vision_start_token_id": vision.vision_start_token_id,
        "vision_token_id": text.pad_token_id + 11,
    });
    let actions = json!({ "n_action_bins": crate::ACTION_TOKENS, "norm_stats": {} });
    let actions = if variant == Variant::Vla { actions } else { json!({}) };
    if let (Value::Object(keys), Value::Object(extra), Value::Object(actions)) = (&mut keys, extra, actions) {
        keys.extend(extra.into_iter().chain(actions));
        keys.remove("use_mrope");
    }
    keys
}

/// All keys of the released text model's.
fn decoder(config: &ModelConfig) -> Value {
    let text = &config.text;
    json!({
        "_name_or_path": "synthetic",
        "architectures": [config.variant.architecture()],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "bos_token_id": text.pad_token_id,
        "eos_token_id": text.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "mask_token_id": text.mask_token_id,
        "max_position_embeddings": text.max_position_embeddings,
        "max_window_layers": text.num_hidden_layers,
        "model_type": config.variant.model_type(),
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "pad_token_id": text.pad_token_id,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": null,
        "rope_theta": text.rope_theta,
        "sliding_window": null,
        "tie_word_embeddings": text.tie_word_embeddings,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.2",
        "use_cache": true,
        "use_mrope": false,
        "use_sliding_window": false,
        "vocab_size": text.vocab_size,
    })
}

/// generation_config.json. The mask id is null in the released one too.
pub(super) fn generation(config: &ModelConfig) -> Value {
    json!({
        "_from_model_config": true,
        "alg": "origin",
        "alg_temp": null,
        "bos_token_id": config.text.pad_token_id,
        "eos_token_id": config.text.eos_token_id,
        "eps": 0.001,
        "mask_token_id": null,
        "output_history": false,
        "pad_token_id": config.text.pad_token_id,
        "steps": 512,
        "temperature": 0.0,
        "top_k": null,
        "top_p": null,
        "transformers_version": "4.46.2",
    })
}

/// preprocessor_config.json.
pub(super) fn preprocessor(variant: Variant) -> Value {
    json!({
        "auto_map": {
            "AutoImageProcessor": "image_processing_dreamvl.DreamVLImageProcessor",
            "AutoProcessor": "processing_dreamvl.DreamVLProcessor",
        },
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": 3_211_264,
        "merge_size": 2,
        "min_pixels": if variant == Variant::Vla { 50_176 } else { 3136 },
        "patch_size": 14,
        "processor_class": "DreamVLProcessor",
        "temporal_patch_size": 2,
    })
}

/// dataset_statistics.json of one data set: every number lies between -1 and 1, the gripper is not normalised.
pub(super) fn statistics(action_dim: u64, proprio_dim: u64) -> Value {
    let all = |count: u64, value: f64| vec![value; count as usize];
    let part = |count: u64| {
        json!({ "mean": all(count, 0.0), "std": all(count, 0.5), "max": all(count, 1.0), "min": all(count, -1.0),
            "q01": all(count, -1.0), "q99": all(count, 1.0) })
    };
    let mut action = part(action_dim);
    action["mask"] = (0..action_dim).map(|i| i + 1 < action_dim).collect();
    json!({ "synthetic": { "action": action, "proprio": part(proprio_dim),
        "num_transitions": 1, "num_trajectories": 1 } })
}

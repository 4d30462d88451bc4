//! Tensor names that tell a checkpoint of the wrong kind.

use crate::WeightsError;

/// Last components of names in the quantised formats.
const QUANTISED_LAST: [&str; 13] = [
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
    "SCB",
    "weight_format",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
];

/// Rejects names of quantised, LoRA-wrapped and training-time checkpoints.
pub(crate) fn check_name(name: &str) -> Result<(), WeightsError> {
    let tensor = || name.to_owned();
    if name.starts_with("base_model.model.")
        || name.contains(".base_layer.")
        || name.contains(".lora_")
        || name.starts_with("lora_")
    {
        return Err(WeightsError::LoraWrapped { tensor: tensor() });
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if QUANTISED_LAST.contains(&last) || name.contains(".quant_state.") {
        return Err(WeightsError::Quantised { tensor: tensor() });
    }
    if name.starts_with("model.vision_tower.")
        || name.starts_with("model.mm_projector.")
        || name == "model.image_newline"
    {
        return Err(WeightsError::TrainingNames { tensor: tensor() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_each_kind() {
        for name in [
            "model.layers.0.mlp.up_proj.qweight",
            "model.layers.0.mlp.up_proj.weight.absmax",
            "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
            "model.layers.0.mlp.up_proj.scales",
        ] {
            assert!(matches!(check_name(name), Err(WeightsError::Quantised { .. })), "{name}");
        }
        for name in [
            "base_model.model.model.norm.weight",
            "model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "model.layers.0.self_attn.q_proj.base_layer.weight",
        ] {
            assert!(matches!(check_name(name), Err(WeightsError::LoraWrapped { .. })), "{name}");
        }
        for name in ["model.vision_tower.vision_tower.blocks.0.norm1.weight", "model.mm_projector.0.weight"] {
            assert!(matches!(check_name(name), Err(WeightsError::TrainingNames { .. })), "{name}");
        }
    }

    #[test]
    fn accepts_release_names() {
        for name in ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias", "lm_head.weight"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}

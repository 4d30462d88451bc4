//! The shapes of synthetic models, and the files that their tensors go to.

use crate::config::{ActionConfig, TextConfig, VisionConfig};
use crate::layout::{EMBEDDING, LM_HEAD};
use crate::{ModelConfig, Variant};

/// How large a synthetic model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The shapes of the released models: 15 GB for text, 17 GB for one that sees, in four shards.
    SevenB,
    /// One layer of that width, and few tokens: what a bench of a layer needs. Text alone.
    SevenBLayer,
    /// Four layers of that width with all tokens. Text alone.
    SevenBQuarter,
    /// Some hundred million weights in one file.
    Small,
    /// A few layers of width 64, for tests.
    Tiny,
}

/// Ids of the added tokens, counted from the first: `<|endoftext|>` is the first.
const VISION_START: u32 = 9;
const IMAGE_PAD: u32 = 12;
const VIDEO_PAD: u32 = 13;
const MASK: u32 = 23;

impl Size {
    /// The settings of the text model.
    pub fn config(self) -> TextConfig {
        let (vocab_size, hidden_size, intermediate_size, num_hidden_layers) = match self {
            Size::SevenB => (152_064, 3584, 18_944, 28),
            Size::SevenBLayer => (512, 3584, 18_944, 1),
            Size::SevenBQuarter => (152_064, 3584, 18_944, 4),
            Size::Small => (8192, 1024, 2816, 24),
            Size::Tiny => (512, 64, 160, 3),
        };
        let (num_attention_heads, num_key_value_heads) = match self {
            Size::SevenB | Size::SevenBLayer | Size::SevenBQuarter => (28, 4),
            Size::Small => (16, 4),
            Size::Tiny => (4, 2),
        };
        let (pad_token_id, mask_token_id, max_position_embeddings) = match self {
            Size::SevenB | Size::SevenBQuarter => (151_643, 151_666, 131_072),
            Size::Small => (8160, 8183, 8192),
            Size::SevenBLayer | Size::Tiny => (500, 502, 2048),
        };
        TextConfig {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            rms_norm_eps: 1e-6,
            rope_theta: 1_000_000.0,
            max_position_embeddings,
            tie_word_embeddings: false,
            mask_token_id,
            pad_token_id,
            eos_token_id: pad_token_id,
        }
    }

    /// The settings of a model of any variant. Those that see have the 24 added tokens of the releases in their order,
    /// and room for 256 action tokens after them.
    pub fn model_config(self, variant: Variant) -> ModelConfig {
        let mut text = self.config();
        if !variant.sees() {
            return text.into();
        }
        let base = match self {
            Size::SevenB | Size::SevenBLayer | Size::SevenBQuarter => 151_643,
            Size::Small => 7900,
            Size::Tiny => 329,
        };
        if self == Size::Tiny {
            text.vocab_size = 640;
        }
        (text.pad_token_id, text.eos_token_id, text.mask_token_id) = (base, base, base + MASK);
        let vision = self.vision(base, text.hidden_size);
        let action = ActionConfig { n_action_bins: crate::ACTION_TOKENS, norm_stats: None };
        let action = (variant == Variant::Vla).then_some(action);
        ModelConfig { variant, text, vision: Some(vision), action }
    }

    /// `base` is the id of the first added token.
    fn vision(self, base: u32, hidden_size: u64) -> VisionConfig {
        let (depth, embed_dim, num_heads) = match self {
            Size::SevenB | Size::SevenBLayer | Size::SevenBQuarter => (32, 1280, 16),
            Size::Small => (12, 512, 8),
            Size::Tiny => (2, 32, 2),
        };
        let mrope_section = match self {
            Size::SevenB | Size::SevenBLayer | Size::SevenBQuarter => [16, 24, 24],
            Size::Small => [8, 12, 12],
            Size::Tiny => [2, 3, 3],
        };
        VisionConfig {
            depth,
            embed_dim,
            num_heads,
            mlp_size: 4 * embed_dim,
            hidden_size,
            in_channels: 3,
            patch_size: 14,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            image_token_id: base + IMAGE_PAD,
            video_token_id: base + VIDEO_PAD,
            vision_start_token_id: base + VISION_START,
            mrope_section,
        }
    }

    /// The shard, counted from 0, in which the published split of the text model puts a tensor. Where the published
    /// models that see have theirs is not known; the last shard, which has the head alone, has room.
    pub(super) fn shard_of(self, name: &str) -> usize {
        if self != Size::SevenB || name == EMBEDDING {
            return 0;
        }
        let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|n| n.split_once('.')) else {
            return if name == LM_HEAD || !name.starts_with("model.") { 3 } else { 2 };
        };
        let attention = part.starts_with("self_attn.");
        let gate_up = part.starts_with("mlp.gate_proj.") || part.starts_with("mlp.up_proj.");
        match layer.parse::<u64>() {
            Ok(0..=7) => 0,
            Ok(8) if attention => 0,
            Ok(8..=17) => 1,
            Ok(18) if attention || gate_up => 1,
            _ => 2,
        }
    }

    pub(super) fn shard_count(self) -> usize {
        if self == Size::SevenB { 4 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expected_tensors;

    #[test]
    fn published_split() {
        let size = Size::SevenB;
        for (name, shard) in [
            (EMBEDDING, 0),
            ("model.layers.7.mlp.down_proj.weight", 0),
            ("model.layers.8.self_attn.o_proj.weight", 0),
            ("model.layers.8.input_layernorm.weight", 1),
            ("model.layers.8.mlp.gate_proj.weight", 1),
            ("model.layers.17.mlp.up_proj.weight", 1),
            ("model.layers.18.self_attn.q_proj.bias", 1),
            ("model.layers.18.mlp.up_proj.weight", 1),
            ("model.layers.18.mlp.down_proj.weight", 2),
            ("model.layers.18.input_layernorm.weight", 2),
            ("model.norm.weight", 2),
            (LM_HEAD, 3),
            ("visual.blocks.0.norm1.weight", 3),
            ("projector.linear_1.bias", 3),
        ] {
            assert_eq!(size.shard_of(name), shard, "{name}");
        }
    }

    #[test]
    fn published_sizes() {
        for (variant, count, bytes) in [
            (Variant::Text, 339, 15_231_233_024u64),
            (Variant::Vl, 734, 16_634_145_792),
            (Variant::Vla, 734, 16_634_145_792),
        ] {
            let tensors = expected_tensors(&Size::SevenB.model_config(variant));
            assert_eq!(tensors.len(), count);
            let found: u64 = tensors.iter().map(|(_, s)| s.iter().product::<u64>() * 2).sum();
            assert_eq!(found, bytes);
        }
    }
}

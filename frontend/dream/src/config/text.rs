//! The decoder's settings, which are all that a text model has.

use super::keys::{DIMENSION_MAX, Keys, LAYERS_MAX};
use super::{ModelConfig, Variant};
use crate::ImportError;
use std::path::Path;

/// `mask_token_id` where config.json has none.
const MASK_TOKEN_ID_DEFAULT: u32 = 151_666;
/// `pad_token_id` and `eos_token_id` where config.json has none.
const PAD_TOKEN_ID_DEFAULT: u32 = 151_643;

/// The settings of a decoder, checked.
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
    /// Reads and checks config.json of a text checkpoint. For the other variants see [`ModelConfig::read`].
    pub fn read(dir: impl AsRef<Path>) -> Result<TextConfig, ImportError> {
        let config = ModelConfig::read(dir)?;
        match config.variant {
            Variant::Text => Ok(config.text),
            other @ (Variant::Vl | Variant::Vla) => {
                Err(ImportError::UnsupportedVariant { found: other.model_type().to_owned() })
            }
        }
    }

    pub(super) fn of(keys: &Keys) -> Result<TextConfig, ImportError> {
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
        config.check_heads(keys)?;
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

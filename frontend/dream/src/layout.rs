//! Which tensors a text checkpoint has, and in which shapes.

use crate::{ImportError, Misshapen, TensorProblems, TextConfig};
use dreamc_weights::Checkpoint;
use std::collections::BTreeMap;

/// The token embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output projection.
pub const LM_HEAD: &str = "lm_head.weight";
/// Stored by some old versions of the library and ignored: computed from the config instead.
const IGNORED_SUFFIX: &str = ".rotary_emb.inv_freq";

/// What [`check_tensors`] found out about a checkpoint that fits its config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The tensor to use as output projection: [`LM_HEAD`], or [`EMBEDDING`] where the head is tied to it.
    pub lm_head: &'static str,
}

/// The names and shapes of all tensors of a text model, in the order of the model: embedding, layers, norm,
/// head. There are 339 in the 7B models.
pub fn expected_tensors(config: &TextConfig) -> Vec<(String, Vec<u64>)> {
    let (hidden, inter, kv) = (config.hidden_size, config.intermediate_size, config.kv_size());
    let per_layer: [(&str, Vec<u64>); 12] = [
        ("self_attn.q_proj.weight", vec![hidden, hidden]),
        ("self_attn.q_proj.bias", vec![hidden]),
        ("self_attn.k_proj.weight", vec![kv, hidden]),
        ("self_attn.k_proj.bias", vec![kv]),
        ("self_attn.v_proj.weight", vec![kv, hidden]),
        ("self_attn.v_proj.bias", vec![kv]),
        ("self_attn.o_proj.weight", vec![hidden, hidden]),
        ("mlp.gate_proj.weight", vec![inter, hidden]),
        ("mlp.up_proj.weight", vec![inter, hidden]),
        ("mlp.down_proj.weight", vec![hidden, inter]),
        ("input_layernorm.weight", vec![hidden]),
        ("post_attention_layernorm.weight", vec![hidden]),
    ];
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![config.vocab_size, hidden])];
    for layer in 0..config.num_hidden_layers {
        for (name, shape) in &per_layer {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.clone()));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push((LM_HEAD.to_owned(), vec![config.vocab_size, hidden]));
    tensors
}

/// Compares the stored tensors with those the config implies and reports all differences at once.
pub fn check_tensors(checkpoint: &Checkpoint, config: &TextConfig) -> Result<Layout, ImportError> {
    if let Some(tensor) = checkpoint.names().find(|n| is_vision(n)) {
        return Err(ImportError::VisionInText { tensor: tensor.to_owned() });
    }
    let mut expected: BTreeMap<String, Vec<u64>> = expected_tensors(config).into_iter().collect();
    let head_aliased = config.tie_word_embeddings && !checkpoint.contains(LM_HEAD);
    if head_aliased {
        expected.remove(LM_HEAD);
    }
    let mut problems = TensorProblems::default();
    for tensor in checkpoint.tensors() {
        match expected.remove(tensor.name) {
            Some(shape) if shape == tensor.shape => {}
            Some(shape) => problems.misshapen.push(Misshapen {
                tensor: tensor.name.to_owned(),
                found: tensor.shape.to_vec(),
                expected: shape,
            }),
            None if tensor.name.ends_with(IGNORED_SUFFIX) => {}
            None => problems.extra.push(tensor.name.to_owned()),
        }
    }
    problems.missing = expected.into_keys().collect();
    if !problems.is_empty() {
        return Err(ImportError::Tensors { problems });
    }
    if config.tie_word_embeddings && !head_aliased {
        let (head, embedding) = (checkpoint.get(LM_HEAD)?, checkpoint.get(EMBEDDING)?);
        let same = head.same_values(&embedding);
        head.release();
        embedding.release();
        if !same {
            return Err(ImportError::TiedHeadDiffers);
        }
    }
    let lm_head = if config.tie_word_embeddings { EMBEDDING } else { LM_HEAD };
    Ok(Layout { lm_head })
}

fn is_vision(name: &str) -> bool {
    name.starts_with("visual.") || name.starts_with("projector.")
}

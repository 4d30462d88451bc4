//! Which tensors a checkpoint has, and in which shapes (`spec/checkpoint-layout.md` section 6, `spec/vision.md`
//! section 6).

use crate::config::ModelRef;
use crate::{ImportError, Misshapen, TensorProblems, TextConfig, VisionConfig, VisionError};
use dreamc_weights::Checkpoint;
use std::collections::BTreeMap;

/// The token embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output projection.
pub const LM_HEAD: &str = "lm_head.weight";
/// The first matrix of the projector, from the tower's width to the decoder's.
pub const PROJECTOR_INPUT: &str = "projector.linear_1.weight";
/// Stored by some old versions of the library and ignored: computed from the config instead.
const IGNORED_SUFFIX: &str = ".rotary_emb.inv_freq";

/// What [`check_tensors`] found out about a checkpoint that fits its config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The tensor to use as output projection: [`LM_HEAD`], or [`EMBEDDING`] where the head is tied to it.
    pub lm_head: &'static str,
}

/// The names and shapes of all tensors of a model, in the order of the model: vision tower, projector, embedding,
/// layers, norm, head. There are 339 in the 7B text model and 734 in the ones that see.
pub fn expected_tensors<'a>(config: impl Into<ModelRef<'a>>) -> Vec<(String, Vec<u64>)> {
    let config = config.into();
    let mut tensors = Vec::new();
    if let Some(vision) = config.vision {
        tower_tensors(vision, &mut tensors);
        projector_tensors(vision, config.text.hidden_size, &mut tensors);
    }
    decoder_tensors(config.text, &mut tensors);
    tensors
}

fn decoder_tensors(config: &TextConfig, tensors: &mut Vec<(String, Vec<u64>)>) {
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
    tensors.push((EMBEDDING.to_owned(), vec![config.vocab_size, hidden]));
    for layer in 0..config.num_hidden_layers {
        for (name, shape) in &per_layer {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.clone()));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push((LM_HEAD.to_owned(), vec![config.vocab_size, hidden]));
}

fn tower_tensors(vision: &VisionConfig, tensors: &mut Vec<(String, Vec<u64>)>) {
    let (embed, mlp, merged) = (vision.embed_dim, vision.mlp_size, vision.merged_size());
    let (patch, frames) = (vision.patch_size, vision.temporal_patch_size);
    let proj = "visual.patch_embed.proj.weight".to_owned();
    tensors.push((proj, vec![embed, vision.in_channels, frames, patch, patch]));
    let per_block: [(&str, Vec<u64>); 6] = [
        ("norm1", vec![embed]),
        ("attn.qkv", vec![3 * embed, embed]),
        ("attn.proj", vec![embed, embed]),
        ("norm2", vec![embed]),
        ("mlp.fc1", vec![mlp, embed]),
        ("mlp.fc2", vec![embed, mlp]),
    ];
    for block in 0..vision.depth {
        for (name, shape) in &per_block {
            pair(&format!("visual.blocks.{block}.{name}"), shape, tensors);
        }
    }
    pair("visual.merger.ln_q", &[embed], tensors);
    pair("visual.merger.mlp.0", &[merged, merged], tensors);
    pair("visual.merger.mlp.2", &[vision.hidden_size, merged], tensors);
}

fn projector_tensors(vision: &VisionConfig, hidden: u64, tensors: &mut Vec<(String, Vec<u64>)>) {
    pair("projector.linear_1", &[hidden, vision.hidden_size], tensors);
    pair("projector.linear_2", &[hidden, hidden], tensors);
}

/// A weight, and a bias as long as its first axis.
pub(crate) fn pair(path: &str, shape: &[u64], tensors: &mut Vec<(String, Vec<u64>)>) {
    tensors.push((format!("{path}.weight"), shape.to_vec()));
    tensors.push((format!("{path}.bias"), shape[..1].to_vec()));
}

/// Compares the stored tensors with those the config implies and reports all differences at once.
pub fn check_tensors<'a>(
    checkpoint: &Checkpoint,
    config: impl Into<ModelRef<'a>>,
) -> Result<Layout, ImportError> {
    let config = config.into();
    check_variant(checkpoint, config)?;
    let tied = config.text.tie_word_embeddings;
    let mut expected: BTreeMap<String, Vec<u64>> = expected_tensors(config).into_iter().collect();
    let head_aliased = tied && !checkpoint.contains(LM_HEAD);
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
    if tied && !head_aliased {
        let (head, embedding) = (checkpoint.get(LM_HEAD)?, checkpoint.get(EMBEDDING)?);
        let same = head.same_values(&embedding);
        head.release();
        embedding.release();
        if !same {
            return Err(ImportError::TiedHeadDiffers);
        }
    }
    let lm_head = if tied { EMBEDDING } else { LM_HEAD };
    Ok(Layout { lm_head })
}

/// Differences that tell of mixed checkpoints, before those of single tensors.
fn check_variant(checkpoint: &Checkpoint, config: ModelRef<'_>) -> Result<(), ImportError> {
    let Some(vision) = config.vision else {
        return match checkpoint.names().find(|n| is_vision(n)) {
            Some(tensor) => Err(ImportError::VisionInText { tensor: tensor.to_owned() }),
            None => Ok(()),
        };
    };
    if !checkpoint.names().any(is_vision) {
        return Err(VisionError::NoTensors { model_type: config.variant.model_type() }.into());
    }
    match checkpoint.get(PROJECTOR_INPUT).map(|t| t.shape) {
        Ok(&[_, projector]) if projector != vision.hidden_size => {
            Err(VisionError::ProjectorInput { hidden_size: vision.hidden_size, projector }.into())
        }
        // Whatever else is wrong with it is reported with the other tensors.
        _ => Ok(()),
    }
}

fn is_vision(name: &str) -> bool {
    name.starts_with("visual.") || name.starts_with("projector.")
}

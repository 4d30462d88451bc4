//! Why a checkpoint cannot be imported.

mod problems;
mod vision;

pub use problems::{Misshapen, TensorProblems};
pub use vision::VisionError;

use crate::HeadError;
use dreamc_front::FrontError;
use dreamc_weights::WeightsError;
use std::io;
use std::path::PathBuf;

/// An error in a checkpoint, in the words of its files: config keys, tensor names, tokens.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum ImportError {
    /// The weight files are wrong, or a file cannot be read at all.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer files are wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Tokenizer(#[from] FrontError),
    /// What lets the model see or act is wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Vision(#[from] VisionError),
    /// The heads beside the checkpoint are wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Head(#[from] HeadError),
    /// A file cannot be read or written.
    #[error("cannot access `{}`", path.display())]
    #[diagnostic(code(import::io), help("check that the file exists and its permissions allow access"))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not JSON of the expected form.
    #[error("malformed `{}`: {reason}", path.display())]
    #[diagnostic(code(import::json), help("download the file again"))]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that fixes a shape is absent. There are no safe defaults for these.
    #[error("`{key}` is missing from config.json")]
    #[diagnostic(code(config::missing_key), help("add `{key}`; it has no safe default"))]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A key has a value of the wrong type or out of its range.
    #[error("`{key}` in config.json is {found}; expected {expected}")]
    #[diagnostic(code(config::value), help("correct `{key}`, or download config.json again"))]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value in the file.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// The model is not one of the Dream family.
    #[error("model_type `{found}` in config.json is not a Dream model")]
    #[diagnostic(code(config::model_type), help("the known types are `Dream`, `dream-vl` and `dream-vla`"))]
    UnknownModelType {
        /// The model_type.
        found: String,
    },
    /// A text model is needed and the model is another of the family.
    #[error("model_type `{found}` is not a text model")]
    #[diagnostic(code(config::variant), help("give a checkpoint of model_type `Dream`"))]
    UnsupportedVariant {
        /// The model_type.
        found: String,
    },
    /// A checkpoint as the training code saves it.
    #[error("model_type `llava_dream` is a training-time checkpoint")]
    #[diagnostic(code(config::training), help("export it to the released layout (`dream-vl`) first"))]
    TrainingCheckpoint,
    /// `architectures` names a class that does not belong to the model_type.
    #[error("architectures in config.json names `{found}`; model_type `{model_type}` goes with `{expected}`")]
    #[diagnostic(
        code(config::architectures),
        help("check that config.json belongs to this checkpoint, then correct `architectures`")
    )]
    Architecture {
        /// The class named.
        found: String,
        /// The model_type.
        model_type: &'static str,
        /// The class it goes with.
        expected: &'static str,
    },
    /// The heads do not divide the hidden size.
    #[error("hidden_size {hidden_size} is not divisible by num_attention_heads {num_attention_heads}")]
    #[diagnostic(code(config::heads), help("correct hidden_size or num_attention_heads in config.json"))]
    HeadsIndivisible {
        /// hidden_size.
        hidden_size: u64,
        /// num_attention_heads.
        num_attention_heads: u64,
    },
    /// The key-value heads do not divide the heads.
    #[error(
        "num_attention_heads {num_attention_heads} is not divisible by num_key_value_heads {num_key_value_heads}"
    )]
    #[diagnostic(
        code(config::kv_heads),
        help("correct num_attention_heads or num_key_value_heads in config.json")
    )]
    KvHeadsIndivisible {
        /// num_attention_heads.
        num_attention_heads: u64,
        /// num_key_value_heads.
        num_key_value_heads: u64,
    },
    /// An explicit head size that the layout does not allow.
    #[error("head_dim is {found}; hidden_size / num_attention_heads is {expected}")]
    #[diagnostic(
        code(config::head_dim),
        help("remove head_dim from config.json; other head sizes are not supported")
    )]
    HeadDim {
        /// head_dim.
        found: u64,
        /// hidden_size / num_attention_heads.
        expected: u64,
    },
    /// Rotary embedding pairs the halves of a head, so its size must be even.
    #[error("head_dim {head_dim} (hidden_size / num_attention_heads) is odd")]
    #[diagnostic(
        code(config::head_dim_odd),
        help("rotary embedding needs an even head_dim; correct config.json")
    )]
    HeadDimOdd {
        /// hidden_size / num_attention_heads.
        head_dim: u64,
    },
    /// Only a part of each head would be rotated.
    #[error("partial_rotary_factor is {found}; only 1.0 is supported")]
    #[diagnostic(code(config::partial_rotary), help("no Dream model uses it; remove it from config.json"))]
    PartialRotary {
        /// The value in the file.
        found: String,
    },
    /// Scaled rotary embeddings are not implemented by the reference sampler.
    #[error("rope_scaling is {found}; only null is supported")]
    #[diagnostic(code(config::rope_scaling), help("set rope_scaling to null in config.json"))]
    RopeScaling {
        /// The value in the file.
        found: String,
    },
    /// Multi-axis positions in a text model.
    #[error("use_mrope is true; text models have one position axis")]
    #[diagnostic(code(config::mrope), help("set use_mrope to false in config.json"))]
    Mrope,
    /// Window attention.
    #[error("use_sliding_window is true; Dream attends to the whole sequence")]
    #[diagnostic(code(config::sliding_window), help("set use_sliding_window to false in config.json"))]
    SlidingWindow,
    /// Another activation than silu.
    #[error("hidden_act is `{found}`; only `silu` is supported")]
    #[diagnostic(code(config::hidden_act), help("check that config.json belongs to a Dream checkpoint"))]
    HiddenAct {
        /// The activation named.
        found: String,
    },
    /// The config asks for a quantised loader.
    #[error("config.json has a `quantization_config`")]
    #[diagnostic(
        code(config::quantised),
        help("import the original bf16 checkpoint; quantisation is done by this compiler")
    )]
    Quantised,
    /// A visual part in the config of a text model: two checkpoints were mixed.
    #[error("config.json has a `vision_config` but its model_type `Dream` is a text model")]
    #[diagnostic(
        code(config::vision),
        help("take config.json and the weights from the same checkpoint; a vision model is `dream-vl`")
    )]
    VisionConfig,
    /// The mask token lies beyond the vocabulary.
    #[error("mask_token_id {mask_token_id} is not below vocab_size {vocab_size}")]
    #[diagnostic(
        code(config::mask_token_range),
        help("set mask_token_id in config.json to the tokenizer's mask token (151666 in the releases)")
    )]
    MaskTokenRange {
        /// mask_token_id, or its default.
        mask_token_id: u64,
        /// vocab_size.
        vocab_size: u64,
    },
    /// Another special token lies beyond the vocabulary.
    #[error("{key} {found} is not below vocab_size {vocab_size}")]
    #[diagnostic(code(config::token_range), help("set {key} in config.json to the tokenizer's id"))]
    TokenRange {
        /// The config key.
        key: &'static str,
        /// Its value, or its default.
        found: u64,
        /// vocab_size.
        vocab_size: u64,
    },
    /// Config and tokenizer disagree about the mask token.
    #[error("mask_token_id is {config} in config.json but the tokenizer's `{token}` is {tokenizer}")]
    #[diagnostic(
        code(tokenizer::mask_token),
        help("take config.json and the tokenizer files from the same checkpoint")
    )]
    MaskTokenMismatch {
        /// mask_token_id of the config.
        config: u64,
        /// The tokenizer's mask token.
        token: String,
        /// Its id.
        tokenizer: u64,
    },
    /// The tokenizer names a mask token without giving it an id.
    #[error("the tokenizer's mask token `{token}` has no id")]
    #[diagnostic(
        code(tokenizer::mask_absent),
        help("add it to added_tokens.json, or download the tokenizer again")
    )]
    MaskTokenAbsent {
        /// The mask token.
        token: String,
    },
    /// An added token takes the id of an ordinary one.
    #[error("added token `{token}` has id {id}, which belongs to `{other}` already")]
    #[diagnostic(
        code(tokenizer::overlap),
        help("take vocab.json, added_tokens.json and tokenizer_config.json from the same checkpoint")
    )]
    TokenOverlap {
        /// The added token.
        token: String,
        /// Its id.
        id: u64,
        /// The token that has the id.
        other: String,
    },
    /// An added token has the text of another token with another id.
    #[error("added token `{token}` has id {id}, but `{token}` has id {other} already")]
    #[diagnostic(
        code(tokenizer::overlap_text),
        help("take vocab.json, added_tokens.json and tokenizer_config.json from the same checkpoint")
    )]
    TokenOverlapText {
        /// The added token.
        token: String,
        /// Its id.
        id: u64,
        /// The id of the token with the same text.
        other: u64,
    },
    /// Token ids have a hole, or one is used twice.
    #[error("token ids are not contiguous: {count} tokens, but {problem}")]
    #[diagnostic(
        code(tokenizer::contiguous),
        help("a tokenizer file is damaged or stale; download them again")
    )]
    TokensNotContiguous {
        /// The number of tokens.
        count: u64,
        /// Where the order breaks.
        problem: String,
    },
    /// The tokenizer has more tokens than the model.
    #[error("the tokenizer has {tokens} tokens but vocab_size is {vocab_size}")]
    #[diagnostic(
        code(tokenizer::too_many),
        help("take config.json and the tokenizer files from the same checkpoint")
    )]
    TokensBeyondVocabulary {
        /// The number of tokens.
        tokens: u64,
        /// vocab_size.
        vocab_size: u64,
    },
    /// A text model with vision weights.
    #[error("model_type is `Dream` (text) but the checkpoint has vision tensors such as `{tensor}`")]
    #[diagnostic(
        code(import::vision_in_text),
        help("take config.json and the weights from the same checkpoint; a vision model is `dream-vl`")
    )]
    VisionInText {
        /// The first such tensor.
        tensor: String,
    },
    /// Tensors are missing, superfluous or of the wrong shape.
    #[error("the tensors do not fit config.json: {problems}")]
    #[diagnostic(
        code(import::tensors),
        help("check that config.json and the weights come from the same checkpoint")
    )]
    Tensors {
        /// All that is wrong.
        problems: TensorProblems,
    },
    /// The head should be the embedding but is stored with other values.
    #[error("tie_word_embeddings is true but `lm_head.weight` is stored and differs from the embedding")]
    #[diagnostic(
        code(import::tied_head),
        help("set tie_word_embeddings to false to use the stored head, or remove `lm_head.weight`")
    )]
    TiedHeadDiffers,
    /// A synthetic checkpoint would overwrite something.
    #[error("`{}` exists already", path.display())]
    #[diagnostic(code(synth::exists), help("choose an empty directory, or remove the file"))]
    OutputExists {
        /// The file in the way.
        path: PathBuf,
    },
    /// A synthetic checkpoint does not fit on the disk.
    #[error("`{}` has {free_bytes} bytes free; the checkpoint needs {needed_bytes}", path.display())]
    #[diagnostic(
        code(synth::disk_full),
        help("free some space, or choose another directory or a smaller size")
    )]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
}

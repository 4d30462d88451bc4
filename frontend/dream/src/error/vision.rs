//! What can be wrong with the parts of a checkpoint that let the model see and act.

/// An error in the vision or action part of a config, a tokenizer or a checkpoint.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum VisionError {
    /// A model that sees, without the settings of what it sees with.
    #[error("model_type is `{model_type}` but config.json has no `vision_config`")]
    #[diagnostic(
        code(vision::config),
        help("take config.json and the weights from the same checkpoint; a text model is `Dream`")
    )]
    NoConfig {
        /// The model_type.
        model_type: &'static str,
    },
    /// A model that sees, without the tensors of what it sees with.
    #[error("model_type is `{model_type}` but the checkpoint has no `visual.*` tensors")]
    #[diagnostic(
        code(vision::tensors),
        help("take config.json and the weights from the same checkpoint; a text model is `Dream`")
    )]
    NoTensors {
        /// The model_type.
        model_type: &'static str,
    },
    /// Another activation in the tower.
    #[error("hidden_act in vision_config is `{found}`; only `quick_gelu` is supported")]
    #[diagnostic(code(vision::hidden_act), help("check that config.json belongs to a Dream checkpoint"))]
    HiddenAct {
        /// The activation named.
        found: String,
    },
    /// Another activation in the projector.
    #[error("projector_hidden_act is `{found}`; only `gelu` is supported")]
    #[diagnostic(code(vision::projector_act), help("check that config.json belongs to a Dream checkpoint"))]
    ProjectorAct {
        /// The activation named.
        found: String,
    },
    /// The heads do not divide the width.
    #[error("embed_dim {embed_dim} of vision_config is not divisible by num_heads {num_heads}")]
    #[diagnostic(code(vision::heads), help("correct embed_dim or num_heads in vision_config"))]
    HeadsIndivisible {
        /// embed_dim.
        embed_dim: u64,
        /// num_heads.
        num_heads: u64,
    },
    /// Rotary embedding splits a head in quarters.
    #[error("the head size {head_dim} of vision_config (embed_dim / num_heads) is not divisible by 4")]
    #[diagnostic(
        code(vision::head_dim),
        help("rotary embedding of rows and columns needs it; correct vision_config")
    )]
    HeadDim {
        /// embed_dim / num_heads.
        head_dim: u64,
    },
    /// The MLP's width is not a whole number.
    #[error("mlp_ratio {found} in vision_config does not make a whole width of embed_dim {embed_dim}")]
    #[diagnostic(code(vision::mlp_ratio), help("correct mlp_ratio in vision_config (4 in the releases)"))]
    MlpRatio {
        /// The value in the file.
        found: String,
        /// embed_dim.
        embed_dim: u64,
    },
    /// Patches of another form than the preprocessing makes.
    #[error("`{key}` in config.json is {found}; only {expected} is supported")]
    #[diagnostic(code(vision::patch), help("check that config.json belongs to a Dream checkpoint"))]
    PatchGeometry {
        /// The key.
        key: &'static str,
        /// The value in the file.
        found: u64,
        /// The one value.
        expected: u64,
    },
    /// Positions do not use the whole head.
    #[error("mrope_section {found:?} does not add up to half the head size {head_dim}")]
    #[diagnostic(
        code(vision::mrope_section),
        help("correct mrope_section in config.json ([16, 24, 24] for heads of 128, the default)")
    )]
    MropeSection {
        /// The value in the file, or its default.
        found: [u64; 3],
        /// hidden_size / num_attention_heads.
        head_dim: u64,
    },
    /// The tower's output does not fit the projector.
    #[error(
        "hidden_size in vision_config is {hidden_size} but `projector.linear_1.weight` takes {projector}"
    )]
    #[diagnostic(
        code(vision::projector),
        help("check that config.json and the weights come from the same checkpoint")
    )]
    ProjectorInput {
        /// hidden_size of vision_config.
        hidden_size: u64,
        /// The projector's input.
        projector: u64,
    },
    /// Another number of action tokens.
    #[error("n_action_bins is {found}; only 256 (or null) is supported")]
    #[diagnostic(code(action::bins), help("check that config.json belongs to a Dream-VLA checkpoint"))]
    ActionBins {
        /// The value in the file.
        found: String,
    },
    /// Config and tokenizer disagree about a token of images.
    #[error("{key} is {config} in config.json but the tokenizer's `{token}` is {tokenizer}")]
    #[diagnostic(
        code(tokenizer::vision_token),
        help("take config.json and the tokenizer files from the same checkpoint")
    )]
    TokenMismatch {
        /// The config key.
        key: &'static str,
        /// Its value, or its default.
        config: u64,
        /// The token's text.
        token: &'static str,
        /// Its id in the tokenizer.
        tokenizer: u64,
    },
    /// The tokenizer has no token for images.
    #[error("the tokenizer has no `{token}`, which stands for images")]
    #[diagnostic(
        code(tokenizer::image_token),
        help("take the tokenizer files from the same checkpoint; those of the text model lack nothing else")
    )]
    ImageTokenAbsent {
        /// The token's text.
        token: &'static str,
    },
    /// The action tokens are incomplete, or not the last ones in order.
    #[error("action tokens must be the last 256 tokens in order: {problem}")]
    #[diagnostic(
        code(tokenizer::action_tokens),
        help("take all tokenizer files from the same fine-tuned checkpoint, or none of the action tokens")
    )]
    ActionTokens {
        /// The first thing that is wrong.
        problem: String,
    },
    /// There are no action tokens, and their ids are not those of the releases.
    #[error("the tokenizer has no action tokens and ends at {last}, not at 151666 as the released ones do")]
    #[diagnostic(
        code(tokenizer::action_tokens_absent),
        help(
            "add `<|action_0|>` .. `<|action_255|>` to added_tokens.json as fine-tuning did, or use its tokenizer files"
        )
    )]
    ActionTokensAbsent {
        /// The highest id.
        last: u64,
    },
}

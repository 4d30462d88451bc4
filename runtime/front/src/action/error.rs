//! What can be wrong with actions, their statistics and the robot's state.

/// Why actions cannot be decoded or scaled.
#[derive(Clone, Debug, PartialEq, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum ActionError {
    /// A statistics file does not hold what it should.
    #[error("`{place}`: {reason}")]
    #[diagnostic(
        code(action::statistics),
        help("take dataset_statistics.json from the checkpoint's source, or give another with --stats")
    )]
    Statistics {
        /// File, or the key of a config that has them.
        place: String,
        /// Which entry, and what is wrong.
        reason: String,
    },
    /// No statistics of that name.
    #[error("`{place}` has no statistics `{key}`, only {}", list(keys))]
    #[diagnostic(code(action::unnorm_key), help("give one of these with --unnorm-key"))]
    UnknownKey {
        /// Where they were looked for.
        place: String,
        /// What was asked for.
        key: String,
        /// What there is.
        keys: Vec<String>,
    },
    /// Several sets, and none was chosen.
    #[error("`{place}` has several statistics: {}", list(keys))]
    #[diagnostic(code(action::unnorm_key), help("choose one of them with --unnorm-key"))]
    NoKey {
        /// Where they are.
        place: String,
        /// What there is.
        keys: Vec<String>,
    },
    /// A set fits other robots.
    #[error("statistics `{key}` have {found} {what} values; the model has {expected}")]
    #[diagnostic(
        code(action::width),
        help("choose the statistics of the data that this model was trained on")
    )]
    Width {
        /// The chosen set.
        key: String,
        /// `action` or `proprio`.
        what: &'static str,
        /// Values in the set.
        found: usize,
        /// Values of the model.
        expected: usize,
    },
    /// The robot's state has the wrong length, or actions are no whole steps.
    #[error("{found} {what} values are given; statistics `{key}` have {expected}")]
    #[diagnostic(
        code(action::length),
        help("give exactly one value for each dimension, in the data's order")
    )]
    Length {
        /// The chosen set.
        key: String,
        /// `action` or `proprio`.
        what: &'static str,
        /// Values given.
        found: usize,
        /// Values of a step.
        expected: usize,
    },
    /// The set says nothing about the robot's state.
    #[error("statistics `{key}` have no `proprio`, which the model takes")]
    #[diagnostic(
        code(action::no_proprio),
        help("give statistics with `proprio`, or build without it (--proprio off)")
    )]
    NoProprio {
        /// The chosen set.
        key: String,
    },
    /// Infinite, or no number at all.
    #[error("{what} value {index} is {value}")]
    #[diagnostic(
        code(action::not_finite),
        help("check where it comes from: only finite numbers can be used")
    )]
    NotFinite {
        /// `action` or `proprio`.
        what: &'static str,
        /// Which, from 0.
        index: usize,
        /// What it is.
        value: f64,
    },
    /// The tokenizer has no usable action tokens.
    #[error("the tokenizer has no usable action tokens: {reason}")]
    #[diagnostic(
        code(action::tokens),
        help(
            "take the tokenizer files from the checkpoint: `<|action_0|>` to `<|action_255|>` must be its last tokens"
        )
    )]
    Tokens {
        /// What is wrong.
        reason: String,
    },
}

fn list(keys: &[String]) -> String {
    let quoted: Vec<String> = keys.iter().map(|k| format!("`{k}`")).collect();
    quoted.join(", ")
}

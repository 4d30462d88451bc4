//! What can be wrong with the files around the weights.

use crate::image::ImageError;
use crate::{ActionError, PromptError};
use std::path::PathBuf;

/// Why something that surrounds the tensors cannot be had or used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum FrontError {
    /// Neither form of the tokenizer is there.
    #[error("`{}` holds no tokenizer", dir.display())]
    #[diagnostic(
        code(front::missing),
        help("copy vocab.json and merges.txt, or tokenizer.json, from the checkpoint into this folder")
    )]
    Missing {
        /// The checkpoint's folder.
        dir: PathBuf,
    },
    /// One of two files that belong together is there.
    #[error("`{}` has `{present}` but no `{absent}`", dir.display())]
    #[diagnostic(
        code(front::incomplete),
        help("copy `{absent}` from the checkpoint's source into this folder")
    )]
    Incomplete {
        /// The checkpoint's folder.
        dir: PathBuf,
        /// The file that is there.
        present: &'static str,
        /// The file that is not.
        absent: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    #[diagnostic(code(front::read), help("check that the file is there and that you may read it"))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is longer than any real one.
    #[error("`{}` has {found_bytes} bytes; the limit is {limit_bytes}", path.display())]
    #[diagnostic(
        code(front::too_large),
        help("it is no tokenizer file; download it again from the checkpoint's source")
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// The longest accepted.
        limit_bytes: u64,
    },
    /// A text that no prompt has room for.
    #[error(
        "the text has {found_bytes} bytes, and {tokens_max} tokens, for which there is room, have at most {limit_bytes}"
    )]
    #[diagnostic(
        code(front::text_too_long),
        help("shorten it, or build with a larger --max-prompt, or --new-tokens for a canvas")
    )]
    TextTooLong {
        /// Its length.
        found_bytes: usize,
        /// The longest that is looked at.
        limit_bytes: usize,
        /// Tokens that there is room for.
        tokens_max: usize,
    },
    /// Two files say different things about a token.
    #[error("`{}` and `{}` contradict each other about added token `{token}`: {reason}", path.display(), other.display())]
    #[diagnostic(
        code(front::contradiction),
        help("take both files from the same checkpoint, or remove the one that is out of date")
    )]
    Contradiction {
        /// The first file.
        path: PathBuf,
        /// The second file.
        other: PathBuf,
        /// The token as the second file spells it.
        token: String,
        /// What each says.
        reason: String,
    },
    /// A file does not hold what it should.
    #[error("`{}` is not valid: {reason}", path.display())]
    #[diagnostic(code(front::corrupt), help("download the file again from the checkpoint's source"))]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer inside an artifact does not read.
    #[error("the artifact's tokenizer does not read: {reason}")]
    #[diagnostic(code(front::embedded), help("build the artifact again with this version"))]
    Embedded {
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("the tokenizer failed: {reason}")]
    #[diagnostic(code(front::tokenizer), help("report this with the text"))]
    Tokenizer {
        /// What it says.
        reason: String,
    },
    /// An image, or the settings of its processor.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Image(#[from] ImageError),
    /// A prompt that does not fit its images.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Prompt(#[from] PromptError),
    /// Actions, their statistics, or the robot's state.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Action(#[from] ActionError),
}

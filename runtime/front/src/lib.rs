//! What surrounds the tensors: tokenizer and chat template.

pub mod chat;
mod error;
mod files;
mod tokenizer;

pub use error::FrontError;
pub use files::{AddedToken, FILE_BYTES_MAX, TokenizerFiles};
pub use tokenizer::Tokenizer;

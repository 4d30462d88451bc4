//! What surrounds the tensors: text, images, positions, robot actions.

pub mod camera;
pub mod chat;
mod error;
mod files;
pub mod image;
mod tokenizer;

pub use error::FrontError;
pub use files::{AddedToken, FILE_BYTES_MAX, TokenizerFiles};
pub use tokenizer::Tokenizer;

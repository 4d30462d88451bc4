//! What surrounds the tensors: text, images, positions, robot actions.
//!
//! - Text: [`Tokenizer`] and [`chat`].
//! - Images: [`image`] makes patches of files, [`camera`] prepares a robot's frames before that.
//! - Prompts with images: [`expand`] makes room for them, [`splice_index`] says which feature goes where, and
//!   [`positions`] numbers the places.
//! - [`Settings`] is what an artifact stores of all this.
//! - Actions: [`action`] has statistics, tokens and normalisation.
//!
//! All of it works on plain lists and knows no device. What the tensors are called and how they lie is in the
//! documentation of each function.

pub mod action;
pub mod camera;
pub mod chat;
mod error;
mod files;
pub mod image;
pub mod positions;
mod prompt_error;
pub mod settings;
mod tokenizer;
mod vision_tokens;

pub use action::ActionError;
pub use error::FrontError;
pub use files::{AddedToken, FILE_BYTES_MAX, TokenizerFiles};
pub use prompt_error::PromptError;
pub use settings::Settings;
pub use tokenizer::Tokenizer;
pub use vision_tokens::{VisionTokens, expand, splice_index};

//! The text form of modules: a small language that prints and parses without loss.
//!
//! ```text
//! symbol S <= 64
//!
//! graph @forward(%0: i32[1, S] "input_ids") {
//!   %1 = weight {name="model.embed_tokens.weight"} : f32[320, 128]
//!   %2 = embed %0, %1 : f32[1, S, 128] loc "model.embed_tokens"
//!   return %2 "hidden"
//! }
//! ```
//!
//! Values are renumbered in order of definition when printed. `#` starts a comment.

mod lexer;
mod parse;
mod print;
mod spelling;

pub use lexer::ParseError;
pub use parse::parse;
pub use spelling::Attribute;

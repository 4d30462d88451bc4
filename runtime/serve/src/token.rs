//! The token that requests must bring, from a file of its own.

use crate::ServeError;
use std::path::Path;

/// Longer files hold no token.
const FILE_BYTES_MAX: u64 = 4096;
/// Shorter ones can be guessed.
const CHARACTERS_MIN: usize = 16;

/// What a file holds, without the white space around it.
///
/// # Errors
///
/// Where it cannot be read, or holds no token.
pub(crate) fn read(path: &Path) -> Result<String, ServeError> {
    let wrong = |what: &'static str| ServeError::Token { path: path.to_owned(), what };
    let unread = |source| ServeError::TokenFile { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(unread)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(wrong("is no file with a token"));
    }
    let text = std::fs::read_to_string(path).map_err(unread)?;
    let token = text.trim();
    let is_sound = |c: char| !c.is_whitespace() && !c.is_control();
    if token.chars().count() < CHARACTERS_MIN || !token.chars().all(is_sound) {
        return Err(wrong("holds no token"));
    }
    Ok(token.to_owned())
}

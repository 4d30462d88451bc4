//! Token ids in the tokenizer files, compared with each other and with config.json.
//!
//! The files are read by the crate that turns text into ids, so that what is checked here is what is used there.

use crate::{ImportError, TextConfig};
use dreamc_front::TokenizerFiles;
use std::collections::BTreeMap;
use std::path::Path;

/// Checks the tokenizer files of a checkpoint directory. That there are none is no error.
pub fn check_vocabulary(dir: impl AsRef<Path>, config: &TextConfig) -> Result<(), ImportError> {
    match TokenizerFiles::read(dir.as_ref())? {
        Some(files) => check(&files, config),
        None => Ok(()),
    }
}

fn check(files: &TokenizerFiles, config: &TextConfig) -> Result<(), ImportError> {
    let mut tokens = by_id(files.vocabulary())?;
    let mut ids: BTreeMap<&str, u64> = files.vocabulary().iter().map(|(t, &id)| (t.as_str(), id)).collect();
    for added in files.added_tokens() {
        let (token, id) = (added.content.as_str(), added.id);
        // tokenizer.json may list an added token among the ordinary ones as well: the same token.
        if let Some(other) = tokens.insert(id, token).filter(|other| *other != token) {
            let (token, other) = (token.to_owned(), other.to_owned());
            return Err(ImportError::TokenOverlap { token, id, other });
        }
        if let Some(other) = ids.insert(token, id).filter(|other| *other != id) {
            return Err(ImportError::TokenOverlapText { token: token.to_owned(), id, other });
        }
    }
    let count = tokens.len() as u64;
    if let Some((expected, (id, token))) = (0..).zip(&tokens).find(|(expected, (id, _))| expected != *id) {
        let problem = format!("no token has id {expected}; the next is `{token}` with {id}");
        return Err(ImportError::TokensNotContiguous { count, problem });
    }
    if count > config.vocab_size {
        return Err(ImportError::TokensBeyondVocabulary { tokens: count, vocab_size: config.vocab_size });
    }
    if let Some(token) = files.mask_token() {
        let absent = || ImportError::MaskTokenAbsent { token: token.to_owned() };
        let tokenizer = *ids.get(token).ok_or_else(absent)?;
        let mask = u64::from(config.mask_token_id);
        if tokenizer != mask {
            return Err(ImportError::MaskTokenMismatch { config: mask, token: token.to_owned(), tokenizer });
        }
    }
    Ok(())
}

/// Turns tokens around, so that they are in the order of their ids.
fn by_id(vocabulary: &BTreeMap<String, u64>) -> Result<BTreeMap<u64, &str>, ImportError> {
    let mut tokens = BTreeMap::new();
    for (token, &id) in vocabulary {
        if let Some(other) = tokens.insert(id, token.as_str()) {
            let (count, problem) =
                (vocabulary.len() as u64, format!("`{other}` and `{token}` both have id {id}"));
            return Err(ImportError::TokensNotContiguous { count, problem });
        }
    }
    Ok(tokens)
}

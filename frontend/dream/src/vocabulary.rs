//! Token ids in the tokenizer files, compared with each other and with config.json.
//!
//! The files are read by the crate that turns text into ids, so that what is checked here is what is used there.

use crate::config::ModelRef;
use crate::{ImportError, TextConfig, Variant, VisionConfig, VisionError};
use dreamc_front::TokenizerFiles;
use std::collections::BTreeMap;
use std::path::Path;

/// The number of action tokens.
pub const ACTION_TOKENS: u64 = 256;
/// The number of tokens in the releases before action tokens are added.
const RELEASED_TOKENS: u64 = 151_667;
/// The token that stands for rows of an image.
const IMAGE_TOKEN: &str = "<|image_pad|>";

/// What [`check_vocabulary`] found out about tokenizer files that fit their config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// The number of tokens. Action tokens that an action model lacks are counted as if they were there.
    pub tokens: u64,
    /// The id of `<|action_0|>`: the action tokens are `first_action .. first_action + 256`, the last of all
    /// (`spec/actions.md` section 2). Only an action model has them for sure.
    pub first_action: Option<u32>,
}

/// Checks the tokenizer files of a checkpoint directory. That there are none is no error, and nothing is found out.
pub fn check_vocabulary<'a>(
    dir: impl AsRef<Path>,
    config: impl Into<ModelRef<'a>>,
) -> Result<Option<Vocabulary>, ImportError> {
    match TokenizerFiles::read(dir.as_ref())? {
        Some(files) => check(&files, config.into()).map(Some),
        None => Ok(None),
    }
}

fn check(files: &TokenizerFiles, config: ModelRef<'_>) -> Result<Vocabulary, ImportError> {
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
    check_mask(files, &ids, config.text)?;
    if let Some(vision) = config.vision {
        check_vision(&ids, vision)?;
    }
    let mut first_action = first_action(&ids, count)?;
    let mut all = count;
    if first_action.is_none() && config.variant == Variant::Vla {
        // Base models lack them; training added them where the releases end.
        if count != RELEASED_TOKENS {
            return Err(VisionError::ActionTokensAbsent { last: count.saturating_sub(1) }.into());
        }
        first_action = Some(count);
        all = count + ACTION_TOKENS;
    }
    let vocab_size = config.text.vocab_size;
    if all > vocab_size {
        return Err(ImportError::TokensBeyondVocabulary { tokens: all, vocab_size });
    }
    // Below vocab_size, which has a limit.
    Ok(Vocabulary { tokens: all, first_action: first_action.and_then(|id| u32::try_from(id).ok()) })
}

fn check_mask(
    files: &TokenizerFiles,
    ids: &BTreeMap<&str, u64>,
    config: &TextConfig,
) -> Result<(), ImportError> {
    let Some(token) = files.mask_token() else { return Ok(()) };
    let absent = || ImportError::MaskTokenAbsent { token: token.to_owned() };
    let tokenizer = *ids.get(token).ok_or_else(absent)?;
    let mask = u64::from(config.mask_token_id);
    if tokenizer == mask {
        Ok(())
    } else {
        Err(ImportError::MaskTokenMismatch { config: mask, token: token.to_owned(), tokenizer })
    }
}

/// The tokens of images and videos have the ids that config.json gives them.
fn check_vision(ids: &BTreeMap<&str, u64>, vision: &VisionConfig) -> Result<(), VisionError> {
    for (key, token, config) in [
        ("image_token_id", IMAGE_TOKEN, vision.image_token_id),
        ("video_token_id", "<|video_pad|>", vision.video_token_id),
        ("vision_start_token_id", "<|vision_start|>", vision.vision_start_token_id),
    ] {
        let config = u64::from(config);
        match ids.get(token) {
            Some(&tokenizer) if tokenizer != config => {
                return Err(VisionError::TokenMismatch { key, config, token, tokenizer });
            }
            Some(_) => {}
            None if token == IMAGE_TOKEN => return Err(VisionError::ImageTokenAbsent { token }),
            None => {}
        }
    }
    Ok(())
}

/// The id of the first action token. They must be all there and the last ones, or not there at all.
fn first_action(ids: &BTreeMap<&str, u64>, count: u64) -> Result<Option<u64>, VisionError> {
    let name = |n: u64| format!("<|action_{n}|>");
    if (0..ACTION_TOKENS).all(|n| !ids.contains_key(name(n).as_str())) {
        return Ok(None);
    }
    let problem = |problem: String| Err(VisionError::ActionTokens { problem });
    let Some(first) = count.checked_sub(ACTION_TOKENS) else {
        return problem(format!("there are {count} tokens in all"));
    };
    for n in 0..ACTION_TOKENS {
        let expected = first + n;
        match ids.get(name(n).as_str()) {
            Some(&id) if id == expected => {}
            Some(id) => return problem(format!("`{}` is {id} instead of {expected}", name(n))),
            None => return problem(format!("`{}` is absent", name(n))),
        }
    }
    Ok(Some(first))
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

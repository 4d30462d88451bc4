//! Token ids in the tokenizer files, compared with each other and with config.json.
//!
//! Only ids are checked here; text is turned into ids elsewhere. `added_tokens_decoder` of
//! tokenizer_config.json wins over added_tokens.json. Where vocab.json is absent, tokenizer.json is read.

use crate::{ImportError, TextConfig};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Token ids of a checkpoint's tokenizer files.
struct Vocabulary {
    /// Ordinary tokens, by id.
    base: BTreeMap<u64, String>,
    /// Added tokens and their ids.
    added: Vec<(String, u64)>,
    /// The mask token, where the files name one.
    mask_token: Option<String>,
}

/// Checks the tokenizer files of a checkpoint directory. That there are none is no error.
pub fn check_vocabulary(dir: impl AsRef<Path>, config: &TextConfig) -> Result<(), ImportError> {
    let Some(vocabulary) = Vocabulary::read(dir.as_ref())? else { return Ok(()) };
    vocabulary.check(config)
}

impl Vocabulary {
    fn read(dir: &Path) -> Result<Option<Vocabulary>, ImportError> {
        let settings = read_json(dir, "tokenizer_config.json")?;
        let (base, mut added) = match read_json(dir, "vocab.json")? {
            Some(vocab) => (ids_of(dir, "vocab.json", &vocab)?, Vec::new()),
            None => match read_json(dir, "tokenizer.json")? {
                Some(json) => read_fast(dir, &json)?,
                None => return Ok(None),
            },
        };
        let decoder = settings.as_ref().and_then(|s| s.get("added_tokens_decoder"));
        if let Some(Value::Object(decoder)) = decoder {
            let file = "tokenizer_config.json";
            added.clear();
            for (id, token) in decoder {
                let id = id.parse().map_err(|_| malformed(dir, file, format!("`{id}` is not an id")))?;
                let content = content(token)
                    .ok_or_else(|| malformed(dir, file, format!("added token {id} has no `content`")))?;
                added.push((content.to_owned(), id));
            }
        } else if let Some(json) = read_json(dir, "added_tokens.json")? {
            added = ids_of(dir, "added_tokens.json", &json)?;
        }
        // Neither list need be in order.
        added.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));

        let special = read_json(dir, "special_tokens_map.json")?;
        let mask_token = [settings.as_ref(), special.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|json| json.get("mask_token").and_then(content))
            .map(str::to_owned)
            .next();
        Ok(Some(Vocabulary { base: by_id(base)?, added, mask_token }))
    }

    fn check(&self, config: &TextConfig) -> Result<(), ImportError> {
        let mut all: BTreeMap<u64, &str> = self.base.iter().map(|(&id, t)| (id, t.as_str())).collect();
        for (token, id) in &self.added {
            // tokenizer.json may list an added token among the ordinary ones as well: the same token.
            match all.insert(*id, token) {
                Some(other) if other != token => {
                    let (token, id, other) = (token.clone(), *id, other.to_owned());
                    return Err(ImportError::TokenOverlap { token, id, other });
                }
                _ => {}
            }
        }
        let count = all.len() as u64;
        if let Some((expected, (id, token))) = (0..).zip(&all).find(|(expected, (id, _))| expected != *id) {
            let problem = format!("no token has id {expected}; the next is `{token}` with {id}");
            return Err(ImportError::TokensNotContiguous { count, problem });
        }
        if count > config.vocab_size {
            return Err(ImportError::TokensBeyondVocabulary { tokens: count, vocab_size: config.vocab_size });
        }
        if let Some(token) = &self.mask_token {
            let found = all.iter().find(|(_, t)| *t == token).map(|(&id, _)| id);
            let tokenizer = found.ok_or_else(|| ImportError::MaskTokenAbsent { token: token.clone() })?;
            let mask = u64::from(config.mask_token_id);
            if tokenizer != mask {
                return Err(ImportError::MaskTokenMismatch { config: mask, token: token.clone(), tokenizer });
            }
        }
        Ok(())
    }
}

/// Ordinary and added tokens of a tokenizer.json.
type Tokens = (Vec<(String, u64)>, Vec<(String, u64)>);

fn read_fast(dir: &Path, json: &Value) -> Result<Tokens, ImportError> {
    let file = "tokenizer.json";
    let vocab = json
        .pointer("/model/vocab")
        .ok_or_else(|| malformed(dir, file, "`model.vocab` is missing".to_owned()))?;
    let base = ids_of(dir, file, vocab)?;
    let mut added = Vec::new();
    for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let id = token.get("id").and_then(Value::as_u64);
        let (Some(id), Some(content)) = (id, content(token)) else {
            return Err(malformed(dir, file, "an added token has no `id` or `content`".to_owned()));
        };
        added.push((content.to_owned(), id));
    }
    Ok((base, added))
}

/// Turns tokens around, so that they are in the order of their ids.
fn by_id(tokens: Vec<(String, u64)>) -> Result<BTreeMap<u64, String>, ImportError> {
    let count = tokens.len() as u64;
    let mut by_id = BTreeMap::new();
    for (token, id) in tokens {
        if let Some(other) = by_id.get(&id) {
            let problem = format!("`{other}` and `{token}` both have id {id}");
            return Err(ImportError::TokensNotContiguous { count, problem });
        }
        by_id.insert(id, token);
    }
    Ok(by_id)
}

fn ids_of(dir: &Path, file: &str, json: &Value) -> Result<Vec<(String, u64)>, ImportError> {
    let map = json.as_object().ok_or_else(|| malformed(dir, file, "not an object".to_owned()))?;
    map.iter()
        .map(|(token, id)| {
            let id = id
                .as_u64()
                .ok_or_else(|| malformed(dir, file, format!("the id of `{token}` is not a whole number")))?;
            Ok((token.clone(), id))
        })
        .collect()
}

/// A token is stored as a string or as an object with `content`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content").and_then(Value::as_str))
}

fn read_json(dir: &Path, file: &str) -> Result<Option<Value>, ImportError> {
    let path = dir.join(file);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ImportError::Io { path, source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| malformed(dir, file, e.to_string()))
}

fn malformed(dir: &Path, file: &str, reason: String) -> ImportError {
    ImportError::Json { path: dir.join(file), reason }
}

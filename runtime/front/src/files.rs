//! The tokenizer files of a checkpoint, brought into the one form that `tokenizer.json` has.

use crate::FrontError;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The Qwen2 pre-tokenizer's alternation.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The file's text, or `None` where there is no such file.
pub(crate) fn text(path: &Path) -> Result<Option<String>, FrontError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(corrupt(path, "it is not UTF-8 text")),
        Err(source) => Err(FrontError::Read { path: path.to_owned(), source }),
    }
}

/// The file's JSON object, or `None` where there is no such file.
pub(crate) fn object(path: &Path) -> Result<Option<Map<String, Value>>, FrontError> {
    let Some(text) = text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| corrupt(path, &e.to_string()))
}

pub(crate) fn corrupt(path: &Path, reason: &str) -> FrontError {
    FrontError::Corrupt { path: path.to_owned(), reason: reason.to_owned() }
}

/// The mask token's text, if the checkpoint names one.
pub(crate) fn mask_token(dir: &Path) -> Result<Option<String>, FrontError> {
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        if let Some(token) = object(&dir.join(name))?.as_ref().and_then(|o| content(o.get("mask_token")?)) {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
}

/// A token stands as its text, or as an object with it.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// `tokenizer.json` from `vocab.json`, `merges.txt` and the added tokens; `None` where the first two are not there.
pub(crate) fn from_vocab(dir: &Path) -> Result<Option<Value>, FrontError> {
    let merges_path = dir.join("merges.txt");
    let (Some(mut vocab), Some(merges)) = (object(&dir.join("vocab.json"))?, text(&merges_path)?) else {
        return Ok(None);
    };
    let mut pairs = Vec::new();
    for (line, number) in merges.lines().zip(1..) {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let pair = line
            .split_once(' ')
            .ok_or_else(|| corrupt(&merges_path, &format!("line {number} is no pair")))?;
        pairs.push(json!([pair.0, pair.1]));
    }
    let added = added_tokens(dir)?;
    // The library numbers added tokens on from the vocabulary; where the checkpoint does not, the ids have to stand
    // in the vocabulary. No merge makes them, so they change nothing else.
    let base = vocab.len() as u64;
    if added.keys().zip(base..).any(|(id, expected)| *id != expected) {
        for (id, token) in &added {
            if let Some(text) = content(token) {
                vocab.insert(text.to_owned(), json!(id));
            }
        }
    }
    let added: Vec<Value> = added.into_values().collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let split =
        json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
    Ok(Some(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": pairs,
        },
    })))
}

/// The added tokens by id, as `tokenizer.json` has them.
fn added_tokens(dir: &Path) -> Result<BTreeMap<u64, Value>, FrontError> {
    let config_path = dir.join("tokenizer_config.json");
    let config = object(&config_path)?.unwrap_or_default();
    let mut tokens = BTreeMap::new();
    if let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) {
        for (id, token) in decoder {
            let id = id.parse().map_err(|_| corrupt(&config_path, &format!("`{id}` is no token id")))?;
            let text =
                content(token).ok_or_else(|| corrupt(&config_path, "an added token has no content"))?;
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            tokens.insert(id, added(id, text, flag("special"), &flag));
        }
        return Ok(tokens);
    }
    let path = dir.join("added_tokens.json");
    let special = special_tokens(dir)?;
    for (text, id) in object(&path)?.unwrap_or_default() {
        let id = id.as_u64().ok_or_else(|| corrupt(&path, &format!("`{text}` has no id")))?;
        tokens.insert(id, added(id, &text, special.contains(&text), &|_| false));
    }
    Ok(tokens)
}

fn added(id: u64, content: &str, special: bool, flag: &dyn Fn(&str) -> bool) -> Value {
    json!({
        "id": id, "content": content, "special": special, "single_word": flag("single_word"),
        "lstrip": flag("lstrip"), "rstrip": flag("rstrip"), "normalized": flag("normalized"),
    })
}

/// Every token that `special_tokens_map.json` names.
fn special_tokens(dir: &Path) -> Result<BTreeSet<String>, FrontError> {
    let map = object(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
    let mut special = BTreeSet::new();
    for value in map.values() {
        let one = std::slice::from_ref(value);
        let list = value.as_array().map_or(one, Vec::as_slice);
        special.extend(list.iter().filter_map(content).map(str::to_owned));
    }
    Ok(special)
}

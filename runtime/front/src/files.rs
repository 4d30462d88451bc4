//! The files of a checkpoint's tokenizer, and the one form that `tokenizer.json` has.

use crate::FrontError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest file read. The largest of the released tokenizers' files has 5 MB.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// The Qwen2 pre-tokenizer's alternation.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A checkpoint's tokenizer as its files give it. A [`Tokenizer`](crate::Tokenizer) is made of this and of nothing else,
/// so checks on it are checks on what is used.
///
/// With `vocab.json` and `merges.txt`, the added tokens are those of `tokenizer_config.json`, or else of
/// `added_tokens.json`. Without the two, `tokenizer.json` has all tokens, and the others must not contradict it.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    vocabulary: BTreeMap<String, u64>,
    added_tokens: Vec<AddedToken>,
    mask_token: Option<String>,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// `vocab.json` and these merges.
    Vocab { path: PathBuf, merges: Vec<(String, String)> },
    /// `tokenizer.json`, and this is its text.
    Whole { path: PathBuf, text: String },
}

/// A token that is found in the text before the vocabulary is asked. Where a file does not give a flag, it is `None`
/// and counts as false.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AddedToken {
    /// Its id.
    pub id: u64,
    /// Its text.
    pub content: String,
    /// Whether decoding may leave it out.
    pub special: Option<bool>,
    /// Whether it stands for whole words alone.
    pub single_word: Option<bool>,
    /// Whether it takes in the white space before it.
    pub lstrip: Option<bool>,
    /// Whether it takes in the white space after it.
    pub rstrip: Option<bool>,
    /// Whether it is looked for in the normalised text.
    pub normalized: Option<bool>,
}

impl AddedToken {
    fn flags(&self) -> [(&'static str, Option<bool>); 5] {
        [
            ("special", self.special),
            ("single_word", self.single_word),
            ("lstrip", self.lstrip),
            ("rstrip", self.rstrip),
            ("normalized", self.normalized),
        ]
    }

    /// As `tokenizer.json` has it.
    fn to_json(&self) -> Value {
        let mut token = json!({ "id": self.id, "content": self.content });
        for (name, value) in self.flags() {
            token[name] = json!(value.unwrap_or(false));
        }
        token
    }
}

/// What is read of a `tokenizer.json`; the library reads all of it.
#[derive(Deserialize)]
struct Whole {
    model: WholeModel,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct WholeModel {
    vocab: Map<String, Value>,
}

impl TokenizerFiles {
    /// Reads the files in a checkpoint's folder, or `None` where there are none.
    ///
    /// # Errors
    ///
    /// Where files do not hold what they should, one without the other is useless, or they contradict each other.
    pub fn read(dir: &Path) -> Result<Option<TokenizerFiles>, FrontError> {
        let at = |name: &str| dir.join(name);
        let absent = |present: &'static str, absent: &'static str| {
            Err(FrontError::Incomplete { dir: dir.to_owned(), present, absent })
        };
        let mut files = match (text(&at("vocab.json"))?, text(&at("merges.txt"))?) {
            (Some(vocab), Some(merges)) => from_vocab(dir, &vocab, &merges)?,
            (vocab, merges) => match (text(&at("tokenizer.json"))?, vocab, merges) {
                (Some(text), _, _) => from_whole(dir, text)?,
                (None, Some(_), _) => return absent("vocab.json", "merges.txt"),
                (None, None, Some(_)) => return absent("merges.txt", "vocab.json"),
                (None, None, None) => return Ok(None),
            },
        };
        // Neither list need be in order.
        files.added_tokens.sort_by(|a, b| (a.id, &a.content).cmp(&(b.id, &b.content)));
        files.mask_token = mask_token(dir)?;
        Ok(Some(files))
    }

    /// The ordinary tokens, in the vocabulary's own spelling, and their ids.
    pub fn vocabulary(&self) -> &BTreeMap<String, u64> {
        &self.vocabulary
    }

    /// The added tokens, by id. Some may stand in the vocabulary too.
    pub fn added_tokens(&self) -> &[AddedToken] {
        &self.added_tokens
    }

    /// The mask token's text, if the files name one.
    pub fn mask_token(&self) -> Option<&str> {
        self.mask_token.as_deref()
    }

    /// The file that has the vocabulary.
    pub(crate) fn path(&self) -> &Path {
        match &self.form {
            Form::Vocab { path, .. } | Form::Whole { path, .. } => path,
        }
    }

    /// The tokenizer as `tokenizer.json` has it.
    pub(crate) fn to_json(&self) -> Cow<'_, str> {
        match &self.form {
            Form::Whole { text, .. } => text.into(),
            Form::Vocab { merges, .. } => self.assemble(merges).to_string().into(),
        }
    }

    fn assemble(&self, merges: &[(String, String)]) -> Value {
        // The library numbers added tokens on from the vocabulary; where the checkpoint does not, the ids have to stand
        // in the vocabulary. No merge makes them, so they change nothing else.
        let base = self.vocabulary.len() as u64;
        let mut vocab = self.vocabulary.clone();
        if self.added_tokens.iter().zip(base..).any(|(token, expected)| token.id != expected) {
            vocab.extend(self.added_tokens.iter().map(|token| (token.content.clone(), token.id)));
        }
        let added: Vec<Value> = self.added_tokens.iter().map(AddedToken::to_json).collect();
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let split =
            json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": null, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges,
            },
        })
    }
}

/// Without the mask token.
fn from_vocab(dir: &Path, vocab: &str, merges: &str) -> Result<TokenizerFiles, FrontError> {
    let (path, merges_path) = (dir.join("vocab.json"), dir.join("merges.txt"));
    let vocab = serde_json::from_str(vocab).map_err(|e| corrupt(&path, &e.to_string()))?;
    let vocabulary = ids(&path, vocab)?;
    let mut pairs = Vec::new();
    for (line, number) in merges.lines().zip(1..) {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let (a, b) = line
            .split_once(' ')
            .ok_or_else(|| corrupt(&merges_path, &format!("line {number} is no pair")))?;
        pairs.push((a.to_owned(), b.to_owned()));
    }
    let added_tokens = listed(dir)?.map_or_else(Vec::new, |(_, tokens)| tokens);
    Ok(TokenizerFiles {
        vocabulary,
        added_tokens,
        mask_token: None,
        form: Form::Vocab { path, merges: pairs },
    })
}

/// Without the mask token.
fn from_whole(dir: &Path, text: String) -> Result<TokenizerFiles, FrontError> {
    let path = dir.join("tokenizer.json");
    let whole: Whole = serde_json::from_str(&text).map_err(|e| corrupt(&path, &e.to_string()))?;
    let vocabulary = ids(&path, whole.model.vocab)?;
    if let Some((other, tokens)) = listed(dir)? {
        for token in tokens {
            if let Some(reason) = contradiction(&whole.added_tokens, &token) {
                return Err(FrontError::Contradiction { path, other, token: token.content, reason });
            }
        }
    }
    let form = Form::Whole { path, text };
    Ok(TokenizerFiles { vocabulary, added_tokens: whole.added_tokens, mask_token: None, form })
}

/// Where the added tokens of `tokenizer.json` are at odds with one that another file lists.
fn contradiction(added: &[AddedToken], token: &AddedToken) -> Option<String> {
    let id = token.id;
    if let Some(other) = added.iter().find(|t| t.id == id && t.content != token.content) {
        return Some(format!("id {id} is `{}` in the first and this token in the second", other.content));
    }
    let Some(own) = added.iter().find(|t| t.content == token.content) else {
        return Some(format!("the second gives it id {id} and the first does not list it"));
    };
    if own.id != id {
        return Some(format!("it has id {} in the first and {id} in the second", own.id));
    }
    own.flags().into_iter().zip(token.flags()).find_map(|((name, own), (_, other))| {
        let (own, other) = (own?, other?);
        (own != other).then(|| format!("`{name}` is {own} in the first and {other} in the second"))
    })
}

/// The added tokens that a file beside the vocabulary lists, and the file.
fn listed(dir: &Path) -> Result<Option<(PathBuf, Vec<AddedToken>)>, FrontError> {
    let path = dir.join("tokenizer_config.json");
    let config = object(&path)?.unwrap_or_default();
    if let Some(decoder) = config.get("added_tokens_decoder").filter(|v| !v.is_null()) {
        let decoder =
            decoder.as_object().ok_or_else(|| corrupt(&path, "`added_tokens_decoder` is not an object"))?;
        let mut tokens = Vec::new();
        for (id, token) in decoder {
            let number = id.parse().map_err(|_| corrupt(&path, &format!("`{id}` is no token id")))?;
            let text = content(token)
                .ok_or_else(|| corrupt(&path, &format!("added token {id} has no `content`")))?;
            let flag = |name: &str| token.get(name).and_then(Value::as_bool);
            tokens.push(AddedToken {
                id: number,
                content: text.to_owned(),
                special: flag("special"),
                single_word: flag("single_word"),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                normalized: flag("normalized"),
            });
        }
        return Ok(Some((path, tokens)));
    }
    let path = dir.join("added_tokens.json");
    let Some(map) = object(&path)? else { return Ok(None) };
    let special = special_tokens(dir)?;
    let token = |(content, id)| AddedToken {
        id,
        special: special.contains(&content).then_some(true),
        content,
        single_word: None,
        lstrip: None,
        rstrip: None,
        normalized: None,
    };
    let tokens = ids(&path, map)?.into_iter().map(token).collect();
    Ok(Some((path, tokens)))
}

fn ids(path: &Path, map: Map<String, Value>) -> Result<BTreeMap<String, u64>, FrontError> {
    let id = |(token, id): (String, Value)| match id.as_u64() {
        Some(id) => Ok((token, id)),
        None => Err(corrupt(path, &format!("the id of `{token}` is no whole number"))),
    };
    map.into_iter().map(id).collect()
}

/// The mask token's text, if the checkpoint names one.
fn mask_token(dir: &Path) -> Result<Option<String>, FrontError> {
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        if let Some(token) = object(&dir.join(name))?.as_ref().and_then(|o| content(o.get("mask_token")?)) {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
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

/// A token stands as its text, or as an object with it.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The file's JSON object, or `None` where there is no such file.
pub(crate) fn object(path: &Path) -> Result<Option<Map<String, Value>>, FrontError> {
    let Some(text) = text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| corrupt(path, &e.to_string()))
}

/// The file's text, or `None` where there is no such file. Nothing longer than [`FILE_BYTES_MAX`] is read.
pub(crate) fn text(path: &Path) -> Result<Option<String>, FrontError> {
    let read = |source| FrontError::Read { path: path.to_owned(), source };
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(read(source)),
    };
    if !meta.is_file() {
        return Err(read(std::io::Error::other("not a regular file")));
    }
    if meta.len() > FILE_BYTES_MAX {
        let (path, found_bytes, limit_bytes) = (path.to_owned(), meta.len(), FILE_BYTES_MAX);
        return Err(FrontError::TooLarge { path, found_bytes, limit_bytes });
    }
    let mut bytes = Vec::new();
    // Some files are longer than they say.
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)).map_err(read)?;
    String::from_utf8(bytes).map(Some).map_err(|_| corrupt(path, "it is not UTF-8 text"))
}

fn corrupt(path: &Path, reason: &str) -> FrontError {
    FrontError::Corrupt { path: path.to_owned(), reason: reason.to_owned() }
}

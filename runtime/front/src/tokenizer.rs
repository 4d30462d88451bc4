//! Text to token ids and back.

use crate::files::AddedToken;
use crate::{FrontError, TokenizerFiles};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer};

/// A byte-level BPE tokenizer with its added tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    mask_token: Option<String>,
}

/// First line of the embedded form; `tokenizer.json` without white space follows.
#[derive(Serialize, Deserialize)]
struct Head {
    mask_token: Option<String>,
}

impl Tokenizer {
    /// Reads a checkpoint's tokenizer: `vocab.json` and `merges.txt` with the added tokens, or else `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// Where files are missing or do not hold what they should.
    pub fn from_dir(dir: &Path) -> Result<Tokenizer, FrontError> {
        let files = TokenizerFiles::read(dir)?.ok_or_else(|| FrontError::Missing { dir: dir.to_owned() })?;
        let mask_token = files.mask_token().map(str::to_owned);
        parse(&files.to_json(), mask_token)
            .map_err(|reason| FrontError::Corrupt { path: files.path().to_owned(), reason })
    }

    /// The embedded form: the same bytes for the same files.
    ///
    /// # Errors
    ///
    /// Where the library fails to write.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FrontError> {
        let failed = |reason: String| FrontError::Tokenizer { reason };
        let head = Head { mask_token: self.mask_token.clone() };
        let mut bytes = serde_json::to_vec(&head).map_err(|e| failed(e.to_string()))?;
        bytes.push(b'\n');
        bytes.extend(self.inner.to_string(false).map_err(|e| failed(e.to_string()))?.into_bytes());
        Ok(bytes)
    }

    /// Inverse of [`Tokenizer::to_bytes`].
    ///
    /// # Errors
    ///
    /// Where the bytes are no tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Tokenizer, FrontError> {
        let embedded = |reason: &str| FrontError::Embedded { reason: reason.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| embedded("it is not UTF-8 text"))?;
        let (head, json) = text.split_once('\n').ok_or_else(|| embedded("it is cut short"))?;
        let head: Head = serde_json::from_str(head).map_err(|e| embedded(&e.to_string()))?;
        parse(json, head.mask_token).map_err(|reason| FrontError::Embedded { reason })
    }

    /// The ids of a text. Added tokens in the text become their ids; none is added.
    ///
    /// # Errors
    ///
    /// Where the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, FrontError> {
        let failed = |e: tokenizers::Error| FrontError::Tokenizer { reason: e.to_string() };
        // The reference normalises the whole text before it looks for added tokens; the library would look first.
        let mut whole = NormalizedString::from(text);
        NFC.normalize(&mut whole).map_err(failed)?;
        let encoding = self.inner.encode_fast(whole.get(), false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids. Bytes that are no UTF-8 become U+FFFD; ids that stand for no token are left out.
    ///
    /// # Errors
    ///
    /// Where the library fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, FrontError> {
        self.inner.decode(ids, skip_special).map_err(|e| FrontError::Tokenizer { reason: e.to_string() })
    }

    /// Number of tokens, added ones included.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of a token in the vocabulary's own spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The mask token's text, if the checkpoint names one.
    pub fn mask_token(&self) -> Option<&str> {
        self.mask_token.as_deref()
    }
}

/// Added tokens of a `tokenizer.json`, to compare ids.
#[derive(Deserialize)]
struct Declared {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

fn parse(json: &str, mask_token: Option<String>) -> Result<Tokenizer, String> {
    let inner: tokenizers::Tokenizer = json.parse().map_err(|e: tokenizers::Error| e.to_string())?;
    // The library numbers added tokens itself and only logs where the file says otherwise.
    let declared: Declared = serde_json::from_str(json).map_err(|e| e.to_string())?;
    for token in declared.added_tokens {
        let found = inner.token_to_id(&token.content);
        if found.map(u64::from) != Some(token.id) {
            let found = found.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(format!(
                "added token `{}` should have id {} and gets {found}",
                token.content, token.id
            ));
        }
    }
    Ok(Tokenizer { inner, mask_token })
}

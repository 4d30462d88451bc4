//! Text to token ids and back.

use crate::files::AddedToken;
use crate::{FrontError, TokenizerFiles};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizedString, Normalizer};

/// Bytes that NFC makes one of, at most: three Hangul letters become a syllable as long as each.
const NFC_SHRINKS: usize = 3;

/// A byte-level BPE tokenizer with its added tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    mask_token: Option<String>,
    /// Bytes of the longest token.
    token_bytes_max: usize,
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
        self.encode_normalized(&normalized(text)?)
    }

    fn encode_normalized(&self, text: &str) -> Result<Vec<u32>, FrontError> {
        Ok(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// As [`Tokenizer::encode`], of a text that is no longer than `tokens_max` tokens can be: for a longer one no memory is
    /// taken.
    ///
    /// # Errors
    ///
    /// Where the text is too long, before it is looked at, or the library fails.
    pub fn encode_within(&self, text: &str, tokens_max: usize) -> Result<Vec<u32>, FrontError> {
        self.check_length(text.len(), tokens_max, 0)?;
        let text = normalized(text)?;
        within(text.len(), self.token_bytes_max.saturating_mul(tokens_max), tokens_max)?;
        self.encode_normalized(&text)
    }

    /// That `tokens_max` tokens can be made of so many bytes, where what stands for a token may also be `written_max` bytes
    /// long. Costs nothing, so that it can come first.
    ///
    /// # Errors
    ///
    /// Where they cannot.
    pub fn check_length(
        &self,
        bytes: usize,
        tokens_max: usize,
        written_max: usize,
    ) -> Result<(), FrontError> {
        let of_token = self.token_bytes_max.saturating_mul(NFC_SHRINKS).max(written_max);
        within(bytes, of_token.saturating_mul(tokens_max), tokens_max)
    }

    /// The text of ids. Bytes that are no UTF-8 become U+FFFD; ids that stand for no token are left out.
    ///
    /// # Errors
    ///
    /// Where the library fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, FrontError> {
        self.inner.decode(ids, skip_special).map_err(failed)
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

fn within(found_bytes: usize, limit_bytes: usize, tokens_max: usize) -> Result<(), FrontError> {
    if found_bytes <= limit_bytes {
        return Ok(());
    }
    Err(FrontError::TextTooLong { found_bytes, limit_bytes, tokens_max })
}

/// The reference normalises the whole text before it looks for added tokens; the library would look first.
fn normalized(text: &str) -> Result<String, FrontError> {
    let mut whole = NormalizedString::from(text);
    NFC.normalize(&mut whole).map_err(failed)?;
    Ok(whole.get().to_owned())
}

fn failed(error: tokenizers::Error) -> FrontError {
    FrontError::Tokenizer { reason: error.to_string() }
}

/// What a `tokenizer.json` says and the library does not: added tokens, to compare ids, and merges.
#[derive(Deserialize)]
struct Declared {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    model: DeclaredModel,
}

#[derive(Default, Deserialize)]
struct DeclaredModel {
    #[serde(default)]
    merges: Vec<Merge>,
}

/// A pair as written now and before.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    fn pair(self) -> Option<(String, String)> {
        match self {
            Merge::Pair(a, b) => Some((a, b)),
            Merge::Line(line) => line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        }
    }
}

/// The same model without a cache of words. The library's belongs to threads, not to the model, and grows with every model
/// that a thread has used, also those that are gone.
fn without_cache(model: &BPE, vocab: Vocab, merges: Vec<Merge>) -> Result<BPE, String> {
    let pairs: Option<Vec<_>> = merges.into_iter().map(Merge::pair).collect();
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab, pairs.ok_or("a merge is no pair")?)
        .cache_capacity(0)
        .fuse_unk(model.fuse_unk)
        .byte_fallback(model.byte_fallback)
        .ignore_merges(model.ignore_merges);
    if let Some(token) = &model.unk_token {
        builder = builder.unk_token(token.clone());
    }
    if let Some(prefix) = &model.continuing_subword_prefix {
        builder = builder.continuing_subword_prefix(prefix.clone());
    }
    if let Some(suffix) = &model.end_of_word_suffix {
        builder = builder.end_of_word_suffix(suffix.clone());
    }
    if let Some(dropout) = model.dropout {
        builder = builder.dropout(dropout);
    }
    builder.build().map_err(|e| e.to_string())
}

/// Bytes of text that the longest token stands for.
fn token_bytes_max(tokenizer: &tokenizers::Tokenizer) -> usize {
    // A character of such a vocabulary is a byte.
    let bytes = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
    let length = |token: &str| if bytes { token.chars().count() } else { token.len() };
    let own = tokenizer.get_vocab(false).keys().map(|token| length(token)).max();
    let added = tokenizer.get_added_tokens_decoder().values().map(|token| token.content.len()).max();
    own.max(added).unwrap_or(0)
}

fn parse(json: &str, mask_token: Option<String>) -> Result<Tokenizer, String> {
    let mut inner: tokenizers::Tokenizer = json.parse().map_err(|e: tokenizers::Error| e.to_string())?;
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
    let token_bytes_max = token_bytes_max(&inner);
    let model = match inner.get_model() {
        ModelWrapper::BPE(model) => {
            let vocab = inner.get_vocab(false).into_iter().collect();
            Some(without_cache(model, vocab, declared.model.merges)?)
        }
        // Others keep what they remember themselves.
        ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => None,
    };
    if let Some(model) = model {
        inner.with_model(model);
    }
    Ok(Tokenizer { inner, mask_token, token_bytes_max })
}

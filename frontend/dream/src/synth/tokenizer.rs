//! A tokenizer without merges, with the added tokens of the releases: text becomes its bytes.

use crate::{ACTION_TOKENS, ModelConfig, Variant};
use serde_json::{Map, Value, json};

/// The added tokens in the order of their ids, and whether decoding may leave them out.
const ADDED: [(&str, bool); 24] = [
    ("<|endoftext|>", true),
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("<|object_ref_start|>", true),
    ("<|object_ref_end|>", true),
    ("<|box_start|>", true),
    ("<|box_end|>", true),
    ("<|quad_start|>", true),
    ("<|quad_end|>", true),
    ("<|vision_start|>", true),
    ("<|vision_end|>", true),
    ("<|vision_pad|>", true),
    ("<|image_pad|>", true),
    ("<|video_pad|>", true),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<|fim_prefix|>", false),
    ("<|fim_middle|>", false),
    ("<|fim_suffix|>", false),
    ("<|fim_pad|>", false),
    ("<|repo_name|>", false),
    ("<|file_sep|>", false),
    ("<|beginoftext|>", true),
    ("<|mask|>", true),
];

/// `merges.txt`: its version and nothing else.
pub(super) const MERGES: &str = "#version: 0.2\n";

/// The files of JSON: name and contents.
pub(super) fn files(config: &ModelConfig) -> [(&'static str, Value); 4] {
    let base = config.text.pad_token_id;
    let mut tokens: Vec<(String, bool)> = ADDED.iter().map(|(t, s)| ((*t).to_owned(), *s)).collect();
    if config.variant == Variant::Vla {
        tokens.extend((0..ACTION_TOKENS).map(|n| (format!("<|action_{n}|>"), false)));
    }
    let mut added = Map::new();
    let mut decoder = Map::new();
    for ((token, special), id) in tokens.iter().zip(base..) {
        added.insert(token.clone(), json!(id));
        let entry = json!({ "content": token, "lstrip": false, "normalized": false, "rstrip": false,
            "single_word": false, "special": special });
        decoder.insert(id.to_string(), entry);
    }
    let special = json!({ "bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "mask_token": "<|mask|>" });
    let mut settings = json!({ "tokenizer_class": "DreamTokenizer", "add_bos_token": false,
        "add_prefix_space": false, "clean_up_tokenization_spaces": false, "errors": "replace",
        "split_special_tokens": false, "unk_token": null, "added_tokens_decoder": decoder,
        "model_max_length": config.text.max_position_embeddings });
    for key in ["bos_token", "eos_token", "pad_token", "mask_token"] {
        settings[key] = special[key].clone();
    }
    [
        ("vocab.json", vocabulary(base)),
        ("added_tokens.json", Value::Object(added)),
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
    ]
}

/// The 256 bytes in their usual order, so that a newline is 198 as in the releases, and names that no text becomes.
fn vocabulary(count: u32) -> Value {
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let symbols = (0..=255u8).filter(printable).map(char::from);
    let others = (0..=255u8).filter(|b| !printable(b)).zip(0x100u32..);
    let others = others.filter_map(|(_, code)| char::from_u32(code));
    let unused = (256..count).map(|id| format!("<unused_{id}>"));
    let names = symbols.chain(others).map(String::from).chain(unused);
    Value::Object(names.zip(0..count).map(|(name, id)| (name, json!(id))).collect())
}

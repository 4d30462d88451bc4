//! Every recorded case of the reference tokenizer, from both forms of its files and through the embedded form.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use dreamc_front::chat::{Message, render, template_warning};
use dreamc_front::{FILE_BYTES_MAX, FrontError, Tokenizer};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/fixtures/tokenizer")
}

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures().join("golden.json")).unwrap()).unwrap()
}

fn copy(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        fs::copy(fixtures().join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn check(tokenizer: &Tokenizer) {
    let golden = golden();
    for case in golden["encode"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
    }
    for case in ["encode", "decode"].iter().flat_map(|k| golden[*k].as_array().unwrap()) {
        let ids = ids(&case["ids"]);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"].as_str().unwrap(), "{ids:?}");
        assert_eq!(
            tokenizer.decode(&ids, true).unwrap(),
            case["decoded_skip_special"].as_str().unwrap(),
            "{ids:?}"
        );
    }
    for case in golden["chat"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
    }
    assert_eq!(tokenizer.len() as u64, golden["facts"]["length_with_added_tokens"].as_u64().unwrap());
    assert_eq!(tokenizer.token_id("<|mask|>"), Some(151_666));
}

#[test]
fn vocab_and_merges() {
    let tokenizer = Tokenizer::from_dir(&fixtures()).unwrap();
    check(&tokenizer);
    assert_eq!(tokenizer.mask_token(), Some("<|mask|>"));
    let bytes = tokenizer.to_bytes().unwrap();
    let again = Tokenizer::from_bytes(&bytes).unwrap();
    check(&again);
    assert_eq!(again.mask_token(), Some("<|mask|>"));
    assert!(again.to_bytes().unwrap() == bytes, "the embedded form is not stable");
    assert!(Tokenizer::from_dir(&fixtures()).unwrap().to_bytes().unwrap() == bytes, "not deterministic");
}

#[test]
fn older_files_of_added_tokens() {
    let names = ["vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"];
    check(&Tokenizer::from_dir(copy(&names).path()).unwrap());
}

#[test]
fn tokenizer_json() {
    check(&Tokenizer::from_dir(copy(&["tokenizer.json"]).path()).unwrap());
}

#[test]
fn chat() {
    let mut checked = 0;
    for case in golden()["chat"].as_array().unwrap() {
        let messages: Option<Vec<Message>> = case["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| Some(Message::text(m["role"].as_str()?, m["content"].as_str()?)))
            .collect();
        let Some(messages) = messages else { continue };
        let text = render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        assert_eq!(text, case["text"].as_str().unwrap());
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn templates_are_recognised() {
    assert_eq!(template_warning(&fixtures()).unwrap(), None);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(template_warning(dir.path()).unwrap(), None);
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let warning = template_warning(dir.path()).unwrap().unwrap();
    assert!(warning.contains("chat_template.jinja") && !warning.contains("3-D"), "{warning}");
    let tools = concat!(
        r"{%- if tools %}'<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'",
        r"'<|im_start|>assistant\n'"
    );
    fs::write(dir.path().join("chat_template.jinja"), tools).unwrap();
    assert_eq!(template_warning(dir.path()).unwrap(), None);
    fs::write(dir.path().join("chat_template.jinja"), format!("{tools}<|vision_start|>")).unwrap();
    let warning = template_warning(dir.path()).unwrap().unwrap();
    assert!(warning.contains("chat_template.jinja") && warning.contains("3-D"), "{warning}");
    let checkpoints = ["tiny-vla", "tabletop-vla", "tabletop-vla-flow", "tabletop-vla-l1"];
    for name in checkpoints {
        let dir = fixtures().join("..").join(name).join("checkpoint");
        assert_eq!(template_warning(&dir).unwrap(), None, "{name}");
    }
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::from_dir(dir.path()), Err(FrontError::Missing { .. })));
    fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(
        matches!(&error, FrontError::Corrupt { path, .. } if path.ends_with("tokenizer.json")),
        "{error}"
    );
    fs::write(dir.path().join("vocab.json"), "{}").unwrap();
    fs::write(dir.path().join("merges.txt"), "nopair\n").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(&error, FrontError::Corrupt { path, .. } if path.ends_with("merges.txt")), "{error}");
    assert!(matches!(Tokenizer::from_bytes(b"{}"), Err(FrontError::Embedded { .. })));
}

/// What `tokenizer_config.json` says about the tokens of the fixture's `tokenizer.json`, changed.
fn contradicted(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, FrontError> {
    let dir = copy(&["tokenizer.json"]);
    let config = fs::read_to_string(fixtures().join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    change(&mut config["added_tokens_decoder"]);
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::from_dir(dir.path())
}

#[test]
fn contradictions_name_both_files_and_the_token() {
    check(&contradicted(|_| ()).unwrap());
    let refused = |change: fn(&mut Value), token: &str, said: &str| {
        let error = contradicted(change).unwrap_err();
        assert!(matches!(error, FrontError::Contradiction { .. }), "{error}");
        let error = error.to_string();
        for part in ["tokenizer.json`", "tokenizer_config.json`", &format!("`{token}`"), said] {
            assert!(error.contains(part), "{error}");
        }
    };
    refused(|d| d["151666"]["content"] = "<mask>".into(), "<mask>", "id 151666 is `<|mask|>`");
    refused(
        |d| d["151666"]["special"] = false.into(),
        "<|mask|>",
        "`special` is true in the first and false",
    );
    refused(|d| d["151667"] = json!({"content": "<new>"}), "<new>", "does not list it");
    let moved = |d: &mut Value| d["151667"] = d.as_object_mut().unwrap().remove("151666").unwrap();
    refused(moved, "<|mask|>", "has id 151666 in the first and 151667");

    let dir = copy(&["tokenizer.json"]);
    fs::write(dir.path().join("added_tokens.json"), r#"{"<|mask|>": 7}"#).unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("added_tokens.json") && error.contains("`<|mask|>`"), "{error}");
}

#[test]
fn half_a_tokenizer() {
    let dir = copy(&["vocab.json"]);
    let absent = |dir: &Path| match Tokenizer::from_dir(dir) {
        Err(FrontError::Incomplete { present, absent, .. }) => (present, absent),
        other => panic!("{other:?}"),
    };
    assert_eq!(absent(dir.path()), ("vocab.json", "merges.txt"));
    assert_eq!(absent(copy(&["merges.txt"]).path()), ("merges.txt", "vocab.json"));
    // With tokenizer.json, the half counts for nothing.
    fs::copy(fixtures().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    fs::write(dir.path().join("vocab.json"), r#"{"a": 5}"#).unwrap();
    check(&Tokenizer::from_dir(dir.path()).unwrap());
}

#[test]
fn long_files() {
    let whole = ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"];
    for name in ["vocab.json", "merges.txt"].iter().chain(&whole) {
        let dir = if whole.contains(name) { copy(&["tokenizer.json"]) } else { copy(&[]) };
        // A hole: it takes no room on the disk, and reading it would tell that it is no text of the right form.
        let file = fs::File::create(dir.path().join(name)).unwrap();
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = Tokenizer::from_dir(dir.path()).unwrap_err();
        let FrontError::TooLarge { path, found_bytes: 67_108_865, limit_bytes: 67_108_864 } = &error else {
            panic!("{error:?}")
        };
        assert!(path.ends_with(name), "{error}");
        for part in [*name, "67108865", "67108864"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

/// A text that no prompt has room for is refused before memory is taken for it; the longest that may fit is not, also where
/// normalising makes it shorter.
#[test]
fn long_texts_are_bounded() {
    let tokenizer = Tokenizer::from_dir(&fixtures()).unwrap();
    let refused = |text: &str, tokens_max: usize| {
        let found = tokenizer.encode_within(text, tokens_max);
        assert!(
            matches!(&found, Err(FrontError::TextTooLong { tokens_max: n, .. }) if *n == tokens_max),
            "{found:?}"
        );
    };
    refused(&"a".repeat(20 << 20), 2048);
    // One token of this vocabulary is 128 spaces, and none is longer.
    assert_eq!(tokenizer.encode_within(&" ".repeat(3 * 128), 3).unwrap().len(), 3);
    refused(&" ".repeat(3 * 128 + 1), 3);
    // Three letters each, which are a syllable.
    let syllables = "\u{1112}\u{1161}\u{11ab}".repeat(40);
    assert_eq!(tokenizer.encode_within(&syllables, 40).unwrap(), tokenizer.encode(&syllables).unwrap());
    refused(&"\u{1112}\u{1161}\u{11ab}".repeat(43), 1);
    assert_eq!(tokenizer.encode_within("", 0).unwrap(), [0_u32; 0]);
}

//! Every reason to reject a text checkpoint has its own error.

use dreamc_front::FrontError;
use dreamc_frontend::{
    EMBEDDING, ImportError, LM_HEAD, Size, TextConfig, check_tensors, check_vocabulary, synth_text,
};
use dreamc_weights::{Checkpoint, SINGLE_FILE, WeightsError};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/fixtures");

fn tiny() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    synth_text(Size::Tiny, 1, dir.path(), &mut |_| {}).expect("a tiny checkpoint");
    dir
}

fn put(dir: &Path, file: &str, value: &Value) {
    std::fs::write(dir.join(file), value.to_string()).expect("the directory is writable");
}

/// Reads the tiny config with keys changed; a null removes the key.
fn with(changes: Value) -> Result<TextConfig, ImportError> {
    let dir = tiny();
    let path = dir.path().join("config.json");
    let text = std::fs::read(&path).expect("config.json");
    let mut config: Map<String, Value> = serde_json::from_slice(&text).expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            config.remove(key);
        } else {
            config.insert(key.clone(), value.clone());
        }
    }
    put(dir.path(), "config.json", &Value::Object(config));
    TextConfig::read(dir.path())
}

macro_rules! assert_error {
    ($result:expr, $($variant:tt)+) => {
        match $result {
            Err(ImportError::$($variant)+) => {}
            other => panic!("expected {}, got {other:?}", stringify!($($variant)+)),
        }
    };
}

#[test]
fn shape_bearing_keys_are_required() {
    for key in [
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_theta",
        "max_position_embeddings",
    ] {
        let found = with(json!({ key: null }));
        assert!(matches!(found, Err(ImportError::MissingKey { key: k }) if k == key), "{key}: {found:?}");
    }
}

#[test]
fn safe_defaults() {
    let found = with(json!({ "vocab_size": 152064, "rope_scaling": null, "tie_word_embeddings": null,
        "mask_token_id": null, "pad_token_id": null, "eos_token_id": null, "bos_token_id": null,
        "architectures": null, "hidden_act": null, "use_sliding_window": null }))
    .unwrap();
    assert_eq!((found.mask_token_id, found.pad_token_id, found.eos_token_id), (151_666, 151_643, 151_643));
    assert!(!found.tie_word_embeddings);
}

#[test]
fn config_rules() {
    assert_error!(with(json!({ "model_type": "qwen2" })), UnknownModelType { .. });
    assert_error!(with(json!({ "model_type": "llava_dream" })), TrainingCheckpoint);
    assert_error!(with(json!({ "model_type": "dream-vl" })), Architecture { .. });
    assert_error!(with(json!({ "architectures": ["Qwen2ForCausalLM"] })), Architecture { .. });
    assert_error!(with(json!({ "architectures": "DreamModel" })), BadValue { .. });
    assert_error!(with(json!({ "hidden_size": 66 })), HeadsIndivisible { .. });
    assert_error!(with(json!({ "num_key_value_heads": 3 })), KvHeadsIndivisible { .. });
    assert_error!(with(json!({ "head_dim": 32 })), HeadDim { .. });
    assert!(with(json!({ "head_dim": 16 })).is_ok());
    assert_error!(with(json!({ "hidden_size": 60 })), HeadDimOdd { .. });
    assert_error!(with(json!({ "partial_rotary_factor": 0.5 })), PartialRotary { .. });
    assert!(with(json!({ "partial_rotary_factor": 1.0 })).is_ok());
    assert_error!(with(json!({ "rope_scaling": { "type": "yarn" } })), RopeScaling { .. });
    assert_error!(with(json!({ "use_mrope": true })), Mrope);
    assert_error!(with(json!({ "use_sliding_window": true })), SlidingWindow);
    assert_error!(with(json!({ "hidden_act": "gelu" })), HiddenAct { .. });
    assert_error!(with(json!({ "quantization_config": {} })), Quantised);
    assert_error!(with(json!({ "mask_token_id": 512 })), MaskTokenRange { .. });
    assert_error!(with(json!({ "mask_token_id": null })), MaskTokenRange { .. });
    assert_error!(with(json!({ "eos_token_id": 512 })), TokenRange { key: "eos_token_id", .. });
    for bad in [json!(0), json!(-1), json!(1.5), json!("64"), json!(u64::MAX)] {
        assert_error!(with(json!({ "hidden_size": bad })), BadValue { key: "hidden_size", .. });
    }
    assert_error!(with(json!({ "rms_norm_eps": 0.0 })), BadValue { .. });
    assert_error!(with(json!({ "rope_theta": 1e300 })), BadValue { .. });
    assert_error!(with(json!({ "vision_config": {} })), VisionConfig);
    assert!(with(json!({ "vision_config": null })).is_ok());
}

/// No part of a build uses it.
#[test]
fn any_bos_token_will_do() {
    for bos in [json!(null), json!(151_643), json!(-1), json!("<s>")] {
        assert!(with(json!({ "bos_token_id": bos })).is_ok(), "{bos}");
    }
}

#[test]
fn config_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_error!(TextConfig::read(dir.path()), Weights(WeightsError::Io { .. }));
    std::fs::write(dir.path().join("config.json"), "{").unwrap();
    assert_error!(TextConfig::read(dir.path()), Json { .. });
    std::fs::write(dir.path().join("config.json"), "[]").unwrap();
    assert_error!(TextConfig::read(dir.path()), Json { .. });
}

#[test]
fn long_config() {
    let dir = tiny();
    let file = std::fs::OpenOptions::new().append(true).open(dir.path().join("config.json")).unwrap();
    let limit = 1 << 20;
    let padding = limit - file.metadata().unwrap().len() as usize;
    (&file).write_all(&vec![b' '; padding]).unwrap();
    TextConfig::read(dir.path()).unwrap();
    (&file).write_all(b" ").unwrap();
    let error = TextConfig::read(dir.path()).unwrap_err();
    assert!(matches!(error, ImportError::Weights(WeightsError::TooLarge { .. })), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("config.json") && said.contains("1048577") && said.contains("1048576"), "{said}");
}

#[test]
fn fixtures_pass() {
    for name in ["tiny-text", "sudoku-text"] {
        let dir = Path::new(FIXTURES).join(name).join("checkpoint");
        let config = TextConfig::read(&dir).unwrap();
        let layout = check_tensors(&Checkpoint::open(&dir).unwrap(), &config).unwrap();
        assert_eq!(layout.lm_head, LM_HEAD);
        check_vocabulary(&dir, &config).unwrap();
    }
}

/// A file of the tiny model's tensors after a change; all weights 0 except those of `lm_head.weight`.
fn check_changed(
    tied: bool,
    head: u8,
    change: impl FnOnce(&mut Vec<(String, Vec<u64>)>),
) -> Result<dreamc_frontend::Layout, ImportError> {
    let config = TextConfig { tie_word_embeddings: tied, ..Size::Tiny.config() };
    let mut tensors = dreamc_frontend::expected_tensors(&config);
    change(&mut tensors);
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in &tensors {
        let start = data.len();
        let bytes = shape.iter().product::<u64>() as usize * 2;
        data.resize(start + bytes, if name == LM_HEAD { head } else { 0 });
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join(SINGLE_FILE), file).expect("the directory is writable");
    check_tensors(&Checkpoint::open(dir.path())?, &config)
}

#[test]
fn tensor_rules() {
    assert_eq!(check_changed(false, 1, |_| {}).unwrap().lm_head, LM_HEAD);
    let allowed = "model.layers.0.self_attn.rotary_emb.inv_freq";
    assert!(check_changed(false, 0, |t| t.push((allowed.to_owned(), vec![8]))).is_ok());

    let found = check_changed(false, 0, |t| {
        t.retain(|(name, _)| !name.contains("layers.1."));
        t.push(("model.extra".to_owned(), vec![1]));
        t[0].1 = vec![511, 64];
    });
    let Err(ImportError::Tensors { problems }) = found else { panic!("{found:?}") };
    assert_eq!((problems.missing.len(), problems.extra.len(), problems.misshapen.len()), (12, 1, 1));
    let text = problems.to_string();
    assert!(text.contains("12 missing (") && text.contains("and 9 more"), "{text}");
    assert!(text.contains("1 extra (`model.extra`)"), "{text}");
    assert!(text.contains("is [511, 64] instead of [512, 64]"), "{text}");

    let vision = check_changed(false, 0, |t| t.push(("visual.merger.mlp.0.bias".to_owned(), vec![1])));
    assert_error!(vision, VisionInText { .. });
}

#[test]
fn tied_head() {
    assert_error!(check_changed(true, 1, |_| {}), TiedHeadDiffers);
    assert_eq!(check_changed(true, 0, |_| {}).unwrap().lm_head, EMBEDDING);
    let absent = check_changed(true, 0, |t| t.retain(|(name, _)| name != LM_HEAD));
    assert_eq!(absent.unwrap().lm_head, EMBEDDING);
    assert_error!(check_changed(false, 0, |t| t.retain(|(n, _)| n != LM_HEAD)), Tensors { .. });
}

/// Four ordinary tokens, two added ones; the mask is token 5 of 8.
fn vocabulary(files: &[(&str, Value)]) -> Result<(), ImportError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (file, value) in files {
        put(dir.path(), file, value);
        if *file == "vocab.json" {
            std::fs::write(dir.path().join("merges.txt"), "").expect("the directory is writable");
        }
    }
    let config = TextConfig { vocab_size: 8, mask_token_id: 5, ..Size::Tiny.config() };
    check_vocabulary(dir.path(), &config).map(|_| ())
}

fn special() -> (&'static str, Value) {
    ("special_tokens_map.json", json!({ "mask_token": { "content": "<mask>" } }))
}

#[test]
fn vocabulary_rules() {
    let vocab = || ("vocab.json", json!({ "a": 0, "b": 1, "c": 2, "d": 3 }));
    let added = |end: u64, mask: u64| ("added_tokens.json", json!({ "<end>": end, "<mask>": mask }));

    assert!(vocabulary(&[]).is_ok());
    assert!(vocabulary(&[vocab(), added(4, 5), special()]).is_ok());
    assert_error!(vocabulary(&[vocab(), added(5, 4), special()]), MaskTokenMismatch { .. });
    assert_error!(vocabulary(&[vocab(), special()]), MaskTokenAbsent { .. });
    assert_error!(vocabulary(&[vocab(), added(3, 5), special()]), TokenOverlap { .. });
    assert_error!(vocabulary(&[vocab(), added(4, 4), special()]), TokenOverlap { .. });
    assert_error!(vocabulary(&[vocab(), added(4, 6), special()]), TokensNotContiguous { .. });
    let twice = ("vocab.json", json!({ "a": 0, "b": 1, "c": 1, "d": 3 }));
    assert_error!(vocabulary(&[twice]), TokensNotContiguous { .. });
    let many: Map<String, Value> = (0..9).map(|i| (format!("t{i}"), json!(i))).collect();
    assert_error!(vocabulary(&[("vocab.json", Value::Object(many))]), TokensBeyondVocabulary { .. });
    assert_error!(vocabulary(&[("vocab.json", json!({ "a": "x" }))]), Tokenizer(FrontError::Corrupt { .. }));

    // tokenizer_config.json wins over added_tokens.json.
    let decoder = |mask: u64, end: u64| {
        let entries =
            json!({ mask.to_string(): { "content": "<mask>" }, end.to_string(): { "content": "<end>" } });
        ("tokenizer_config.json", json!({ "mask_token": "<mask>", "added_tokens_decoder": entries }))
    };
    assert!(vocabulary(&[vocab(), added(5, 4), decoder(5, 4)]).is_ok());
    assert_error!(vocabulary(&[vocab(), added(4, 5), decoder(4, 5)]), MaskTokenMismatch { .. });
}

#[test]
fn one_text_with_two_ids() {
    let vocab = |end: u64| ("vocab.json", json!({ "a": 0, "b": 1, "c": 2, "d": 3, "<end>": end }));
    let added = ("added_tokens.json", json!({ "<end>": 4, "<mask>": 5 }));
    assert!(vocabulary(&[vocab(4), added.clone(), special()]).is_ok());
    assert_error!(vocabulary(&[vocab(6), added, special()]), TokenOverlapText { id: 4, other: 6, .. });
    let decoder = json!({ "added_tokens_decoder": { "4": "<end>", "5": "<mask>", "6": "<end>" } });
    let found = vocabulary(&[("vocab.json", json!({ "a": 0 })), ("tokenizer_config.json", decoder)]);
    assert_error!(found, TokenOverlapText { id: 6, other: 4, .. });
}

/// Without merges.txt, vocab.json counts for nothing: tokenizer.json is what is used and so what is checked.
#[test]
fn the_tokenizer_that_is_used_is_checked() {
    let fast = |mask: u64| {
        let vocab = json!({ "a": 0, "b": 1, "c": 2, "d": 3, "<end>": 4 });
        let added = json!([{ "id": 4, "content": "<end>" }, { "id": mask, "content": "<mask>" }]);
        json!({ "model": { "vocab": vocab }, "added_tokens": added })
    };
    assert!(vocabulary(&[("tokenizer.json", fast(5)), special()]).is_ok());
    assert_error!(vocabulary(&[("tokenizer.json", fast(6)), special()]), TokensNotContiguous { .. });

    let dir = tempfile::tempdir().unwrap();
    let config = TextConfig { vocab_size: 8, mask_token_id: 5, ..Size::Tiny.config() };
    put(dir.path(), "vocab.json", &json!({ "a": 3 }));
    let found = check_vocabulary(dir.path(), &config);
    assert_error!(found, Tokenizer(FrontError::Incomplete { absent: "merges.txt", .. }));
    put(dir.path(), "tokenizer.json", &fast(5));
    check_vocabulary(dir.path(), &config).unwrap();

    let decoder = json!({ "added_tokens_decoder": { "4": { "content": "<mask>" } } });
    put(dir.path(), "tokenizer_config.json", &decoder);
    let error = check_vocabulary(dir.path(), &config).unwrap_err().to_string();
    for part in ["tokenizer.json", "tokenizer_config.json", "`<mask>`"] {
        assert!(error.contains(part), "{error}");
    }
}

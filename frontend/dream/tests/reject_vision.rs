//! Every reason to reject a vision or action checkpoint has its own error.

use dreamc_frontend::{
    ImportError, ModelConfig, Size, Synth, TextConfig, Variant, VisionError, check_tensors, check_vocabulary,
    expected_tensors, synth,
};
use dreamc_weights::{Checkpoint, SINGLE_FILE};
use serde_json::{Map, Value, json};
use std::path::Path;
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/fixtures");

fn tiny(variant: Variant) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    synth(&Synth { variant, size: Size::Tiny, seed: 1, head: None }, dir.path(), &mut |_| {})
        .expect("a checkpoint");
    dir
}

/// Changes keys of a file; a null removes the key, `outer.inner` is a key within.
fn change(dir: &Path, file: &str, changes: &Value) {
    let text = std::fs::read(dir.join(file)).expect("the file");
    let mut map: Map<String, Value> = serde_json::from_slice(&text).expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        let (map, key) = match key.split_once('.') {
            Some((outer, inner)) => (map[outer].as_object_mut().expect("an object"), inner),
            None => (&mut map, key.as_str()),
        };
        if value.is_null() {
            map.remove(key);
        } else {
            map.insert(key.to_owned(), value.clone());
        }
    }
    std::fs::write(dir.join(file), Value::Object(map).to_string()).expect("the directory is writable");
}

fn with(variant: Variant, changes: Value) -> Result<ModelConfig, ImportError> {
    let dir = tiny(variant);
    change(dir.path(), "config.json", &changes);
    ModelConfig::read(dir.path())
}

macro_rules! assert_error {
    ($result:expr, $($variant:tt)+) => {
        match $result {
            Err(ImportError::$($variant)+) => {}
            other => panic!("expected {}, got {other:?}", stringify!($($variant)+)),
        }
    };
}

macro_rules! assert_vision {
    ($result:expr, $($variant:tt)+) => {
        match $result {
            Err(ImportError::Vision(VisionError::$($variant)+)) => {}
            other => panic!("expected {}, got {other:?}", stringify!($($variant)+)),
        }
    };
}

#[test]
fn fixtures_pass() {
    for (name, variant, tokenizer) in [
        ("tiny-text", Variant::Text, false),
        ("tiny-vl", Variant::Vl, false),
        ("tiny-vla", Variant::Vla, false),
        ("tabletop-vla", Variant::Vla, true),
        ("tabletop-vla-flow", Variant::Vla, true),
        ("tabletop-vla-l1", Variant::Vla, true),
    ] {
        let dir = Path::new(FIXTURES).join(name).join("checkpoint");
        let config = ModelConfig::read(&dir).unwrap();
        assert_eq!(config.variant, variant, "{name}");
        assert_eq!(
            (config.vision.is_some(), config.action.is_some()),
            (variant.sees(), variant == Variant::Vla)
        );
        let checkpoint = Checkpoint::open(&dir).unwrap();
        check_tensors(&checkpoint, &config).unwrap();
        assert_eq!(checkpoint.names().count(), expected_tensors(&config).len(), "{name}");
        if tokenizer {
            let vocabulary = check_vocabulary(&dir, &config).unwrap().unwrap();
            assert_eq!((vocabulary.tokens, vocabulary.first_action), (609, Some(353)));
        }
    }
    let tiny = ModelConfig::read(Path::new(FIXTURES).join("tiny-vl/checkpoint")).unwrap().vision.unwrap();
    assert_eq!(
        (tiny.mlp_size, tiny.head_dim(), tiny.patch_elements(), tiny.hidden_size),
        (128, 16, 1176, 48)
    );
    assert_eq!((tiny.image_token_id, tiny.mrope_section), (345, [2, 3, 3]));
    assert_error!(
        TextConfig::read(Path::new(FIXTURES).join("tiny-vl/checkpoint")),
        UnsupportedVariant { .. }
    );
}

/// tiny-vla has the real vocabulary; its folder lacks the two large files.
#[test]
fn the_real_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(FIXTURES);
    for file in ["vocab.json", "merges.txt"] {
        std::fs::copy(from.join("tokenizer").join(file), dir.path().join(file)).unwrap();
    }
    let config = ModelConfig::read(from.join("tiny-vla/checkpoint")).unwrap();
    for (folder, tokens) in [("tiny-vla/checkpoint", 151_923), ("tokenizer", 151_923)] {
        for file in ["added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(from.join(folder).join(file), dir.path().join(file)).unwrap();
        }
        // The base model's tokenizer lacks the action tokens: their ids are known all the same.
        let vocabulary = check_vocabulary(dir.path(), &config).unwrap().unwrap();
        assert_eq!((vocabulary.tokens, vocabulary.first_action), (tokens, Some(151_667)), "{folder}");
    }
    let text = check_vocabulary(dir.path(), &TextConfig { ..config.text.clone() }).unwrap().unwrap();
    assert_eq!((text.tokens, text.first_action), (151_667, None));
}

#[test]
fn shape_bearing_keys_are_required() {
    for key in ["depth", "embed_dim", "num_heads", "mlp_ratio", "hidden_size"] {
        let key = format!("vision_config.{key}");
        let found = with(Variant::Vl, json!({ &key: null }));
        assert!(matches!(found, Err(ImportError::MissingKey { key: k }) if k == key), "{key}: {found:?}");
    }
}

#[test]
fn safe_defaults() {
    let found = with(
        Variant::Vla,
        json!({ "vocab_size": 152064, "hidden_size": 512, "mrope_section": null, "image_token_id": null,
            "video_token_id": null, "vision_start_token_id": null, "n_action_bins": null, "norm_stats": null,
            "projector_hidden_act": null, "vision_config.hidden_act": null, "vision_config.patch_size": null,
            "vision_config.spatial_merge_size": null, "vision_config.temporal_patch_size": null,
            "vision_config.in_chans": 4, "vision_config.mlp_ratio": 4.0 }),
    )
    .unwrap();
    let vision = found.vision.unwrap();
    assert_eq!(vision.mrope_section, [16, 24, 24]);
    assert_eq!(
        (vision.image_token_id, vision.video_token_id, vision.vision_start_token_id),
        (151_655, 151_656, 151_652)
    );
    assert_eq!((vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size), (14, 2, 2));
    assert_eq!((vision.in_channels, vision.mlp_size), (3, 128));
    let action = found.action.unwrap();
    assert_eq!((action.n_action_bins, action.norm_stats), (256, None));
    let stats = with(Variant::Vla, json!({ "norm_stats": { "a": {} } })).unwrap();
    assert_eq!(stats.action.unwrap().norm_stats.unwrap().len(), 1);
}

#[test]
fn config_rules() {
    let vl = |changes| with(Variant::Vl, changes);
    let vla = |changes| with(Variant::Vla, changes);
    assert_error!(vl(json!({ "model_type": "qwen2_5_vl" })), UnknownModelType { .. });
    assert_error!(vl(json!({ "model_type": "llava_dream" })), TrainingCheckpoint);
    assert_error!(vl(json!({ "model_type": "dream-vla" })), Architecture { .. });
    assert_error!(vl(json!({ "model_type": "Dream", "architectures": null })), VisionConfig);
    assert_error!(vla(json!({ "architectures": ["OpenVLAForActionPrediction"] })), Architecture { .. });
    assert_vision!(vl(json!({ "vision_config": null })), NoConfig { model_type: "dream-vl" });
    assert_error!(vl(json!({ "vision_config": 1 })), BadValue { key: "vision_config", .. });
    assert_error!(vl(json!({ "rope_scaling": { "type": "mrope" } })), RopeScaling { .. });
    assert_error!(vl(json!({ "hidden_act": "gelu" })), HiddenAct { .. });
    assert_vision!(vl(json!({ "vision_config.hidden_act": "gelu" })), HiddenAct { .. });
    assert_vision!(vl(json!({ "projector_hidden_act": "silu" })), ProjectorAct { .. });
    assert_vision!(
        vl(json!({ "vision_config.num_heads": 3 })),
        HeadsIndivisible { embed_dim: 32, num_heads: 3 }
    );
    assert_vision!(vl(json!({ "vision_config.num_heads": 16 })), HeadDim { head_dim: 2 });
    for (key, value) in [
        ("vision_config.patch_size", 16),
        ("vision_config.spatial_patch_size", 16),
        ("vision_config.spatial_merge_size", 4),
        ("vision_config.temporal_patch_size", 1),
        ("vision_config.in_channels", 4),
    ] {
        let found = vl(json!({ key: value }));
        let named = matches!(&found, Err(ImportError::Vision(VisionError::PatchGeometry { key: k, .. })) if *k == key);
        assert!(named, "{key}: {found:?}");
    }
    assert_vision!(vl(json!({ "vision_config.mlp_ratio": 0.51 })), MlpRatio { .. });
    assert_error!(vl(json!({ "vision_config.mlp_ratio": -4 })), BadValue { .. });
    assert_error!(vl(json!({ "vision_config.depth": 0 })), BadValue { key: "vision_config.depth", .. });
    assert_vision!(vl(json!({ "mrope_section": [2, 3, 4] })), MropeSection { head_dim: 16, .. });
    assert_vision!(vl(json!({ "mrope_section": null })), MropeSection { found: [16, 24, 24], .. });
    for bad in
        [json!([8]), json!([2, 3, 3, 0]), json!("8"), json!([2, 3, -3]), json!([u64::MAX, u64::MAX, 10])]
    {
        assert_error!(vl(json!({ "mrope_section": bad })), BadValue { key: "mrope_section", .. });
    }
    assert_error!(vl(json!({ "image_token_id": 640 })), TokenRange { key: "image_token_id", .. });
    assert_error!(vl(json!({ "video_token_id": null })), TokenRange { key: "video_token_id", .. });
    assert_vision!(vla(json!({ "n_action_bins": 128 })), ActionBins { .. });
    assert_error!(vla(json!({ "norm_stats": [] })), BadValue { key: "norm_stats", .. });
    // Only action models have bins.
    assert!(vl(json!({ "n_action_bins": 128 })).is_ok());
}

/// A file of the tensors that a config implies, after a change.
fn check(
    config: &ModelConfig,
    change: impl FnOnce(&mut Vec<(String, Vec<u64>)>),
) -> Result<dreamc_frontend::Layout, ImportError> {
    let mut tensors = expected_tensors(config);
    change(&mut tensors);
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in &tensors {
        let start = end;
        end += shape.iter().product::<u64>() * 2;
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end as usize, 0);
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join(SINGLE_FILE), file).expect("the directory is writable");
    check_tensors(&Checkpoint::open(dir.path())?, config)
}

#[test]
fn tensor_rules() {
    for variant in [Variant::Vl, Variant::Vla] {
        let config = Size::Tiny.model_config(variant);
        assert!(check(&config, |_| {}).is_ok());
        let found = check(&config, |t| {
            t.retain(|(name, _)| name != "visual.blocks.1.attn.qkv.bias");
            t.push(("visual.blocks.2.norm1.weight".to_owned(), vec![32]));
            t[0].1 = vec![32, 3, 2, 14, 7];
        });
        let Err(ImportError::Tensors { problems }) = found else { panic!("{found:?}") };
        assert_eq!(problems.missing, ["visual.blocks.1.attn.qkv.bias"]);
        assert_eq!(problems.extra, ["visual.blocks.2.norm1.weight"]);
        assert_eq!(problems.misshapen[0].tensor, "visual.patch_embed.proj.weight");
    }
    let config = Size::Tiny.model_config(Variant::Vl);
    let text =
        |t: &mut Vec<(String, Vec<u64>)>| t.retain(|(n, _)| n.starts_with("model.") || n.starts_with("lm_"));
    assert_vision!(check(&config, text), NoTensors { model_type: "dream-vl" });
    let narrow = |t: &mut Vec<(String, Vec<u64>)>| {
        t.iter_mut().filter(|(n, _)| n == "projector.linear_1.weight").for_each(|(_, shape)| shape[1] = 48);
    };
    assert_vision!(check(&config, narrow), ProjectorInput { hidden_size: 64, projector: 48 });
    let text = ModelConfig::from(config.text.clone());
    let vision = |t: &mut Vec<(String, Vec<u64>)>| t.push(("projector.linear_1.bias".to_owned(), vec![64]));
    assert_error!(check(&text, vision), VisionInText { .. });
    let training = |t: &mut Vec<(String, Vec<u64>)>| t.push(("model.image_newline".to_owned(), vec![64]));
    assert_error!(check(&config, training), Weights(dreamc_weights::WeightsError::TrainingNames { .. }));
    let wrapped = |t: &mut Vec<(String, Vec<u64>)>| t[0].0.insert_str(0, "base_model.model.");
    assert_error!(check(&config, wrapped), Weights(dreamc_weights::WeightsError::LoraWrapped { .. }));
}

/// Token ids in both files that list added tokens.
fn vocabulary(variant: Variant, changes: &[(&str, Option<u64>)]) -> Result<(), ImportError> {
    let dir = tiny(variant);
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).expect("the file");
    let changes = changes.iter().map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
    change(dir.path(), "added_tokens.json", &Value::Object(changes));
    check_vocabulary(dir.path(), &ModelConfig::read(dir.path())?).map(|_| ())
}

#[test]
fn vocabulary_rules() {
    assert!(vocabulary(Variant::Vl, &[]).is_ok());
    assert!(vocabulary(Variant::Vla, &[]).is_ok());
    let swap = |a: &'static str, b: &'static str, [x, y]: [u64; 2]| [(a, Some(y)), (b, Some(x))];
    let ids = [341, 342];
    let found = vocabulary(Variant::Vl, &swap("<|image_pad|>", "<|video_pad|>", ids));
    assert_vision!(found, TokenMismatch { key: "image_token_id", config: 341, tokenizer: 342, .. });
    let found = vocabulary(Variant::Vl, &swap("<|vision_start|>", "<|vision_end|>", [338, 339]));
    assert_vision!(found, TokenMismatch { key: "vision_start_token_id", .. });
    let found = vocabulary(Variant::Vl, &swap("<|video_pad|>", "<tool_call>", [342, 343]));
    assert_vision!(found, TokenMismatch { key: "video_token_id", .. });
    let found = vocabulary(Variant::Vl, &[("<|image_pad|>", None), ("<image>", Some(341))]);
    assert_vision!(found, ImageTokenAbsent { .. });
    let found = vocabulary(Variant::Vl, &swap("<|mask|>", "<|beginoftext|>", [352, 351]));
    assert_error!(found, MaskTokenMismatch { .. });

    let found = vocabulary(Variant::Vla, &swap("<|action_0|>", "<|action_1|>", [353, 354]));
    assert_vision!(found, ActionTokens { .. });
    let found = vocabulary(Variant::Vla, &[("<|action_255|>", None)]);
    assert_vision!(found, ActionTokens { .. });
    let found = vocabulary(Variant::Vla, &[("<later>", Some(609))]);
    assert_vision!(found, ActionTokens { .. });
    let found = vocabulary(Variant::Vla, &[("<|action_255|>", None), ("<other>", Some(608))]);
    let said = found.as_ref().unwrap_err().to_string();
    assert!(said.contains("`<|action_255|>` is absent"), "{said}");
    let none: Vec<String> = (0..256).map(|n| format!("<|action_{n}|>")).collect();
    let none: Vec<(&str, Option<u64>)> = none.iter().map(|token| (token.as_str(), None)).collect();
    assert_vision!(vocabulary(Variant::Vla, &none), ActionTokensAbsent { last: 352 });
    // One that sees needs none.
    assert!(vocabulary(Variant::Vl, &[]).is_ok());
}

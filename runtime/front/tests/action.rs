//! Actions and statistics against the reference's outputs.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{Golden, fixture};
use dreamc_front::action::{
    ActionError, ActionTokens, BoundsKind, DATASETS_MAX, DIMS_MAX, Gripper, Statistics, StatisticsFile,
};
use dreamc_front::{FrontError, Tokenizer};
use serde_json::{Value, json};

const KEYS: [&str; 3] = ["libero_tiny_no_noops", "other_mask", "without_mask"];

fn file() -> StatisticsFile {
    StatisticsFile::read(&fixture("tiny-vla/checkpoint/dataset_statistics.json")).unwrap().unwrap()
}

fn statistics(key: &str) -> Statistics {
    file().choose(Some(key), BoundsKind::Quantiles, Some(7), Some(8)).unwrap()
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn unnormalize() {
    let golden = Golden::of("tiny-vla");
    for key in KEYS {
        let found = statistics(key).unnormalize(&golden.f64("unnormalize/normalized")).unwrap();
        let distance = distance(&found, &golden.f64(&format!("unnormalize/{key}")));
        assert!(distance <= 1e-12, "{key}: {distance:e}");
    }
    // The reference adds 1 to a head's output in f32.
    let normalized = golden.f64("predict/l1_two_images_proprio/normalized_actions");
    let found = statistics(KEYS[0]).unnormalize(&normalized).unwrap();
    assert!(distance(&found, &golden.f64("predict/l1_two_images_proprio/actions")) <= 2e-7);
}

#[test]
fn proprio() {
    let golden = Golden::of("tiny-vla");
    let raw = golden.f64("proprio/raw");
    for key in KEYS {
        let statistics = statistics(key);
        let found: Vec<f64> =
            raw.chunks_exact(8).flat_map(|p| statistics.normalize_proprio(p).unwrap()).collect();
        let distance = distance(&found, &golden.f64(&format!("proprio/normalized.{key}")));
        assert!(distance <= 1e-12, "{key}: {distance:e}");
    }
    let found = statistics(KEYS[0]).normalize_proprio(&golden.f64("inputs/proprio_raw")).unwrap();
    let found: Vec<f32> = found.into_iter().map(|v| v as f32).collect();
    assert_eq!(found, golden.f32("inputs/proprio_normalized"));
}

#[test]
fn values_that_are_refused() {
    let statistics = statistics(KEYS[0]);
    for (index, value) in [(0, f64::NAN), (3, f64::INFINITY), (7, f64::NEG_INFINITY)] {
        let mut proprio = [0.0; 8];
        proprio[index] = value;
        let error = statistics.normalize_proprio(&proprio).unwrap_err();
        assert!(matches!(error, ActionError::NotFinite { what: "proprio", index: i, .. } if i == index));
        assert!(error.to_string().contains(&format!("proprio value {index}")), "{error}");
    }
    for len in [0, 7, 9] {
        let error = statistics.normalize_proprio(&vec![0.0; len]).unwrap_err();
        assert!(
            matches!(error, ActionError::Length { what: "proprio", found, expected: 8, .. } if found == len)
        );
    }
    let error = statistics.unnormalize(&[0.0; 8]).unwrap_err();
    assert!(matches!(error, ActionError::Length { what: "action", found: 8, expected: 7, .. }), "{error}");
    let mut actions = [0.0; 7];
    actions[2] = f64::NAN;
    let error = statistics.unnormalize(&actions).unwrap_err();
    assert!(matches!(error, ActionError::NotFinite { what: "action", index: 2, .. }), "{error}");
}

#[test]
fn gripper() {
    let golden = Golden::of("tiny-vla");
    let mut actions = golden.f64("gripper/actions");
    Gripper::None.apply(&mut actions, 7);
    assert_eq!(actions, golden.f64("gripper/actions"));
    Gripper::Libero.apply(&mut actions, 7);
    assert_eq!(actions, golden.f64("gripper/processed"));
    let mut half = [0.5, 0.5];
    Gripper::Libero.apply(&mut half, 2);
    assert_eq!(half, [0.5, 0.0]);
    Gripper::Libero.apply(&mut [], 0);
}

#[test]
fn tokens() {
    let golden = Golden::of("tiny-vla");
    let tokens = ActionTokens::new(151_667, 151_923).unwrap();
    assert_eq!((tokens.first(), tokens.vocabulary_len()), (151_667, 151_923));
    let ids = tokens.encode(&golden.f64("action_tokenizer/values")).unwrap();
    assert_eq!(ids, golden.i32("action_tokenizer/token_ids"));
    let decoded = tokens.decode(&ids);
    assert!(distance(&decoded.values, &golden.f64("action_tokenizer/decoded")) <= 1e-15);
    assert_eq!(decoded.outside, 0);
    let ids = golden.i32("action_tokenizer/decode_ids");
    let decoded = tokens.decode(&ids);
    assert!(distance(&decoded.values, &golden.f64("action_tokenizer/decode_values")) <= 1e-15);
    let outside = ids.iter().filter(|id| !(151_667..151_923).contains(*id)).count();
    assert!(outside > 0 && decoded.outside == outside, "{}", decoded.outside);
    // Every centre, from the largest.
    let centers: Vec<f64> = golden.f64("action_tokenizer/bin_centers").into_iter().rev().collect();
    let all: Vec<i32> = (151_668..151_923).collect();
    assert!(distance(&tokens.decode(&all).values, &centers) <= 1e-15);
    for (id, value) in [(i32::MIN, 0.996_078), (-1, 0.996_078), (198, 0.996_078), (i32::MAX, -0.996_078)] {
        let decoded = tokens.decode(&[id]);
        assert!((decoded.values[0] - value).abs() < 1e-6 && decoded.outside == 1, "{id}");
    }
    assert_eq!(tokens.encode(&[-7.0, 7.0]).unwrap(), [151_922, 151_667]);
    assert!(matches!(tokens.encode(&[0.0, f64::NAN]), Err(ActionError::NotFinite { index: 1, .. })));
    // A policy's whole answer.
    let found = tokens.decode(&golden.i32("predict/discrete_one_pass_two_images_proprio/token_ids"));
    let expected = golden.f64("predict/discrete_one_pass_two_images_proprio/normalized_actions");
    assert!(distance(&found.values, &expected) <= 1e-15);
}

/// What the model is trained on ends with the tokens of its actions and the suffix.
#[test]
fn training_sequence() {
    let golden = Golden::of("tiny-vla");
    let sequence = golden.i32("training_sequence/input_ids");
    let tokens = ActionTokens::new(151_667, 151_923).unwrap();
    let mut end = tokens.encode(&golden.f64("training_sequence/actions")).unwrap();
    end.extend([151_645, 198]);
    assert_eq!(sequence[sequence.len() - end.len()..], end);
    assert_eq!(sequence[..sequence.len() - end.len()], golden.i32("inputs/images1/input_ids"));
}

#[test]
fn tokens_of_a_tokenizer() {
    let of = |name: &str| ActionTokens::from_tokenizer(&Tokenizer::from_dir(&fixture(name)).unwrap());
    // The real one has no names for them, and ends where they begin.
    assert_eq!(of("tokenizer").unwrap(), ActionTokens::new(151_667, 151_923).unwrap());
    assert_eq!(of("tabletop-vla/checkpoint").unwrap(), ActionTokens::new(353, 609).unwrap());

    let dir = tempfile::tempdir().unwrap();
    let source = fixture("tabletop-vla/checkpoint");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    let added: Value =
        serde_json::from_slice(&std::fs::read(source.join("added_tokens.json")).unwrap()).unwrap();
    let refused = |change: fn(&mut serde_json::Map<String, Value>), said: &str| {
        let mut added = added.as_object().unwrap().clone();
        change(&mut added);
        std::fs::write(dir.path().join("added_tokens.json"), Value::from(added).to_string()).unwrap();
        let error =
            ActionTokens::from_tokenizer(&Tokenizer::from_dir(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    refused(|a| a.retain(|k, _| !k.starts_with("<|action_")), "no `<|action_0|>`");
    refused(|a| drop(a.remove("<|action_255|>")), "`<|action_255|>` is missing");
    refused(
        |a| {
            a["<|action_7|>"] = 361.into();
            a["<|action_8|>"] = 360.into();
        },
        "`<|action_7|>` has id 361",
    );
    refused(|a| drop(a.insert("<|more|>".to_owned(), 609.into())), "the end of the vocabulary, 610");
    assert!(matches!(ActionTokens::new(-1, 255), Err(ActionError::Tokens { .. })));
    assert!(matches!(ActionTokens::new(i32::MAX, usize::MAX), Err(ActionError::Tokens { .. })));
}

fn of(value: Value) -> Result<StatisticsFile, ActionError> {
    StatisticsFile::from_map(value.as_object().unwrap().clone(), "stats.json")
}

fn set(action: Value) -> StatisticsFile {
    of(json!({"only": {"action": action}})).unwrap()
}

#[test]
fn keys() {
    let error = file().choose(None, BoundsKind::Quantiles, None, None).unwrap_err();
    assert!(matches!(error, ActionError::NoKey { .. }));
    for key in KEYS {
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
    let error = file().choose(Some("bridge_orig"), BoundsKind::Quantiles, None, None).unwrap_err();
    assert!(matches!(&error, ActionError::UnknownKey { key, .. } if key == "bridge_orig"));
    assert!(error.to_string().contains("`other_mask`"), "{error}");
    // A suite's name leads to its set without idle steps.
    assert_eq!(statistics("libero_tiny").key(), "libero_tiny_no_noops");
    let only = StatisticsFile::read(&fixture("tabletop-vla-l1/checkpoint/dataset_statistics.json"));
    let only = only.unwrap().unwrap().choose(None, BoundsKind::Quantiles, Some(7), Some(2)).unwrap();
    assert_eq!(only.key(), "tabletop");
    assert_eq!(only.normalize_proprio(&[0.0, 111.0]).unwrap()[0], -1.0);

    assert!(matches!(of(json!({})), Err(ActionError::Statistics { .. })));
    let many: serde_json::Map<String, Value> =
        (0..=DATASETS_MAX).map(|i| (i.to_string(), json!({}))).collect();
    assert!(of(many.into()).unwrap_err().to_string().contains("1025"));
}

#[test]
fn widths() {
    let choose = |action, proprio| {
        file().choose(Some("other_mask"), BoundsKind::Quantiles, action, proprio).map(|_| ())
    };
    let error = choose(Some(14), None).unwrap_err();
    assert!(matches!(error, ActionError::Width { what: "action", found: 7, expected: 14, .. }), "{error}");
    let error = choose(None, Some(7)).unwrap_err();
    assert!(matches!(error, ActionError::Width { what: "proprio", found: 8, expected: 7, .. }), "{error}");
    assert!(error.to_string().contains("other_mask"), "{error}");
    let without = set(json!({"q01": [0], "q99": [1]}));
    let error = without.choose(None, BoundsKind::Quantiles, None, Some(8)).unwrap_err();
    assert!(matches!(error, ActionError::NoProprio { .. }), "{error}");
    let statistics = without.choose(None, BoundsKind::Quantiles, None, None).unwrap();
    assert!(matches!(statistics.normalize_proprio(&[0.0]), Err(ActionError::NoProprio { .. })));
}

#[test]
fn sets_that_are_refused() {
    let refused = |action: Value, said: &str| {
        let error = set(action).choose(None, BoundsKind::Quantiles, None, None).unwrap_err();
        assert!(matches!(error, ActionError::Statistics { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("`stats.json`") && text.contains("`only") && text.contains(said), "{text}");
    };
    refused(json!(null), "no `action`");
    refused(json!({"q01": [0]}), "no `q99`");
    refused(json!({"q01": 0, "q99": [1]}), "a `q01` that is no list");
    refused(json!({"q01": [], "q99": []}), "no values");
    refused(json!({"q01": [0, 0], "q99": [1]}), "2 lower and 1 upper");
    refused(json!({"q01": [0], "q99": [1], "mask": [true, true]}), "a mask of 2");
    refused(json!({"q01": [0], "q99": [1], "mask": [1]}), "1 in `mask`");
    refused(json!({"q01": ["0"], "q99": [1]}), "\"0\" in `q01`");
    refused(json!({"q01": [null], "q99": [1]}), "null in `q01`");
    refused(json!({"q01": [-1e308], "q99": [1e308]}), "an infinite range");
    refused(json!({"q01": [2], "q99": [1]}), "the lower bound 2 above the upper 1 in dimension 0");
    refused(json!({"q01": vec![0; DIMS_MAX + 1], "q99": [1]}), "257 values");
    // Values without which this choice does well are not looked at.
    set(json!({"q01": [0], "q99": [1], "min": "?"})).choose(None, BoundsKind::Quantiles, None, None).unwrap();
    let extremes =
        set(json!({"min": [-2], "max": [6]})).choose(None, BoundsKind::Extremes, None, None).unwrap();
    assert!(distance(&extremes.unnormalize(&[-1.0, 0.0, 1.0]).unwrap(), &[-2.0, 2.0, 6.0]) < 1e-7);
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dataset_statistics.json");
    assert!(StatisticsFile::read(&path).unwrap().is_none());
    std::fs::write(&path, "{\"a\": NaN}").unwrap();
    let error = StatisticsFile::read(&path).unwrap_err();
    assert!(matches!(&error, FrontError::Corrupt { path: p, .. } if *p == path), "{error}");
    std::fs::write(&path, "{}").unwrap();
    let error = StatisticsFile::read(&path).unwrap_err().to_string();
    assert!(error.contains("dataset_statistics.json"), "{error}");
}

#[test]
fn in_a_manifest() {
    for key in KEYS {
        let statistics = statistics(key);
        let text = serde_json::to_string(&statistics).unwrap();
        assert_eq!(serde_json::from_str::<Statistics>(&text).unwrap(), statistics);
    }
    let damaged = r#"{"key": "k", "action": {"low": [0], "high": [1, 2], "mask": [true]}, "proprio": null}"#;
    assert!(serde_json::from_str::<Statistics>(damaged).is_err());
    assert_eq!(serde_json::to_string(&Gripper::Libero).unwrap(), "\"libero\"");
    let tokens = ActionTokens::new(353, 609).unwrap();
    let text = serde_json::to_string(&tokens).unwrap();
    assert_eq!(serde_json::from_str::<ActionTokens>(&text).unwrap(), tokens);
    for first in [-1, i32::MIN, i32::MAX, i32::MAX - 255] {
        let text = text.replace("353", &first.to_string());
        assert!(serde_json::from_str::<ActionTokens>(&text).is_err(), "{first}");
    }
}

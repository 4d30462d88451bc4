//! Prompts with images: their text, ids, places and positions, against the reference's.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{Golden, fixture, grid, json, numbers};
use dreamc_front::chat::{Message, Part, RenderOptions, render, render_with};
use dreamc_front::image::{Grid, ImageError, merged_tokens};
use dreamc_front::positions::{vl_positions, vla_positions};
use dreamc_front::{PromptError, Tokenizer, VisionTokens, expand, splice_index};
use serde_json::Value;

const REAL: VisionTokens = VisionTokens { image: 151_655, video: 151_656, vision_start: 151_652 };
const TINY: VisionTokens = VisionTokens { image: 345, video: 346, vision_start: 342 };
const IMAGE: i32 = TINY.image;
const START: i32 = TINY.vision_start;

fn ids(value: &Value) -> Vec<i32> {
    numbers(value).into_iter().map(|id| id as i32).collect()
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<i32> {
    tokenizer.encode(text).unwrap().into_iter().map(|id| id as i32).collect()
}

fn grids(value: &Value) -> Vec<Grid> {
    value.as_array().unwrap().iter().map(|g| grid(&numbers(g))).collect()
}

/// A message as callers of the reference write it.
fn message(value: &Value) -> Message {
    let role = value["role"].as_str().unwrap();
    if let Some(text) = value["content"].as_str() {
        return Message::text(role, text);
    }
    let part = |part: &Value| match part["type"].as_str().unwrap() {
        "image" => Part::Image,
        "video" => Part::Video,
        _ => Part::Text(part["text"].as_str().unwrap().to_owned()),
    };
    let parts = value["content"].as_array().unwrap().iter().map(part).collect();
    Message { role: role.to_owned(), parts }
}

#[test]
fn conversations() {
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
    let golden = json("tokenizer/golden.json");
    let cases = golden["chat"].as_array().unwrap();
    assert_eq!(cases.len(), 16);
    for case in cases {
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let options = RenderOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            add_vision_id: case["add_vision_id"].as_bool().unwrap_or(false),
        };
        let text = render_with(&messages, options);
        assert_eq!(text, case["text"].as_str().unwrap());
        let encoded = encode(&tokenizer, &text);
        assert_eq!(encoded, ids(&case["ids"]));
        if case["ids_after_image_expansion"].is_null() {
            continue;
        }
        let all = grids(&case["grids_in_prompt_order"]);
        let kinds = encoded.iter().filter(|id| REAL.is_placeholder(**id));
        let (mut images, mut videos) = (Vec::new(), Vec::new());
        for (id, grid) in kinds.zip(&all) {
            if *id == REAL.image { images.push(*grid) } else { videos.push(*grid) }
        }
        let expanded = expand(&encoded, &REAL, &images, &videos, 1000).unwrap();
        assert_eq!(expanded, ids(&case["ids_after_image_expansion"]));
        assert!(splice_index(&expanded, &REAL, merged_tokens(&all)).is_ok());
    }
}

#[test]
fn prompts_of_robots() {
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
    let golden = json("tiny-vla/golden.json");
    for case in golden["prompts"].as_array().unwrap() {
        let views = case["images"].as_u64().unwrap() as usize;
        let text = render(&[Message::action(views, case["task"].as_str().unwrap())], true);
        assert_eq!(text, case["text"].as_str().unwrap());
        let encoded = encode(&tokenizer, &text);
        assert_eq!(encoded, ids(&case["ids_before_expansion"]));
        let expanded = expand(&encoded, &REAL, &grids(&case["grid_thw"]), &[], 174).unwrap();
        assert_eq!(expanded, ids(&case["ids"]));
    }
    for name in ["tabletop-vla", "tabletop-vla-flow", "tabletop-vla-l1"] {
        let tokenizer = Tokenizer::from_dir(&fixture(name).join("checkpoint")).unwrap();
        let golden = json(&format!("{name}/golden.json"));
        let tokens = VisionTokens { image: 341, video: 342, vision_start: 338 };
        for case in golden["observations"].as_array().unwrap() {
            let text = render(&[Message::action(1, case["instruction"].as_str().unwrap())], true);
            let encoded = encode(&tokenizer, &text);
            let expanded = expand(&encoded, &tokens, &[Grid { t: 1, h: 8, w: 8 }], &[], 48).unwrap();
            assert_eq!(expanded, ids(&case["prompt_ids"]), "{name}");
        }
    }
}

#[test]
fn expansion_is_checked() {
    let image = Grid { t: 1, h: 2, w: 4 };
    let prompt = [1, IMAGE, IMAGE, 2];
    assert_eq!(expand(&prompt, &TINY, &[image, image], &[], 6).unwrap(), [1, IMAGE, IMAGE, IMAGE, IMAGE, 2]);
    assert_eq!(
        expand(&prompt, &TINY, &[image, image], &[], 5),
        Err(PromptError::TooLong { length: 6, length_max: 5 })
    );
    let error = expand(&prompt, &TINY, &[image], &[], 100).unwrap_err();
    assert_eq!(error, PromptError::Placeholders { kind: "image", placeholders: 2, given: 1 });
    assert!(error.to_string().contains("2 image placeholders, but 1 image"), "{error}");
    let error = expand(&[1, 2], &TINY, &[], &[image], 100).unwrap_err();
    assert_eq!(error, PromptError::Placeholders { kind: "video", placeholders: 0, given: 1 });
    // A task may spell out the placeholder.
    let huge = Grid { t: u32::MAX, h: u32::MAX - 1, w: u32::MAX - 1 };
    assert!(matches!(
        expand(&prompt, &TINY, &[huge, huge], &[], 100),
        Err(PromptError::TooLong { length: usize::MAX, .. })
    ));
}

#[test]
fn places_of_features() {
    let ids = [1, IMAGE, TINY.video, 2, IMAGE, 3];
    assert_eq!(splice_index(&ids, &TINY, 3).unwrap(), [-1, 0, 1, -1, 2, -1]);
    assert_eq!(splice_index(&[1, 2], &TINY, 0).unwrap(), [-1, -1]);
    let error = splice_index(&ids, &TINY, 4).unwrap_err();
    assert_eq!(error, PromptError::Features { placeholders: 3, feature_rows: 4 });
    assert!(error.to_string().contains('3') && error.to_string().contains('4'), "{error}");
}

#[test]
fn positions_of_every_recorded_case() {
    let golden = Golden::of("tiny-vl");
    let notes = json("tiny-vl/golden.json");
    let mut checked = 0;
    for (name, case) in notes["forward_cases"].as_object().unwrap() {
        let tensor = |what: &str| format!("forward/{name}/{what}");
        let ids = golden.i32(&tensor("input_ids"));
        let mask = if golden.has(&tensor("attention_mask")) {
            golden.i32(&tensor("attention_mask"))
        } else {
            vec![1; ids.len()]
        };
        let of = |image: &Value| golden.grids(&format!("{}/image_grid_thw", image.as_str().unwrap()));
        let images: Vec<Grid> = case["images"].as_array().unwrap().iter().flat_map(of).collect();
        let video = case["video"].as_bool().unwrap();
        let videos = if video { golden.grids("video/video_grid_thw") } else { Vec::new() };
        let rows = golden.shape(&tensor("input_ids"))[0];
        let found = vl_positions(rows, &ids, &mask, &TINY, &images, &videos).unwrap();
        assert_eq!(found, golden.i32(&tensor("position_ids")), "{name}");
        let features = merged_tokens(&images) + merged_tokens(&videos);
        assert!(splice_index(&ids, &TINY, features).is_ok());
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn rows_do_not_take_each_others_images() {
    let (first, second) = (Grid { t: 1, h: 2, w: 4 }, Grid { t: 1, h: 4, w: 2 });
    // The first row's image has no `<|vision_start|>`, the second's has.
    let ids = [1, IMAGE, IMAGE, 2, START, IMAGE, IMAGE, 3];
    let found = vl_positions(2, &ids, &[1; 8], &TINY, &[first, second], &[]).unwrap();
    assert_eq!(found[..8], [0, 1, 2, 3, 0, 1, 1, 3]);
    assert_eq!(found[8..16], [0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!(found[16..], [0, 1, 2, 3, 0, 1, 1, 3]);
    // Adjoining images in one row.
    let ids = [IMAGE, IMAGE, IMAGE, IMAGE, 7];
    let found = vl_positions(1, &ids, &[1; 5], &TINY, &[first, second], &[]).unwrap();
    assert_eq!(found, [0, 1, 2, 3, 4].repeat(3));
}

#[test]
fn positions_are_checked() {
    let image = Grid { t: 1, h: 2, w: 4 };
    let refused = |ids: &[i32], images: &[Grid], said: &str| {
        let error = vl_positions(1, ids, &vec![1; ids.len()], &TINY, images, &[]).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    refused(&[START, IMAGE, 2], &[image], "should have 2 placeholders in a row, and has 1");
    refused(&[START, IMAGE, 2, IMAGE], &[image], "at place 1 should have 2");
    refused(&[1, IMAGE, IMAGE], &[], "no grid is left");
    refused(&[1, 2], &[image], "1 are left over");
    refused(&[TINY.video, 2], &[image], "video grids");
    refused(&[START, IMAGE], &[Grid { t: 0, h: 2, w: 2 }], "should have 0");
    let odd = vl_positions(2, &[1, 2, 3], &[1; 3], &TINY, &[], &[]).unwrap_err();
    assert!(matches!(odd, PromptError::Shape { what: "ids", rows: 2, .. }), "{odd}");
    let short = vl_positions(1, &[1, 2, 3], &[1; 2], &TINY, &[], &[]).unwrap_err();
    assert!(
        matches!(short, PromptError::Shape { what: "mask values", found: 2, expected: 3, .. }),
        "{short}"
    );
    assert!(vl_positions(0, &[], &[], &TINY, &[], &[]).unwrap().is_empty());
    assert!(vla_positions(0, &[1]).is_err());
}

#[test]
fn positions_of_robots() {
    assert_eq!(vla_positions(2, &[1, 1, 1, 0, 1, 1]).unwrap(), [1, 2, 3, 0, 1, 2]);
    assert_eq!(vla_positions(1, &[0, 1, 0, 1]).unwrap(), [0, 1, 1, 2]);
    assert!(vla_positions(0, &[]).unwrap().is_empty());
    assert!(vla_positions(2, &[1, 1, 1]).is_err());
}

#[test]
fn grids_from_outside() {
    assert_eq!(Grid::from_thw([2, 4, 6]).unwrap(), Grid { t: 2, h: 4, w: 6 });
    for thw in [[0, 2, 2], [1, 3, 2], [1, 2, 0], [1, -2, 2], [1, 2, 1 << 40]] {
        assert!(matches!(Grid::from_thw(thw), Err(ImageError::Grid { thw: t }) if t == thw));
    }
}

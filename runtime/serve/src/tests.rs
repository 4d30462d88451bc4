//! Requests that were changed at random: each is read or refused, and no reader panics.

use crate::card::{Card, ChatCard, PolicyCard};
use crate::openpi::Keys;
use crate::value::Value;
use crate::{chat, open_inference, openpi, openvla, vla_eval};

/// How often each request is changed.
const CHANGED: u32 = 40_000;

fn policy(views: u32) -> PolicyCard {
    PolicyCard {
        mode: "flow".to_owned(),
        chunk: 2,
        action_dim: 3,
        views,
        proprio_dim: Some(2),
        unnorm_key: "suite_no_noops".to_owned(),
        image_size: None,
        noisy: true,
    }
}

/// Numbers that look random (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// Some bytes are others, gone, or there twice.
    fn change(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let (at, byte) = (self.below(changed.len()), self.below(256) as u8);
            match self.below(5) {
                0 => changed.truncate(at),
                1 if at < changed.len() => drop(changed.remove(at)),
                2 => changed.insert(at, byte),
                3 => changed.extend_from_within(at..),
                _ if at < changed.len() => changed[at] ^= 1 << (byte % 8),
                _ => {}
            }
        }
        changed
    }
}

fn array(bytes: &[u8], dtype: &str, shape: &[u8]) -> Vec<u8> {
    let mut text = b"\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4".to_vec();
    text.push(bytes.len() as u8);
    text.extend_from_slice(bytes);
    text.extend_from_slice(b"\xc4\x05dtype\xa3");
    text.extend_from_slice(dtype.as_bytes());
    text.extend_from_slice(b"\xc4\x05shape");
    text.push(0x90 + shape.len() as u8);
    text.extend_from_slice(shape);
    text
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![0xa0 + text.len() as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[test]
fn json() {
    let request = br#"{"full_image": {"__numpy__": "AAECAwQF", "dtype": "|u1", "shape": [1, 2, 3]},
        "wrist": {"__numpy__": "AAECAwQF", "dtype": "|u1", "shape": [1, 2, 3]}, "instruction": "push",
        "state": {"__numpy__": "AAAAAAAA8D8AAAAAAAAAQA==", "dtype": "<f8", "shape": [2]}, "unnorm_key": "suite",
        "seed": 3, "noise": {"__numpy__": "AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/", "dtype": "<f4", "shape": [2, 3]}}"#;
    let card = policy(2);
    let parsed = openvla::parse(&Value::from_json(request).unwrap(), &card).unwrap();
    assert_eq!(parsed.asked.images.len(), 2);
    assert_eq!(parsed.asked.state, Some(vec![1.0, 2.0]));
    assert_eq!(parsed.asked.noise, Some(vec![1.0; 6]));
    let mut random = Random(1);
    let mut refused = 0;
    for _ in 0..CHANGED {
        let changed = random.change(request);
        let parsed = Value::from_json(&changed).map(|value| openvla::parse(&value, &card));
        refused += u32::from(!matches!(parsed, Ok(Ok(_))));
    }
    assert!(refused > CHANGED / 2, "{refused}");
}

#[test]
fn msgpack() {
    let image = array(&[0, 1, 2, 3, 4, 5], "|u1", &[1, 2, 3]);
    let state = array(&[0; 16], "<f8", &[2]);
    let pairs = |list: &[(&str, &Vec<u8>)]| {
        let mut bytes = vec![0x80 + list.len() as u8];
        list.iter().for_each(|(key, value)| bytes.extend([text(key), (*value).clone()].concat()));
        bytes
    };
    let task = text("push");
    let asked = pairs(&[("observation/image", &image), ("observation/state", &state), ("prompt", &task)]);
    let cameras = pairs(&[("agent", &image)]);
    let payload = pairs(&[("images", &cameras), ("task_description", &task), ("states", &state)]);
    let (policy, keys) = (policy(1), Keys::default());
    let card = Card::of_policy(policy.clone());
    assert!(openpi::parse(&Value::from_msgpack(&asked).unwrap(), &card, &keys).is_ok());
    assert!(vla_eval::parse(&Value::from_msgpack(&payload).unwrap(), &policy).is_ok());
    let mut random = Random(2);
    let mut refused = 0;
    for _ in 0..CHANGED {
        let changed = random.change(&asked);
        let parsed = Value::from_msgpack(&changed).map(|value| openpi::parse(&value, &card, &keys));
        refused += u32::from(!matches!(parsed, Ok(Ok(_))));
        let changed = random.change(&payload);
        let parsed = Value::from_msgpack(&changed).map(|value| vla_eval::parse(&value, &policy));
        refused += u32::from(!matches!(parsed, Ok(Ok(_))));
    }
    assert!(refused > CHANGED, "{refused}");
}

#[test]
fn chats() {
    let request = br#"{"model": "text", "messages": [{"role": "system", "content": "be brief"}, {"role": "user",
        "content": [{"type": "text", "text": "why?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}],
        "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["a", "b"], "stream": true,
        "stream_options": {"include_usage": true}, "steps": 4, "alg": "entropy", "raw": false, "diffusing": true}"#;
    let card = |sees| {
        let chat = ChatCard { new_tokens: 16, max_prompt: 32, sees, alg: "entropy".to_owned(), eps: 1e-3 };
        Card::of_chat(chat)
    };
    // The picture is none.
    let refusal = chat::parse(&Value::from_json(request).unwrap(), &card(true)).unwrap_err();
    assert_eq!(refusal.param.as_deref(), Some("messages[1].content[1].image_url.url"));
    let mut random = Random(3);
    for _ in 0..CHANGED {
        let changed = random.change(request);
        let parsed = Value::from_json(&changed).map(|value| chat::parse(&value, &card(true)));
        assert!(!matches!(parsed, Ok(Ok(_))));
    }
}

#[test]
fn tensors() {
    let text = br#"{"id": "a", "inputs": [{"name": "image_0", "shape": [1, 2, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 6}},
        {"name": "task", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}},
        {"name": "proprio", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]},
        {"name": "noise", "shape": [2, 3], "datatype": "FP32", "data": [[1, 2, 3], [4, 5, 6]]},
        {"name": "seed", "shape": [1], "datatype": "INT64", "data": [7]}], "outputs": [{"name": "actions"}]}"#;
    let tensors = b"\x00\x01\x02\x03\x04\x05\x04\x00\x00\x00push";
    let policy = policy(1);
    let (asked, _) = open_inference::parse(&Value::from_json(text).unwrap(), tensors, &policy).unwrap();
    assert_eq!((asked.task.as_str(), asked.seed), ("push", 7));
    assert_eq!(asked.noise, Some(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let mut random = Random(4);
    let mut refused = 0;
    for _ in 0..CHANGED {
        let (head, behind) = (random.change(text), random.change(tensors));
        let parsed = Value::from_json(&head).map(|value| open_inference::parse(&value, &behind, &policy));
        refused += u32::from(!matches!(parsed, Ok(Ok(_))));
    }
    assert!(refused > CHANGED / 2, "{refused}");
}

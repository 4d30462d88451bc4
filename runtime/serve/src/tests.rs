//! Requests that were changed at random: each is read or refused, and no reader panics.

use crate::card::{Card, PolicyCard};
use crate::openpi::Keys;
use crate::value::Value;
use crate::{openpi, openvla, vla_eval};

/// How often each request is changed.
const CHANGED: u32 = 40_000;

fn card(views: u32) -> Card {
    let policy = PolicyCard {
        chunk: 2,
        action_dim: 3,
        views,
        proprio_dim: Some(2),
        unnorm_key: "suite_no_noops".to_owned(),
        image_size: None,
        noisy: true,
        stops: true,
    };
    Card { name: "policy".into(), steps: 4, device: "cpu".into(), hash: String::new(), policy }
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
    let card = card(2);
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
    let (card, keys) = (card(1), Keys::default());
    assert!(openpi::parse(&Value::from_msgpack(&asked).unwrap(), &card, &keys).is_ok());
    assert!(vla_eval::parse(&Value::from_msgpack(&payload).unwrap(), &card).is_ok());
    let mut random = Random(2);
    let mut refused = 0;
    for _ in 0..CHANGED {
        let changed = random.change(&asked);
        let parsed = Value::from_msgpack(&changed).map(|value| openpi::parse(&value, &card, &keys));
        refused += u32::from(!matches!(parsed, Ok(Ok(_))));
        let changed = random.change(&payload);
        let parsed = Value::from_msgpack(&changed).map(|value| vla_eval::parse(&value, &card));
        refused += u32::from(!matches!(parsed, Ok(Ok(_))));
    }
    assert!(refused > CHANGED, "{refused}");
}

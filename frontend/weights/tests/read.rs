//! Tensors read back as they were stored.

use dreamc_num::DType;
use dreamc_weights::{Checkpoint, SINGLE_FILE};
use std::path::Path;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/fixtures/tiny-text/checkpoint");

#[test]
fn converts_each_dtype() {
    let header = concat!(
        r#"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"#,
        r#""b":{"dtype":"BF16","shape":[1,3],"data_offsets":[4,10]},"#,
        r#""f":{"dtype":"F32","shape":[2],"data_offsets":[10,18]},"#,
        r#""empty":{"dtype":"F32","shape":[0,4],"data_offsets":[18,18]}}"#
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    // f16 1.5 and infinity; bf16 1, -2, NaN; f32 0.1 and 3.
    for half in [0x3e00u16, 0x7c00, 0x3f80, 0xc000, 0x7fc0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(0.1f32.to_le_bytes());
    bytes.extend(3f32.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(SINGLE_FILE), bytes).unwrap();

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let (h, b, f) =
        (checkpoint.get("h").unwrap(), checkpoint.get("b").unwrap(), checkpoint.get("f").unwrap());
    assert_eq!((h.dtype, b.dtype, f.dtype), (DType::F16, DType::BF16, DType::F32));
    assert_eq!(b.shape, [1, 3]);
    let mut out = [0.0; 2];
    h.to_f32(0..2, &mut out);
    assert_eq!(out, [1.5, f32::INFINITY]);
    b.to_f32(0..2, &mut out);
    assert_eq!(out, [1.0, -2.0]);
    f.to_f32(1..2, &mut out[..1]);
    assert_eq!(out[0], 3.0);
    b.to_f32(2..3, &mut out[..1]);
    assert!(out[0].is_nan());
    let empty = checkpoint.get("empty").unwrap();
    assert!(empty.is_empty());
    empty.release();
    assert!(b.same_values(&b) && !h.same_values(&f));
}

#[test]
fn reads_the_fixture_also_after_release() {
    let checkpoint = Checkpoint::open(Path::new(FIXTURE)).unwrap();
    assert_eq!(checkpoint.names().count(), 3 * 12 + 3);
    assert!(checkpoint.warnings().is_empty());
    let embedding = checkpoint.get("model.embed_tokens.weight").unwrap();
    assert_eq!((embedding.shape, embedding.dtype), (&[512u64, 64][..], DType::BF16));
    let before = embedding.bytes.to_vec();
    embedding.release();
    embedding.release_range(64..128);
    assert_eq!(embedding.bytes, before);
    for tensor in checkpoint.tensors() {
        let mut values = vec![0.0; tensor.len()];
        tensor.to_f32(0..tensor.len(), &mut values);
        assert!(values.iter().all(|v| v.is_finite()), "{}", tensor.name);
    }
}

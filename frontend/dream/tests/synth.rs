//! Synthetic checkpoints read back, and come out the same every time.

use dreamc_frontend::{ImportError, Size, TextConfig, check_tensors, expected_tensors, synth_text};
use dreamc_num::DType;
use dreamc_weights::{Checkpoint, SINGLE_FILE};

#[test]
fn tiny_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = (0, 0);
    synth_text(Size::Tiny, 1, dir.path(), &mut |p| last = (p.done_bytes, p.total_bytes)).unwrap();
    assert_eq!(last.0, last.1);

    let config = TextConfig::read(dir.path()).unwrap();
    assert_eq!(config, Size::Tiny.config());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    check_tensors(&checkpoint, &config).unwrap();
    assert_eq!(checkpoint.total_bytes(), last.1);
    for (name, shape) in expected_tensors(&config) {
        let tensor = checkpoint.get(&name).unwrap();
        assert_eq!((tensor.shape, tensor.dtype), (&shape[..], DType::BF16), "{name}");
        let mut values = vec![0.0; tensor.len()];
        tensor.to_f32(0..tensor.len(), &mut values);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let expected = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        assert!((mean - expected).abs() < 0.02, "{name}: mean {mean}");
        assert!(values.iter().all(|v| (v - expected).abs() < 0.1), "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn same_seed_same_bytes() {
    let bytes = |seed| {
        let dir = tempfile::tempdir().unwrap();
        synth_text(Size::Tiny, seed, dir.path(), &mut |_| {}).unwrap();
        std::fs::read(dir.path().join(SINGLE_FILE)).unwrap()
    };
    assert_eq!(bytes(3), bytes(3));
    assert_ne!(bytes(3), bytes(4));
}

#[test]
fn overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    synth_text(Size::Tiny, 1, dir.path(), &mut |_| {}).unwrap();
    let again = synth_text(Size::Tiny, 2, dir.path(), &mut |_| {});
    assert!(matches!(again, Err(ImportError::OutputExists { .. })), "{again:?}");
}

#[test]
fn seven_b_has_the_published_tensors() {
    assert_eq!(expected_tensors(&Size::SevenB.config()).len(), 339);
}

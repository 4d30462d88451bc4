//! Synthetic checkpoints read back, and come out the same every time.

use dreamc_frontend::{
    HeadKind, HeadRequest, HeadSet, ImportError, ModelConfig, Size, Synth, TextConfig, Variant,
    check_tensors, check_vocabulary, expected_tensors, find_head_kind, synth, synth_text,
};
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

#[test]
fn models_that_see_and_act() {
    for (variant, head, files) in [
        (Variant::Vl, None, 9),
        (Variant::Vla, None, 10),
        (Variant::Vla, Some(HeadKind::L1), 12),
        (Variant::Vla, Some(HeadKind::Flow), 13),
        (Variant::Vla, Some(HeadKind::Ddim), 13),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut last = (0, 0);
        let what = Synth { variant, size: Size::Tiny, seed: 1, head };
        synth(&what, dir.path(), &mut |p| last = (p.done_bytes, p.total_bytes)).unwrap();
        assert_eq!(last.0, last.1);
        assert!(last.1 < 2 << 20, "{} bytes are not tiny", last.1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), files, "{variant:?} {head:?}");

        let config = ModelConfig::read(dir.path()).unwrap();
        assert_eq!(config, Size::Tiny.model_config(variant));
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert!(checkpoint.warnings().is_empty());
        check_tensors(&checkpoint, &config).unwrap();
        let vocabulary = check_vocabulary(dir.path(), &config).unwrap().unwrap();
        assert_eq!(vocabulary.first_action, (variant == Variant::Vla).then_some(353));
        let gain = checkpoint.get("visual.blocks.0.norm2.weight").unwrap();
        let mut values = vec![0.0; gain.len()];
        gain.to_f32(0..gain.len(), &mut values);
        assert!(values.iter().all(|v| (v - 1.0).abs() < 0.1));

        assert_eq!(find_head_kind(dir.path()).unwrap(), head);
        let request =
            HeadRequest { kind: head, action_dim: 7, proprio_dim: head.map(|_| 8), l1_as_ddim: false };
        let heads = HeadSet::open(dir.path(), config.text.hidden_size, &request).unwrap();
        if head.is_some() {
            let weight = heads.get("proprio_projector.fc2.weight").unwrap();
            assert_eq!(weight.dtype, DType::F32);
            let mut values = vec![0.0; weight.len()];
            weight.to_f32(0..weight.len(), &mut values);
            assert!(values.iter().all(|v| v.abs() < 0.1) && values.iter().any(|v| *v != 0.0));
        }
    }
}

/// Text becomes its bytes, and a line ends with the released token.
#[test]
fn the_tokenizer_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let what = Synth { variant: Variant::Vla, size: Size::Tiny, seed: 1, head: None };
    synth(&what, dir.path(), &mut |_| {}).unwrap();
    let tokenizer = dreamc_front::Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("\n").unwrap(), [198]);
    assert_eq!(tokenizer.encode("<|im_start|>a\n").unwrap(), [330, 64, 198]);
    assert_eq!(tokenizer.encode("<|action_0|>").unwrap(), [353]);
}

/// The same text model whichever function is asked, and other weights in every file.
#[test]
fn seeds_and_names_make_the_weights() {
    let bytes = |what: &Synth, file: &str| {
        let dir = tempfile::tempdir().unwrap();
        synth(what, dir.path(), &mut |_| {}).unwrap();
        std::fs::read(dir.path().join(file)).unwrap()
    };
    let what = Synth { variant: Variant::Vla, size: Size::Tiny, seed: 3, head: Some(HeadKind::Flow) };
    for file in
        [SINGLE_FILE, "action_head.safetensors", "proprio_projector.safetensors", "tokenizer_config.json"]
    {
        assert_eq!(bytes(&what, file), bytes(&what, file));
    }
    assert_ne!(bytes(&what, SINGLE_FILE), bytes(&Synth { seed: 4, ..what }, SINGLE_FILE));
    let dir = tempfile::tempdir().unwrap();
    synth_text(Size::Tiny, 3, dir.path(), &mut |_| {}).unwrap();
    let text = Synth { variant: Variant::Text, ..what };
    assert_eq!(bytes(&text, SINGLE_FILE), std::fs::read(dir.path().join(SINGLE_FILE)).unwrap());
}

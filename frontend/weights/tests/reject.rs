//! Each kind of broken checkpoint has its own error, and none makes the reader panic.

use dreamc_weights::{Checkpoint, INDEX_FILE, SINGLE_FILE, WeightsError};
use std::path::Path;

/// A safetensors file from a header and as many bytes of data as asked for.
fn file(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data_bytes, 0);
    out
}

/// A file of one BF16 tensor `[2]` for each name.
fn tensors(names: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let (start, end) = (4 * i, 4 * i + 4);
            format!(r#""{name}":{{"dtype":"BF16","shape":[2],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    file(&format!("{{{}}}", entries.join(",")), 4 * names.len())
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), bytes).expect("the directory is writable");
}

fn open_single(bytes: impl AsRef<[u8]>) -> Result<Checkpoint, WeightsError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    put(dir.path(), SINGLE_FILE, bytes);
    Checkpoint::open(dir.path())
}

fn open_sharded(index: &str, shards: &[(&str, &[&str])]) -> Result<Checkpoint, WeightsError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    put(dir.path(), INDEX_FILE, index);
    for (name, names) in shards {
        put(dir.path(), name, tensors(names));
    }
    Checkpoint::open(dir.path())
}

macro_rules! assert_error {
    ($result:expr, $variant:ident) => {
        match $result {
            Err(WeightsError::$variant { .. }) => {}
            other => panic!("expected {}, got {other:?}", stringify!($variant)),
        }
    };
}

#[test]
fn missing_files() {
    let dir = tempfile::tempdir().unwrap();
    assert_error!(Checkpoint::open(dir.path().join("absent")), NoDirectory);
    assert_error!(Checkpoint::open(dir.path()), NoWeights);
    put(dir.path(), "adapter_config.json", "{}");
    assert_error!(Checkpoint::open(dir.path()), AdapterOnly);
}

#[test]
fn index_faults() {
    assert_error!(open_sharded("[", &[]), IndexMalformed);
    assert_error!(open_sharded("{}", &[]), IndexMalformed);
    assert_error!(open_sharded(r#"{"weight_map":{}}"#, &[]), IndexMalformed);
    assert_error!(open_sharded(r#"{"weight_map":{"a":1}}"#, &[]), IndexMalformed);
    assert_error!(open_sharded(r#"{"weight_map":{"a":"../s"}}"#, &[]), ShardName);
    assert_error!(open_sharded(r#"{"weight_map":{"a":"s1"}}"#, &[]), ShardAbsent);
    assert_error!(open_sharded(r#"{"weight_map":{"a":"s1"}}"#, &[("s1", &["a", "b"])]), NotInIndex);
    assert_error!(open_sharded(r#"{"weight_map":{"a":"s1","b":"s1"}}"#, &[("s1", &["a"])]), NotInShard);
    let both = r#"{"weight_map":{"a":"s1","b":"s2"}}"#;
    assert_error!(open_sharded(both, &[("s1", &["a"]), ("s2", &["a", "b"])]), Duplicate);
    assert_error!(open_sharded(both, &[("s1", &["b"]), ("s2", &["a"])]), NotInShard);
}

#[test]
fn long_index() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 16 << 20;
    let mut index = r#"{"weight_map":{"a":"s1"}}"#.to_owned();
    index.push_str(&" ".repeat(limit - index.len()));
    put(dir.path(), INDEX_FILE, &index);
    put(dir.path(), "s1", tensors(&["a"]));
    Checkpoint::open(dir.path()).unwrap();
    index.push(' ');
    put(dir.path(), INDEX_FILE, &index);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(error, WeightsError::TooLarge { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains(INDEX_FILE) && said.contains("16777217") && said.contains("16777216"), "{said}");
}

#[test]
fn an_adapter_beside_weights_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), SINGLE_FILE, tensors(&["a"]));
    assert!(Checkpoint::open(dir.path()).unwrap().warnings().is_empty());
    let warned = |name: &str| {
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let [warning] = checkpoint.warnings() else { panic!("{:?}", checkpoint.warnings()) };
        assert!(warning.contains("ignored") && warning.contains(name), "{warning}");
    };
    put(dir.path(), "adapter_config.json", "{}");
    warned("adapter_config.json");
    std::fs::create_dir(dir.path().join("lora_adapter")).unwrap();
    warned("lora_adapter");
    put(dir.path(), INDEX_FILE, r#"{"weight_map":{"a":"s1"}}"#);
    std::fs::rename(dir.path().join(SINGLE_FILE), dir.path().join("s1")).unwrap();
    warned("lora_adapter");
}

#[test]
fn total_size_is_a_warning() {
    let open = |size: &str| {
        let index = format!(r#"{{"metadata":{{"total_size":{size}}},"weight_map":{{"a":"s1","b":"s2"}}}}"#);
        open_sharded(&index, &[("s1", &["a"]), ("s2", &["b"])]).unwrap()
    };
    assert!(open("8").warnings().is_empty());
    assert!(open("8.0").warnings().is_empty());
    assert_eq!(open("9").warnings().len(), 1);
    assert_eq!(open("8").names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn foreign_formats() {
    let dtype = r#"{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#;
    assert_error!(open_single(file(dtype, 2)), UnsupportedDType);
    assert_error!(open_single(tensors(&["model.layers.0.mlp.up_proj.qweight"])), Quantised);
    assert_error!(open_single(tensors(&["base_model.model.lm_head.weight"])), LoraWrapped);
    assert_error!(open_single(tensors(&["model.mm_projector.0.weight"])), TrainingNames);
}

#[test]
fn header_faults() {
    assert_error!(open_single([]), Truncated);
    assert_error!(open_single([0xff; 64]), HeaderTooLong);
    assert_error!(open_single(file("{", 0)), Header);
    assert_error!(open_single(file("[]", 0)), Header);
    assert_error!(open_single(file("\u{7f}{}", 0)), Header);
    let pair = |a: &str, b: &str| {
        let entry = |offsets: &str| format!(r#"{{"dtype":"BF16","shape":[2],"data_offsets":{offsets}}}"#);
        file(&format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)), 8)
    };
    assert!(open_single(pair("[0,4]", "[4,8]")).is_ok());
    assert_error!(open_single(pair("[0,4]", "[2,6]")), HeaderTensor);
    assert_error!(open_single(pair("[0,4]", "[0,4]")), HeaderTensor);
    assert_error!(open_single(pair("[0,4]", "[6,10]")), HeaderTensor);
    assert_error!(open_single(pair("[0,4]", "[8,4]")), HeaderTensor);
    let one = |shape: &str, end: u64| {
        file(&format!(r#"{{"a":{{"dtype":"BF16","shape":{shape},"data_offsets":[0,{end}]}}}}"#), 8)
    };
    assert_error!(open_single(one("[3]", 8)), HeaderTensor);
    assert_error!(open_single(one("[18446744073709551615,2]", 8)), HeaderTensor);
    assert_error!(open_single(one("[1152921504606846975]", 2_305_843_009_213_693_950)), Truncated);
    assert_error!(open_single(one("[5]", 10)), Truncated);
    assert_error!(open_single(one("[3]", 6)), Truncated);
}

/// Of many tensors, the error names the one that is wrong.
#[test]
fn faulty_entries_are_named() {
    let sound = r#""a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}"#;
    let with = |entry: &str| open_single(file(&format!(r#"{{{sound},"b":{entry}}}"#), 8));
    assert!(with(r#"{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}"#).is_ok());
    for (entry, said) in [
        (r#"{"dtype":"BF16","shape":[3],"data_offsets":[4,8]}"#, "[3] and dtype BF16 needs 6 bytes"),
        (r#"{"dtype":"F4","shape":[9],"data_offsets":[4,8]}"#, "needs 5 bytes but its range has 4"),
        (r#"{"dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[4,8]}"#, "can be counted"),
        (r#"{"dtype":"B16","shape":[2],"data_offsets":[4,8]}"#, "unknown variant `B16`"),
        (r#"{"dtype":"BF16","shape":[-2],"data_offsets":[4,8]}"#, "invalid value"),
        (
            r#"{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}"#,
            "at byte 0 of the data, but `a`, before it, ends at 4",
        ),
        (
            r#"{"dtype":"BF16","shape":[1],"data_offsets":[6,8]}"#,
            "at byte 6 of the data, but `a`, before it, ends at 4",
        ),
        (r#"{"dtype":"BF16","shape":[2],"data_offsets":[8,4]}"#, "at byte 8 of the data, but ends at 4"),
    ] {
        let error = with(entry).unwrap_err();
        assert!(matches!(&error, WeightsError::HeaderTensor { tensor, .. } if tensor == "b"), "{error:?}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn offsets_at_the_end_of_the_address_space() {
    // Eight tensors of nearly 2^61 bytes each: the sum with the header's length overflows.
    let size = (1u64 << 61) - 2;
    let entries: Vec<String> = (0..8)
        .map(|i| {
            let (start, end) = (i * size, (i + 1) * size);
            format!(r#""t{i}":{{"dtype":"BF16","shape":[{}],"data_offsets":[{start},{end}]}}"#, size / 2)
        })
        .collect();
    assert_error!(open_single(file(&format!("{{{}}}", entries.join(",")), 16)), Truncated);
}

#[test]
fn truncated_anywhere() {
    let whole = tensors(&["model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"]);
    assert!(open_single(&whole).is_ok());
    for cut in 0..whole.len() {
        assert!(open_single(&whole[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn flipped_header_bytes_never_panic() {
    let whole = tensors(&["model.norm.weight", "lm_head.weight"]);
    for at in 0..whole.len() {
        for flip in [0x01, 0x10, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            if let Ok(checkpoint) = open_single(&bytes) {
                for tensor in checkpoint.tensors() {
                    tensor.to_f32(0..tensor.len(), &mut vec![0.0; tensor.len()]);
                }
            }
        }
    }
}

//! Adapters folded while reading give the dense sum, and each kind of wrong one has its own error.

use dreamc_weights::{
    ADAPTER_CONFIG_FILE, ADAPTER_FILE, Adapter, AdapterError, Checkpoint, SINGLE_FILE, Sources, WeightsError,
};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

const WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";
const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
const OUT: usize = 5;
const IN: usize = 7;
const RANK: usize = 3;

/// Numbers that f32 sums exactly, so that the order of summing cannot matter.
fn values(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 11) % 17) as f32 / 4.0 - 2.0).collect()
}

fn save(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        header.insert(
            (*name).to_owned(),
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    std::fs::write(path, file).expect("the directory is writable");
}

fn base() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tensors: [(&str, &[usize], &[f32]); 2] =
        [(WEIGHT, &[OUT, IN], &values(1, OUT * IN)), ("model.norm.weight", &[IN], &values(2, IN))];
    save(&dir.path().join(SINGLE_FILE), &tensors);
    dir
}

fn config() -> Value {
    json!({ "peft_type": "LORA", "r": RANK, "lora_alpha": 6, "target_modules": ["q_proj"], "bias": "none" })
}

fn adapter(config: &Value, tensors: &[(&str, &[usize], &[f32])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join(ADAPTER_CONFIG_FILE), config.to_string())
        .expect("the directory is writable");
    save(&dir.path().join(ADAPTER_FILE), tensors);
    dir
}

#[test]
fn pieces_of_the_dense_sum() {
    let (base, a, b) = (base(), values(3, RANK * IN), values(4, OUT * RANK));
    let adapter = adapter(&config(), &[(A, &[RANK, IN], &a), (B, &[OUT, RANK], &b)]);
    let checkpoint = Checkpoint::open(base.path()).unwrap();
    let adapter = Adapter::open(adapter.path(), &checkpoint).unwrap();
    assert_eq!((adapter.rank(), adapter.scale()), (RANK as u64, 2.0));
    assert_eq!(adapter.targets().collect::<Vec<_>>(), [WEIGHT]);

    let mut expected = values(1, OUT * IN);
    for row in 0..OUT {
        for column in 0..IN {
            let sum: f32 = (0..RANK).map(|k| b[row * RANK + k] * a[k * IN + column]).sum();
            expected[row * IN + column] += 2.0 * sum;
        }
    }
    let mut sources = Sources::new(&checkpoint).with_adapter(&adapter);
    assert_eq!(sources.elements(WEIGHT), Some((OUT * IN) as u64));
    for start in 0..=OUT * IN {
        for end in start..=OUT * IN {
            let mut out = vec![0.0; end - start];
            sources.read(WEIGHT, start as u64, &mut out).unwrap();
            assert_eq!(out, expected[start..end], "{start}..{end}");
        }
    }
    let mut norm = vec![0.0; IN];
    sources.read("model.norm.weight", 0, &mut norm).unwrap();
    assert_eq!(norm, values(2, IN));
    assert!(matches!(sources.read("absent", 0, &mut []), Err(WeightsError::Absent { .. })));
    assert_eq!(sources.elements("absent"), None);
}

#[test]
fn wrong_adapters() {
    let base = base();
    let checkpoint = Checkpoint::open(base.path()).unwrap();
    let (a, b) = (values(3, RANK * IN), values(4, OUT * RANK));
    let open = |config: &Value, tensors: &[(&str, &[usize], &[f32])]| {
        let dir = adapter(config, tensors);
        Adapter::open(dir.path(), &checkpoint)
    };
    let whole: [(&str, &[usize], &[f32]); 2] = [(A, &[RANK, IN], &a), (B, &[OUT, RANK], &b)];
    macro_rules! assert_error {
        ($result:expr, $variant:ident) => {
            match $result {
                Err(WeightsError::Adapter(AdapterError::$variant { .. })) => {}
                other => panic!("expected {}, got {other:?}", stringify!($variant)),
            }
        };
    }
    let with = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config
    };
    assert!(open(&config(), &whole).is_ok());
    assert_error!(open(&json!([]), &whole), Json);
    assert_error!(open(&with("r", json!("3")), &whole), Value);
    assert_error!(open(&with("peft_type", json!("IA3")), &whole), NotLora);
    assert_error!(open(&with("use_dora", json!(true)), &whole), NotPlain);
    assert_error!(open(&config(), &[]), Empty);
    assert_error!(open(&config(), &[(A, &[RANK, IN], &a)]), Unpaired);
    assert_error!(open(&config(), &[(B, &[OUT, RANK], &b)]), Unpaired);
    assert_error!(open(&with("target_modules", json!(["k_proj"])), &whole), NotTargeted);
    for name in
        ["lora_A.weight", "base_model.model.lm_head.weight", "base_model.model.x.lora_magnitude_vector"]
    {
        assert_error!(open(&config(), &[whole[0], whole[1], (name, &[1], &[0.0])]), UnknownTensor);
    }
    assert_error!(open(&with("r", json!(2)), &whole), Shape);
    assert_error!(open(&config(), &[(A, &[IN, RANK], &a), whole[1]]), Shape);
    assert_error!(open(&config(), &[whole[0], (B, &[RANK, OUT], &b)]), Shape);
    let other = |module: &str| {
        let name = |half| format!("base_model.model.model.{module}.lora_{half}.weight");
        let (first, second) = (name("A"), name("B"));
        open(
            &with("target_modules", json!("all-linear")),
            &[(&first, &[RANK, IN], &a), (&second, &[OUT, RANK], &b)],
        )
    };
    assert_error!(other("layers.7.self_attn.q_proj"), UnknownTarget);
    assert_error!(other("norm"), NotMatrix);

    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Adapter::open(empty.path(), &checkpoint), Err(WeightsError::Io { .. })));
}

/// A run that saved its adapter alone: the error says how to build it all the same.
#[test]
fn a_folder_with_nothing_but_an_adapter() {
    use miette::Diagnostic;
    let run = tempfile::tempdir().unwrap();
    std::fs::create_dir(run.path().join("lora_adapter")).unwrap();
    std::fs::write(run.path().join("action_head--latest_checkpoint.pt"), "").unwrap();
    let error = Checkpoint::open(run.path()).unwrap_err();
    assert!(matches!(error, WeightsError::AdapterOnly { .. }), "{error:?}");
    let help = error.help().unwrap().to_string();
    assert!(help.contains("base model") && help.contains("--lora"), "{help}");
}

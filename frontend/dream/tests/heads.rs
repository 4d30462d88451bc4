//! Heads beside a checkpoint: found, checked, and the same from either form of file. Each fault has its own error.

use dreamc_frontend::heads::head_tensors;
use dreamc_frontend::{HeadError, HeadKind, HeadPart, HeadRequest, HeadSet, ImportError, find_head_kind};
use dreamc_weights::Sources;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/fixtures");
const HIDDEN: u64 = 4;

fn request(kind: Option<HeadKind>, proprio_dim: Option<u64>) -> HeadRequest {
    HeadRequest { kind, action_dim: 7, proprio_dim, l1_as_ddim: false }
}

macro_rules! assert_error {
    ($result:expr, $($variant:tt)+) => {
        match $result {
            Err(ImportError::Head(HeadError::$($variant)+)) => {}
            other => panic!("expected {}, got {other:?}", stringify!($($variant)+)),
        }
    };
}

/// Files of one form of the tiny model, in a folder of their own.
fn fixture(objective: &str, ending: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for objective in [objective, "proprio"] {
        let from: PathBuf = [FIXTURES, "tiny-vla", "heads", objective].iter().collect();
        for entry in std::fs::read_dir(from).expect("the fixture") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == ending) {
                std::fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("a copy");
            }
        }
    }
    dir
}

#[test]
fn both_forms_give_the_same_tensors() {
    for (objective, kind, count) in [
        ("l1_regression", HeadKind::L1, 20),
        ("flow_matching", HeadKind::Flow, 24),
        ("diffusion", HeadKind::Ddim, 24),
    ] {
        let dirs = ["pt", "safetensors"].map(|ending| fixture(objective, ending));
        let open = |dir: &TempDir| HeadSet::open(dir.path(), 24, &request(Some(kind), Some(8))).unwrap();
        let [archives, plain] = [open(&dirs[0]), open(&dirs[1])];
        let names: Vec<&str> = archives.names().collect();
        assert_eq!(names, plain.names().collect::<Vec<_>>());
        assert_eq!(names.len(), count);
        for name in [
            "action_head.fc1.weight",
            "action_head.layer_norm1.weight",
            "proprio_projector.fc1.weight",
            "action_head.mlp_resnet_blocks.0.ffn.1.weight",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        assert_eq!(names.contains(&"noisy_action_projector.fc1.weight"), kind.from_noise());
        for name in names {
            let [a, b] = [archives.get(name).unwrap(), plain.get(name).unwrap()];
            assert_eq!((a.name, a.dtype, a.shape, a.bytes), (name, b.dtype, b.shape, b.bytes));
        }
        assert_eq!(find_head_kind(dirs[0].path()).unwrap(), Some(kind));
        let mut values = [0.0; 7];
        Sources::new(&archives).read("action_head.fc2.bias", 0, &mut values).unwrap();
        assert!(values.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn heads_beside_the_trained_checkpoints() {
    for (name, kind) in [("tabletop-vla-flow", HeadKind::Flow), ("tabletop-vla-l1", HeadKind::L1)] {
        let dir = Path::new(FIXTURES).join(name).join("checkpoint");
        assert_eq!(find_head_kind(&dir).unwrap(), Some(kind));
        let set = HeadSet::open(&dir, 128, &request(Some(kind), Some(2))).unwrap();
        assert_eq!(set.files().count(), if kind.from_noise() { 3 } else { 2 });
    }
    let dir = Path::new(FIXTURES).join("tabletop-vla/checkpoint");
    assert_eq!(find_head_kind(&dir).unwrap(), None);
    assert_eq!(HeadSet::open(&dir, 128, &request(None, None)).unwrap().names().count(), 0);
}

type Tensors = Vec<(String, Vec<u64>)>;

fn save(dir: &Path, file: &str, tensors: &Tensors) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>() * 2;
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end as usize, 0);
    std::fs::write(dir.join(file), bytes).expect("the directory is writable");
}

/// A folder of a flow head and both projectors.
fn folder(change: impl Fn(HeadPart, &mut Tensors)) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (part, inputs) in HeadPart::ALL.into_iter().zip([7, 1, 8]) {
        let mut tensors = head_tensors(part, HeadKind::Flow, HIDDEN, inputs).expect("shapes");
        change(part, &mut tensors);
        save(dir.path(), &format!("{}.safetensors", part.name()), &tensors);
    }
    dir
}

fn open(dir: &Path, kind: HeadKind) -> Result<HeadSet, ImportError> {
    HeadSet::open(dir, HIDDEN, &request(Some(kind), Some(8)))
}

#[test]
fn folders() {
    let dir = folder(|_, _| {});
    let file = |part: HeadPart| dir.path().join(format!("{}.safetensors", part.name()));
    assert_eq!(open(dir.path(), HeadKind::Flow).unwrap().names().count(), 24);
    assert_error!(open(dir.path(), HeadKind::L1), Kind { found: "flow", expected: "l1", .. });
    assert_error!(open(dir.path(), HeadKind::Ddim), Kind { .. });
    assert_error!(open(&dir.path().join("absent"), HeadKind::Flow), Folder { .. });

    std::fs::copy(file(HeadPart::ActionHead), dir.path().join("action_head--1_checkpoint.pt")).unwrap();
    let found = open(dir.path(), HeadKind::Flow);
    let said = found.as_ref().unwrap_err().to_string();
    assert!(
        said.contains("action_head--1_checkpoint.pt") && said.contains("action_head.safetensors"),
        "{said}"
    );
    assert_error!(found, Several { part: "action_head", .. });
    std::fs::remove_file(dir.path().join("action_head--1_checkpoint.pt")).unwrap();

    std::fs::write(dir.path().join("vision_backbone--latest_checkpoint.pt"), "").unwrap();
    assert_error!(open(dir.path(), HeadKind::Flow), Film { .. });
    std::fs::remove_file(dir.path().join("vision_backbone--latest_checkpoint.pt")).unwrap();

    std::fs::remove_file(file(HeadPart::NoisyActionProjector)).unwrap();
    assert_error!(open(dir.path(), HeadKind::Flow), NoNoiseProjector { kind: "flow", .. });
    std::fs::remove_file(file(HeadPart::ProprioProjector)).unwrap();
    assert_error!(
        HeadSet::open(dir.path(), HIDDEN, &request(None, Some(8))),
        Absent { part: "proprio_projector", .. }
    );
    std::fs::remove_file(file(HeadPart::ActionHead)).unwrap();
    assert_error!(open(dir.path(), HeadKind::Flow), Absent { part: "action_head", .. });
}

#[test]
fn names_and_shapes() {
    let with = |change: &dyn Fn(HeadPart, &mut Tensors)| open(folder(change).path(), HeadKind::Flow);
    let head = |change: &dyn Fn(&mut Tensors)| {
        with(&|part, tensors| {
            if part == HeadPart::ActionHead {
                change(tensors);
            }
        })
    };
    // The mode's own statistics, or another robot's.
    let dir = folder(|_, _| {});
    let other = HeadRequest { action_dim: 14, ..request(Some(HeadKind::Flow), Some(8)) };
    assert_error!(HeadSet::open(dir.path(), HIDDEN, &other), ActionDim { found: 7, expected: 14, .. });
    let other = request(Some(HeadKind::Flow), Some(7));
    assert_error!(HeadSet::open(dir.path(), HIDDEN, &other), ProprioDim { found: 8, expected: 7, .. });
    let none = HeadRequest { action_dim: 0, ..request(Some(HeadKind::Flow), None) };
    assert_error!(HeadSet::open(dir.path(), HIDDEN, &none), ActionDim { .. });
    assert_error!(
        HeadSet::open(dir.path(), HIDDEN + 1, &request(Some(HeadKind::Flow), None)),
        Tensors { .. }
    );

    assert_error!(head(&|t| t.clear()), UnknownKind { .. });
    assert_error!(head(&|t| t.iter_mut().for_each(|(n, _)| n.insert_str(0, "x."))), UnknownKind { .. });
    let found = head(&|t| {
        t.retain(|(name, _)| !name.ends_with("layer_norm2.bias"));
        t.push(("flow_predictor.mlp_resnet.z".to_owned(), vec![1]));
        t[2].1 = vec![HIDDEN, 6 * HIDDEN];
    });
    let Err(ImportError::Head(HeadError::Tensors { problems, .. })) = found else { panic!("{found:?}") };
    assert_eq!((problems.missing.len(), problems.extra.len(), problems.misshapen.len()), (1, 1, 1));
    assert_eq!(problems.missing, ["flow_predictor.mlp_resnet.layer_norm2.bias"]);
    // The projector of noise takes one number.
    let found = with(&|part, tensors| {
        if part == HeadPart::NoisyActionProjector {
            tensors[0].1 = vec![HIDDEN, 2];
        }
    });
    assert_error!(found, Tensors { .. });
}

/// The reference renames such a head unasked; here it must be asked for.
#[test]
fn an_l1_head_taken_for_ddim() {
    let dir = fixture("l1_regression", "safetensors");
    let noise = fixture("diffusion", "safetensors");
    let projector = "noisy_action_projector.safetensors";
    std::fs::copy(noise.path().join(projector), dir.path().join(projector)).unwrap();
    let plain = request(Some(HeadKind::Ddim), None);
    assert_error!(HeadSet::open(dir.path(), 24, &plain), Kind { found: "l1", expected: "ddim", .. });
    let asked = HeadRequest { l1_as_ddim: true, ..plain };
    assert_eq!(HeadSet::open(dir.path(), 24, &asked).unwrap().names().count(), 20);
}

#[test]
fn names_of_kinds() {
    for kind in HeadKind::ALL {
        assert_eq!(HeadKind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(HeadKind::from_name("discrete"), None);
}

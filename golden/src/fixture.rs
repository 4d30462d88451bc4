//! Reads a folder of `fixtures/`.

use dream::{Grid, Patches};
use dreamc_interp::{Data, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Names the folder of all fixtures, for a harness that runs elsewhere than it was built.
pub const FOLDER_VARIABLE: &str = "DREAM_FIXTURES";

/// A folder with a checkpoint, `golden.json` and `golden.safetensors`.
pub struct Fixture {
    dir: PathBuf,
    /// Settings and tolerances.
    pub json: Value,
    tensors: Vec<u8>,
}

impl Fixture {
    /// Opens `fixtures/<name>`.
    pub fn open(name: &str) -> Fixture {
        let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let dir = std::env::var_os(FOLDER_VARIABLE).map_or_else(here, PathBuf::from).join(name);
        let read = |file: &str| {
            let path = dir.join(file);
            std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let json = serde_json::from_slice(&read("golden.json")).expect("golden.json is JSON");
        let tensors = read("golden.safetensors");
        Fixture { dir, json, tensors }
    }

    /// A file of the fixture.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// A golden tensor if there is one: i64 as i32, f32 as it is.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        let file = SafeTensors::deserialize(&self.tensors).expect("golden.safetensors is sound");
        let view = file.tensor(name).ok()?;
        let bytes = view.data();
        let data = match view.dtype() {
            Dtype::F32 => {
                Data::F32(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            Dtype::I64 => {
                let narrow = |b: &[u8; 8]| i32::try_from(i64::from_le_bytes(*b)).expect("ids fit i32");
                Data::I32(bytes.as_chunks::<8>().0.iter().map(narrow).collect())
            }
            other => panic!("golden tensor `{name}` is {other:?}"),
        };
        Some(Tensor { dims: view.shape().to_vec(), data })
    }

    /// A golden tensor that must be there.
    pub fn tensor(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| panic!("there is no golden tensor `{name}`"))
    }

    /// A golden tensor in f64.
    pub fn doubles(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.tensors).expect("golden.safetensors is sound");
        let view = file.tensor(name).unwrap_or_else(|e| panic!("golden tensor `{name}`: {e}"));
        assert_eq!(view.dtype(), Dtype::F64, "golden tensor `{name}`");
        view.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }

    /// A golden tensor of grids, `[images, 3]`.
    pub fn grids(&self, name: &str) -> Vec<Grid> {
        let rows = rows(&self.tensor(name)).into_iter();
        let grid = |row: Vec<i32>| Grid::from_thw([row[0].into(), row[1].into(), row[2].into()]);
        rows.map(|row| grid(row).expect("a recorded grid is sound")).collect()
    }

    /// Recorded patches, divided over images with the grids of another golden tensor.
    pub fn patches(&self, name: &str, grids: &str) -> Vec<Patches> {
        let all = self.tensor(name);
        let mut values = all.floats();
        let mut cut = |grid: Grid| {
            let (own, rest) = values.split_at(grid.patches() * all.columns());
            values = rest;
            Patches { values: own.to_vec(), grid }
        };
        self.grids(grids).into_iter().map(&mut cut).collect()
    }

    /// A stated tolerance.
    pub fn tolerance(&self, key: &str) -> f32 {
        self.json["tolerance"][key].as_f64().expect("the fixture states its tolerances") as f32
    }

    /// Names of all golden tensors.
    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.tensors).expect("golden.safetensors is sound");
        file.names().into_iter().map(|n| n.to_owned()).collect()
    }

    /// Names of the cases under a key of `golden.json`.
    pub fn cases(&self, key: &str) -> Vec<String> {
        let cases = self.json[key].as_object().unwrap_or_else(|| panic!("golden.json has no `{key}`"));
        cases.keys().cloned().collect()
    }
}

/// The largest absolute difference where `counts` holds for the row (all dimensions but the last).
pub fn max_difference(found: &Tensor, wanted: &Tensor, counts: impl Fn(usize) -> bool) -> f32 {
    assert_eq!(found.dims, wanted.dims);
    let columns = found.columns();
    let pairs = found.floats().iter().zip(wanted.floats()).enumerate();
    let differences = pairs.filter(|(i, _)| counts(i / columns)).map(|(_, (a, b))| (a - b).abs());
    // A NaN must not hide: `max` would drop it.
    differences.fold(0.0, |max, d| if d.is_nan() || d > max { d } else { max })
}

/// Rows of a matrix of integers.
pub fn rows(tensor: &Tensor) -> Vec<Vec<i32>> {
    tensor.ints().chunks(tensor.columns()).map(<[i32]>::to_vec).collect()
}

/// The larger of two deviations; one that is no number stays.
pub fn worse(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

/// The last `count` rows of each batch of `[B, S, N]`.
pub fn last_rows(value: &Tensor, count: usize) -> Tensor {
    let [batch, length, columns] = value.dims[..] else { panic!("{:?} are no rows of a batch", value.dims) };
    let kept = value.floats().chunks(length * columns).flat_map(|b| &b[(length - count) * columns..]);
    Tensor::f32(&[batch, count, columns], kept.copied().collect())
}

/// Asserts that a deviation is within its limit.
pub fn assert_within(off: f32, limit: f32, what: &str) {
    note(off, limit, what);
    assert!(off <= limit, "{what} is off by {off}; the fixture allows {limit}");
}

/// The deviation that comes closest to its limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// What was judged.
    pub what: String,
    /// How far it is off.
    pub off: f32,
    /// What is allowed.
    pub limit: f32,
}

thread_local! {
    static WORST: RefCell<Option<Deviation>> = const { RefCell::new(None) };
}

/// Remembers a deviation if none before came closer to its limit.
pub(crate) fn note(off: f32, limit: f32, what: &str) {
    WORST.with_borrow_mut(|worst| {
        if worst.as_ref().is_none_or(|w| off * w.limit > w.off * limit) {
            *worst = Some(Deviation { what: what.to_owned(), off, limit });
        }
    });
}

/// The worst deviation that this thread has judged since it was last asked.
pub fn take_worst() -> Option<Deviation> {
    WORST.take()
}

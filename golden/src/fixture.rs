//! Reads a folder of `fixtures/`.

use dreamc_interp::{Data, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::{Path, PathBuf};

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
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
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

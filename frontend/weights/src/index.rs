//! `model.safetensors.index.json`: which shard has which tensor.

use crate::{INDEX_FILE, WeightsError, read_limited};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// The longest index read. That of a 7B model has under 64 KiB.
const INDEX_BYTES_MAX: u64 = 16 << 20;

/// The parsed index.
#[derive(Debug)]
pub(crate) struct Index {
    /// Tensor name to shard file name.
    pub(crate) weight_map: BTreeMap<String, String>,
    /// The sum of the tensors' sizes, where the index gives it.
    pub(crate) total_size: Option<u64>,
}

impl Index {
    /// Reads the index of a checkpoint directory.
    pub(crate) fn read(dir: &Path) -> Result<Index, WeightsError> {
        let path = dir.join(INDEX_FILE);
        let text = read_limited(&path, INDEX_BYTES_MAX)?;
        let malformed = |reason: String| WeightsError::IndexMalformed { path: path.clone(), reason };
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
        let map = json
            .get("weight_map")
            .and_then(|v| v.as_object())
            .ok_or_else(|| malformed("`weight_map` is missing or not an object".to_owned()))?;
        if map.is_empty() {
            return Err(malformed("`weight_map` is empty".to_owned()));
        }
        let mut weight_map = BTreeMap::new();
        for (tensor, file) in map {
            let file = file
                .as_str()
                .ok_or_else(|| malformed(format!("`weight_map` of `{tensor}` is not a string")))?;
            if !is_plain(file) {
                return Err(WeightsError::ShardName { tensor: tensor.clone(), file: file.to_owned() });
            }
            weight_map.insert(tensor.clone(), file.to_owned());
        }
        // Some writers store the size as a float.
        let total_size = json
            .get("metadata")
            .and_then(|m| m.get("total_size"))
            .and_then(|v| v.as_u64().or_else(|| v.as_f64().map(|f| f as u64)));
        Ok(Index { weight_map, total_size })
    }
}

/// Whether a name is one ordinary path component: an index must not reach out of its directory.
fn is_plain(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    matches!(parts.next(), Some(Component::Normal(name)) if name == file)
        && parts.next().is_none()
        && !file.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn plain_names_only() {
        assert!(is_plain("model-00001-of-00004.safetensors"));
        for bad in ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a/", "x\0"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}

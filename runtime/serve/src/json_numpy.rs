//! Arrays in JSON, as json-numpy writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A list of numbers as the text of an array of float64.
pub(crate) fn floats(list: &[f64]) -> String {
    let bytes: Vec<u8> = list.iter().flat_map(|x| x.to_le_bytes()).collect();
    let data = STANDARD.encode(bytes);
    format!("{{\"__numpy__\": \"{data}\", \"dtype\": \"<f8\", \"shape\": [{}]}}", list.len())
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_json_numpy_writes_it() {
        let text = r#"{"__numpy__": "AAAAAAAA8D8AAAAAAAAAQA==", "dtype": "<f8", "shape": [2]}"#;
        assert_eq!(super::floats(&[1.0, 2.0]), text);
    }
}

//! Arrays of numpy as the protocols carry them, and pictures among them.

use crate::refusal::Refusal;
use crate::value::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dream::Image;
use std::borrow::Cow;

/// An array, or a scalar of numpy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array<'a> {
    pub(crate) kind: Kind,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// The kinds of elements that are taken, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U8,
    Bool,
    I32,
    I64,
    F32,
    F64,
}

impl Kind {
    /// By numpy's descriptor.
    fn of(descriptor: &str) -> Option<Kind> {
        Some(match descriptor {
            "|u1" | "u1" | "uint8" => Kind::U8,
            "|b1" | "b1" | "bool" => Kind::Bool,
            "<i4" | "i4" | "int32" => Kind::I32,
            "<i8" | "i8" | "int64" => Kind::I64,
            "<f4" | "f4" | "float32" => Kind::F32,
            "<f8" | "f8" | "float64" => Kind::F64,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Kind::U8 | Kind::Bool => 1,
            Kind::I32 | Kind::F32 => 4,
            Kind::I64 | Kind::F64 => 8,
        }
    }

    /// Appends a number as an element; nothing where it is none of this kind.
    pub(crate) fn write(self, value: &Value<'_>, bytes: &mut Vec<u8>) -> Option<()> {
        match (self, value) {
            (Kind::U8, Value::Integer(n)) => bytes.push(u8::try_from(*n).ok()?),
            (Kind::Bool, Value::Bool(b)) => bytes.push(u8::from(*b)),
            (Kind::I32, Value::Integer(n)) => bytes.extend(i32::try_from(*n).ok()?.to_le_bytes()),
            (Kind::I64, Value::Integer(n)) => bytes.extend(n.to_le_bytes()),
            (Kind::F32, value) => bytes.extend((value.number()? as f32).to_le_bytes()),
            (Kind::F64, value) => bytes.extend(value.number()?.to_le_bytes()),
            (Kind::U8 | Kind::Bool | Kind::I32 | Kind::I64, _) => return None,
        }
        Some(())
    }
}

/// Names of an array's parts in a map: what says that it is one, and where data, type and shape are.
const FORMS: [[&str; 4]; 3] = [
    // json-numpy.
    ["__numpy__", "__numpy__", "dtype", "shape"],
    // openpi and vla-eval.
    ["__ndarray__", "data", "dtype", "shape"],
    // vLLM-Omni's clients.
    ["nd", "data", "type", "shape"],
];

impl<'a> Array<'a> {
    /// The array that a value carries; nothing if it carries none.
    ///
    /// # Errors
    ///
    /// Names the field `name`, and what is wrong with its array.
    pub(crate) fn of(name: &str, value: &Value<'a>) -> Result<Option<Array<'a>>, Refusal> {
        let form = FORMS.iter().find(|form| value.get(form[0]).is_some());
        let Some([_, data, dtype, shape]) = form else { return Ok(None) };
        let wrong = |what: String| Refusal::field(name, what, "an array of numbers as numpy has it");
        let descriptor = match value.get(dtype) {
            Some(Value::Text(text)) => text.as_ref(),
            Some(other) => return Err(wrong(format!("its `{dtype}` is {}", other.kind()))),
            None => return Err(wrong(format!("it has no `{dtype}`"))),
        };
        let kind = Kind::of(descriptor).ok_or_else(|| {
            wrong(format!(
                "its elements are `{descriptor}`, none of uint8, bool, int32, int64, float32, float64"
            ))
        })?;
        let Some(Value::List(sides)) = value.get(shape) else {
            return Err(wrong("it has no `shape`".to_owned()));
        };
        let side = |side: &Value<'_>| match side {
            Value::Integer(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let shape: Option<Vec<usize>> = sides.iter().map(side).collect();
        let shape =
            shape.filter(|shape| shape.len() <= 4).ok_or_else(|| wrong("its shape is none".to_owned()))?;
        let bytes = match value.get(data) {
            Some(Value::Bytes(bytes)) => bytes.clone(),
            Some(Value::Text(text)) if *data == "__numpy__" => Cow::Owned(
                STANDARD
                    .decode(text.as_bytes())
                    .map_err(|error| wrong(format!("its bytes are no base64: {error}")))?,
            ),
            Some(other) => return Err(wrong(format!("its `{data}` is {}", other.kind()))),
            None => return Err(wrong(format!("it has no `{data}`"))),
        };
        let elements = shape.iter().try_fold(kind.bytes(), |n, side| n.checked_mul(*side));
        if elements != Some(bytes.len()) {
            return Err(wrong(format!(
                "it has {} bytes, which a {descriptor} {shape:?} has not",
                bytes.len()
            )));
        }
        Ok(Some(Array { kind, shape, bytes }))
    }

    /// Its elements as numbers.
    pub(crate) fn numbers(&self) -> Vec<f64> {
        let bytes = self.bytes.as_ref();
        match self.kind {
            Kind::U8 | Kind::Bool => bytes.iter().map(|b| f64::from(*b)).collect(),
            Kind::I32 => bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
            Kind::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            Kind::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Kind::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        }
    }

    /// Its elements as the numbers of a field, where it has one dimension and they are finite.
    ///
    /// # Errors
    ///
    /// Names the field, and what is wrong with it.
    pub(crate) fn list(&self, name: &str, expected: &str) -> Result<Vec<f64>, Refusal> {
        match self.shape.len() {
            1 => finite(name, self.numbers()),
            _ => Err(Refusal::field(name, format!("it is {:?}", self.shape), expected)),
        }
    }

    /// It as a picture: uint8 `[height, width, 3]`, or channels first, or numbers between 0 and 1.
    ///
    /// # Errors
    ///
    /// Names the field `name`, and what is wrong with its picture.
    pub(crate) fn image(self, name: &str) -> Result<Image, Refusal> {
        const EXPECTED: &str = "uint8 [height, width, 3], red first";
        let wrong = |what: String| Refusal::field(name, what, EXPECTED);
        let [a, b, c] = self.shape[..] else { return Err(wrong(format!("it is {:?}", self.shape))) };
        let (first, [height, width]) = match (a, c) {
            (_, 3) => (false, [a, b]),
            (3, _) => (true, [b, c]),
            _ => return Err(wrong(format!("it is [{a}, {b}, {c}]"))),
        };
        let pixels: Vec<u8> = match self.kind {
            Kind::U8 => self.bytes.into_owned(),
            Kind::F32 | Kind::F64 => {
                let numbers = self.numbers();
                if let Some(x) = numbers.iter().find(|x| !(0.0..=1.0).contains(*x)) {
                    return Err(wrong(format!("it has {x} where numbers are between 0 and 1")));
                }
                numbers.iter().map(|x| (255.0 * x) as u8).collect()
            }
            Kind::Bool | Kind::I32 | Kind::I64 => {
                return Err(wrong(format!("its elements are {:?}", self.kind)));
            }
        };
        let pixels = if first {
            let plane = height * width;
            (0..plane).flat_map(|i| [pixels[i], pixels[plane + i], pixels[2 * plane + i]]).collect()
        } else {
            pixels
        };
        let sides = [width, height].map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        sized(name, Image::from_rgb8(sides[0], sides[1], pixels).map_err(|error| wrong(error.to_string()))?)
    }
}

/// Largest side of an image.
const SIDE_MAX: u32 = 8192;

/// An image, if it is not too large.
///
/// # Errors
///
/// Names the field.
pub(crate) fn sized(name: &str, image: Image) -> Result<Image, Refusal> {
    let [width, height] = [image.width(), image.height()];
    match width.max(height) <= SIDE_MAX {
        true => Ok(image),
        false => {
            let expected = format!("at most {SIDE_MAX} pixels a side");
            Err(Refusal::field(name, format!("it is {width}x{height}"), &expected))
        }
    }
}

/// Numbers of a field: an array of one dimension, or a list.
///
/// # Errors
///
/// Names the field, and what is wrong with it.
pub(crate) fn numbers(name: &str, value: &Value<'_>, expected: &str) -> Result<Vec<f64>, Refusal> {
    let list = match (Array::of(name, value)?, value) {
        (Some(array), _) => return array.list(name, expected),
        (None, Value::List(list)) => {
            let numbers: Option<Vec<f64>> = list.iter().map(Value::number).collect();
            numbers.ok_or_else(|| Refusal::field(name, "not all of it are numbers".to_owned(), expected))?
        }
        (None, other) => return Err(Refusal::field(name, format!("it is {}", other.kind()), expected)),
    };
    finite(name, list)
}

fn finite(name: &str, list: Vec<f64>) -> Result<Vec<f64>, Refusal> {
    match list.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(Refusal::field(name, format!("it has {x}"), "numbers that are finite")),
        None => Ok(list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Option<Array<'static>>, Refusal> {
        let text: &'static str = text.to_owned().leak();
        Array::of("x", &Value::from_json(text.as_bytes()).unwrap())
    }

    #[test]
    fn json_numpy() {
        let text = r#"{"__numpy__": "AAAAAAAA8D8AAAAAAAAAQA==", "dtype": "<f8", "shape": [2]}"#;
        assert_eq!(json(text).unwrap().unwrap().numbers(), [1.0, 2.0]);
        assert_eq!(json("[1, 2]").unwrap(), None);
        for (text, what) in [
            (r#"{"__numpy__": "!", "dtype": "|u1", "shape": [1]}"#, "no base64"),
            (r#"{"__numpy__": "AAAA", "dtype": "|u1", "shape": [4]}"#, "3 bytes"),
            (r#"{"__numpy__": "AAAA", "dtype": "<c8", "shape": [3]}"#, "`<c8`"),
            (r#"{"__numpy__": "AAAA", "dtype": [["a", "<f4"]], "shape": [3]}"#, "`dtype` is a list"),
            (r#"{"__numpy__": "AAAA", "dtype": "|u1", "shape": [-3]}"#, "shape is none"),
            (r#"{"__numpy__": "AAAA", "dtype": "|u1", "shape": [4611686018427387904, 4]}"#, "3 bytes"),
            (r#"{"__numpy__": "AAAA", "dtype": "|u1"}"#, "no `shape`"),
        ] {
            let error = json(text).unwrap_err();
            assert!(error.message.contains(what), "{error:?}");
        }
    }

    #[test]
    fn pictures() {
        let array = |kind, shape: &[usize], bytes: &[u8]| Array {
            kind,
            shape: shape.to_vec(),
            bytes: bytes.to_vec().into(),
        };
        let rows = array(Kind::U8, &[1, 2, 3], &[1, 2, 3, 4, 5, 6]).image("x").unwrap();
        assert_eq!((rows.width(), rows.height(), rows.pixels()), (2, 1, &[1, 2, 3, 4, 5, 6][..]));
        let planes = array(Kind::U8, &[3, 1, 2], &[1, 4, 2, 5, 3, 6]).image("x").unwrap();
        assert_eq!(planes, rows);
        let floats: Vec<u8> = [0.0_f32, 0.5, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(array(Kind::F32, &[3, 1, 1], &floats).image("x").unwrap().pixels(), [0, 127, 255]);
        for (array, what) in [
            (array(Kind::U8, &[2, 2], &[0; 4]), "[2, 2]"),
            (array(Kind::U8, &[2, 2, 4], &[0; 16]), "[2, 2, 4]"),
            (array(Kind::U8, &[0, 2, 3], &[]), "0"),
            (array(Kind::I64, &[1, 1, 3], &[0; 24]), "I64"),
            (array(Kind::F32, &[1, 1, 3], &[0xff; 12]), "NaN"),
        ] {
            let error = array.image("image").unwrap_err();
            assert!(error.message.contains(what) && error.param.as_deref() == Some("image"), "{error:?}");
        }
    }
}

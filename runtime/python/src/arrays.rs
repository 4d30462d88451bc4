//! Arrays of Python as the runtime takes them. Pixels are borrowed where they lie as they must.
#![allow(unsafe_code, reason = "the boundary to another language")]

use crate::failure::Failure;
use dream::Image;
use numpy::{
    PyArray2, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::Arc;

/// Images of a call, and the arrays that some of them borrow.
pub(crate) struct Images<'py> {
    pub(crate) images: Vec<Image>,
    _borrowed: Vec<PyReadonlyArrayDyn<'py, u8>>,
}

/// Pixels of an array that outlives the call.
struct Pixels {
    first: *const u8,
    bytes: usize,
}

// SAFETY: it is a list of bytes that nobody owns here; who may write to them says the call that made it.
unsafe impl Send for Pixels {}
// SAFETY: as above; it is only read.
unsafe impl Sync for Pixels {}

impl AsRef<[u8]> for Pixels {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Images` holds the array, whose elements these are, longer than any image of it.
        unsafe { std::slice::from_raw_parts(self.first, self.bytes) }
    }
}

/// A list of images, or a single one.
pub(crate) fn images<'py>(given: &Bound<'py, PyAny>) -> Result<Images<'py>, Failure> {
    let single = is_array(given)?;
    let list: Vec<Bound<'py, PyAny>> = if single {
        vec![given.clone()]
    } else {
        let items = given.try_iter().map_err(|_| {
            Failure::argument(format!(
                "images is a {}; it must be a list of uint8 arrays [height, width, 3]",
                kind(given)
            ))
        })?;
        items.collect::<PyResult<_>>()?
    };
    let mut all = Images { images: Vec::new(), _borrowed: Vec::new() };
    for (index, given) in list.iter().enumerate() {
        let (image, borrowed) = image(index, given)?;
        all.images.push(image);
        all._borrowed.extend(borrowed);
    }
    Ok(all)
}

fn image<'py>(
    index: usize,
    given: &Bound<'py, PyAny>,
) -> Result<(Image, Option<PyReadonlyArrayDyn<'py, u8>>), Failure> {
    let wrong = |text: String| Failure::argument(format!("image {index}: {text}"));
    let array = as_array(given).map_err(|error| match error {
        Failure::Said(_, text) => wrong(text),
        raised @ Failure::Raised(_) => raised,
    })?;
    let dims = array.shape().to_vec();
    let Ok(pixels) = array.cast::<PyArrayDyn<u8>>() else {
        let dtype = array.dtype().to_string();
        let hint = match dtype.as_str() {
            "float16" | "float32" | "float64" => {
                "numbers between 0 and 1 become pixels by `(255 * image).round().astype(\"uint8\")`"
            }
            "object" => "it is no array of numbers",
            _ => "convert it by `.astype(\"uint8\")`",
        };
        return Err(wrong(format!("its elements are {dtype}; they must be uint8: {hint}")));
    };
    let [height, width, channels] = dims[..] else {
        let hint = if dims.len() == 2 {
            "repeat a grey one over the colours, by `numpy.stack([image] * 3, axis=-1)`"
        } else {
            "give the views as a list"
        };
        return Err(wrong(format!("it is {dims:?}; it must be [height, width, 3]: {hint}")));
    };
    if channels != 3 && channels != 4 {
        let hint = if height == 3 { ": turn it over by `image.transpose(1, 2, 0)`" } else { "" };
        return Err(wrong(format!("it is {dims:?}; it must be [height, width, 3]{hint}")));
    }
    let sides = [width, height].map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    let made = |pixels: Arc<dyn AsRef<[u8]> + Send + Sync>| {
        Image::shared(sides[0], sides[1], pixels).map_err(|e| Failure::from(dream::Error::from(e)))
    };
    let read = pixels.try_readonly().map_err(|error| wrong(error.to_string()))?;
    if channels == 3 && read.is_c_contiguous() {
        let bytes = read.as_slice().map_err(|error| wrong(error.to_string()))?;
        let pixels = Pixels { first: bytes.as_ptr(), bytes: bytes.len() };
        let image = made(Arc::new(pixels)).map_err(|error| named(error, &wrong))?;
        return Ok((image, Some(read)));
    }
    let list: Vec<u8> = read.as_array().iter().copied().collect();
    let opaque = list.chunks(channels).flat_map(|pixel| pixel[..3].to_vec());
    Ok((made(Arc::new(opaque.collect::<Vec<u8>>())).map_err(|error| named(error, &wrong))?, None))
}

fn named(error: Failure, wrong: &dyn Fn(String) -> Failure) -> Failure {
    match error {
        Failure::Said(_, text) => wrong(text),
        raised @ Failure::Raised(_) => raised,
    }
}

/// Numbers as 64 bits, of one dimension.
pub(crate) fn vector(name: &str, given: &Bound<'_, PyAny>) -> Result<Vec<f64>, Failure> {
    let array = numbers(name, given, "float64")?;
    let array = array.cast::<PyArrayDyn<f64>>().map_err(PyErr::from)?.readonly();
    let dims = array.shape();
    if dims.len() != 1 {
        return Err(Failure::argument(format!("{name} is {dims:?}; it must be a list of numbers")));
    }
    Ok(array.as_array().iter().copied().collect())
}

/// Numbers as 32 bits, of the shape `[rows, columns]`; a 1 before it does no harm.
pub(crate) fn matrix(
    name: &str,
    given: &Bound<'_, PyAny>,
    [rows, columns]: [usize; 2],
) -> Result<Vec<f32>, Failure> {
    let array = numbers(name, given, "float32")?;
    let array = array.cast::<PyArrayDyn<f32>>().map_err(PyErr::from)?.readonly();
    let dims = array.shape();
    if dims != [rows, columns] && dims != [1, rows, columns] {
        return Err(Failure::argument(format!("{name} is {dims:?}; it must be [{rows}, {columns}]")));
    }
    Ok(array.as_array().iter().copied().collect())
}

/// An array that a result is written to: float64 `[rows, columns]`, C order, writable.
pub(crate) fn out<'py>(
    given: &Bound<'py, PyAny>,
    [rows, columns]: [usize; 2],
) -> Result<Bound<'py, PyArray2<f64>>, Failure> {
    let wrong = |found: String| {
        Failure::argument(format!(
            "out is {found}; it must be a float64 array [{rows}, {columns}] in C order that may be written to"
        ))
    };
    let array = given.cast::<PyUntypedArray>().map_err(|_| wrong(format!("a {}", kind(given))))?;
    let (dims, dtype) = (array.shape().to_vec(), array.dtype().to_string());
    let found = given.cast::<PyArray2<f64>>().map_err(|_| wrong(format!("{dtype} {dims:?}")))?;
    if dims != [rows, columns] || !found.is_c_contiguous() || found.try_readwrite().is_err() {
        return Err(wrong(format!("{dtype} {dims:?}")));
    }
    Ok(found.clone())
}

/// An array of numbers in `dtype`, as numpy converts them.
fn numbers<'py>(
    name: &str,
    given: &Bound<'py, PyAny>,
    dtype: &'static str,
) -> Result<Bound<'py, PyAny>, Failure> {
    let numpy = given.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (given, PyString::new(given.py(), dtype)));
    array.map_err(|error| {
        Failure::argument(format!("{name} is a {} that is no list of numbers: {error}", kind(given)))
    })
}

/// An array as numpy has it, by the protocols of those who have arrays: nothing of theirs is imported.
fn as_array<'py>(given: &Bound<'py, PyAny>) -> Result<Bound<'py, PyUntypedArray>, Failure> {
    if let Ok(array) = given.cast::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    let numpy = given.py().import("numpy")?;
    let has = |name| given.hasattr(name);
    let converted = if has("__array_interface__")? || has("__array__")? {
        numpy.call_method1("asarray", (given,))
    } else if has("__dlpack__")? {
        numpy.call_method1("from_dlpack", (given,))
    } else {
        return Err(Failure::argument(format!(
            "it is a {}; it must be a uint8 array [height, width, 3]",
            kind(given)
        )));
    };
    let array = converted.map_err(|error| Failure::argument(format!("it has no array: {error}")))?;
    Ok(array.cast_into::<PyUntypedArray>().map_err(PyErr::from)?)
}

/// Whether something is one array, and no list of them.
fn is_array(given: &Bound<'_, PyAny>) -> Result<bool, Failure> {
    let py = given.py();
    let names = [intern!(py, "__array_interface__"), intern!(py, "__array__"), intern!(py, "__dlpack__")];
    for name in names {
        if given.hasattr(name)? {
            return Ok(given.cast::<PyUntypedArray>().map_or(true, |array| array.ndim() < 4));
        }
    }
    Ok(false)
}

fn kind(given: &Bound<'_, PyAny>) -> String {
    given.get_type().name().map_or_else(|_| "thing".to_owned(), |name| name.to_string())
}

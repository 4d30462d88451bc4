//! What the caller gave: the one place where its pointers are read and written.
#![allow(unsafe_code, reason = "pointers of another language")]

use crate::failure::Failure;
use crate::types::{self, ActOptions, Actions, Generated, Info, Observation, OpenOptions, Prompt, Sampling};
use dream_rt::Image;
use dreamc_front::image::{IMAGE_PIXELS_MAX, IMAGE_SIDE_MAX};
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// A struct that begins with its size and may grow.
///
/// # Safety
///
/// `#[repr(C)]`, the first field is a `usize`, and the fields are numbers and pointers, so that any bytes are a value.
pub(crate) unsafe trait Versioned: Copy {
    /// As C calls it.
    const NAME: &'static str;
    /// Size of its first version: what every caller has. Never changes.
    const SIZE_MIN: usize;
}

macro_rules! versioned {
    ($($name:ident $c:literal $first:literal),*) => {$(
        // SAFETY: see `types`; that `size` comes first is asserted below.
        unsafe impl Versioned for $name {
            const NAME: &'static str = $c;
            const SIZE_MIN: usize = if size_of::<usize>() == 8 { $first } else { size_of::<$name>() };
        }
        const _: () = assert!(<$name as Versioned>::SIZE_MIN <= size_of::<$name>());
        const _: () = assert!(std::mem::offset_of!($name, size) == 0);
    )*};
}

versioned!(
    OpenOptions "dream_open_options" 16,
    Info "dream_info" 56,
    Observation "dream_observation" 48,
    ActOptions "dream_act_options" 32,
    Actions "dream_actions" 48,
    Prompt "dream_prompt" 40,
    Sampling "dream_sampling" 40,
    Generated "dream_generated" 32
);

/// Most bytes of a struct that a later version may have.
const STRUCT_BYTES_MAX: usize = 4096;

/// A struct of the caller, of which a later version's fields are zero.
///
/// # Safety
///
/// A pointer that is not null is readable for a `usize`, and for as many bytes as that says.
pub(crate) unsafe fn structure<T: Versioned>(pointer: *const T) -> Result<T, Failure> {
    // SAFETY: by the contract.
    let size = unsafe { size_of_given(pointer) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: `size` bytes are readable by the contract.
    let beyond = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if beyond.iter().any(|byte| *byte != 0) {
        let text =
            "asks for what this version does not have; use the header of this library, or zero the rest";
        return Err(Failure::argument(format!("`{}` {text}", T::NAME)));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both are valid for the smaller of the sizes, and apart; any bytes are a value of `T`.
    unsafe {
        pointer.cast::<u8>().copy_to_nonoverlapping(value.as_mut_ptr().cast(), known);
        Ok(value.assume_init())
    }
}

/// The same, where null means none.
///
/// # Safety
///
/// As [`structure`].
pub(crate) unsafe fn optional<T: Versioned>(pointer: *const T) -> Result<Option<T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: by the contract.
    unsafe { structure(pointer) }.map(Some)
}

/// How an artifact is to be opened, with the lengths to record.
///
/// # Safety
///
/// As [`structure`], and as [`list`] for what it points to.
pub(crate) unsafe fn open_options(
    pointer: *const OpenOptions,
) -> Result<Option<(OpenOptions, Vec<u32>)>, Failure> {
    // SAFETY: by the contract.
    let Some(options) = (unsafe { optional(pointer) })? else { return Ok(None) };
    // SAFETY: by the contract.
    let warm = unsafe { list(options.warm, options.warm_count, "warm") }?;
    Ok(Some((options, warm.to_vec())))
}

/// Puts a result where the caller wants it, as much of it as the caller's version has. `size` stays what it is.
///
/// # Safety
///
/// As [`structure`], and writable for as many bytes.
pub(crate) unsafe fn fill<T: Versioned>(pointer: *mut T, value: &T) -> Result<(), Failure> {
    // SAFETY: by the contract.
    let size = unsafe { size_of_given(pointer) }?;
    let start = size_of::<usize>();
    // SAFETY: both are valid from `start` to the smaller of the sizes, and apart, since `value` is ours.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<u8>().add(start);
        pointer.cast::<u8>().add(start).copy_from_nonoverlapping(from, size.min(size_of::<T>()) - start);
    }
    Ok(())
}

/// What `size` says, checked.
///
/// # Safety
///
/// A pointer that is not null is readable for a `usize`.
pub(crate) unsafe fn size_of_given<T: Versioned>(pointer: *const T) -> Result<usize, Failure> {
    // SAFETY: not null, and aligned as `T` is, of which it is the first field; readable by the contract.
    let size = unsafe { not_null(pointer, T::NAME)?.cast::<usize>().read() };
    if !(T::SIZE_MIN..=STRUCT_BYTES_MAX).contains(&size) {
        let name = T::NAME;
        return Err(Failure::argument(format!("`size` of `{name}` is {size}; set it to sizeof({name})")));
    }
    Ok(size)
}

/// A pointer that can be read as `T` as far as its address tells.
fn not_null<T>(pointer: *const T, name: &str) -> Result<*const T, Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("`{name}` is null")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("`{name}` is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(pointer)
}

/// A text that ends with a zero byte.
///
/// # Safety
///
/// A pointer that is not null is readable up to a zero byte, and nobody writes there during the call.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str, Failure> {
    // SAFETY: not null; the rest by the contract.
    let text = unsafe { CStr::from_ptr(not_null(pointer, name)?) };
    text.to_str().map_err(|error| {
        Failure::argument(format!(
            "`{name}` is not UTF-8: byte {} is part of no character",
            error.valid_up_to()
        ))
    })
}

/// A list of `count` values; null is an empty one.
///
/// # Safety
///
/// A pointer that is not null is readable for `count` values, and nobody writes there during the call.
pub(crate) unsafe fn list<'a, T: Copy>(
    pointer: *const T,
    count: usize,
    name: &str,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    let pointer = not_null(pointer, name)?;
    fits::<T>(count, name)?;
    // SAFETY: not null, aligned, of a size that there can be; the rest by the contract.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Whether `count` values can lie anywhere.
fn fits<T>(count: usize, name: &str) -> Result<(), Failure> {
    match count.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok()) {
        Some(_) => Ok(()),
        None => {
            Err(Failure::argument(format!("`{name}` cannot have {count} values: memory is not that large")))
        }
    }
}

/// Writes `count` numbers to the front of a buffer that has room for them, checked before by [`room`]. Another number of them
/// is an error.
///
/// # Safety
///
/// A pointer that is not null is writable for `count` values.
pub(crate) unsafe fn copy_out(
    to: *mut f64,
    count: usize,
    values: impl Iterator<Item = f64>,
) -> Result<(), Failure> {
    let mut left = 0..count;
    for value in values {
        let Some(at) = left.next() else { return Err(Failure::count(count)) };
        // SAFETY: `at` is below `count`.
        unsafe { to.add(at).write(value) };
    }
    if left.is_empty() { Ok(()) } else { Err(Failure::count(count)) }
}

/// Checks a buffer for results before anything is run.
pub(crate) fn room(to: *mut f64, count: usize, needed: usize, name: &str) -> Result<(), Failure> {
    not_null(to, name)?;
    fits::<f64>(count, name)?;
    if count < needed {
        let text = format!("`{name}` has room for {count} numbers; the chunk has {needed}");
        return Err(Failure::new(types::Status::Buffer, text));
    }
    Ok(())
}

/// Writes one result.
///
/// # Safety
///
/// A pointer that is not null is writable.
pub(crate) unsafe fn put<T>(to: *mut T, value: T, name: &str) -> Result<(), Failure> {
    let to = not_null(to, name)?.cast_mut();
    // SAFETY: not null and aligned; the rest by the contract.
    unsafe { to.write(value) };
    Ok(())
}

/// 0 or 1.
pub(crate) fn flag(name: &str, value: u32) -> Result<bool, Failure> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Failure::argument(format!("`{name}` is {value}; it must be 0 or 1"))),
    }
}

/// The images of a list, copied.
///
/// # Safety
///
/// As [`list`], and the rows of each image as well.
pub(crate) unsafe fn images(pointer: *const types::Image, count: usize) -> Result<Vec<Image>, Failure> {
    // SAFETY: by the contract.
    let list = unsafe { list(pointer, count, "images") }?;
    // SAFETY: by the contract.
    list.iter().enumerate().map(|(index, given)| unsafe { image(index, given) }).collect()
}

/// # Safety
///
/// The rows are readable, and nobody writes there during the call.
unsafe fn image(index: usize, given: &types::Image) -> Result<Image, Failure> {
    let types::Image { pixels, width, height, stride } = *given;
    let wrong = |text: String| Failure::argument(format!("image {index}: {text}"));
    if width == 0 || height == 0 {
        return Err(wrong(format!("{width}x{height} pixels; it must have some")));
    }
    if width.max(height) > IMAGE_SIDE_MAX || u64::from(width) * u64::from(height) > IMAGE_PIXELS_MAX {
        return Err(wrong(format!(
            "{width}x{height} pixels; the limits are {IMAGE_SIDE_MAX} a side and {IMAGE_PIXELS_MAX} in all"
        )));
    }
    if pixels.is_null() {
        return Err(wrong("`pixels` is null".to_owned()));
    }
    let row_bytes = 3 * width as usize;
    let stride = if stride == 0 { row_bytes } else { stride };
    let rows = height as usize;
    let last = stride.checked_mul(rows - 1).and_then(|start| start.checked_add(row_bytes));
    if stride < row_bytes || last.is_none_or(|end| isize::try_from(end).is_err()) {
        return Err(wrong(format!("`stride` is {stride}; it must be at least 3 * width, {row_bytes}")));
    }
    let mut packed = Vec::with_capacity(row_bytes * rows);
    for row in 0..rows {
        // SAFETY: the row ends at or before `last`, which is a size that there can be; readable by the contract.
        packed.extend_from_slice(unsafe { std::slice::from_raw_parts(pixels.add(row * stride), row_bytes) });
    }
    Image::from_rgb8(width, height, packed).map_err(|error| wrong(error.to_string()))
}

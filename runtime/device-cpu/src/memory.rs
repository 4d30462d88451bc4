//! Raw memory: the arena, the scratch, and tensors as kernels see them.

use dreamc_artifact::layout::Layout;
use dreamc_num::DType;
use dreamc_runtime::{DeviceError, Shape};
use std::alloc::{alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

/// Alignment of every allocation.
const ALIGN: usize = 64;

/// The smallest page of any system; where they are larger some are touched more than once.
const PAGE: usize = 4096;

/// A zeroed allocation aligned to a cache line.
pub(crate) struct Memory {
    /// What was allocated.
    block: NonNull<u8>,
    layout: std::alloc::Layout,
    /// Bytes before the first aligned one.
    skipped: usize,
    bytes: usize,
}

// SAFETY: plain bytes; who may touch which of them is decided by the kernels.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) const fn empty() -> Memory {
        let layout = std::alloc::Layout::new::<()>();
        Memory { block: NonNull::<u128>::dangling().cast(), layout, skipped: 0, bytes: 0 }
    }

    /// Pages are zeroed by the system when they are first touched: a request pays for its own length, not for the
    /// longest.
    pub(crate) fn zeroed(bytes: u64) -> Result<Memory, DeviceError> {
        let failed = || DeviceError::OutOfMemory { bytes };
        if bytes == 0 {
            return Ok(Memory::empty());
        }
        let size = usize::try_from(bytes).map_err(|_| failed())?;
        // Asked for with a larger alignment, the allocator would write the zeros itself.
        let padded = size.checked_add(ALIGN).ok_or_else(failed)?;
        let layout = std::alloc::Layout::from_size_align(padded, 16).map_err(|_| failed())?;
        // SAFETY: the size is not 0.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(failed)?;
        let skipped = block.as_ptr().addr().wrapping_neg() % ALIGN;
        Ok(Memory { block, layout, skipped, bytes: size })
    }

    /// Writes a zero to every page of memory that is zero as yet, so that the system takes them all now.
    pub(crate) fn touch(&mut self) {
        for at in (0..self.bytes).step_by(PAGE).chain(self.bytes.checked_sub(1)) {
            // SAFETY: inside the block; nobody else has it.
            unsafe { self.start().add(at).write_volatile(0) };
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn start(&self) -> *mut u8 {
        // Inside the block, which is `ALIGN` bytes longer than needed.
        self.block.as_ptr().wrapping_add(self.skipped)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.block.as_ptr(), self.layout) };
        }
    }
}

/// A pointer that tasks may share; they write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: what is written through it is decided by the tasks, which write disjoint parts.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// A type of elements.
///
/// # Safety
///
/// Every pattern of bits is a value.
pub(crate) unsafe trait Element: Copy {}
// SAFETY: numbers.
unsafe impl Element for u8 {}
// SAFETY: numbers.
unsafe impl Element for i32 {}
// SAFETY: numbers.
unsafe impl Element for u32 {}
// SAFETY: numbers.
unsafe impl Element for f32 {}

/// A tensor: a pointer that the device has checked to cover `shape`.
#[derive(Clone, Copy)]
pub(crate) struct Buf {
    start: *mut u8,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    pub(crate) shape: Shape,
    elements: usize,
    columns: usize,
}

// SAFETY: as for `Shared`.
unsafe impl Send for Buf {}
// SAFETY: as above.
unsafe impl Sync for Buf {}

/// Some columns of some rows of a tensor of f32 or bf16, whose place was checked, for vector instructions.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    start: *mut u8,
    /// Bytes from row to row.
    stride: usize,
    /// Whether they are bf16; they are f32 otherwise.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only AVX-512 reads them by itself"))]
    pub(crate) bf16: bool,
}

impl Window {
    /// Where row `r` begins, if there is one.
    #[inline(always)]
    pub(crate) fn row(&self, r: usize) -> *mut u8 {
        self.start.wrapping_add(r * self.stride)
    }
}

impl Buf {
    /// # Safety
    ///
    /// `start` is valid for the stored bytes of the tensor, and for writing if it is written.
    pub(crate) unsafe fn new(start: *mut u8, dtype: DType, layout: Layout, shape: Shape) -> Buf {
        Buf { start, dtype, layout, shape, elements: shape.elements(), columns: shape.columns() }
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    /// The addresses of its stored bytes.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let mut dims = [0_u64; dreamc_runtime::device::RANK_MAX];
        let shape = self.shape.dims();
        dims.iter_mut().zip(shape).for_each(|(to, from)| *to = u64::from(*from));
        // They exist, so they can be counted.
        let bytes = self.layout.stored_bytes(self.dtype, &dims[..shape.len()]).unwrap_or(0);
        let start = self.start.addr();
        start..start + bytes as usize
    }

    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    pub(crate) fn rows(&self) -> usize {
        self.shape.rows()
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Element `at` of a row-major tensor.
    #[inline(always)]
    pub(crate) fn get<T: Element>(&self, at: usize) -> T {
        assert!(at < self.elements && size_of::<T>() == self.dtype.bytes());
        // SAFETY: inside the tensor by the assertion.
        unsafe { self.start.cast::<T>().add(at).read_unaligned() }
    }

    /// Sets element `at` of a row-major tensor.
    #[inline(always)]
    pub(crate) fn set<T: Element>(&self, at: usize, value: T) {
        assert!(at < self.elements && size_of::<T>() == self.dtype.bytes());
        // SAFETY: inside the tensor by the assertion.
        unsafe { self.start.cast::<T>().add(at).write_unaligned(value) }
    }

    /// Columns of rows of a row-major tensor.
    #[inline(always)]
    pub(crate) fn window(&self, rows: Range<usize>, columns: Range<usize>) -> Window {
        let n = self.columns;
        assert!(rows.end.checked_mul(n).is_some_and(|end| end <= self.elements));
        assert!(columns.start <= columns.end && columns.end <= n);
        assert!(self.dtype == DType::BF16 || self.dtype.bytes() == 4);
        let bytes = self.dtype.bytes();
        let start = self.start.wrapping_add((rows.start * n + columns.start) * bytes);
        Window { start, stride: n * bytes, bf16: self.dtype == DType::BF16 }
    }

    /// Reads elements from `at` on as f32.
    #[inline(always)]
    pub(crate) fn load(&self, at: usize, out: &mut [f32]) {
        assert!(at <= self.elements && out.len() <= self.elements - at);
        if self.dtype == DType::BF16 {
            // SAFETY: inside the tensor by the assertion.
            let from = unsafe { self.start.cast::<u16>().add(at) };
            for (i, o) in out.iter_mut().enumerate() {
                // SAFETY: as above.
                *o = from_bf16(unsafe { from.add(i).read_unaligned() });
            }
        } else {
            assert!(self.dtype.bytes() == 4);
            // SAFETY: as above; `out` is memory of its own.
            unsafe {
                let from = self.start.cast::<f32>().add(at).cast::<u8>();
                std::ptr::copy_nonoverlapping(from, out.as_mut_ptr().cast(), out.len() * 4);
            }
        }
    }

    /// Writes elements from `at` on, rounding to the tensor's type.
    #[inline(always)]
    pub(crate) fn store(&self, at: usize, values: &[f32]) {
        assert!(at <= self.elements && values.len() <= self.elements - at);
        if self.dtype == DType::BF16 {
            // SAFETY: inside the tensor by the assertion.
            let to = unsafe { self.start.cast::<u16>().add(at) };
            for (i, v) in values.iter().enumerate() {
                // SAFETY: as above.
                unsafe { to.add(i).write_unaligned(to_bf16(*v)) };
            }
        } else {
            assert!(self.dtype.bytes() == 4);
            // SAFETY: as above; `values` is memory of its own.
            unsafe {
                let to = self.start.cast::<f32>().add(at).cast::<u8>();
                std::ptr::copy_nonoverlapping(values.as_ptr().cast(), to, values.len() * 4);
            }
        }
    }
}

/// Widens a bf16.
#[inline(always)]
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

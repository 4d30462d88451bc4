//! Kernels that move elements: whole tensors, ranges of columns, rows that an index picks.

use crate::context::Context;
use crate::isa::per_isa;
use crate::memory::Buf;
use dreamc_runtime::DeviceError;

/// Elements of a task.
const TASK: usize = 16 * 1024;
/// Elements converted at a time.
const CHUNK: usize = 256;

per_isa! {
    /// Converts `n` elements from one place to another.
    fn convert(x: &Buf, from: usize, out: &Buf, to: usize, n: usize) {
        let mut v = [0.0_f32; CHUNK];
        for at in (0..n).step_by(CHUNK) {
            let n = CHUNK.min(n - at);
            x.load(from + at, &mut v[..n]);
            out.store(to + at, &v[..n]);
        }
    }
}

/// Copies a whole tensor.
pub(crate) fn copy_all(context: &Context<'_>, x: &Buf, out: &Buf) {
    let n = x.elements();
    context.pool.run(n.div_ceil(TASK), &|task, _| {
        let from = task * TASK;
        copy(x, from, out, from, TASK.min(n - from));
    });
}

/// Copies bytes of elements; the two may not overlap unless they are the same.
pub(crate) fn copy(x: &Buf, from: usize, out: &Buf, to: usize, n: usize) {
    assert!(x.dtype == out.dtype && from + n <= x.elements() && to + n <= out.elements());
    let size = x.dtype.bytes();
    // SAFETY: inside both tensors by the assertion.
    let (from, to) = unsafe { (x.start().add(from * size), out.start().add(to * size)) };
    if !std::ptr::eq(from, to) {
        // SAFETY: as above.
        unsafe { std::ptr::copy(from, to, n * size) };
    }
}

/// Columns `start..` of every row.
pub(crate) fn slice(context: &Context<'_>, x: &Buf, start: usize, out: &Buf) {
    let (from, n) = (x.columns(), out.columns());
    context.pool.run_rows(out.rows(), n, &|row, _| copy(x, row * from + start, out, row * n, n));
}

/// Row `p` takes row `p - 1`, row 0 stays.
pub(crate) fn shift_rows(context: &Context<'_>, x: &Buf, out: &Buf) {
    let (s, n) = (x.shape.dims()[1] as usize, x.columns());
    context.pool.run_rows(x.rows(), n, &|row, _| {
        let from = if row % s == 0 { row } else { row - 1 };
        copy(x, from * n, out, row * n, n);
    });
}

/// Rows of the table.
pub(crate) fn embed(context: &Context<'_>, ids: &Buf, table: &Buf, out: &Buf) -> Result<(), DeviceError> {
    let (vocabulary, h) = (table.rows(), table.columns());
    for row in 0..ids.elements() {
        let id = ids.get::<i32>(row);
        if !usize::try_from(id).is_ok_and(|id| id < vocabulary) {
            return Err(DeviceError::TokenOutOfRange { id, vocabulary: vocabulary as u32 });
        }
    }
    context.pool.run_rows(ids.elements(), h, &|row, _| {
        convert(context.isa, table, ids.get::<i32>(row) as usize * h, out, row * h, h);
    });
    Ok(())
}

/// All parts, one after the other along `axis`.
pub(crate) fn concat(context: &Context<'_>, parts: &[Buf], axis: usize, out: &Buf) {
    // Elements of one slice from the axis on.
    let inner = |x: &Buf| x.shape.dims()[axis..].iter().map(|d| *d as usize).product::<usize>();
    let whole = inner(out);
    let slices = out.elements() / whole;
    let mut first = 0;
    for part in parts {
        let n = inner(part);
        let pieces = n.div_ceil(TASK);
        context.pool.run(slices * pieces, &|task, _| {
            let (slice, from) = (task / pieces, task % pieces * TASK);
            copy(part, slice * n + from, out, slice * whole + first + from, TASK.min(n - from));
        });
        first += n;
    }
}

/// All but the first rows of every batch row.
pub(crate) fn drop_rows(context: &Context<'_>, x: &Buf, out: &Buf) {
    let (from, s, n) = (x.shape.dims()[1] as usize, out.shape.dims()[1] as usize, out.columns());
    context.pool.run_rows(out.rows(), n, &|row, _| {
        let (b, p) = (row / s, row % s);
        copy(x, (b * from + from - s + p) * n, out, row * n, n);
    });
}

/// The rows of every batch row that its indices pick.
pub(crate) fn take_rows(context: &Context<'_>, x: &Buf, index: &Buf, out: &Buf) -> Result<(), DeviceError> {
    let (s, r, n) = (x.shape.dims()[1] as usize, out.shape.dims()[1] as usize, out.columns());
    let picked = |row: usize| pick(index.get(row), s);
    (0..index.elements()).try_for_each(|row| picked(row).map(|_| ()))?;
    context.pool.run_rows(out.rows(), n, &|row, _| {
        // Looked at above; an index that changed since copies nothing.
        if let Ok(at) = picked(row) {
            copy(x, (row / r * s + at) * n, out, row * n, n);
        }
    });
    Ok(())
}

/// The rows of `source` that the index picks where it is not negative, else those of `x`.
pub(crate) fn splice(
    context: &Context<'_>,
    x: &Buf,
    index: &Buf,
    source: &Buf,
    out: &Buf,
) -> Result<(), DeviceError> {
    let (n, rows) = (x.columns(), source.rows());
    let picked = |row: usize| match index.get::<i32>(row) {
        ..0 => Ok(None),
        at => pick(at, rows).map(Some),
    };
    (0..index.elements()).try_for_each(|row| picked(row).map(|_| ()))?;
    context.pool.run_rows(x.rows(), n, &|row, _| match picked(row) {
        Ok(Some(at)) => copy(source, at * n, out, row * n, n),
        Ok(None) | Err(_) => copy(x, row * n, out, row * n, n),
    });
    Ok(())
}

/// The index if it is one of `rows`.
pub(crate) fn pick(index: i32, rows: usize) -> Result<usize, DeviceError> {
    let outside = DeviceError::RowOutOfRange { index, rows: u32::try_from(rows).unwrap_or(u32::MAX) };
    usize::try_from(index).ok().filter(|at| *at < rows).ok_or(outside)
}

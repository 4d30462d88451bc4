//! Checkpoint tensors to stored bytes, a panel at a time: memory does not grow with the tensor.

use crate::constants::{Constant, Source};
use crate::quantize::{self, Columns, Fidelity};
use dreamc_artifact::layout::{Layout, PANEL, fp8_scales_at};
use dreamc_ir::Literal;
use dreamc_num::quant::BLOCK;
use dreamc_num::{DType, Quant};
use half::{bf16, f16};
use std::error::Error;

/// Reads tensors of the checkpoint.
pub trait WeightReader {
    /// Number of elements of a tensor.
    fn elements(&self, name: &str) -> Option<u64>;

    /// Copies elements from `start` on, in row-major order, into `out`.
    ///
    /// # Errors
    ///
    /// Where the tensor cannot be read or holds what it must not.
    fn read(&mut self, name: &str, start: u64, out: &mut [f32]) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Hash of everything read so far, in hexadecimal, always of one length.
    fn source_hash(&mut self) -> String;
}

/// Why a tensor could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The reader has no such tensor, or one of another size.
    #[error("tensor `{0}` is not in the checkpoint, or has another size than the graph says")]
    Missing(String),
    /// The reader failed.
    #[error("{0}")]
    Read(Box<dyn Error + Send + Sync>),
    /// A type that no target stores.
    #[error("tensors of {0} cannot be stored")]
    DType(DType),
    /// The receiver of the bytes failed.
    #[error(transparent)]
    Write(#[from] std::io::Error),
}

/// Elements converted at a time where rows are not kept together.
const CHUNK: u64 = 1 << 18;

/// Gives the stored bytes of `constant` to `emit`, piece by piece. Returns how well they hold a matrix in few bits, and
/// nothing for others.
pub(crate) fn pack(
    constant: &Constant,
    reader: &mut dyn WeightReader,
    emit: &mut dyn FnMut(&[u8]) -> Result<(), PackError>,
) -> Result<Option<Fidelity>, PackError> {
    // The tensors, the first row that is wanted, and all rows.
    let all = constant.dims.first().copied().unwrap_or(1);
    let (names, first, of) = match &constant.source {
        Source::Checkpoint(names) => (names.as_slice(), 0, all),
        Source::Rows { name, first, of } => (std::slice::from_ref(name), *first, *of),
        Source::Quantized { name, first, of, .. } => (std::slice::from_ref(name), *first, *of),
        Source::Literal(literal) => {
            emit(&literal_bytes(literal, constant.dtype)?)?;
            return Ok(None);
        }
    };
    let mut tensor = Tensor::of(names, reader, constant, first, of)?;
    let (mut floats, mut bytes, mut fidelity) = (Vec::new(), Vec::new(), Fidelity::default());
    match (constant.layout, constant.dims.as_slice()) {
        (Layout::RowMajor, _) => {
            let mut at = 0;
            while at < tensor.elements {
                let n = CHUNK.min(tensor.elements - at);
                tensor.read(at, n, &mut floats)?;
                bytes.clear();
                push_all(&floats, constant.dtype, &mut bytes)?;
                emit(&bytes)?;
                at += n;
            }
        }
        (layout, [n, k]) => {
            let k = *k as usize;
            let mut known = Columns::of(k);
            if let Source::Quantized { columns, importance, feedback, .. } = &constant.source {
                let reads = [
                    (columns, k, &mut known.factors),
                    (importance, k, &mut known.importance),
                    (feedback, k * BLOCK, &mut known.feedback),
                ];
                for (name, count, to) in reads {
                    if let Some(name) = name {
                        *to = numbers(name, count, tensor.reader)?;
                    }
                }
            }
            let fp8 = layout == Layout::Quantized(Quant::Fp8);
            let (mut scales, mut emitted) = (Vec::new(), 0);
            for row in (0..*n).step_by(PANEL) {
                let rows = (*n - row).min(PANEL as u64);
                tensor.read(row * k as u64, rows * k as u64, &mut floats)?;
                if !fp8 {
                    floats.resize(PANEL * k, 0.0);
                }
                bytes.clear();
                let into = (&mut bytes, &mut scales);
                push_panel(&mut floats, &known, layout, constant.dtype, into, &mut fidelity)?;
                emitted += bytes.len() as u64;
                emit(&bytes)?;
            }
            if fp8 {
                let begin = fp8_scales_at(*n, k as u64).ok_or(PackError::DType(constant.dtype))?;
                bytes.clear();
                bytes.resize((begin - emitted) as usize, 0);
                bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
                emit(&bytes)?;
            }
        }
        _ => return Err(PackError::DType(constant.dtype)),
    }
    Ok(matches!(constant.layout, Layout::Quantized(_)).then_some(fidelity))
}

/// All elements of a tensor of `count` of them.
fn numbers(name: &str, count: usize, reader: &mut dyn WeightReader) -> Result<Vec<f32>, PackError> {
    if reader.elements(name) != Some(count as u64) {
        return Err(PackError::Missing(name.to_owned()));
    }
    let mut elements = vec![0.0; count];
    reader.read(name, 0, &mut elements).map_err(PackError::Read)?;
    Ok(elements)
}

/// Several checkpoint tensors seen as one.
struct Tensor<'a> {
    names: &'a [String],
    reader: &'a mut dyn WeightReader,
    /// Where what is wanted begins, and how much it is.
    first: u64,
    elements: u64,
}

impl<'a> Tensor<'a> {
    fn of(
        names: &'a [String],
        reader: &'a mut dyn WeightReader,
        constant: &Constant,
        first: u64,
        of: u64,
    ) -> Result<Tensor<'a>, PackError> {
        let missing = || PackError::Missing(names.join("+"));
        let sizes = names.iter().map(|name| reader.elements(name)).collect::<Option<Vec<u64>>>();
        let stored: u64 = sizes.ok_or_else(missing)?.iter().sum();
        let row: u64 = constant.dims.iter().skip(1).product();
        let rows = constant.dims.first().copied().unwrap_or(1);
        let inside = first.checked_add(rows).is_some_and(|end| end <= of);
        if inside && of.checked_mul(row) == Some(stored) {
            Ok(Tensor { names, reader, first: first * row, elements: rows * row })
        } else {
            Err(missing())
        }
    }

    /// Fills `out` with the `n` elements from `start` on.
    fn read(&mut self, start: u64, n: u64, out: &mut Vec<f32>) -> Result<(), PackError> {
        out.clear();
        out.resize(n as usize, 0.0);
        let start = self.first + start;
        let (mut begin, mut filled) = (0, 0);
        for name in self.names {
            let size = self.reader.elements(name).unwrap_or(0);
            let from = (start + filled).max(begin);
            let to = (start + n).min(begin + size);
            if from < to {
                let part = &mut out[(from - start) as usize..(to - start) as usize];
                self.reader.read(name, from - begin, part).map_err(PackError::Read)?;
                filled += to - from;
            }
            begin += size;
        }
        Ok(())
    }
}

fn push_all(floats: &[f32], dtype: DType, bytes: &mut Vec<u8>) -> Result<(), PackError> {
    match dtype {
        DType::F32 => bytes.extend(floats.iter().flat_map(|x| x.to_le_bytes())),
        DType::BF16 => bytes.extend(floats.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
        DType::F16 => bytes.extend(floats.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
        DType::I32 | DType::U32 | DType::Bool => return Err(PackError::DType(dtype)),
    }
    Ok(())
}

/// One panel: 16 rows, or as many of fp8, see `dreamc_artifact::layout`.
fn push_panel(
    rows: &mut [f32],
    columns: &Columns,
    layout: Layout,
    dtype: DType,
    (bytes, scales): (&mut Vec<u8>, &mut Vec<f32>),
    fidelity: &mut Fidelity,
) -> Result<(), PackError> {
    let k = columns.factors.len();
    match (layout, dtype) {
        (Layout::Panels, DType::F32) => {
            for column in 0..k {
                bytes.extend((0..PANEL).flat_map(|lane| rows[lane * k + column].to_le_bytes()));
            }
        }
        (Layout::PanelPairs, DType::BF16) => {
            for column in (0..k).step_by(2) {
                for lane in 0..PANEL {
                    let row = &rows[lane * k..(lane + 1) * k];
                    let pair = [row[column], row.get(column + 1).copied().unwrap_or(0.0)];
                    bytes.extend(pair.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()));
                }
            }
        }
        (Layout::Quantized(quant), _) => {
            bytes.extend(quantize::panel(quant, rows, columns, scales, fidelity));
        }
        (Layout::RowMajor | Layout::Panels | Layout::PanelPairs, _) => return Err(PackError::DType(dtype)),
    }
    Ok(())
}

fn literal_bytes(literal: &Literal, dtype: DType) -> Result<Vec<u8>, PackError> {
    let mut bytes = Vec::new();
    match (literal, dtype) {
        (Literal::Floats(v), _) => push_all(v, dtype, &mut bytes)?,
        (Literal::Ints(v), DType::I32 | DType::U32) => {
            bytes.extend(v.iter().flat_map(|n| (*n as u32).to_le_bytes()))
        }
        (Literal::Ints(v), DType::Bool) => bytes.extend(v.iter().map(|n| u8::from(*n != 0))),
        (Literal::Ints(_), DType::F32 | DType::BF16 | DType::F16) => return Err(PackError::DType(dtype)),
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_num::quant::{fp8, fp8_scale, row_inverse};

    struct Counting;

    impl WeightReader for Counting {
        fn elements(&self, name: &str) -> Option<u64> {
            name.parse().ok()
        }

        fn read(
            &mut self,
            name: &str,
            start: u64,
            out: &mut [f32],
        ) -> Result<(), Box<dyn Error + Send + Sync>> {
            let base = if name == "51" { 0 } else { 51 };
            for (x, i) in out.iter_mut().zip(base + start..) {
                *x = i as f32;
            }
            Ok(())
        }

        fn source_hash(&mut self) -> String {
            String::new()
        }
    }

    /// Every element of a matrix made of two tensors lies where the layout says, the filling is zero.
    #[test]
    fn elements_lie_where_the_layout_says() {
        for (layout, dtype) in
            [(Layout::RowMajor, DType::F32), (Layout::Panels, DType::F32), (Layout::PanelPairs, DType::BF16)]
        {
            // 20 rows of 3 columns: 17 from one tensor, 3 from the other.
            let source = Source::Checkpoint(vec!["51".to_owned(), "9".to_owned()]);
            let constant = Constant { source, dtype, dims: vec![20, 3], layout };
            let mut stored = Vec::new();
            pack(&constant, &mut Counting, &mut |bytes| {
                stored.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
            assert_eq!(stored.len() as u64, layout.stored_bytes(dtype, &constant.dims).unwrap());
            let at = |i: usize| match dtype {
                DType::F32 => f32::from_le_bytes(stored[i * 4..i * 4 + 4].try_into().unwrap()),
                _ => bf16::from_le_bytes(stored[i * 2..i * 2 + 2].try_into().unwrap()).to_f32(),
            };
            let mut sum = 0.0;
            for row in 0..20 {
                for column in 0..3 {
                    assert_eq!(at(layout.index(3, row, column)), (row * 3 + column) as f32);
                    sum += at(layout.index(3, row, column));
                }
            }
            let total: f32 = (0..stored.len() / dtype.bytes()).map(at).sum();
            assert_eq!(total, sum);
        }
    }

    /// Codes of all rows and then their scales, in more pieces than one, none of which is longer than a panel.
    #[test]
    fn rows_in_fp8_and_their_scales() {
        let source = Source::Quantized {
            name: "51".to_owned(),
            first: 0,
            of: 17,
            columns: None,
            quant: Quant::Fp8,
            importance: None,
            feedback: None,
        };
        let layout = Layout::Quantized(Quant::Fp8);
        let constant = Constant { source, dtype: DType::BF16, dims: vec![17, 3], layout };
        let (mut stored, mut pieces) = (Vec::new(), 0);
        let mut emit = |bytes: &[u8]| {
            stored.extend_from_slice(bytes);
            pieces += 1;
            Ok(())
        };
        let fidelity = pack(&constant, &mut Counting, &mut emit).unwrap().unwrap();
        assert!(
            fidelity.relative() > 0.0 && fidelity.relative() < 0.03 && pieces == 3,
            "{fidelity:?} {pieces}"
        );
        assert_eq!(stored.len() as u64, layout.stored_bytes(DType::BF16, &[17, 3]).unwrap());
        let begin = fp8_scales_at(17, 3).unwrap() as usize;
        let mut filling = stored[..begin].to_vec();
        for row in 0..17 {
            let values = [0, 1, 2].map(|column| (row * 3 + column) as f32);
            let scale = fp8_scale(&values);
            assert_eq!(stored[begin + 4 * row..][..4], scale.to_le_bytes());
            for (column, x) in values.into_iter().enumerate() {
                let at = layout.index(3, row, column);
                assert_eq!(stored[at], fp8(x, row_inverse(scale)));
                filling[at] = 0;
            }
        }
        assert!(filling.iter().all(|byte| *byte == 0));
    }

    /// Rows of a matrix are stored as if it had no others.
    #[test]
    fn rows_of_a_matrix() {
        let pack_all = |source: Source, rows: u64| {
            let constant =
                Constant { source, dtype: DType::F32, dims: vec![rows, 3], layout: Layout::Panels };
            let mut stored = Vec::new();
            let mut emit = |bytes: &[u8]| {
                stored.extend_from_slice(bytes);
                Ok(())
            };
            pack(&constant, &mut Counting, &mut emit).map(|_| stored)
        };
        let rows = |first, of| Source::Rows { name: "51".to_owned(), first, of };
        let stored = pack_all(rows(5, 17), 4).unwrap();
        for (row, column) in (0..4).flat_map(|row| (0..3).map(move |column| (row, column))) {
            let at = Layout::Panels.index(3, row, column) * 4;
            let found = f32::from_le_bytes(stored[at..at + 4].try_into().unwrap());
            assert_eq!(found, ((row + 5) * 3 + column) as f32);
        }
        for (first, of, count) in [(14, 17, 4), (u64::MAX, 17, 1), (0, 16, 4), (0, u64::MAX, 4)] {
            assert!(pack_all(rows(first, of), count).is_err());
        }
    }

    #[test]
    fn wrong_sizes_are_named() {
        let source = Source::Checkpoint(vec!["51".to_owned()]);
        let constant = Constant { source, dtype: DType::F32, dims: vec![50], layout: Layout::RowMajor };
        let error = pack(&constant, &mut Counting, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("`51`"), "{error}");
    }
}

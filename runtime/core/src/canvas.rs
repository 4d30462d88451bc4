//! The canvas of a request: prompt rows, then the slots to fill (`spec/sampling.md` section 2), with the
//! positions and masks that go with it (`spec/text-model.md` sections 5 and 6).

use alloc::vec::Vec;

/// Tokens, attention mask and positions of some rows of equal length, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    /// Number of rows.
    pub rows: usize,
    /// Positions in a row.
    pub length: usize,
    /// Token ids.
    pub tokens: Vec<i32>,
    /// 1 for real tokens and slots, 0 for padding.
    pub attention_mask: Vec<i32>,
    /// Rotary positions.
    pub position_ids: Vec<i32>,
}

/// Why a request makes no canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CanvasError {
    /// No rows, or rows without tokens.
    #[error("the prompt is empty; give at least one token in each row")]
    Empty,
    /// Rows or masks of different lengths.
    #[error(
        "row {row} has {found} entries where {expected} are needed; pad the rows to one length and mask the padding"
    )]
    Ragged {
        /// The row, from 0.
        row: usize,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// A mask entry other than 0 and 1.
    #[error("row {row} of the attention mask holds {value}; only 0 and 1 are allowed")]
    Mask {
        /// The row, from 0.
        row: usize,
        /// What it holds.
        value: i32,
    },
    /// Rows with different numbers of slots: the reference's schedule would overwrite prompt tokens.
    #[error(
        "row {row} has {found} mask tokens and row 0 has {expected}; send rows with different numbers of slots as separate requests"
    )]
    UnevenMasks {
        /// The row, from 0.
        row: usize,
        /// Its mask tokens.
        found: usize,
        /// Those of row 0.
        expected: usize,
    },
}

impl Canvas {
    /// Rows as they are given, with the text model's positions. No mask means no padding.
    pub fn new(rows: &[Vec<i32>], attention_mask: Option<&[Vec<i32>]>) -> Result<Canvas, CanvasError> {
        let length = rows.first().map_or(0, Vec::len);
        if length == 0 {
            return Err(CanvasError::Empty);
        }
        let even = |list: &[Vec<i32>]| match list.iter().enumerate().find(|(_, r)| r.len() != length) {
            Some((row, r)) => Err(CanvasError::Ragged { row, found: r.len(), expected: length }),
            None => Ok(list.concat()),
        };
        let tokens = even(rows)?;
        let attention_mask = match attention_mask {
            None => alloc::vec![1; tokens.len()],
            Some(mask) if mask.len() != rows.len() => {
                return Err(CanvasError::Ragged {
                    row: mask.len().min(rows.len()),
                    found: 0,
                    expected: length,
                });
            }
            Some(mask) => even(mask)?,
        };
        if let Some(at) = attention_mask.iter().position(|m| *m != 0 && *m != 1) {
            return Err(CanvasError::Mask { row: at / length, value: attention_mask[at] });
        }
        let position_ids = attention_mask.chunks(length).flat_map(text_positions).collect();
        Ok(Canvas { rows: rows.len(), length, tokens, attention_mask, position_ids })
    }

    /// Some of the rows.
    pub fn part(&self, first: usize, rows: usize) -> Canvas {
        let range = first * self.length..(first + rows) * self.length;
        let of = |list: &[i32]| list[range.clone()].to_vec();
        Canvas {
            rows,
            length: self.length,
            tokens: of(&self.tokens),
            attention_mask: of(&self.attention_mask),
            position_ids: of(&self.position_ids),
        }
    }

    /// Prompt rows followed by `appended`: slots, and perhaps words between them. Mask tokens inside a prompt are slots too, and
    /// every row must have as many.
    pub fn for_generation(
        prompt: &[Vec<i32>],
        attention_mask: Option<&[Vec<i32>]>,
        appended: &[i32],
        mask_token: i32,
    ) -> Result<Canvas, CanvasError> {
        let extended = |list: &[Vec<i32>], with: &[i32]| -> Vec<Vec<i32>> {
            list.iter().map(|row| [row, with].concat()).collect()
        };
        if prompt.iter().any(Vec::is_empty) {
            return Err(CanvasError::Empty);
        }
        // As it was given, so that errors count what the caller has.
        Canvas::new(prompt, attention_mask)?;
        let rows = extended(prompt, appended);
        let mask = attention_mask.map(|m| extended(m, &alloc::vec![1; appended.len()]));
        let canvas = Canvas::new(&rows, mask.as_deref())?;
        let slots = |row: &[i32]| row.iter().filter(|t| **t == mask_token).count();
        let expected = prompt.first().map_or(0, |row| slots(row));
        for (row, tokens) in prompt.iter().enumerate() {
            let found = slots(tokens);
            if found != expected {
                return Err(CanvasError::UnevenMasks { row, found, expected });
            }
        }
        Ok(canvas)
    }
}

/// Number of real tokens before each, and 1 where the mask is 0.
fn text_positions(mask: &[i32]) -> Vec<i32> {
    let mut seen = 0;
    let position = |m: &i32| {
        seen += m;
        if *m == 0 { 1 } else { seen - 1 }
    };
    mask.iter().map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn pads_and_positions() {
        let canvas =
            Canvas::for_generation(&[vec![0, 0, 5, 6]], Some(&[vec![0, 0, 1, 1]]), &[9, 9], 9).unwrap();
        assert_eq!(canvas.tokens, [0, 0, 5, 6, 9, 9]);
        assert_eq!(canvas.attention_mask, [0, 0, 1, 1, 1, 1]);
        assert_eq!(canvas.position_ids, [1, 1, 0, 1, 2, 3]);
    }

    #[test]
    fn bad_requests_are_named() {
        assert_eq!(Canvas::new(&[], None), Err(CanvasError::Empty));
        assert_eq!(Canvas::for_generation(&[vec![]], None, &[9; 4], 9), Err(CanvasError::Empty));
        let ragged = Err(CanvasError::Ragged { row: 1, found: 1, expected: 2 });
        assert_eq!(Canvas::new(&[vec![1, 2], vec![1]], None), ragged);
        assert_eq!(Canvas::new(&[vec![1]], Some(&[vec![2]])), Err(CanvasError::Mask { row: 0, value: 2 }));
        assert!(matches!(Canvas::new(&[vec![1]], Some(&[])), Err(CanvasError::Ragged { .. })));
        let uneven = Err(CanvasError::UnevenMasks { row: 1, found: 0, expected: 1 });
        assert_eq!(Canvas::for_generation(&[vec![9, 1], vec![1, 1]], None, &[9; 2], 9), uneven);
        // Counted without the slots that are appended.
        assert_eq!(Canvas::for_generation(&[vec![1, 2], vec![1]], None, &[9; 2], 9), ragged);
        let short_mask = Canvas::for_generation(&[vec![1, 2]], Some(&[vec![1]]), &[9; 2], 9);
        assert_eq!(short_mask, Err(CanvasError::Ragged { row: 0, found: 1, expected: 2 }));
    }
}

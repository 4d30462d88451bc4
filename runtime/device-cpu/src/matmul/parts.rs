//! How the rows of a matmul are shared out.

use super::epilogue::late::Late;
use std::ops::Range;

/// Parts of as many rows, as even as may be; each begins a strip, its last strip may have fewer rows than the others.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    rows: usize,
    /// Of each part but the last, which may have fewer.
    of_part: usize,
    /// Rows of a strip.
    height: usize,
}

impl Parts {
    /// At most `count` parts of `rows` rows.
    pub(super) fn new(rows: usize, height: usize, count: usize) -> Parts {
        // Ends of other tiles can then be done with a short strip, but for the last one of all.
        let of_part = rows.div_ceil(count).next_multiple_of(Late::ROWS).max(1);
        Parts { rows, of_part, height }
    }

    pub(super) fn count(&self) -> usize {
        self.rows.div_ceil(self.of_part).max(1)
    }

    /// Strips of a part, some of them empty maybe in the last one.
    pub(super) fn strips(&self) -> usize {
        self.of_part.div_ceil(self.height)
    }

    /// Those of all parts, without empty ones.
    pub(super) fn all_strips(&self) -> usize {
        let before = self.rows / self.of_part;
        before * self.strips() + (self.rows - before * self.of_part).div_ceil(self.height)
    }

    /// The rows of some strips of a part.
    pub(super) fn rows(&self, part: usize, strips: Range<usize>) -> Range<usize> {
        let end = self.rows.min((part + 1) * self.of_part);
        let row = |strip: usize| end.min(part * self.of_part + strip * self.height);
        row(strips.start)..row(strips.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_strip() {
        for height in [4, 6, 12] {
            for rows in (1..70_usize).chain([128, 255, 256, 257, 1000]) {
                for count in 1..=8.min(rows.div_ceil(height)) {
                    let parts = Parts::new(rows, height, count);
                    assert!((1..=count).contains(&parts.count()));
                    let strips =
                        (0..parts.count()).flat_map(|part| (0..parts.strips()).map(move |i| (part, i)));
                    let strips: Vec<_> = strips.map(|(part, i)| parts.rows(part, i..i + 1)).collect();
                    let mut next = 0;
                    for strip in strips.iter().filter(|strip| !strip.is_empty()) {
                        assert!(strip.start == next && strip.len() <= height, "{rows} {height} {count}");
                        next = strip.end;
                    }
                    assert_eq!(next, rows);
                    // Those behind the last row are the last ones, and there is room for the others.
                    let all = parts.all_strips();
                    assert_eq!(strips.iter().rposition(|strip| !strip.is_empty()), Some(all - 1));
                    assert!(all < rows.div_ceil(height) + count, "{rows} {height} {count}");
                }
            }
        }
    }
}

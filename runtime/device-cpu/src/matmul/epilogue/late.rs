//! The end of a tile that comes late: a row or a few at a time between the runs of the next tile.
//!
//! Products keep half of a core's units busy and wait for nothing. What is done to sums waits for itself most of the time, and
//! works on the other half.

use super::{Matmul, PANEL, Slot, factors_of};
#[cfg(target_arch = "x86_64")]
use crate::matmul::micro::RUN;
use crate::matmul::micro::Tile;
use crate::memory::Window;
use dreamc_num::DType;
use std::ops::Range;

/// What is done to the sums of two panels, of some rows of a block.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only AVX-512 reads it"))]
pub(in crate::matmul) struct Late {
    pub(in crate::matmul) swiglu: bool,
    /// The rows, counted from the first one of the block.
    pub(super) rows: Range<usize>,
    /// Where the sums of the first of them are.
    pub(super) sums: *const f32,
    /// Of the block's rows, where codes were multiplied.
    pub(super) scales: *const f32,
    /// Of the panels, where codes were multiplied.
    pub(super) factors: [[f32; PANEL]; 2],
    pub(super) bias: Option<[[f32; PANEL]; 2]>,
    pub(super) residual: Option<Window>,
    pub(super) out: Window,
}

/// The kernels for it. Unsafe: its pointers cover what it says, the host has the instructions.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Runs {
    /// Multiplies a tile of all panels and a multiple of [`Late::ROWS`] rows, and does what is owed between its runs; and, with
    /// tiles that follow, what the one before them owes. What the last one owes is left.
    pub(in crate::matmul) tile: unsafe fn(&Tile, &mut Late),
    /// Does it all at once.
    pub(in crate::matmul) alone: unsafe fn(&Late),
}

impl Late {
    /// Tiles that take it on have a multiple of so many rows.
    pub(in crate::matmul) const ROWS: usize = 4;

    /// Of a block of `rows`, if it is one that tiles take on: 32 columns side by side, of one type with their residual or, with
    /// SwiGLU, 16 of bf16.
    pub(in crate::matmul) fn of(
        matmul: &Matmul<'_>,
        rows: Range<usize>,
        slots: &[Slot],
        scales: Option<*const f32>,
    ) -> Option<Late> {
        let [one, two] = slots else { return None };
        let full = one.columns == PANEL && two.columns == PANEL && matmul.activation.is_none();
        let columns = if matmul.swiglu { one.columns() } else { one.column..two.columns().end };
        let fits = if matmul.swiglu {
            matmul.out.dtype == DType::BF16 && matmul.bias.is_none() && matmul.residual.is_none()
        } else {
            columns.len() == 2 * PANEL && matmul.residual.is_none_or(|x| x.dtype == matmul.out.dtype)
        };
        if !(full && fits) {
            return None;
        }
        Some(Late {
            swiglu: matmul.swiglu,
            rows: 0..0,
            sums: std::ptr::null(),
            scales: scales.unwrap_or(std::ptr::null()),
            factors: if scales.is_some() { factors_of(matmul, [one, two]) } else { [[1.0; PANEL]; 2] },
            bias: matmul.bias.map(|bias| {
                let mut both = [[0.0; PANEL]; 2];
                bias.load(columns.start, both.as_flattened_mut());
                both
            }),
            residual: matmul.residual.map(|residual| residual.window(rows.clone(), columns.clone())),
            out: matmul.out.window(rows, columns),
        })
    }

    /// Takes on the rows of a tile, the next of the block.
    #[inline(always)]
    pub(in crate::matmul) fn follow(&mut self, tile: &Tile) {
        self.rows = self.rows.end..self.rows.end + tile.rows;
        self.sums = tile.c;
    }

    /// Its rows, to be done along with the runs of a tile of `steps` steps.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(in crate::matmul) fn rest(&self, steps: usize) -> Rest {
        let each = self.rows.len().div_ceil(steps.div_ceil(RUN));
        Rest { rows: 0..self.rows.len(), each }
    }

    /// All of its rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn all(&self) -> Rest {
        Rest { rows: 0..self.rows.len(), each: self.rows.len() }
    }
}

/// Rows that are not done yet.
#[cfg(target_arch = "x86_64")]
pub(in crate::matmul) struct Rest {
    rows: Range<usize>,
    /// With each run.
    each: usize,
}

#[cfg(target_arch = "x86_64")]
impl Rest {
    /// Those of the next run.
    #[inline(always)]
    pub(super) fn part(&mut self) -> Range<usize> {
        let from = self.rows.start;
        self.rows.start = self.rows.end.min(from + self.each);
        from..self.rows.start
    }
}

//! The innermost step of a matmul: a tile of a few rows by one or two panels, held in registers.

use super::epilogue::late;
use crate::isa::Isa;
use dreamc_num::DType;

/// Steps of which the packed words of a row lie side by side, those of the strip's next row behind them.
pub(crate) const RUN: usize = 16;

/// What one call works on. A step is one k for f32 weights, two for bf16 weights, four for codes of 8 bits; it takes 16 words
/// of a panel and [`Micro::a_words`] words of the packed rows.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Number of steps.
    pub(crate) steps: usize,
    /// What is wanted next.
    pub(crate) next: Next,
    /// Packed rows.
    pub(crate) a: *const u32,
    /// One or two panels.
    pub(crate) b: [*const u32; 2],
    /// Result: 16 neighbouring floats per panel, or the bits of as many i32 where codes are multiplied.
    pub(crate) c: *mut f32,
    /// From row to row of the result.
    pub(crate) c_stride: usize,
    /// Rows to compute, at most [`Micro::rows`].
    pub(crate) rows: usize,
    /// Panels to compute, at most [`Micro::panels`].
    pub(crate) panels: usize,
    /// Where panels in few bits have the sums of their codes, 16 each; looked at for [`Pack::ShiftedCodes`] alone.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only tiles of AVX take shifted codes")
    )]
    pub(crate) sums: [*const i32; 2],
    /// Whether to go on from what the result holds, or from the start.
    pub(crate) resume: bool,
    /// Tiles that follow, the same of the next rows.
    pub(crate) more: More,
}

/// How tiles of neighbouring strips follow each other.
#[derive(Clone, Copy)]
pub(crate) struct More {
    /// How many.
    pub(crate) count: usize,
    /// Words from the packed rows of one to those of the next.
    pub(crate) a: usize,
    /// From one result to the next.
    pub(crate) c: isize,
    /// Whether results take turns in two places.
    pub(crate) turns: bool,
}

impl More {
    /// None.
    pub(crate) const NONE: More = More { count: 0, a: 0, c: 0, turns: false };
}

/// Bytes that are wanted soon. Tiles ask for them a little at a time, between runs.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    /// Start of one or two parts.
    pub(crate) start: [*const u8; 2],
    /// Cache lines of each part that are asked for with every run.
    pub(crate) lines: usize,
}

impl Next {
    /// Nothing.
    pub(crate) const NONE: Next = Next { start: [std::ptr::null(); 2], lines: 0 };
    /// Bytes of a cache line.
    pub(super) const LINE: usize = 64;

    /// Of parts of `bytes` bytes each the first of as many pieces, to be asked for by as many tiles of `steps` steps.
    pub(crate) fn of(start: [*const u8; 2], bytes: usize, pieces: usize, steps: usize) -> Next {
        let lines = bytes.div_ceil(Next::LINE).div_ceil(pieces);
        Next { start, lines: lines.div_ceil((steps / RUN).max(1)) }
    }

    /// The piece behind those that so many tiles of `steps` steps ask for.
    pub(crate) fn advance(&mut self, tiles: usize, steps: usize) {
        let bytes = tiles * steps.div_ceil(RUN) * self.lines * Next::LINE;
        self.start = self.start.map(|start| start.wrapping_add(bytes));
    }

    #[inline(always)]
    fn ask(&self, time: usize) {
        for line in time * self.lines..(time + 1) * self.lines {
            for start in self.start {
                ask(start.wrapping_add(line * Next::LINE));
            }
        }
    }
}

/// Asks for a line in the nearest cache.
#[inline(always)]
pub(crate) fn ask(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, for any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Some steps of a tile.
pub(super) struct Run {
    /// Where the words of the first row begin.
    pub(super) a: *const u32,
    /// The same of the panels.
    pub(super) b: [*const u32; 2],
    pub(super) steps: usize,
}

impl Tile {
    /// Calls `run` with it and with those that follow.
    #[inline(always)]
    pub(crate) fn each(&self, mut run: impl FnMut(&Tile)) {
        let mut tile = *self;
        run(&tile);
        for _ in 0..self.more.count {
            tile.next.advance(1, tile.steps);
            tile.a = tile.a.wrapping_add(tile.more.a);
            tile.c = tile.c.wrapping_offset(tile.more.c);
            if tile.more.turns {
                tile.more.c = -tile.more.c;
            }
            run(&tile);
        }
    }

    /// Its runs, the last one maybe shorter, packed rows having `a_words` words in a step; asks for what is wanted next
    /// between them.
    #[inline(always)]
    pub(super) fn runs(&self, a_words: usize) -> impl Iterator<Item = Run> {
        (0..self.steps).step_by(RUN).enumerate().map(move |(time, from)| {
            self.next.ask(time);
            Run {
                a: self.a.wrapping_add(from * a_words),
                b: self.b.map(|b| b.wrapping_add(from * 16)),
                steps: RUN.min(self.steps - from),
            }
        })
    }
}

/// A tile kernel of one instruction set and one pair of element types.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    /// Rows of a strip.
    pub(crate) rows: usize,
    /// Panels that one call can take.
    pub(crate) panels: usize,
    /// How rows are packed.
    pub(crate) pack: Pack,
    /// The kernel. Unsafe: the pointers of the tile, and of those that follow it, cover what it says, the host has the
    /// instructions.
    pub(crate) run: unsafe fn(&Tile),
    /// Kernels that between runs do what is left to do for an earlier tile.
    pub(super) late: Option<late::Runs>,
}

/// How the rows of the left operand are packed, `[steps / 16][rows]` times a run of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pack {
    /// f32 for f32 weights: a step is one k.
    Single,
    /// f32 for bf16 weights: a step is two k.
    Wide,
    /// Two bf16 a step.
    Pairs,
    /// Four codes of 8 bits a step; 0 beyond k.
    Codes,
    /// The same as bytes without sign, 128 added to each; 0 beyond k. Sums become too large by 128 times the sum of the
    /// weight's codes, so they start as much below 0.
    ShiftedCodes,
}

impl Pack {
    /// Words of a row in a step.
    pub(super) fn words(self) -> usize {
        if self == Pack::Wide { 2 } else { 1 }
    }
}

impl Micro {
    /// Words of packed rows in a step.
    pub(crate) fn a_words(&self) -> usize {
        self.rows * self.pack.words()
    }

    /// Words of a packed strip of so many steps: whole runs.
    pub(crate) fn strip_words(&self, steps: usize) -> usize {
        steps.next_multiple_of(RUN) * self.a_words()
    }

    /// The first word of a run of row `r`, in packed rows of `steps` steps: the run of step `from`, a multiple of [`RUN`].
    #[inline(always)]
    pub(crate) fn run_at(&self, steps: usize, r: usize, from: usize) -> usize {
        let in_strip = from * self.rows + r % self.rows * RUN;
        r / self.rows * self.strip_words(steps) + in_strip * self.pack.words()
    }

    /// Whether it multiplies codes.
    pub(crate) fn codes(&self) -> bool {
        matches!(self.pack, Pack::Codes | Pack::ShiftedCodes)
    }

    /// Steps for `k` columns.
    pub(crate) fn steps(&self, k: usize) -> usize {
        match self.pack {
            Pack::Single => k,
            Pack::Wide | Pack::Pairs => k.div_ceil(2),
            Pack::Codes | Pack::ShiftedCodes => k.div_ceil(4),
        }
    }

    /// The kernel for activations `x` and `weights`, both f32 or bf16.
    pub(crate) fn select(isa: Isa, x: DType, weights: DType) -> Micro {
        let pack = match (weights, x, isa) {
            (DType::F32, _, _) => Pack::Single,
            (_, DType::BF16, Isa::Avx512Bf16 | Isa::NeonMatrix) => Pack::Pairs,
            _ => Pack::Wide,
        };
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 => super::avx512::micro(pack),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni | Isa::Avx2 => super::avx2::micro(pack),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonMatrix if pack == Pack::Pairs => super::neon_matrix::micro(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonMatrix | Isa::NeonDot | Isa::Neon => super::neon::micro(pack),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 | Isa::AvxVnni | Isa::Avx2 => {
                super::plain::micro(pack)
            }
            #[cfg(not(target_arch = "aarch64"))]
            Isa::NeonMatrix | Isa::NeonDot | Isa::Neon => super::plain::micro(pack),
            Isa::Plain => super::plain::micro(pack),
        }
    }
}

/// Calls `$kernel::<rows, panels>` for the tile's rows, with it and those that follow.
macro_rules! by_rows {
    ($tile:expr, $kernel:ident, $panels:literal, $max:literal: $($rows:literal)*) => {
        match $tile.rows {
            // SAFETY: passed on from the caller.
            $($rows => $tile.each(|tile| unsafe { $kernel::<$rows, $panels>(tile) }),)*
            // SAFETY: passed on from the caller.
            _ => $tile.each(|tile| unsafe { $kernel::<$max, $panels>(tile) }),
        }
    };
}
pub(crate) use by_rows;

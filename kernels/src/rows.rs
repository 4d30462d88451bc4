//! Rows and columns that move: nothing is computed.
//!
//! Rows whose index lies outside come out as 0, so that no memory is touched that should not be; whoever launches has
//! checked the indices that a caller gave.

use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::math::{Packed, UNITS, load};
use crate::record::Recorder;
use cubecl::prelude::*;

/// Rows of a table, or of a part of it: buffers `ids` i32 `[rows]`, `table` `[vocabulary, columns]`, `y` `[rows, columns]`;
/// scalars `rows`, `columns`, `first`, `vocabulary`.
///
/// The table that is bound holds the rows of ids `first..first + vocabulary`. Ids below `first` leave their row of `y`
/// alone, ids behind the last and negative ones give zeros. So a table that is larger than a binding may be is read by
/// a launch per part, in ascending order, and a whole one by a single launch with `first` 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Embed {
    /// How the table is stored.
    pub table: Table,
    /// Type of the result.
    pub y: Dtype,
}

/// How a matrix of the checkpoint is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// One by one.
    Floats(Dtype),
    /// bf16, two in a u32, the first in the low half: the bytes are those of a list of bf16. For every target.
    PackedBF16,
    /// f16 likewise.
    PackedF16,
}

/// Rows that move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rows {
    /// Blocks from one buffer to another: `y[o * y_stride + y_first + i] = x[o * x_stride + x_first + i]` for `o` below
    /// `blocks` and `i` below `length`. Copies, slices, concatenations (a launch per part) and dropped rows are this.
    /// Elements of any type as large as this one: they are moved as bits where they have four bytes.
    Copy(Dtype),
    /// Row `i` of `y` is row `index[i]` of batch row `i / taken` of `x`: buffers `x` `[B, rows, columns]`, `index` i32
    /// `[B, taken]`, `y` `[B, taken, columns]`; scalars `all` (`B * taken`), `taken`, `rows`, `columns`.
    Take(Dtype),
    /// Row `i` is row `index[i]` of `rows` where the index is not negative, else row `i` of `x`: buffers `x` `[all,
    /// columns]` (left out in place), `index` i32 `[all]`, `rows` `[given, columns]`, `y`; scalars `all`, `given`,
    /// `columns`.
    Splice {
        /// Type of the rows.
        float: Dtype,
        /// Whether `y` holds `x`.
        in_place: bool,
    },
    /// Row `p` of every batch row is row `p - 1`, row 0 stays: buffers `x` `[B, rows, columns]`, `y`; scalars `all` (`B *
    /// rows`), `rows`, `columns`. Elements as with [`Rows::Copy`].
    Shift(Dtype),
}

impl Table {
    /// The type that a target must have.
    pub(crate) const fn float(self) -> Option<Dtype> {
        match self {
            Table::Floats(float) => Some(float),
            Table::PackedBF16 | Table::PackedF16 => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Table::Floats(float) => float.name(),
            Table::PackedBF16 => "bf16x2",
            Table::PackedF16 => "f16x2",
        }
    }

    pub(crate) const fn element(self) -> Element {
        match self {
            Table::Floats(float) => float.element(),
            Table::PackedBF16 => Element::BF16x2,
            Table::PackedF16 => Element::F16x2,
        }
    }
}

/// Calls a launch with the type of a stored matrix and how it is packed.
macro_rules! stored {
    ($table:expr => ($name:ident, $packed:ident), $rest:tt => $launch:expr) => {
        match $table {
            $crate::rows::Table::Floats(float) => {
                let $packed = $crate::math::Packed::No;
                match float {
                    $crate::kernel::Float::F32 => {
                        type $name = f32;
                        $crate::kernel::floats!($rest => $launch)
                    }
                    $crate::kernel::Float::F16 => {
                        type $name = half::f16;
                        $crate::kernel::floats!($rest => $launch)
                    }
                    $crate::kernel::Float::BF16 => {
                        type $name = half::bf16;
                        $crate::kernel::floats!($rest => $launch)
                    }
                }
            }
            $crate::rows::Table::PackedBF16 => {
                let $packed = $crate::math::Packed::BF16;
                type $name = u32;
                $crate::kernel::floats!($rest => $launch)
            }
            $crate::rows::Table::PackedF16 => {
                let $packed = $crate::math::Packed::F16;
                type $name = u32;
                $crate::kernel::floats!($rest => $launch)
            }
        }
    };
}
pub(crate) use stored;

/// Calls a launch with a type that moves elements of this size.
macro_rules! moved {
    ($float:expr => ($name:ident, $element:ident), $launch:expr) => {
        match $float {
            Dtype::F32 => {
                let $element = Element::U32;
                type $name = u32;
                floats!(() => $launch)
            }
            Dtype::F16 => {
                let $element = Element::F16;
                type $name = half::f16;
                floats!(() => $launch)
            }
            Dtype::BF16 => {
                let $element = Element::BF16;
                type $name = half::bf16;
                floats!(() => $launch)
            }
        }
    };
}

/// A grid over rows and, along y, pieces of rows.
fn by_row(rows: &'static str) -> [Extent; 3] {
    [
        Extent::Ceil { of: rows, per: 1, any: true },
        Extent::Ceil { of: "columns", per: UNITS * 4, any: true },
        Extent::Constant(1),
    ]
}

impl Embed {
    pub(crate) fn name(&self) -> String {
        format!("{}_embed_to_{}_rowwise", self.table.name(), self.y.name())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        stored!(self.table => (W, packed), (self.y => Y) => embed::launch_unchecked::<W, Y>(
            r.client(),
            r.grid(by_row("rows")),
            CubeDim::new_1d(UNITS),
            r.buffer("ids", Element::I32),
            r.buffer("table", self.table.element()),
            r.buffer("y", self.y.element()),
            r.int("rows"),
            r.int("columns"),
            r.int("first"),
            r.int("vocabulary"),
            packed,
        ));
    }
}

impl Rows {
    /// The type that a target must have.
    pub(crate) const fn float(self) -> Option<Dtype> {
        match self {
            Rows::Copy(float) | Rows::Take(float) | Rows::Splice { float, .. } | Rows::Shift(float) => {
                Some(float)
            }
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Rows::Copy(Dtype::F32) => "b32_copy_blocks".into(),
            Rows::Copy(float) => format!("{}_copy_blocks", float.name()),
            Rows::Take(float) => format!("{}_take_rows_rowwise", float.name()),
            Rows::Splice { float, in_place: false } => format!("{}_splice_apart", float.name()),
            Rows::Splice { float, in_place: true } => format!("{}_splice_inplace", float.name()),
            Rows::Shift(Dtype::F32) => "b32_shift_rows_rowwise".into(),
            Rows::Shift(float) => format!("{}_shift_rows_rowwise", float.name()),
        }
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let units = CubeDim::new_1d(UNITS);
        match *self {
            Rows::Copy(float) => {
                let grid = [
                    Extent::Ceil { of: "length", per: UNITS, any: true },
                    Extent::Ceil { of: "blocks", per: 1, any: true },
                    Extent::Constant(1),
                ];
                moved!(float => (F, element), copy::launch_unchecked::<F>(
                    r.client(),
                    r.grid(grid),
                    units,
                    r.buffer("x", element),
                    r.buffer("y", element),
                    r.int("blocks"),
                    r.int("length"),
                    r.int("x_stride"),
                    r.int("x_first"),
                    r.int("y_stride"),
                    r.int("y_first"),
                ))
            }
            Rows::Take(float) => {
                let element = float.element();
                floats!((float => F) => take::launch_unchecked::<F>(
                    r.client(),
                    r.grid(by_row("all")),
                    units,
                    r.buffer("x", element),
                    r.buffer("index", Element::I32),
                    r.buffer("y", element),
                    r.int("all"),
                    r.int("taken"),
                    r.int("rows"),
                    r.int("columns"),
                ));
            }
            Rows::Splice { float, in_place } => {
                let element = float.element();
                floats!((float => F) => splice::launch_unchecked::<F>(
                    r.client(),
                    r.grid(by_row("all")),
                    units,
                    (!in_place).then(|| r.buffer("x", element)).into(),
                    r.buffer("index", Element::I32),
                    r.buffer("rows", element),
                    r.buffer("y", element),
                    r.int("all"),
                    r.int("given"),
                    r.int("columns"),
                ));
            }
            Rows::Shift(float) => moved!(float => (F, element), shift::launch_unchecked::<F>(
                r.client(),
                r.grid(by_row("all")),
                units,
                r.buffer("x", element),
                r.buffer("y", element),
                r.int("all"),
                r.int("rows"),
                r.int("columns"),
            )),
        }
    }
}

#[cube(launch_unchecked)]
fn embed<W: Numeric, Y: Float>(
    ids: &[i32],
    table: &[W],
    y: &mut [Y],
    rows: u32,
    columns: u32,
    first: u32,
    vocabulary: u32,
    #[comptime] packed: Packed,
) {
    let mut row = CUBE_POS_X;
    while row < rows {
        // A negative id is a large number.
        let id = u32::cast_from(ids[row as usize]);
        // A row of an earlier part is there already: an empty range.
        let end = select(id < first, 0u32, columns);
        let mut i = CUBE_POS_Y * CUBE_DIM_X + UNIT_POS_X;
        while i < end {
            let mut value = 0.0f32;
            if id - first < vocabulary {
                value = load(table, ((id - first) * columns + i) as usize, packed);
            }
            y[(row * columns + i) as usize] = Y::cast_from(value);
            i += CUBE_COUNT_Y * CUBE_DIM_X;
        }
        row += CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn copy<F: Numeric>(
    x: &[F],
    y: &mut [F],
    blocks: u32,
    length: u32,
    x_stride: u32,
    x_first: u32,
    y_stride: u32,
    y_first: u32,
) {
    let mut block = CUBE_POS_Y;
    while block < blocks {
        let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
        while i < length {
            y[(block * y_stride + y_first + i) as usize] = x[(block * x_stride + x_first + i) as usize];
            i += CUBE_COUNT_X * CUBE_DIM_X;
        }
        block += CUBE_COUNT_Y;
    }
}

#[cube(launch_unchecked)]
fn take<F: Float>(x: &[F], index: &[i32], y: &mut [F], all: u32, taken: u32, rows: u32, columns: u32) {
    let mut row = CUBE_POS_X;
    while row < all {
        let from = u32::cast_from(index[row as usize]);
        let start = (row / taken * rows + from) * columns;
        let mut i = CUBE_POS_Y * CUBE_DIM_X + UNIT_POS_X;
        while i < columns {
            let mut value = F::new(0.0);
            if from < rows {
                value = x[(start + i) as usize];
            }
            y[(row * columns + i) as usize] = value;
            i += CUBE_COUNT_Y * CUBE_DIM_X;
        }
        row += CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn splice<F: Float>(
    x: ComptimeOption<Box<[F]>>,
    index: &[i32],
    rows: &[F],
    y: &mut [F],
    all: u32,
    given: u32,
    columns: u32,
) {
    let mut row = CUBE_POS_X;
    while row < all {
        let from = index[row as usize];
        let mut i = CUBE_POS_Y * CUBE_DIM_X + UNIT_POS_X;
        while i < columns {
            let at = (row * columns + i) as usize;
            if from >= 0 {
                let mut value = F::new(0.0);
                if u32::cast_from(from) < given {
                    value = rows[(u32::cast_from(from) * columns + i) as usize];
                }
                y[at] = value;
            } else {
                if comptime!(x.is_some()) {
                    let x = x.as_ref().unwrap();
                    y[at] = x[at];
                }
            }
            i += CUBE_COUNT_Y * CUBE_DIM_X;
        }
        row += CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn shift<F: Numeric>(x: &[F], y: &mut [F], all: u32, rows: u32, columns: u32) {
    let mut row = CUBE_POS_X;
    while row < all {
        let from = row - select(row % rows == 0, 0u32, 1u32);
        let mut i = CUBE_POS_Y * CUBE_DIM_X + UNIT_POS_X;
        while i < columns {
            y[(row * columns + i) as usize] = x[(from * columns + i) as usize];
            i += CUBE_COUNT_Y * CUBE_DIM_X;
        }
        row += CUBE_COUNT_X;
    }
}

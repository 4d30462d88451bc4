//! Tiles of matmuls on matrix units: what a workgroup computes at once, and which tile suits how many rows.
//!
//! # The floor
//!
//! A step costs `rows * columns * depth` FLOP in 16 bits, `(rows + columns) * depth` bytes from memory, as many into shared
//! memory, and `(warp_rows + warp_columns) * depth / slices` out of it for each warp:
//!
//! | tile | warps of | slices | FLOP a byte from memory | out of shared memory | for |
//! | --- | --- | --- | --- | --- | --- |
//! | 128 x 128 x 128 | 64 x 64 | 1 | 64 | 32 | many rows |
//! | 64 x 256 x 128 | 64 x 64 | 1 | 51 | 32 | rows in 64s, of wide weights |
//! | 96 x 128 x 128 | 48 x 64 | 1 | 55 | 27 | rows in 96s |
//! | 80 x 128 x 128 | 80 x 32 | 1 | 49 | 23 | rows in 80s |
//! | 64 x 128 x 128 | 32 x 64 | 1 | 43 | 21 | rows in 64s |
//! | 64 x 64 x 128 | 32 x 32 | 1 | 32 | 16 | what would be too few of those to go round |
//! | 64 x 32 x 256 | 64 x 32 | 4 | 21 | 21 | up to 64 rows, where weights are not wide |
//! | 32 x 32 x 256 | 32 x 32 | 4 | 16 | 16 | up to 32 rows |
//! | 16 x 32 x 256 | 16 x 32 | 4 | 11 | 11 | up to 16 rows |
//!
//! A multiprocessor of an A100 has 2048 FLOP and 128 bytes of shared memory a clock. So the largest tile needs 32 + 64 bytes a
//! clock and can keep the matrix units busy. The last three read every weight once and multiply it with so few rows that
//! memory is what they wait for. They are cut along K among warps, so that tiles are narrow and go round.
//!
//! No device has been measured; what NVRTC makes of them is asserted in `golden/tests/sass.rs`.

use crate::emit::Form;
use crate::linear::Linear;
use crate::ptx::{CHUNK, FEATURES, Multiplied, ROWS, STEP, WARP};
use crate::rows::Table;
use crate::target::{Capabilities, Target};

/// Columns between the rows of sums in shared memory, beside those of a tile: four rows that are written together lie in
/// different banks.
const APART: u32 = 8;

/// Clocks until a copy from memory is there, under load.
pub(crate) const LATENCY: u32 = 800;

/// Results that a unit computes before it writes them.
pub(crate) const BATCH: u32 = 8;

/// What a workgroup computes at once on matrix units. Sides of a warp divide those of the tile; with SwiGLU, half of
/// `warp_columns` is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MatrixTile {
    /// Rows of the result.
    pub rows: u32,
    /// Rows of the weights, with SwiGLU of both together.
    pub columns: u32,
    /// Bytes along K of a stage, a multiple of 128.
    pub depth: u32,
    /// Rows of a warp, a multiple of 16.
    pub warp_rows: u32,
    /// Columns of a warp, a multiple of 16.
    pub warp_columns: u32,
    /// Warps that share a part of the result, each with a part of `depth`.
    pub slices: u32,
    /// Stages, 2 to 5.
    pub stages: u32,
    /// Workgroups that share K, 1 to 8. The last to come adds what all have, in their order.
    pub splits: u32,
}

/// What rows are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    /// Rows of all weights together.
    pub(crate) columns: u32,
    /// Bytes of a row.
    pub(crate) k_bytes: u32,
    /// Whether workgroups may share K.
    pub(crate) shared: bool,
}

impl MatrixTile {
    /// For many rows.
    pub const WIDE: MatrixTile = MatrixTile {
        rows: 128,
        columns: 128,
        depth: 128,
        warp_rows: 64,
        warp_columns: 64,
        slices: 1,
        stages: 3,
        splits: 1,
    };
    /// For rows in 64s, of wide weights.
    pub const BROAD: MatrixTile = MatrixTile { rows: 64, columns: 256, stages: 2, ..MatrixTile::WIDE };
    /// For rows in 96s.
    pub const THREE_QUARTERS: MatrixTile = MatrixTile { rows: 96, warp_rows: 48, ..MatrixTile::WIDE };
    /// For rows in 80s.
    pub const FIVE_EIGHTHS: MatrixTile =
        MatrixTile { rows: 80, warp_rows: 80, warp_columns: 32, ..MatrixTile::WIDE };
    /// For rows in 64s.
    pub const HALF: MatrixTile = MatrixTile { rows: 64, warp_rows: 32, ..MatrixTile::WIDE };
    /// Where there are too few of those to go round.
    pub const SMALL: MatrixTile = MatrixTile { columns: 64, warp_columns: 32, ..MatrixTile::HALF };
    /// For up to 64 rows, of weights that are not wide.
    pub const NARROW: MatrixTile = MatrixTile { rows: 64, warp_rows: 64, stages: 3, ..MatrixTile::FLAT };
    /// For up to 32 rows.
    pub const LOW: MatrixTile = MatrixTile { rows: 32, warp_rows: 32, stages: 3, ..MatrixTile::FLAT };
    /// For up to 16 rows.
    pub const FLAT: MatrixTile = MatrixTile {
        rows: 16,
        columns: 32,
        depth: 256,
        warp_rows: 16,
        warp_columns: 32,
        slices: 4,
        stages: 4,
        splits: 1,
    };

    /// Every tile that tables are made of.
    pub const ALL: [MatrixTile; 9] = [
        MatrixTile::WIDE,
        MatrixTile::BROAD,
        MatrixTile::THREE_QUARTERS,
        MatrixTile::FIVE_EIGHTHS,
        MatrixTile::HALF,
        MatrixTile::SMALL,
        MatrixTile::NARROW,
        MatrixTile::LOW,
        MatrixTile::FLAT,
    ];

    /// Those for more than 32 rows. The larger ones read less.
    const MANY: [MatrixTile; 10] = [
        MatrixTile::WIDE,
        MatrixTile::BROAD,
        MatrixTile::THREE_QUARTERS,
        MatrixTile::FIVE_EIGHTHS,
        MatrixTile::HALF,
        MatrixTile::SMALL,
        MatrixTile::NARROW,
        MatrixTile { splits: 2, ..MatrixTile::WIDE },
        MatrixTile { splits: 3, ..MatrixTile::WIDE },
        MatrixTile { splits: 2, ..MatrixTile::HALF },
    ];

    /// Clocks that the busiest multiprocessor needs for `rows` rows and `matrix`.
    pub(crate) fn clocks_of(self, rows: u32, matrix: Matrix, capabilities: &Capabilities) -> u64 {
        let tiles = rows.div_ceil(self.rows).saturating_mul(matrix.columns.div_ceil(self.columns));
        let groups = u64::from(tiles) * u64::from(self.splits);
        let own = groups.div_ceil(u64::from(capabilities.processors.max(1)));
        let step = (own * u64::from(self.clocks(capabilities.products))).max(u64::from(self.waits()));
        let steps = matrix.k_bytes.div_ceil(self.depth).div_ceil(self.splits);
        step * u64::from(steps) + own * u64::from(self.adding())
    }

    /// Whether workgroups may share K of `matrix`, and each has a step for every stage.
    pub(crate) const fn shares(self, matrix: Matrix) -> bool {
        matrix.shared && matrix.k_bytes / self.depth / self.splits >= self.stages
    }

    /// Clocks in which a workgroup of several that share K hands over its sums, and the last adds them, with 32 bytes a clock to L2
    /// and 64 from there.
    pub(crate) const fn adding(self) -> u32 {
        let bytes = 4 * self.rows * self.columns;
        if self.splits > 1 { bytes / 32 + bytes / 64 + 2 * LATENCY } else { 0 }
    }

    /// Tiles by the number of rows up to `most`, each up to so many. A tile stays where another
    /// would be better by little: every tile is a kernel more.
    pub(crate) fn table(most: u32, matrix: Matrix, capabilities: &Capabilities) -> Vec<(u32, MatrixTile)> {
        /// Rows between two looks.
        const STEP: u32 = 16;
        /// Above, the largest tile is always best, or nearly.
        const ROWS_MAX: u32 = 1024;
        /// What another tile must save, in parts of a hundred.
        const SAVED: u64 = 4;
        let mut table = vec![(16, MatrixTile::FLAT)];
        if most > 16 {
            table.push((32, MatrixTile::LOW));
        }
        let ends = (32 + STEP..=ROWS_MAX).step_by(STEP as usize).chain([u32::MAX]);
        for end in ends {
            let Some(last) = table.last_mut() else { break };
            if last.0 >= most {
                break;
            }
            let clocks = |tile: &MatrixTile| tile.clocks_of(end, matrix, capabilities);
            let fits = |tile: &MatrixTile| tile.splits == 1 || tile.shares(matrix);
            let best =
                MatrixTile::MANY.into_iter().filter(fits).min_by_key(clocks).unwrap_or(MatrixTile::WIDE);
            let tile = match end {
                u32::MAX => MatrixTile::WIDE,
                _ if MatrixTile::MANY.contains(&last.1)
                    && clocks(&last.1) * 100 <= clocks(&best) * (100 + SAVED) =>
                {
                    last.1
                }
                _ => best,
            };
            if last.1 == tile {
                last.0 = end;
            } else {
                table.push((end, tile));
            }
        }
        table
    }

    /// Clocks that a step waits for where nothing else is done meanwhile.
    pub(crate) const fn waits(self) -> u32 {
        LATENCY / (self.stages - 1)
    }

    /// Clocks of a step in 16 bits on a multiprocessor with so many products a clock.
    pub(crate) const fn clocks(self, products: u32) -> u32 {
        let multiplied = self.rows * self.columns * self.depth / 2 / if products > 0 { products } else { 1 };
        let shared = self.shared_clocks();
        if multiplied > shared { multiplied } else { shared }
    }

    /// Clocks of a step in which shared memory is busy, with 128 bytes in each.
    pub(crate) const fn shared_clocks(self) -> u32 {
        let read = self.warps() * (self.warp_rows + self.warp_columns) * self.depth / self.slices;
        (read + self.stage_bytes()) / 128
    }

    /// Warps of a workgroup.
    pub(crate) const fn warps(self) -> u32 {
        self.rows / self.warp_rows * (self.columns / self.warp_columns) * self.slices
    }

    /// Bytes of a stage.
    pub(crate) const fn stage_bytes(self) -> u32 {
        (self.rows + self.columns) * self.depth
    }

    /// Results of a unit.
    pub(crate) const fn each(self, weights: u32) -> u32 {
        self.rows * (self.columns / weights) / (self.warps() * WARP)
    }

    /// Columns of a row of sums.
    pub(crate) const fn pitch(self) -> u32 {
        self.columns + APART
    }

    /// Shared memory: of the stages, or of the sums that take their place.
    pub const fn shared_bytes(self) -> u32 {
        let sums = 4 * self.slices * self.rows * self.pitch();
        let stages = self.stages * self.stage_bytes();
        if sums > stages { sums } else { stages }
    }

    pub(crate) fn name(self) -> String {
        let MatrixTile { rows, columns, depth, warp_rows, warp_columns, slices, stages, splits } = self;
        let splits = if splits > 1 { format!("over{splits}") } else { String::new() };
        let slices = if slices > 1 { format!("x{slices}") } else { String::new() };
        format!("matrix{rows}x{columns}x{depth}by{warp_rows}x{warp_columns}{slices}in{stages}{splits}")
    }

    /// Inverse of [`MatrixTile::name`].
    pub(crate) fn parse(name: &str) -> Option<MatrixTile> {
        let (sides, rest) = name.strip_prefix("matrix")?.split_once("by")?;
        let (warp, stages) = rest.split_once("in")?;
        let (stages, splits) = stages.split_once("over").unwrap_or((stages, "1"));
        let numbers = |text: &str| text.split('x').map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>();
        let [rows, columns, depth] = numbers(sides)?[..] else { return None };
        let (warp_rows, warp_columns, slices) = match numbers(warp)?[..] {
            [rows, columns] => (rows, columns, 1),
            [rows, columns, slices] => (rows, columns, slices),
            _ => return None,
        };
        let (stages, splits) = (stages.parse().ok()?, splits.parse().ok()?);
        Some(MatrixTile { rows, columns, depth, warp_rows, warp_columns, slices, stages, splits })
    }

    /// What `target` lacks for matrices of these types.
    pub(crate) fn lacks(linear: &Linear, target: &Target) -> Option<String> {
        let capabilities = target.capabilities();
        let has = linear.weights == Table::Floats(linear.x)
            && capabilities.matrix.contains(&linear.x)
            && MatrixTile::runs(target);
        (!has).then(|| format!("matrices of {} by {}", linear.x.name(), linear.weights.name()))
    }

    /// Whether `target` has the instructions.
    pub(crate) fn runs(target: &Target) -> bool {
        target.form() == Form::Cuda && target.capabilities().plane_units == [WARP; 2]
    }

    /// `k`: elements, of `multiplied`. `more_bytes`: of shared memory, beside the tile's own.
    pub(crate) fn check(
        self,
        weights: u32,
        (k, multiplied): (u32, Multiplied),
        more_bytes: u32,
        capabilities: &Capabilities,
    ) -> Result<(), String> {
        let MatrixTile { rows, columns, depth, warp_rows, warp_columns, slices, stages, splits } = self;
        let whole = |n: u32, of: u32| of > 0 && n > 0 && n % of == 0;
        if !k.is_multiple_of(multiplied.in_chunk()) {
            return Err(format!("rows of {k} elements are not whole chunks of {CHUNK} bytes"));
        }
        let sides = whole(warp_rows, ROWS)
            && whole(warp_columns, 2 * FEATURES * weights)
            && whole(rows, warp_rows)
            && whole(columns, warp_columns)
            && whole(depth, 128)
            && whole(depth, STEP * slices)
            && (2..=5).contains(&stages)
            && (1..=8).contains(&splits);
        let even = || {
            let (units, in_row) = (self.warps() * WARP, depth / CHUNK);
            units <= capabilities.units_max
                && whole(units, 8 * in_row)
                && whole(rows * in_row, units)
                && whole(columns * in_row, units * weights)
                && whole(rows * columns, units * weights)
                && whole(self.each(weights), BATCH.min(self.each(weights)))
        };
        if !sides || !even() {
            return Err(format!("its warps cannot share a tile of {rows}x{columns}x{depth}"));
        }
        // Each has a step for every stage at least.
        if splits > 1 && (k / multiplied.in_chunk() * CHUNK / depth) / splits < stages {
            return Err(format!("{k} columns are too few for {splits} workgroups"));
        }
        let bytes = self.shared_bytes() + more_bytes;
        if bytes > capabilities.shared_bytes {
            return Err(format!(
                "{bytes} bytes of shared memory, the target has {}",
                capabilities.shared_bytes
            ));
        }
        Ok(())
    }
}

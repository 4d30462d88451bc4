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
//! With `wgmma` a tile has any multiple of 8 rows up to 256 and 64, 128, 192 or 256 columns: its sides are chosen by the rows
//! that there are ([`MatrixTile::groups`]).
//!
//! A multiprocessor of an A100 has 2048 FLOP and 128 bytes of shared memory a clock. So the largest tile needs 32 + 64 bytes a
//! clock and can keep the matrix units busy. The last three read every weight once and multiply it with so few rows that
//! memory is what they wait for. They are cut along K among warps, so that tiles are narrow and go round.
//!
//! No device has been measured; what NVRTC makes of them is asserted in `golden/tests/sass.rs`.

use crate::emit::Form;
use crate::epilogue::FOUR;
use crate::kernel::Float;
use crate::linear::Linear;
use crate::ptx::{CHUNK, FEATURES, Multiplied, ROWS, STEP, WARP};
use crate::rows::Table;
use crate::target::{Capabilities, Target};
use crate::wgmma::{GROUP_ALIGN, GROUP_DEPTH, GROUP_FEATURES, GROUP_ROWS, GROUP_ROWS_MAX, GROUP_WARPS};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Columns between the rows of sums in shared memory, beside those of a tile: rows that are written together lie in different
/// banks, eight of a warp, or four pairs of a warpgroup.
const APART: u32 = 8;
const GROUP_APART: u32 = 4;

/// Registers of a unit beside the sums, where warpgroups multiply.
const GROUP_REGISTERS: u32 = 56;

/// Clocks until a copy from memory is there, under load.
pub(crate) const LATENCY: u32 = 800;

/// Bytes of L2 that a multiprocessor reads in a clock.
pub(crate) const L2_BYTES: u32 = 64;

/// Times four results that a unit computes before it writes them.
pub(crate) const BATCH: u32 = 2;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Instruction {
    /// A warp, from fragments: `mma.sync`.
    Mma,
    /// Four warps, from shared memory: `wgmma`, which only sm_90a has. Each four have 64 columns and all rows of the tile.
    Wgmma,
}

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
    /// What multiplies.
    pub instruction: Instruction,
}

/// What rows are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) multiplied: Multiplied,
    /// Rows of all weights together.
    pub(crate) columns: u32,
    /// Bytes of a row.
    pub(crate) k_bytes: u32,
    /// Whether workgroups may share K.
    pub(crate) shared: bool,
    /// What a tile may not cross: where a weight or what is turned ends. Tiles have a divisor of each of these columns.
    pub(crate) ends: [u32; 3],
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
        instruction: Instruction::Mma,
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
        instruction: Instruction::Mma,
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

    /// For so many rows of the tile, and columns.
    pub const fn group(rows: u32, columns: u32, stages: u32) -> MatrixTile {
        MatrixTile {
            rows,
            columns,
            depth: GROUP_DEPTH,
            warp_rows: rows,
            warp_columns: GROUP_FEATURES / GROUP_WARPS,
            slices: 1,
            stages,
            splits: 1,
            instruction: Instruction::Wgmma,
        }
    }

    /// Tiles of warpgroups for `rows` rows: those that have few rows too many, in every width for which registers and shared
    /// memory are enough.
    fn groups(rows: u32, multiplied: Multiplied, capabilities: &Capabilities) -> Vec<MatrixTile> {
        /// More tiles than are needed.
        const MORE: u32 = 8;
        /// Bytes for what rows or columns are multiplied by.
        const FACTORS: u32 = 4 * GROUP_ROWS_MAX;
        if capabilities.group_products == 0 {
            return Vec::new();
        }
        let sums = |rows: u32| if multiplied == Multiplied::E4M3 { rows } else { rows / 2 };
        let fits = |tile: &MatrixTile| {
            let registers = (1 << 16) / (tile.warps() * WARP) / 8 * 8;
            sums(tile.rows) + GROUP_REGISTERS <= registers.min(255)
                && tile.shared_bytes() + FACTORS <= capabilities.shared_bytes
        };
        let least = rows.div_ceil(GROUP_ROWS_MAX);
        let rows = (least..=least + MORE).map(|parts| rows.div_ceil(parts).next_multiple_of(GROUP_ROWS));
        let rows: BTreeSet<u32> = rows.filter(|rows| *rows <= GROUP_ROWS_MAX).collect();
        let sides =
            rows.into_iter().rev().flat_map(|rows| [64, 128, 192, 256].map(|columns| (rows, columns)));
        let staged = |(rows, columns)| {
            // As many stages as hide the way from memory.
            let stages = [4, 5, 6, 3].map(|stages| MatrixTile::group(rows, columns, stages));
            let hides = |tile: &&MatrixTile| fits(tile) && tile.waits() <= tile.clocks_on(capabilities);
            stages.iter().find(hides).or_else(|| stages.iter().filter(|tile| fits(tile)).max()).copied()
        };
        sides.filter_map(staged).collect()
    }

    /// Whether warpgroups multiply.
    pub(crate) const fn by_groups(self) -> bool {
        matches!(self.instruction, Instruction::Wgmma)
    }

    /// Stages that are being filled while one is multiplied. Warpgroups may still be at the one before.
    pub(crate) const fn ahead(self) -> u32 {
        if self.by_groups() { self.stages - 2 } else { self.stages - 1 }
    }

    /// Clocks that the busiest multiprocessor needs for `rows` rows and `matrix`.
    pub(crate) fn clocks_of(self, rows: u32, matrix: Matrix, capabilities: &Capabilities) -> u64 {
        let tiles = rows.div_ceil(self.rows).saturating_mul(matrix.columns.div_ceil(self.columns));
        let groups = u64::from(tiles) * u64::from(self.splits);
        let own = groups.div_ceil(u64::from(capabilities.processors.max(1)));
        let step = (own * u64::from(self.clocks_on(capabilities))).max(u64::from(self.waits()));
        let steps = matrix.k_bytes.div_ceil(self.depth).div_ceil(self.splits);
        let bytes = u64::from(rows.saturating_add(matrix.columns)) * u64::from(matrix.k_bytes);
        let memory = bytes / u64::from(capabilities.memory_bytes.max(1));
        (step * u64::from(steps)).max(memory) + own * u64::from(self.adding())
    }

    /// Clocks of a step in 16 bits on a multiprocessor of the target.
    fn clocks_on(self, capabilities: &Capabilities) -> u32 {
        if self.by_groups() {
            self.clocks(capabilities.group_products).max(self.stage_bytes() / L2_BYTES)
        } else {
            self.clocks(capabilities.products)
        }
    }

    /// Whether workgroups may share K of `matrix`, and each has a step for every stage.
    pub(crate) const fn shares(self, matrix: Matrix) -> bool {
        matrix.shared && matrix.k_bytes / self.depth / self.splits >= self.stages
    }

    /// Where workgroups share K: tiles for so many rows and features, and elements of the sums of all of them.
    pub(crate) fn parts(self, rows: u32, features: u32) -> Option<(u32, u32)> {
        let tiles = rows.div_ceil(self.rows) * features.div_ceil(self.columns);
        (self.splits > 1).then_some((tiles, tiles * self.rows * self.columns * self.splits))
    }

    /// Clocks in which a workgroup of several that share K hands over its sums, and the last adds them, with 32 bytes a clock to L2
    /// and 64 from there.
    pub(crate) const fn adding(self) -> u32 {
        let bytes = 4 * self.rows * self.columns;
        if self.splits > 1 { bytes / 32 + bytes / 64 + 2 * LATENCY } else { 0 }
    }

    /// Those that a request of so many rows may be computed in.
    pub(crate) fn serving(rows: u32, matrix: Matrix, capabilities: &Capabilities) -> Vec<MatrixTile> {
        let by_warps = match matrix.multiplied {
            Multiplied::BF16 => capabilities.matrix.contains(&Float::BF16),
            Multiplied::F16 => capabilities.matrix.contains(&Float::F16),
            Multiplied::E4M3 => capabilities.fp8,
        };
        let few = match rows {
            0..=16 => &[MatrixTile::FLAT][..],
            17..=32 => &[MatrixTile::LOW],
            _ => &MatrixTile::MANY,
        };
        let warps = few.iter().copied().filter(|_| by_warps);
        let groups = match by_warps && rows <= 32 {
            true => Vec::new(),
            false => MatrixTile::groups(rows, matrix.multiplied, capabilities),
        };
        let shared = |tile: MatrixTile| {
            let splits = if rows > 32 { 1..=4 } else { 1..=1 };
            splits.map(move |splits| MatrixTile { splits, ..tile })
        };
        let fits = |tile: &MatrixTile| tile.splits == 1 || tile.shares(matrix);
        let whole = |tile: &MatrixTile| matrix.ends.iter().all(|end| end.is_multiple_of(tile.columns));
        warps.chain(groups.into_iter().filter(whole).flat_map(shared)).filter(fits).collect()
    }

    /// Tiles by the number of rows up to `most`, each up to so many. Every tile is a kernel more: they are the fewest with which no
    /// number of rows takes much longer than in the best for it.
    pub(crate) fn table(most: u32, matrix: Matrix, capabilities: &Capabilities) -> Vec<(u32, MatrixTile)> {
        /// Rows between two looks.
        const STEP: usize = 16;
        /// Above, a tile that is good for so many is good for all.
        const ROWS_MAX: u32 = 1024;
        const MANY_ROWS: u32 = 4096;
        // What the best would save, in parts of a hundred. Warpgroups have a best tile for every number of rows.
        let saved = if capabilities.group_products > 0 { 10 } else { 4 };
        let ends: Vec<u32> = (16..=ROWS_MAX).step_by(STEP).chain([MANY_ROWS]).collect();
        let of_end: Vec<Vec<MatrixTile>> =
            ends.iter().map(|end| MatrixTile::serving(*end, matrix, capabilities)).collect();
        let clocks = |tile: &MatrixTile, end: u32| tile.clocks_of(end, matrix, capabilities);
        let best: Vec<u64> = of_end
            .iter()
            .zip(&ends)
            .map(|(tiles, end)| tiles.iter().map(|tile| clocks(tile, *end)).min().unwrap_or(0))
            .collect();
        let good = |tile: &MatrixTile, i: usize| {
            clocks(tile, ends[i]) * 100 <= best[i] * (100 + saved)
                && (ends[i] > 32 || of_end[i].contains(tile))
        };
        // Up to where a tile is good that is taken from end `i` on.
        let reach =
            |tile: &MatrixTile, i: usize| (i..ends.len()).find(|at| !good(tile, *at)).unwrap_or(ends.len());
        let (mut table, mut i) = (Vec::new(), 0);
        while i < ends.len() && table.last().is_none_or(|(up_to, _)| *up_to < most) {
            // Those of later ends are good for this one too, or not.
            let tiles: BTreeSet<MatrixTile> = of_end[i..].iter().flatten().copied().collect();
            let farthest = |tile: &MatrixTile| {
                let to = reach(tile, i);
                let lost: u64 = (i..to).map(|at| clocks(tile, ends[at]) * 1000 / best[at].max(1)).sum();
                (to, Reverse(lost))
            };
            let Some(tile) = tiles.into_iter().max_by_key(farthest) else { break };
            i = reach(&tile, i);
            table.push((if i < ends.len() { ends[i - 1] } else { u32::MAX }, tile));
        }
        table
    }

    /// Clocks that a step waits for where nothing else is done meanwhile.
    pub(crate) const fn waits(self) -> u32 {
        LATENCY / self.ahead()
    }

    /// Clocks of a step in 16 bits on a multiprocessor with so many products a clock.
    pub(crate) const fn clocks(self, products: u32) -> u32 {
        let multiplied = self.rows * self.columns * self.depth / 2 / if products > 0 { products } else { 1 };
        let shared = self.shared_clocks();
        if multiplied > shared { multiplied } else { shared }
    }

    /// Clocks of a step in which shared memory is busy, with 128 bytes in each.
    pub(crate) const fn shared_clocks(self) -> u32 {
        let read = if self.by_groups() {
            self.columns / GROUP_FEATURES * (self.rows + GROUP_FEATURES) * self.depth
        } else {
            self.warps() * (self.warp_rows + self.warp_columns) * self.depth / self.slices
        };
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

    /// Columns of a row of sums.
    pub(crate) const fn pitch(self) -> u32 {
        self.columns + if self.by_groups() { GROUP_APART } else { APART }
    }

    /// Shared memory: of the stages, or of the sums that take their place.
    pub const fn shared_bytes(self) -> u32 {
        let sums = 4 * self.slices * self.rows * self.pitch();
        let stages = self.stages * self.stage_bytes();
        if sums > stages { sums } else { stages }
    }

    /// To what it is aligned.
    pub(crate) const fn shared_align(self) -> u32 {
        if self.by_groups() { GROUP_ALIGN } else { 128 }
    }

    pub(crate) fn name(self) -> String {
        let MatrixTile { rows, columns, depth, warp_rows, warp_columns, slices, stages, splits, instruction } =
            self;
        let splits = if splits > 1 { format!("over{splits}") } else { String::new() };
        if instruction == Instruction::Wgmma {
            return format!("wgmma{rows}x{columns}x{depth}in{stages}{splits}");
        }
        let slices = if slices > 1 { format!("x{slices}") } else { String::new() };
        format!("matrix{rows}x{columns}x{depth}by{warp_rows}x{warp_columns}{slices}in{stages}{splits}")
    }

    /// Inverse of [`MatrixTile::name`].
    pub(crate) fn parse(name: &str) -> Option<MatrixTile> {
        let numbers = |text: &str| text.split('x').map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>();
        let (sides, stages) = name.rsplit_once("in")?;
        let (stages, splits) = stages.split_once("over").unwrap_or((stages, "1"));
        let (stages, splits) = (stages.parse().ok()?, splits.parse().ok()?);
        if let Some(sides) = sides.strip_prefix("wgmma") {
            let [rows, columns, GROUP_DEPTH] = numbers(sides)?[..] else { return None };
            return Some(MatrixTile { splits, ..MatrixTile::group(rows, columns, stages) });
        }
        let (sides, warp) = sides.strip_prefix("matrix")?.split_once("by")?;
        let [rows, columns, depth] = numbers(sides)?[..] else { return None };
        let (warp_rows, warp_columns, slices) = match numbers(warp)?[..] {
            [rows, columns] => (rows, columns, 1),
            [rows, columns, slices] => (rows, columns, slices),
            _ => return None,
        };
        let instruction = Instruction::Mma;
        Some(MatrixTile {
            rows,
            columns,
            depth,
            warp_rows,
            warp_columns,
            slices,
            stages,
            splits,
            instruction,
        })
    }

    /// What `target` lacks for matrices of these types.
    pub(crate) fn lacks(self, linear: &Linear, target: &Target) -> Option<String> {
        let capabilities = target.capabilities();
        let has = linear.weights == Table::Floats(linear.x)
            && MatrixTile::runs(target)
            && match self.instruction {
                Instruction::Mma => capabilities.matrix.contains(&linear.x),
                Instruction::Wgmma => capabilities.group_products > 0 && linear.x != Float::F32,
            };
        let by = if self.by_groups() { " by warpgroups" } else { "" };
        (!has).then(|| format!("matrices of {} by {}{by}", linear.x.name(), linear.weights.name()))
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
        let MatrixTile { rows, columns, depth, warp_rows, warp_columns, slices, stages, splits, .. } = self;
        let whole = |n: u32, of: u32| of > 0 && n > 0 && n % of == 0;
        if !k.is_multiple_of(multiplied.in_chunk()) {
            return Err(format!("rows of {k} elements are not whole chunks of {CHUNK} bytes"));
        }
        let groups = || {
            whole(rows, GROUP_ROWS)
                && rows <= GROUP_ROWS_MAX
                && whole(columns, GROUP_FEATURES)
                && whole(columns, 8 * weights)
                && self == MatrixTile { splits, ..MatrixTile::group(rows, columns, stages) }
                && (3..=6).contains(&stages)
                && (1..=8).contains(&splits)
                && self.warps() * WARP <= capabilities.units_max
        };
        let even = || {
            let (units, in_row) = (self.warps() * WARP, depth / CHUNK);
            units <= capabilities.units_max
                && whole(units, 8 * in_row)
                && whole(rows * in_row, units)
                && whole(columns * in_row, units * weights)
                && whole(rows * columns, FOUR * units)
        };
        let warps = || {
            whole(warp_rows, ROWS)
                && whole(warp_columns, 2 * FEATURES * weights)
                && whole(rows, warp_rows)
                && whole(columns, warp_columns)
                && whole(depth, 128)
                && whole(depth, STEP * slices)
                && (2..=5).contains(&stages)
                && (1..=8).contains(&splits)
                && even()
        };
        if !(if self.by_groups() { groups() } else { warps() }) {
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

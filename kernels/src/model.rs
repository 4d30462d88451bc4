//! What a launch takes on a GPU that nobody has at hand: an estimate, never a measurement.
//!
//! A workgroup of a kernel on matrix units goes through steps along K or along the keys. A step takes as long as the busiest
//! of four: the matrix units, shared memory (128 bytes a clock), the four schedulers (an instruction of a warp a clock each),
//! and what the step waits for where copies are not far enough ahead. A multiprocessor has as many workgroups at once as
//! its registers and its shared memory hold; they share all of these but the waiting. The multiprocessor with the most
//! workgroups decides, and memory, which all share, if that takes longer. Where warpgroups multiply, a multiprocessor mostly has
//! one workgroup, so that what is done to the sums is time in which nobody multiplies. Other kernels are bound by memory, or by
//! rows so long that their loads wait for one another.
//!
//! Registers and instructions are counted in what NVRTC makes of the kernels ([`Counts`]); `golden/tests/sass.rs` fails where
//! they are others. Rates of devices are those of their makers' papers, except where said.

use crate::fp8::LinearFp8;
use crate::linear::Linear;
use crate::ptx::WARP;
use crate::tile::{self, Instruction, MatrixTile};

/// A GPU, by its figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// As `inspect --gpu` takes it.
    pub name: &'static str,
    /// Multiprocessors.
    pub processors: u32,
    /// Clock under load, in MHz.
    pub mhz: u32,
    /// Products of 16 bits with sums in f32 of a multiprocessor in a clock, by `mma.sync`. On Hopper 62 % of what `wgmma` has.
    pub products: u32,
    /// The same by the best instruction there is: the floor.
    pub products_max: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_bytes: u32,
    /// Warps of a multiprocessor.
    pub warps: u32,
    /// Bandwidth of memory in GB/s.
    pub memory: f64,
}

/// The GPUs that are known by name.
pub const GPUS: [Gpu; 6] = [
    Gpu {
        name: "a100",
        processors: 108,
        mhz: 1410,
        products: 1024,
        products_max: 1024,
        shared_bytes: 164 << 10,
        warps: 64,
        memory: 2039.0,
    },
    // 790 TFLOP/s are what the best matmuls reach of 989 on the paper.
    Gpu {
        name: "h100",
        processors: 132,
        mhz: 1755,
        products: 1270,
        products_max: 1705,
        shared_bytes: 228 << 10,
        warps: 64,
        memory: 3350.0,
    },
    Gpu {
        name: "h200",
        processors: 132,
        mhz: 1755,
        products: 1270,
        products_max: 1705,
        shared_bytes: 228 << 10,
        warps: 64,
        memory: 4800.0,
    },
    Gpu {
        name: "rtx4090",
        processors: 128,
        mhz: 2520,
        products: 256,
        products_max: 256,
        shared_bytes: 100 << 10,
        warps: 48,
        memory: 1008.0,
    },
    Gpu {
        name: "rtx5090",
        processors: 170,
        mhz: 2407,
        products: 256,
        products_max: 256,
        shared_bytes: 100 << 10,
        warps: 48,
        memory: 1792.0,
    },
    Gpu {
        name: "orin",
        processors: 16,
        mhz: 1300,
        products: 1024,
        products_max: 1024,
        shared_bytes: 164 << 10,
        warps: 48,
        memory: 204.8,
    },
];

/// Registers of a multiprocessor.
const REGISTERS: u32 = 1 << 16;
/// Shared memory that the driver takes of each workgroup, in bytes.
const SHARED_OF_DRIVER: u32 = 1 << 10;
/// Clocks until a load is there.
const LATENCY: f64 = tile::LATENCY as f64;
/// Bytes of L2 that a multiprocessor reads in a clock.
const L2_BYTES: f64 = tile::L2_BYTES as f64;
/// Part of the bandwidth on the paper that a kernel of loads reaches.
const MEMORY_REACHED: f64 = 0.92;
/// Between two kernels of a graph, in microseconds.
const GAP_US: f64 = 1.0;
/// Clocks in which a workgroup that does next to nothing comes and goes.
const OVERHEAD: f64 = 1200.0;
/// Loads of a unit that are under way at once, where a loop over a row was written out.
const LOADS: f64 = 4.0;
/// Products of f32 of a multiprocessor in a clock, by units, and what part of them a tile of registers reaches.
const UNITS: f64 = 128.0 * 0.5;

/// Registers of a kernel in which they were not counted.
const PLAIN_REGISTERS: u32 = 64;
/// How often kernels go over their rows, by a part of their names. Loads of 16 bytes are a fourth as many.
const PASSES: [(&str, f64); 5] =
    [("norm", 2.0), ("f32_greedy", 0.25), ("sampling_probs", 4.0), ("draw_token", 2.0), ("confidence", 1.0)];

/// What was counted in the machine code of a kernel, of Ampere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Of a unit.
    pub registers: u32,
    /// Instructions of a warp in a step, as many as there are in the loop: not all are executed in each.
    pub instructions: u32,
}

/// Of tiles of matmuls, with the residual in place, left for a norm, and rows of 18944.
pub const LINEAR: [(MatrixTile, Counts); 9] = [
    (MatrixTile::WIDE, Counts { registers: 164, instructions: 303 }),
    (MatrixTile::BROAD, Counts { registers: 162, instructions: 324 }),
    (MatrixTile::THREE_QUARTERS, Counts { registers: 161, instructions: 223 }),
    (MatrixTile::FIVE_EIGHTHS, Counts { registers: 128, instructions: 211 }),
    (MatrixTile::HALF, Counts { registers: 127, instructions: 186 }),
    (MatrixTile::SMALL, Counts { registers: 78, instructions: 112 }),
    (MatrixTile::NARROW, Counts { registers: 121, instructions: 131 }),
    (MatrixTile::LOW, Counts { registers: 70, instructions: 86 }),
    (MatrixTile::FLAT, Counts { registers: 54, instructions: 141 }),
];

/// Where warpgroups multiply: registers beside the sums, of which there are two sets in fp8, and instructions of a step without
/// those that add the one set to the other. At most so many, in every form of the models.
pub const GROUP: Counts = Counts { registers: 64, instructions: 200 };
/// Instructions for a result behind the last step, by a part of the kernel's name: one that is left for a norm, SwiGLU, a turned
/// head, a GELU, any other.
pub const RESULT: [(&str, u32); 5] =
    [("_weighted", 22), ("_swiglu", 36), ("_rope", 38), ("gelu", 32), ("", 16)];

/// Of attention by the width of heads, queries and keys packed.
pub const ATTENTION: [(u32, Counts); 2] =
    [(80, Counts { registers: 158, instructions: 701 }), (128, Counts { registers: 202, instructions: 887 })];

/// A launch at some lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launched<'a> {
    /// The kernel's.
    pub name: &'a str,
    /// Workgroups along x, y, z.
    pub grid: [u32; 3],
    /// Units of a workgroup.
    pub units: u32,
    /// Shared memory of a workgroup.
    pub shared_bytes: u32,
    /// Of all operands and results, once.
    pub bytes: u64,
    /// The first scalar: rows of the result, for attention of the batch.
    pub rows: u32,
    /// The second: for attention the positions of a row.
    pub positions: u32,
    /// Of attention: parts of a row that do not see each other.
    pub segments: u32,
}

/// What holds a launch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// Products.
    MatrixUnits,
    /// Fragments that go in and out of shared memory.
    SharedMemory,
    /// Instructions.
    Schedulers,
    /// Copies that are waited for.
    Latency,
    /// Bytes.
    Memory,
    /// Products of f32 on units.
    Units,
}

impl Limiter {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Limiter::MatrixUnits => "matrix units",
            Limiter::SharedMemory => "shared memory",
            Limiter::Schedulers => "schedulers",
            Limiter::Latency => "latency",
            Limiter::Memory => "memory",
            Limiter::Units => "units",
        }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Workgroups.
    pub groups: u64,
    /// Times that the device is filled with them.
    pub waves: f64,
    /// What takes longest.
    pub limiter: Limiter,
    /// Time in microseconds, with the gap before it.
    pub us: f64,
    /// The least that products and bytes allow, in microseconds.
    pub floor_us: f64,
}

/// What every workgroup does, step by step.
struct Steps {
    count: f64,
    /// Clocks of the matrix units, of shared memory, of the schedulers and of L2 in a step.
    busy: [f64; 4],
    /// Clocks that a step waits if its workgroup is alone.
    waits: f64,
    /// Clocks behind the last step, beside those of every workgroup.
    behind: f64,
    registers: u32,
}

/// What a launch does.
struct Work {
    steps: Option<Steps>,
    /// Of a workgroup without steps: its clocks, and what they go by.
    clocks: f64,
    limiter: Limiter,
    /// Without what tiles are filled up with; of 8 bits half.
    flop: f64,
}

impl Gpu {
    /// The GPU of this name.
    pub fn named(name: &str) -> Option<&'static Gpu> {
        GPUS.iter().find(|gpu| gpu.name == name)
    }

    /// What a launch takes.
    pub fn estimate(&self, launched: &Launched<'_>) -> Estimate {
        let groups = launched.grid.iter().map(|n| u64::from(*n)).product::<u64>();
        let us = |clocks: f64| clocks / f64::from(self.mhz);
        let work = self.work(launched, groups);
        let registers = work.steps.as_ref().map_or(PLAIN_REGISTERS, |steps| steps.registers);
        let resident = u64::from(self.resident(launched, registers));
        let slots = u64::from(self.processors) * resident;
        let (clocks, limiter) = match &work.steps {
            Some(steps) => self.stepped(groups, resident, steps),
            None => (groups.div_ceil(slots) as f64 * (work.clocks + OVERHEAD), work.limiter),
        };
        let bytes_us = launched.bytes as f64 / (self.memory * 1e3);
        let memory_us = bytes_us / MEMORY_REACHED + us(LATENCY);
        let (busy_us, limiter) = match us(clocks) > memory_us {
            true => (us(clocks), limiter),
            false => (memory_us, Limiter::Memory),
        };
        let peak = f64::from(self.products_max) * 2.0 * f64::from(self.processors) * f64::from(self.mhz);
        Estimate {
            groups,
            waves: groups as f64 / slots as f64,
            limiter,
            us: busy_us + GAP_US,
            floor_us: bytes_us.max(work.flop / peak),
        }
    }

    /// Workgroups of a multiprocessor at once.
    fn resident(&self, launched: &Launched<'_>, registers: u32) -> u32 {
        let by_registers = REGISTERS / (registers.next_multiple_of(8) * launched.units).max(1);
        let by_shared = self.shared_bytes / (launched.shared_bytes + SHARED_OF_DRIVER);
        let by_warps = self.warps / launched.units.div_ceil(WARP).max(1);
        by_registers.min(by_shared).min(by_warps).max(1)
    }

    /// Clocks of the multiprocessor with the most workgroups, and what they go by.
    fn stepped(&self, groups: u64, resident: u64, steps: &Steps) -> (f64, Limiter) {
        const OF: [Limiter; 4] =
            [Limiter::MatrixUnits, Limiter::SharedMemory, Limiter::Schedulers, Limiter::Memory];
        let busiest = |most: (Limiter, f64), of: (Limiter, f64)| if of.1 > most.1 { of } else { most };
        let (limiter, busy) = OF.into_iter().zip(steps.busy).fold((OF[0], 0.0), busiest);
        // So many workgroups side by side.
        let round = |side: u64| {
            steps.count * (side as f64 * busy).max(steps.waits)
                + side as f64 * steps.behind
                + OVERHEAD
                + LATENCY
        };
        let own = groups.div_ceil(u64::from(self.processors));
        let (whole, rest) = (own / resident, own % resident);
        let clocks = whole as f64 * round(resident) + if rest > 0 { round(rest) } else { 0.0 };
        let side = if whole > 0 { resident } else { rest };
        (clocks, if (side as f64 * busy) < steps.waits { Limiter::Latency } else { limiter })
    }

    fn work(&self, launched: &Launched<'_>, groups: u64) -> Work {
        if let Some(linear) = LinearName::parse(launched.name) {
            return self.linear(launched, &linear);
        }
        if let Some(attention) = AttentionName::parse(launched.name) {
            return self.attention(launched, &attention);
        }
        // Rows are read as often as the kernel goes over them, each time a word of a unit behind the other.
        let passes =
            PASSES.iter().find(|(of, _)| launched.name.contains(of)).map_or(1.0, |(_, passes)| *passes);
        let of_unit = launched.bytes as f64 / groups.max(1) as f64 / f64::from(launched.units) / 4.0;
        Work {
            steps: None,
            clocks: passes * of_unit / LOADS * LATENCY / 2.0,
            limiter: Limiter::Latency,
            flop: 0.0,
        }
    }

    fn linear(&self, launched: &Launched<'_>, linear: &LinearName) -> Work {
        let LinearName { tile, columns, k, bytes, scaled } = *linear;
        let flop =
            2.0 * f64::from(launched.rows) * f64::from(columns) * f64::from(k) * f64::from(bytes) / 2.0;
        let tile = match tile {
            Named::Units(rows, columns) => {
                let clocks = f64::from(rows * columns) * f64::from(k) / UNITS;
                return Work { steps: None, clocks, limiter: Limiter::Units, flop };
            }
            Named::Matrix(tile) => tile,
        };
        let (counts, products) = match tile.instruction {
            Instruction::Mma => {
                let whole = MatrixTile { splits: 1, ..tile };
                let counts = LINEAR.iter().find(|(of, _)| *of == whole || LinearFp8::tile(*of) == whole);
                (counts.map_or(LINEAR[0].1, |(_, counts)| *counts), self.products)
            }
            Instruction::Wgmma => {
                let (sets, added) = if bytes == 1 { (2, tile.rows / 2) } else { (1, 0) };
                let registers = GROUP.registers + sets * tile.rows / 2;
                let instructions = GROUP.instructions + added;
                (Counts { registers, instructions }, self.products_max)
            }
        };
        let of_result = RESULT.iter().find(|(form, _)| launched.name.contains(form));
        let results = tile.rows * tile.columns / if launched.name.contains("_swiglu") { 2 } else { 1 };
        // A multiprocessor's schedulers have 128 units' instructions in a clock.
        let behind = f64::from(results * of_result.map_or(0, |(_, count)| *count)) / 128.0;
        let steps = Steps {
            count: f64::from((k * bytes).div_ceil(tile.depth).div_ceil(tile.splits)),
            busy: [
                // Products of 8 bits are twice as many, and twice as fast.
                f64::from(tile.rows * tile.columns * tile.depth / 2) / f64::from(products),
                f64::from(tile.shared_clocks()),
                f64::from(counts.instructions * tile.warps()) / 4.0,
                f64::from(tile.stage_bytes()) / L2_BYTES,
            ],
            waits: f64::from(tile.waits()),
            behind: f64::from(tile.adding())
                + behind
                + if scaled { f64::from(4 * tile.rows * Linear::squares(k)) / L2_BYTES } else { 0.0 },
            registers: counts.registers,
        };
        Work { steps: Some(steps), clocks: 0.0, limiter: Limiter::MatrixUnits, flop }
    }

    fn attention(&self, launched: &Launched<'_>, attention: &AttentionName) -> Work {
        let AttentionName { dim, queries, keys, matrix } = *attention;
        let seen = launched.positions.div_ceil(launched.segments.max(1));
        let [across, heads, rows] = launched.grid.map(f64::from);
        let asked = (across * f64::from(queries)).min(f64::from(launched.positions));
        let flop = 4.0 * asked * f64::from(seen) * f64::from(dim) * heads * rows;
        let products = 2.0 * f64::from(queries * dim);
        if !matrix {
            let clocks = products * f64::from(seen) / UNITS;
            return Work { steps: None, clocks, limiter: Limiter::Units, flop };
        }
        let counts = ATTENTION.iter().find(|(of, _)| *of >= dim).unwrap_or(&ATTENTION[ATTENTION.len() - 1]).1;
        let warps = f64::from(launched.units / WARP);
        let steps = Steps {
            count: f64::from(seen.div_ceil(keys)),
            busy: [
                products * f64::from(keys) / f64::from(self.products),
                // Each warp reads all keys and values.
                (warps + 1.0) * f64::from(launched.shared_bytes) / 128.0,
                f64::from(counts.instructions) * warps / 4.0,
                f64::from(2 * keys * dim * 2) / L2_BYTES,
            ],
            // A half is on its way while the other is multiplied.
            waits: 2.0 * LATENCY,
            behind: 0.0,
            registers: counts.registers,
        };
        Work { steps: Some(steps), clocks: 0.0, limiter: Limiter::MatrixUnits, flop }
    }
}

/// What a tile is in a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Named {
    Units(u32, u32),
    Matrix(MatrixTile),
}

/// What the name of a matmul says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LinearName {
    tile: Named,
    /// Rows of all weights.
    columns: u32,
    k: u32,
    /// Of an element.
    bytes: u32,
    scaled: bool,
}

impl LinearName {
    /// `bf16w_bf16_linear_swiglu_to_bf16_n18944k3584_matrix64x256x128by64x64in2`.
    fn parse(name: &str) -> Option<LinearName> {
        let (types, rest) = name.split_once("_linear_")?;
        let (shape, tile) = rest.rsplit_once('_')?;
        let (epilogue, shape) = shape.rsplit_once("_n")?;
        let (features, k) = shape.split_once('k')?;
        let features = features.split('_').map(|n| n.parse::<u32>().ok()).sum::<Option<u32>>()?;
        let tile = match tile.strip_prefix("tile") {
            Some(sides) => {
                let mut sides = sides.split('x').map(|side| side.parse().ok());
                Named::Units(sides.next()??, sides.next()??)
            }
            None => Named::Matrix(MatrixTile::parse(tile)?),
        };
        let columns = features * if epilogue.contains("swiglu") { 2 } else { 1 };
        Some(LinearName {
            tile,
            columns,
            k: k.parse().ok()?,
            bytes: if types.starts_with("e4m3") { 1 } else { 2 },
            scaled: epilogue.contains("scaled"),
        })
    }
}

/// What the name of an attention says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AttentionName {
    dim: u32,
    queries: u32,
    keys: u32,
    matrix: bool,
}

impl AttentionName {
    /// `bf16_attention_packed_h28kv4d128_matrix64x64`.
    fn parse(name: &str) -> Option<AttentionName> {
        let (_, rest) = name.split_once("_attention_")?;
        let (shape, tile) = rest.rsplit_once('_')?;
        let dim = shape.rsplit_once('d')?.1.parse().ok()?;
        let matrix = tile.strip_prefix("matrix");
        let (queries, keys) = matrix.or_else(|| tile.strip_prefix("tile"))?.split_once('x')?;
        Some(AttentionName {
            dim,
            queries: queries.parse().ok()?,
            keys: keys.parse().ok()?,
            matrix: matrix.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let linear =
            LinearName::parse("bf16w_bf16_linear_bias_to_bf16_n3584_512_512k3584_matrix80x128x128by80x32in3");
        let tile = Named::Matrix(MatrixTile::FIVE_EIGHTHS);
        assert_eq!(linear, Some(LinearName { tile, columns: 4608, k: 3584, bytes: 2, scaled: false }));
        let name = "bf16w_bf16_linear_residual_inplace_weighted_to_f32_n8k64_matrix80x128x128by80x32in3";
        let linear = LinearName::parse(name);
        assert_eq!(linear, Some(LinearName { tile, columns: 8, k: 64, bytes: 2, scaled: false }));
        let linear =
            LinearName::parse("e4m3w_e4m3_linear_scaled_swiglu_to_bf16_n8k64_matrix16x32x256by16x32x4in4");
        assert_eq!(
            linear,
            Some(LinearName {
                tile: Named::Matrix(MatrixTile::FLAT),
                columns: 16,
                k: 64,
                bytes: 1,
                scaled: true
            })
        );
        let linear = LinearName::parse("bf16w_f32_linear_to_f32_n8k64_tile64x32x16by4").unwrap();
        assert_eq!(linear.tile, Named::Units(64, 32));
        let attention = AttentionName::parse("bf16_attention_packed_h28kv4d128_matrix64x64");
        assert_eq!(attention, Some(AttentionName { dim: 128, queries: 64, keys: 64, matrix: true }));
        assert_eq!(LinearName::parse("f32_add_inplace"), None);
        for tile in MatrixTile::ALL {
            assert_eq!(MatrixTile::parse(&tile.name()), Some(tile));
        }
    }

    /// What is known without a model: whole waves of full tiles come near what the matrix units can, and bytes near what memory can.
    #[test]
    fn bounds_are_met() {
        for gpu in &GPUS {
            let launched = |name, grid, bytes, rows| Launched {
                name,
                grid,
                units: 128,
                shared_bytes: 98304,
                bytes,
                rows,
                positions: 0,
                segments: 1,
            };
            let name = "bf16w_bf16_linear_to_bf16_n8192k8192_matrix128x128x128by64x64in3";
            let many = gpu.estimate(&launched(name, [64, 64, 1], 3 * (8192 * 8192 * 2), 8192));
            let peak = many.floor_us * f64::from(gpu.products_max) / f64::from(gpu.products);
            assert!(many.us > peak && many.us < 1.25 * peak, "{}: {many:?}", gpu.name);
            let name = "bf16w_bf16_linear_to_bf16_n152064k3584_matrix16x32x256by16x32x4in4";
            let few = gpu.estimate(&launched(name, [1, 4752, 1], 152_064 * 3584 * 2, 1));
            assert!(few.limiter == Limiter::Memory && few.us < few.floor_us / 0.85, "{}: {few:?}", gpu.name);
        }
    }
}

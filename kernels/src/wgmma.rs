//! Products of a warpgroup, Hopper's own instructions: four warps multiply rows that lie in shared memory, and go on before
//! they are done.
//!
//! 64 features of the weights are the instruction's M, as many rows of `x` as the tile has its N. So no row but the last few
//! is multiplied for nothing, and every weight is read once a tile of rows. A stage has 128 bytes of each row, chunk `c` of row
//! `r` where `c ^ (r % 8)` would stand (`stage.rs`): that is what the instruction calls a swizzle of 128 bytes.
//!
//! Of the sums a unit has, for columns `8 j + 2 quad` and the one behind it, those of features `group` and `group + 8` of its
//! warp's 16. They are in flight until [`arrived`]: nothing else may touch them before.
//! Source: PTX ISA 8.8, "Asynchronous Warpgroup Level Matrix Instructions" and "Matrix Descriptor Format".

use crate::ptx::Multiplied;
use cubecl::prelude::*;

/// Features of a warpgroup.
pub(crate) const GROUP_FEATURES: u32 = 64;
/// Warps of it.
pub(crate) const GROUP_WARPS: u32 = 4;
/// Rows of `x` come in so many, up to so many.
pub(crate) const GROUP_ROWS: u32 = 8;
pub(crate) const GROUP_ROWS_MAX: u32 = 256;
/// Bytes of a row in a stage.
pub(crate) const GROUP_DEPTH: u32 = 128;
/// To what a stage is aligned: eight rows.
pub(crate) const GROUP_ALIGN: u32 = 1024;

/// Says where rows stand that begin at `at` in shared memory. From bit 0 the address over 16, from bit 16 the bytes between two
/// columns of the pattern over 16, which 128 bytes have not, from bit 32 those between eight rows and the next over 16, and from
/// bit 62 that the swizzle is of 128 bytes.
#[cube]
pub(crate) fn descriptor(at: u32) -> u64 {
    u64::cast_from((at & 0x3ffffu32) >> 4u32) | 0x4000_0040_0001_0000u64
}

/// What was written to shared memory is seen by the products of whoever is told of it by a barrier.
#[cube]
pub(crate) fn shared_to_products() {
    gpu_asm!("fence.proxy.async.shared::cta;");
}

/// Moves of `count` registers, the first operands of an instruction, from those behind them: the generator has no operands
/// that are both.
fn moves(count: u32) -> String {
    (0..count).map(|i| format!("mov.b32 %{i}, %{}; ", count + i)).collect()
}

/// The instruction for `n` rows.
fn instruction(n: u32, multiplied: Multiplied) -> String {
    let (k, types) = match multiplied {
        Multiplied::BF16 => (16, "bf16.bf16"),
        Multiplied::F16 => (16, "f16.f16"),
        Multiplied::E4M3 => (32, "e4m3.e4m3"),
    };
    format!("wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{types}")
}

/// What stands behind its operands: signs, and that neither of 16 bits is turned over.
fn signs(multiplied: Multiplied) -> &'static str {
    match multiplied {
        Multiplied::BF16 | Multiplied::F16 => "1, 1, 0, 0",
        Multiplied::E4M3 => "1, 1",
    }
}

/// Begins `features rows^T + sums` of a stage, whose rows of either begin where the descriptors say: four steps of 32 bytes.
#[cube]
pub(crate) fn begin<S: Size>(
    features: u64,
    rows: u64,
    sums: Vector<f32, S>,
    #[comptime] n: u32,
    #[comptime] multiplied: Multiplied,
) -> Vector<f32, S> {
    let result: Vector<f32, S>;
    let (a1, a2, a3) = (features + 2u64, features + 4u64, features + 6u64);
    let (b1, b2, b3) = (rows + 2u64, rows + 4u64, rows + 6u64);
    gpu_asm!(
        "{{ {moves}// {c}\n wgmma.fence.sync.aligned; {of} {d}, {a0}, {b0}, 1, {signs}; {of} {d}, {a1}, {b1}, 1, {signs}; {of} {d}, {a2}, {b2}, 1, {signs}; {of} {d}, {a3}, {b3}, 1, {signs}; wgmma.commit_group.sync.aligned; }}",
        d = out(_) result, c = in(_) sums,
        a0 = in(_) features, a1 = in(_) a1, a2 = in(_) a2, a3 = in(_) a3,
        b0 = in(_) rows, b1 = in(_) b1, b2 = in(_) b2, b3 = in(_) b3,
        moves = const moves(n / 2), of = const instruction(n, multiplied), signs = const signs(multiplied),
    );
    result
}

/// The same without sums from before.
#[cube]
pub(crate) fn begin_anew<S: Size>(
    features: u64,
    rows: u64,
    #[comptime] n: u32,
    #[comptime] multiplied: Multiplied,
) -> Vector<f32, S> {
    let result: Vector<f32, S>;
    let (a1, a2, a3) = (features + 2u64, features + 4u64, features + 6u64);
    let (b1, b2, b3) = (rows + 2u64, rows + 4u64, rows + 6u64);
    gpu_asm!(
        "{{ wgmma.fence.sync.aligned; {of} {d}, {a0}, {b0}, 0, {signs}; {of} {d}, {a1}, {b1}, 1, {signs}; {of} {d}, {a2}, {b2}, 1, {signs}; {of} {d}, {a3}, {b3}, 1, {signs}; wgmma.commit_group.sync.aligned; }}",
        d = out(_) result,
        a0 = in(_) features, a1 = in(_) a1, a2 = in(_) a2, a3 = in(_) a3,
        b0 = in(_) rows, b1 = in(_) b1, b2 = in(_) b2, b3 = in(_) b3,
        of = const instruction(n, multiplied), signs = const signs(multiplied),
    );
    result
}

/// Waits for all products but those of the last stage, whose sums are still in flight.
#[cube]
pub(crate) fn wait_but_last() {
    gpu_asm!("wgmma.wait_group.sync.aligned 1;");
}

/// Waits for all products: now the sums are there.
#[cube]
pub(crate) fn arrived<S: Size>(sums: Vector<f32, S>, #[comptime] n: u32) -> Vector<f32, S> {
    let result: Vector<f32, S>;
    gpu_asm!(
        "{{ wgmma.wait_group.sync.aligned 0; {moves}}} // {d} {c}",
        d = out(_) result,
        c = in(_) sums,
        moves = const moves(n / 2),
    );
    result
}

//! Instructions of PTX that the generator has no words for, from sm_80 on: copies that nobody waits for until they are
//! needed, and fragments of 8 x 8 elements of 16 bits, a row of 16 bytes each.
//!
//! Of a fragment a unit has the word `quad` of row `group`, `group` being its number in the warp over 4 and `quad` the
//! rest. `multiply` takes of 16 rows those of rows `group` and `group + 8` in both halves of a step, of 8 features those of
//! feature `group`, and has of the sums columns `2 quad` and `2 quad + 1` of rows `group` and `group + 8`.
//! Source: PTX ISA 8.8, "Warp Level Matrix Multiply-Accumulate Instructions".

use cubecl::prelude::*;

/// Units of a warp: those that have a fragment together.
pub(crate) const WARP: u32 = 32;
/// Bytes that are copied at once, and that a fragment has in a row.
pub(crate) const CHUNK: u32 = 16;
/// Rows of a fragment of rows.
pub(crate) const ROWS: u32 = 16;
/// Features of a fragment of weights.
pub(crate) const FEATURES: u32 = 8;
/// Bytes of a step along K.
pub(crate) const STEP: u32 = 32;

/// What matrix units multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Multiplied {
    BF16,
    F16,
    /// OCP's e4m3.
    E4M3,
}

impl Multiplied {
    /// Elements of a chunk.
    pub(crate) const fn in_chunk(self) -> u32 {
        match self {
            Multiplied::BF16 | Multiplied::F16 => CHUNK / 2,
            Multiplied::E4M3 => CHUNK,
        }
    }
}

/// Where shared memory begins, as the instructions here count it.
#[cube]
pub(crate) fn address(shared: &[u32]) -> u32 {
    let at: u32;
    let from = shared.as_ptr();
    gpu_asm!(
        "{{ .reg .u64 t; cvta.to.shared.u64 t, {from}; cvt.u32.u64 {at}, t; }}",
        from = in(_) from, at = out(_) at,
        options(nomem),
    );
    at
}

/// Begins to copy chunk `index` of `from` to shared memory: `bytes` of it, 0 or 16, and zeros behind.
#[cube]
pub(crate) fn copy(from: &[Vector<u32, Const<4>>], index: u32, to: u32, bytes: u32) {
    let first = index as usize;
    let chunk = &from[first..first + 1];
    let from = chunk.as_ptr();
    gpu_asm!(
        "cp.async.cg.shared.global.L2::128B [{to}], [{from}], 16, {bytes};",
        to = in(_) to, from = in(_) from, bytes = in(_) bytes,
    );
}

/// Makes a group of the copies that the unit has begun since the last.
#[cube]
pub(crate) fn commit() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits for the unit's own copies, but for those of its last `but` groups; what others copy needs a barrier behind it.
#[cube]
pub(crate) fn wait(#[comptime] but: u32) {
    match comptime!(but) {
        0 => gpu_asm!("cp.async.wait_group 0;"),
        1 => gpu_asm!("cp.async.wait_group 1;"),
        2 => gpu_asm!("cp.async.wait_group 2;"),
        _ => gpu_asm!("cp.async.wait_group 3;"),
    }
}

/// Four fragments: unit `8 i + r` says where row `r` of fragment `i` begins.
#[cube]
pub(crate) fn fragments(at: u32) -> Vector<u32, Const<4>> {
    let words: Vector<u32, Const<4>>;
    gpu_asm!(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {words}, [{at}];",
        at = in(_) at, words = out(_) words,
    );
    words
}

/// The same, each turned over: columns become rows.
#[cube]
pub(crate) fn turned_fragments(at: u32) -> Vector<u32, Const<4>> {
    let words: Vector<u32, Const<4>>;
    gpu_asm!(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {words}, [{at}];",
        at = in(_) at, words = out(_) words,
    );
    words
}

/// `rows features^T + sums` of a warp, a step along K.
#[cube]
pub(crate) fn multiply(
    rows: Vector<u32, Const<4>>,
    features: (u32, u32),
    sums: Vector<f32, Const<4>>,
    #[comptime] multiplied: Multiplied,
) -> Vector<f32, Const<4>> {
    let result: Vector<f32, Const<4>>;
    let (near, far) = features;
    match comptime!(multiplied) {
        Multiplied::BF16 => gpu_asm!(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {d}, {a}, {{{near}, {far}}}, {c};",
            a = in(_) rows, near = in(_) near, far = in(_) far, c = in(_) sums, d = out(_) result,
            options(nomem),
        ),
        Multiplied::F16 => gpu_asm!(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {d}, {a}, {{{near}, {far}}}, {c};",
            a = in(_) rows, near = in(_) near, far = in(_) far, c = in(_) sums, d = out(_) result,
            options(nomem),
        ),
        Multiplied::E4M3 => gpu_asm!(
            "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {d}, {a}, {{{near}, {far}}}, {c};",
            a = in(_) rows, near = in(_) near, far = in(_) far, c = in(_) sums, d = out(_) result,
            options(nomem),
        ),
    }
    result
}

/// Puts four numbers where other workgroups will read them by [`load`].
#[cube]
pub(crate) fn store(to: &[f32], index: u32, x: Vector<f32, Const<4>>) {
    let at = &to[index as usize..(index + 4u32) as usize];
    let at = at.as_ptr();
    // Of a variable, assembly would be given the address.
    let words = Vector::<u32, Const<4>>::reinterpret(x);
    gpu_asm!("st.global.v4.b32 [{at}], {words};", at = in(_) at, words = in(_) words);
}

/// What another workgroup has put there.
#[cube]
pub(crate) fn load(from: &[f32], index: u32) -> Vector<f32, Const<4>> {
    let x: Vector<f32, Const<4>>;
    let at = &from[index as usize..(index + 4u32) as usize];
    let at = at.as_ptr();
    gpu_asm!("ld.relaxed.gpu.global.v4.f32 {x}, [{at}];", at = in(_) at, x = out(_) x);
    x
}

/// What the unit wrote before is seen by all who see what it writes behind; and the other way round.
#[cube]
pub(crate) fn fence() {
    gpu_asm!("fence.acq_rel.gpu;");
}

/// Adds one to a counter that all workgroups see: what it was before.
#[cube]
pub(crate) fn count(counters: &[i32], index: u32) -> u32 {
    let before: u32;
    let at = &counters[index as usize..(index + 1u32) as usize];
    let at = at.as_ptr();
    gpu_asm!("atom.acq_rel.gpu.global.add.u32 {before}, [{at}], 1;", at = in(_) at, before = out(_) before);
    before
}

/// Sets a counter to 0, for the next launch.
#[cube]
pub(crate) fn reset(counters: &[i32], index: u32) {
    let at = &counters[index as usize..(index + 1u32) as usize];
    let at = at.as_ptr();
    gpu_asm!("st.global.u32 [{at}], 0;", at = in(_) at);
}

/// The same number of the unit whose own differs in bit `mask`, a power of 2 below 32.
#[cube]
pub(crate) fn shuffle(x: f32, #[comptime] mask: u32) -> f32 {
    let other: f32;
    match comptime!(mask) {
        1 => gpu_asm!(
            "shfl.sync.bfly.b32 {other}, {x}, 1, 0x1f, 0xffffffff;",
            x = in(_) x, other = out(_) other,
        ),
        2 => gpu_asm!(
            "shfl.sync.bfly.b32 {other}, {x}, 2, 0x1f, 0xffffffff;",
            x = in(_) x, other = out(_) other,
        ),
        4 => gpu_asm!(
            "shfl.sync.bfly.b32 {other}, {x}, 4, 0x1f, 0xffffffff;",
            x = in(_) x, other = out(_) other,
        ),
        8 => gpu_asm!(
            "shfl.sync.bfly.b32 {other}, {x}, 8, 0x1f, 0xffffffff;",
            x = in(_) x, other = out(_) other,
        ),
        _ => gpu_asm!(
            "shfl.sync.bfly.b32 {other}, {x}, 16, 0x1f, 0xffffffff;",
            x = in(_) x, other = out(_) other,
        ),
    }
    other
}

/// The lowest number of a warp.
#[cube]
pub(crate) fn lowest(x: i32) -> i32 {
    let least: i32;
    gpu_asm!("redux.sync.min.s32 {least}, {x}, 0xffffffff;", x = in(_) x, least = out(_) least);
    least
}

/// The highest number of a warp.
#[cube]
pub(crate) fn highest(x: i32) -> i32 {
    let most: i32;
    gpu_asm!("redux.sync.max.s32 {most}, {x}, 0xffffffff;", x = in(_) x, most = out(_) most);
    most
}

/// Two numbers as a word, rounded to nearest.
#[cube]
pub(crate) fn pack(high: f32, low: f32, #[comptime] multiplied: Multiplied) -> u32 {
    let word: u32;
    match comptime!(multiplied) {
        Multiplied::F16 => gpu_asm!(
            "cvt.rn.f16x2.f32 {word}, {high}, {low};",
            high = in(_) high, low = in(_) low, word = out(_) word,
            options(nomem),
        ),
        _ => gpu_asm!(
            "cvt.rn.bf16x2.f32 {word}, {high}, {low};",
            high = in(_) high, low = in(_) low, word = out(_) word,
            options(nomem),
        ),
    }
    word
}

/// `2^x` but for the last two bits; 0 where it is no normal number.
#[cube]
pub(crate) fn power_of_2(x: f32) -> f32 {
    let power: f32;
    gpu_asm!("ex2.approx.ftz.f32 {power}, {x};", x = in(_) x, power = out(_) power, options(nomem));
    power
}

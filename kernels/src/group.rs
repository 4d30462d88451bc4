//! The way of a workgroup along K where warpgroups multiply (`wgmma.rs`).
//!
//! A step begins with the one barrier: behind it the stage is there, and nobody multiplies the one before the last any more, so
//! that is where the stage comes that is filled next. Its copies are begun while the products of this stage are under way, and
//! only then those of the last are waited for: matrix units always have the next stage before them.

use crate::matrix::{Own, Shape, fill_stage};
use crate::ptx::{CHUNK, Multiplied, WARP, commit, wait};
use crate::wgmma::{
    GROUP_FEATURES, GROUP_WARPS, arrived, begin, begin_anew, descriptor, shared_to_products, wait_but_last,
};
use cubecl::prelude::*;

/// See the module. The sums are put where the stages were, a row of the tile behind the other.
#[cube]
pub(crate) fn multiply_by_groups(
    x: &[Vector<u32, Const<4>>],
    weight: &[Vector<u32, Const<4>>],
    second: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    third: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    up: &ComptimeOption<Box<[Vector<u32, Const<1>>]>>,
    shared: &mut [u32],
    base: u32,
    own: &Own,
    #[comptime] shape: Shape,
) {
    let tile = comptime!(shape.tile);
    let multiplied = comptime!(shape.multiplied);
    // Codes of fp8 are added up in fewer bits than f32 has: only those of a stage.
    let anew = comptime!(multiplied == Multiplied::E4M3);
    let n = comptime!(tile.rows);
    let of_unit = comptime!(n as usize / 2);
    let size!(S) = of_unit;
    let mut sums = Array::<Vector<f32, S>>::new(1usize);
    sums[0] = Vector::<f32, S>::zeroed();
    let stage = comptime!(tile.stage_bytes());
    let ahead = comptime!(tile.ahead());
    let group = UNIT_POS_X / comptime!(GROUP_WARPS * WARP);
    let own_features =
        comptime!(tile.rows * tile.depth).runtime() + group * comptime!(GROUP_FEATURES * tile.depth);
    let mut now = base;
    let mut next = base + comptime!(ahead * stage);
    let end = base + comptime!(tile.stages * stage);
    for step in 0..own.steps {
        wait(comptime!(ahead - 1));
        shared_to_products();
        sync_cube();
        let features = descriptor(now + own_features);
        // A list of one: of a variable, assembly would be given the address.
        let mut of_stage = Array::<Vector<f32, S>>::new(1usize);
        if comptime!(anew) {
            of_stage[0] = begin_anew::<S>(features, descriptor(now), n, multiplied);
        } else {
            sums[0] = begin::<S>(features, descriptor(now), sums[0], n, multiplied);
        }
        if step + ahead < own.steps {
            let start = own.start + (step + ahead) * comptime!(tile.depth / CHUNK);
            fill_stage(x, weight, second, third, up, next, start, own, shape);
        }
        // Also where there was nothing: groups are counted.
        commit();
        if comptime!(anew) {
            sums[0] += arrived::<S>(of_stage[0], n);
        } else {
            wait_but_last();
        }
        now += stage;
        if now == end {
            now = base;
        }
        next += stage;
        if next == end {
            next = base;
        }
    }
    if comptime!(!anew) {
        sums[0] = arrived::<S>(sums[0], n);
    }

    // All have read the last stage: the sums take its place.
    sync_cube();
    let pitch = comptime!(tile.pitch());
    let lane = UNIT_POS_X % WARP;
    let feature = UNIT_POS_X / WARP * 16u32 + lane / 4u32;
    let own = lane % 4u32 * comptime!(2 * pitch) + feature;
    #[unroll]
    for e in 0..of_unit {
        // Two rows of `x`, then the same of the eighth feature behind.
        let to = comptime!((e as u32 / 4 * 8 + e as u32 % 2) * pitch + e as u32 / 2 % 2 * 8);
        shared[(own + to) as usize] = u32::reinterpret(sums[0].extract(e));
    }
}

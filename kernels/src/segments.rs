//! Which segments stand in each tile of a mask, for attention on matrix units: found once, read by every workgroup of every
//! layer.
//!
//! Buffers `mask` i32 `[rows, positions]`, `segments` i32 `[rows, tiles, 4]`: of each 64 positions the lowest and the highest
//! segment that is not 0 (the lowest above the highest where there is none), 1 if every position has one, 0. Scalars `rows`,
//! `positions`. A warp per tile.

use crate::attention_matrix::KEYS;
use crate::emit::{Access, Element, Extent};
use crate::kernel::floats;
use crate::ptx::{WARP, highest, lowest};
use crate::record::Recorder;
use crate::target::Target;
use crate::tile::MatrixTile;
use cubecl::prelude::*;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segments;

impl Segments {
    /// Numbers of a tile.
    pub const WORDS: u32 = 4;

    pub(crate) fn name(self) -> String {
        format!("i32_segments_by{KEYS}")
    }

    /// What it needs and `target` does not have.
    pub(crate) fn lacks(target: &Target) -> Option<String> {
        (!MatrixTile::runs(target)).then(|| "warps of 32".to_owned())
    }

    pub(crate) fn launch(self, r: &Recorder) {
        let tiles = Extent::Ceil { of: "positions", per: KEYS, any: false };
        floats!(() => find_segments::launch_unchecked(
            r.client(),
            r.grid([tiles, Extent::each("rows"), Extent::Constant(1)]),
            CubeDim::new_1d(WARP),
            r.declared("mask", Element::I32, Access::Read),
            r.declared("segments", Element::I32, Access::Write),
            r.int("rows"),
            r.int("positions"),
        ));
    }
}

#[cube(launch_unchecked)]
fn find_segments(mask: &[i32], segments: &mut [i32], _rows: u32, positions: u32) {
    let first = CUBE_POS_X * KEYS;
    let mut own = Array::<i32>::new(2usize);
    #[unroll]
    for i in 0..2u32 {
        let position = first + UNIT_POS_X + comptime!(i * WARP);
        own[i as usize] = 0i32;
        if position < positions {
            own[i as usize] = mask[(CUBE_POS_Y * positions + position) as usize];
        }
    }
    let (least, most, every) = among(own[0], own[1]);
    if UNIT_POS_X == 0 {
        let to = ((CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * Segments::WORDS) as usize;
        segments[to] = least;
        segments[to + 1] = most;
        segments[to + 2] = every;
        segments[to + 3] = 0i32;
    }
}

/// The lowest and the highest segment among two of every unit of a warp, and 1 if none of them is 0.
#[cube]
pub(crate) fn among(near: i32, far: i32) -> (i32, i32, i32) {
    let (highest_of_all, lowest_of_all) = (i32::new(0x7fff_ffff), i32::new(-0x8000_0000));
    let least = min(select(near != 0, near, highest_of_all), select(far != 0, far, highest_of_all));
    let most = max(select(near != 0, near, lowest_of_all), select(far != 0, far, lowest_of_all));
    let every = select(near != 0 && far != 0, 1i32, 0i32);
    (lowest(least), highest(most), lowest(every))
}

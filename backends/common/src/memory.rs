//! Places in the arena by lifetime: values that never live at the same time may share bytes.
//!
//! Each value in turn takes the smallest gap that it fits in between those already placed that live at the same time.
//! In which turn is tried in several ways; what then lies on top comes first in the next try. The smallest arena is
//! taken. The result depends on the input alone.

use dreamc_artifact::plan::ARENA_ALIGN;
use std::cmp::Reverse;

/// A value to place: alive from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Size at the maxima of all symbols.
    pub bytes: u64,
    /// Step that defines it.
    pub first: u32,
    /// Last step that uses it.
    pub last: u32,
}

/// What comes first in a try: the largest of a block and whether it lives where the most bytes do. Placed first, what lives
/// there has no gaps.
type Key = fn(&Block, bool) -> (bool, u128, u128);

const ORDERS: [Key; 5] = [
    |b, _| (true, b.bytes.into(), b.time()),
    |b, _| (true, b.time(), b.bytes.into()),
    |b, _| (true, u128::from(b.bytes) * b.time(), b.bytes.into()),
    |b, at_peak| (at_peak, b.bytes.into(), b.time()),
    |b, at_peak| (at_peak, b.time(), b.bytes.into()),
];

impl Block {
    /// Steps that it lives for.
    fn time(&self) -> u128 {
        u128::from(self.last.saturating_sub(self.first)) + 1
    }
}

/// Tries for each order that is begun with.
const TRIES: usize = 24;

/// Offset of every block, in order, and the size of the arena. `None` on overflow.
pub fn arrange(blocks: &[Block]) -> Option<(Vec<u64>, u64)> {
    let peak = peak(blocks);
    let at_peak = |b: &Block| b.first <= peak && peak <= b.last;
    let mut best: Option<(Vec<u64>, u64)> = None;
    for key in ORDERS {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|i| (Reverse(key(&blocks[*i], at_peak(&blocks[*i]))), *i));
        for _ in 0..TRIES {
            let (offsets, arena) = place(blocks, &order)?;
            let top =
                order.iter().position(|i| offsets[*i] + blocks[*i].bytes > arena.saturating_sub(ARENA_ALIGN));
            if best.as_ref().is_none_or(|(_, smallest)| arena < *smallest) {
                best = Some((offsets, arena));
            }
            let Some(top) = top else { break };
            order[..=top].rotate_right(1);
        }
    }
    best
}

/// A time at which the most bytes live.
fn peak(blocks: &[Block]) -> u32 {
    let live = |time: u32| -> u128 {
        let alive = blocks.iter().filter(|b| b.first <= time && time <= b.last);
        alive.map(|b| u128::from(b.bytes)).sum()
    };
    // Where nothing begins nothing is added.
    blocks.iter().map(|b| b.first).max_by_key(|time| (live(*time), Reverse(*time))).unwrap_or(0)
}

/// Offsets and the size of the arena where blocks are placed in this order.
fn place(blocks: &[Block], order: &[usize]) -> Option<(Vec<u64>, u64)> {
    let mut offsets = vec![0; blocks.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for i in order.iter().copied() {
        let block = blocks[i];
        let together = |j: &&usize| blocks[**j].first <= block.last && block.first <= blocks[**j].last;
        let mut taken: Vec<(u64, u64)> =
            placed.iter().filter(together).map(|j| (offsets[*j], offsets[*j] + blocks[*j].bytes)).collect();
        taken.sort_unstable();
        let (mut free, mut gap) = (0_u64, None::<(u64, u64)>);
        for (start, end) in taken {
            let room = start.saturating_sub(free);
            if room >= block.bytes && gap.is_none_or(|(smallest, _)| room < smallest) {
                gap = Some((room, free));
            }
            free = free.max(end.checked_next_multiple_of(ARENA_ALIGN)?);
        }
        let offset = gap.map_or(free, |(_, offset)| offset);
        offsets[i] = offset;
        arena = arena.max(offset.checked_add(block.bytes)?);
        placed.push(i);
    }
    Some((offsets, arena.checked_next_multiple_of(ARENA_ALIGN)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dead_make_room() {
        let block = |bytes, first, last| Block { bytes, first, last };
        let (offsets, arena) = arrange(&[block(100, 0, 1), block(50, 1, 2), block(100, 2, 3)]).unwrap();
        assert_eq!(offsets, [0, ARENA_ALIGN, 0]);
        assert_eq!(arena, 2 * ARENA_ALIGN);
    }

    #[test]
    fn overflow_is_none() {
        let block = Block { bytes: u64::MAX, first: 0, last: 1 };
        assert_eq!(arrange(&[block, block]), None);
    }

    proptest! {
        /// Blocks that live at the same time never share a byte, and the arena is at most the sum of all.
        #[test]
        fn no_overlap(list in prop::collection::vec((1_u64..1000, 0_u32..20, 0_u32..5), 1..40)) {
            let blocks: Vec<Block> =
                list.iter().map(|(bytes, first, len)| Block { bytes: *bytes, first: *first, last: first + len }).collect();
            let (offsets, arena) = arrange(&blocks).unwrap();
            for (i, a) in blocks.iter().enumerate() {
                prop_assert!(offsets[i] % ARENA_ALIGN == 0 && offsets[i] + a.bytes <= arena);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(!together || apart);
                }
            }
            prop_assert!(arena <= blocks.iter().map(|b| b.bytes.next_multiple_of(ARENA_ALIGN)).sum());
        }
    }
}

//! Places in the arena by lifetime: values that never live at the same time may share bytes.
//!
//! Greedy by size: the largest value takes the lowest place where it fits between those already placed that live
//! at the same time. The result depends on the input alone.

use dreamc_artifact::plan::ARENA_ALIGN;

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

/// Offset of every block, in order, and the size of the arena. `None` on overflow.
pub fn arrange(blocks: &[Block]) -> Option<(Vec<u64>, u64)> {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(blocks[*i].bytes), *i));
    let mut offsets = vec![0; blocks.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for i in order {
        let block = blocks[i];
        let together = |j: &&usize| blocks[**j].first <= block.last && block.first <= blocks[**j].last;
        let mut taken: Vec<(u64, u64)> =
            placed.iter().filter(together).map(|j| (offsets[*j], offsets[*j] + blocks[*j].bytes)).collect();
        taken.sort_unstable();
        let mut offset = 0_u64;
        for (start, end) in taken {
            if offset.checked_add(block.bytes)? <= start {
                break;
            }
            offset = offset.max(end.checked_next_multiple_of(ARENA_ALIGN)?);
        }
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

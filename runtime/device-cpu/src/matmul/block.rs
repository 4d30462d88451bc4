//! A block of rows times some panels, with what comes after.

use super::epilogue::late::Late;
use super::epilogue::{Sums, ask_for_residual, epilogue};
use super::micro::{Micro, More, Next, RUN, Tile};
use super::panels::{Panels, Slot};
use super::{GROUP, Matmul, PANEL, Packed, ROWS, STEPS};
use crate::isa::Isa;
use std::ops::Range;

/// At most `ROWS` rows of the packed operand, and at most `GROUP` columns.
pub(super) struct Block<'b> {
    pub(super) isa: Isa,
    pub(super) matmul: &'b Matmul<'b>,
    pub(super) micro: &'b Micro,
    pub(super) packed: &'b Packed,
    pub(super) panels: &'b Panels,
    /// Of the packed operand.
    pub(super) strip: usize,
    /// The first one begins that strip.
    pub(super) rows: Range<usize>,
    pub(super) slots: &'b [Slot],
}

/// One panel or two, as many as a tile takes, and some steps of them.
struct Pair<'p> {
    /// The first slot.
    first: usize,
    slots: &'p [Slot],
    words: [*const u32; 2],
    steps: Range<usize>,
}

impl Block<'_> {
    /// Runs it. `after` finds the first panels that this thread multiplies after these.
    pub(super) fn run(
        &self,
        sums: &mut [f32],
        room: &mut [[[u32; PANEL]; STEPS]; 2],
        after: &dyn Fn() -> Option<[Slot; 2]>,
    ) {
        let (micro, panels, steps) = (self.micro, self.panels, self.packed.steps);
        let most = match panels.expand {
            // A single strip reads every panel once, from front to back.
            None if self.rows.len() <= micro.rows => steps,
            // As many words of rows and of panels as there are with `ROWS` rows, in blocks of about one length.
            None => {
                let blocks = steps.div_ceil(STEPS * (ROWS + 2 * PANEL) / (self.rows.len() + 2 * PANEL));
                steps.div_ceil(blocks.max(1)).next_multiple_of(RUN)
            }
            Some(_) => STEPS,
        }
        .max(1);
        // Tiles write through it, and what is owed is read through it later.
        let sums = sums.as_mut_ptr();
        let mut owed = None;
        for from in (0..steps).step_by(most) {
            let steps = from..steps.min(from + most);
            for (i, slots) in self.slots.chunks(micro.panels).enumerate() {
                let [one, two] = &mut *room;
                let first = panels.words(self.isa, &slots[0], from, steps.len(), one);
                let last = match slots {
                    [_, last] => panels.words(self.isa, last, from, steps.len(), two),
                    _ => first,
                };
                let next = self.next((i + 1) * micro.panels, &steps, most, after);
                let pair =
                    Pair { first: i * micro.panels, slots, words: [first, last], steps: steps.clone() };
                self.multiply(&pair, next, sums, &mut owed);
            }
        }
        if let (Some(late), Some(runs)) = (owed, &micro.late) {
            // SAFETY: the last tile's sums, which nothing was written over.
            unsafe { (runs.alone)(&late) };
        }
    }

    /// What is multiplied next: the panels from slot `slot` on, or the first ones of the steps behind these, or those of another
    /// block.
    fn next(
        &self,
        slot: usize,
        steps: &Range<usize>,
        most: usize,
        after: &dyn Fn() -> Option<[Slot; 2]>,
    ) -> Next {
        let of =
            |slots: &[Slot]| Some([*slots.first()?, *slots[..slots.len().min(self.micro.panels)].last()?]);
        let (next, from) = if slot < self.slots.len() {
            (of(&self.slots[slot..]), steps.start)
        } else if steps.end < self.packed.steps {
            (of(self.slots), steps.end)
        } else {
            (after(), 0)
        };
        let strips = self.rows.len().div_ceil(self.micro.rows);
        next.map_or(Next::NONE, |[one, two]| {
            let (start, bytes) = self.panels.stored(&one, &two, from, most);
            Next::of(start, bytes, strips, steps.len())
        })
    }

    /// Multiplies all strips with a pair of panels.
    fn multiply(&self, pair: &Pair<'_>, mut next: Next, sums: *mut f32, owed: &mut Option<Late>) {
        let (micro, packed) = (self.micro, self.packed);
        // Gate and up are done together, whether a tile takes one panel or two.
        let until = pair.first + pair.slots.len();
        let ends = pair.steps.end == packed.steps && (until.is_multiple_of(2) || until == self.slots.len());
        let done = ends.then(|| (until - 1) / 2 * 2..until);
        // Sums that nobody comes back to take turns in two places, which stay in the nearest cache.
        let once = pair.steps.start == 0 && done.as_ref().is_some_and(|done| done.len() == pair.slots.len());
        let place = |strip: usize| {
            let row = if once { strip / micro.rows % 2 * micro.rows } else { strip };
            row * GROUP + pair.first * PANEL
        };
        // Of the block's rows, one for each if there are any.
        let scales = micro.codes().then(|| packed.scales.get().wrapping_add(self.rows.start).cast_const());
        // The end of a tile is left to the next one, if there is a kernel for that.
        let mut late = match (&done, &micro.late) {
            (Some(done), Some(_)) if pair.slots.len() == micro.panels => {
                Late::of(self.matmul, self.rows.clone(), &self.slots[done.clone()], scales)
            }
            _ => None,
        };
        let is_late = late.is_some();
        let height = (micro.rows * GROUP) as isize;
        let mut strip = 0;
        while strip < self.rows.len() {
            let left = self.rows.len() - strip;
            let (row, rows) = (self.rows.start + strip, left.min(micro.rows));
            // All that are whole; or one where something is done right after it, or what is owed is not of these panels.
            let first = strip == 0 && (owed.is_some() || is_late);
            let single = first || done.is_some() && !is_late;
            let strips = if single { 1 } else { (left / micro.rows).max(1) };
            if let Some(done) = done.as_ref().filter(|_| single) {
                ask_for_residual(self.matmul, row..row + rows, &self.slots[done.clone()]);
            }
            let before = self.strip + strip / micro.rows;
            let a = before * micro.strip_words(packed.steps) + pair.steps.start * micro.a_words();
            let tile = Tile {
                steps: pair.steps.len(),
                next,
                // Inside the packed operand.
                a: packed.words.get().cast::<u32>().wrapping_add(a),
                b: pair.words,
                c: sums.wrapping_add(place(strip)),
                c_stride: GROUP,
                rows,
                panels: pair.slots.len(),
                sums: [&pair.slots[0], &pair.slots[pair.slots.len() - 1]].map(Slot::sums),
                resume: pair.steps.start > 0,
                more: More {
                    count: strips - 1,
                    a: micro.strip_words(packed.steps),
                    // Where they take turns more than one come second at the earliest.
                    c: if once { -height } else { height },
                    turns: once,
                },
            };
            next.advance(strips, pair.steps.len());
            let takes = tile.panels == micro.panels && rows.is_multiple_of(Late::ROWS);
            // SAFETY: the operand has these steps of all these strips, and the words are those of as many steps; there are sums
            // of `ROWS` rows of `GROUP` columns. What is owed is sums of a tile before these, in another place than the first.
            unsafe {
                match (&mut *owed, &micro.late) {
                    (Some(late), Some(runs)) if takes => (runs.tile)(&tile, late),
                    (Some(late), Some(runs)) => {
                        (micro.run)(&tile);
                        (runs.alone)(late);
                        late.follow(&tile);
                    }
                    _ => (micro.run)(&tile),
                }
            }
            // It is large, so it is made once and stays where it is.
            if late.is_some() || !is_late {
                *owed = late.take();
                if let Some(late) = owed {
                    late.follow(&tile);
                }
            }
            if let (None, Some(done)) = (&*owed, &done) {
                let first = place(strip) - (pair.first - done.start) * PANEL;
                let count = (rows - 1) * GROUP + done.len() * PANEL;
                // SAFETY: sums of these rows, which no tile writes to as long as this is borrowed; and there is a scale for
                // every row.
                let (sums, scales) = unsafe {
                    let scales = scales.map(|scales| std::slice::from_raw_parts(scales.add(strip), rows));
                    (std::slice::from_raw_parts(sums.add(first), count), scales)
                };
                let slots = &self.slots[done.clone()];
                epilogue(self.isa, &Sums { matmul: self.matmul, row, rows, sums, slots, scales });
            }
            strip += strips * rows;
        }
    }
}

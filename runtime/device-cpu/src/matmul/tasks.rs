//! How the panels and strips of a matmul are shared out.

use super::{GROUP, PANEL};
use std::ops::Range;

/// What one task multiplies.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Task {
    pub(super) slots: Range<usize>,
    pub(super) strips: Range<usize>,
}

/// How the panels are shared out: as many as a task takes at first, and fewer towards the end, so that no thread waits long
/// for the last one. Always an even number, as a tile takes two; the last of these are shared out by rows.
#[derive(Clone, Copy)]
pub(super) struct Tasks {
    pub(super) slots: usize,
    pub(super) strips: usize,
    pub(super) threads: usize,
}

impl Tasks {
    const MOST: usize = GROUP / PANEL;

    /// Tasks of the most panels.
    fn large(self) -> usize {
        self.slots.saturating_sub(2 * self.threads * Tasks::MOST).div_ceil(Tasks::MOST)
    }

    /// Those behind them.
    fn small(self) -> impl Iterator<Item = Task> {
        /// Of rows, for which panels are read again; and fewer strips are not worth it.
        const PIECES: usize = 4;
        const STRIPS: usize = 3;
        let mut start = self.large() * Tasks::MOST;
        let panels = std::iter::from_fn(move || {
            let left = self.slots - start;
            let even = (left / (2 * self.threads)).next_multiple_of(2).clamp(2, Tasks::MOST);
            let panels = start..start + even.min(left);
            start = panels.end;
            (!panels.is_empty()).then_some(panels)
        });
        panels.flat_map(move |slots| {
            let pieces = if slots.len() > 2 { 1 } else { (self.strips / STRIPS).clamp(1, PIECES) };
            let strips = self.strips.div_ceil(pieces);
            let of_piece = (0..self.strips).step_by(strips.max(1));
            of_piece
                .map(move |from| Task { slots: slots.clone(), strips: from..self.strips.min(from + strips) })
        })
    }

    pub(super) fn count(self) -> usize {
        self.large() + self.small().count()
    }

    /// Nothing behind the last one.
    pub(super) fn get(self, task: usize) -> Task {
        match task.checked_sub(self.large()) {
            Some(small) => self.small().nth(small).unwrap_or_default(),
            None => Task { slots: task * Tasks::MOST..(task + 1) * Tasks::MOST, strips: 0..self.strips },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_meets_every_strip_in_one_task() {
        for threads in [1, 2, 3, 64] {
            for slots in [1, 2, 3, 17, 64, 65, 1000] {
                for strips in [1, 2, 7, 8, 9, 22, 100] {
                    let tasks = Tasks { slots, strips, threads };
                    let mut seen = vec![0_u8; slots * strips];
                    for task in 0..tasks.count() {
                        let Task { slots, strips: of_task } = tasks.get(task);
                        assert!(slots.start.is_multiple_of(2) && (1..=Tasks::MOST).contains(&slots.len()));
                        let strips =
                            of_task.flat_map(|strip| slots.clone().map(move |slot| slot * strips + strip));
                        strips.for_each(|at| seen[at] += 1);
                    }
                    assert!(seen.iter().all(|times| *times == 1), "{slots} {strips} {threads}");
                }
            }
        }
    }
}

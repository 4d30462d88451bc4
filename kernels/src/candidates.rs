//! What else may suit a matmul on matrix units: the tiles that come next by the model that chooses them.
//!
//! The model has measured no device. So a few others travel with its choice, and what is fastest is found where the device is
//! (`dreamc tune`).

use crate::linear::{Engine, Linear, Tile};
use crate::target::{Capabilities, Target};
use crate::tile::{self, MatrixTile};

/// How much longer than the best a candidate may take by the model, in parts of a hundred.
const WITHIN: u64 = 25;

impl MatrixTile {
    /// Tiles for up to `rows` rows beside `chosen`: the best first, at most `more`, none far behind the best.
    fn beside(
        chosen: MatrixTile,
        rows: u32,
        matrix: tile::Matrix,
        capabilities: &Capabilities,
        more: usize,
        will_do: impl Fn(MatrixTile) -> bool,
    ) -> Vec<MatrixTile> {
        let mut all: Vec<MatrixTile> = Vec::new();
        for tile in MatrixTile::serving(rows, matrix, capabilities).into_iter().chain([chosen]) {
            for stages in [tile.stages, tile.stages + 1, tile.stages.saturating_sub(1)] {
                let other = MatrixTile { stages, ..tile };
                let fits = other.splits == 1 || other.shares(matrix);
                if other != chosen && !all.contains(&other) && fits && will_do(other) {
                    all.push(other);
                }
            }
        }
        let clocks = |tile: &MatrixTile| tile.clocks_of(rows, matrix, capabilities);
        let best = all.iter().chain([&chosen]).map(clocks).min().unwrap_or(0);
        all.retain(|tile| clocks(tile) * 100 <= best * (100 + WITHIN));
        // The order in which they stand decides between equals.
        all.sort_by_key(clocks);
        all.truncate(more);
        all
    }
}

impl Linear {
    /// As [`Linear::fitted`], with up to `more` candidates behind each kernel of matrix units, in the order of the model.
    pub fn candidates(self, most: u32, target: &Target, more: usize) -> Vec<(u32, Vec<Linear>)> {
        let capabilities = target.capabilities();
        let matrix = self.operand();
        let with = |tile| Linear { engine: Engine::Matrix(tile), ..self };
        let will_do = |tile| {
            let linear = with(tile);
            linear.lacks(target).is_none() && linear.check(capabilities).is_ok()
        };
        let row = |(up_to, linear): (u32, Linear)| {
            let others = match linear.engine {
                Engine::Matrix(chosen) if more > 0 => {
                    MatrixTile::beside(chosen, up_to.min(most), matrix, capabilities, more, will_do)
                }
                Engine::Matrix(_) | Engine::Units(_) => Vec::new(),
            };
            (up_to, [linear].into_iter().chain(others.into_iter().map(with)).collect())
        };
        self.fitted(most, target).into_iter().map(row).collect()
    }

    /// The kernel that every target has for one of the weights: by units, from plain rows, with its result and nothing else.
    pub const fn portable(self, n: u32) -> Linear {
        let engine = Engine::Units(Tile::WIDE);
        Linear { n, more: [0; 2], rope: None, scaled: false, weighted: false, engine, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Float;

    fn target() -> Target {
        Target::named("sm_90a").unwrap_or_else(|| panic!("it is in the repository"))
    }

    /// The first is what the table takes, all are different, fit and come in the order of the model.
    #[test]
    fn candidates_stand_behind_the_choice() {
        let target = target();
        for [n, k] in [[3584, 3584], [18944, 3584], [3584, 18944], [152_064, 3584]] {
            let linear = Linear::plain(Float::BF16, n, k, Engine::Units(Tile::WIDE));
            let rows = linear.candidates(2176, &target, 2);
            let fitted: Vec<(u32, Linear)> = rows.iter().map(|(up_to, all)| (*up_to, all[0])).collect();
            assert_eq!(fitted, linear.fitted(2176, &target));
            assert!(rows.iter().any(|(_, all)| all.len() == 3), "{n} x {k} has no candidates");
            for (up_to, all) in &rows {
                assert!(all.len() <= 3);
                for (i, one) in all.iter().enumerate() {
                    assert!(!all[..i].contains(one), "twice the same");
                    assert!(one.is_matrix() && one.check(target.capabilities()).is_ok());
                }
                let clocks = |linear: &Linear| match linear.engine {
                    Engine::Matrix(tile) => {
                        tile.clocks_of((*up_to).min(2176), linear.operand(), target.capabilities())
                    }
                    Engine::Units(_) => 0,
                };
                assert!(all[1..].windows(2).all(|pair| clocks(&pair[0]) <= clocks(&pair[1])));
            }
        }
    }

    /// Where units compute it there is nothing to choose, and neither where nobody asks.
    #[test]
    fn no_candidates() {
        let units = Linear::plain(Float::F32, 64, 64, Engine::Units(Tile::WIDE));
        assert!(units.candidates(64, &target(), 2).iter().all(|(_, all)| all.len() == 1));
        let matrix = Linear::plain(Float::BF16, 3584, 3584, Engine::Units(Tile::WIDE));
        assert!(matrix.candidates(300, &target(), 0).iter().all(|(_, all)| all.len() == 1));
    }
}

//! The task of `fixtures/sudoku-text`.

/// Solved means: the digits 1 to 4 once in every row, column and box, and all clues kept.
pub fn solves(puzzle: &str, answer: &str) -> bool {
    let cells: Vec<u8> = answer.bytes().collect();
    let complete = |group: &mut dyn Iterator<Item = usize>| {
        let mut digits: Vec<u8> = group.map(|i| cells[i]).collect();
        digits.sort_unstable();
        digits == b"1234"
    };
    cells.len() == 16
        && puzzle.bytes().zip(&cells).all(|(clue, cell)| clue == b'0' || clue == *cell)
        && (0..4).all(|r| complete(&mut (0..4).map(|c| 4 * r + c)))
        && (0..4).all(|c| complete(&mut (0..4).map(|r| 4 * r + c)))
        && (0..4).all(|b| complete(&mut (0..4).map(|i| 8 * (b / 2) + 2 * (b % 2) + 4 * (i / 2) + i % 2)))
}

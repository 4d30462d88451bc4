//! Position ids of a request's rows (spec/text-model.md, sections 4 and 5).
//!
//! All lists are rows after rows: ids and mask `[B, S]`, masks 1 or 0. Whatever a model adds to a row (the canvas, a
//! proprioception or time embedding in front) has to be in the mask already, as ones.

use crate::image::{Grid, merged_tokens};
use crate::{PromptError, VisionTokens};

/// Dream-VL's positions, `[3, B, S]`: time, row and column.
///
/// Plain 0, 1, 2, .. in all three, over the places that the mask keeps; places masked out get 1. A row that has
/// `<|vision_start|>` right before an image's or video's placeholder counts in 3-D instead: the places of each image
/// get its tokens' time, row and column, each added to the number that would come next; after it, counting goes on
/// above the largest of all three.
///
/// In a row with `<|vision_start|>` before some images only, as many blocks as have it count so, from the first on:
/// that is the reference's rule. Other than there, grids of rows without it are not given to later rows.
///
/// # Errors
///
/// Where lengths differ, a grid and its placeholders do not go together, or grids are left.
pub fn vl_positions(
    rows: usize,
    ids: &[i32],
    attention_mask: &[i32],
    tokens: &VisionTokens,
    images: &[Grid],
    videos: &[Grid],
) -> Result<Vec<i32>, PromptError> {
    let length = shape(rows, ids, attention_mask)?;
    let mut positions = vec![1; 3 * ids.len()];
    let mut grids = Grids { left: [images, videos], tokens: *tokens };
    for row in 0..rows {
        let places: Vec<usize> =
            (row * length..(row + 1) * length).filter(|place| attention_mask[*place] != 0).collect();
        let kept: Vec<i32> = places.iter().map(|place| ids[*place]).collect();
        for (place, position) in places.iter().zip(row_positions(row, &kept, &mut grids)?) {
            for (axis, position) in position.into_iter().enumerate() {
                positions[axis * ids.len() + place] = position;
            }
        }
    }
    for (kind, left) in KINDS.into_iter().zip(grids.left) {
        if !left.is_empty() {
            let reason = format!("{} are left over, with {} tokens", left.len(), merged_tokens(left));
            return Err(PromptError::Grids { kind, reason });
        }
    }
    Ok(positions)
}

/// Dream-VLA's positions, `[B, S]`, the same for all axes: the number of places kept so far, so the first one has 1; a
/// place masked out repeats the one before.
///
/// # Errors
///
/// Where the mask does not divide into so many rows.
pub fn vla_positions(rows: usize, attention_mask: &[i32]) -> Result<Vec<i32>, PromptError> {
    let length = shape(rows, attention_mask, attention_mask)?;
    let mut positions = Vec::with_capacity(attention_mask.len());
    for row in attention_mask.chunks(length.max(1)) {
        positions.extend(row.iter().scan(0, |count, mask| {
            *count += i32::from(*mask != 0);
            Some(*count)
        }));
    }
    Ok(positions)
}

const KINDS: [&str; 2] = ["image", "video"];

/// Grids that no row has used yet: images, videos.
struct Grids<'g> {
    left: [&'g [Grid]; 2],
    tokens: VisionTokens,
}

impl Grids<'_> {
    /// 0 for an image's placeholder, 1 for a video's.
    fn kind(&self, id: i32) -> Option<usize> {
        [self.tokens.image, self.tokens.video].iter().position(|token| *token == id)
    }

    /// The grid of the block of placeholders that begins at `place`, and its number of tokens. Adjoining images are
    /// blocks of their own.
    fn block(&mut self, row: usize, ids: &[i32], place: usize, kind: usize) -> Result<Grid, PromptError> {
        let name = KINDS[kind];
        let Some((grid, left)) = self.left[kind].split_first() else {
            let reason = format!("row {row} has a placeholder at place {place}, and no grid is left for it");
            return Err(PromptError::Grids { kind: name, reason });
        };
        let tokens = grid.tokens();
        let found = ids[place..].iter().take(tokens).take_while(|id| **id == ids[place]).count();
        if tokens == 0 || found < tokens {
            return Err(PromptError::Block { row, place, kind: name, tokens, found });
        }
        self.left[kind] = left;
        Ok(*grid)
    }
}

/// The positions of the places that a row keeps.
fn row_positions(row: usize, ids: &[i32], grids: &mut Grids<'_>) -> Result<Vec<[i32; 3]>, PromptError> {
    // How many blocks of each kind count in 3-D.
    let mut counted = [0_usize; 2];
    for pair in ids.windows(2).filter(|pair| pair[0] == grids.tokens.vision_start) {
        if let Some(kind) = grids.kind(pair[1]) {
            counted[kind] += 1;
        }
    }
    let mut positions = Vec::with_capacity(ids.len());
    let mut next = 0;
    while let Some(id) = ids.get(positions.len()) {
        let Some(kind) = grids.kind(*id) else {
            positions.push([next; 3]);
            next += 1;
            continue;
        };
        let grid = grids.block(row, ids, positions.len(), kind)?;
        if counted[kind] == 0 {
            let plain = (next..).take(grid.tokens());
            positions.extend(plain.map(|p| [p; 3]));
            next += grid.tokens() as i32;
            continue;
        }
        counted[kind] -= 1;
        let (t, h, w) = (grid.t as i32, grid.h as i32 / 2, grid.w as i32 / 2);
        for time in 0..t {
            for y in 0..h {
                positions.extend((0..w).map(|x| [next + time, next + y, next + x]));
            }
        }
        next += t.max(h).max(w);
    }
    Ok(positions)
}

/// The length of a row.
fn shape(rows: usize, ids: &[i32], attention_mask: &[i32]) -> Result<usize, PromptError> {
    let wrong = |what, found, expected| Err(PromptError::Shape { what, rows, found, expected });
    let length = ids.len().checked_div(rows).unwrap_or(0);
    if rows * length != ids.len() {
        return wrong("ids", ids.len(), rows * length);
    }
    if attention_mask.len() != ids.len() {
        return wrong("mask values", attention_mask.len(), ids.len());
    }
    Ok(length)
}

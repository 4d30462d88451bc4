//! Episodes as an animated GIF.

use crate::scene::{CENTRE, COLOURS, EDGE, GRIPPER, SIDE};
use gif::{DisposalMethod, Encoder, EncodingError, Frame, Repeat};
use std::borrow::Cow;
use std::io::Write;

/// Hundredths of a second between frames.
const DELAY: u16 = 12;
/// Hundredths of a second on the last frame of an episode.
const PAUSE: u16 = 90;
/// Pixels of one pixel.
const SCALE: usize = 2;
/// Width of the border that tells how it ended: green for success, red for failure.
const BORDER: usize = 6;

/// Colours that are kept as they are.
const OBJECTS: [[u8; 3]; 6] = [COLOURS[0].1, COLOURS[1].1, COLOURS[2].1, EDGE, GRIPPER, CENTRE];
/// Places of red and green in it.
const FAILURE: u8 = 0;
const SUCCESS: u8 = 1;

/// Writes frames to a GIF that repeats.
pub struct Film<W: Write> {
    encoder: Encoder<W>,
}

impl<W: Write> Film<W> {
    /// An empty film.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn new(out: W) -> Result<Film<W>, EncodingError> {
        let side = (SIDE * SCALE) as u16;
        let mut encoder = Encoder::new(out, side, side, &palette())?;
        encoder.set_repeat(Repeat::Infinite)?;
        Ok(Film { encoder })
    }

    /// Ends the film.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn finish(self) -> Result<W, EncodingError> {
        self.encoder.into_inner()
    }

    /// Appends an episode: its frames, the last with a border that tells how it ended.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn episode(&mut self, frames: &[Vec<u8>], success: bool) -> Result<(), EncodingError> {
        let side = SIDE * SCALE;
        for (at, frame) in frames.iter().enumerate() {
            let last = at + 1 == frames.len();
            let pixels: Vec<u8> = (0..side * side)
                .map(|at| {
                    let (x, y) = (at % side, at / side);
                    if last && x.min(y).min(side - 1 - x).min(side - 1 - y) < BORDER {
                        return if success { SUCCESS } else { FAILURE };
                    }
                    let at = (y / SCALE * SIDE + x / SCALE) * 3;
                    index([frame[at], frame[at + 1], frame[at + 2]])
                })
                .collect();
            self.encoder.write_frame(&Frame {
                width: side as u16,
                height: side as u16,
                delay: if last { PAUSE } else { DELAY },
                dispose: DisposalMethod::Keep,
                buffer: Cow::Owned(pixels),
                ..Frame::default()
            })?;
        }
        Ok(())
    }
}

/// The table's shades are 88 to 151 of red and green, by 112 or 120 of blue: they are shown in steps of 8.
const SHADE: u8 = 88;
const STEPS: u8 = 8;

/// The objects, then the table.
fn palette() -> Vec<u8> {
    let shade = |i: u8| SHADE + 8 * i + 4;
    let table =
        (0..STEPS).flat_map(|r| (0..STEPS).flat_map(move |g| [112, 120].map(|b| [shade(r), shade(g), b])));
    OBJECTS.into_iter().chain(table).flatten().collect()
}

/// The place of a frame's colour in the palette.
fn index(colour: [u8; 3]) -> u8 {
    if let Some(object) = OBJECTS.iter().position(|o| *o == colour) {
        return object as u8;
    }
    let step = |v: u8| (v.saturating_sub(SHADE) / 8).min(STEPS - 1);
    OBJECTS.len() as u8 + (step(colour[0]) * STEPS + step(colour[1])) * 2 + u8::from(colour[2] >= 120)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scene;

    #[test]
    fn colours_are_near_and_objects_exact() {
        let palette = palette();
        for colour in Scene::new(0).frame().as_chunks::<3>().0 {
            let shown = &palette[usize::from(index(*colour)) * 3..][..3];
            let off = colour.iter().zip(shown).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(off <= Some(if OBJECTS.contains(colour) { 0 } else { 4 }), "{colour:?}: {shown:?}");
        }
    }
}

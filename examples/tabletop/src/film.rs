//! Episodes as an animated GIF.

use crate::scene::SIDE;
use gif::{DisposalMethod, Encoder, EncodingError, Frame, Repeat};
use std::io::Write;

/// Hundredths of a second between frames.
const DELAY: u16 = 12;
/// Hundredths of a second on the last frame of an episode.
const PAUSE: u16 = 90;
/// Pixels of one pixel.
const SCALE: usize = 2;
/// Width of the border that tells how it ended.
const BORDER: usize = 6;
/// Borders of success and failure.
const COLOURS: [[u8; 3]; 2] = [[40, 184, 56], [216, 40, 40]];

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
        let mut encoder = Encoder::new(out, side, side, &[])?;
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
        for (at, frame) in frames.iter().enumerate() {
            let last = at + 1 == frames.len();
            let border = last.then_some(COLOURS[usize::from(!success)]);
            let side = SIDE * SCALE;
            let mut pixels = Vec::with_capacity(side * side * 3);
            for at in 0..side * side {
                let (x, y) = (at % side, at / side);
                let edge = x.min(y).min(side - 1 - x).min(side - 1 - y) < BORDER;
                let source = &frame[(y / SCALE * SIDE + x / SCALE) * 3..][..3];
                match border {
                    Some(colour) if edge => pixels.extend(colour),
                    _ => pixels.extend(source),
                }
            }
            let mut image = Frame::from_rgb_speed(side as u16, side as u16, &pixels, 10);
            image.delay = if last { PAUSE } else { DELAY };
            image.dispose = DisposalMethod::Keep;
            self.encoder.write_frame(&image)?;
        }
        Ok(())
    }
}

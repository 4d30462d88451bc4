//! Images and videos of a request, and what the vision part of a program takes of them.

use crate::Error;
use crate::engine::{Inputs, append, bytes_of, bytes_of_floats};
use dreamc_front::image::{Grid, Image, PATCH_FEATURES, Patches, coordinates, merged_tokens, segments};
use dreamc_front::settings::{ImageSettings, Positions, Settings};
use dreamc_front::{PromptError, expand, positions, splice_index};
use dreamc_runtime::Canvas;

/// An image or video of a request, in the order of the prompt's placeholders.
#[derive(Clone, Debug, PartialEq)]
pub enum Visual {
    /// A still image.
    Image(Image),
    /// Frames of a video, an even number.
    Video(Vec<Image>),
    /// An image that was cut into patches by the caller: for regression.
    ImagePatches(Patches),
    /// The same of a video.
    VideoPatches(Patches),
}

/// An image or video as patches.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    patches: Patches,
    video: bool,
}

/// Patches that make one image token.
const PATCHES_PER_TOKEN: usize = 4;

/// The images of a request; none, for a model that does not see.
pub(crate) struct Images {
    settings: Option<ImageSettings>,
    seen: Vec<Seen>,
    /// How many of the images are before each row, and how many there are.
    before: Vec<usize>,
}

impl Images {
    /// Cuts images into patches.
    pub(crate) fn new(settings: Option<&Settings>, visuals: &[Visual]) -> Result<Images, Error> {
        match settings {
            Some(Settings { images, .. }) => {
                let seen = look(images, visuals)?;
                Ok(Images { settings: Some(images.clone()), seen, before: Vec::new() })
            }
            None if visuals.is_empty() => Ok(Images { settings: None, seen: Vec::new(), before: Vec::new() }),
            None => Err(Error::NoImages),
        }
    }

    /// Divides the images over rows of ids: each takes as many as fill its placeholders.
    pub(crate) fn divide(&mut self, rows: &[Vec<i32>]) -> Result<(), Error> {
        let Some(settings) = &self.settings else { return Ok(()) };
        let count = |row: &Vec<i32>| row.iter().filter(|id| settings.tokens.is_placeholder(**id)).count();
        let mismatch = || PromptError::Features {
            placeholders: rows.iter().map(count).sum(),
            feature_rows: self.seen.iter().map(|s| s.patches.grid.tokens()).sum(),
        };
        let (mut before, mut taken, mut placeholders, mut filled) = (vec![0], 0, 0, 0);
        for row in rows {
            placeholders += count(row);
            while let (true, Some(next)) = (filled < placeholders, self.seen.get(taken)) {
                filled += next.patches.grid.tokens();
                taken += 1;
            }
            if filled != placeholders {
                return Err(mismatch().into());
            }
            before.push(taken);
        }
        if taken != self.seen.len() {
            return Err(mismatch().into());
        }
        self.before = before;
        Ok(())
    }

    /// Axes of the positions.
    pub(crate) fn axes(&self) -> usize {
        match self.settings.as_ref().map(|s| s.positions) {
            Some(Positions::Vl) => 3,
            Some(Positions::Vla) | None => 1,
        }
    }

    /// Appends mask, positions (`given`, or those that the model computes) and, for a model that sees, images of the rows
    /// from `first` on. Returns the number of image tokens. Only the first `prompt` ids of a row stand for images: a slot that is filled with such an id is a word.
    pub(crate) fn inputs(
        &self,
        canvas: &Canvas,
        first: usize,
        prompt: usize,
        given: Option<Vec<i32>>,
        inputs: &mut Inputs,
    ) -> Result<u32, Error> {
        inputs.push(("attention_mask", bytes_of(&canvas.attention_mask)));
        let Some(settings) = &self.settings else {
            let positions = given.unwrap_or_else(|| canvas.position_ids.clone());
            inputs.push(("position_ids", bytes_of(&positions)));
            return Ok(1);
        };
        let seen = &self.seen[self.before[first]..self.before[first + canvas.rows]];
        let positions = match given {
            Some(given) => given,
            None => position_ids(settings, canvas, seen)?,
        };
        inputs.push(("position_ids", bytes_of(&positions)));
        inputs.push(("image_index", bytes_of(&image_index(settings, canvas, prompt, seen)?)));
        tower(settings, seen, inputs)
    }
}

/// How each image will be cut, and whether it is a video: sizes are known before memory is taken for them.
pub(crate) fn measure(settings: &ImageSettings, visuals: &[Visual]) -> Result<Vec<(Grid, bool)>, Error> {
    let sized = |image: &Image| match settings.size {
        Some([width, height]) if (width, height) != (image.width(), image.height()) => {
            Err(Error::ImageSize { found: [image.width(), image.height()], expected: [width, height] })
        }
        Some(_) | None => Ok(()),
    };
    let frames = |frames: &[Image]| {
        frames.iter().try_for_each(sized)?;
        // Without frames the processor says what is wrong.
        let (height, width) = frames.first().map_or((1, 1), |f| (f.height(), f.width()));
        Ok::<Grid, Error>(settings.processor.grid(height, width, frames.len())?)
    };
    let given = |patches: &Patches| {
        let (found, expected) = (patches.values.len(), patches.grid.patches().saturating_mul(PATCH_FEATURES));
        if found == expected { Ok(patches.grid) } else { Err(Error::Patches { found, expected }) }
    };
    let one = |visual: &Visual| {
        let (grid, video) = match visual {
            Visual::Image(image) => (frames(std::slice::from_ref(image))?, false),
            Visual::Video(images) => (frames(images)?, true),
            Visual::ImagePatches(patches) => (given(patches)?, false),
            Visual::VideoPatches(patches) => (given(patches)?, true),
        };
        let (found, max) = (grid.tokens(), settings.tokens_max);
        if found <= max as usize { Ok((grid, video)) } else { Err(Error::ImageTokens { found, max }) }
    };
    visuals.iter().map(one).collect()
}

/// Ids with each placeholder repeated as often as its image has tokens, at most `max` in all.
pub(crate) fn make_room(
    settings: &ImageSettings,
    ids: &[i32],
    visuals: &[Visual],
    max: usize,
) -> Result<Vec<i32>, Error> {
    let measured = measure(settings, visuals)?;
    let of = |video: bool| measured.iter().filter(|m| m.1 == video).map(|m| m.0).collect::<Vec<Grid>>();
    Ok(expand(ids, &settings.tokens, &of(false), &of(true), max)?)
}

/// All images of a request as patches.
pub(crate) fn look(settings: &ImageSettings, visuals: &[Visual]) -> Result<Vec<Seen>, Error> {
    measure(settings, visuals)?;
    let one = |visual: &Visual| {
        let (patches, video) = match visual {
            Visual::Image(image) => (settings.processor.preprocess(std::slice::from_ref(image))?, false),
            Visual::Video(images) => (settings.processor.preprocess(images)?, true),
            Visual::ImagePatches(patches) => (patches.clone(), false),
            Visual::VideoPatches(patches) => (patches.clone(), true),
        };
        Ok(Seen { patches, video })
    };
    visuals.iter().map(one).collect()
}

/// Grids of images and of videos.
fn grids(seen: &[Seen]) -> [Vec<Grid>; 2] {
    let of = |video: bool| seen.iter().filter(|s| s.video == video).map(|s| s.patches.grid).collect();
    [of(false), of(true)]
}

/// Appends the patches. Returns the number of image tokens, at least 1: without an image there is one that nobody sees.
pub(crate) fn tower(settings: &ImageSettings, seen: &[Seen], inputs: &mut Inputs) -> Result<u32, Error> {
    let all: Vec<Grid> = seen.iter().map(|s| s.patches.grid).collect();
    let (found, max) = (merged_tokens(&all), settings.tokens_max);
    let tokens = u32::try_from(found).ok().filter(|n| *n <= max);
    let tokens = tokens.ok_or(Error::ImageTokens { found, max })?;
    let (pixels, segments, places) = if tokens == 0 {
        let n = PATCHES_PER_TOKEN;
        (bytes_of_floats(&vec![0.0; n * PATCH_FEATURES]), vec![0; n], vec![[0; 2]; n])
    } else {
        let mut pixels = Vec::with_capacity(4 * seen.iter().map(|s| s.patches.values.len()).sum::<usize>());
        seen.iter().for_each(|s| append(&mut pixels, &s.patches.values));
        (pixels, segments(&all), coordinates(&all))
    };
    let axis = |axis: usize| places.iter().map(move |place| place[axis]);
    let positions: Vec<i32> = axis(0).chain(axis(1)).collect();
    inputs.push(("pixel_values", pixels));
    inputs.push(("patch_segments", bytes_of(&segments)));
    inputs.push(("patch_positions", bytes_of(&positions)));
    Ok(tokens.max(1))
}

/// The image row at each place of a canvas, or -1.
fn image_index(
    settings: &ImageSettings,
    canvas: &Canvas,
    prompt: usize,
    seen: &[Seen],
) -> Result<Vec<i32>, Error> {
    let ids: Vec<i32> = canvas
        .tokens
        .chunks(canvas.length)
        .flat_map(|row| row.iter().enumerate().map(|(p, id)| if p < prompt { *id } else { -1 }))
        .collect();
    let rows = seen.iter().map(|s| s.patches.grid.tokens()).sum();
    Ok(splice_index(&ids, &settings.tokens, rows)?)
}

/// Positions of the rows of a canvas: one plane, or time, row and column.
fn position_ids(settings: &ImageSettings, canvas: &Canvas, seen: &[Seen]) -> Result<Vec<i32>, Error> {
    let [images, videos] = grids(seen);
    Ok(match settings.positions {
        Positions::Vl => positions::vl_positions(
            canvas.rows,
            &canvas.tokens,
            &canvas.attention_mask,
            &settings.tokens,
            &images,
            &videos,
        )?,
        Positions::Vla => positions::vla_positions(canvas.rows, &canvas.attention_mask)?,
    })
}

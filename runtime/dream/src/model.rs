//! An open artifact.

use crate::contract::contradiction;
use crate::engine::Engine;
use crate::map::Map;
use crate::visual::make_room;
use crate::{DeviceChoice, Error, Isa, Visual};
use dreamc_artifact::{Artifact, Manifest, OpenError};
use dreamc_front::{Settings, Tokenizer};
use self_cell::self_cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How an artifact is run.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// What to run on.
    pub device: DeviceChoice,
    /// Number of threads; 0 for one per core.
    pub threads: usize,
    /// An instruction set other than the best that the processor has.
    pub isa: Option<Isa>,
    /// Processors to run the threads on, by number; empty leaves that to the system.
    pub pin: Vec<usize>,
    /// Keep the weights in memory, so that no request waits for the disk; without it rows of the embedding table are mapped when
    /// they are first read. Needs the right to lock that much. On the CPU all pages that a request of any length writes to
    /// are touched as well, when a program is made ready: not even the first request waits for memory, which then takes
    /// what the longest needs.
    pub lock_weights: bool,
    /// Lengths of prompts, in tokens with those of images, whose runs are recorded when the model is opened, so that not
    /// even the first request of such a length records its run; at most [`WARM_COUNT_MAX`](crate::WARM_COUNT_MAX). None
    /// for those of the file (`--warm`). Memory is taken and weights are copied when the model is opened, then. Devices
    /// that record nothing (all but CUDA and ROCm) check the lengths and do nothing.
    pub warm: Option<Vec<u32>>,
    /// The driver's library, where the system does not find it by its name. Of CUDA and ROCm.
    pub driver: Option<PathBuf>,
    /// Told what the user should know and that is no error, as it is found out; none tells nobody.
    pub warn: Option<fn(&str)>,
}

self_cell!(
    struct Opened {
        owner: Map,
        #[covariant]
        dependent: Engine,
    }
);

/// What errors call an artifact that was given as bytes.
const IN_MEMORY: &str = "the artifact in memory";

/// An open artifact: maps the file, runs requests one at a time.
pub struct Model {
    opened: Opened,
    tokenizer: Option<Arc<Tokenizer>>,
    settings: Option<Settings>,
}

impl Model {
    /// Opens an artifact. Header, plan and tokenizer are checked now, each tensor when it is first used.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the file, or why none of the devices that it was built for can be had.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Model, Error> {
        Model::of_map(Map::file(path)?, path, options)
    }

    /// Opens an artifact from the bytes of its file, which are copied to where weights can be used in place. Use
    /// [`Model::open`] where there is a file: it copies nothing.
    ///
    /// # Errors
    ///
    /// As [`Model::open`], and where there is no memory for the copy.
    pub fn from_bytes(bytes: &[u8], options: &OpenOptions) -> Result<Model, Error> {
        Model::of_map(Map::copy(bytes)?, IN_MEMORY.as_ref(), options)
    }

    fn of_map(mut map: Map, path: &Path, options: &OpenOptions) -> Result<Model, Error> {
        if options.lock_weights {
            map.lock(path)?;
        }
        let opened = Opened::try_new(map, |map| Engine::open(path, map, options))?;
        let tokenizer =
            opened.borrow_dependent().artifact.tokenizer().map(Tokenizer::from_bytes).transpose()?;
        let settings = opened.borrow_dependent().artifact.front().map(|bytes| {
            let what = "the settings of images and actions".to_owned();
            Settings::from_bytes(bytes).ok_or_else(|| Error::Manifest { path: path.to_owned(), what })
        });
        let tokenizer = tokenizer.map(Arc::new);
        let mut model = Model { opened, tokenizer, settings: settings.transpose()? };
        model.with_engine(|engine| engine.warm_up())?;
        Ok(model)
    }

    /// What it is run on, in words; nothing if it is only looked at.
    pub fn device(&self) -> Option<&str> {
        self.opened.borrow_dependent().device()
    }

    /// Which of the artifact's targets that is.
    pub fn target(&self) -> Option<&str> {
        self.opened.borrow_dependent().target()
    }

    /// What the artifact is.
    pub fn manifest(&self) -> &Manifest {
        self.artifact().manifest()
    }

    /// The opened file.
    pub fn artifact(&self) -> &Artifact<'_> {
        &self.opened.borrow_dependent().artifact
    }

    /// The tokenizer, if the checkpoint had one: shared, since a run borrows the model.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// What surrounds the tensors, for a model that sees.
    pub fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// Token ids of a text with a placeholder for each image, which is repeated as often as the image has tokens.
    ///
    /// # Errors
    ///
    /// Where the artifact has no tokenizer, or text and images do not fit together.
    pub fn encode_with(&self, text: &str, visuals: &[Visual]) -> Result<Vec<i32>, Error> {
        let ids = self.encode(text)?;
        match self.settings() {
            Some(settings) => {
                let max = self.manifest().model.max_prompt as usize;
                make_room(&settings.images, &ids, visuals, max)
            }
            None if visuals.is_empty() => Ok(ids),
            None => Err(Error::NoImages),
        }
    }

    /// Token ids of a canvas: text in which `<|mask|>` is a slot and `<|mask:N|>` are N of them.
    ///
    /// # Errors
    ///
    /// Where the artifact has no tokenizer, or a slot is written otherwise.
    pub fn encode_canvas(&self, text: &str) -> Result<Vec<i32>, Error> {
        const OPEN: &str = "<|mask:";
        const CLOSE: &str = "|>";
        let max = self.manifest().model.new_tokens as usize;
        let tokenizer = self.tokenizer.as_ref().ok_or(Error::NoTokenizer)?;
        // A slot is written in no more bytes than this.
        tokenizer.check_length(text.len(), max, OPEN.len() + CLOSE.len() + max.to_string().len())?;
        let mut parts = text.split(OPEN);
        let mut plain = parts.next().unwrap_or_default().to_owned();
        let mut left = max;
        for part in parts {
            let slots = part.split_once(CLOSE).and_then(|(n, rest)| Some((n.parse::<usize>().ok()?, rest)));
            let Some((n, rest)) = slots.filter(|(n, _)| (1..=left).contains(n)) else {
                let written = part.split(CLOSE).next().unwrap_or_default().chars().take(20).collect();
                return Err(Error::Slots { written, max });
            };
            left -= n;
            plain.push_str(&"<|mask|>".repeat(n));
            plain.push_str(rest);
        }
        Ok(signed(tokenizer.encode_within(&plain, max)?))
    }

    /// Token ids of a text, taken as it stands.
    ///
    /// # Errors
    ///
    /// Where the artifact has no tokenizer, or the text has more bytes than the longest prompt can have.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>, Error> {
        let max = self.manifest().model.max_prompt as usize;
        let tokenizer = self.tokenizer.as_ref().ok_or(Error::NoTokenizer)?;
        Ok(signed(tokenizer.encode_within(text, max)?))
    }

    pub(crate) fn with_engine<R>(&mut self, f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        self.opened.with_dependent_mut(|_, engine| f(engine))
    }
}

/// Ids as programs take them.
fn signed(ids: Vec<u32>) -> Vec<i32> {
    ids.into_iter().map(|id| id as i32).collect()
}

/// Checks every byte of an artifact. `progress` is told the bytes of weights checked and their total.
///
/// # Errors
///
/// Names the first thing that is wrong.
pub fn verify(path: &Path, progress: impl FnMut(u64, u64)) -> Result<Manifest, Error> {
    let map = Map::file(path)?;
    let open = |source| Error::Open { path: path.to_owned(), source };
    let artifact = Artifact::open(&map).map_err(open)?;
    if let Some(what) = contradiction(&artifact) {
        return Err(Error::Manifest { path: path.to_owned(), what });
    }
    artifact.verify(progress).map_err(|error| match error {
        OpenError::WeightHash { index } => damaged(&artifact, index),
        other => open(other),
    })?;
    Ok(artifact.manifest().clone())
}

/// Names the tensor whose bytes are not those that were written.
pub(crate) fn damaged(artifact: &Artifact<'_>, index: u32) -> Error {
    Error::Damaged {
        tensor: artifact.weights().get(index as usize).map_or_else(String::new, |w| w.name.clone()),
    }
}

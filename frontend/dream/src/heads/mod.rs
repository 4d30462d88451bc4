//! Action heads and projectors beside a checkpoint (`spec/checkpoint-layout.md` section 6, `spec/actions.md` section 6).
//!
//! A [`HeadSet`] finds the files that a mode needs, checks every name and shape, and offers the tensors under names that
//! are the same for every kind of head and either form of file: `action_head.fc1.weight`,
//! `action_head.mlp_resnet_blocks.0.ffn.1.weight`, `noisy_action_projector.fc2.bias`, `proprio_projector.fc1.weight`.

mod error;
mod files;
mod shapes;

pub use error::HeadError;
pub use files::HeadPart;
pub use shapes::head_tensors;

use crate::{ImportError, Misshapen, TensorProblems};
use dreamc_weights::{TensorFile, TensorLookup, TensorRef};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Before the names in files that training wrote in parallel.
const WRAPPER: &str = "module.";

/// The kinds of action heads. They have the same tensors; what is computed around them differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// Actions in one pass, trained with the L1 distance.
    L1,
    /// A velocity field, followed from noise to actions.
    Flow,
    /// A noise predictor, applied backwards in time.
    Ddim,
}

impl HeadKind {
    /// Every kind.
    pub const ALL: [HeadKind; 3] = [HeadKind::L1, HeadKind::Flow, HeadKind::Ddim];

    /// As on the command line (`--mode`).
    pub const fn name(self) -> &'static str {
        match self {
            HeadKind::L1 => "l1",
            HeadKind::Flow => "flow",
            HeadKind::Ddim => "ddim",
        }
    }

    /// Inverse of [`HeadKind::name`].
    pub fn from_name(name: &str) -> Option<HeadKind> {
        HeadKind::ALL.into_iter().find(|k| k.name() == name)
    }

    /// Before the names in its file.
    pub const fn prefix(self) -> &'static str {
        match self {
            HeadKind::L1 => "model.",
            HeadKind::Flow => "flow_predictor.mlp_resnet.",
            HeadKind::Ddim => "noise_predictor.mlp_resnet.",
        }
    }

    /// Whether it starts from noise, which a projector turns into embeddings.
    pub const fn from_noise(self) -> bool {
        match self {
            HeadKind::L1 => false,
            HeadKind::Flow | HeadKind::Ddim => true,
        }
    }
}

/// What a build needs of the files beside a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadRequest {
    /// The head's kind; `None` for modes that decode action tokens.
    pub kind: Option<HeadKind>,
    /// Numbers of one action, as the statistics have them.
    pub action_dim: u64,
    /// Numbers of the robot's own state, as the statistics have them; `None` where it is not used.
    pub proprio_dim: Option<u64>,
    /// Take a head that is named like an L1 head for a DDIM head, as the reference does unasked.
    pub l1_as_ddim: bool,
}

/// The heads and projectors that a mode needs, mapped and checked.
///
/// The files must not be changed while this exists.
#[derive(Debug)]
pub struct HeadSet {
    files: Vec<TensorFile>,
    /// Canonical name, to the number of the file and the name there.
    tensors: BTreeMap<String, (usize, String)>,
}

impl HeadSet {
    /// Opens what is asked for in a folder: a checkpoint's own, or one given with `--heads`. `hidden_size` is the
    /// decoder's.
    pub fn open(
        dir: impl AsRef<Path>,
        hidden_size: u64,
        request: &HeadRequest,
    ) -> Result<HeadSet, ImportError> {
        let dir = dir.as_ref();
        let found = files::find(dir)?;
        let mut set = HeadSet { files: Vec::new(), tensors: BTreeMap::new() };
        let require = |part: HeadPart, why: &str| match found.get(&part) {
            Some(path) => Ok(path.clone()),
            None => Err(HeadError::Absent { part: part.name(), why: why.to_owned(), dir: dir.to_owned() }),
        };
        if let Some(kind) = request.kind {
            let path = require(HeadPart::ActionHead, &format!("mode `{}`", kind.name()))?;
            let file = TensorFile::open(&path)?;
            let stored = stored_kind(&file, &path)?;
            let taken = if request.l1_as_ddim && kind == HeadKind::Ddim && stored == HeadKind::L1 {
                HeadKind::L1
            } else {
                kind
            };
            if stored != taken {
                return Err(HeadError::Kind { path, found: stored.name(), expected: kind.name() }.into());
            }
            check_action(&file, &path, stored, request.action_dim)?;
            let expected = shapes::action_head(hidden_size, request.action_dim)?;
            set.add(HeadPart::ActionHead, file, &path, stored.prefix(), expected)?;
            if kind.from_noise() {
                let path = found.get(&HeadPart::NoisyActionProjector).cloned();
                let path = path
                    .ok_or_else(|| HeadError::NoNoiseProjector { kind: kind.name(), dir: dir.to_owned() })?;
                let file = TensorFile::open(&path)?;
                set.add(HeadPart::NoisyActionProjector, file, &path, "", shapes::projector(hidden_size, 1))?;
            }
        }
        if let Some(proprio_dim) = request.proprio_dim {
            let path = require(HeadPart::ProprioProjector, "the robot's state (`--proprio on`)")?;
            let file = TensorFile::open(&path)?;
            check_proprio(&file, &path, proprio_dim)?;
            set.add(
                HeadPart::ProprioProjector,
                file,
                &path,
                "",
                shapes::projector(hidden_size, proprio_dim),
            )?;
        }
        Ok(set)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of a canonical name.
    pub fn get(&self, name: &str) -> Option<TensorRef<'_>> {
        let (name, (file, stored)) = self.tensors.get_key_value(name)?;
        let mut tensor = self.files[*file].get(stored)?;
        tensor.name = name;
        Some(tensor)
    }

    /// The names of the files in use.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(TensorFile::file)
    }

    /// Takes a file whose tensors are these and no others.
    fn add(
        &mut self,
        part: HeadPart,
        file: TensorFile,
        path: &Path,
        prefix: &str,
        expected: Vec<(String, Vec<u64>)>,
    ) -> Result<(), HeadError> {
        let mut expected: BTreeMap<String, Vec<u64>> = expected.into_iter().collect();
        let mut problems = TensorProblems::default();
        let mut tensors = Vec::new();
        for tensor in file.tensors() {
            let inner = tensor.name.strip_prefix(WRAPPER).unwrap_or(tensor.name).strip_prefix(prefix);
            match inner.and_then(|name| Some((name, expected.remove(name)?))) {
                None => problems.extra.push(tensor.name.to_owned()),
                Some((_, shape)) if shape != tensor.shape => problems.misshapen.push(Misshapen {
                    tensor: tensor.name.to_owned(),
                    found: tensor.shape.to_vec(),
                    expected: shape,
                }),
                Some((name, _)) => tensors.push((format!("{}.{name}", part.name()), tensor.name.to_owned())),
            }
        }
        problems.missing = expected.into_keys().map(|name| format!("{prefix}{name}")).collect();
        if !problems.is_empty() {
            return Err(HeadError::Tensors { path: path.to_owned(), problems });
        }
        let number = self.files.len();
        self.tensors.extend(tensors.into_iter().map(|(name, stored)| (name, (number, stored))));
        self.files.push(file);
        Ok(())
    }
}

impl TensorLookup for HeadSet {
    fn tensor(&self, name: &str) -> Option<TensorRef<'_>> {
        self.get(name)
    }
}

/// The kind of the action head in a folder, if there is one; for builds that are not told a mode.
pub fn find_head_kind(dir: impl AsRef<Path>) -> Result<Option<HeadKind>, ImportError> {
    match files::find(dir.as_ref())?.get(&HeadPart::ActionHead) {
        Some(path) => Ok(Some(stored_kind(&TensorFile::open(path)?, path)?)),
        None => Ok(None),
    }
}

/// Every name tells the kind, so the first does.
fn stored_kind(file: &TensorFile, path: &Path) -> Result<HeadKind, HeadError> {
    let first = file.names().next().unwrap_or_default();
    let inner = first.strip_prefix(WRAPPER).unwrap_or(first);
    HeadKind::ALL
        .into_iter()
        .find(|kind| inner.starts_with(kind.prefix()))
        .ok_or_else(|| HeadError::UnknownKind { path: PathBuf::from(path), tensor: first.to_owned() })
}

/// Actions of another length have a remedy of their own.
fn check_action(file: &TensorFile, path: &Path, kind: HeadKind, expected: u64) -> Result<(), HeadError> {
    match stored(file, &format!("{}fc2.weight", kind.prefix())).map(|t| t.shape) {
        Some(&[found, _]) if found != expected => {
            Err(HeadError::ActionDim { path: path.to_owned(), found, expected })
        }
        // Whatever else is wrong with it is reported with the other tensors.
        _ => Ok(()),
    }
}

/// So has a state of another length.
fn check_proprio(file: &TensorFile, path: &Path, expected: u64) -> Result<(), HeadError> {
    match stored(file, "fc1.weight").map(|t| t.shape) {
        Some(&[_, found]) if found != expected => {
            Err(HeadError::ProprioDim { path: path.to_owned(), found, expected })
        }
        _ => Ok(()),
    }
}

fn stored<'a>(file: &'a TensorFile, name: &str) -> Option<TensorRef<'a>> {
    file.get(name).or_else(|| file.get(&format!("{WRAPPER}{name}")))
}

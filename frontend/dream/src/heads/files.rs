//! Finding the files of heads and projectors in a folder.

use super::HeadError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of another model's backbone, changed by the task's text, which Dream does not have.
const FILM_PREFIX: &str = "vision_backbone--";

/// A part of the model that is stored beside the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeadPart {
    /// Hidden states to actions, to a velocity or to noise.
    ActionHead,
    /// Noisy actions to embeddings.
    NoisyActionProjector,
    /// The robot's own state to an embedding.
    ProprioProjector,
}

impl HeadPart {
    /// Every part.
    pub const ALL: [HeadPart; 3] =
        [HeadPart::ActionHead, HeadPart::NoisyActionProjector, HeadPart::ProprioProjector];

    /// As its file begins, and as the names of its tensors do once they are read.
    pub const fn name(self) -> &'static str {
        match self {
            HeadPart::ActionHead => "action_head",
            HeadPart::NoisyActionProjector => "noisy_action_projector",
            HeadPart::ProprioProjector => "proprio_projector",
        }
    }

    /// Whether a folder has it.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read, or has files that are not to be used.
    pub fn is_in(self, dir: impl AsRef<Path>) -> Result<bool, crate::ImportError> {
        Ok(find(dir.as_ref())?.contains_key(&self))
    }

    /// `action_head--TAG.pt` as training writes it, or `action_head.safetensors`. One name is the end of another, so
    /// the beginning counts.
    fn is_file(self, file: &str) -> bool {
        let Some(rest) = file.strip_prefix(self.name()) else { return false };
        rest == ".safetensors" || (rest.starts_with("--") && rest.ends_with(".pt"))
    }
}

/// The file of each part that is there.
pub(super) fn find(dir: &Path) -> Result<BTreeMap<HeadPart, PathBuf>, HeadError> {
    let failed = |source| HeadError::Folder { dir: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        // A name that is not text is none of these.
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    if let Some(file) = names.iter().find(|n| n.starts_with(FILM_PREFIX) && n.ends_with(".pt")) {
        return Err(HeadError::Film { path: dir.join(file) });
    }
    let mut found = BTreeMap::new();
    for part in HeadPart::ALL {
        let files: Vec<&String> = names.iter().filter(|name| part.is_file(name)).collect();
        match files[..] {
            [] => {}
            [file] => {
                found.insert(part, dir.join(file));
            }
            _ => {
                let files = files.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
                return Err(HeadError::Several { part: part.name(), dir: dir.to_owned(), files });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (file, part) in [
            ("action_head--latest_checkpoint.pt", Some(HeadPart::ActionHead)),
            ("action_head--150000_checkpoint.pt", Some(HeadPart::ActionHead)),
            ("action_head.safetensors", Some(HeadPart::ActionHead)),
            ("noisy_action_projector--latest_checkpoint.pt", Some(HeadPart::NoisyActionProjector)),
            ("proprio_projector.safetensors", Some(HeadPart::ProprioProjector)),
            ("my_action_head--x.pt", None),
            ("action_head.pt", None),
            ("action_head--x.bin", None),
            ("action_head_old.safetensors", None),
        ] {
            assert_eq!(HeadPart::ALL.into_iter().find(|p| p.is_file(file)), part, "{file}");
        }
    }
}

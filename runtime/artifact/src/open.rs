//! Opening an artifact: everything but the weights is checked and decoded.

use crate::code::{Code, decode_code};
use crate::header::decode_header;
use crate::plan::Plan;
use crate::weights::decode_table;
use crate::{
    FORMAT_VERSION, HEADER_LEN, Kind, Manifest, OpenError, Section, TABLE_ENTRY_LEN, Version, WeightInfo,
};
use crate::{decode_plan, hash, table_hash, validate};
use alloc::vec::Vec;

/// Bytes of a tensor that are hashed at a time.
const HASHED: usize = 4 << 20;

/// An open artifact over the bytes of its file, usually a memory map.
#[derive(Clone, Debug)]
pub struct Artifact<'a> {
    file: &'a [u8],
    version: Version,
    sections: Vec<Section>,
    manifest: Manifest,
    plans: Vec<Plan>,
    codes: Vec<Code>,
    weights: Vec<WeightInfo>,
    weights_section: &'a [u8],
}

impl<'a> Artifact<'a> {
    /// Checks and decodes everything but the weights.
    ///
    /// # Errors
    ///
    /// Names the first thing that is wrong. Nothing in the file can make this panic.
    pub fn open(file: &'a [u8]) -> Result<Artifact<'a>, OpenError> {
        let (version, sections) = decode_header(file)?;
        for section in sections.iter().filter(|s| s.kind != Kind::Weights) {
            if hash(bytes_of(file, section)) != section.hash {
                return Err(OpenError::SectionHash { kind: section.kind });
            }
        }
        // What was written is here to the byte: what is wrong with it now is new to this program.
        let newer = version.minor > FORMAT_VERSION.minor;
        Artifact::decode(file, version, sections)
            .map_err(|error| if newer { OpenError::Newer { found: version } } else { error })
    }

    /// Decodes sections whose hashes are right.
    fn decode(file: &'a [u8], version: Version, sections: Vec<Section>) -> Result<Artifact<'a>, OpenError> {
        for kind in [Kind::Tokenizer, Kind::Ir, Kind::Golden, Kind::Front] {
            if sections.iter().filter(|s| s.kind == kind).count() > 1 {
                return Err(OpenError::SectionMissing { kind });
            }
        }
        let manifest = bytes_of(file, only(&sections, Kind::Manifest)?);
        let manifest = Manifest::from_bytes(manifest).ok_or(OpenError::Manifest)?;

        let weights_entry = only(&sections, Kind::Weights)?;
        let table = bytes_of(file, only(&sections, Kind::WeightTable)?);
        let weights = decode_table(table, weights_entry.len)?;
        if table_hash(&weights) != weights_entry.hash {
            return Err(OpenError::SectionHash { kind: Kind::Weights });
        }

        let plan_sections: Vec<_> = sections.iter().filter(|s| s.kind == Kind::Plan).collect();
        let code_sections: Vec<_> = sections.iter().filter(|s| s.kind == Kind::Code).collect();
        for (kind, of_kind) in [(Kind::Plan, &plan_sections), (Kind::Code, &code_sections)] {
            if of_kind.len() != manifest.targets.len() {
                return Err(OpenError::SectionMissing { kind });
            }
        }
        let (mut plans, mut codes) = (Vec::new(), Vec::new());
        for ((plan, code), target) in plan_sections.into_iter().zip(code_sections).zip(0_u32..) {
            let plan = decode_plan(bytes_of(file, plan))?;
            let code = decode_code(bytes_of(file, code))?;
            validate(&plan, &code, &weights).map_err(|error| OpenError::Plan { target, error })?;
            plans.push(plan);
            codes.push(code);
        }
        let weights_section = bytes_of(file, weights_entry);
        Ok(Artifact { file, version, manifest, plans, codes, weights, weights_section, sections })
    }

    /// The format's version, as the file has it.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Hash of the hashes of all sections, in their order: two files with the same one hold the same.
    pub fn root_hash(&self) -> [u8; 32] {
        let hashes: Vec<u8> = self.sections().iter().flat_map(|section| section.hash).collect();
        hash(&hashes)
    }

    /// The section table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// What the artifact is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The plan of a target, validated.
    pub fn plan(&self, target: &str) -> Option<&Plan> {
        let index = self.manifest.targets.iter().position(|t| t == target)?;
        self.plans.get(index)
    }

    /// The code of a target, validated together with its plan; empty for the CPU.
    pub fn code(&self, target: &str) -> Option<&Code> {
        let index = self.manifest.targets.iter().position(|t| t == target)?;
        self.codes.get(index)
    }

    /// The weight table. Plans refer to it by index.
    pub fn weights(&self) -> &[WeightInfo] {
        &self.weights
    }

    /// The stored bytes of a tensor, not yet checked against its hash; empty if there is no such tensor.
    pub fn weight(&self, index: u32) -> &'a [u8] {
        let Some(weight) = self.weights.get(index as usize) else { return &[] };
        // `decode_table` has placed every tensor inside the section.
        let start = weight.offset as usize;
        self.weights_section.get(start..start + weight.bytes as usize).unwrap_or(&[])
    }

    /// Checks a tensor's bytes against its hash.
    ///
    /// # Errors
    ///
    /// Where they differ, or there is no such tensor.
    pub fn check_weight(&self, index: u32) -> Result<(), OpenError> {
        self.check_weight_in_parts(index, |_| ())
    }

    /// As [`Artifact::check_weight`]; `done` is told each part, some megabytes, after it was read.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_weight_in_parts(&self, index: u32, mut done: impl FnMut(&'a [u8])) -> Result<(), OpenError> {
        let weight = self.weights.get(index as usize).ok_or(OpenError::NoWeight { index })?;
        let mut hasher = blake3::Hasher::new();
        for part in self.weight(index).chunks(HASHED) {
            hasher.update(part);
            done(part);
        }
        let same = *hasher.finalize().as_bytes() == weight.hash;
        if same { Ok(()) } else { Err(OpenError::WeightHash { index }) }
    }

    /// The bytes of one of [`Artifact::sections`]; empty for a section of another file.
    pub fn bytes(&self, section: &Section) -> &'a [u8] {
        let end = section.offset.saturating_add(section.len) as usize;
        self.file.get(section.offset as usize..end).unwrap_or(&[])
    }

    /// The section's bytes, if the artifact has one of this kind.
    pub fn section(&self, kind: Kind) -> Option<&'a [u8]> {
        self.sections.iter().find(|s| s.kind == kind).map(|s| bytes_of(self.file, s))
    }

    /// The tokenizer's bytes.
    pub fn tokenizer(&self) -> Option<&'a [u8]> {
        self.section(Kind::Tokenizer)
    }

    /// The graphs as text.
    pub fn ir(&self) -> Option<&'a [u8]> {
        self.section(Kind::Ir)
    }

    /// The recorded cases.
    pub fn golden(&self) -> Option<&'a [u8]> {
        self.section(Kind::Golden)
    }

    /// The settings of images and actions.
    pub fn front(&self) -> Option<&'a [u8]> {
        self.section(Kind::Front)
    }

    /// Length of the file.
    pub fn file_len(&self) -> u64 {
        self.file.len() as u64
    }

    /// Checks every byte that [`Artifact::open`] has not read: the tensors, and the gaps. `progress` is told the
    /// bytes of the weights section checked so far, and their total.
    ///
    /// # Errors
    ///
    /// Names the first thing that is wrong.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<(), OpenError> {
        let mut end = (HEADER_LEN + self.sections.len() as u64 * TABLE_ENTRY_LEN) as usize;
        for section in &self.sections {
            zero(self.file, end, section.offset as usize)?;
            end = (section.offset + section.len) as usize;
        }
        let total = self.weights_section.len() as u64;
        let mut end = 0;
        for (weight, index) in self.weights.iter().zip(0..) {
            zero(self.weights_section, end, weight.offset as usize)?;
            self.check_weight(index)?;
            end = (weight.offset + weight.bytes) as usize;
            progress(end as u64, total);
        }
        Ok(())
    }
}

/// The one section of this kind.
fn only(sections: &[Section], kind: Kind) -> Result<&Section, OpenError> {
    let mut found = sections.iter().filter(|s| s.kind == kind);
    match (found.next(), found.next()) {
        (Some(section), None) => Ok(section),
        (None, _) | (Some(_), Some(_)) => Err(OpenError::SectionMissing { kind }),
    }
}

fn bytes_of<'a>(file: &'a [u8], section: &Section) -> &'a [u8] {
    // `decode_header` has placed every section inside the file, so its ends fit in a `usize`.
    &file[section.offset as usize..(section.offset + section.len) as usize]
}

fn zero(bytes: &[u8], start: usize, end: usize) -> Result<(), OpenError> {
    if bytes[start..end].iter().all(|b| *b == 0) { Ok(()) } else { Err(OpenError::Padding) }
}

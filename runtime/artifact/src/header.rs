//! The header and the section table: where the sections lie, and the hash of each.

use crate::{OpenError, align, hash};
use alloc::vec::Vec;
use core::fmt;

/// First bytes of every artifact. A byte string: no endianness to get wrong.
pub const MAGIC: [u8; 8] = *b"DREAMART";
/// Of what this crate writes, and the newest that it surely reads.
pub const FORMAT_VERSION: Version = Version { major: 9, minor: 0 };
/// Sections start here, so weights are mapped and handed to the device as they lie.
pub const SECTION_ALIGN: u64 = 256;
/// Refused above this, before allocating.
pub const SECTION_COUNT_MAX: u32 = 64;
/// Bytes before the section table.
pub const HEADER_LEN: u64 = 64;
/// Bytes of one entry of the section table.
pub const TABLE_ENTRY_LEN: u64 = 64;
const _: () = assert!(SECTION_ALIGN.is_power_of_two());

/// A version of the format.
///
/// The major number goes up with every change after which an older reader would misread a file, or a newer one would
/// no longer read an older file: a field of a plan, a rule. The minor number goes up with what an older reader either
/// passes over or has no word for, and so refuses: a kind of section, a key of the manifest, a kernel or a layout behind
/// the last. A reader takes every file of its own major version of which it understands all that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Who reads one reads no other.
    pub major: u16,
    /// Who reads one reads all below it.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`crate::Manifest`] as JSON text.
    Manifest,
    /// One target's [`crate::plan::Plan`].
    Plan,
    /// The [`crate::WeightInfo`]s.
    WeightTable,
    /// The tensors.
    Weights,
    /// The tokenizer.
    Tokenizer,
    /// The graphs as text.
    Ir,
    /// Recorded cases.
    Golden,
    /// What surrounds the tensors: settings of images and actions.
    Front,
    /// One target's [`crate::code::Code`].
    Code,
    /// What a newer minor version has beside these, by its number. It is passed over.
    Newer(u32),
}

impl Kind {
    /// Every kind that this version writes, in declaration order.
    pub const ALL: [Kind; 9] = [
        Kind::Manifest,
        Kind::Plan,
        Kind::WeightTable,
        Kind::Weights,
        Kind::Tokenizer,
        Kind::Ir,
        Kind::Golden,
        Kind::Front,
        Kind::Code,
    ];

    /// The number in the file.
    pub const fn code(self) -> u32 {
        match self {
            Kind::Manifest => 1,
            Kind::Plan => 2,
            Kind::WeightTable => 3,
            Kind::Weights => 4,
            Kind::Tokenizer => 5,
            Kind::Ir => 6,
            Kind::Golden => 7,
            Kind::Front => 8,
            Kind::Code => 9,
            Kind::Newer(code) => code,
        }
    }

    /// Inverse of [`Kind::code`] for what this version writes.
    pub fn from_code(code: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.code() == code)
    }

    /// Longest section of this kind. The weights, and what is passed over, are bounded by the file alone.
    pub const fn bytes_max(self) -> u64 {
        match self {
            Kind::Manifest | Kind::Front => 16 << 20,
            Kind::Plan | Kind::WeightTable => 16 << 20,
            Kind::Code => 64 << 20,
            Kind::Ir => 32 << 20,
            Kind::Tokenizer => 256 << 20,
            Kind::Golden => 1 << 30,
            Kind::Weights | Kind::Newer(_) => u64::MAX,
        }
    }

    /// The word in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Manifest => "manifest",
            Kind::Plan => "plan",
            Kind::WeightTable => "weight table",
            Kind::Weights => "weights",
            Kind::Tokenizer => "tokenizer",
            Kind::Ir => "ir",
            Kind::Golden => "golden",
            Kind::Front => "front",
            Kind::Code => "code",
            Kind::Newer(_) => "unknown",
        }
    }
}

/// One entry of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: Kind,
    /// First byte in the file, a multiple of [`SECTION_ALIGN`].
    pub offset: u64,
    /// Bytes, without the gap behind.
    pub len: u64,
    /// blake3 of the section; for the weights that of the tensors' hashes.
    pub hash: [u8; 32],
}

/// The bytes before the first section, and where the sections go: what a writer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Written at the start of the file. Zero bytes follow up to the first section.
    pub bytes: Vec<u8>,
    /// In the order given, with their offsets.
    pub sections: Vec<Section>,
    /// Length of the whole file.
    pub file_len: u64,
}

/// Lays out sections of these kinds, lengths and hashes one after the other.
///
/// `None` for more than [`SECTION_COUNT_MAX`] sections, a section longer than its kind allows, or a file
/// longer than 2^64 bytes.
pub fn encode_header(sections: &[(Kind, u64, [u8; 32])]) -> Option<Header> {
    let count = u32::try_from(sections.len()).ok().filter(|n| *n <= SECTION_COUNT_MAX)?;
    let mut end = HEADER_LEN + u64::from(count) * TABLE_ENTRY_LEN;
    let mut table = Vec::new();
    let mut placed = Vec::new();
    for (kind, len, hash) in sections.iter().copied() {
        if len > kind.bytes_max() {
            return None;
        }
        let offset = align(end)?;
        end = offset.checked_add(len)?;
        table.extend_from_slice(&kind.code().to_le_bytes());
        table.extend_from_slice(&[0; 4]);
        table.extend_from_slice(&offset.to_le_bytes());
        table.extend_from_slice(&len.to_le_bytes());
        table.extend_from_slice(&[0; 8]);
        table.extend_from_slice(&hash);
        placed.push(Section { kind, offset, len, hash });
    }
    let mut bytes = Vec::from(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.major.to_le_bytes());
    bytes.extend_from_slice(&FORMAT_VERSION.minor.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&end.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&header_hash(&bytes, &table));
    bytes.extend_from_slice(&table);
    Some(Header { bytes, sections: placed, file_len: end })
}

/// A whole artifact in memory, for small ones and for tests. The hash of [`Kind::Weights`] is given by
/// `weights_hash` ([`crate::table_hash`]). `None` where [`encode_header`] says so.
pub fn assemble(sections: &[(Kind, Vec<u8>)], weights_hash: [u8; 32]) -> Option<Vec<u8>> {
    let entries: Vec<_> = sections
        .iter()
        .map(|(kind, bytes)| {
            let hash = if *kind == Kind::Weights { weights_hash } else { hash(bytes) };
            (*kind, bytes.len() as u64, hash)
        })
        .collect();
    let header = encode_header(&entries)?;
    let mut file = header.bytes;
    for (section, (_, bytes)) in header.sections.iter().zip(sections) {
        file.resize(usize::try_from(section.offset).ok()?, 0);
        file.extend_from_slice(bytes);
    }
    Some(file)
}

/// Reads and checks the header of a file of these bytes. Every section lies inside the file, at the one
/// place where [`encode_header`] puts it.
pub(crate) fn decode_header(file: &[u8]) -> Result<(Version, Vec<Section>), OpenError> {
    let file_len = file.len() as u64;
    if !file.starts_with(&MAGIC) {
        return Err(OpenError::NotAnArtifact);
    }
    let fixed = file.get(..HEADER_LEN as usize).ok_or(OpenError::Truncated)?;
    // The minor number stands above the major: to readers of before there were two, the version was one number.
    let version = u32_at(fixed, 8);
    let version = Version { major: version as u16, minor: (version >> 16) as u16 };
    if version.major != FORMAT_VERSION.major {
        return Err(OpenError::Version { found: version });
    }
    let newer = version.minor > FORMAT_VERSION.minor;
    let count = u32_at(fixed, 12);
    if count > SECTION_COUNT_MAX {
        return Err(OpenError::SectionCount { found: count });
    }
    let stated = u64_at(fixed, 16);
    if stated > file_len {
        return Err(OpenError::Truncated);
    }
    if stated < file_len {
        return Err(OpenError::TrailingBytes);
    }
    let table_end = HEADER_LEN + u64::from(count) * TABLE_ENTRY_LEN;
    let table = file.get(HEADER_LEN as usize..table_end as usize).ok_or(OpenError::Truncated)?;
    if fixed[32..] != header_hash(&fixed[..32], table) {
        return Err(OpenError::HeaderHash);
    }
    if u64_at(fixed, 24) != 0 {
        return Err(OpenError::Reserved);
    }
    let mut end = table_end;
    let mut sections = Vec::with_capacity(count as usize);
    for entry in table.chunks_exact(TABLE_ENTRY_LEN as usize) {
        let code = u32_at(entry, 0);
        let kind = match Kind::from_code(code) {
            Some(kind) => kind,
            None if newer => Kind::Newer(code),
            None => return Err(OpenError::UnknownSection { code }),
        };
        let (offset, len) = (u64_at(entry, 8), u64_at(entry, 16));
        if u32_at(entry, 4) != 0 || u64_at(entry, 24) != 0 {
            return Err(OpenError::Reserved);
        }
        if len > kind.bytes_max() {
            return Err(OpenError::SectionTooLong { kind, len });
        }
        if Some(offset) != align(end) {
            return Err(OpenError::SectionPlace { kind });
        }
        end =
            offset.checked_add(len).filter(|end| *end <= file_len).ok_or(OpenError::SectionPlace { kind })?;
        let mut hash = [0; 32];
        hash.copy_from_slice(&entry[32..64]);
        sections.push(Section { kind, offset, len, hash });
    }
    if end != file_len { Err(OpenError::TrailingBytes) } else { Ok((version, sections)) }
}

fn header_hash(fixed: &[u8], table: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(fixed).update(table).finalize().as_bytes()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

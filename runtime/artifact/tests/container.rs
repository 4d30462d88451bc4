//! The file: what is written is read back, and every damage is found.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{file, manifest, plan, weights};
use dreamc_artifact::*;
use proptest::prelude::*;

fn detected(bytes: &[u8]) -> bool {
    Artifact::open(bytes).and_then(|a| a.verify(|_, _| ())).is_err()
}

#[test]
fn round_trip() {
    let file = file();
    let artifact = Artifact::open(&file).unwrap();
    assert_eq!(artifact.manifest(), &manifest());
    assert_eq!(artifact.plan("cpu"), Some(&plan()));
    assert_eq!(artifact.plan("cuda"), None);
    assert_eq!(artifact.weights(), weights().0);
    assert_eq!(artifact.tokenizer(), Some(&b"tokenizer"[..]));
    assert_eq!(artifact.ir(), None);
    assert_eq!(artifact.weight(2), b"");
    assert_eq!(artifact.check_weight(2), Err(OpenError::NoWeight { index: 2 }));
    let mut last = 0;
    artifact.verify(|done, _| last = done).unwrap();
    assert_eq!(last, weights().1.len() as u64);
    assert_eq!(file, common::file());
}

#[test]
fn alignment() {
    let file = file();
    let artifact = Artifact::open(&file).unwrap();
    assert!(artifact.sections().iter().all(|s| s.offset % SECTION_ALIGN == 0));
    assert!(artifact.weights().iter().all(|w| w.offset % SECTION_ALIGN == 0));
}

#[test]
fn truncated() {
    let file = file();
    for end in 0..file.len() {
        assert!(Artifact::open(&file[..end]).is_err(), "{end}");
    }
    let mut longer = file;
    longer.push(0);
    assert_eq!(Artifact::open(&longer).err(), Some(OpenError::TrailingBytes));
}

#[test]
fn wrong_version() {
    let mut file = file();
    file[8] -= 1;
    let found = Version { major: FORMAT_VERSION.major - 1, ..FORMAT_VERSION };
    assert_eq!(Artifact::open(&file).err(), Some(OpenError::Version { found }));
}

/// A file of a newer minor version opens if nothing in it needs that version.
#[test]
fn newer_minor_version() {
    let found = Version { minor: FORMAT_VERSION.minor + 1, ..FORMAT_VERSION };
    let newer = |kinds: &dyn Fn(Kind) -> Kind, edit: &dyn Fn(Kind, &mut Vec<u8>)| {
        let file = file();
        let artifact = Artifact::open(&file).unwrap();
        let of = |section: &Section| {
            let mut bytes = artifact.bytes(section).to_vec();
            edit(section.kind, &mut bytes);
            (kinds(section.kind), bytes)
        };
        let sections: Vec<_> = artifact.sections().iter().map(of).collect();
        let weights = artifact.sections().iter().find(|s| s.kind == Kind::Weights).unwrap().hash;
        let mut file = assemble(&sections, weights).unwrap();
        let hash = |file: &[u8]| {
            let table = HEADER_LEN as usize + sections.len() * TABLE_ENTRY_LEN as usize;
            *blake3::Hasher::new().update(&file[..32]).update(&file[64..table]).finalize().as_bytes()
        };
        assert_eq!(file[32..64], hash(&file));
        file[10..12].copy_from_slice(&found.minor.to_le_bytes());
        let hash = hash(&file);
        file[32..64].copy_from_slice(&hash);
        Artifact::open(&file).and_then(|a| a.verify(|_, _| ()).map(|()| a.version()))
    };
    assert_eq!(newer(&|kind| kind, &|_, _| ()), Ok(found));
    // A section more.
    let unknown = |kind| if kind == Kind::Tokenizer { Kind::Newer(77) } else { kind };
    assert_eq!(newer(&unknown, &|_, _| ()), Ok(found));
    // A plan that this version cannot read.
    let broken = newer(&|kind| kind, &|kind, bytes| {
        if kind == Kind::Plan {
            bytes.fill(0xff);
        }
    });
    assert_eq!(broken, Err(OpenError::Newer { found }));
}

#[test]
fn limits() {
    assert_eq!(encode_header(&[(Kind::Ir, 0, [0; 32]); SECTION_COUNT_MAX as usize + 1]), None);
    assert_eq!(encode_header(&[(Kind::Manifest, u64::MAX, [0; 32])]), None);
    assert_eq!(encode_header(&[(Kind::Weights, u64::MAX, [0; 32])]), None);
    let mut file = file();
    file[12..16].copy_from_slice(&65_u32.to_le_bytes());
    assert_eq!(Artifact::open(&file).err(), Some(OpenError::SectionCount { found: 65 }));
}

#[test]
fn every_flipped_byte_is_found() {
    let mut file = file();
    for at in 0..file.len() {
        file[at] ^= 0x40;
        assert!(detected(&file), "{at}");
        file[at] ^= 0x40;
    }
}

#[test]
fn weight_damage_is_found_on_demand() {
    let mut file = file();
    let end = file.len() - 1;
    file[end] ^= 1;
    let artifact = Artifact::open(&file).unwrap();
    assert_eq!(artifact.check_weight(0), Ok(()));
    assert_eq!(artifact.check_weight(1), Err(OpenError::WeightHash { index: 1 }));
}

proptest! {
    #[test]
    fn random_damage_is_found(places in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..8)) {
        let good = file();
        let mut bad = good.clone();
        for (at, change) in places {
            bad[at.index(good.len())] ^= change;
        }
        prop_assert!(bad == good || detected(&bad));
    }

    #[test]
    fn random_tables_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..256), len in any::<u64>()) {
        let _ = decode_table(&bytes, len);
        let _ = decode_plan(&bytes);
        let _ = Manifest::from_bytes(&bytes);
    }
}

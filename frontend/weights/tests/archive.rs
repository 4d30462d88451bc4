//! PyTorch archives give the tensors that were saved, and each kind of broken one has its own error.

use dreamc_weights::{ArchiveError, TensorFile, WeightsError};
use proptest::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};

const HEADS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/fixtures/tiny-vla/heads");
const PARTS: [(&str, &str); 6] = [
    ("diffusion", "action_head"),
    ("diffusion", "noisy_action_projector"),
    ("flow_matching", "action_head"),
    ("flow_matching", "noisy_action_projector"),
    ("l1_regression", "action_head"),
    ("proprio", "proprio_projector"),
];

fn archive(objective: &str, part: &str) -> PathBuf {
    Path::new(HEADS).join(objective).join(format!("{part}--latest_checkpoint.pt"))
}

/// Opens bytes as an archive and reads all that is in it.
fn open(bytes: &[u8]) -> Result<usize, WeightsError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("x.pt");
    std::fs::write(&path, bytes).expect("the directory is writable");
    let file = TensorFile::open(&path)?;
    let mut count = 0;
    for tensor in file.tensors() {
        tensor.to_f32(0..tensor.len(), &mut vec![0.0; tensor.len()]);
        count += 1;
    }
    Ok(count)
}

/// An archive of entries, all stored and with the right checksums.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let write = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let mut out = Vec::new();
        let mut archive = rawzip::ZipArchiveWriter::new(&mut out);
        for (name, data) in entries {
            let file = archive.new_file(name).compression_method(rawzip::CompressionMethod::STORE);
            let (mut entry, config) = file.start()?;
            let mut writer = config.wrap(&mut entry);
            writer.write_all(data)?;
            let (_, descriptor) = writer.finish()?;
            entry.finish(descriptor)?;
        }
        archive.finish()?;
        Ok(out)
    };
    write().expect("an archive in memory")
}

/// A pickle of one tensor `w`: element type, key, elements of the storage, offset, shape, strides.
fn pickle(storage: &str, key: &str, numbers: [u8; 6]) -> Vec<u8> {
    let [elements, offset, rows, columns, row_stride, stride] = numbers;
    let mut out =
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n".to_vec();
    out.extend(format!("{storage}\nX").bytes());
    out.extend((key.len() as u32).to_le_bytes());
    out.extend(key.bytes());
    out.extend(b"X\x03\0\0\0cpuK");
    out.extend([elements, b't', b'Q', b'K', offset, b'K', rows, b'K', columns, 0x86]);
    out.extend([b'K', row_stride, b'K', stride, 0x86, 0x89, b'}', b't', b'R', b's', b'.']);
    out
}

fn sound() -> Vec<u8> {
    pickle("HalfStorage", "0", [6, 0, 2, 3, 3, 1])
}

macro_rules! assert_error {
    ($result:expr, $variant:ident) => {
        match $result {
            Err(WeightsError::Archive(ArchiveError::$variant { .. })) => {}
            other => panic!("expected {}, got {other:?}", stringify!($variant)),
        }
    };
}

#[test]
fn both_forms_give_the_same_tensors() {
    for (objective, part) in PARTS {
        let archive = TensorFile::open(archive(objective, part)).unwrap();
        let plain = Path::new(HEADS).join(objective).join(format!("{part}.safetensors"));
        let plain = TensorFile::open(plain).unwrap();
        assert_eq!(archive.names().count(), plain.names().count());
        for tensor in archive.tensors() {
            let other = plain.get(tensor.name.strip_prefix("module.").unwrap()).unwrap();
            assert_eq!((tensor.dtype, tensor.shape), (other.dtype, other.shape), "{}", tensor.name);
            assert_eq!(tensor.bytes, other.bytes, "{}", tensor.name);
        }
    }
}

#[test]
fn views_into_a_storage() {
    let data: Vec<u8> = (0..16u8).collect();
    let read = |numbers| {
        let pickle = pickle("HalfStorage", "0", numbers);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pt");
        std::fs::write(
            &path,
            zip(&[("a/data.pkl", &pickle), ("a/byteorder", b"little"), ("a/data/0", &data)]),
        )
        .unwrap();
        let file = TensorFile::open(&path)?;
        Ok(file.get("w").unwrap().bytes.to_vec())
    };
    assert_eq!(read([8, 0, 2, 4, 4, 1]).unwrap(), data);
    assert_eq!(read([8, 2, 2, 3, 3, 1]).unwrap(), data[4..]);
    assert_eq!(read([8, 7, 1, 1, 9, 9]).unwrap(), data[14..]);
    assert!(read([8, 8, 0, 1, 1, 1]).unwrap().is_empty());
    assert_error!(read([8, 3, 2, 3, 3, 1]), Tensor);
    assert_error!(read([8, 0, 2, 4, 1, 2]), Tensor);
    assert_error!(read([8, 9, 0, 1, 1, 1]), Tensor);
    assert_error!(read([7, 0, 1, 1, 1, 1]), Tensor);
}

#[test]
fn broken_archives() {
    let data: &[u8] = &[7; 12];
    let whole = zip(&[("a/data.pkl", &sound()), ("a/data/0", data)]);
    assert_eq!(open(&whole).unwrap(), 1);
    // Without a folder, and with entries that nobody asks for.
    assert_eq!(open(&zip(&[("data.pkl", &sound()), ("data/0", data), ("version", b"3")])).unwrap(), 1);

    assert_error!(open(&[0; 64]), NotZip);
    assert_error!(open(b"PK\x03\x04 and no more"), Malformed);
    assert_error!(open(&zip(&[("a/data/0", data)])), Malformed);
    assert_error!(
        open(&zip(&[("a/data.pkl", &sound()), ("b/data.pkl", &sound()), ("a/data/0", data)])),
        Malformed
    );
    assert_error!(open(&zip(&[("a/data.pkl", &sound()), ("a/data/0", data), ("a/data/0", data)])), Malformed);
    assert_error!(open(&zip(&[("a/data.pkl", &vec![b'N'; (1 << 20) + 1])])), Malformed);
    let many: Vec<String> = (0..4100).map(|i| i.to_string()).collect();
    assert_error!(open(&zip(&many.iter().map(|n| (n.as_str(), &[][..])).collect::<Vec<_>>())), Malformed);
    assert_error!(
        open(&zip(&[("a/data.pkl", &sound()), ("a/data/0", data), ("a/byteorder", b"big")])),
        ByteOrder
    );
    assert_error!(open(&zip(&[("a/data.pkl", &sound())])), Tensor);
    assert_error!(open(&zip(&[("a/data.pkl", &sound()), ("a/data/0", &[0; 11])])), Tensor);
    assert_error!(open(&zip(&[("a/data.pkl", b"\x80\x02cos\nsystem\n."), ("a/data/0", data)])), Global);
    assert_error!(open(&zip(&[("a/data.pkl", b"\x80\x02]."), ("a/data/0", data)])), Opcode);
    assert_error!(open(&zip(&[("a/data.pkl", b"\x80\x02N."), ("a/data/0", data)])), Pickle);

    let mut damaged = whole.clone();
    let at = whole.windows(12).position(|w| w == data).unwrap();
    damaged[at] ^= 1;
    assert_error!(open(&damaged), Checksum);

    // The method of the first entry in the table of contents: 8 is deflate.
    let mut compressed = whole.clone();
    let directory = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    compressed[directory + 10] = 8;
    assert_error!(open(&compressed), Compressed);
}

#[test]
fn element_types() {
    let file = |storage: &str, bytes: usize| {
        open(&zip(&[
            ("a/data.pkl", &pickle(storage, "0", [6, 0, 2, 3, 3, 1])),
            ("a/data/0", &vec![0; bytes]),
        ]))
    };
    assert_eq!(file("FloatStorage", 24).unwrap(), 1);
    assert_eq!(file("BFloat16Storage", 12).unwrap(), 1);
    for (storage, bytes) in [("DoubleStorage", 48), ("LongStorage", 48), ("ByteStorage", 6)] {
        let found = file(storage, bytes);
        assert!(
            matches!(&found, Err(WeightsError::UnsupportedDType { tensor, .. }) if tensor == "w"),
            "{found:?}"
        );
    }
    assert_error!(file("ComplexFloatStorage", 48), Global);
}

/// Messages name the file, and what is not allowed.
#[test]
fn messages_name_what_is_wrong() {
    let said = open(&zip(&[("a/data.pkl", b"\x80\x02cposix\nsystem\n.")])).unwrap_err().to_string();
    assert!(said.contains("x.pt") && said.contains("posix.system") && said.contains("not called"), "{said}");
    let said = open(&zip(&[("a/data.pkl", b"\x80\x04\x95.")])).unwrap_err().to_string();
    assert!(said.contains("protocol 4"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damage_never_panics(
        part in 0..PARTS.len(),
        from_end in any::<bool>(),
        at in 0..3000usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..6),
        cut in 0..6usize,
    ) {
        let (objective, part) = PARTS[part];
        let whole = std::fs::read(archive(objective, part)).unwrap();
        // The table of contents, where most of the structure is, stands at the end.
        let at = if from_end { whole.len().saturating_sub(at) } else { at.min(whole.len()) };
        let damaged = [&whole[..at], &bytes, &whole[(at + cut).min(whole.len())..]].concat();
        let _ = open(&damaged);
    }

    #[test]
    fn damaged_pickles_never_panic(at in 0..160usize, byte in any::<u8>()) {
        let mut pickle = sound();
        let length = pickle.len();
        pickle[at % length] = byte;
        let _ = open(&zip(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 12])]));
    }
}

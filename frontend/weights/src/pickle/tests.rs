//! Pickles written by hand.

use super::*;

const TENSOR: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\0K\x02K\x03\x86K\x03K\x01\x86\x89}tR";

fn dict(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}X\x01\0\0\0w".as_slice(), value, b"s."].concat()
}

#[test]
fn a_dictionary_of_tensors() {
    let tensors = read(&dict(TENSOR)).unwrap();
    let storage = Storage { dtype: Dtype::F16, key: "0".to_owned(), elements: 6 };
    let expected = Described { storage, offset: 0, shape: vec![2, 3], strides: vec![3, 1] };
    assert_eq!(tensors.into_iter().collect::<Vec<_>>(), [("w".to_owned(), expected)]);
}

/// `state_dict()` is an ordered dictionary with an attribute, and a module's own tensors are parameters.
#[test]
fn state_dicts_and_parameters() {
    let begin =
        b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0wctorch._utils\n_rebuild_parameter\n(".as_slice();
    let end = |key: &str| {
        [b"\x88}tRu}X\x09\0\0\0".as_slice(), key.as_bytes(), b"}X\0\0\0\0}X\x07\0\0\0versionK\x01sssb."]
            .concat()
    };
    assert_eq!(read(&[begin, TENSOR, &end("_metadata")].concat()).unwrap().len(), 1);
    let found = read(&[begin, TENSOR, &end("__class__")].concat());
    assert!(matches!(&found, Err(Fault::Malformed(reason)) if reason.contains("_metadata")), "{found:?}");
}

#[test]
fn other_instructions_and_names_are_refused() {
    let global = |bytes: &[u8]| read(bytes).unwrap_err();
    assert_eq!(global(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."), Fault::Global("os.system".to_owned()));
    assert_eq!(global(b"\x80\x02cbuiltins\neval\n."), Fault::Global("builtins.eval".to_owned()));
    assert_eq!(global(b"\x80\x02]."), Fault::Opcode("EMPTY_LIST".to_owned()));
    assert_eq!(global(b"\x80\x02\x93."), Fault::Opcode("STACK_GLOBAL".to_owned()));
    assert_eq!(global(b"\x80\x02(ios\nsystem\n."), Fault::Opcode("INST".to_owned()));
    assert_eq!(global(b"\x80\x02\x07."), Fault::Opcode("byte 0x07".to_owned()));
    assert_eq!(global(b"\x80\x02N}b."), Fault::Opcode("BUILD".to_owned()));
}

#[test]
fn malformed_pickles_are_refused() {
    let deep = [b"\x80\x02".as_slice(), &b"N".repeat(10), b"\x85.".as_slice()].concat();
    for bytes in [
        b"".as_slice(),
        b"\x80",
        b"\x80\x04.",
        b".",
        b"(.",
        b"N.",
        b"t.",
        b"}s.",
        b"}(Nu.",
        b"K\x01(Nu.",
        b"(K\x01(ttt.",
        b"q\0.",
        b"h\0.",
        b"j\0\0\0\0.",
        b"X\xff\xff\xff\xffa.",
        b"X\x01\0\0\0\xff.",
        b"cos",
        b"cos\nsystem",
        b"N)R.",
        b"NQ.",
        b"ccollections\nOrderedDict\nNR.",
        b"ccollections\nOrderedDict\nN\x85R.",
        b"\x8a\x09111111111.",
        b"}NNs.",
        b"}(X\x01\0\0\0aNX\x01\0\0\0aNu.",
        b"ctorch\nHalfStorage\n)R.",
        &dict(b"N"),
        &deep,
        b"N(R.",
    ] {
        let found = read(bytes);
        assert!(matches!(found, Err(Fault::Malformed(_))), "{bytes:?}: {found:?}");
    }
    let twice = [b"\x80\x02}(X\x01\0\0\0w".as_slice(), TENSOR, b"X\x01\0\0\0w", TENSOR, b"u."].concat();
    let found = read(&twice);
    assert!(matches!(&found, Err(Fault::Malformed(reason)) if reason.contains("twice")), "{found:?}");
}

#[test]
fn numbers() {
    let offset = |bytes: &[u8]| {
        let tensor = TENSOR.iter().position(|b| *b == b'Q').unwrap() + 1;
        let bytes = [&TENSOR[..tensor], bytes, &TENSOR[tensor + 2..]].concat();
        read(&dict(&bytes)).map(|t| t["w"].offset)
    };
    assert_eq!(offset(b"M\x01\x02"), Ok(0x201));
    assert_eq!(offset(b"J\x01\x02\x03\x04"), Ok(0x0403_0201));
    assert_eq!(offset(b"\x8a\0"), Ok(0));
    assert_eq!(offset(b"\x8a\x05\0\0\0\0\x01"), Ok(1 << 32));
    assert!(offset(b"\x8a\x01\xff").is_err());
    assert!(offset(b"J\xff\xff\xff\xff").is_err());
}

/// Each value refers to the one before it twice: spelt out, this would be 2^200 values.
#[test]
fn sharing_costs_nothing() {
    let mut bytes = b"\x80\x02Nq\0".to_vec();
    for _ in 0..200 {
        bytes.extend(b"h\0h\0\x86q\0");
    }
    assert!(read(&dict(&bytes[2..])).is_err());
}

proptest::proptest! {
    #[test]
    fn damage_never_panics(
        at in 0..200usize,
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..12),
        cut in 0..12usize,
    ) {
        let whole = [&dict(TENSOR)[..dict(TENSOR).len() - 2], b"X\x01\0\0\0v", TENSOR, b"u.", TENSOR].concat();
        let at = at.min(whole.len());
        let damaged = [&whole[..at], &bytes, &whole[(at + cut).min(whole.len())..]].concat();
        let _ = read(&damaged);
    }

    #[test]
    fn noise_never_panics(ops in proptest::collection::vec(proptest::sample::select(b"\x80.(N\x88JKMXc)t\x85\x86}suqhQRb\0\x01\x02aos\n".to_vec()), 0..64)) {
        let _ = read(&ops);
    }
}

//! Pickles that would be more than data, that grow without end, or that contradict their stream.

use super::{Claims, KEYS, NUMBERS, archive, refused, stream, text};

#[test]
fn only_the_names_of_tensors_and_storages_may_occur() {
    for name in ["posix\nsystem", "builtins\neval", "torch\ndevice", "torch\nFloatStorage2", "\n"] {
        let pickle = [b"\x80\x02c", name.as_bytes(), b"\n."].concat();
        let shown = name.replace('\n', ".");
        refused(
            &archive(&[("a/data.pkl", &pickle)]),
            &format!("byte 2 of its pickle names `{shown}`"),
        );
        refused(&stream(&pickle, KEYS, &[]), &format!("names `{shown}`"));
    }
    // STACK_GLOBAL, INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, PERSID, FRAME, LONG4, BINBYTES8, POP, DUP.
    for opcode in b"\x93io\x81\x92\x82P\x95\x8b\x8e02".iter() {
        let pickle = [0x80, 2, *opcode, 0xff, 0xff, 0xff, 0x7f];
        refused(
            &archive(&[("a/data.pkl", &pickle)]),
            &format!("byte 2 of its pickle is opcode {opcode:#04x}"),
        );
    }
    for protocol in [0, 1, 3, 4, 5, 255] {
        let pickle = [0x80, protocol, b'}', b'.'];
        refused(
            &archive(&[("a/data.pkl", &pickle)]),
            &format!("protocol of the pickle is {protocol}"),
        );
    }
    // Known names, called with what torch never calls them with.
    for (call, expected) in [
        (&b"ctorch\nFloatStorage\n)R"[..], "a call that builds no tensor"),
        (b"ccollections\nOrderedDict\n}\x85R", "a call that builds no tensor"),
        (b"})R", "a call that builds no tensor"),
        (b"}}R", "a tuple is missing"),
        (b")Q", "a persistent id that is no storage"),
        (b"K\x01Q", "a tuple is missing"),
        (b"ccollections\nOrderedDict\n}b", "only a dictionary may have attributes"),
    ] {
        refused(&archive(&[("a/data.pkl", &[b"\x80\x02", call, b"."].concat())]), expected);
    }
}

#[test]
fn growth_without_end_is_stopped() {
    let many = |opcodes: &[u8], count: usize| {
        [b"\x80\x02", opcodes.repeat(count).as_slice(), b"."].concat()
    };
    for (pickle, expected) in [
        (many(b"]", 1_000_000), "the height of the stack is 16385, the limit is 16384"),
        (many(b"(", 1_000_000), "the number of open marks is 65, the limit is 64"),
        (many(b"}q\0", 1_000_000), "the height of the stack"),
        (
            [b"\x80\x02)".to_vec(), many(b"\x85", 2_000_000)].concat(),
            "the number of opcodes is 1048577",
        ),
        ([b"\x80\x02]".to_vec(), b"Na".repeat(600_000)].concat(), "the number of opcodes"),
        (
            b"\x80\x02Nr\xff\xff\xff\xff.".to_vec(),
            "the number of a memo is 4294967295, the limit is 1048576",
        ),
        (b"\x80\x02h\x07.".to_vec(), "a memo that was never set"),
        (
            b"\x80\x02X\xff\xff\xff\x7f".to_vec(),
            "the length of a text is 2147483647, the limit is 4096",
        ),
        (b"\x80\x02\x8a\xff.".to_vec(), "ends early"),
        (many(b"c", 100_000), "the length of a name is 4097"),
        (b"\x80\x02K\x01K\x02.".to_vec(), "values are left over"),
        (b"\x80\x02(K\x01.".to_vec(), "values are left over"),
        (b"\x80\x02}(K\x01u.".to_vec(), "a dictionary key without a value"),
        (b"\x80\x02N(\x85.".to_vec(), "the stack is empty"),
        (b"\x80\x02N(0.".to_vec(), "opcode 0x30"),
        (b"\x80\x02t.".to_vec(), "no mark is open"),
    ] {
        refused(&archive(&[("a/data.pkl", &pickle)]), expected);
    }
    // One long tuple as the shape of many tensors: each would copy it.
    let long = Claims { shape: vec![1; 16_000], strides: vec![0; 16_000], ..Claims::default() };
    refused(&long.archive(), "the number of dimensions is 16000, the limit is 64");
    // A thousand levels are no danger; they are no weights either.
    let nested = [b"\x80\x02)".to_vec(), b"\x85".repeat(1_000_000), b".".to_vec()].concat();
    refused(&archive(&[("a/data.pkl", &nested)]), "no dictionary of tensors");
}

#[test]
fn lies_of_the_legacy_stream_are_refused() {
    let pickle = Claims::default().pickle();
    let storage = |length: u64| [&length.to_le_bytes()[..], &NUMBERS].concat();
    let twice = b"\x80\x02](X\x01\0\0\x000X\x01\0\0\x000e.";
    for (keys, storages, expected) in [
        (KEYS, storage(7), "holds 7 numbers, its tensors claim 6"),
        (KEYS, storage(1 << 60), "holds 1152921504606846976 numbers"),
        (KEYS, storage(6)[..31].to_vec(), "is cut: 23 of 24 bytes"),
        (KEYS, storage(6)[..7].to_vec(), "is missing"),
        (KEYS, [storage(6), vec![0]].concat(), "bytes follow the last storage"),
        (b"\x80\x02].", vec![], "in storage `0`, which is not there"),
        (b"\x80\x02]X\x01\0\0\x001a.", storage(6), "belongs to no tensor"),
        (b"\x80\x02]Na.", storage(6), "a storage's key is no text"),
        (b"\x80\x02N.", storage(6), "the list of storages is missing"),
        (twice, [storage(6), storage(6)].concat(), "is listed twice"),
    ] {
        refused(&stream(&pickle, keys, &storages), expected);
    }
    let mut other_version = stream(&pickle, KEYS, &storage(6));
    other_version[18] = 0;
    refused(&other_version, "neither a zip archive nor a stream");
    let order = [b"}".to_vec(), text("little_endian"), b"\x89s.".to_vec()].concat();
    let head = &stream(&[], &[], &[]);
    let big_endian = [&head[..head.len() - 2], &order, &pickle].concat();
    refused(&big_endian, "big-endian");

    let mut other = Claims { storage: "Half", ..Claims::default() }.tensor();
    other.splice(0..0, text("v"));
    let first = Claims::default().pickle();
    let pickle = [&first[..first.len() - 1], &other, b"s."].concat();
    refused(&stream(&pickle, KEYS, &storage(6)), "of two types or lengths");
}

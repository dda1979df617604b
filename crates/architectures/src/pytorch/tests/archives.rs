//! Zip archives that lie, and those that torch does not write.

use super::{Claims, NUMBERS, archive, read, refused};

/// The archive with the bytes at `at` of the header that begins with `signature` replaced.
fn patched(bytes: &[u8], signature: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let header = bytes.windows(4).rposition(|window| window == signature).expect("a header");
    bytes[header + at..][..new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let whole = Claims::default().archive();
    let (central, local, end) = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06");
    for (header, at, new, expected) in [
        (central, 10, &[8, 0][..], "\"a/data/0\" is compressed (method 8)"),
        (central, 8, &[1, 0], "\"a/data/0\" is encrypted"),
        (central, 8, &[0, 0x20], "is encrypted"),
        (local, 6, &[1, 0], "has a local header that contradicts the directory"),
        (local, 8, &[8, 0], "has a local header that contradicts the directory"),
        (central, 20, &[9], "says 9 bytes become 24"),
        (central, 24, &[9, 0, 0, 0x40], "says 24 bytes become 1073741833"),
        (central, 42, &[1], "has no local header where the directory says"),
        (central, 42, &[0xfe, 0xff, 0xff, 0xff], "has no local header"),
        (central, 42, &[0xff, 0xff, 0xff, 0xff], "has a damaged directory"),
        (central, 16, &[0], "does not match its CRC-32"),
        (end, 4, &[1], "spans several disks"),
        (end, 8, &[3, 0, 3], "has a damaged directory"),
        (end, 8, &[1, 0, 1], "lists more than its 1 entries"),
        (end, 8, &[0xff, 0xff, 0xff, 0xff], "needs a zip64 end record"),
        (end, 12, &[0xff, 0xff, 0xff], "reaches beyond it"),
        (end, 20, &[1], "does not end in the end record"),
    ] {
        refused(&patched(&whole, header, at, new), expected);
    }
    let both = patched(&whole, central, 20, &[0, 0, 0, 0x40, 0, 0, 0, 0x40]);
    refused(&both, "says 1073741824 bytes, which reach beyond the archive");

    let pickle = Claims::default().pickle();
    for name in ["../x", "a/../../x", "/etc/x", "a\\..\\x", "C:x", "a//b", "./x", "a/", "", "a\0"] {
        let entries = [("a/data.pkl", &*pickle), ("a/data/0", &NUMBERS), (name, b"")];
        refused(&archive(&entries), "is no path inside a folder");
    }
    for (entries, expected) in [
        (
            vec![("a/data.pkl", &*pickle), ("a/data/0", &NUMBERS), ("a/data/0", &NUMBERS)],
            "\"a/data/0\" occurs twice",
        ),
        (vec![("a/data.pkl", &*pickle), ("b/data.pkl", &*pickle)], "in both \"a\" and \"b\""),
        (vec![("data.pkl", &*pickle)], "has no entry `data.pkl` in a folder"),
        (vec![("a/data.pkl", &*pickle)], "storage `0` is not in the archive"),
        (
            vec![("a/data.pkl", &*pickle), ("a/data/0", &NUMBERS), ("a/byteorder", b"big")],
            "big-endian",
        ),
    ] {
        refused(&archive(&entries), expected);
    }
    // Two entries that share bytes: the second begins within the content of the first.
    let inner = archive(&[("x", b"")]);
    let outer = archive(&[("a/data.pkl", &pickle), ("a/data/0", &inner), ("x", b"")]);
    let within = outer.windows(4).enumerate().filter(|(_, w)| *w == local).nth(2).expect("inner").0;
    refused(
        &patched(&outer, central, 42, &(within as u32).to_le_bytes()),
        "\"x\" overlaps \"a/data/0\"",
    );
}

#[test]
fn zip64_records_are_read() {
    let plain = Claims::default().archive();
    let end = plain.len() - 22;
    let mut directory =
        u32::from_le_bytes(plain[end + 16..][..4].try_into().expect("four")) as usize;
    // The last entry's lengths and offset move into a zip64 extra field.
    let last = plain.windows(4).rposition(|window| window == b"PK\x01\x02").expect("an entry");
    let field = |at: usize| {
        u64::from(u32::from_le_bytes(plain[last + at..][..4].try_into().expect("four")))
    };
    let extra = [field(24), field(20), field(42)].map(u64::to_le_bytes).concat();
    let extra = [&[1, 0, 24, 0][..], &extra].concat();
    let mut bytes = plain[..end].to_vec();
    for at in [20, 24, 42] {
        bytes[last + at..][..4].fill(0xff);
    }
    bytes[last + 30] = extra.len() as u8;
    bytes.extend(&extra);
    let length = bytes.len() - directory;
    let record = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend(44u64.to_le_bytes());
    bytes.extend([0; 12]);
    for value in [2, 2, length as u64, directory as u64] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend(record.to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    bytes.extend([b"PK\x05\x06\0\0\0\0", &[0xff; 12][..], &[0, 0]].concat());
    assert_eq!(read(&bytes).expect("zip64"), read(&plain).expect("plain"));

    directory = bytes.windows(4).position(|window| window == b"PK\x06\x06").expect("the record");
    for at in directory..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0xff;
        if let Ok(tensors) = read(&changed) {
            assert_eq!(tensors, read(&plain).expect("plain"), "byte {at}");
        }
    }
}

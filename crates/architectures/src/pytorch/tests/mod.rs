//! Damaged, lying and hostile files by nobody's `torch.save`, put together by hand.

mod archives;
mod pickles;

use super::{Index, PytorchError};
use std::path::Path;

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickle");
    std::fs::read(folder.join(name)).expect("a fixture")
}

/// All tensors of a file: name, type, shape, bytes.
type Tensors = Vec<(String, String, Vec<usize>, Vec<u8>)>;

fn read(bytes: &[u8]) -> Result<Tensors, PytorchError> {
    let index = Index::read(bytes)?;
    let names: Vec<&str> = index.names().collect();
    let tensors = names.into_iter().map(|name| {
        let tensor = index.tensor(bytes, name)?.expect("a name of the index");
        let dtype = format!("{:?}", tensor.dtype);
        assert!(tensor.data.len() <= bytes.len(), "{name} is larger than the file");
        Ok((name.to_owned(), dtype, tensor.shape, tensor.data.into_owned()))
    });
    tensors.collect()
}

fn refused(bytes: &[u8], expected: &str) {
    let error = read(bytes).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

/// A zip archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let offset = bytes.len() as u32;
        let mut middle = vec![0, 0, 0, 0, 0, 0, 0, 0]; // flags, method, time
        middle.extend(crc32fast::hash(content).to_le_bytes());
        middle.extend([(content.len() as u32).to_le_bytes(); 2].concat());
        middle.extend((name.len() as u16).to_le_bytes());
        middle.extend([0, 0]); // extra field
        bytes.extend([b"PK\x03\x04\0\0", middle.as_slice(), name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\0\0\0\0", middle.as_slice(), &[0; 10]].concat());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, length) = (bytes.len() as u32, directory.len() as u32);
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([(entries.len() as u16).to_le_bytes(); 2].concat());
    bytes.extend([length.to_le_bytes(), start.to_le_bytes()].concat());
    bytes.extend([0, 0]); // comment
    bytes
}

/// A legacy stream with this object, the pickled list of its keys, and storages.
fn stream(object: &[u8], keys: &[u8], storages: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [head, object, keys, storages].concat()
}

/// A tensor `w` in storage `0`, as opcodes; numbers as their decimal text.
struct Claims {
    storage: &'static str,
    length: i64,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Default for Claims {
    fn default() -> Self {
        Claims { storage: "Float", length: 6, offset: 0, shape: vec![2, 3], strides: vec![3, 1] }
    }
}

fn long(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Claims {
    /// The call that builds the tensor.
    fn tensor(&self) -> Vec<u8> {
        let longs = |values: &[i64]| values.iter().flat_map(|&value| long(value)).collect();
        let (shape, strides): (Vec<u8>, Vec<u8>) = (longs(&self.shape), longs(&self.strides));
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            format!("ctorch\n{}Storage\n", self.storage).into_bytes(),
            [text("0"), text("cpu"), long(self.length), b"tQ".to_vec(), long(self.offset)].concat(),
            [b"(", shape.as_slice(), b"t(", &strides, b"t\x89}tR"].concat(),
        ]
        .concat()
    }

    fn pickle(&self) -> Vec<u8> {
        [b"\x80\x02}", text("w").as_slice(), &self.tensor(), b"s."].concat()
    }

    /// In an archive, with 24 bytes of storage.
    fn archive(&self) -> Vec<u8> {
        archive(&[("a/data.pkl", &self.pickle()), ("a/data/0", &NUMBERS)])
    }
}

/// Six f32: 0, 1, … 5.
const NUMBERS: [u8; 24] = {
    let mut bytes = [0; 24];
    let mut i = 0;
    while i < 6 {
        let number = (i as f32).to_le_bytes();
        (bytes[4 * i], bytes[4 * i + 2], bytes[4 * i + 3]) = (number[0], number[2], number[3]);
        i += 1;
    }
    bytes
};

const KEYS: &[u8] = b"\x80\x02]X\x01\0\0\x000a.";

/// These opcodes as the object of both containers.
fn both(pickle: &[u8]) -> [Vec<u8>; 2] {
    let storage = [&6u64.to_le_bytes()[..], &NUMBERS].concat();
    [archive(&[("a/data.pkl", pickle), ("a/data/0", &NUMBERS)]), stream(pickle, KEYS, &storage)]
}

#[test]
fn what_is_put_together_here_is_read() {
    for bytes in both(&Claims::default().pickle()) {
        let tensors = read(&bytes).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(tensors, [("w".into(), "F32".into(), vec![2, 3], NUMBERS.to_vec())]);
    }
    let strides = Claims { shape: vec![3, 2], strides: vec![1, 3], ..Claims::default() };
    let transposed = &read(&strides.archive()).expect("a view")[0].3;
    assert_eq!(transposed[4..8], 3f32.to_le_bytes());
}

#[test]
fn every_changed_byte_and_every_cut_is_an_error_or_correct() {
    for name in ["zip.bin", "legacy.bin"] {
        let whole = fixture(name);
        let expected = read(&whole).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut correct = 0;
        for at in 0..whole.len() {
            assert!(read(&whole[..at]).is_err(), "{name} cut at {at}");
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                match read(&changed) {
                    Ok(tensors) if tensors == expected => correct += 1,
                    // The stream has no check sum: another number, or another name.
                    Ok(_) if name == "legacy.bin" => {}
                    Ok(_) => panic!("{name} with byte {at} changed reads as another"),
                    Err(_) => {}
                }
            }
        }
        assert!(correct > 0, "{name} holds bytes that mean nothing");
        assert!(read(&[whole.as_slice(), b"\0"].concat()).is_err(), "{name} extended");
    }
}

#[test]
fn the_corpus_of_hostile_pickles_is_refused_and_does_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickle/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        for bytes in both(&std::fs::read(&path).expect("a pickle")) {
            let error = read(&bytes).expect_err("hostile");
            assert!(!matches!(error, PytorchError::Format), "{}: {error}", path.display());
        }
        count += 1;
    }
    assert_eq!(count, 33);
    assert!(!Path::new("pickle-was-run").exists());
}

#[test]
fn claims_beyond_the_storage_are_refused() {
    let within = "do not lie within a storage of 6 numbers";
    let max = i64::MAX;
    for (claims, expected) in [
        (Claims { shape: vec![3, 3], ..Claims::default() }, within),
        (Claims { offset: 1, ..Claims::default() }, within),
        (Claims { offset: -1, ..Claims::default() }, within),
        (Claims { offset: max, ..Claims::default() }, within),
        (Claims { strides: vec![-3, 1], ..Claims::default() }, within),
        (Claims { strides: vec![3, max], ..Claims::default() }, within),
        (Claims { strides: vec![max, max], ..Claims::default() }, within),
        (Claims { shape: vec![-2, -3], ..Claims::default() }, within),
        (Claims { shape: vec![max, max], strides: vec![0, 0], ..Claims::default() }, within),
        (
            Claims { shape: vec![1 << 40, 1], strides: vec![0, 1], ..Claims::default() },
            "repeats the 6 numbers",
        ),
        (
            Claims { shape: vec![1; 65], strides: vec![1; 65], ..Claims::default() },
            "the number of dimensions is 65, the limit is 64",
        ),
        (Claims { shape: vec![6], ..Claims::default() }, "1 dimensions and 2 strides"),
        (Claims { length: 7, ..Claims::default() }, "has 24 bytes, its tensors claim 28"),
        (Claims { length: 5, ..Claims::default() }, "has 24 bytes, its tensors claim 20"),
        (Claims { length: -6, ..Claims::default() }, "should hold -6 numbers"),
        (
            Claims { length: 1 << 40, ..Claims::default() },
            "should hold 1099511627776 numbers in a file of",
        ),
        (Claims { length: max, ..Claims::default() }, "should hold"),
        (Claims { storage: "Double", ..Claims::default() }, "has 24 bytes, its tensors claim 48"),
        (Claims { storage: "Quantized", ..Claims::default() }, "names `torch.QuantizedStorage`"),
    ] {
        refused(&claims.archive(), expected);
    }
    // A stride of a dimension of one means nothing, nor does that of an empty tensor.
    for (shape, strides) in [(vec![1, 6], vec![max, 1]), (vec![0, max], vec![max, max])] {
        read(&Claims { shape, strides, ..Claims::default() }.archive()).expect("within");
    }
}

//! `pytorch_model.bin`: what torch wrote, against the same tensors in safetensors; made by
//! `tests/parity/pickle_fixtures.py`.

use architectures::{
    Batch, Checkpoint, Cpu, Error, Isa, Method, Precision, Quantization, SequenceClassifier,
    TensorFile,
};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickle").join(name)
}

fn open(name: &str) -> TensorFile {
    TensorFile::open(&fixture(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// Types that hold no weights, in safetensors as in pickles.
const REFUSED: [(&str, &str); 7] = [
    ("double", "F64"),
    ("long", "I64"),
    ("int", "I32"),
    ("short", "I16"),
    ("char", "I8"),
    ("byte", "U8"),
    ("bool", "BOOL"),
];

#[test]
fn every_tensor_is_what_it_is_in_safetensors() {
    let expected = open("expected.safetensors");
    for name in ["zip.bin", "legacy.bin"] {
        let file = open(name);
        assert_eq!(file.names().expect("names"), expected.names().expect("names"), "{name}");
        let mut compared = 0;
        for tensor in file.names().expect("names") {
            let ours = file.tensor(&tensor);
            match (ours, expected.tensor(&tensor)) {
                (Ok(ours), Ok(theirs)) => {
                    assert_eq!(ours, theirs, "{tensor} of {name}");
                    compared += 1;
                }
                (Err(ours), Err(theirs)) => {
                    let (_, dtype) = REFUSED.iter().find(|(n, _)| *n == tensor).expect("weights");
                    for error in [ours.to_string(), theirs.to_string()] {
                        assert!(error.contains(&format!("is of type {dtype}, not F32")), "{error}");
                    }
                }
                (ours, theirs) => panic!("{tensor} of {name}: {ours:?} against {theirs:?}"),
            }
        }
        assert_eq!(compared, expected.names().expect("names").len() - REFUSED.len());
        assert_eq!(file.tensor("epoch").expect("no error"), None);
    }
}

fn logits(folder: &str) -> Vec<f32> {
    let backend = Cpu::new(Isa::Scalar, Precision::F32, Quantization::None);
    let model = SequenceClassifier::load(&backend, &fixture(folder), 2, &Method::Full, 3)
        .unwrap_or_else(|error| panic!("{folder}: {error}"));
    let batch = Batch::new(&backend, &[2, 7, 9, 11, 3, 2, 5, 3], &[0, 5, 8]);
    model.predict(&backend, &batch)
}

#[test]
fn a_model_is_the_same_in_safetensors_in_an_old_pickle_and_in_shards() {
    let expected = logits("model");
    assert!(expected.iter().all(|x| x.is_finite()) && expected[0] != expected[2]);
    assert_eq!(logits("old"), expected);
    assert_eq!(logits("sharded"), expected);
}

fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, content) in files {
        durable::write(&folder.path().join(name), content).expect("written");
    }
    folder
}

#[test]
fn safetensors_come_first_and_what_was_looked_for_is_named() {
    let weights = std::fs::read(fixture("model/model.safetensors")).expect("the fixture");
    let folder = folder_with(&[("model.safetensors", &weights), ("pytorch_model.bin", b"junk")]);
    Checkpoint::open(folder.path()).expect("the pickle is not looked at");

    let error = Checkpoint::open(folder_with(&[]).path()).expect_err("no weights").to_string();
    for name in ["model.safetensors,", "pytorch_model.bin and pytorch_model.bin.index.json"] {
        assert!(error.contains(name), "{error}");
    }

    for shard in ["../x.bin", "sub/x.bin", "/x.bin"] {
        let index = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
        let folder = folder_with(&[("pytorch_model.bin.index.json", index.as_bytes())]);
        let error = Checkpoint::open(folder.path()).expect_err("leaves the folder");
        assert!(matches!(error, Error::Json { .. }), "{error}");
    }
}

#[test]
fn errors_name_the_file_and_what_is_wrong_with_it() {
    for (content, expected) in [
        (&b""[..], "it is neither a zip archive nor a stream"),
        (b"\x80\x02cposix\nsystem\n.", "it is neither a zip archive nor a stream"),
        (b"PK\x03\x04", "its zip archive is shorter than its end record"),
    ] {
        let folder = folder_with(&[("pytorch_model.bin", content)]);
        let error = Checkpoint::open(folder.path()).expect_err("damaged").to_string();
        assert!(error.contains("pytorch_model.bin is not read: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused_with_their_place() {
    let whole = std::fs::read(fixture("legacy.bin")).expect("the fixture");
    let (_, numbers) = open("legacy.bin").tensor("cube").expect("readable").expect("there");
    let first: Vec<u8> = numbers.iter().take(3).flat_map(|x| x.to_le_bytes()).collect();
    let at = whole.windows(12).position(|window| window == first).expect("the numbers");
    for (value, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let mut damaged = whole.clone();
        damaged[at + 8..at + 12].copy_from_slice(&value.to_le_bytes());
        let folder = folder_with(&[("weights.bin", &damaged)]);
        let file = TensorFile::open(&folder.path().join("weights.bin")).expect("no check sum");
        let error = file.tensor("cube").expect_err("not finite").to_string();
        assert!(error.contains(&format!("tensor `cube` holds {shown} at index 2")), "{error}");
        file.tensor("float").expect("another storage");
    }
}

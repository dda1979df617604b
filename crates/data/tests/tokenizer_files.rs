//! Tokenizers from the files that models were published with: the ids are Transformers', on texts
//! that tokenizers stumble over; hostile files are errors. The fixtures were made by
//! `tests/parity/tokenizer_fixtures.py`.

mod common;

use std::path::{Path, PathBuf};

use common::{Folder, refused};
use data::{Error, TOKENIZER_FILES, Tokenizer};
use serde_json::{Value, json};

const MODELS: [&str; 13] = [
    "bert",
    "bert_cased",
    "bert_added",
    "bert_decoder",
    "roberta",
    "roberta_prefix",
    "deberta",
    "albert",
    "albert_cased",
    "big_bird",
    "xlm_roberta",
    "deberta_v2",
    "deberta_v2_lower",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(fixture(name)).expect("a fixture");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn ids_are_those_of_transformers() {
    let texts: Vec<String> = json("texts.json");
    let mut differ = Vec::new();
    for model in MODELS {
        let tokenizer = Tokenizer::from_folder(&fixture(model), 100_000)
            .unwrap_or_else(|error| panic!("{model}: {error}"));
        let expected: Vec<Vec<u32>> = json(&format!("{model}/ids.json"));
        assert_eq!(expected.len(), texts.len());
        let ours = tokenizer.encode_batch(&texts).unwrap_or_else(|error| panic!("{error}"));
        for ((text, ours), expected) in texts.iter().zip(ours).zip(expected) {
            if ours.ids != expected {
                differ.push(format!("{model}, {text:?}:\n  {:?}\n  {expected:?}", ours.ids));
            }
        }
    }
    assert!(differ.is_empty(), "{} differ\n{}", differ.len(), differ.join("\n"));
}

//! Tokenizers from the files that models were published with: the ids are Transformers', on texts
//! that tokenizers stumble over; hostile files are errors. The fixtures were made by
//! `tests/parity/tokenizer_fixtures.py`.

mod common;

use std::path::{Path, PathBuf};

use common::{Folder, refused};
use data::{Error, TOKENIZER_FILES, Tokenizer};
use serde_json::{Value, json};

const MODELS: [&str; 18] = [
    "bert",
    "bert_cased",
    "bert_added",
    "bert_decoder",
    "mpnet",
    "mpnet_cased",
    "roberta",
    "roberta_prefix",
    "deberta",
    "albert",
    "albert_cased",
    "big_bird",
    "big_bird_extra",
    "xlm_roberta",
    "camembert",
    "camembert_extra",
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

/// A folder with the files of a fixture, some of them replaced.
fn folder(model: &str, files: &[(&str, &[u8])]) -> Folder {
    let folder = Folder::new();
    for name in ["config.json"].into_iter().chain(TOKENIZER_FILES) {
        if let Ok(content) = std::fs::read(fixture(model).join(name)) {
            folder.file(name, content);
        }
    }
    for (name, content) in files {
        folder.file(name, content);
    }
    folder
}

fn load(folder: &Folder) -> Result<Tokenizer, Error> {
    Tokenizer::from_folder(folder.0.path(), 128)
}

#[test]
fn a_tokenizer_json_comes_first() {
    let folder = folder("bert", &[("tokenizer.json", b"{}")]);
    refused(load(&folder), &["cannot load the tokenizer", "tokenizer.json"]);
}

#[test]
fn missing_files_are_named_with_what_could_stand_in() {
    for (model, file) in [
        ("bert", "vocab.txt"),
        ("roberta", "merges.txt"),
        ("albert", "spiece.model"),
        ("xlm_roberta", "sentencepiece.bpe.model"),
        ("deberta_v2", "spm.model"),
    ] {
        let folder = folder(model, &[]);
        std::fs::remove_file(folder.0.path().join(file)).expect("it was there");
        refused(load(&folder), &["no tokenizer in", "looked for tokenizer.json", file]);
    }
    for (config, expected) in [
        (json!({"model_type": "t5"}), "that of a `t5` model cannot be built"),
        (json!({}), "one of an unknown kind cannot be built"),
        (
            json!({"model_type": "bert", "tokenizer_class": "PreTrainedTokenizerFast"}),
            "one of class PreTrainedTokenizerFast cannot be built",
        ),
    ] {
        let folder = folder("bert", &[("config.json", config.to_string().as_bytes())]);
        refused(load(&folder), &["there is no tokenizer.json", expected, "big_bird"]);
    }
}

#[test]
fn a_named_class_goes_before_the_kind_of_model() {
    let config = json!({"model_type": "roberta"}).to_string();
    let settings = json!({"tokenizer_class": "BertTokenizerFast"}).to_string();
    let files =
        [("config.json", config.as_bytes()), ("tokenizer_config.json", settings.as_bytes())];
    let texts: Vec<String> = json("texts.json");
    let of = |tokenizer: Tokenizer| tokenizer.encode_batch(&texts).expect("ids");
    let expected = of(load(&folder("bert", &[])).expect("a BERT tokenizer"));
    assert_eq!(of(load(&folder("bert", &files)).expect("the class decides")), expected);
}

#[test]
fn truncation_and_the_highest_id_count_special_tokens() {
    let tokenizer = Tokenizer::from_folder(&fixture("xlm_roberta"), 4).expect("a tokenizer");
    let encoded = &tokenizer.encode_batch(&["we may end your account"]).expect("ids")[0];
    assert_eq!((encoded.ids.len(), encoded.ids[0], encoded.ids[3]), (4, 0, 2));
    assert!(encoded.length > 4);
    assert_eq!(tokenizer.highest_id(), 303);
    refused(Tokenizer::from_folder(&fixture("xlm_roberta"), 2), &["max_length = 2"]);
}

/// Loads, and where that goes, uses a damaged tokenizer: anything but a panic will do.
fn try_out(folder: &Folder) -> bool {
    let texts = ["We may end your account\u{a0}at ﬁve.", "\u{1}①\u{301} [CLS] <special>"];
    load(folder).is_ok_and(|tokenizer| tokenizer.encode_batch(&texts).is_ok())
}

#[test]
fn changed_bytes_and_cuts_are_errors_or_tokenizers() {
    for (model, file) in [
        ("bert", "vocab.txt"),
        ("deberta", "vocab.json"),
        ("deberta", "merges.txt"),
        ("albert", "spiece.model"),
        ("deberta_v2", "spm.model"),
        ("bert_decoder", "tokenizer_config.json"),
        ("bert_added", "special_tokens_map.json"),
        ("bert_added", "added_tokens.json"),
    ] {
        let whole = std::fs::read(fixture(model).join(file)).expect("a fixture");
        let folder = folder(model, &[]);
        assert!(try_out(&folder), "{model}");
        let mut refused = 0;
        for at in (0..whole.len()).step_by(whole.len() / 80 + 1) {
            for change in [0x01, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                folder.file(file, changed);
                refused += usize::from(!try_out(&folder));
            }
            folder.file(file, &whole[..at]);
            refused += usize::from(!try_out(&folder));
        }
        assert!(refused > 0, "{model}/{file}: nothing that was done to it matters");
    }
}

/// A protocol buffer's field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = [(content.len() & 0x7f) as u8 | 0x80, (content.len() >> 7) as u8];
    [&[number << 3 | 2][..], &length, content].concat()
}

fn piece(text: &str, score: f32) -> Vec<u8> {
    field(1, &[field(1, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec()].concat())
}

#[test]
fn hostile_sentencepiece_files_are_errors() {
    let pieces =
        ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "▁we"].map(|p| piece(p, 0.0)).concat();
    let charsmap = |table: &[u8]| [pieces.clone(), field(3, &field(2, table))].concat();
    load(&folder("albert", &[("spiece.model", &pieces)])).expect("a whole one");
    for (content, expected) in [
        (Vec::new(), "it has no pieces"),
        (piece("<pad>", 0.0), "unk_id"),
        ([pieces.clone(), piece("", 0.0)].concat(), "piece 6: its text is \"\""),
        ([pieces.clone(), piece("x", f32::NAN)].concat(), "its score NaN"),
        ([pieces.clone(), piece("x", f32::NEG_INFINITY)].concat(), "its score -inf"),
        ([pieces.clone(), field(1, &field(1, b"\xff"))].concat(), "piece 6: invalid utf-8"),
        ([pieces.clone(), field(2, &[3 << 3, 2])].concat(), "it is a BPE model (type 2)"),
        (
            [pieces.clone(), vec![2 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 7]].concat(),
            "a field exceeds it",
        ),
        ([pieces.clone(), vec![9 << 3 | 3]].concat(), "wire type 3"),
        ([pieces.clone(), vec![0xff; 11]].concat(), "a number of more than 64 bits"),
        (charsmap(&[0xfc, 0xff, 0xff, 0xff, 0, 0]), "4294967292 bytes of trie in a table of 2"),
        (charsmap(&[0, 0, 0, 0, 0, 0]), "0 bytes of trie"),
        (charsmap(&[1]), "table has 1 bytes"),
        (charsmap(&[4, 0, 0, 0, 1, 2, 3, 4, 0xff]), "Cannot parse precompiled_charsmap"),
        (vec![0; (16 << 20) + 1], "more than the limit of 16777216"),
    ] {
        refused(
            load(&folder("albert", &[("spiece.model", &content)])),
            &["spiece.model", expected],
        );
    }
    // A trie whose node points out of it: found when a text leads there.
    let folder =
        folder("albert", &[("spiece.model", &charsmap(&[4, 0, 0, 0, 0, 0xfc, 0, 0, b'x', 0]))]);
    refused(load(&folder).expect("a table").encode_batch(&["we"]), &["cannot tokenize text 1"]);
}

#[test]
fn hostile_settings_and_vocabularies_are_errors() {
    let (open, close) = ("[".repeat(1_000_000), "]".repeat(1_000_000));
    let nested = format!("{{\"model_type\": \"bert\", \"x\": {open}{close}}}");
    let token = |value: Value| json!({"cls_token": value}).to_string();
    for (model, file, content, expected) in [
        ("bert", "config.json", "{", "EOF while parsing"),
        ("bert", "tokenizer_config.json", nested.as_str(), "recursion limit"),
        ("bert", "tokenizer_config.json", "7", "invalid type"),
        ("bert", "tokenizer_config.json", &token(json!(null)), "cls_token is null"),
        ("bert", "tokenizer_config.json", &token(json!(7)), "7 is no token"),
        (
            "bert",
            "tokenizer_config.json",
            &token(json!({"lstrip": true})),
            "missing field `content`",
        ),
        ("bert", "tokenizer_config.json", &token(json!("")), "\"\" has no id"),
        (
            "bert",
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": []}"#,
            "added_tokens_decoder is []",
        ),
        (
            "bert",
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"x": "y"}}"#,
            "has the id \"x\"",
        ),
        ("bert", "tokenizer_config.json", r#"{"extra_special_tokens": [[]]}"#, "[] is no token"),
        ("bert", "special_tokens_map.json", r#"{"unk_token": 1}"#, "1 is no token"),
        ("bert", "added_tokens.json", r#"{"a": -1}"#, "the id of `a` is -1"),
        ("bert", "vocab.txt", "a\u{0}", "cannot tokenize"),
        ("roberta", "vocab.json", "[]", "invalid type"),
        ("roberta", "vocab.json", r#"{"a": -1}"#, "invalid value"),
        ("roberta", "merges.txt", "#version: 0.2\na b c", "line 2 is \"a b c\", not two pieces"),
        ("roberta", "merges.txt", "nowhere tobefound", "out of vocabulary"),
    ] {
        let loaded = load(&folder(model, &[(file, content.as_bytes())]));
        match expected {
            "cannot tokenize" => {
                refused(loaded.expect("a vocabulary").encode_batch(&["b"]), &[expected])
            }
            _ => refused(loaded, &["cannot load the tokenizer", expected]),
        }
    }
}

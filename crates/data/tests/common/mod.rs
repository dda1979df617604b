//! Files and a tokenizer small enough to check by eye.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;

use data::{DataConfig, Dataset, Error, SplitFiles};
use tempfile::TempDir;

/// A folder of test files.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        durable::write(&path, content.as_ref()).expect("a test file");
        path
    }

    /// Loads one training file with no other splits.
    pub fn load(
        &self,
        config: &DataConfig,
        name: &str,
        content: impl AsRef<[u8]>,
    ) -> Result<Dataset, Error> {
        data::load(config, &train_only(self.file(name, content)), 1)
    }
}

pub fn train_only(path: PathBuf) -> SplitFiles {
    SplitFiles { train: vec![path], ..SplitFiles::default() }
}

/// A file of the user's own with no carved splits: all of it is the training split.
pub fn whole() -> DataConfig {
    DataConfig {
        dataset: None,
        validation_fraction: 0.0,
        test_fraction: 0.0,
        ..DataConfig::default()
    }
}

/// Asserts that an error was given and that its text has every part.
#[track_caller]
pub fn refused<T>(result: Result<T, Error>, parts: &[&str]) {
    let error = result.err().expect("an error").to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

/// A WordPiece tokenizer of a dozen words, with truncation and padding set as some hub files do.
pub fn word_piece() -> String {
    let words = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "we", "may", "end", "##ed", "your", "account", ".",
        "e", "##nd",
    ];
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(id, word)| (word.to_string(), id.into())).collect();
    serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}
    })
    .to_string()
}

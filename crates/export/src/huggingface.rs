//! Folders for Transformers and PEFT.
//!
//! A checkpoint that `AutoModelForSequenceClassification.from_pretrained` loads with every tensor its
//! class has and no other: `model.safetensors`, `config.json` with the label names, the tokenizer's
//! files, which cut texts where the model was trained to. An adapter that `PeftModel.from_pretrained`
//! loads onto the pretrained model.

use crate::classifier::{Classifier, Tokenizer, copy, write_json};
use crate::{Error, Result};
use architectures::peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use serde_json::{Map, json};
use std::path::Path;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Writes the checkpoint. `progress` is told how many tensors of how many are written.
///
/// # Errors
/// The file system refuses, or the model's files changed.
pub fn merged_checkpoint(
    classifier: &Classifier,
    folder: &Path,
    progress: impl Fn(usize, usize),
) -> Result<()> {
    classifier.merged.write(&folder.join("model.safetensors"), progress)?;
    let mut settings = classifier.settings().clone();
    // As it is written, under the names of both Transformers 5 and 4.
    settings.remove("torch_dtype");
    settings.insert("dtype".to_owned(), json!("float32"));
    write_json(&folder.join("config.json"), &settings)?;
    let Tokenizer { files, max_length, .. } = &classifier.tokenizer;
    copy_tokenizer(classifier.folder(), folder, files, *max_length)
}

/// Copies the adapter in the model folder `from`, with its `config.json` and the tokenizer's files, which
/// are to cut texts at `max_length` tokens.
///
/// # Errors
/// The model has no adapter, or the file system refuses.
pub fn peft_adapter(
    from: &Path,
    tokenizer_files: &[String],
    max_length: usize,
    folder: &Path,
) -> Result<()> {
    if !from.join(ADAPTER_CONFIG).is_file() {
        return Err(Error::NoAdapter(from.to_path_buf()));
    }
    copy(from, folder, &[ADAPTER_CONFIG, ADAPTER_WEIGHTS, "config.json"])?;
    copy_tokenizer(from, folder, tokenizer_files, max_length)
}

/// Copies a tokenizer's files; `model_max_length` says where `truncation=True` cuts a text.
fn copy_tokenizer(from: &Path, to: &Path, files: &[String], max_length: usize) -> Result<()> {
    copy(from, to, files)?;
    let path = to.join(TOKENIZER_CONFIG);
    let mut settings = Map::new();
    if path.is_file() {
        let bytes =
            std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        settings = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
    }
    settings.insert("model_max_length".to_owned(), json!(max_length));
    write_json(&path, &settings)
}

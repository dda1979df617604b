//! Folders for Transformers and PEFT.
//!
//! A checkpoint that `AutoModelForSequenceClassification.from_pretrained` loads with every tensor its
//! class has and no other: `model.safetensors`, `config.json` with the label names, the tokenizer's
//! files. An adapter that `PeftModel.from_pretrained` loads onto the pretrained model.

use crate::classifier::{Classifier, copy, write_json};
use crate::{Error, Result};
use architectures::peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use serde_json::json;
use std::path::Path;

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
    copy(classifier.folder(), folder, &classifier.tokenizer.files)
}

/// Copies the adapter in the model folder `from`, with its `config.json` and the tokenizer's files.
///
/// # Errors
/// The model has no adapter, or the file system refuses.
pub fn peft_adapter(from: &Path, tokenizer_files: &[String], folder: &Path) -> Result<()> {
    if !from.join(ADAPTER_CONFIG).is_file() {
        return Err(Error::NoAdapter(from.to_path_buf()));
    }
    copy(from, folder, &[ADAPTER_CONFIG, ADAPTER_WEIGHTS, "config.json"])?;
    copy(from, folder, tokenizer_files)
}

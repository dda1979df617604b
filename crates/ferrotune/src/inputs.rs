//! The splits of a run as MLflow describes data sets: name, source, columns, rows, and a digest of
//! every text and its labels, so that two runs can be seen to have read the same.

use crate::config::Config;
use data::{Dataset, Example};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The splits that have rows.
pub fn datasets(config: &Config, dataset: &Dataset) -> Vec<tracking::Dataset> {
    let data = &config.data;
    [
        ("training", &dataset.train, &data.train_file),
        ("validation", &dataset.validation, &data.validation_file),
        ("test", &dataset.test, &data.test_file),
    ]
    .into_iter()
    .filter(|(_, rows, _)| !rows.is_empty())
    .map(|(context, rows, file)| {
        // A split without a file of its own was carved from the training rows.
        let file = file.as_ref().or(data.train_file.as_ref());
        let (name, source_type, source) = source(data.dataset.as_deref(), file);
        tracking::Dataset {
            name,
            digest: digest(rows),
            source_type: source_type.to_owned(),
            source: source.to_string(),
            schema: schema(config).to_string(),
            profile: json!({ "num_rows": rows.len() }).to_string(),
            context: context.to_owned(),
        }
    })
    .collect()
}

/// Name, kind of source, and source.
fn source(dataset: Option<&str>, file: Option<&PathBuf>) -> (String, &'static str, Value) {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match (file, dataset) {
        (Some(file), _) => (stem(file), "local", json!({ "uri": file })),
        (None, Some(name)) => match name.split_once('@') {
            Some((path, commit)) if !Path::new(name).exists() => {
                (path.to_owned(), "hugging_face", json!({ "path": path, "revision": commit }))
            }
            _ => (stem(Path::new(name)), "local", json!({ "uri": name })),
        },
        (None, None) => (String::from("data"), "local", json!({})),
    }
}

fn schema(config: &Config) -> Value {
    let data = &config.data;
    let text = std::iter::once(&data.text_column).map(|name| ("string", name));
    let labels = data.label_column.iter().chain(data.label_columns.iter().flatten());
    let columns: Vec<_> = text
        .chain(labels.map(|name| ("any", name)))
        .map(|(kind, name)| json!({ "type": kind, "name": name, "required": true }))
        .collect();
    json!({ "mlflow_colspec": columns })
}

/// 32 hexadecimal digits of SHA-256 over texts and label indices; MLflow keeps at most 36.
fn digest(rows: &[Example]) -> String {
    let mut hash = Sha256::new();
    for Example { text, labels, .. } in rows {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
        hash.update((labels.len() as u64).to_le_bytes());
        labels.iter().for_each(|&label| hash.update((label as u64).to_le_bytes()));
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a String takes all");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_texts_and_labels_apart() {
        let row = |text: &str, labels: &[usize]| Example {
            text: text.to_owned(),
            labels: labels.to_vec(),
            row: 1,
        };
        let one = digest(&[row("a", &[0]), row("b", &[1])]);
        assert_eq!((one.len(), &one), (32, &digest(&[row("a", &[0]), row("b", &[1])])));
        for other in [
            vec![row("a", &[0]), row("b", &[0])],
            vec![row("b", &[1]), row("a", &[0])],
            vec![row("ab", &[0]), row("", &[1])],
            vec![row("a", &[0, 1]), row("b", &[])],
        ] {
            assert_ne!(one, digest(&other));
        }
    }

    #[test]
    fn sources_are_files_or_the_hub() {
        let file = PathBuf::from("/data/train.jsonl");
        let (name, kind, source_of_file) = source(Some("lex_glue/unfair_tos"), Some(&file));
        assert_eq!((name.as_str(), kind), ("train", "local"));
        assert_eq!(source_of_file, json!({ "uri": "/data/train.jsonl" }));
        let (name, kind, hub) = source(Some("lex_glue/unfair_tos@0123"), None);
        assert_eq!((name.as_str(), kind), ("lex_glue/unfair_tos", "hugging_face"));
        assert_eq!(hub["revision"], json!("0123"));
    }
}

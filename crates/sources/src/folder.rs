//! What a whole model folder holds, and the check that it does. The weights are
//! `model.safetensors`, or an index (`model.safetensors.index.json`) and every shard it names.
//!
//! Refuses an index whose shard names are anything but plain `.safetensors` file names: a name
//! such as `../x` would otherwise be read, or downloaded, outside the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::Error;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const PICKLE: &str = "pytorch_model.bin";
/// Taken along when they exist.
pub(crate) const OPTIONAL: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// Said when a model has pickled weights only.
pub(crate) const PICKLE_HINT: &str = "; it has pytorch_model.bin, but safetensors are needed: \
     convert it, or name a revision that has them (NAME@refs/pr/N)";

/// An index lists tensors; the largest published ones stay under 1 MB.
const INDEX_LIMIT: u64 = 64 << 20;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The shard files that an index names, in order.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>, Error> {
    let bad = |reason: String| Error::BadShardIndex { path: index.to_path_buf(), reason };
    let size = fs::metadata(index).map_err(Error::io("read", index))?.len();
    if size > INDEX_LIMIT {
        return Err(bad(format!("{size} bytes, the limit is {INDEX_LIMIT}")));
    }
    let bytes = fs::read(index).map_err(Error::io("read", index))?;
    let parsed: ShardIndex = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(bad("it names no shard".into()));
    }
    match names.iter().find(|name| !is_shard_name(name)) {
        Some(name) => Err(bad(format!("{name:?} is not a plain .safetensors file name"))),
        None => Ok(names),
    }
}

fn is_shard_name(name: &str) -> bool {
    crate::name::is_plain(name) && name.ends_with(".safetensors")
}

/// The files that a model folder still needs; empty when it is whole.
pub(crate) fn missing(folder: &Path) -> Result<Vec<String>, Error> {
    let has = |file: &str| folder.join(file).is_file();
    let mut missing: Vec<String> =
        [CONFIG, TOKENIZER].into_iter().filter(|f| !has(f)).map(String::from).collect();
    if has(WEIGHTS) {
        return Ok(missing);
    }
    if has(INDEX) {
        missing.extend(shards(&folder.join(INDEX))?.into_iter().filter(|shard| !has(shard)));
    } else {
        missing.push(format!("{WEIGHTS} (or {INDEX})"));
    }
    Ok(missing)
}

/// Fails unless `folder` is a whole model.
pub(crate) fn check(name: &str, folder: &Path) -> Result<(), Error> {
    if !folder.is_dir() {
        let place = folder.display().to_string();
        return Err(Error::NotFound { what: "folder for the model", name: name.into(), place });
    }
    let missing = missing(folder)?;
    if missing.is_empty() {
        return Ok(());
    }
    let pickle_only =
        missing.iter().any(|file| file.starts_with(WEIGHTS)) && folder.join(PICKLE).is_file();
    Err(Error::Incomplete {
        name: name.into(),
        missing: missing.join(", "),
        place: folder.display().to_string(),
        hint: if pickle_only { PICKLE_HINT } else { "" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, text) in files {
            durable::write(&folder.path().join(name), text.as_bytes()).expect("written");
        }
        folder
    }

    #[test]
    fn every_missing_file_is_named() {
        let folder = folder_with(&[]);
        let text = check("m", folder.path()).expect_err("empty").to_string();
        assert!(
            text.contains("lacks config.json, tokenizer.json, model.safetensors (or"),
            "{text}"
        );
        assert!(text.contains(&folder.path().display().to_string()), "{text}");
    }

    #[test]
    fn pickled_weights_alone_say_that_safetensors_are_needed() {
        let folder = folder_with(&[(CONFIG, "{}"), (TOKENIZER, "{}"), (PICKLE, "")]);
        let text = check("m", folder.path()).expect_err("pickle").to_string();
        assert!(text.contains("safetensors are needed"), "{text}");
    }

    #[test]
    fn every_shard_of_the_index_must_be_there() {
        let index =
            r#"{"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
        let folder = folder_with(&[
            (CONFIG, "{}"),
            (TOKENIZER, "{}"),
            (INDEX, index),
            ("model-1.safetensors", ""),
        ]);
        let text = check("m", folder.path()).expect_err("a shard is missing").to_string();
        assert!(text.contains("lacks model-2.safetensors in"), "{text}");
        durable::write(&folder.path().join("model-2.safetensors"), b"").expect("written");
        check("m", folder.path()).expect("whole");
    }

    #[test]
    fn hostile_or_broken_indices_are_refused() {
        for text in [
            "",
            "[]",
            r#"{"weight_map":{}}"#,
            r#"{"weight_map":{"a":1}}"#,
            r#"{"weight_map":{"a":"../x.safetensors"}}"#,
            r#"{"weight_map":{"a":"/etc/x.safetensors"}}"#,
            r#"{"weight_map":{"a":"sub/x.safetensors"}}"#,
            r#"{"weight_map":{"a":"sub\\x.safetensors"}}"#,
            r#"{"weight_map":{"a":"x.bin"}}"#,
            r#"{"weight_map":{"a":"x.safeten"#,
        ] {
            let folder = folder_with(&[(INDEX, text)]);
            let error = shards(&folder.path().join(INDEX)).expect_err(text);
            assert!(matches!(error, Error::BadShardIndex { .. }), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_accepted_shard_name_stays_in_the_folder(name in "[a-z./\\\\ ]{0,12}(\\.safetensors)?") {
            if is_shard_name(&name) {
                prop_assert_eq!(Path::new(&name).components().count(), 1);
                prop_assert!(!name.contains(['/', '\\']));
            }
        }
    }
}

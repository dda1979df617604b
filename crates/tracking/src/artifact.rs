//! Copies files and folders to where artifacts live, through real folders only: a symbolic link on
//! either side, or anything that is neither file nor folder, is refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::at;
use crate::limits::check_artifact_path;
use crate::{Error, Result};

/// The files of one artifact: where each is, and its path below the artifact root.
///
/// A file keeps its name below `artifact_path`; a folder's content lies below it.
pub(crate) fn files(local: &Path, artifact_path: &str) -> Result<Vec<(PathBuf, String)>> {
    check_artifact_path(artifact_path)?;
    let mut found = Vec::new();
    let local = &std::path::absolute(local).map_err(at("find", local))?;
    if fs::metadata(local).map_err(at("read", local))?.is_dir() {
        collect(local, artifact_path, &mut found)?;
        found.sort();
    } else {
        let local = local.clone();
        found.push((local.clone(), join(artifact_path, &local)?));
    }
    Ok(found)
}

fn collect(folder: &Path, below: &str, found: &mut Vec<(PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(at("list", folder))? {
        let entry = entry.map_err(at("list", folder))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(at("read", folder))?);
        let target = join(below, &path)?;
        if kind.is_symlink() {
            return Err(Error::Link(path));
        } else if kind.is_dir() {
            collect(&path, &target, found)?;
        } else {
            found.push((path, target));
        }
    }
    Ok(())
}

fn join(below: &str, path: &Path) -> Result<String> {
    let name = path.file_name().unwrap_or_default();
    let name = name.to_str().ok_or_else(|| Error::Name {
        kind: "artifact path",
        name: name.to_string_lossy().into_owned(),
        reason: "it is not UTF-8",
    })?;
    let joined = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
    check_artifact_path(&joined)?;
    Ok(joined)
}

/// Copies one file to `path` below `root`.
pub(crate) fn copy(from: &Path, root: &Path, path: &str) -> Result<()> {
    if !fs::metadata(from).map_err(at("read", from))?.is_file() {
        return Err(Error::Name {
            kind: "artifact",
            name: from.display().to_string(),
            reason: "it is neither a file nor a folder",
        });
    }
    let mut to = root.to_path_buf();
    durable::create_folder(&to)?;
    for part in path.split('/') {
        to.push(part);
        if fs::symlink_metadata(&to).is_ok_and(|found| found.file_type().is_symlink()) {
            return Err(Error::Link(to));
        }
    }
    durable::create_folder(to.parent().unwrap_or(root))?;
    let mut source = fs::File::open(from).map_err(at("read", from))?;
    durable::write_with(&to, |out| std::io::copy(&mut source, out).map(drop))?;
    Ok(())
}

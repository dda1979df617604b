//! The hub's cache layout, shared with every other program that uses it:
//!
//! ```text
//! models--org--name/refs/<revision>             text: a commit
//!                  /blobs/<etag>                the content
//!                  /snapshots/<commit>/<file>   link to ../../blobs/<etag>
//!                  /.no_exist/<commit>/<file>   empty: the repository has no such file
//! .locks/models--org--name/<etag>.lock
//! ```
//!
//! Where links cannot be made the snapshot holds the file itself, as the hub's own client does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Kind;
use crate::name::{HubId, is_plain};
use crate::{Error, Settings};

/// A commit's files in the cache; whether all are there is the caller's question.
pub(crate) struct Cached {
    pub folder: PathBuf,
    pub commit: String,
}

pub(super) fn repository(settings: &Settings, kind: Kind, id: &HubId) -> PathBuf {
    settings.hub_cache.join(folder_name(kind, id))
}

pub(super) fn lock_path(settings: &Settings, kind: Kind, id: &HubId, etag: &str) -> PathBuf {
    settings.hub_cache.join(".locks").join(folder_name(kind, id)).join(format!("{etag}.lock"))
}

fn folder_name(kind: Kind, id: &HubId) -> String {
    format!("{}--{}", kind.plural(), id.repo.replace('/', "--"))
}

/// What the cache holds for a revision (a ref, or a commit itself).
pub(crate) fn find(settings: &Settings, kind: Kind, id: &HubId) -> Option<Cached> {
    let repository = repository(settings, kind, id);
    let commit = match fs::read_to_string(repository.join("refs").join(&id.revision)) {
        Ok(text) => text.trim().to_owned(),
        Err(_) => id.revision.clone(),
    };
    let folder = repository.join("snapshots").join(&commit);
    (is_plain(&commit) && folder.is_dir()).then_some(Cached { folder, commit })
}

/// Remembers which commit a revision meant.
pub(crate) fn write_ref(
    settings: &Settings,
    kind: Kind,
    id: &HubId,
    commit: &str,
) -> Result<(), Error> {
    if id.revision == commit {
        return Ok(());
    }
    let path = repository(settings, kind, id).join("refs").join(&id.revision);
    if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
        return Ok(());
    }
    create_parent(&path)?;
    Ok(durable::write(&path, commit.as_bytes())?)
}

/// Remembers that the repository has no such file at this commit.
pub(super) fn write_absent(path: &Path) -> Result<(), Error> {
    create_parent(path)?;
    Ok(durable::write(path, b"")?)
}

pub(super) fn create_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(folder) => Ok(durable::create_folder(folder)?),
        None => Ok(()),
    }
}

/// Puts `blobs/<etag>` into the snapshot as `file`, replacing a dangling link.
pub(super) fn place(blob: &Path, etag: &str, snapshot: &Path, file: &str) -> Result<(), Error> {
    let target = snapshot.join(file);
    create_parent(&target)?;
    let up = "../".repeat(2 + file.matches('/').count());
    match fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("replace", &target)(error));
        }
        _ => {}
    }
    link(blob, Path::new(&format!("{up}blobs/{etag}")), &target).map_err(Error::io("link", &target))
}

#[cfg(unix)]
fn link(blob: &Path, relative: &Path, target: &Path) -> io::Result<()> {
    match std::os::unix::fs::symlink(relative, target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()), // another process
        Err(_) => fs::rename(blob, target), // a file system without links
        Ok(()) => Ok(()),
    }
}

#[cfg(not(unix))]
fn link(blob: &Path, _: &Path, target: &Path) -> io::Result<()> {
    fs::rename(blob, target)
}

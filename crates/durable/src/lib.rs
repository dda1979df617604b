//! Files that survive a crash. Every file ferrotune leaves behind is written here: to a temporary
//! sibling, fsynced, then renamed over its final name, with the folder fsynced last. A reader sees
//! the old content or the new, never a mixture, and a failed write removes its temporary file.
//!
//! Refuses what the file system refuses, and a new folder where something is; each error names the
//! path and the step.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file-system step that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct Error {
    /// What was being done: "create", "write", "sync", "rename", …
    pub step: &'static str,
    /// The file or folder it was done to.
    pub path: PathBuf,
    /// The operating system's answer.
    pub source: io::Error,
}

/// The result of a durable write.
pub type Result<T> = std::result::Result<T, Error>;

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error { step, path: path.to_path_buf(), source }
}

/// Writes `path` as one atomic step; `fill` streams the content.
///
/// # Errors
/// Whatever creating, filling, syncing or renaming the file answers; the old file is then intact.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = parent(path);
    let mut temporary = new_file(folder).map_err(at("create a temporary file in", folder))?;
    {
        let mut buffered = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        fill(&mut buffered).map_err(at("write", path))?;
        buffered.flush().map_err(at("write", path))?;
    }
    temporary.as_file().sync_all().map_err(at("sync", path))?;
    temporary.persist(path).map_err(|e| at("rename", path)(e.error))?;
    sync_folder(folder)
}

/// Writes `bytes` to `path` as one atomic step.
///
/// # Errors
/// See [`write_with`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Appends one whole line and syncs it; the line break is added.
///
/// # Errors
/// Whatever opening, writing or syncing the file answers.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).map_err(at("open", path))?;
    file.write_all(format!("{line}\n").as_bytes()).map_err(at("append to", path))?;
    file.sync_data().map_err(at("sync", path))
}

/// Creates a folder and those above it.
///
/// # Errors
/// Whatever the file system answers, with the folder's path.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(at("create folder", path))
}

/// Makes the folder `target`, whole or not at all, and returns what `fill` does: it writes the content
/// beside `target`, and a rename puts it in place. An empty folder is replaced, nothing else.
///
/// # Errors
/// What `fill` or the file system answers, or that something is there; nothing is left behind.
pub fn new_folder<T, E: From<Error>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    refuse_content(target)?;
    let folder = parent(target);
    create_folder(folder)?;
    let temporary = temporary_folder(folder).map_err(at("create a temporary folder in", folder))?;
    let filled = fill(temporary.path())?;
    sync_folder(temporary.path())?;
    // Someone may have put something there meanwhile.
    refuse_content(target)?;
    if target.exists() {
        // Not every system renames over an empty folder.
        fs::remove_dir(target).map_err(at("replace", target))?;
    }
    fs::rename(temporary.path(), target).map_err(at("rename", temporary.path()))?;
    sync_folder(folder)?;
    Ok(filled)
}

/// Refuses a place where [`new_folder`] could not make a folder, because something is there.
///
/// # Errors
/// There is a file, or a folder that is not empty.
pub fn refuse_content(target: &Path) -> Result<()> {
    let refused = |error| Err(at("create folder", target)(error));
    match fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
        Ok(true) => refused(io::ErrorKind::DirectoryNotEmpty.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => refused(error),
        _ => Ok(()),
    }
}

/// Replaces the folder `target` by one that `fill` writes: the new content is built beside it and
/// swapped in by two renames, so that at every moment `target` or its `.old` sibling is whole.
/// [`recover_folder`] puts the sibling back if the process died between the two.
///
/// # Errors
/// What `fill` or the file system answers; `target` is then as it was.
pub fn replace_folder<E: From<Error>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let (fresh, old) = (sibling(target, "new"), sibling(target, "old"));
    recover_folder(target)?;
    remove_folder(&fresh)?;
    create_folder(&fresh)?;
    if let Err(error) = fill(&fresh) {
        remove_folder(&fresh)?;
        return Err(error);
    }
    sync_folder(&fresh)?;
    if target.exists() {
        fs::rename(target, &old).map_err(at("rename", target))?;
    }
    fs::rename(&fresh, target).map_err(at("rename", &fresh))?;
    sync_folder(parent(target))?;
    remove_folder(&old)?;
    Ok(())
}

/// Undoes a [`replace_folder`] that was cut short: restores `target` from its `.old` sibling when
/// only that one is there, and removes leftovers.
///
/// # Errors
/// Whatever the file system answers.
pub fn recover_folder(target: &Path) -> Result<()> {
    let old = sibling(target, "old");
    if old.exists() && !target.exists() {
        fs::rename(&old, target).map_err(at("rename", &old))?;
        sync_folder(parent(target))?;
    }
    remove_folder(&old)?;
    remove_folder(&sibling(target, "new"))
}

/// Removes a folder and what is in it; a missing folder is no error.
///
/// # Errors
/// Whatever the file system answers.
pub fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The folder that holds the content of `target` now: itself, or its `.old` sibling while (or
/// after) a [`replace_folder`] stands between its two renames. For readers, who may not move things.
#[must_use]
pub fn readable_folder(target: &Path) -> PathBuf {
    let old = sibling(target, "old");
    if old.exists() && !target.exists() { old } else { target.to_path_buf() }
}

fn sibling(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(suffix);
    target.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A rename lasts only once its folder is on disk; platforms without folder handles skip this.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder)
            .and_then(|handle| handle.sync_all())
            .map_err(at("sync folder", folder))?;
    }
    Ok(())
}

/// A temporary folder with the permissions of any new folder: the user's umask decides.
fn temporary_folder(folder: &Path) -> io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tmp-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(folder)
}

/// A temporary file with the permissions of any new file: the user's umask decides.
fn new_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tmp-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_failed_write_keeps_the_old_content_and_leaves_no_temporary_file() -> Outcome {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.json");
        write(&path, b"old")?;
        let died = write_with(&path, |out| {
            out.write_all(b"half of the n")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(died.expect_err("fill failed").path, path);
        assert_eq!(fs::read(&path)?, b"old");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_replacement_cut_short_at_any_point_leaves_one_whole_folder() -> Outcome {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("last");
        let fill = |text: &'static str| {
            move |path: &Path| -> Result<()> { write(&path.join("state"), text.as_bytes()) }
        };
        replace_folder(&target, fill("one"))?;
        replace_folder(&target, fill("two"))?;
        assert_eq!(fs::read(target.join("state"))?, b"two");

        // Died while building the new one.
        create_folder(&sibling(&target, "new"))?;
        recover_folder(&target)?;
        assert_eq!(fs::read(target.join("state"))?, b"two");

        // Died between the two renames.
        fs::rename(&target, sibling(&target, "old"))?;
        assert_eq!(fs::read(readable_folder(&target).join("state"))?, b"two");
        recover_folder(&target)?;
        assert_eq!(readable_folder(&target), target);
        assert_eq!(fs::read(target.join("state"))?, b"two");

        // A fill that fails changes nothing.
        let failed: std::result::Result<(), Error> =
            replace_folder(&target, |path| Err(at("write", path)(io::Error::other("full"))));
        assert!(failed.is_err());
        assert_eq!(fs::read(target.join("state"))?, b"two");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_new_folder_is_whole_or_not_there_and_takes_the_place_of_nothing() -> Outcome {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("deep/model");
        let fill = |path: &Path| -> Result<()> { write(&path.join("state"), b"one") };
        let failed: Result<()> = new_folder(&target, |path| {
            fill(path)?;
            Err(at("write", path)(io::Error::other("full")))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(folder.path().join("deep"))?.count(), 0);

        create_folder(&target)?;
        new_folder(&target, fill)?;
        assert_eq!(fs::read(target.join("state"))?, b"one");
        assert_eq!(fs::read_dir(folder.path().join("deep"))?.count(), 1);

        let refused = new_folder(&target, |_| -> Result<()> { panic!("nothing may be written") });
        assert_eq!(refused.expect_err("it is not empty").path, target);
        let file = target.join("state");
        assert!(new_folder(&file, fill).is_err());
        assert_eq!(fs::read(file)?, b"one");
        Ok(())
    }

    /// Another may fill the target while the new content is built.
    #[test]
    fn a_folder_filled_meanwhile_is_left_alone() -> Outcome {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("model");
        let refused = new_folder(&target, |_| -> Result<()> {
            create_folder(&target)?;
            write(&target.join("state"), b"theirs")
        });
        assert_eq!(refused.expect_err("it is not empty").path, target);
        assert_eq!(fs::read(target.join("state"))?, b"theirs");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }
}

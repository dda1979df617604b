//! Tracking URIs: those of servers, `azureml` for the workspace of a `config.json`, and those that name a
//! local folder, a path or `file:` with one. Other schemes are refused by name.

use std::path::{Path, PathBuf};

use crate::error::at;
use crate::server::without_user;
use crate::{Connection, Error, Result, azure, is_server};

/// Whether runs can be recorded under a tracking URI, as far as its text tells.
///
/// # Errors
/// [`Error::Uri`] with the reason.
pub fn check_uri(uri: &str) -> Result<()> {
    if azure::is_reference(uri) {
        return Ok(());
    }
    if is_server(uri) { Connection::new(uri).map(drop) } else { local_folder(uri).map(drop) }
}

/// A tracking URI that means the same from anywhere: a folder's path becomes absolute, the workspace of a
/// `config.json` is named by its id, others stay.
///
/// # Errors
/// [`Error::Uri`] with the reason; there is no `config.json`.
pub fn absolute_uri(uri: &str) -> Result<String> {
    if azure::is_reference(uri) {
        return Ok(azure::Workspace::find(uri)?.reference());
    }
    if is_server(uri) {
        return Ok(uri.to_owned());
    }
    local_folder(uri).map(|folder| file_uri(&folder))
}

/// The absolute folder that a tracking URI names.
pub(crate) fn local_folder(uri: &str) -> Result<PathBuf> {
    let refused = |reason| Error::Uri { uri: without_user(uri), reason };
    let path = match uri.split_once(':') {
        // One letter before the colon is a drive.
        Some((scheme, rest)) if scheme.len() > 1 && !scheme.contains(['/', '\\', '.']) => {
            if !scheme.eq_ignore_ascii_case("file") {
                return Err(refused(
                    "it must be http://, https:// or azureml:// for a server, azureml for the workspace of a config.json, or a folder, as a path or as file:PATH",
                ));
            }
            let path = match rest.strip_prefix("//") {
                None => rest,
                Some(rest) => match rest.strip_prefix("localhost").unwrap_or(rest) {
                    path if path.starts_with('/') => path,
                    _ => return Err(refused("a file: URI names no host but localhost")),
                },
            };
            PathBuf::from(decode(path).ok_or_else(|| refused("a % escape is wrong"))?)
        }
        _ => PathBuf::from(uri),
    };
    if path.as_os_str().is_empty() {
        return Err(refused("it names no folder"));
    }
    std::path::absolute(&path).map_err(at("find", &path))
}

/// An absolute path as a `file:` URI, escaped as Python's `Path.as_uri` does.
pub(crate) fn file_uri(path: &Path) -> String {
    let mut uri = String::from("file://");
    for &byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/_.-~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = tail.get(..2).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_as_in_mlflow() {
        let here = std::env::current_dir().expect("folder");
        assert_eq!(local_folder("mlruns").expect("path"), here.join("mlruns"));
        assert_eq!(local_folder("file:mlruns").expect("path"), here.join("mlruns"));
        for uri in ["file:/a%20b/c", "file:///a b/c", "file://localhost/a%20b/c", "/a b/c"] {
            assert_eq!(local_folder(uri).expect(uri), Path::new("/a b/c"));
        }
        assert_eq!(file_uri(Path::new("/a b/ü%")), "file:///a%20b/%C3%BC%25");
        assert_eq!(local_folder(&file_uri(Path::new("/ü%"))).expect("back"), Path::new("/ü%"));
    }

    #[test]
    fn what_is_no_local_folder_is_refused() {
        for uri in [
            "",
            "file:",
            "file://host/x",
            "http://localhost:5000",
            "sqlite:///mlflow.db",
            "file:/%zz",
            "file:/%00",
            "file:/%f",
            "file:/%é",
        ] {
            {
                assert!(matches!(local_folder(uri), Err(Error::Uri { .. })), "{uri}");
            }
        }
    }
}

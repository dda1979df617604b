//! What can go wrong in an export.

use std::path::PathBuf;

/// Why a model was not exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model without an adapter.
    #[error("{} holds no adapter: every weight was trained", .0.display())]
    NoAdapter(PathBuf),
    /// A network that no graph can be written of.
    #[error("ONNX cannot be written of a `{family}` model: its network {what}")]
    NoGraph {
        /// Its `model_type`.
        family: &'static str,
        /// What of it.
        what: &'static str,
    },
    /// The model cannot be put together.
    #[error(transparent)]
    Model(#[from] architectures::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] durable::Error),
}

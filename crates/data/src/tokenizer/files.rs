//! The files beside a vocabulary, read under a limit.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

pub(super) const SETTINGS: &str = "tokenizer_config.json";
pub(super) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
pub(super) const ADDED_TOKENS: &str = "added_tokens.json";

/// A file's content, if it has at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.into(), source };
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > limit {
        return Err(Error::TokenizerTooLarge { path: path.into(), bytes, limit });
    }
    fs::read(path).map_err(io)
}

/// What a JSON file says, or `None` where there is no such file.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    /// Chat templates and lists of added tokens make the largest ones.
    const LIMIT: u64 = 16 << 20;
    if !path.is_file() {
        return Ok(None);
    }
    serde_json::from_slice(&read(path, LIMIT)?).map(Some).map_err(|error| bad(path, error))
}

/// The error about what a file says.
pub(super) fn bad(path: &Path, problem: impl ToString) -> Error {
    Error::Tokenizer { path: path.into(), problem: problem.to_string() }
}

//! Texts to token ids, by the `tokenizers` crate, with the ids that Transformers gives: from a
//! `tokenizer.json`, or where a model has none, from the files it was published with
//! (`family.rs` says which). Texts that exceed the maximum length are cut on the right before the
//! special tokens are added, as Transformers does; truncation and padding that a file sets are
//! ignored.
//!
//! Files may come from anywhere: they are limited in size, and the crate's panics become errors.

mod build;
mod family;
mod files;
mod sentencepiece;
mod settings;
mod unigram;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rayon::prelude::*;
use tokenizers::{PostProcessor, TruncationDirection};

use crate::table::panic_message;
use crate::{Error, Result};
use family::Family;

/// All files that tokenizers are read from, those that a model may have beside others included.
pub const TOKENIZER_FILES: [&str; 10] = [
    WHOLE,
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    files::SETTINGS,
    files::SPECIAL_TOKENS,
    files::ADDED_TOKENS,
];

const WHOLE: &str = "tokenizer.json";
const CONFIG: &str = "config.json";

/// No tokenizer in use comes near it; the largest vocabularies take 20 MB.
const SIZE_LIMIT: u64 = 64 << 20;

/// A loaded tokenizer and the length it cuts at.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Tokens of the text itself that fit beside the special ones.
    room: usize,
}

/// One text as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Ids with special tokens, cut to the maximum length.
    pub ids: Vec<u32>,
    /// Number of tokens before the cut.
    pub length: usize,
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder; texts will be cut to `max_length` tokens.
    ///
    /// # Errors
    /// No tokenizer that can be read, a file that is damaged or too large, or a `max_length` that
    /// leaves no room beside the special tokens.
    pub fn from_folder(folder: &Path, max_length: usize) -> Result<Self> {
        let whole = folder.join(WHOLE);
        if whole.is_file() {
            return Self::from_file(&whole, max_length);
        }
        let family = Family::of(folder)?;
        let missing: Vec<&str> =
            family.files().iter().copied().filter(|file| !folder.join(file).is_file()).collect();
        if !missing.is_empty() {
            let files = family.files().join(" and ");
            let problem = format!("looked for {WHOLE}, and for {files} to build it from");
            return Err(Error::NoTokenizer { folder: folder.into(), problem });
        }
        let built = catch_unwind(AssertUnwindSafe(|| build::build(folder, family)));
        let inner = built.map_err(|panic| {
            files::bad(&folder.join(family.files()[0]), panic_message(&*panic))
        })??;
        Self::new(inner, folder, max_length)
    }

    /// Loads a `tokenizer.json`; texts will be cut to `max_length` tokens.
    ///
    /// # Errors
    /// A file that is missing, above 64 MiB or not a tokenizer, or a `max_length` that leaves no
    /// room beside the special tokens.
    pub fn from_file(path: &Path, max_length: usize) -> Result<Self> {
        let content = files::read(path, SIZE_LIMIT)?;
        let inner = catch(|| tokenizers::Tokenizer::from_bytes(content))
            .map_err(|problem| files::bad(path, problem))?;
        Self::new(inner, path, max_length)
    }

    fn new(mut inner: tokenizers::Tokenizer, path: &Path, max_length: usize) -> Result<Self> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| files::bad(path, error))?;
        let special = inner.get_post_processor().map_or(0, |steps| steps.added_tokens(false));
        match max_length.checked_sub(special) {
            Some(room) if room > 0 => Ok(Self { inner, room }),
            _ => Err(Error::Config {
                key: "max_length",
                value: max_length.to_string(),
                problem: format!("leaves no room beside {special} special tokens"),
            }),
        }
    }

    /// The highest id this tokenizer can give; the model's embedding must reach it.
    #[must_use]
    pub fn highest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// The token of an id.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// As a `tokenizer.json`, without truncation or padding.
    ///
    /// # Errors
    /// A part of it cannot be written.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(|error| files::bad(Path::new(WHOLE), error))
    }

    /// Encodes texts on all cores; the order is kept.
    ///
    /// # Errors
    /// The first text that the tokenizer refuses, or that gives no token at all.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Encoded>> {
        texts
            .par_iter()
            .enumerate()
            .map(|(index, text)| {
                catch(|| self.encode(text.as_ref()))
                    .map_err(|problem| Error::Encode { index, problem })
            })
            .collect::<Vec<_>>() // so that the first failure is reported, not the fastest
            .into_iter()
            .collect()
    }

    fn encode(&self, text: &str) -> tokenizers::Result<Encoded> {
        let mut encoding = self.inner.encode_fast(text, false)?;
        let own = encoding.len();
        encoding.truncate(self.room, 0, TruncationDirection::Right);
        let kept = encoding.len();
        let encoding = self.inner.post_process(encoding, None, true)?;
        if encoding.is_empty() {
            return Err("it gives no tokens".into());
        }
        Ok(Encoded { ids: encoding.get_ids().to_vec(), length: own + encoding.len() - kept })
    }
}

/// Errors and panics alike as text.
fn catch<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(panic_message(&*panic)),
    }
}

//! A tokenizer from the files that a model was published with, put together as Transformers 5.24
//! does (`models/*/tokenization_*.py`), so that the ids are the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{ModelWrapper, Tokenizer};

use super::family::Family;
use super::files::{self, bad};
use super::settings::{Settings, Special};
use super::unigram;
use crate::{Error, Result};

/// The largest published vocabularies take 5 MB.
const SIZE_LIMIT: u64 = 16 << 20;

/// What a tokenizer is built from.
pub(super) struct Source<'a> {
    pub family: Family,
    pub settings: Settings,
    folder: &'a Path,
    /// The vocabulary.
    file: PathBuf,
}

/// A model, and what comes before and after it.
pub(super) struct Parts {
    pub model: ModelWrapper,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: PreTokenizerWrapper,
    /// Roles of the special tokens around a text.
    pub ends: [&'static str; 2],
    /// Tokens of a SentencePiece model that are found in a text before it is split.
    pub pieces: Option<Vec<Special>>,
}

/// Builds the folder's tokenizer. It may panic on hostile files.
///
/// # Errors
/// A file is missing, too large or damaged.
pub(super) fn build(folder: &Path, family: Family) -> Result<Tokenizer> {
    let settings = Settings::read(folder, family)?;
    let source = Source { family, settings, folder, file: folder.join(family.files()[0]) };
    let content = files::read(&source.file, SIZE_LIMIT)?;
    let parts = match family {
        Family::Bert | Family::MpNet => word_piece(&source, &content)?,
        Family::Roberta | Family::Deberta => byte_level(&source, &content)?,
        Family::Albert
        | Family::BigBird
        | Family::XlmRoberta
        | Family::Camembert
        | Family::DebertaV2 => unigram::parts(&source, &content)?,
    };
    let [first, last] = [source.named(parts.ends[0])?, source.named(parts.ends[1])?];
    let splits_special = source.flag("split_special_tokens", false);

    let mut tokenizer = Tokenizer::new(parts.model);
    tokenizer.with_normalizer(parts.normalizer).map_err(|error| source.wrong(error))?;
    tokenizer.with_pre_tokenizer(Some(parts.pre_tokenizer));
    let Source { settings, file, .. } = source;
    tokenizer.add_tokens(settings.into_added(parts.pieces)).map_err(|error| bad(&file, error))?;
    tokenizer.set_encode_special_tokens(splits_special);
    let with_id = |token: String| match tokenizer.token_to_id(&token) {
        Some(id) => Ok((token, id)),
        None => Err(bad(&file, format!("the special token {token:?} has no id"))),
    };
    let (first, last) = (with_id(first)?, with_id(last)?);
    tokenizer.with_post_processor(Some(BertProcessing::new(last, first)));
    Ok(tokenizer)
}

impl Source<'_> {
    /// A boolean setting.
    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.settings.flag(key).unwrap_or(default)
    }

    /// The special token of a role that this tokenizer cannot do without.
    pub fn named(&self, role: &str) -> Result<String> {
        let path = self.folder.join(files::SETTINGS);
        let none = || bad(&path, format!("{role} is null, but this tokenizer needs one"));
        self.settings.named(role).map(str::to_owned).ok_or_else(none)
    }

    /// The error about the vocabulary.
    pub fn wrong(&self, problem: impl ToString) -> Error {
        bad(&self.file, problem)
    }
}

fn word_piece(source: &Source<'_>, content: &[u8]) -> Result<Parts> {
    let vocab = WordPiece::read_bytes(content).map_err(|error| source.wrong(error))?;
    let unknown = source.named("unk_token")?;
    let model = WordPiece::builder().vocab(vocab).unk_token(unknown).build();
    let normalizer = BertNormalizer::new(
        true,
        source.flag("tokenize_chinese_chars", true),
        source.settings.flag("strip_accents"), // else as lower-casing
        source.flag("do_lower_case", true),
    );
    Ok(Parts {
        model: model.map_err(|error| source.wrong(error))?.into(),
        normalizer: Some(normalizer.into()),
        pre_tokenizer: BertPreTokenizer.into(),
        ends: ["cls_token", "sep_token"],
        pieces: None,
    })
}

fn byte_level(source: &Source<'_>, content: &[u8]) -> Result<Parts> {
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(content).map_err(|error| source.wrong(error))?;
    let vocab: Vocab = vocab.into_iter().collect();
    let path = source.folder.join(source.family.files()[1]);
    let merges = merges(&files::read(&path, SIZE_LIMIT)?).map_err(|error| bad(&path, error))?;
    let model = BPE::builder().vocab_and_merges(vocab, merges).build();
    Ok(Parts {
        model: model.map_err(|error| bad(&path, error))?.into(),
        normalizer: None,
        pre_tokenizer: ByteLevel::new(source.flag("add_prefix_space", false), true, true).into(),
        ends: ["cls_token", "sep_token"],
        pieces: None,
    })
}

/// The pairs of a merges.txt, best first; or what is wrong with it.
fn merges(content: &[u8]) -> std::result::Result<Vec<(String, String)>, String> {
    let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version"));
    lines
        .map(|(number, line)| match line.split(' ').collect::<Vec<_>>()[..] {
            [left, right] => Ok((left.to_owned(), right.to_owned())),
            _ => Err(format!("line {} is {line:?}, not two pieces", number + 1)),
        })
        .collect()
}

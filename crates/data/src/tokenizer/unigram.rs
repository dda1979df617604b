//! Unigram tokenizers from SentencePiece files, by Transformers' rules, which are not always
//! SentencePiece's own: BigBird's and DeBERTa-v2's leave the file's table of replacements out, and
//! none falls back to bytes.

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{
    Lowercase, NFC, NFKD, NormalizerWrapper, Precompiled, Replace, Sequence, Strip, StripAccents,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

use super::build::{Parts, Source};
use super::family::Family;
use super::sentencepiece::{self, Kind, Model};
use super::settings::Special;
use crate::Result;

/// SentencePiece's sign for a space.
const SPACE: char = '▁';

/// The parts of a tokenizer whose vocabulary is this SentencePiece file.
///
/// # Errors
/// It is no unigram model, or damaged.
pub(super) fn parts(source: &Source<'_>, content: &[u8]) -> Result<Parts> {
    let model = sentencepiece::parse(content).map_err(|problem| source.wrong(problem))?;
    let pieces = model.pieces.iter().filter(|piece| piece.kind != Kind::Normal);
    let pieces =
        pieces.map(|piece| Special::piece(&piece.text, piece.kind == Kind::Control)).collect();
    let normalizer = normalizer(source, &model.charsmap).map_err(|error| source.wrong(error))?;
    let (vocab, unk_id) = vocabulary(source, model)?;
    let model = Unigram::from(vocab, Some(unk_id), false).map_err(|error| source.wrong(error))?;
    Ok(Parts {
        model: model.into(),
        normalizer: Some(normalizer),
        pre_tokenizer: pre_tokenizer(source),
        ends: match source.family {
            Family::XlmRoberta | Family::Camembert => ["bos_token", "eos_token"],
            _ => ["cls_token", "sep_token"],
        },
        pieces: Some(pieces),
    })
}

/// Pieces with their scores, by id, and the id of the unknown one.
fn vocabulary(source: &Source<'_>, model: Model) -> Result<(Vec<(String, f64)>, usize)> {
    let mut vocab: Vec<(String, f64)> =
        model.pieces.into_iter().map(|piece| (piece.text, piece.score)).collect();
    let unknown = (source.named("unk_token")?, 0.0);
    let unk_id = match source.family {
        Family::BigBird => vocab.iter().position(|piece| *piece == unknown).unwrap_or(100),
        Family::DebertaV2 => {
            vocab.iter().position(|piece| *piece == unknown).unwrap_or(model.unk_id)
        }
        Family::XlmRoberta | Family::Camembert => 3,
        _ => 1,
    };
    // Fairseq's ids: its own tokens in place of SentencePiece's first ones.
    let (own, replaced) = match source.family {
        Family::XlmRoberta => {
            let roles = ["bos_token", "pad_token", "eos_token", "unk_token"];
            (roles.into_iter().map(|role| Ok((source.named(role)?, 0.0))).collect(), 3)
        }
        // Which knew its own beginning and end later than SentencePiece's.
        Family::Camembert => (
            vec![
                Ok(("<s>NOTUSED".to_owned(), 0.0)),
                Ok((source.named("pad_token")?, 0.0)),
                Ok(("</s>NOTUSED".to_owned(), 0.0)),
                Ok((unknown.0, 0.0)),
                Ok(("<unk>NOTUSED".to_owned(), -100.0)),
            ],
            1,
        ),
        _ => return Ok((vocab, unk_id)),
    };
    vocab.splice(..vocab.len().min(replaced), own.into_iter().collect::<Result<Vec<_>>>()?);
    vocab.push((source.named("mask_token")?, 0.0));
    Ok((vocab, unk_id))
}

fn normalizer(source: &Source<'_>, charsmap: &[u8]) -> tokenizers::Result<NormalizerWrapper> {
    let regex = |pattern: &str, by: &str| -> tokenizers::Result<NormalizerWrapper> {
        Ok(Replace::new(ReplacePattern::Regex(pattern.to_owned()), by)?.into())
    };
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    match source.family {
        Family::BigBird => steps.push(regex(" {2,}", "▁")?),
        Family::DebertaV2 => {
            if source.flag("do_lower_case", false) {
                steps.push(Lowercase.into());
            }
            steps.push(regex(r"\s{2,}|[\n\r\t]", " ")?);
            steps.extend([NFC.into(), Strip::new(false, true).into()]);
        }
        family => {
            if family == Family::Albert {
                steps.extend([Replace::new("``", "\"")?.into(), Replace::new("''", "\"")?.into()]);
                if !source.flag("keep_accents", false) {
                    steps.extend([NFKD.into(), StripAccents.into()]);
                }
                if source.flag("do_lower_case", true) {
                    steps.push(Lowercase.into());
                }
            }
            if !charsmap.is_empty() {
                let table = Precompiled::from(charsmap).map_err(|error| error.to_string())?;
                steps.push(table.into());
            }
        }
    }
    Ok(Sequence::new(steps).into())
}

fn pre_tokenizer(source: &Source<'_>) -> PreTokenizerWrapper {
    let scheme = match (source.flag("add_prefix_space", true), source.family) {
        (true, _) => PrependScheme::Always,
        (false, Family::DebertaV2) => PrependScheme::First,
        (false, _) => PrependScheme::Never,
    };
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    match source.family {
        Family::Albert | Family::XlmRoberta | Family::Camembert => {
            steps.push(WhitespaceSplit.into())
        }
        Family::DebertaV2 if source.flag("split_by_punct", false) => {
            steps.push(Punctuation::default().into());
        }
        _ => {}
    }
    steps.push(Metaspace::new(SPACE, scheme, true).into());
    PreTokenizers::new(steps).into()
}

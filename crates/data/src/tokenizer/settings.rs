//! What `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say about a
//! tokenizer, under Transformers' precedence: a list of added tokens in the first
//! (`added_tokens_decoder`) replaces the other two files, which older releases wrote.
//!
//! Source: Transformers 5.24, `PreTrainedTokenizerBase._from_pretrained` and
//! `TokenizersBackend.__init__`.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::family::Family;
use super::files::{self, ADDED_TOKENS, SETTINGS, SPECIAL_TOKENS, bad};
use crate::Result;

/// In the order in which they are added to a vocabulary.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Settings and special tokens of a tokenizer.
#[derive(Debug)]
pub(super) struct Settings {
    options: Map<String, Value>,
    /// Special tokens by role, in the order of [`NAMED`].
    named: Vec<(&'static str, Special)>,
    /// Further ones, if any file names some.
    extra: Option<Vec<Special>>,
    /// Tokens added before all others, in the order of their ids.
    added: Vec<Special>,
}

/// A token as a file describes it.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Special {
    pub content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Where absent, special tokens are not and others are.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl Special {
    fn new(content: &str) -> Special {
        let content = content.to_owned();
        let (normalized, special) = (None, true);
        Special { content, single_word: false, lstrip: false, rstrip: false, normalized, special }
    }

    /// A token that SentencePiece never splits; control tokens are special.
    pub fn piece(content: &str, special: bool) -> Special {
        Special { normalized: Some(false), special, ..Special::new(content) }
    }

    /// From a string, or an object with its properties.
    fn parse(value: &Value, path: &Path) -> Result<Special> {
        match value {
            Value::String(content) => Ok(Special::new(content)),
            Value::Object(_) => serde_json::from_value(value.clone())
                .map_err(|error| bad(path, format!("the token {value}: {error}"))),
            _ => Err(bad(path, format!("{value} is no token"))),
        }
    }

    fn into_added(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .normalized(self.normalized.unwrap_or(!self.special))
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
    }
}

impl Settings {
    /// Reads a folder's settings of a tokenizer of this kind.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn read(folder: &Path, family: Family) -> Result<Settings> {
        let path = folder.join(SETTINGS);
        let options: Map<String, Value> = files::json(&path)?.unwrap_or_default();
        let mut given: Vec<(&str, Option<Special>)> = Vec::new();
        for name in NAMED {
            match options.get(name) {
                None => {}
                Some(Value::Null) => given.push((name, None)),
                Some(value) => given.push((name, Some(Special::parse(value, &path)?))),
            }
        }
        let mut extra = match options.get("extra_special_tokens") {
            Some(value) if has_tokens(value) => Some(parse_all(value, &path)?),
            _ => options
                .get("additional_special_tokens")
                .filter(|value| !value.is_null())
                .map(|value| parse_all(value, &path))
                .transpose()?,
        };
        let mut added = Vec::new();
        if let Some(tokens) = options.get("added_tokens_decoder") {
            added = added_by_id(tokens, &path)?;
        } else {
            let path = folder.join(SPECIAL_TOKENS);
            let map: Map<String, Value> = files::json(&path)?.unwrap_or_default();
            for (key, value) in &map {
                if let Some(name) = NAMED.into_iter().find(|name| name == key) {
                    let special = Special { special: true, ..Special::parse(value, &path)? };
                    given.retain(|(known, _)| *known != name);
                    given.push((name, Some(special)));
                }
            }
            // Tokens that only this file names do not make those of the next special.
            let known: Vec<String> = given
                .iter()
                .filter_map(|(_, token)| token.as_ref())
                .chain(extra.iter().flatten())
                .map(|token| token.content.clone())
                .collect();
            for key in ["extra_special_tokens", "additional_special_tokens"] {
                if let (None, Some(value)) = (&extra, map.get(key)) {
                    extra = Some(parse_all(value, &path)?);
                }
            }
            let path = folder.join(ADDED_TOKENS);
            let ids: Map<String, Value> = files::json(&path)?.unwrap_or_default();
            let mut ids: Vec<(u64, String)> = ids
                .into_iter()
                .map(|(content, id)| match id.as_u64() {
                    Some(id) => Ok((id, content)),
                    None => Err(bad(&path, format!("the id of `{content}` is {id}"))),
                })
                .collect::<Result<_>>()?;
            ids.sort();
            added.extend(ids.into_iter().map(|(_, content)| {
                let special = known.contains(&content);
                Special { normalized: Some(!special), special, ..Special::new(&content) }
            }));
        }
        let named = NAMED.into_iter().filter_map(|name| {
            match given.iter().find(|(known, _)| *known == name) {
                Some((_, token)) => Some((name, token.clone()?)),
                None => {
                    let default = family.special_tokens().iter().find(|(known, _)| *known == name);
                    default.map(|(_, content)| {
                        // BigBird's takes the space before it.
                        let lstrip = family == Family::BigBird && name == "mask_token";
                        (name, Special { lstrip, ..Special::new(content) })
                    })
                }
            }
        });
        Ok(Settings { named: named.collect(), options, extra, added })
    }

    /// A boolean setting.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.options.get(key).and_then(Value::as_bool)
    }

    /// The special token of this role; none where the settings say so.
    pub fn named(&self, role: &str) -> Option<&str> {
        let found = self.named.iter().find(|(name, _)| *name == role);
        found.map(|(_, token)| token.content.as_str())
    }

    /// All tokens that are added to the vocabulary, in order; one that occurs again takes its last
    /// properties. `pieces` are those of a SentencePiece model, in place of further ones where no
    /// file names any.
    pub fn into_added(self, pieces: Vec<Special>) -> Vec<AddedToken> {
        let Settings { named, extra, mut added, .. } = self;
        let is_named = |token: &Special| named.iter().any(|(_, n)| n.content == token.content);
        let known: Vec<String> = added.iter().map(|token| token.content.clone()).collect();
        let further = named
            .iter()
            .map(|(_, token)| token.clone())
            .chain(extra.unwrap_or(pieces))
            .filter(|token| !known.contains(&token.content));
        added.extend(further);
        let tokens = added.into_iter().map(|token| {
            let special = token.special || is_named(&token);
            Special { special, ..token }.into_added()
        });
        tokens.collect()
    }
}

fn has_tokens(value: &Value) -> bool {
    match value {
        Value::Array(tokens) => !tokens.is_empty(),
        Value::Object(tokens) => !tokens.is_empty(),
        _ => false,
    }
}

/// Special tokens as a list, or as an object that names them.
fn parse_all(value: &Value, path: &Path) -> Result<Vec<Special>> {
    match value {
        Value::Array(tokens) => tokens.iter().map(|token| special(token, path)).collect(),
        Value::Object(tokens) => tokens.values().map(|token| special(token, path)).collect(),
        _ => Err(bad(path, format!("{value} is no list of tokens"))),
    }
}

fn special(value: &Value, path: &Path) -> Result<Special> {
    Ok(Special { special: true, ..Special::parse(value, path)? })
}

/// Tokens as an object from ids, in the order of the ids.
fn added_by_id(value: &Value, path: &Path) -> Result<Vec<Special>> {
    let Value::Object(tokens) = value else {
        return Err(bad(path, format!("added_tokens_decoder is {value}")));
    };
    let mut tokens: Vec<(u64, Special)> = tokens
        .iter()
        .map(|(id, token)| match id.parse() {
            Ok(id) => Ok((id, Special::parse(token, path)?)),
            Err(_) => Err(bad(path, format!("added_tokens_decoder has the id {id:?}"))),
        })
        .collect::<Result<_>>()?;
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

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
    named: Vec<(&'static str, Option<Special>)>,
    /// Further ones, if any file names some.
    extra: Option<Vec<Special>>,
    /// As `extra`, but of less weight than a model's own.
    additional: Option<Vec<Special>>,
    /// Tokens added before all others, in the order of their ids.
    added: Vec<Special>,
}

/// A token as a file describes it.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Special {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Where absent, special tokens are not and others are.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
    /// Only its text was given.
    #[serde(skip)]
    plain: bool,
}

impl Special {
    fn new(content: &str) -> Special {
        let content = content.to_owned();
        let (single_word, lstrip, rstrip) = (false, false, false);
        let (normalized, special, plain) = (None, true, true);
        Special { content, single_word, lstrip, rstrip, normalized, special, plain }
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
        let defaults = family.special_tokens().iter();
        let mut settings = Settings {
            named: defaults.map(|(role, text)| (*role, Some(Special::new(text)))).collect(),
            extra: match options.get("extra_special_tokens") {
                Some(value) if has_tokens(value) => Some(parse_all(value, &path)?),
                _ => tokens_of(&options, "additional_special_tokens", &path)?,
            },
            additional: None,
            added: Vec::new(),
            options: Map::new(),
        };
        let mut known = settings.set_named(&options, &path)?;
        if let Some(tokens) = options.get("added_tokens_decoder") {
            settings.added = added_by_id(tokens, &path)?;
        } else {
            let path = folder.join(SPECIAL_TOKENS);
            let map: Map<String, Value> = files::json(&path)?.unwrap_or_default();
            known.extend(settings.set_named(&map, &path)?);
            if settings.extra.is_none() {
                settings.extra = tokens_of(&map, "extra_special_tokens", &path)?;
            }
            settings.additional = tokens_of(&map, "additional_special_tokens", &path)?;
            // The additional ones are not special to the last file.
            known.extend(settings.extra.iter().flatten().map(|token| token.content.clone()));
            settings.added = added_by_name(&folder.join(ADDED_TOKENS), &known)?;
        }
        settings.named.retain(|(_, token)| token.is_some());
        settings.named.sort_by_key(|(role, _)| NAMED.iter().position(|name| name == role));
        // Some kinds describe tokens of which a file gives the text alone.
        for (role, token) in &mut settings.named {
            let Some(token) = token.as_mut().filter(|token| token.plain) else { continue };
            match (family, *role) {
                // It takes the space before it.
                (Family::BigBird | Family::Camembert | Family::MpNet, "mask_token") => {
                    token.lstrip = true;
                }
                (Family::MpNet, _) => token.normalized = Some(true),
                _ => {}
            }
        }
        Ok(Settings { options, ..settings })
    }

    /// Takes over the special tokens that a file gives roles to; returns them.
    fn set_named(&mut self, file: &Map<String, Value>, path: &Path) -> Result<Vec<String>> {
        let mut known = Vec::new();
        for role in NAMED {
            let Some(value) = file.get(role) else { continue };
            let token = match value {
                Value::Null => None,
                value => Some(Special::parse(value, path)?),
            };
            known.extend(token.as_ref().map(|token| token.content.clone()));
            self.named.retain(|(name, _)| *name != role);
            self.named.push((role, token));
        }
        Ok(known)
    }

    /// A boolean setting.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.options.get(key).and_then(Value::as_bool)
    }

    /// The special token of this role; none where the settings say so.
    pub fn named(&self, role: &str) -> Option<&str> {
        let found = self.named.iter().find(|(name, _)| *name == role);
        found.and_then(|(_, token)| token.as_ref()).map(|token| token.content.as_str())
    }

    /// All tokens that are added to the vocabulary, in order; one that occurs again takes its last
    /// properties. `pieces` are those of a SentencePiece model.
    pub fn into_added(self, pieces: Option<Vec<Special>>) -> Vec<AddedToken> {
        let Settings { named, extra, additional, mut added, .. } = self;
        let named: Vec<Special> = named.into_iter().filter_map(|(_, token)| token).collect();
        let is_named = |token: &Special| named.iter().any(|n| n.content == token.content);
        let known: Vec<String> = added.iter().map(|token| token.content.clone()).collect();
        let further = named
            .iter()
            .cloned()
            .chain(extra.or(pieces).or(additional).unwrap_or_default())
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

fn tokens_of(file: &Map<String, Value>, key: &str, path: &Path) -> Result<Option<Vec<Special>>> {
    file.get(key).filter(|value| !value.is_null()).map(|value| parse_all(value, path)).transpose()
}

/// Special tokens as a list, or as an object that names them.
fn parse_all(value: &Value, path: &Path) -> Result<Vec<Special>> {
    let special = |token: &Value| Ok(Special { special: true, ..Special::parse(token, path)? });
    match value {
        Value::Array(tokens) => tokens.iter().map(special).collect(),
        Value::Object(tokens) => tokens.values().map(special).collect(),
        _ => Err(bad(path, format!("{value} is no list of tokens"))),
    }
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

/// Tokens as a file that gives them ids, in the order of the ids; special are those of `known`.
fn added_by_name(path: &Path, known: &[String]) -> Result<Vec<Special>> {
    let ids: Map<String, Value> = files::json(path)?.unwrap_or_default();
    let mut ids: Vec<(u64, String)> = ids
        .into_iter()
        .map(|(content, id)| match id.as_u64() {
            Some(id) => Ok((id, content)),
            None => Err(bad(path, format!("the id of `{content}` is {id}"))),
        })
        .collect::<Result<_>>()?;
    ids.sort();
    let tokens = ids.into_iter().map(|(_, content)| {
        let special = known.contains(&content);
        Special { normalized: Some(!special), special, ..Special::new(&content) }
    });
    Ok(tokens.collect())
}

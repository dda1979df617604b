//! Which kind of source a name means, and the parts of it. An existing path, or anything that
//! starts with `.` or `/`, is local; `pypi:` is a wheel; the rest is a hub id.
//!
//! Refuses names that could leave the folder or address they are put into.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use pep440_rs::Version;

use crate::Error;

/// A hub repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubId {
    pub repo: String,
    pub revision: String,
}

/// A package of a Python index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Normalised: lower case, runs of `-_.` as one `-`.
    pub name: String,
    pub version: Option<Version>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ModelName {
    Local(PathBuf),
    Hub(HubId),
    Wheel(Package),
}

impl ModelName {
    pub fn parse(name: &str) -> Result<Self, Error> {
        if is_local(name) {
            return Ok(Self::Local(name.into()));
        }
        let bad = |reason: String| Error::InvalidName { kind: "model", name: name.into(), reason };
        match name.strip_prefix("pypi:") {
            Some(package) => Package::parse(package).map(Self::Wheel).map_err(bad),
            None => HubId::parse(name).map(Self::Hub).map_err(bad),
        }
    }
}

pub(crate) fn is_local(name: &str) -> bool {
    name.starts_with(['.', '/']) || (!name.is_empty() && Path::new(name).exists())
}

impl HubId {
    /// `name`, `org/name`, either with `@revision`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = repo.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_plain(part)) {
            return Err("expected an existing folder, a hub id (NAME or ORG/NAME, optionally \
                        @REVISION), or pypi:PACKAGE[==VERSION]"
                .into());
        }
        if !revision.split('/').all(is_plain) {
            return Err(format!("{revision:?} is not a revision"));
        }
        Ok(Self { repo: repo.into(), revision: revision.into() })
    }

    /// A full commit never moves, so what is cached of it needs no question to the hub.
    pub fn is_pinned(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// The repository under this name and, where the hub has renamed it, under the other one.
    pub fn with_renames(&self) -> Vec<Self> {
        let other = RENAMED.iter().find_map(|&(old, new)| match self.repo.as_str() {
            name if name == old => Some(new),
            name if name == new => Some(old),
            _ => None,
        });
        let renamed = other.map(|repo| Self { repo: repo.into(), ..self.clone() });
        std::iter::once(self.clone()).chain(renamed).collect()
    }
}

/// Encoders whose old names the hub redirects; either may be the one in a cache.
const RENAMED: [(&str, &str); 16] = [
    ("albert-base-v2", "albert/albert-base-v2"),
    ("bert-base-cased", "google-bert/bert-base-cased"),
    ("bert-base-german-cased", "google-bert/bert-base-german-cased"),
    ("bert-base-multilingual-cased", "google-bert/bert-base-multilingual-cased"),
    ("bert-base-multilingual-uncased", "google-bert/bert-base-multilingual-uncased"),
    ("bert-base-uncased", "google-bert/bert-base-uncased"),
    ("bert-large-cased", "google-bert/bert-large-cased"),
    ("bert-large-uncased", "google-bert/bert-large-uncased"),
    ("distilbert-base-cased", "distilbert/distilbert-base-cased"),
    ("distilbert-base-uncased", "distilbert/distilbert-base-uncased"),
    ("distilroberta-base", "distilbert/distilroberta-base"),
    ("roberta-base", "FacebookAI/roberta-base"),
    ("roberta-large", "FacebookAI/roberta-large"),
    ("xlm-roberta-base", "FacebookAI/xlm-roberta-base"),
    ("xlm-roberta-large", "FacebookAI/xlm-roberta-large"),
    ("zlucia/custom-legalbert", "casehold/custom-legalbert"),
];

impl Package {
    /// `PACKAGE` or `PACKAGE==VERSION`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once("==") {
            Some((name, version)) => (name.trim(), Some(version.trim())),
            None => (text.trim(), None),
        };
        if !is_plain(name) {
            return Err("expected pypi:PACKAGE or pypi:PACKAGE==VERSION".into());
        }
        let version = match version {
            Some(text) => {
                Some(Version::from_str(text).map_err(|e| format!("{text:?} is no version: {e}"))?)
            }
            None => None,
        };
        Ok(Self { name: normalise(name), version })
    }
}

/// PEP 503: two spellings of one package compare equal after this.
pub(crate) fn normalise(package: &str) -> String {
    let words = package.split(['-', '_', '.']).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// One harmless path component: no separators, no leading dot or dash, nothing exotic.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_recognised() {
        let hub = |repo: &str, revision: &str| {
            ModelName::Hub(HubId { repo: repo.into(), revision: revision.into() })
        };
        let cases = [
            ("./x", ModelName::Local("./x".into())),
            ("/nowhere", ModelName::Local("/nowhere".into())),
            ("src", ModelName::Local("src".into())),
            ("roberta-base", hub("roberta-base", "main")),
            ("org/name@refs/pr/4", hub("org/name", "refs/pr/4")),
        ];
        for (name, expected) in cases {
            assert_eq!(ModelName::parse(name).expect(name), expected);
        }
        let ModelName::Wheel(package) = ModelName::parse("pypi:My_Model.X==1.0").expect("wheel")
        else {
            panic!("not a wheel")
        };
        assert_eq!(package.name, "my-model-x");
        assert_eq!(package.version, Some(Version::new([1, 0])));
    }

    #[test]
    fn names_that_could_escape_are_refused() {
        for name in [
            "",
            "a/b/c",
            "a/../b",
            "org/.hidden",
            "a b",
            "a@",
            "a@../x",
            "a@b//c",
            "-x",
            "a\0b",
            "pypi:",
            "pypi:../x",
            "pypi:x==not a version",
            "pypi:x>=1",
            "http://host/x",
        ] {
            let error = ModelName::parse(name).expect_err(name);
            assert!(matches!(error, Error::InvalidName { .. }), "{name:?}");
        }
    }

    #[test]
    fn renamed_repositories_are_known_under_both_names() {
        let names = |text: &str| -> Vec<String> {
            let id = HubId::parse(text).expect(text);
            id.with_renames().into_iter().map(|id| id.repo).collect()
        };
        assert_eq!(names("roberta-base"), ["roberta-base", "FacebookAI/roberta-base"]);
        assert_eq!(names("FacebookAI/roberta-base"), ["FacebookAI/roberta-base", "roberta-base"]);
        assert_eq!(names("org/other"), ["org/other"]);
    }
}

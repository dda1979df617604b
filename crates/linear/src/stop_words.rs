//! Words that are left out before n-grams are formed. The lists are data of other projects, kept
//! word for word in `stop_words/` with their source and licence.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Which words are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopWords {
    /// None.
    None,
    /// The 179 English ones of NLTK, which LexGLUE uses.
    #[default]
    Nltk,
    /// The 318 English ones of scikit-learn (`stop_words="english"`).
    ScikitLearn,
}

static NLTK: LazyLock<HashSet<&str>> = LazyLock::new(|| words(include_str!("stop_words/nltk.txt")));
static SCIKIT_LEARN: LazyLock<HashSet<&str>> =
    LazyLock::new(|| words(include_str!("stop_words/scikit_learn.txt")));

fn words(file: &'static str) -> HashSet<&'static str> {
    file.lines().filter(|line| !line.starts_with('#')).collect()
}

impl StopWords {
    /// Whether the lower-case `token` is left out.
    pub(crate) fn contain(self, token: &str) -> bool {
        match self {
            Self::None => false,
            Self::Nltk => NLTK.contains(token),
            Self::ScikitLearn => SCIKIT_LEARN.contains(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_whole() {
        assert_eq!((NLTK.len(), SCIKIT_LEARN.len()), (179, 318));
        assert!(StopWords::Nltk.contain("ain") && !StopWords::ScikitLearn.contain("ain"));
        assert!(!StopWords::Nltk.contain("amoungst") && StopWords::ScikitLearn.contain("amoungst"));
        assert!(!StopWords::None.contain("the"));
    }
}

//! A text as its tokens: lower-cased, then cut as by scikit-learn's pattern `(?u)\b\w\w+\b`, then
//! freed of stop words.
//!
//! The pattern takes every longest run of two or more word characters. A word character is what
//! Python's `re` takes for one: a letter or a number of any script (general categories L and N) or
//! the underscore. Combining marks are none, unlike in the `regex` crate, so that a Devanagari word
//! falls apart at its vowel signs here as it does there. Lower-casing is Unicode's full mapping with
//! the final sigma, as in Python. Both follow the Unicode version of their tables; characters that
//! are newer than one of them may be told apart differently.

use std::ops::Range;

use rayon::prelude::*;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::StopWords;

/// A lower-cased text and where its tokens are.
pub(crate) struct Document {
    text: String,
    tokens: Vec<Range<usize>>,
}

impl Document {
    pub(crate) fn new(text: &str, stop_words: StopWords) -> Self {
        let text = text.to_lowercase();
        let tokens = runs(&text).filter(|run| !stop_words.contain(&text[run.clone()])).collect();
        Self { text, tokens }
    }

    /// All texts, in order.
    pub(crate) fn all<T: AsRef<str> + Sync>(texts: &[T], stop_words: StopWords) -> Vec<Self> {
        texts.par_iter().map(|text| Self::new(text.as_ref(), stop_words)).collect()
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(|token| &self.text[token.clone()])
    }
}

/// The longest runs of word characters that have two of them or more.
fn runs(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut characters = text.char_indices();
    std::iter::from_fn(move || {
        loop {
            let (start, _) = characters.find(|&(_, c)| is_word(c))?;
            let mut length = 1;
            let end = loop {
                match characters.next() {
                    Some((_, c)) if is_word(c) => length += 1,
                    Some((end, _)) => break end,
                    None => break text.len(),
                }
            };
            if length >= 2 {
                return Some(start..end);
            }
        }
    })
}

/// Whether Python's `\w` matches.
fn is_word(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_alphanumeric() || character == '_';
    }
    let group = character.general_category_group();
    matches!(group, GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

/// A text as LexGLUE's baseline takes it, without its last word: Python's
/// `" ".join(text.split()[:-1])`, whose white space includes four separators more than ours.
#[must_use]
pub fn without_last_word(text: &str) -> String {
    let is_space = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
    let mut words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    words.pop();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// Characters that became caseless, or no longer skipped, after the Unicode version of the fixture.
    const RECLASSIFIED: [char; 2] = ['\u{295}', '\u{1171e}'];

    /// What Python says of every character that its Unicode tables know: as runs
    /// `[first, last]` of code points.
    #[derive(Deserialize)]
    struct Unicode {
        assigned: Vec<[u32; 2]>,
        word: Vec<[u32; 2]>,
        lower: Vec<(u32, String)>,
        sigma: Vec<Sigma>,
        texts: Vec<Text>,
    }

    /// The characters `x` for which the sigma of `before + x + after` becomes final.
    #[derive(Deserialize)]
    struct Sigma {
        before: String,
        after: String,
        is_final: Vec<[u32; 2]>,
    }

    #[derive(Deserialize)]
    struct Text {
        text: String,
        lower: String,
        tokens: Vec<String>,
    }

    fn python() -> Unicode {
        let json = include_str!("../tests/fixtures/unicode.json");
        serde_json::from_str(json).expect("the fixture is valid")
    }

    fn characters(runs: &[[u32; 2]]) -> impl Iterator<Item = char> {
        runs.iter().flat_map(|&[first, last]| first..=last).filter_map(char::from_u32)
    }

    fn is_in(runs: &[[u32; 2]], character: char) -> bool {
        let code = u32::from(character);
        let next = runs.partition_point(|&[first, _]| first <= code);
        next > 0 && code <= runs[next - 1][1]
    }

    #[test]
    fn word_characters_are_those_of_python() {
        let python = python();
        for character in characters(&python.assigned) {
            assert_eq!(is_word(character), is_in(&python.word, character), "{character:?}");
        }
    }

    #[test]
    fn every_character_is_lower_cased_as_by_python() {
        let python = python();
        let lower: std::collections::HashMap<u32, String> = python.lower.into_iter().collect();
        for character in characters(&python.assigned) {
            let found = character.to_string().to_lowercase();
            match lower.get(&u32::from(character)) {
                Some(expected) => assert_eq!(&found, expected, "{character:?}"),
                None => assert_eq!(found, character.to_string()),
            }
        }
    }

    #[test]
    fn a_sigma_is_final_beside_the_same_characters() {
        let python = python();
        assert_eq!(python.sigma.len(), 3);
        for Sigma { before, after, is_final } in &python.sigma {
            let compared = |&c: &char| !"Σς".contains(c) && !RECLASSIFIED.contains(&c);
            for character in characters(&python.assigned).filter(compared) {
                let text = format!("{before}{character}{after}");
                let found = text.to_lowercase().contains('ς');
                assert_eq!(found, is_in(is_final, character), "{text:?}");
            }
        }
    }

    #[test]
    fn texts_of_many_scripts_are_cut_as_by_scikit_learn() {
        for Text { text, lower, tokens } in python().texts {
            let document = Document::new(&text, StopWords::None);
            assert_eq!(document.text, lower);
            assert_eq!(document.tokens().collect::<Vec<_>>(), tokens, "{text:?}");
        }
    }

    #[test]
    fn stop_words_are_left_out_after_lower_casing() {
        let document = Document::new("The user SHALL not; I own it_all.", StopWords::Nltk);
        assert_eq!(document.tokens().collect::<Vec<_>>(), ["user", "shall", "it_all"]);
    }
}

//! Counting the n-grams of a training set, those that are too rare left out as early as possible.
//!
//! An n-gram occurs in no more texts than the two (n − 1)-grams that it consists of. So each length
//! is counted only where both survived the one before: the result is the same as if all n-grams
//! were counted and then cut by `min_df`, without ever holding the many that occur once.

use std::collections::HashMap;
use std::hash::Hash;

use crate::analyzer::Document;
use crate::{Error, Result, VectorizerConfig};

/// Most n-grams of one length, and most tokens of all n-grams that are kept.
const LIMIT: u32 = u32::MAX;

/// An n-gram that is frequent enough.
pub(crate) struct Term {
    /// Its tokens, a space between them.
    pub text: String,
    /// How many texts it occurs in.
    pub documents: usize,
    /// How often it occurs.
    pub occurrences: usize,
}

/// The n-grams that at least `min_df` of the documents hold, ascending by text.
pub(crate) fn count(documents: &[Document], config: &VectorizerConfig) -> Result<Vec<Term>> {
    let (shortest, longest) = config.ngram_range;
    let mut terms = Vec::new();
    let mut tokens = 0_usize;
    let mut grams = Grams::number(documents.iter().map(|document| document.tokens().map(Some)))?;
    for n in 1..=longest {
        if n > 1 {
            let pairs = |row: &'_ [Option<u32>]| -> Vec<Option<(u32, u32)>> {
                row.windows(2).map(|pair| Some((pair[0]?, pair[1]?))).collect()
            };
            grams = Grams::number(grams.rows.iter().map(|row| pairs(row)))?;
        }
        let tallies = grams.keep(config.min_df);
        if tallies.is_empty() {
            break;
        }
        // What indexes them is 32 bits wide.
        tokens = tokens.saturating_add(n.saturating_mul(tallies.len()));
        if tokens > LIMIT as usize {
            return Err(Error::TooManyTerms { limit: LIMIT });
        }
        if n >= shortest {
            terms.extend(tallies.into_iter().map(|tally| {
                let (document, position) = tally.first;
                let tokens: Vec<&str> =
                    documents[document].tokens().skip(position).take(n).collect();
                let text = tokens.join(" ");
                Term { text, documents: tally.documents, occurrences: tally.occurrences }
            }));
        }
    }
    if terms.is_empty() {
        return Err(Error::NoTerms { documents: documents.len(), min_df: config.min_df });
    }
    terms.sort_unstable_by(|a, b| a.text.cmp(&b.text));
    Ok(terms)
}

/// The n-grams of one length: of each document, by position, the number of the n-gram that starts
/// there, if that is not known to be too rare.
struct Grams {
    rows: Vec<Vec<Option<u32>>>,
    /// How many numbers were given.
    count: usize,
}

/// What was seen of one n-gram.
#[derive(Clone)]
struct Tally {
    documents: usize,
    occurrences: usize,
    /// Document and position of its first occurrence.
    first: (usize, usize),
    last_document: usize,
}

impl Grams {
    /// Numbers the keys of each document in the order of their first occurrence.
    fn number<K: Hash + Eq, R: IntoIterator<Item = Option<K>>>(
        documents: impl Iterator<Item = R>,
    ) -> Result<Self> {
        let mut numbers = HashMap::new();
        let mut rows = Vec::new();
        for document in documents {
            let mut row = Vec::new();
            for key in document {
                let next = u32::try_from(numbers.len());
                let next = next.map_err(|_| Error::TooManyTerms { limit: LIMIT })?;
                row.push(key.map(|key| *numbers.entry(key).or_insert(next)));
            }
            rows.push(row);
        }
        Ok(Self { rows, count: numbers.len() })
    }

    /// Forgets those that fewer than `min_df` documents hold and tallies the others.
    fn keep(&mut self, min_df: usize) -> Vec<Tally> {
        let mut tallies: Vec<Option<Tally>> = vec![None; self.count];
        for (document, row) in self.rows.iter().enumerate() {
            for (position, gram) in row.iter().enumerate() {
                let Some(gram) = *gram else { continue };
                let tally = tallies[gram as usize].get_or_insert(Tally {
                    documents: 1,
                    occurrences: 0,
                    first: (document, position),
                    last_document: document,
                });
                tally.occurrences += 1;
                if tally.last_document != document {
                    tally.documents += 1;
                    tally.last_document = document;
                }
            }
        }
        for tally in &mut tallies {
            tally.take_if(|tally| tally.documents < min_df);
        }
        for gram in self.rows.iter_mut().flatten() {
            gram.take_if(|gram| tallies[*gram as usize].is_none());
        }
        tallies.into_iter().flatten().collect()
    }
}

//! Texts to TF-IDF rows, as scikit-learn's `CountVectorizer` and `TfidfTransformer` make them.
//!
//! A row holds, for each n-gram of the vocabulary, how often it occurs times its inverse document
//! frequency ln((1 + texts) / (1 + texts that hold it)) + 1, and is then brought to length 1. The
//! vocabulary is ascending by text. Where `max_features` cuts through n-grams that occur equally
//! often, the first by text stay; scikit-learn leaves that to an unstable sort.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::analyzer::Document;
use crate::vocabulary::{self, Term};
use crate::{Error, Result, SparseRows, StopWords};

/// Which n-grams become features. The default is LexGLUE's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorizerConfig {
    /// Words that are left out before n-grams are formed.
    pub stop_words: StopWords,
    /// Shortest and longest n-gram, in tokens.
    pub ngram_range: (usize, usize),
    /// In how many training texts an n-gram must occur.
    pub min_df: usize,
    /// How many n-grams are kept at most, those that occur most often; all by default.
    pub max_features: Option<usize>,
}

impl Default for VectorizerConfig {
    fn default() -> Self {
        Self { stop_words: StopWords::Nltk, ngram_range: (1, 3), min_df: 5, max_features: None }
    }
}

impl VectorizerConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |name, value, limit| Err(Error::Setting { name, value, limit });
        let (shortest, longest) = self.ngram_range;
        if shortest < 1 || longest < shortest {
            let value = format!("{shortest} to {longest}");
            return refuse("ngram_range", value, "ascending, from 1 or more");
        }
        if self.min_df < 1 {
            return refuse("min_df", self.min_df.to_string(), "1 or more");
        }
        if self.max_features == Some(0) {
            return refuse("max_features", "0".into(), "1 or more");
        }
        Ok(())
    }
}

/// A vocabulary with its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectorizer {
    config: VectorizerConfig,
    /// Ascending.
    terms: Vec<String>,
    /// Inverse document frequency of each.
    idf: Vec<f64>,
    paths: Paths,
}

impl Vectorizer {
    /// Takes the vocabulary and its weights from `texts`.
    ///
    /// # Errors
    /// No texts, a setting out of range, no n-gram that is frequent enough.
    pub fn fit<T: AsRef<str> + Sync>(texts: &[T], config: &VectorizerConfig) -> Result<Self> {
        Ok(Self::fit_documents(texts, config)?.0)
    }

    /// As [`Vectorizer::fit`], with the analysed texts.
    pub(crate) fn fit_documents<T: AsRef<str> + Sync>(
        texts: &[T],
        config: &VectorizerConfig,
    ) -> Result<(Self, Vec<Document>)> {
        config.check()?;
        let documents = Document::all(texts, config.stop_words);
        let terms = vocabulary::count(&documents, config)?;
        Ok((Self::of_terms(&terms, documents.len(), config), documents))
    }

    /// The vocabulary that `max_features` leaves of `terms`, counted in so many `documents`.
    pub(crate) fn of_terms(terms: &[Term], documents: usize, config: &VectorizerConfig) -> Self {
        let limit = config.max_features.unwrap_or(terms.len());
        let mut kept: Vec<&Term> = terms.iter().collect();
        if limit < kept.len() {
            // Stable, so that the first by text of equals come first.
            kept.sort_by_key(|term| std::cmp::Reverse(term.occurrences));
            kept.truncate(limit);
            kept.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        }
        let idf = |term: &&Term| ((1 + documents) as f64 / (1 + term.documents) as f64).ln() + 1.0;
        let idf = kept.iter().map(idf).collect();
        Self::new(config.clone(), kept.into_iter().map(|term| term.text.clone()).collect(), idf)
    }

    /// Takes terms that are ascending, and one weight for each.
    pub(crate) fn new(config: VectorizerConfig, terms: Vec<String>, idf: Vec<f64>) -> Self {
        let paths = Paths::new(&terms);
        Self { config, terms, idf, paths }
    }

    /// How texts are cut.
    #[must_use]
    pub fn config(&self) -> &VectorizerConfig {
        &self.config
    }

    /// The n-gram of each feature, ascending by text.
    #[must_use]
    pub fn terms(&self) -> &[String] {
        &self.terms
    }

    /// The inverse document frequency of each feature.
    #[must_use]
    pub fn idf(&self) -> &[f64] {
        &self.idf
    }

    /// The rows `[texts, features]`, each of length 1, or empty for a text without any feature.
    #[must_use]
    pub fn transform<T: AsRef<str> + Sync>(&self, texts: &[T]) -> SparseRows {
        let row = |text: &T| self.row(&Document::new(text.as_ref(), self.config.stop_words));
        let rows: Vec<_> = texts.par_iter().map(row).collect();
        SparseRows::collect(self.terms.len(), &rows)
    }

    pub(crate) fn transform_documents(&self, documents: &[Document]) -> SparseRows {
        let rows: Vec<_> = documents.par_iter().map(|document| self.row(document)).collect();
        SparseRows::collect(self.terms.len(), &rows)
    }

    fn row(&self, document: &Document) -> Vec<(u32, f64)> {
        let mut found = self.paths.find(document);
        found.sort_unstable();
        let mut row: Vec<(u32, f64)> = found
            .chunk_by(|a, b| a == b)
            .map(|same| (same[0], same.len() as f64 * self.idf[same[0] as usize]))
            .collect();
        let length = row.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
        for (_, value) in &mut row {
            *value /= length;
        }
        row
    }
}

/// The vocabulary as a tree of tokens: a path from the root spells an n-gram.
#[derive(Debug, Clone, PartialEq)]
struct Paths {
    /// The number of each token that occurs in a term.
    tokens: HashMap<String, u32>,
    /// The node that a token leads to from a node.
    next: HashMap<(u32, u32), u32>,
    /// The term that ends at a node; the root is node 0.
    term: Vec<Option<u32>>,
}

impl Paths {
    fn new(terms: &[String]) -> Self {
        let mut paths = Self { tokens: HashMap::new(), next: HashMap::new(), term: vec![None] };
        for (number, term) in (0..).zip(terms) {
            let mut node = 0;
            for token in term.split(' ') {
                let fresh = paths.tokens.len() as u32;
                let token = *paths.tokens.entry(token.to_owned()).or_insert(fresh);
                let fresh = paths.term.len() as u32;
                node = *paths.next.entry((node, token)).or_insert(fresh);
                if node == fresh {
                    paths.term.push(None);
                }
            }
            paths.term[node as usize] = Some(number);
        }
        paths
    }

    /// Every occurrence of every term.
    fn find(&self, document: &Document) -> Vec<u32> {
        let tokens: Vec<Option<u32>> =
            document.tokens().map(|token| self.tokens.get(token).copied()).collect();
        let mut found = Vec::new();
        for start in 0..tokens.len() {
            let mut node = 0;
            for token in tokens[start..].iter().map_while(|token| *token) {
                let Some(&next) = self.next.get(&(node, token)) else { break };
                node = next;
                found.extend(self.term[node as usize]);
            }
        }
        found
    }
}

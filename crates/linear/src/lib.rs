//! Text classification without a network: TF-IDF features of word n-grams and linear support vector
//! machines, with the choices and the numbers of scikit-learn's `CountVectorizer`,
//! `TfidfTransformer`, `LinearSVC(dual=True)` and `OneVsRestClassifier`. It is the baseline that
//! LexGLUE sets beside its encoders (`models/tfidf_svm.py` in coastalcph/lex-glue).
//!
//! [`search()`] reads like the protocol: texts are analysed once, each vocabulary is weighted, every
//! combination of C and loss is fitted on the training rows, scored on the validation rows, and the
//! first of the best is returned with its model. [`Model`] is what remains: it fits, decides,
//! predicts, is saved and loaded. The number of threads changes no bit of any result.
//!
//! Refused, as an [`Error`]: rows without labels or labels without rows, classes without rows, an
//! empty vocabulary, settings out of range, files that are damaged or hold what no fit writes.
#![forbid(unsafe_code)]

mod analyzer;
mod classifier;
mod error;
mod file;
mod labels;
mod model;
mod rows;
mod search;
mod solver;
mod stop_words;
mod vectorizer;
mod vocabulary;

pub use analyzer::without_last_word;
pub use classifier::{ClassWeight, LinearClassifier, SvmConfig};
pub use error::{Error, Result};
pub use labels::{Labels, Task, exact_match};
pub use model::Model;
pub use rows::SparseRows;
pub use search::{Candidate, Grid, Search, Split, search};
pub use solver::{Loss, Solve};
pub use stop_words::StopWords;
pub use vectorizer::{Vectorizer, VectorizerConfig};

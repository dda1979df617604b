//! From a text to its labels: a vocabulary and the machines over its features.

use std::path::Path;

use crate::{
    Labels, LinearClassifier, Result, Solve, SvmConfig, Task, Vectorizer, VectorizerConfig, file,
};

/// A fitted classifier of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    vectorizer: Vectorizer,
    classifier: LinearClassifier,
}

impl Model {
    /// Fits a vocabulary and the machines, and tells how far each machine was optimised.
    ///
    /// # Errors
    /// Texts and labels differ in number, invalid labels, a class without rows, an empty
    /// vocabulary, a setting out of range.
    pub fn fit<T: AsRef<str> + Sync>(
        texts: &[T],
        labels: &Labels,
        vectorizer: &VectorizerConfig,
        svm: &SvmConfig,
    ) -> Result<(Self, Vec<Solve>)> {
        labels.check_count(texts.len())?;
        svm.check(labels.task()?)?;
        let (vectorizer, documents) = Vectorizer::fit_documents(texts, vectorizer)?;
        let rows = vectorizer.transform_documents(&documents);
        let (classifier, solves) = LinearClassifier::fit(&rows, labels, svm)?;
        Ok((Self { vectorizer, classifier }, solves))
    }

    /// Takes machines over the features of a vocabulary.
    pub(crate) fn new(vectorizer: Vectorizer, classifier: LinearClassifier) -> Self {
        Self { vectorizer, classifier }
    }

    /// The vocabulary.
    #[must_use]
    pub fn vectorizer(&self) -> &Vectorizer {
        &self.vectorizer
    }

    /// The machines.
    #[must_use]
    pub fn classifier(&self) -> &LinearClassifier {
        &self.classifier
    }

    /// What it tells of a text.
    #[must_use]
    pub fn task(&self) -> Task {
        self.classifier.task()
    }

    /// The decision values of each text, `[texts, outputs]`, row-major; see
    /// [`LinearClassifier::decision_values`].
    #[must_use]
    pub fn decision_values<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<f64> {
        self.classifier.decide(&self.vectorizer.transform(texts))
    }

    /// The labels or the class of each text.
    #[must_use]
    pub fn predict<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Labels {
        self.task().decide(&self.decision_values(texts))
    }

    /// Writes the model as one safetensors file, in one atomic step.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn save(&self, path: &Path) -> Result<()> {
        file::save(self, path)
    }

    /// Reads a model that [`Model::save`] wrote.
    ///
    /// # Errors
    /// A file that cannot be read, is too large, damaged, or holds what no fit writes.
    pub fn load(path: &Path) -> Result<Self> {
        file::load(path)
    }
}

//! An encoder without a head: a vector per text, the mean of its tokens' last vectors, as Sentence
//! Transformers pools them. It shows that an encoder is whole, without a head that was made for that.
//!
//! Longformer's first token sees everything here, too; Transformers' bare encoder gives no token that
//! right.

use crate::Error;
use crate::backend::Backend;
use crate::builder::Builder;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::encoder::{Encoder, Pooling};
use crate::lora::Method;
use crate::parameters::Parameters;
use crate::pass::Batch;
use std::path::Path;

/// A network that maps token ids to a vector per sequence.
#[derive(Debug)]
pub struct SentenceEncoder<B: Backend> {
    encoder: Encoder<B>,
    parameters: Parameters<B>,
}

impl<B: Backend> SentenceEncoder<B> {
    /// Loads the encoder of a model folder.
    ///
    /// # Errors
    /// A file is missing or damaged, or the architecture unknown.
    pub fn load(backend: &B, folder: &Path) -> Result<Self, Error> {
        let (config, checkpoint) = (Config::read(folder)?, Checkpoint::open(folder)?);
        let mut builder = Builder::new(backend, &checkpoint, config.family, &Method::Full, 0);
        builder.pooling = Pooling::Mean;
        let mut encoder = config.architecture.encoder(&mut builder)?;
        encoder.pooling = Pooling::Mean;
        Ok(SentenceEncoder { encoder, parameters: builder.parameters })
    }

    /// The mean [B, H] of each sequence's last vectors, not scaled to a length.
    pub fn embed(&self, backend: &B, batch: &Batch<B>) -> Vec<f32> {
        backend.download(&self.encoder.predict(backend, &self.parameters, batch))
    }
}

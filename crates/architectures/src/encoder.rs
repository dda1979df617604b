//! Embeddings, layers and pooling: forward, and backward down to the lowest trained layer.

use crate::backend::Backend;
use crate::embeddings::{Embeddings, EmbeddingsSaved};
use crate::encoder_layer::{EncoderLayer, EncoderLayerSaved};
use crate::layer::{Keep, Layer};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};

/// What the head reads of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Its first token's vector, the only one that the last layer computes.
    First,
    /// The mean of all vectors.
    Mean,
}

/// From token ids to a vector of each sequence.
#[derive(Debug)]
pub(crate) struct Encoder<B: Backend> {
    pub(crate) embeddings: Embeddings<B>,
    /// In the order of use. Layers may share weights; gradients of a shared weight add up.
    pub(crate) layers: Vec<EncoderLayer<B>>,
    /// Behind the last layer, where layers normalise their inputs.
    pub(crate) final_norm: Option<LayerNorm<B>>,
    pub(crate) pooling: Pooling,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct EncoderSaved<B: Backend> {
    /// Where the embeddings are trained.
    embeddings: Option<EmbeddingsSaved<B>>,
    layers: Vec<Kept<B>>,
    final_norm: Option<NormSaved<B>>,
}

/// What forward keeps of a layer.
#[derive(Debug)]
enum Kept<B: Backend> {
    /// Backward does not come here.
    Nothing,
    /// Its input [T, H]; backward computes the rest again (Chen et al. 2016).
    Input(B::Matrix),
    Everything(EncoderLayerSaved<B>),
}

impl<B: Backend> Encoder<B> {
    /// Of layers that normalise their results; the head reads the first token.
    pub(crate) fn post_norm(embeddings: Embeddings<B>, layers: Vec<Layer<B>>) -> Encoder<B> {
        let layers =
            layers.into_iter().map(|layer| EncoderLayer::PostNorm(Box::new(layer))).collect();
        Encoder { embeddings, layers, final_norm: None, pooling: Pooling::First }
    }

    /// The lowest layer that backward comes to.
    fn lowest_trained(&self) -> usize {
        match self.embeddings.is_trained() {
            true => 0,
            false => {
                self.layers.iter().position(EncoderLayer::is_trained).unwrap_or(self.layers.len())
            }
        }
    }

    /// → [B, H], and what backward needs.
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        gradient_checkpointing: bool,
    ) -> (B::Matrix, EncoderSaved<B>) {
        let (mut x, embeddings) = self.embeddings.forward(backend, parameters, pass, batch);
        let embeddings = self.embeddings.is_trained().then_some(embeddings);
        let lowest = self.lowest_trained();
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let keep = if index < lowest || gradient_checkpointing {
                Keep::Input
            } else {
                Keep::Everything
            };
            let (y, saved) = layer.forward(backend, parameters, pass, batch, x, keep);
            layers.push(match keep {
                Keep::Everything => Kept::Everything(saved),
                Keep::Input if index < lowest => Kept::Nothing,
                Keep::Input => Kept::Input(saved.into_input()),
            });
            x = y;
        }
        let (x, final_norm) = self.pool(backend, parameters, batch, x);
        (x, EncoderSaved { embeddings, layers, final_norm })
    }

    /// `x` of all tokens, or of first tokens → [B, H]
    fn pool(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        batch: &Batch<B>,
        x: B::Matrix,
    ) -> (B::Matrix, Option<NormSaved<B>>) {
        let (x, saved) = match &self.final_norm {
            None => (x, None),
            Some(norm) => {
                let (y, saved) = norm.forward(backend, parameters, x, None, None);
                (y, Some(saved))
            }
        };
        match self.pooling {
            Pooling::First => (x, saved),
            Pooling::Mean => (backend.mean_rows(&x, &batch.cu_seqlens), saved),
        }
    }

    /// → [B, H] alone, keeping nothing.
    pub(crate) fn predict(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        batch: &Batch<B>,
    ) -> B::Matrix {
        let pass = &Pass::evaluation();
        let (mut x, _) = self.embeddings.forward(backend, parameters, pass, batch);
        for layer in &self.layers {
            x = layer.forward(backend, parameters, pass, batch, x, Keep::Input).0;
        }
        self.pool(backend, parameters, batch, x).0
    }

    /// From `dx` [B, H] to the gradients of everything trained.
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        saved: EncoderSaved<B>,
        mut dx: B::Matrix,
    ) {
        let lowest = self.lowest_trained();
        let EncoderSaved { embeddings, layers: mut saved_layers, final_norm } = saved;
        if self.pooling == Pooling::Mean {
            dx = backend.mean_rows_backward(&dx, &batch.cu_seqlens, batch.tokens);
        }
        if let Some((norm, saved)) = self.final_norm.as_ref().zip(final_norm) {
            norm.backward(backend, parameters, &saved, None, &mut dx);
        }
        for (index, layer) in self.layers.iter().enumerate().skip(lowest).rev() {
            let saved = match saved_layers.pop().expect("one per layer") {
                Kept::Everything(saved) => saved,
                Kept::Input(x) => {
                    layer.forward(backend, parameters, pass, batch, x, Keep::Everything).1
                }
                Kept::Nothing => unreachable!("forward keeps what backward comes to"),
            };
            let needs_dx = index > lowest || embeddings.is_some();
            let below = layer.backward(backend, parameters, pass, batch, saved, dx, needs_dx);
            match below {
                Some(below) => dx = below,
                None => return,
            }
        }
        if let Some(embeddings) = embeddings {
            self.embeddings.backward(backend, parameters, pass, batch, &embeddings, dx);
        }
    }
}

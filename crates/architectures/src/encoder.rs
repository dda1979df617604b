//! Embeddings and layers: forward, and backward down to the lowest trained layer.

use crate::backend::Backend;
use crate::embeddings::{Embeddings, EmbeddingsSaved};
use crate::layer::{Keep, Layer, LayerSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};

/// From token ids to the vector of each sequence's first token.
#[derive(Debug)]
pub(crate) struct Encoder<B: Backend> {
    pub(crate) embeddings: Embeddings<B>,
    /// In the order of use. Layers may share weights; gradients of a shared weight add up.
    pub(crate) layers: Vec<Layer<B>>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct EncoderSaved<B: Backend> {
    /// Where the embeddings are trained.
    embeddings: Option<EmbeddingsSaved<B>>,
    layers: Vec<Kept<B>>,
}

/// What forward keeps of a layer.
#[derive(Debug)]
enum Kept<B: Backend> {
    /// Backward does not come here.
    Nothing,
    /// Its input [T, H]; backward computes the rest again (Chen et al. 2016).
    Input(B::Matrix),
    Everything(LayerSaved<B>),
}

impl<B: Backend> Encoder<B> {
    /// The lowest layer that backward comes to.
    fn lowest_trained(&self) -> usize {
        match self.embeddings.is_trained() {
            true => 0,
            false => self.layers.iter().position(Layer::is_trained).unwrap_or(self.layers.len()),
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
        (x, EncoderSaved { embeddings, layers })
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
        x
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
        let EncoderSaved { embeddings, layers: mut saved_layers } = saved;
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

//! The kinds of layers that encoders are made of.

use crate::backend::Backend;
use crate::convolved::{ConvolvedLayer, ConvolvedSaved};
use crate::layer::{Keep, Layer, LayerSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};
use crate::pre_norm::{PreNormLayer, PreNormSaved};

/// A layer; several may share weights.
#[derive(Debug)]
pub(crate) enum EncoderLayer<B: Backend> {
    /// Normalises its results, as BERT's.
    PostNorm(Box<Layer<B>>),
    /// Normalises its inputs, as ModernBERT's.
    PreNorm(Box<PreNormLayer<B>>),
    /// The first kind with a convolution beside it, as the first layer of DeBERTa's second version.
    Convolved(Box<ConvolvedLayer<B>>),
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) enum EncoderLayerSaved<B: Backend> {
    PostNorm(LayerSaved<B>),
    PreNorm(PreNormSaved<B>),
    Convolved(ConvolvedSaved<B>),
}

impl<B: Backend> EncoderLayerSaved<B> {
    /// The layer's input [T, H], from which all the rest can be computed again.
    pub(crate) fn into_input(self) -> B::Matrix {
        match self {
            EncoderLayerSaved::PostNorm(saved) => saved.into_input(),
            EncoderLayerSaved::PreNorm(saved) => saved.into_input(),
            EncoderLayerSaved::Convolved(saved) => saved.into_input(),
        }
    }
}

impl<B: Backend> EncoderLayer<B> {
    /// Whether anything in this layer is trained.
    pub(crate) fn is_trained(&self) -> bool {
        match self {
            EncoderLayer::PostNorm(layer) => layer.is_trained(),
            EncoderLayer::PreNorm(layer) => layer.is_trained(),
            EncoderLayer::Convolved(layer) => layer.is_trained(),
        }
    }

    /// `x` [T, H] → [Q, H], and what backward needs if it comes here.
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        x: B::Matrix,
        keep: Keep,
    ) -> (B::Matrix, EncoderLayerSaved<B>) {
        match self {
            EncoderLayer::PostNorm(layer) => {
                let (y, saved) = layer.forward(backend, parameters, pass, batch, x, keep);
                (y, EncoderLayerSaved::PostNorm(saved))
            }
            EncoderLayer::PreNorm(layer) => {
                let (y, saved) = layer.forward(backend, parameters, pass, batch, x);
                (y, EncoderLayerSaved::PreNorm(saved))
            }
            EncoderLayer::Convolved(layer) => {
                let (y, saved) = layer.forward(backend, parameters, pass, batch, x, keep);
                (y, EncoderLayerSaved::Convolved(saved))
            }
        }
    }

    /// `dout` [Q, H] → the gradient of `x` [T, H], unless nothing below is trained.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        saved: EncoderLayerSaved<B>,
        dout: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        match (self, saved) {
            (EncoderLayer::PostNorm(layer), EncoderLayerSaved::PostNorm(saved)) => {
                layer.backward(backend, parameters, pass, batch, saved, dout, needs_dx)
            }
            (EncoderLayer::PreNorm(layer), EncoderLayerSaved::PreNorm(saved)) => {
                layer.backward(backend, parameters, pass, batch, saved, dout, needs_dx)
            }
            (EncoderLayer::Convolved(layer), EncoderLayerSaved::Convolved(saved)) => {
                layer.backward(backend, parameters, pass, batch, saved, dout, needs_dx)
            }
            _ => unreachable!("a layer's own forward left it"),
        }
    }
}

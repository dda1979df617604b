//! The classification head on what was pooled: dense, activation, dropout, projection to the labels.
//! BERT calls the dense layer its pooler; RoBERTa drops out its input as well; ModernBERT has a
//! LayerNorm behind the activation.

use crate::Error;
use crate::backend::{Backend, Shape};
use crate::builder::{Bias, Builder, HeadLinear};
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Pass, Site};
use kernels::Activation;

/// What a family's head is made of.
#[derive(Debug)]
pub(crate) struct HeadLayers {
    /// Name of the dense layer.
    pub(crate) dense: &'static str,
    /// Name of the layer that gives the logits.
    pub(crate) projection: &'static str,
    /// H.
    pub(crate) hidden: usize,
    /// Behind the dense layer.
    pub(crate) activation: Activation,
    /// Dropout on the dense layer's input, where the family has it.
    pub(crate) input_dropout: f32,
    /// Dropout on the projection's input.
    pub(crate) dropout: f32,
    /// Standard deviation of new weights.
    pub(crate) initializer_range: f32,
}

#[derive(Debug)]
pub(crate) struct Head<B: Backend> {
    dense: Linear<B>,
    norm: Option<LayerNorm<B>>,
    projection: Linear<B>,
    activation: Activation,
    input_dropout: f32,
    dropout: f32,
    /// Dropout before and behind the dense layer.
    sites: [Site; 2],
}

/// What a head with a norm behind its activation is made of.
#[derive(Debug)]
pub(crate) struct NormedHead<B: Backend> {
    pub(crate) dense: Linear<B>,
    pub(crate) activation: Activation,
    pub(crate) norm: LayerNorm<B>,
    /// Dropout on the projection's input.
    pub(crate) dropout: f32,
    pub(crate) projection: Linear<B>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct HeadSaved<B: Backend> {
    x: B::Matrix,     // [B, H], behind its dropout
    slope: B::Matrix, // [B, H], the activation's
    norm: Option<NormSaved<B>>,
    hidden: B::Matrix, // [B, H], behind the second dropout
    dense: LinearSaved<B>,
    projection: LinearSaved<B>,
}

impl<B: Backend> Head<B> {
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        layers: HeadLayers,
        labels: usize,
    ) -> Result<Head<B>, Error> {
        let HeadLayers { hidden, activation, input_dropout, dropout, .. } = layers;
        let mut linear = |name, out, last| {
            let deviation = layers.initializer_range;
            let bias = Bias::Yes;
            builder.head_linear(HeadLinear { name, out, input: hidden, bias, deviation, last })
        };
        Ok(Head {
            dense: linear(layers.dense, hidden, false)?,
            norm: None,
            projection: linear(layers.projection, labels, true)?,
            activation,
            input_dropout,
            dropout,
            sites: [builder.site(true), builder.site(true)],
        })
    }

    pub(crate) fn normed(builder: &mut Builder<'_, B>, layers: NormedHead<B>) -> Head<B> {
        let NormedHead { dense, activation, norm, dropout, projection } = layers;
        let sites = [builder.site(true), builder.site(true)];
        let (norm, input_dropout) = (Some(norm), 0.0);
        Head { dense, norm, projection, activation, input_dropout, dropout, sites }
    }

    /// `x` [B, H] → logits [B, C]
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        x: B::Matrix,
    ) -> (B::Matrix, HeadSaved<B>) {
        let x = match pass.dropout(self.input_dropout, self.sites[0]) {
            Some(dropout) => backend.dropout(&x, dropout),
            None => x,
        };
        let (mut hidden, dense) = self.dense.forward(backend, parameters, pass, &x);
        let mut slope = backend.matrix(hidden.rows(), hidden.columns());
        backend.activate(self.activation, &mut hidden, Some(&mut slope));
        let mut saved_norm = None;
        if let Some(norm) = &self.norm {
            let (normalised, saved) = norm.forward(backend, parameters, hidden, None, None);
            (hidden, saved_norm) = (normalised, Some(saved));
        }
        if let Some(dropout) = pass.dropout(self.dropout, self.sites[1]) {
            hidden = backend.dropout(&hidden, dropout);
        }
        let (logits, projection) = self.projection.forward(backend, parameters, pass, &hidden);
        (logits, HeadSaved { x, slope, norm: saved_norm, hidden, dense, projection })
    }

    /// `dlogits` [B, C] → the gradient of `x` [B, H]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        saved: HeadSaved<B>,
        dlogits: &B::Matrix,
    ) -> B::Matrix {
        let HeadSaved { x, slope, norm, hidden, dense, projection } = saved;
        let mut dhidden = backend.matrix(hidden.rows(), hidden.columns());
        let to_hidden = Some(InputGradient::to(&mut dhidden));
        let hidden = Some(&hidden);
        self.projection.backward(
            backend,
            parameters,
            pass,
            hidden,
            &projection,
            dlogits,
            to_hidden,
        );
        if let Some(dropout) = pass.dropout(self.dropout, self.sites[1]) {
            dhidden = backend.dropout(&dhidden, dropout);
        }
        if let Some((layer, saved)) = self.norm.as_ref().zip(norm) {
            layer.backward(backend, parameters, &saved, None, &mut dhidden);
        }
        backend.multiply(&mut dhidden, &slope);
        let mut dx = backend.matrix(x.rows(), x.columns());
        let to_x = Some(InputGradient::to(&mut dx));
        self.dense.backward(backend, parameters, pass, Some(&x), &dense, &dhidden, to_x);
        match pass.dropout(self.input_dropout, self.sites[0]) {
            Some(dropout) => backend.dropout(&dx, dropout),
            None => dx,
        }
    }
}

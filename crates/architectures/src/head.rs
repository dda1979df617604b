//! The classification head on the first token: dense, activation, dropout, projection to the labels.
//! BERT calls the dense layer its pooler; RoBERTa drops out its input as well.

use crate::Error;
use crate::backend::{Backend, Shape};
use crate::builder::Builder;
use crate::linear::{InputGradient, Linear, LinearSaved};
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
    projection: Linear<B>,
    activation: Activation,
    input_dropout: f32,
    dropout: f32,
    /// Dropout before and behind the dense layer.
    sites: [Site; 2],
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct HeadSaved<B: Backend> {
    x: B::Matrix,      // [B, H], behind its dropout
    slope: B::Matrix,  // [B, H], the activation's
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
        let deviation = layers.initializer_range;
        Ok(Head {
            dense: builder.head_linear(layers.dense, [hidden, hidden], deviation, false)?,
            projection: builder.head_linear(
                layers.projection,
                [labels, hidden],
                deviation,
                true,
            )?,
            activation,
            input_dropout,
            dropout,
            sites: [builder.site(true), builder.site(true)],
        })
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
        if let Some(dropout) = pass.dropout(self.dropout, self.sites[1]) {
            hidden = backend.dropout(&hidden, dropout);
        }
        let (logits, projection) = self.projection.forward(backend, parameters, pass, &hidden);
        (logits, HeadSaved { x, slope, hidden, dense, projection })
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
        let HeadSaved { x, slope, hidden, dense, projection } = saved;
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

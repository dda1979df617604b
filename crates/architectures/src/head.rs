//! The classification head on the first token: dense, tanh, dropout, projection to the labels.
//! BERT calls the dense layer its pooler; RoBERTa drops out its input as well.

use crate::backend::Backend;
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::parameters::Parameters;
use crate::pass::{Pass, Site};

#[derive(Debug)]
pub(crate) struct Head<B: Backend> {
    pub(crate) dense: Linear<B>,
    pub(crate) projection: Linear<B>,
    /// Dropout on the dense layer's input, where the family has it.
    pub(crate) input_dropout: f32,
    /// Dropout on the projection's input.
    pub(crate) dropout: f32,
    /// Dropout before and behind the dense layer.
    pub(crate) sites: [Site; 2],
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct HeadSaved<B: Backend> {
    x: B::Matrix,      // [B, H], behind its dropout
    pooled: B::Matrix, // [B, H], tanh's output
    hidden: B::Matrix, // [B, H], behind the second dropout
    dense: LinearSaved<B>,
    projection: LinearSaved<B>,
}

impl<B: Backend> Head<B> {
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
        let (mut pooled, dense) = self.dense.forward(backend, parameters, pass, &x);
        backend.tanh(&mut pooled);
        let hidden = match pass.dropout(self.dropout, self.sites[1]) {
            Some(dropout) => backend.dropout(&pooled, dropout),
            None => backend.copy(&pooled),
        };
        let (logits, projection) = self.projection.forward(backend, parameters, pass, &hidden);
        (logits, HeadSaved { x, pooled, hidden, dense, projection })
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
        let HeadSaved { x, pooled, hidden, dense, projection } = saved;
        let mut dhidden = backend.copy(&hidden);
        let to_hidden = Some(InputGradient::to(&mut dhidden));
        self.projection.backward(
            backend,
            parameters,
            pass,
            Some(&hidden),
            &projection,
            dlogits,
            to_hidden,
        );
        if let Some(dropout) = pass.dropout(self.dropout, self.sites[1]) {
            dhidden = backend.dropout(&dhidden, dropout);
        }
        backend.tanh_backward(&pooled, &mut dhidden);
        let mut dx = backend.copy(&x);
        let to_x = Some(InputGradient::to(&mut dx));
        self.dense.backward(backend, parameters, pass, Some(&x), &dense, &dhidden, to_x);
        match pass.dropout(self.input_dropout, self.sites[0]) {
            Some(dropout) => backend.dropout(&dx, dropout),
            None => dx,
        }
    }
}

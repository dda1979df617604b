//! LayerNorm with its residual and dropout, frozen or trained.

use crate::backend::{Backend, Norm};
use crate::linear::Tensor;
use crate::parameters::Parameters;
use kernels::Dropout;

/// Scale and, where there is one, shift, [1, H] each.
#[derive(Debug)]
pub(crate) struct LayerNorm<B: Backend> {
    pub(crate) weight: Tensor<B>,
    pub(crate) bias: Option<Tensor<B>>,
    pub(crate) eps: f32,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct NormSaved<B: Backend> {
    /// dropout(x) + residual [T, H].
    sum: B::Matrix,
    /// Mean and 1/√(var + ε) of each row [T, 2].
    statistics: B::Matrix,
}

impl<B: Backend> NormSaved<B> {
    /// What was normalised [T, H].
    pub(crate) fn sum(&self) -> &B::Matrix {
        &self.sum
    }

    /// What was normalised [T, H].
    pub(crate) fn into_sum(self) -> B::Matrix {
        self.sum
    }
}

impl<B: Backend> LayerNorm<B> {
    /// LayerNorm(dropout(x) + residual).
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        mut x: B::Matrix,
        residual: Option<&B::Matrix>,
        dropout: Option<Dropout>,
    ) -> (B::Matrix, NormSaved<B>) {
        let norm = Norm {
            weight: self.weight.value(parameters),
            bias: self.bias.as_ref().map(|bias| bias.value(parameters)),
            eps: self.eps,
        };
        let (y, statistics) = backend.layer_norm(&mut x, residual, dropout, norm);
        (y, NormSaved { sum: x, statistics })
    }

    /// `dy` becomes the residual's gradient; the branch's is returned where dropout makes it differ.
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        saved: &NormSaved<B>,
        dropout: Option<Dropout>,
        dy: &mut B::Matrix,
    ) -> Option<B::Matrix> {
        let NormSaved { sum, statistics } = saved;
        if let Some(weight) = self.weight.trained() {
            let bias = self.bias.as_ref().and_then(Tensor::trained);
            let (dweight, dbias) = parameters.gradient_and_another(weight, bias);
            backend.layer_norm_parameter_gradients(sum, statistics, dy, dweight, dbias);
        }
        let weight = self.weight.value(parameters);
        backend.layer_norm_backward(sum, statistics, weight, dropout, dy)
    }
}

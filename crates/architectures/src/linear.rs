//! A linear layer, frozen or trained, with or without a LoRA adapter; forward and backward.

use crate::backend::{Backend, Product, Shape};
use crate::parameters::{ParameterId, Parameters};
use crate::pass::{Pass, Site};
use kernels::{Dropout, Precision};

/// A frozen tensor or the id of a trained one.
#[derive(Debug)]
pub(crate) enum Tensor<B: Backend> {
    Frozen(B::Matrix),
    Trained(ParameterId),
}

impl<B: Backend> Tensor<B> {
    pub(crate) fn value<'a>(&'a self, parameters: &'a Parameters<B>) -> &'a B::Matrix {
        match self {
            Tensor::Frozen(matrix) => matrix,
            Tensor::Trained(id) => parameters.value(*id),
        }
    }

    pub(crate) fn trained(&self) -> Option<ParameterId> {
        match self {
            Tensor::Frozen(_) => None,
            Tensor::Trained(id) => Some(*id),
        }
    }
}

/// A weight [out, in].
#[derive(Debug)]
pub(crate) enum Weight<B: Backend> {
    /// Packed for `x·Wᵀ` and for `dy·W`.
    Frozen(B::Packed),
    /// Packed anew for each product.
    Trained { id: ParameterId, precision: Precision },
}

/// The thin products beside a weight.
#[derive(Debug)]
pub(crate) struct Lora {
    /// A [r, in].
    pub(crate) a: ParameterId,
    /// B [out, r].
    pub(crate) b: ParameterId,
    pub(crate) scale: f32,
    pub(crate) dropout: f32,
    pub(crate) site: Site,
}

/// `y = x·Wᵀ + b (+ s·dropout(x)·Aᵀ·Bᵀ)`.
#[derive(Debug)]
pub(crate) struct Linear<B: Backend> {
    pub(crate) weight: Weight<B>,
    pub(crate) bias: Tensor<B>,
    pub(crate) lora: Option<Lora>,
    pub(crate) out: usize,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct LinearSaved<B: Backend> {
    /// dropout(x)·Aᵀ [T, r], with an adapter.
    z: Option<B::Matrix>,
}

impl<B: Backend> Linear<B> {
    /// Whether backward reads the layer's input.
    pub(crate) fn needs_input(&self) -> bool {
        self.lora.is_some() || matches!(self.weight, Weight::Trained { .. })
    }

    /// `x` [T, in] → [T, out].
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        x: &B::Matrix,
    ) -> (B::Matrix, LinearSaved<B>) {
        let mut y = backend.matrix(x.rows(), self.out);
        let bias = self.bias.value(parameters);
        match &self.weight {
            Weight::Frozen(weight) => {
                backend.packed_product(x, weight, true, Some(bias), false, &mut y);
            }
            Weight::Trained { id, precision } => {
                let w = parameters.value(*id);
                product(backend, (x, false), (w, true), 1.0, false, *precision, &mut y);
                backend.add_bias(&mut y, bias);
            }
        }
        let z = self.lora.as_ref().map(|lora| {
            let precision = backend.precision();
            let a = parameters.value(lora.a);
            let mut z = backend.matrix(x.rows(), a.rows()); // [T, r]
            let dropped = lora.dropout(pass).map(|dropout| backend.dropout(x, dropout));
            let input = dropped.as_ref().unwrap_or(x);
            product(backend, (input, false), (a, true), 1.0, false, precision, &mut z);
            let b = parameters.value(lora.b);
            product(backend, (&z, false), (b, true), lora.scale, true, precision, &mut y);
            z
        });
        (y, LinearSaved { z })
    }

    /// Adds the gradients of what is trained; where `dx` is given, the input's gradient is written
    /// to it, or added when `accumulate`.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        x: &B::Matrix,
        saved: &LinearSaved<B>,
        dy: &B::Matrix,
        mut dx: Option<(&mut B::Matrix, bool)>,
    ) {
        if let Some(id) = self.bias.trained() {
            backend.sum_rows(dy, parameters.gradient(id));
        }
        match &self.weight {
            Weight::Frozen(weight) => {
                if let Some((dx, accumulate)) = &mut dx {
                    backend.packed_product(dy, weight, false, None, *accumulate, dx);
                }
            }
            Weight::Trained { id, precision } => {
                let (w, dw) = parameters.value_and_gradient(*id);
                if let Some((dx, accumulate)) = &mut dx {
                    product(backend, (dy, false), (w, false), 1.0, *accumulate, *precision, dx);
                }
                product(backend, (dy, true), (x, false), 1.0, true, *precision, dw);
            }
        }
        let (Some(lora), Some(z)) = (&self.lora, &saved.z) else { return };
        let (scale, precision) = (lora.scale, backend.precision());
        let (b, db) = parameters.value_and_gradient(lora.b);
        let mut dz = backend.matrix(dy.rows(), z.columns()); // [T, r]
        product(backend, (dy, false), (b, false), scale, false, precision, &mut dz);
        product(backend, (dy, true), (z, false), scale, true, precision, db);
        let (a, da) = parameters.value_and_gradient(lora.a);
        let dropout = lora.dropout(pass);
        let dropped = dropout.map(|dropout| backend.dropout(x, dropout));
        let input = dropped.as_ref().unwrap_or(x);
        product(backend, (&dz, true), (input, false), 1.0, true, precision, da);
        let Some((dx, _)) = dx else { return };
        match dropout {
            None => product(backend, (&dz, false), (a, false), 1.0, true, precision, dx),
            Some(dropout) => {
                let mut branch = backend.matrix(dx.rows(), dx.columns()); // [T, in]
                product(backend, (&dz, false), (a, false), 1.0, false, precision, &mut branch);
                backend.add_assign(dx, &backend.dropout(&branch, dropout));
            }
        }
    }
}

impl Lora {
    fn dropout(&self, pass: &Pass) -> Option<Dropout> {
        pass.dropout(self.dropout, self.site)
    }
}

fn product<B: Backend>(
    backend: &B,
    (a, transpose_a): (&B::Matrix, bool),
    (b, transpose_b): (&B::Matrix, bool),
    alpha: f32,
    accumulate: bool,
    precision: Precision,
    c: &mut B::Matrix,
) {
    let product = Product { a, transpose_a, b, transpose_b, alpha, accumulate, precision };
    backend.product(product, c);
}

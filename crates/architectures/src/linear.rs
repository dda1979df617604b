//! A linear layer, frozen or trained, with or without a LoRA adapter; forward and backward.

use crate::backend::{After, Backend, PackedProduct, Product, Shape};
use crate::parameters::{ParameterId, Parameters};
use crate::pass::{Pass, Site};
use kernels::{Activation, Dropout, Precision};
use std::sync::Arc;

/// A frozen tensor or the id of a trained one; several layers may have the same.
#[derive(Debug)]
pub(crate) enum Tensor<B: Backend> {
    Frozen(Arc<B::Matrix>),
    Trained(ParameterId),
}

impl<B: Backend> Tensor<B> {
    pub(crate) fn value<'a>(&'a self, parameters: &'a Parameters<B>) -> &'a B::Matrix {
        match self {
            Tensor::Frozen(matrix) => matrix,
            Tensor::Trained(id) => parameters.value(*id),
        }
    }

    /// The value, beside its gradient where there is one.
    pub(crate) fn value_and_gradient<'a>(
        &'a self,
        parameters: &'a mut Parameters<B>,
    ) -> (&'a B::Matrix, Option<&'a mut B::Matrix>) {
        match self {
            Tensor::Frozen(matrix) => (matrix, None),
            Tensor::Trained(id) => {
                let (value, gradient) = parameters.value_and_gradient(*id);
                (value, Some(gradient))
            }
        }
    }

    pub(crate) fn trained(&self) -> Option<ParameterId> {
        match self {
            Tensor::Frozen(_) => None,
            Tensor::Trained(id) => Some(*id),
        }
    }
}

/// A weight [out, in]; several layers may have the same.
#[derive(Debug)]
pub(crate) enum Weight<B: Backend> {
    /// Packed for `x·Wᵀ` and for `dy·W`, with or without an adapter.
    Frozen { packed: Arc<B::Packed>, lora: Option<Lora> },
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
    pub(crate) bias: Option<Tensor<B>>,
    pub(crate) out: usize,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct LinearSaved<B: Backend> {
    /// s·dropout(x)·Aᵀ [T, r], with an adapter.
    z: Option<B::Matrix>,
}

impl<B: Backend> Linear<B> {
    /// Whether backward reads the layer's input.
    pub(crate) fn needs_input(&self) -> bool {
        !matches!(self.weight, Weight::Frozen { lora: None, .. })
    }

    /// `x` [T, in] → [T, out].
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        x: &B::Matrix,
    ) -> (B::Matrix, LinearSaved<B>) {
        self.forward_then(backend, parameters, pass, x, After::Nothing)
    }

    /// `x` [T, in] → its activation [T, out], whose slope goes to `slope` [T, out].
    pub(crate) fn forward_activated(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        x: &B::Matrix,
        activation: Activation,
        slope: Option<&mut B::Matrix>,
    ) -> (B::Matrix, LinearSaved<B>) {
        if activation == Activation::Gelu {
            return self.forward_then(backend, parameters, pass, x, After::Gelu(slope));
        }
        let (mut y, saved) = self.forward(backend, parameters, pass, x);
        backend.activate(activation, &mut y, slope);
        (y, saved)
    }

    fn forward_then(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        x: &B::Matrix,
        after: After<'_, B::Matrix>,
    ) -> (B::Matrix, LinearSaved<B>) {
        let mut y = backend.matrix(x.rows(), self.out);
        let bias = self.bias.as_ref().map(|bias| bias.value(parameters));
        let mut z = None;
        match &self.weight {
            Weight::Frozen { packed, lora } => {
                z = lora.as_ref().map(|lora| {
                    let a = parameters.value(lora.a);
                    backend.lora_down(x, a, lora.scale, lora.dropout(pass)) // [T, r]
                });
                let b = lora.as_ref().map(|lora| parameters.value(lora.b));
                let product = PackedProduct {
                    x,
                    weight: packed.as_ref(),
                    transposed: true,
                    bias,
                    low_rank: z.as_ref().zip(b),
                    accumulate: false,
                    after,
                };
                backend.packed_product(product, &mut y);
            }
            Weight::Trained { id, precision } => {
                let w = parameters.value(*id);
                product(backend, (x, false), (w, true), false, *precision, &mut y);
                if let Some(bias) = bias {
                    backend.add_bias(&mut y, bias);
                }
                if let After::Gelu(slope) = after {
                    backend.activate(Activation::Gelu, &mut y, slope);
                }
            }
        }
        (y, LinearSaved { z })
    }

    /// Adds the gradients of what is trained, and gives the input's gradient where it is wanted.
    /// `x` is read where [`needs_input`](Self::needs_input).
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        x: Option<&B::Matrix>,
        saved: &LinearSaved<B>,
        dy: &B::Matrix,
        mut dx: Option<InputGradient<'_, B::Matrix>>,
    ) {
        if let Some(id) = self.bias.as_ref().and_then(Tensor::trained) {
            backend.sum_rows(dy, parameters.gradient(id));
        }
        let x = || x.expect("a layer that is trained keeps its input");
        match &self.weight {
            Weight::Frozen { packed, lora } => {
                if let Some(InputGradient { dx, accumulate, slope }) = &mut dx {
                    // With an adapter the gradient is not whole yet.
                    let after = match slope.take_if(|_| lora.is_none()) {
                        Some(slope) => After::Times(slope),
                        None => After::Nothing,
                    };
                    let product = PackedProduct {
                        x: dy,
                        weight: packed.as_ref(),
                        transposed: false,
                        bias: None,
                        low_rank: None,
                        accumulate: *accumulate,
                        after,
                    };
                    backend.packed_product(product, dx);
                }
                if let (Some(lora), Some(z)) = (lora, &saved.z) {
                    let (b, db) = parameters.value_and_gradient(lora.b);
                    let dz = backend.lora_up_backward(dy, z, b, lora.scale, db); // [T, r]
                    let (a, da) = parameters.value_and_gradient(lora.a);
                    let dx = dx.as_mut().map(|gradient| &mut *gradient.dx);
                    backend.lora_down_backward(x(), a, lora.dropout(pass), &dz, da, dx);
                }
            }
            Weight::Trained { id, precision } => {
                let (w, dw) = parameters.value_and_gradient(*id);
                if let Some(InputGradient { dx, accumulate, .. }) = &mut dx {
                    product(backend, (dy, false), (w, false), *accumulate, *precision, dx);
                }
                product(backend, (dy, true), (x(), false), true, *precision, dw);
            }
        }
        if let Some(InputGradient { dx, slope: Some(slope), .. }) = dx {
            backend.multiply(dx, slope);
        }
    }
}

/// Where the gradient of a layer's input goes.
#[derive(Debug)]
pub(crate) struct InputGradient<'a, M> {
    dx: &'a mut M,
    accumulate: bool,
    /// Slope of the elementwise function whose output the input is.
    slope: Option<&'a M>,
}

impl<'a, M> InputGradient<'a, M> {
    /// It is written to `dx`.
    pub(crate) fn to(dx: &'a mut M) -> Self {
        InputGradient { dx, accumulate: false, slope: None }
    }

    /// It is added to `dx`.
    pub(crate) fn added_to(dx: &'a mut M) -> Self {
        InputGradient { dx, accumulate: true, slope: None }
    }

    /// By the chain rule, the gradient of `x` where the layer's input is `f(x)` with this slope.
    pub(crate) fn through(self, slope: &'a M) -> Self {
        InputGradient { slope: Some(slope), ..self }
    }
}

impl Lora {
    fn dropout(&self, pass: &Pass) -> Option<Dropout> {
        pass.dropout(self.dropout, self.site)
    }
}

/// `C = op(A)·op(B) (+ C)`.
pub(crate) fn product<B: Backend>(
    backend: &B,
    (a, transpose_a): (&B::Matrix, bool),
    (b, transpose_b): (&B::Matrix, bool),
    accumulate: bool,
    precision: Precision,
    c: &mut B::Matrix,
) {
    let product = Product { a, transpose_a, b, transpose_b, accumulate, precision };
    backend.product(product, c);
}

//! A layer with a convolution over its input beside it, as DeBERTa's second version has behind its
//! first layer (He et al. 2020): `LayerNorm(layer(x) + f(dropout(conv(x))))`. Forward and backward read
//! as one.

use crate::Error;
use crate::backend::{Backend, Shape};
use crate::builder::Builder;
use crate::layer::{Keep, Layer, LayerSaved};
use crate::linear::{Tensor, product};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass, Site};
use kernels::Activation;

/// Sizes and constants of a convolution.
#[derive(Debug)]
pub(crate) struct ConvolutionSizes {
    /// H.
    pub(crate) hidden: usize,
    /// Tokens that it sees at once, an odd number.
    pub(crate) kernel: usize,
    pub(crate) activation: Activation,
    pub(crate) dropout: f32,
    /// ε of the LayerNorm.
    pub(crate) eps: f32,
}

/// A layer that computes its result for all tokens, and a convolution.
#[derive(Debug)]
pub(crate) struct ConvolvedLayer<B: Backend> {
    layer: Layer<B>,
    /// [H, H · kernel]; in adapters' and quantised models' eyes no linear layer.
    weight: Tensor<B>,
    bias: Tensor<B>,
    norm: LayerNorm<B>,
    sizes: ConvolutionSizes,
    site: Site,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct ConvolvedSaved<B: Backend> {
    layer: LayerSaved<B>,
    slope: Option<B::Matrix>, // [T, H], the activation's, unless backward does not come here
    norm: NormSaved<B>,
}

impl<B: Backend> ConvolvedSaved<B> {
    /// The layer's input [T, H], from which all the rest can be computed again.
    pub(crate) fn into_input(self) -> B::Matrix {
        self.layer.into_input()
    }
}

impl<B: Backend> ConvolvedLayer<B> {
    /// `layer`, and a convolution whose parts' names begin with `prefix` and a dot.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        layer: Layer<B>,
        prefix: &str,
        sizes: ConvolutionSizes,
    ) -> Result<ConvolvedLayer<B>, Error> {
        let &ConvolutionSizes { hidden, kernel, eps, .. } = &sizes;
        let weight = format!("{prefix}.conv.weight");
        Ok(ConvolvedLayer {
            layer,
            weight: builder.tensor(&weight, &[hidden, hidden, kernel])?,
            bias: builder.tensor(&format!("{prefix}.conv.bias"), &[hidden])?,
            norm: builder.norm(&format!("{prefix}.LayerNorm"), hidden, eps)?,
            sizes,
            site: builder.site(false),
        })
    }

    pub(crate) fn is_trained(&self) -> bool {
        self.layer.is_trained() || self.weight.trained().is_some()
    }

    /// `x` [T, H] → [T, H], and what backward needs if it comes here.
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        x: B::Matrix,
        keep: Keep,
    ) -> (B::Matrix, ConvolvedSaved<B>) {
        let windows = backend.unfold(&x, &batch.cu_seqlens, self.sizes.kernel); // [T, H · kernel]
        let mut c = backend.matrix(x.rows(), x.columns()); // [T, H]
        let weight = self.weight.value(parameters);
        let precision = backend.precision();
        product(backend, (&windows, false), (weight, true), false, precision, &mut c);
        drop(windows);
        backend.add_bias(&mut c, self.bias.value(parameters));
        if let Some(dropout) = pass.dropout(self.sizes.dropout, self.site) {
            c = backend.dropout(&c, dropout);
        }
        let mut slope = (keep == Keep::Everything).then(|| backend.matrix(c.rows(), c.columns())); // [T, H]
        backend.activate(self.sizes.activation, &mut c, slope.as_mut());
        let (y, layer) = self.layer.forward(backend, parameters, pass, batch, x, keep);
        let (out, norm) = self.norm.forward(backend, parameters, c, Some(&y), None);
        (out, ConvolvedSaved { layer, slope, norm })
    }

    /// `dout` [T, H] → the gradient of `x` [T, H], unless nothing below is trained.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        saved: ConvolvedSaved<B>,
        mut dout: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        let ConvolvedSaved { layer: saved, slope, norm } = saved;
        self.norm.backward(backend, parameters, &norm, None, &mut dout);
        drop(norm);
        let mut dwindows = None;
        if needs_dx || self.weight.trained().is_some() {
            let mut dc = backend.copy(&dout); // [T, H]
            backend.multiply(&mut dc, &slope.expect("forward kept everything"));
            if let Some(dropout) = pass.dropout(self.sizes.dropout, self.site) {
                dc = backend.dropout(&dc, dropout);
            }
            if let Some(id) = self.bias.trained() {
                backend.sum_rows(&dc, parameters.gradient(id));
            }
            let precision = backend.precision();
            let (weight, dweight) = self.weight.value_and_gradient(parameters);
            dwindows = needs_dx.then(|| {
                let mut dwindows = backend.matrix(dc.rows(), weight.columns()); // [T, H · kernel]
                product(backend, (&dc, false), (weight, false), false, precision, &mut dwindows);
                dwindows
            });
            if let Some(dweight) = dweight {
                let windows = backend.unfold(saved.input(), &batch.cu_seqlens, self.sizes.kernel);
                product(backend, (&dc, true), (&windows, false), true, precision, dweight);
            }
        }
        let dx = self.layer.backward(backend, parameters, pass, batch, saved, dout, needs_dx);
        dx.map(|mut dx| {
            let dwindows = dwindows.expect("computed where it is needed");
            backend.fold(&dwindows, &batch.cu_seqlens, self.sizes.kernel, &mut dx);
            dx
        })
    }
}

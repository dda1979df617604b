//! One transformer encoder layer with post-LayerNorm, as BERT and its descendants have it: attention,
//! its output, feed-forward. Forward and backward read as one.
//!
//! In the last layer only what the head reads is computed: keys and values of all tokens, and
//! everything else for the first token of each sequence alone.

use crate::Error;
use crate::attention::{FullAttention, Inputs, Rows, SelfAttention, SelfAttentionSaved};
use crate::backend::{Backend, Shape};
use crate::builder::{Bias, Builder};
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass, Site};
use kernels::Activation;

/// What a forward pass keeps beside its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// What costs nothing.
    Input,
    /// What backward needs.
    Everything,
}

/// Names of a layer's parts behind the layer's own.
#[derive(Debug)]
pub(crate) struct LayerNames {
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) intermediate: &'static str,
    pub(crate) output: &'static str,
    pub(crate) output_norm: &'static str,
}

impl LayerNames {
    /// Names of the layers that give queries, keys and values.
    pub(crate) fn projections(&self, prefix: &str) -> [String; 3] {
        [self.query, self.key, self.value].map(|part| format!("{prefix}.{part}"))
    }
}

/// Sizes and constants that the layers of an encoder share.
#[derive(Clone, Debug)]
pub(crate) struct LayerSizes {
    /// H.
    pub(crate) hidden: usize,
    /// F.
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    /// ε of both LayerNorms.
    pub(crate) eps: f32,
    /// Between the feed-forward's products.
    pub(crate) activation: Activation,
    /// Dropout on the probabilities.
    pub(crate) attention_dropout: f32,
    /// Dropout behind the attention's output.
    pub(crate) attention_output_dropout: f32,
    /// Dropout behind the feed-forward.
    pub(crate) output_dropout: f32,
}

#[derive(Debug)]
pub(crate) struct Layer<B: Backend> {
    attention: SelfAttention<B>,
    attention_output: Linear<B>,
    attention_norm: LayerNorm<B>,
    intermediate: Linear<B>,
    output: Linear<B>,
    output_norm: LayerNorm<B>,
    sizes: LayerSizes,
    rows: Rows,
    /// Of the three dropouts, in the order of [`LayerSizes`].
    sites: [Site; 3],
}

/// What forward leaves for backward. Q = T, or the number of sequences in the last layer.
#[derive(Debug)]
pub(crate) struct LayerSaved<B: Backend> {
    x: B::Matrix,               // [T, H]
    x_first: Option<B::Matrix>, // [Q, H], in the last layer
    attention: SelfAttentionSaved<B>,
    attention_norm: NormSaved<B>,
    y: Option<B::Matrix>,     // [Q, H], where the intermediate layer is trained
    slope: Option<B::Matrix>, // [Q, F], the activation's, unless backward does not come here
    g: Option<B::Matrix>,     // [Q, F], behind the activation, where the output is trained
    output_norm: NormSaved<B>,
    linears: [LinearSaved<B>; 3],
}

impl<B: Backend> LayerSaved<B> {
    /// The layer's input [T, H].
    pub(crate) fn input(&self) -> &B::Matrix {
        &self.x
    }

    /// The layer's input [T, H], from which all the rest can be computed again.
    pub(crate) fn into_input(self) -> B::Matrix {
        self.x
    }
}

impl<B: Backend> Layer<B> {
    /// The layer whose parts' names begin with `prefix` and a dot, with full attention.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        prefix: &str,
        names: &LayerNames,
        sizes: &LayerSizes,
        rows: Rows,
    ) -> Result<Layer<B>, Error> {
        let projections = names.projections(prefix);
        let attention =
            FullAttention::build(builder, projections, sizes.hidden, sizes.heads, rows, Bias::Yes)?;
        Layer::around(builder, SelfAttention::Full(attention), prefix, names, sizes, rows)
    }

    /// The layer whose other parts' names begin with `prefix` and a dot.
    pub(crate) fn around(
        builder: &mut Builder<'_, B>,
        attention: SelfAttention<B>,
        prefix: &str,
        names: &LayerNames,
        sizes: &LayerSizes,
        rows: Rows,
    ) -> Result<Layer<B>, Error> {
        let &LayerSizes { hidden, inner, eps, .. } = sizes;
        let first = rows == Rows::First;
        let name = |part: &str| format!("{prefix}.{part}");
        Ok(Layer {
            attention,
            attention_output: builder.linear(
                &name(names.attention_output),
                hidden,
                hidden,
                first,
            )?,
            attention_norm: builder.norm(&name(names.attention_norm), hidden, eps)?,
            intermediate: builder.linear(&name(names.intermediate), inner, hidden, first)?,
            output: builder.linear(&name(names.output), hidden, inner, first)?,
            output_norm: builder.norm(&name(names.output_norm), hidden, eps)?,
            sizes: sizes.clone(),
            rows,
            sites: [builder.site(first), builder.site(first), builder.site(first)],
        })
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
    ) -> (B::Matrix, LayerSaved<B>) {
        let x_first = (self.rows == Rows::First).then(|| batch.first_rows(backend, &x));
        let rows = x_first.as_ref().unwrap_or(&x);
        let dropout = pass.dropout(self.sizes.attention_dropout, self.sites[0]);
        let inputs = Inputs { x: &x, rows };
        let attention = self.attention.forward(backend, parameters, pass, batch, inputs, dropout);
        let context = attention.context(); // [Q, H]
        let (a, saved_a) = self.attention_output.forward(backend, parameters, pass, context); // [Q, H]
        let dropout = pass.dropout(self.sizes.attention_output_dropout, self.sites[1]);
        let (y, attention_norm) =
            self.attention_norm.forward(backend, parameters, a, Some(rows), dropout); // [Q, H]

        let features = self.intermediate.out;
        let mut slope = (keep == Keep::Everything).then(|| backend.matrix(y.rows(), features)); // [Q, F]
        let (g, saved_u) = self.intermediate.forward_activated(
            backend,
            parameters,
            pass,
            &y,
            self.sizes.activation,
            slope.as_mut(),
        ); // [Q, F]
        let (f, saved_f) = self.output.forward(backend, parameters, pass, &g); // [Q, H]
        let dropout = pass.dropout(self.sizes.output_dropout, self.sites[2]);
        let (out, output_norm) =
            self.output_norm.forward(backend, parameters, f, Some(&y), dropout); // [Q, H]

        let y = self.intermediate.needs_input().then_some(y);
        let g = self.output.needs_input().then_some(g);
        let linears = [saved_a, saved_u, saved_f];
        (
            out,
            LayerSaved { x, x_first, attention, attention_norm, y, slope, g, output_norm, linears },
        )
    }

    /// `dout` [Q, H] → the gradient of `x` [T, H], unless nothing below is trained.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        saved: LayerSaved<B>,
        mut dout: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        let LayerSaved { x, x_first, attention, attention_norm, y, slope, g, output_norm, linears } =
            saved;
        let [saved_a, saved_u, saved_f] = &linears;

        // Feed-forward: `dout` becomes the gradient of y, first by way of the residual.
        let dropout = pass.dropout(self.sizes.output_dropout, self.sites[2]);
        let branch =
            self.output_norm.backward(backend, parameters, &output_norm, dropout, &mut dout);
        let df = branch.as_ref().unwrap_or(&dout); // [Q, H]
        let slope = slope.expect("forward kept everything");
        let mut du = backend.matrix(slope.rows(), slope.columns()); // [Q, F], before the activation
        let to_du = Some(InputGradient::to(&mut du).through(&slope));
        self.output.backward(backend, parameters, pass, g.as_ref(), saved_f, df, to_du);
        drop((branch, slope, g));
        let mut dy = dout;
        let to_dy = Some(InputGradient::added_to(&mut dy));
        self.intermediate.backward(backend, parameters, pass, y.as_ref(), saved_u, &du, to_dy);
        drop((du, y));

        // Attention: `dy` becomes the gradient of the rows, first by way of the residual.
        let dropout = pass.dropout(self.sizes.attention_output_dropout, self.sites[1]);
        let branch =
            self.attention_norm.backward(backend, parameters, &attention_norm, dropout, &mut dy);
        let da = branch.as_ref().unwrap_or(&dy); // [Q, H]
        let context = attention.context();
        let mut dcontext = backend.matrix(da.rows(), context.columns()); // [Q, H]
        let to_context = Some(InputGradient::to(&mut dcontext));
        self.attention_output.backward(
            backend,
            parameters,
            pass,
            Some(context),
            saved_a,
            da,
            to_context,
        );
        drop(branch);
        let dropout = pass.dropout(self.sizes.attention_dropout, self.sites[0]);
        let inputs = Inputs { x: &x, rows: x_first.as_ref().unwrap_or(&x) };
        self.attention.backward(
            backend, parameters, pass, batch, inputs, dropout, attention, dcontext, dy, needs_dx,
        )
    }

    /// Whether anything in this layer is trained.
    pub(crate) fn is_trained(&self) -> bool {
        let linears = [&self.attention_output, &self.intermediate, &self.output];
        self.attention.is_trained() || linears.into_iter().any(Linear::needs_input)
    }
}

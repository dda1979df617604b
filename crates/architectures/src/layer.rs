//! One transformer encoder layer with post-LayerNorm, as BERT and RoBERTa have it: attention, its
//! output, feed-forward. Forward and backward read as one.
//!
//! In the last layer only what the head reads is computed: keys and values of all tokens, and
//! everything else for the first token of each sequence alone.

use crate::backend::{AttentionSaved, AttentionShape, Backend, Shape};
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass, Site};

/// Which tokens a layer computes its result for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    All,
    /// The first token of each sequence.
    First,
}

/// What a forward pass keeps beside its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// What costs nothing.
    Input,
    /// What backward needs.
    Everything,
}

#[derive(Debug)]
pub(crate) struct Layer<B: Backend> {
    pub(crate) query: Linear<B>,
    pub(crate) key: Linear<B>,
    pub(crate) value: Linear<B>,
    pub(crate) attention_output: Linear<B>,
    pub(crate) attention_norm: LayerNorm<B>,
    pub(crate) intermediate: Linear<B>,
    pub(crate) output: Linear<B>,
    pub(crate) output_norm: LayerNorm<B>,
    pub(crate) heads: usize,
    pub(crate) rows: Rows,
    pub(crate) attention_dropout: f32,
    pub(crate) hidden_dropout: f32,
    /// Dropout on the probabilities, behind the attention's output, behind the feed-forward.
    pub(crate) sites: [Site; 3],
}

/// What forward leaves for backward. Q = T, or the number of sequences in the last layer.
#[derive(Debug)]
pub(crate) struct LayerSaved<B: Backend> {
    x: B::Matrix,               // [T, H]
    x_first: Option<B::Matrix>, // [Q, H], in the last layer
    attention: AttentionSaved<B::Matrix>,
    attention_norm: NormSaved<B>,
    y: Option<B::Matrix>,     // [Q, H], where the intermediate layer is trained
    slope: Option<B::Matrix>, // [Q, F], GELU's, unless backward does not come here
    g: Option<B::Matrix>,     // [Q, F], behind GELU, where the output is trained
    output_norm: NormSaved<B>,
    linears: [LinearSaved<B>; 6],
}

impl<B: Backend> LayerSaved<B> {
    /// The layer's input [T, H], from which all the rest can be computed again.
    pub(crate) fn into_input(self) -> B::Matrix {
        self.x
    }
}

impl<B: Backend> Layer<B> {
    fn shape<'a>(&self, batch: &'a Batch<B>, pass: &Pass) -> AttentionShape<'a, B::Indices> {
        let cu_q = match self.rows {
            Rows::All => &batch.cu_seqlens,
            Rows::First => &batch.cu_first,
        };
        AttentionShape {
            cu_q,
            cu_kv: &batch.cu_seqlens,
            heads: self.heads,
            dropout: pass.dropout(self.attention_dropout, self.sites[0]),
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
    ) -> (B::Matrix, LayerSaved<B>) {
        let x_first = (self.rows == Rows::First).then(|| {
            let mut first = backend.matrix(batch.sequences, x.columns());
            backend.gather_rows(&x, &batch.first_tokens, false, &mut first);
            first
        });
        let rows = x_first.as_ref().unwrap_or(&x);
        let (q, saved_q) = self.query.forward(backend, parameters, pass, rows); // [Q, H]
        let (k, saved_k) = self.key.forward(backend, parameters, pass, &x); // [T, H]
        let (v, saved_v) = self.value.forward(backend, parameters, pass, &x); // [T, H]
        let attention = backend.attention(self.shape(batch, pass), q, k, v);
        let (a, saved_a) = self.attention_output.forward(backend, parameters, pass, &attention.out); // [Q, H]
        let dropout = pass.dropout(self.hidden_dropout, self.sites[1]);
        let (y, attention_norm) =
            self.attention_norm.forward(backend, parameters, a, Some(rows), dropout); // [Q, H]

        let features = self.intermediate.out;
        let mut slope = (keep == Keep::Everything).then(|| backend.matrix(y.rows(), features)); // [Q, F]
        let (g, saved_u) =
            self.intermediate.forward_gelu(backend, parameters, pass, &y, slope.as_mut()); // [Q, F]
        let (f, saved_f) = self.output.forward(backend, parameters, pass, &g); // [Q, H]
        let dropout = pass.dropout(self.hidden_dropout, self.sites[2]);
        let (out, output_norm) =
            self.output_norm.forward(backend, parameters, f, Some(&y), dropout); // [Q, H]

        let y = self.intermediate.needs_input().then_some(y);
        let g = self.output.needs_input().then_some(g);
        let linears = [saved_q, saved_k, saved_v, saved_a, saved_u, saved_f];
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
        let [saved_q, saved_k, saved_v, saved_a, saved_u, saved_f] = &linears;

        // Feed-forward: `dout` becomes the gradient of y, first by way of the residual.
        let dropout = pass.dropout(self.hidden_dropout, self.sites[2]);
        let branch =
            self.output_norm.backward(backend, parameters, &output_norm, dropout, &mut dout);
        let df = branch.as_ref().unwrap_or(&dout); // [Q, H]
        let slope = slope.expect("forward kept everything");
        let mut du = backend.matrix(slope.rows(), slope.columns()); // [Q, F], before GELU
        let to_du = Some(InputGradient::to(&mut du).through(&slope));
        self.output.backward(backend, parameters, pass, g.as_ref(), saved_f, df, to_du);
        drop((branch, slope, g));
        let mut dy = dout;
        let to_dy = Some(InputGradient::added_to(&mut dy));
        self.intermediate.backward(backend, parameters, pass, y.as_ref(), saved_u, &du, to_dy);
        drop((du, y));

        // Attention: `dy` becomes the gradient of the rows, first by way of the residual.
        let dropout = pass.dropout(self.hidden_dropout, self.sites[1]);
        let branch =
            self.attention_norm.backward(backend, parameters, &attention_norm, dropout, &mut dy);
        let da = branch.as_ref().unwrap_or(&dy); // [Q, H]
        let mut dcontext = backend.matrix(da.rows(), attention.out.columns()); // [Q, H]
        let to_context = Some(InputGradient::to(&mut dcontext));
        let context = Some(&attention.out);
        self.attention_output.backward(backend, parameters, pass, context, saved_a, da, to_context);
        let shape = self.shape(batch, pass);
        let [dq, dk, dv] = backend.attention_backward(shape, &attention, &dcontext);
        drop((dcontext, branch));

        let rows = x_first.as_ref().unwrap_or(&x);
        let to_rows = needs_dx.then(|| InputGradient::added_to(&mut dy));
        self.query.backward(backend, parameters, pass, Some(rows), saved_q, &dq, to_rows);
        let mut dx = match self.rows {
            Rows::All => dy,
            Rows::First if !needs_dx => dy,
            Rows::First => {
                let mut dx = backend.zeros(x.rows(), x.columns()); // [T, H]
                backend.scatter_add_rows(&mut dx, &batch.first_tokens, &dy);
                dx
            }
        };
        let to_dx = needs_dx.then(|| InputGradient::added_to(&mut dx));
        self.key.backward(backend, parameters, pass, Some(&x), saved_k, &dk, to_dx);
        let to_dx = needs_dx.then(|| InputGradient::added_to(&mut dx));
        self.value.backward(backend, parameters, pass, Some(&x), saved_v, &dv, to_dx);
        needs_dx.then_some(dx)
    }

    /// Whether anything in this layer is trained.
    pub(crate) fn is_trained(&self) -> bool {
        let linears = [
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.intermediate,
            &self.output,
        ];
        linears.into_iter().any(Linear::needs_input)
    }
}

//! One transformer encoder layer with pre-LayerNorm (Xiong et al. 2020), as ModernBERT has it: what
//! each half of the layer adds is computed from a normalised copy of what it is added to. Attention has
//! rotary positions, the feed-forward a gate. Forward and backward read as one.
//!
//! In the last layer only what the head reads is computed, as in a layer with post-LayerNorm.

use crate::Error;
use crate::attention::Rows;
use crate::backend::{Backend, Shape};
use crate::builder::{Bias, Builder};
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass, Site};
use crate::rotary::{RotaryAttention, RotarySaved, RotarySizes};
use kernels::Activation;

/// Names of a layer's parts behind the layer's own.
#[derive(Debug)]
pub(crate) struct PreNormNames {
    pub(crate) attention_norm: &'static str,
    pub(crate) query_key_value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) feed_forward_norm: &'static str,
    pub(crate) input: &'static str,
    pub(crate) output: &'static str,
}

/// Sizes and constants that the layers of an encoder share.
#[derive(Clone, Debug)]
pub(crate) struct PreNormSizes {
    /// H.
    pub(crate) hidden: usize,
    /// F.
    pub(crate) inner: usize,
    /// ε of both LayerNorms.
    pub(crate) eps: f32,
    /// Of the feed-forward's gate.
    pub(crate) activation: Activation,
    pub(crate) norm_bias: Bias,
    /// Of the attention's output.
    pub(crate) attention_bias: Bias,
    pub(crate) feed_forward_bias: Bias,
    /// Dropout on the probabilities and behind the attention's output.
    pub(crate) attention_dropout: f32,
    /// Dropout behind the gate.
    pub(crate) feed_forward_dropout: f32,
}

#[derive(Debug)]
pub(crate) struct PreNormLayer<B: Backend> {
    /// None where what comes in is normalised already.
    attention_norm: Option<LayerNorm<B>>,
    attention: RotaryAttention<B>,
    attention_output: Linear<B>,
    feed_forward_norm: LayerNorm<B>,
    /// Both halves of the gate's input [2F, H].
    input: Linear<B>,
    output: Linear<B>,
    sizes: PreNormSizes,
    rows: Rows,
    /// Of the dropouts on probabilities, behind the attention's output and behind the gate.
    sites: [Site; 3],
}

/// A layer's input [T, H], and the attention's.
#[derive(Debug)]
enum Entry<B: Backend> {
    Same(B::Matrix),
    Normed(NormSaved<B>, B::Matrix),
}

impl<B: Backend> Entry<B> {
    fn x(&self) -> &B::Matrix {
        match self {
            Entry::Same(x) => x,
            Entry::Normed(norm, _) => norm.sum(),
        }
    }

    fn normed(&self) -> &B::Matrix {
        match self {
            Entry::Same(x) => x,
            Entry::Normed(_, n) => n,
        }
    }
}

/// What forward leaves for backward. Q = T, or the number of sequences in the last layer.
#[derive(Debug)]
pub(crate) struct PreNormSaved<B: Backend> {
    entry: Entry<B>,
    attention: RotarySaved<B>,
    feed_forward_norm: NormSaved<B>, // of y [Q, H]
    m: Option<B::Matrix>,            // [Q, H], y normalised, where the input layer is trained
    slopes: B::Matrix,               // [Q, 2F], the gate's
    g: Option<B::Matrix>,            // [Q, F], behind the gate, where the output is trained
    linears: [LinearSaved<B>; 3],
}

impl<B: Backend> PreNormSaved<B> {
    /// The layer's input [T, H], from which all the rest can be computed again.
    pub(crate) fn into_input(self) -> B::Matrix {
        match self.entry {
            Entry::Same(x) => x,
            Entry::Normed(norm, _) => norm.into_sum(),
        }
    }
}

impl<B: Backend> PreNormLayer<B> {
    /// The layer whose parts' names begin with `prefix` and a dot; `normed` says whether its input is
    /// normalised already.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        prefix: &str,
        names: &PreNormNames,
        sizes: &PreNormSizes,
        attention: RotarySizes<B>,
        normed: bool,
    ) -> Result<PreNormLayer<B>, Error> {
        let &PreNormSizes { hidden, inner, eps, norm_bias, attention_bias, .. } = sizes;
        let (rows, bias) = (attention.rows, sizes.feed_forward_bias);
        let first = rows == Rows::First;
        let name = |part: &str| format!("{prefix}.{part}");
        let attention_norm = (!normed)
            .then(|| builder.norm_with(&name(names.attention_norm), hidden, eps, norm_bias))
            .transpose()?;
        let attention = RotaryAttention::build(builder, &name(names.query_key_value), attention)?;
        let mut linear =
            |part, out, input, bias| builder.linear_with(&name(part), out, input, first, bias);
        let attention_output = linear(names.attention_output, hidden, hidden, attention_bias)?;
        let input = linear(names.input, 2 * inner, hidden, bias)?;
        let output = linear(names.output, hidden, inner, bias)?;
        let feed_forward_norm = name(names.feed_forward_norm);
        Ok(PreNormLayer {
            attention_norm,
            attention,
            attention_output,
            feed_forward_norm: builder.norm_with(&feed_forward_norm, hidden, eps, norm_bias)?,
            input,
            output,
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
    ) -> (B::Matrix, PreNormSaved<B>) {
        let entry = match &self.attention_norm {
            None => Entry::Same(x),
            Some(norm) => {
                let (n, saved) = norm.forward(backend, parameters, x, None, None);
                Entry::Normed(saved, n)
            }
        };
        let n = entry.normed();
        let dropout = pass.dropout(self.sizes.attention_dropout, self.sites[0]);
        let attention = self.attention.forward(backend, parameters, pass, batch, n, dropout);
        let context = attention.context(); // [Q, H]
        let (a, saved_a) = self.attention_output.forward(backend, parameters, pass, context); // [Q, H]
        let dropout = pass.dropout(self.sizes.attention_dropout, self.sites[1]);
        let first = (self.rows == Rows::First).then(|| batch.first_rows(backend, entry.x()));
        let rows = first.as_ref().unwrap_or(entry.x()); // [Q, H]
        let (m, feed_forward_norm) =
            self.feed_forward_norm.forward(backend, parameters, a, Some(rows), dropout); // [Q, H]
        drop(first);

        let (mut u, saved_u) = self.input.forward(backend, parameters, pass, &m); // [Q, 2F]
        let mut g = backend.gate(self.sizes.activation, &mut u); // [Q, F]
        if let Some(dropout) = pass.dropout(self.sizes.feed_forward_dropout, self.sites[2]) {
            g = backend.dropout(&g, dropout);
        }
        let (mut out, saved_f) = self.output.forward(backend, parameters, pass, &g); // [Q, H]
        backend.add(&mut out, feed_forward_norm.sum());

        let m = self.input.needs_input().then_some(m);
        let g = self.output.needs_input().then_some(g);
        let linears = [saved_a, saved_u, saved_f];
        (out, PreNormSaved { entry, attention, feed_forward_norm, m, slopes: u, g, linears })
    }

    /// `dout` [Q, H] → the gradient of `x` [T, H], unless nothing below is trained.
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        saved: PreNormSaved<B>,
        dout: B::Matrix,
        needs_dx: bool,
    ) -> Option<B::Matrix> {
        let PreNormSaved { entry, attention, feed_forward_norm, m, slopes, g, linears } = saved;
        let [saved_a, saved_u, saved_f] = &linears;

        // Feed-forward: `dy` [Q, H] is the gradient of y, first by way of the residual.
        let mut dg = backend.matrix(dout.rows(), self.sizes.inner); // [Q, F]
        let to_dg = Some(InputGradient::to(&mut dg));
        self.output.backward(backend, parameters, pass, g.as_ref(), saved_f, &dout, to_dg);
        if let Some(dropout) = pass.dropout(self.sizes.feed_forward_dropout, self.sites[2]) {
            dg = backend.dropout(&dg, dropout);
        }
        let mut du = slopes; // [Q, 2F]
        backend.gate_backward(&mut du, &dg);
        drop((dg, g));
        let mut dy = dout;
        let mut dm = backend.matrix(dy.rows(), dy.columns()); // [Q, H]
        let to_dm = Some(InputGradient::to(&mut dm));
        self.input.backward(backend, parameters, pass, m.as_ref(), saved_u, &du, to_dm);
        drop((du, m));
        self.feed_forward_norm.backward(backend, parameters, &feed_forward_norm, None, &mut dm);
        backend.add(&mut dy, &dm);
        drop((dm, feed_forward_norm));

        // Attention: `dx` [T, H] is the gradient of x, first by way of the residual.
        let dropout = pass.dropout(self.sizes.attention_dropout, self.sites[1]);
        let branch = dropout.map(|dropout| backend.dropout(&dy, dropout));
        let da = branch.as_ref().unwrap_or(&dy); // [Q, H]
        let mut dcontext = backend.matrix(da.rows(), da.columns()); // [Q, H]
        let to_context = Some(InputGradient::to(&mut dcontext));
        let context = Some(attention.context());
        self.attention_output.backward(backend, parameters, pass, context, saved_a, da, to_context);
        drop(branch);
        let dropout = pass.dropout(self.sizes.attention_dropout, self.sites[0]);
        let n = Some(entry.normed());
        let dn = self
            .attention
            .backward(backend, parameters, pass, batch, n, dropout, attention, dcontext, needs_dx);
        let mut dn = dn?; // [T, H]
        if let (Some(norm), Entry::Normed(saved, _)) = (&self.attention_norm, &entry) {
            norm.backward(backend, parameters, saved, None, &mut dn);
        }
        let mut dx = match self.rows {
            Rows::All => dy,
            Rows::First => batch.only_first_rows(backend, &dy),
        };
        backend.add(&mut dx, &dn);
        Some(dx)
    }

    /// Whether anything in this layer is trained.
    pub(crate) fn is_trained(&self) -> bool {
        let linears = [&self.attention_output, &self.input, &self.output];
        self.attention.needs_input() || linears.into_iter().any(Linear::needs_input)
    }
}

//! Self-attention with rotary positions (Su et al. 2021), of all tokens or within a window, whose
//! queries, keys and values come from one product. Forward and backward read as one.

use crate::Error;
use crate::attention::Rows;
use crate::backend::{AttentionSaved, AttentionShape, Backend, Pattern, Rotary, Shape};
use crate::builder::{Bias, Builder};
use crate::linear::{InputGradient, Linear, LinearSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass};
use kernels::Dropout;
use std::sync::Arc;

/// Angles by position, which layers share.
#[derive(Debug)]
pub(crate) struct Angles<B: Backend>(Arc<B::Matrix>);

impl<B: Backend> Angles<B> {
    /// Of heads of this size, for so many positions.
    pub(crate) fn new(backend: &B, positions: usize, head_size: usize, theta: f64) -> Angles<B> {
        let table = kernels::rotary_table(positions, head_size, theta);
        Angles(Arc::new(backend.upload(positions, head_size, &table)))
    }
}

impl<B: Backend> Clone for Angles<B> {
    fn clone(&self) -> Self {
        Angles(self.0.clone())
    }
}

/// What an attention is made of.
#[derive(Debug)]
pub(crate) struct RotarySizes<B: Backend> {
    /// H.
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    /// Of the layer that gives queries, keys and values.
    pub(crate) bias: Bias,
    pub(crate) angles: Angles<B>,
    /// The farthest distance at which a token sees another, where there is one.
    pub(crate) reach: Option<usize>,
    pub(crate) rows: Rows,
}

#[derive(Debug)]
pub(crate) struct RotaryAttention<B: Backend> {
    /// [3H, H]
    query_key_value: Linear<B>,
    sizes: RotarySizes<B>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct RotarySaved<B: Backend> {
    attention: AttentionSaved<B::Matrix>,
    linear: LinearSaved<B>,
}

impl<B: Backend> RotarySaved<B> {
    /// What the heads gathered [Q, H].
    pub(crate) fn context(&self) -> &B::Matrix {
        &self.attention.out
    }
}

impl<B: Backend> RotaryAttention<B> {
    /// `name` is that of the layer that gives queries, keys and values.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        name: &str,
        sizes: RotarySizes<B>,
    ) -> Result<RotaryAttention<B>, Error> {
        let &RotarySizes { hidden, bias, .. } = &sizes;
        let query_key_value = builder.linear_with(name, 3 * hidden, hidden, false, bias)?;
        Ok(RotaryAttention { query_key_value, sizes })
    }

    /// Whether backward reads the attention's input.
    pub(crate) fn needs_input(&self) -> bool {
        self.query_key_value.needs_input()
    }

    fn rotary<'a>(&'a self, batch: &'a Batch<B>) -> Rotary<'a, B::Matrix, B::Indices> {
        Rotary { positions: &batch.positions, table: &self.sizes.angles.0 }
    }

    fn shape<'a>(
        &self,
        batch: &'a Batch<B>,
        dropout: Option<Dropout>,
    ) -> AttentionShape<'a, B::Matrix, B::Indices> {
        let cu_q = match self.sizes.rows {
            Rows::All => &batch.cu_seqlens,
            Rows::First => &batch.cu_first,
        };
        let &RotarySizes { heads, reach, .. } = &self.sizes;
        let pattern = match reach {
            Some(reach) => Pattern::Window { reach, first: false },
            None => Pattern::All,
        };
        AttentionShape { cu_q, cu_kv: &batch.cu_seqlens, heads, bias: None, pattern, dropout }
    }

    /// From `n` [T, H]; `dropout` is that of the probabilities.
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        n: &B::Matrix,
        dropout: Option<Dropout>,
    ) -> RotarySaved<B> {
        let (qkv, linear) = self.query_key_value.forward(backend, parameters, pass, n); // [T, 3H]
        let [q, k, v] = backend.split_rotated(&qkv, self.rotary(batch)); // [T, H] each
        drop(qkv);
        let q = match self.sizes.rows {
            Rows::All => q,
            Rows::First => batch.first_rows(backend, &q), // [B, H]
        };
        let attention = backend.attention(self.shape(batch, dropout), q, k, v);
        RotarySaved { attention, linear }
    }

    /// From the gradient of the context [Q, H] to that of `n` [T, H], where it is wanted. `n` is read
    /// where [`needs_input`](Self::needs_input).
    #[expect(clippy::too_many_arguments, reason = "forward's arguments, and where gradients go")]
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        n: Option<&B::Matrix>,
        dropout: Option<Dropout>,
        saved: RotarySaved<B>,
        dcontext: B::Matrix,
        needs_dn: bool,
    ) -> Option<B::Matrix> {
        let RotarySaved { attention, linear } = saved;
        let shape = self.shape(batch, dropout);
        let [dq, dk, dv] = backend.attention_backward(shape, &attention, &dcontext, None);
        drop((attention, dcontext));
        let dq = match self.sizes.rows {
            Rows::All => dq,
            Rows::First => batch.only_first_rows(backend, &dq), // [T, H]
        };
        let dqkv = backend.split_rotated_backward([&dq, &dk, &dv], self.rotary(batch)); // [T, 3H]
        let mut dn = needs_dn.then(|| backend.matrix(dk.rows(), dk.columns())); // [T, H]
        drop((dq, dk, dv));
        let to_dn = dn.as_mut().map(InputGradient::to);
        self.query_key_value.backward(backend, parameters, pass, n, &linear, &dqkv, to_dn);
        dn
    }
}

//! Token embeddings of BERT-like encoders: word + position + token type, LayerNorm, dropout.

use crate::backend::Backend;
use crate::linear::Tensor;
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass, Site};

/// Three tables [vocabulary, H], [positions, H], [types, H] and a LayerNorm.
#[derive(Debug)]
pub(crate) struct Embeddings<B: Backend> {
    pub(crate) word: Tensor<B>,
    pub(crate) position: Tensor<B>,
    pub(crate) token_type: Tensor<B>,
    /// Row of the position table that position 0 takes.
    pub(crate) first_position: u32,
    pub(crate) norm: LayerNorm<B>,
    pub(crate) dropout: f32,
    pub(crate) site: Site,
    pub(crate) hidden_size: usize,
}

impl<B: Backend> Embeddings<B> {
    /// → [T, H]
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
    ) -> (B::Matrix, NormSaved<B>) {
        let mut x = backend.matrix(batch.tokens, self.hidden_size);
        let positions = backend.shifted(&batch.positions, self.first_position);
        backend.gather_rows(self.word.value(parameters), &batch.ids, false, &mut x);
        backend.gather_rows(self.position.value(parameters), &positions, true, &mut x);
        backend.gather_rows(self.token_type.value(parameters), &batch.token_types, true, &mut x);
        let (y, saved) = self.norm.forward(backend, parameters, x, None, None);
        match pass.dropout(self.dropout, self.site) {
            Some(dropout) => (backend.dropout(&y, dropout), saved),
            None => (y, saved),
        }
    }

    /// Whether anything here is trained; else backward ends above.
    pub(crate) fn is_trained(&self) -> bool {
        self.word.trained().is_some()
    }

    /// From the gradient of the result to those of the tables.
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        saved: &NormSaved<B>,
        dy: B::Matrix,
    ) {
        let mut dx = match pass.dropout(self.dropout, self.site) {
            Some(dropout) => backend.dropout(&dy, dropout),
            None => dy,
        };
        self.norm.backward(backend, parameters, saved, None, &mut dx);
        let positions = backend.shifted(&batch.positions, self.first_position);
        for (table, rows) in [
            (&self.word, &batch.ids),
            (&self.position, &positions),
            (&self.token_type, &batch.token_types),
        ] {
            if let Some(id) = table.trained() {
                backend.scatter_add_rows(parameters.gradient(id), rows, &dx);
            }
        }
    }
}

//! One pass through the network: which dropout masks it draws, and the packed batch it reads.

use crate::backend::{Backend, Shape};
use kernels::{Dropout, Stream};

/// A place in the network that draws dropout masks, and whether its rows are tokens or sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) number: u32,
    pub(crate) per_sequence: bool,
}

/// Which masks a pass draws. Rows are counted over the whole optimizer batch, so that cutting it
/// into micro-batches changes no mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Whether this is training: dropout is on, and BigBird sees random blocks.
    pub dropout: bool,
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u32,
    /// Tokens of the optimizer batch before this micro-batch.
    pub first_token: u32,
    /// Sequences of the optimizer batch before this micro-batch.
    pub first_sequence: u32,
}

impl Pass {
    /// A pass without dropout.
    pub fn evaluation() -> Pass {
        Pass { dropout: false, seed: 0, step: 0, first_token: 0, first_sequence: 0 }
    }

    pub(crate) fn dropout(&self, probability: f32, site: Site) -> Option<Dropout> {
        (self.dropout && probability > 0.0).then_some(Dropout {
            probability,
            stream: Stream {
                seed: self.seed,
                step: self.step,
                site: site.number,
                first_row: if site.per_sequence { self.first_sequence } else { self.first_token },
            },
        })
    }
}

/// Sequences laid end to end, without padding, where the backend can read them.
#[derive(Debug)]
pub struct Batch<B: Backend> {
    /// Token ids `[T]`.
    pub ids: B::Indices,
    /// Position of each token in its sequence, from 0 `[T]`.
    pub positions: B::Indices,
    /// Token types, all 0 `[T]`.
    pub token_types: B::Indices,
    /// First token of each sequence, and T [B + 1].
    pub cu_seqlens: B::Indices,
    /// First token of each sequence `[B]`.
    pub first_tokens: B::Indices,
    /// 0, 1, …, B: one query per sequence [B + 1].
    pub cu_first: B::Indices,
    /// Tokens of each sequence `[B]`.
    pub lengths: Vec<u32>,
    /// Tokens of the longest sequence, or more.
    pub longest: usize,
    /// T.
    pub tokens: usize,
    /// B.
    pub sequences: usize,
}

impl<B: Backend> Batch<B> {
    /// A batch of the sequences `ids[cu_seqlens[i]..cu_seqlens[i + 1]]`.
    ///
    /// # Panics
    /// `cu_seqlens` does not start at 0, ascend strictly and end at `ids.len()`.
    pub fn new(backend: &B, ids: &[u32], cu_seqlens: &[u32]) -> Batch<B> {
        assert!(cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&(ids.len() as u32)));
        assert!(cu_seqlens.is_sorted_by(|a, b| a < b), "a sequence is empty");
        let sequences = cu_seqlens.len() - 1;
        let lengths: Vec<u32> = cu_seqlens.windows(2).map(|w| w[1] - w[0]).collect();
        let positions = lengths.iter().flat_map(|&length| 0..length).collect();
        Batch {
            ids: backend.indices(ids.to_vec()),
            positions: backend.indices(positions),
            token_types: backend.indices(vec![0; ids.len()]),
            cu_seqlens: backend.indices(cu_seqlens.to_vec()),
            first_tokens: backend.indices(cu_seqlens[..sequences].to_vec()),
            cu_first: backend.indices((0..=sequences as u32).collect()),
            longest: lengths.iter().copied().max().unwrap_or(0) as usize,
            lengths,
            tokens: ids.len(),
            sequences,
        }
    }

    /// The first row of each sequence: [T, H] → [B, H].
    pub(crate) fn first_rows(&self, backend: &B, x: &B::Matrix) -> B::Matrix {
        let mut first = backend.matrix(self.sequences, x.columns());
        backend.gather_rows(x, &self.first_tokens, false, &mut first);
        first
    }

    /// Backward of [`first_rows`](Batch::first_rows): [B, H] → [T, H].
    pub(crate) fn only_first_rows(&self, backend: &B, first: &B::Matrix) -> B::Matrix {
        let mut x = backend.zeros(self.tokens, first.columns());
        backend.scatter_add_rows(&mut x, &self.first_tokens, first);
        x
    }
}

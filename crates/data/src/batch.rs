//! Batches without padding: sequences laid end to end, cut into micro-batches by tokens.

use crate::Encoded;

/// Sequences laid end to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedBatch {
    /// Token ids of all sequences, `[tokens]`.
    pub ids: Vec<u32>,
    /// Where each sequence begins in `ids`, and the end, `[sequences + 1]`.
    pub cu_seqlens: Vec<u32>,
    /// Class per sequence, or 0 or 1 per sequence and label; empty for unlabelled text.
    pub labels: Vec<u32>,
    /// Which example each sequence is.
    pub rows: Vec<u32>,
}

/// Packs the examples `rows` of a split. `labels` are the split's, as many numbers for every row, or
/// empty.
///
/// # Panics
/// If a row is not in the split, or a batch has 2³² tokens.
#[must_use]
pub fn pack(encoded: &[Encoded], labels: &[u32], rows: &[u32]) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], rows: rows.to_vec(), ..Default::default() };
    let width = labels.len() / encoded.len().max(1);
    for &row in rows {
        batch.ids.extend_from_slice(&encoded[row as usize].ids);
        batch.cu_seqlens.push(u32::try_from(batch.ids.len()).expect("a batch fits in memory"));
        batch.labels.extend_from_slice(&labels[row as usize * width..][..width]);
    }
    batch
}

/// Cuts one optimizer batch into micro-batches of at most `token_budget` tokens, in order. A
/// sequence above the budget goes alone. `lengths` are the split's, in tokens after truncation.
pub fn micro_batches<'a>(
    rows: &'a [u32],
    lengths: &'a [u32],
    token_budget: usize,
) -> impl Iterator<Item = &'a [u32]> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |row: &&u32| {
            tokens += lengths[**row as usize] as usize;
            tokens <= token_budget
        };
        let count = left.iter().take_while(fits).count().max(1).min(left.len());
        let (batch, rest) = left.split_at(count);
        left = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

/// The whole split in batches of similar length, longest first, nothing dropped.
#[must_use]
pub fn by_length(lengths: &[u32], token_budget: usize) -> Vec<Vec<u32>> {
    let mut rows: Vec<u32> = (0..).take(lengths.len()).collect();
    rows.sort_by_key(|&row| std::cmp::Reverse(lengths[row as usize]));
    micro_batches(&rows, lengths, token_budget).map(<[u32]>::to_vec).collect()
}

//! Dropout whose mask is a function of position, so that backward regenerates it and a resumed run
//! needs no generator state: Philox4x32-7 (Salmon et al. 2011, "Parallel random numbers: as easy as
//! 1, 2, 3"; seven rounds pass BigCrush) keyed by the seed, counted by (column, row, step, site).
//!
//! One call gives 128 bits, cut into eight 16-bit numbers: the drop probability is rounded to
//! 1/65536. The mask of an element does not depend on the instruction set.

use crate::Isa;
use crate::rows::for_each_row;
use crate::simd::{self, Kernel, Simd};

/// Which mask: rows are counted from `first_row`, so that micro-batches draw what the whole batch
/// would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u32,
    /// The place in the network.
    pub site: u32,
    /// Number of the first row.
    pub first_row: u32,
}

/// A drop probability and a mask stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping an element, in `0.0..1.0`.
    pub probability: f32,
    /// Which mask.
    pub stream: Stream,
}

/// Columns drawn at a time: 16 counters × 8 numbers.
const CHUNK: usize = 128;
const ROUNDS: usize = 7;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

impl Dropout {
    fn threshold(&self) -> u32 {
        (self.probability * 65536.0).round() as u32
    }

    /// Fills `factors` with 0 (dropped) or 1/(1−p) (kept) for one row.
    #[inline(always)]
    pub(crate) unsafe fn factors<S: Simd>(&self, row: usize, factors: &mut [f32]) {
        // SAFETY: passed on to the caller.
        unsafe { self.factors_from::<S>(row, 0, factors) }
    }

    /// As [`factors`](Self::factors), from a later chunk of the row on.
    #[inline(always)]
    pub(crate) unsafe fn factors_from<S: Simd>(
        &self,
        row: usize,
        first: usize,
        factors: &mut [f32],
    ) {
        let threshold = self.threshold();
        let row = self.stream.first_row.wrapping_add(row as u32);
        // SAFETY: writes go through `store`s bounded by the slice; the caller vouches for `S`.
        unsafe {
            let kept = S::splat(1.0 / (1.0 - self.probability));
            for (index, chunk) in factors.chunks_mut(CHUNK).enumerate() {
                let index = first + index;
                for lane in (0..16).step_by(S::LANES) {
                    let words = philox::<S>(&self.stream, (index * 16 + lane) as u32, row);
                    for (w, word) in words.into_iter().enumerate() {
                        let (low, high) = S::keep_halves(word, threshold, kept);
                        store::<S>(chunk, w * 32 + lane, low);
                        store::<S>(chunk, w * 32 + 16 + lane, high);
                    }
                }
            }
        }
    }
}

/// Chunks that so many columns take.
pub(crate) fn chunks(columns: usize) -> usize {
    columns.div_ceil(CHUNK)
}

/// Stores as much of `v` as `out[at..]` has room for.
#[inline(always)]
unsafe fn store<S: Simd>(out: &mut [f32], at: usize, v: S::F) {
    // SAFETY: bounded by the slice's length; the caller vouches for `S`.
    unsafe {
        if at + S::LANES <= out.len() {
            S::store(out.as_mut_ptr().add(at), v);
        } else if at < out.len() {
            S::store_first(out.as_mut_ptr().add(at), out.len() - at, v);
        }
    }
}

#[inline(always)]
unsafe fn philox<S: Simd>(stream: &Stream, column: u32, row: u32) -> [S::U; 4] {
    // SAFETY: register arithmetic; the caller vouches for `S`.
    unsafe {
        let mut x = [
            S::count_from(column),
            S::splat_u(row),
            S::splat_u(stream.step),
            S::splat_u(stream.site),
        ];
        let mut key = [stream.seed as u32, (stream.seed >> 32) as u32];
        for _ in 0..ROUNDS {
            let (high0, low0) = S::mul_wide(x[0], MULTIPLIERS[0]);
            let (high1, low1) = S::mul_wide(x[2], MULTIPLIERS[1]);
            x = [
                S::xor_u(S::xor_u(high1, x[1]), S::splat_u(key[0])),
                low1,
                S::xor_u(S::xor_u(high0, x[3]), S::splat_u(key[1])),
                low0,
            ];
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        x
    }
}

/// `y = x ∘ mask / (1 − p)` over rows of `columns`; its own backward.
///
/// # Panics
/// Lengths differ or are no multiple of `columns`.
pub fn dropout(isa: Isa, x: &[f32], y: &mut [f32], columns: usize, dropout: Dropout) {
    assert_eq!(x.len(), y.len());
    for_each_row(y, columns, |row, y| {
        simd::run(isa, Row { x: &x[row * columns..][..columns], y, row, dropout });
    });
}

struct Row<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    row: usize,
    dropout: Dropout,
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: slices bound every access; `simd::run` chose `S` for this processor.
        unsafe { self.dropout.factors::<S>(self.row, self.y) };
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y *= x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Scalar;

    fn mask(isa: Isa, probability: f32, stream: Stream, columns: usize, rows: usize) -> Vec<f32> {
        let ones = vec![1.0; rows * columns];
        let mut y = vec![f32::NAN; rows * columns];
        dropout(isa, &ones, &mut y, columns, Dropout { probability, stream });
        y
    }

    const STREAM: Stream = Stream { seed: 42, step: 3, site: 17, first_row: 0 };

    #[test]
    fn philox_matches_a_word_by_word_evaluation() {
        // The published round function on plain integers.
        let mut x = [5u32, 9, 3, 17];
        let mut key = [42u32, 0];
        for _ in 0..ROUNDS {
            let a = u64::from(x[0]) * u64::from(MULTIPLIERS[0]);
            let b = u64::from(x[2]) * u64::from(MULTIPLIERS[1]);
            x = [
                (b >> 32) as u32 ^ x[1] ^ key[0],
                b as u32,
                (a >> 32) as u32 ^ x[3] ^ key[1],
                a as u32,
            ];
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        // SAFETY: the scalar variant needs no special instructions.
        let ours = unsafe { philox::<Scalar>(&STREAM, 5, 9) };
        assert_eq!(x, ours.map(|word| word[0]));
    }

    #[test]
    fn every_instruction_set_draws_the_same_mask() {
        for columns in [1, 7, 16, 127, 128, 129, 384] {
            let expected = mask(Isa::Scalar, 0.1, STREAM, columns, 5);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                assert_eq!(mask(isa, 0.1, STREAM, columns, 5), expected, "{isa} at {columns}");
            }
        }
    }

    #[test]
    fn a_micro_batch_draws_what_the_whole_batch_draws() {
        let whole = mask(Isa::Scalar, 0.3, STREAM, 100, 8);
        let tail = mask(Isa::Scalar, 0.3, Stream { first_row: 5, ..STREAM }, 100, 3);
        assert_eq!(whole[500..], tail);
    }

    #[test]
    fn the_kept_share_and_the_mean_are_what_was_asked() {
        for probability in [0.0, 0.1, 0.5] {
            let y = mask(Isa::Scalar, probability, STREAM, 1000, 1000);
            let dropped = y.iter().filter(|&&x| x == 0.0).count() as f32 / 1e6;
            assert!((dropped - probability).abs() < 2e-3, "{dropped} of {probability}");
            let mean = y.iter().map(|&x| f64::from(x)).sum::<f64>() / 1e6;
            assert!((mean - 1.0).abs() < 4e-3, "{mean}");
        }
    }
}

//! Relative positions in attention: which bucket a distance falls into, and the biases of scores by
//! bucket (Raffel et al. 2019).

use crate::backend::Backend;
use crate::linear::Tensor;
use std::ops::RangeInclusive;

/// What is added to the scores of a layer's attention.
#[derive(Debug)]
pub(crate) struct PositionBias<B: Backend> {
    /// One number per bucket and head [buckets, heads].
    pub(crate) table: Tensor<B>,
    /// The bucket of each of [`distances`].
    pub(crate) buckets: B::Indices,
}

/// All distances key − query in sequences of at most `length` tokens, ascending.
pub(crate) fn distances(length: usize) -> RangeInclusive<i64> {
    let most = length.max(1) as i64 - 1;
    -most..=most
}

/// The bucket of a distance key − query, as Transformers' MPNet has it with 32 buckets and its
/// greatest distance of 128: 16 for keys up to the query and 16 for those behind it. Of these, eight
/// hold one distance each; the others grow by a factor of √2, and the last holds all that is farther.
pub(crate) fn bucket(distance: i64) -> u32 {
    const SIDE: u32 = 16;
    const EXACT: u64 = 8;
    let behind = if distance > 0 { SIDE } else { 0 };
    let far = distance.unsigned_abs();
    if far < EXACT {
        return behind + far as u32;
    }
    // ⌊log₂ (far/8)² ⌋ is the number of factors of √2, without a logarithm's rounding.
    let factors = (far * far).ilog2() - (EXACT * EXACT).ilog2();
    behind + (EXACT as u32 + factors).min(SIDE - 1)
}

#[cfg(test)]
mod tests {
    use super::{bucket, distances};

    #[test]
    fn buckets_are_those_of_the_logarithm() {
        for distance in distances(1 << 12) {
            let far = distance.unsigned_abs() as f32;
            let exponent = (far / 8.0).ln() / 16.0f32.ln() * 8.0;
            let side = if far < 8.0 { far as u32 } else { (8 + exponent as u32).min(15) };
            let expected = if distance > 0 { 16 + side } else { side };
            assert_eq!(bucket(distance), expected, "{distance}");
        }
    }
}

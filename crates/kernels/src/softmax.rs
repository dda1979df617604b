//! Softmax over the rows of a block's scores, forward and backward, with dropout on the probabilities.

use crate::gemm::Matrix;
use crate::pattern::Band;
use crate::simd::{self, Kernel, Simd};

/// Rows of scores become probabilities, dropped out; `lse` receives each row's log-sum-exp.
pub(crate) struct Softmax<'a> {
    pub(crate) scores: &'a mut [f32],
    pub(crate) band: Band,
    pub(crate) factors: Option<&'a [f32]>,
    pub(crate) lse: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let columns = self.band.columns;
        let rows = self.scores.chunks_exact_mut(columns).zip(self.lse);
        for (i, (scores, lse)) in rows.enumerate() {
            let (mut seen, beside) = self.band.row(i);
            if beside {
                // Column 0 stands before the others meanwhile, in place of one that is not seen.
                seen.start -= 1;
                scores[seen.start] = scores[0];
            }
            // SAFETY: `simd::run` chose `S`.
            let (max, sum) = unsafe { exponentials::<S>(&mut scores[seen.clone()]) };
            *lse = max + sum.ln();
            let inverse = 1.0 / sum;
            if beside {
                scores.swap(0, seen.start);
                seen.start += 1;
            }
            scores[usize::from(beside)..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            let factors = self.factors.map(|factors| &factors[i * columns..][..columns]);
            for columns in [0..usize::from(beside), seen] {
                let scores = &mut scores[columns.clone()];
                match factors {
                    Some(factors) => {
                        for (p, factor) in scores.iter_mut().zip(&factors[columns]) {
                            *p *= factor * inverse;
                        }
                    }
                    None => scores.iter_mut().for_each(|p| *p *= inverse),
                }
            }
        }
    }
}

/// `x ← exp(x − max)`; returns the maximum and the sum.
#[inline(always)]
unsafe fn exponentials<S: Simd>(x: &mut [f32]) -> (f32, f32) {
    let n = x.len();
    let whole = n / S::LANES * S::LANES;
    // SAFETY: every access is bounded by `n`; the caller vouches for `S`.
    unsafe {
        let mut largest = S::splat(f32::NEG_INFINITY);
        for i in (0..whole).step_by(S::LANES) {
            largest = S::max(largest, S::load(x.as_ptr().add(i)));
        }
        // A NaN may be passed over here; its own exponential is NaN and so is the sum.
        let max = x[whole..].iter().copied().fold(S::maximum(largest), f32::max);
        let mut sums = S::splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            let at = x.as_mut_ptr().add(i);
            let e = simd::exp::<S>(S::sub(S::load(at), S::splat(max)));
            S::store(at, e);
            sums = S::add(sums, e);
        }
        let mut sum = S::sum(sums);
        if whole < n {
            let at = x.as_mut_ptr().add(whole);
            let e = simd::exp::<S>(S::sub(S::load_first(at, n - whole), S::splat(max)));
            S::store_first(at, n - whole, e);
            sum += x[whole..].iter().sum::<f32>();
        }
        (max, sum)
    }
}

/// Scores become dropped-out probabilities; slopes dP become dS = P ∘ (mask ∘ dP − dO·O).
pub(crate) struct SoftmaxBackward<'a> {
    pub(crate) scores: &'a mut [f32],
    pub(crate) slopes: &'a mut [f32],
    pub(crate) band: Band,
    pub(crate) factors: Option<&'a [f32]>,
    /// [rows, heads]
    pub(crate) lse: Matrix<'a>,
    pub(crate) head: usize,
    /// This head's columns of O and dO.
    pub(crate) out: Matrix<'a>,
    pub(crate) dout: Matrix<'a>,
}

impl Kernel for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let columns = self.band.columns;
        let rows = self.scores.chunks_exact_mut(columns);
        let rows = rows.zip(self.slopes.chunks_exact_mut(columns));
        for (row, (scores, slopes)) in rows.enumerate() {
            let (seen, beside) = self.band.row(row);
            for numbers in [&mut *scores, &mut *slopes] {
                numbers[usize::from(beside)..seen.start].fill(0.0);
                numbers[seen.end..].fill(0.0);
            }
            let factors = self.factors.map(|factors| &factors[row * columns..][..columns]);
            // SAFETY: `simd::run` chose `S`.
            unsafe {
                let dot = dot::<S>(self.out.row(row), self.dout.row(row));
                let lse = self.lse.row(row)[self.head];
                for columns in [0..usize::from(beside), seen] {
                    let factors = factors.map(|factors| &factors[columns.clone()]);
                    let (scores, slopes) =
                        (&mut scores[columns.clone()], &mut slopes[columns.clone()]);
                    softmax_backward::<S>(scores, slopes, factors, lse, dot);
                }
            }
        }
    }
}

/// Of columns that a row sees: scores become P ∘ mask, slopes dP become P ∘ (mask ∘ dP − dot).
#[inline(always)]
unsafe fn softmax_backward<S: Simd>(
    scores: &mut [f32],
    slopes: &mut [f32],
    factors: Option<&[f32]>,
    lse: f32,
    dot: f32,
) {
    let n = scores.len();
    assert!(slopes.len() == n && factors.is_none_or(|factors| factors.len() == n));
    // SAFETY: every access is bounded by `n`; the caller vouches for `S`.
    unsafe {
        let (lse, dot) = (S::splat(lse), S::splat(dot));
        for i in (0..n).step_by(S::LANES) {
            let count = (n - i).min(S::LANES);
            let (scores, slopes) = (scores.as_mut_ptr().add(i), slopes.as_mut_ptr().add(i));
            let p = simd::exp::<S>(S::sub(S::load_first(scores, count), lse));
            let dp = S::load_first(slopes, count);
            let mask = match factors {
                Some(factors) => S::load_first(factors.as_ptr().add(i), count),
                None => S::splat(1.0),
            };
            let ds = S::mul(p, S::sub(S::mul(mask, dp), dot));
            S::store_first(slopes, count, ds);
            S::store_first(scores, count, S::mul(p, mask));
        }
    }
}

/// The inner product of two rows of a length.
#[inline(always)]
unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // SAFETY: bounded by both lengths; the caller vouches for `S`.
    unsafe {
        let mut sums = S::splat(0.0);
        for i in (0..a.len()).step_by(S::LANES) {
            let count = (a.len() - i).min(S::LANES);
            let a = S::load_first(a.as_ptr().add(i), count);
            sums = S::fma(a, S::load_first(b.as_ptr().add(i), count), sums);
        }
        S::sum(sums)
    }
}

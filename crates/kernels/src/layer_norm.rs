//! LayerNorm over the sum of a residual and a dropped-out branch, and its backward.
//!
//! Forward: `s = dropout(x) + residual`, `y = γ·(s − mean)/√(var + ε) + β` (Ba et al. 2016; biased
//! variance, as in PyTorch). `s` and the statistics are kept for backward.

use crate::Isa;
use crate::dropout::Dropout;
use crate::simd::{self, Kernel, Simd};
use crate::threads;

/// Rows that one task walks.
const ROWS: usize = 16;

/// What is normalised, and how.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormInputs<'a> {
    /// Added to the branch, [T, H].
    pub residual: Option<&'a [f32]>,
    /// Applied to the branch.
    pub dropout: Option<Dropout>,
    /// Scale γ `[H]`.
    pub weight: &'a [f32],
    /// Shift β `[H]`, where there is one.
    pub bias: Option<&'a [f32]>,
    /// ε.
    pub eps: f32,
}

/// `x` [T, H] holds the branch and receives `s`; `y` [T, H] the result; `statistics` [T, 2] each
/// row's mean and 1/√(var + ε).
///
/// # Panics
/// Lengths do not fit.
pub fn layer_norm(
    isa: Isa,
    x: &mut [f32],
    inputs: LayerNormInputs<'_>,
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let columns = inputs.weight.len();
    assert!(inputs.bias.is_none_or(|bias| bias.len() == columns));
    assert!(x.len() == y.len() && statistics.len() * columns == x.len() * 2);
    assert!(inputs.residual.is_none_or(|residual| residual.len() == x.len()));
    let size = ROWS * columns;
    let block = |index: usize, x: &mut [f32], y: &mut [f32], statistics: &mut [f32]| {
        simd::run(isa, Forward { x, y, statistics, inputs, first_row: index * ROWS });
    };
    let blocks = x.chunks_mut(size).zip(y.chunks_mut(size)).zip(statistics.chunks_mut(2 * ROWS));
    threads::for_each(blocks.enumerate(), |(index, ((x, y), statistics))| {
        block(index, x, y, statistics);
    });
}

struct Forward<'a> {
    x: &'a mut [f32],
    y: &'a mut [f32],
    statistics: &'a mut [f32],
    inputs: LayerNormInputs<'a>,
    first_row: usize,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let columns = self.inputs.weight.len();
        let rows = self.x.chunks_mut(columns).zip(self.y.chunks_mut(columns));
        for (i, ((x, y), statistics)) in rows.zip(self.statistics.chunks_mut(2)).enumerate() {
            let row = self.first_row + i;
            if let Some(dropout) = self.inputs.dropout {
                // `y` serves as scratch for the mask.
                // SAFETY: `simd::run` chose `S` for this processor.
                unsafe { dropout.factors::<S>(row, y) };
                for (x, factor) in x.iter_mut().zip(&*y) {
                    *x *= factor;
                }
            }
            if let Some(residual) = self.inputs.residual {
                for (x, r) in x.iter_mut().zip(&residual[row * columns..]) {
                    *x += r;
                }
            }
            // SAFETY: all slices are one row long; `simd::run` chose `S`.
            unsafe { normalise::<S>(x, &self.inputs, y, statistics) };
        }
    }
}

#[inline(always)]
unsafe fn normalise<S: Simd>(
    x: &[f32],
    inputs: &LayerNormInputs<'_>,
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let n = x.len();
    // SAFETY: every access is bounded by `n`, the length of all slices.
    unsafe {
        let mut sum = S::splat(0.0);
        let mut i = 0;
        while i < n {
            let count = (n - i).min(S::LANES);
            sum = S::add(sum, S::load_first(x.as_ptr().add(i), count));
            i += count;
        }
        let mean = S::sum(sum) / n as f32;
        let mut squares = S::splat(0.0);
        let mut i = 0;
        while i + S::LANES <= n {
            let d = S::sub(S::load(x.as_ptr().add(i)), S::splat(mean));
            squares = S::fma(d, d, squares);
            i += S::LANES;
        }
        let mut square = S::sum(squares);
        for &x in &x[i..] {
            square += (x - mean) * (x - mean);
        }
        let rstd = 1.0 / (square / n as f32 + inputs.eps).sqrt();
        statistics.copy_from_slice(&[mean, rstd]);
        let mut i = 0;
        while i < n {
            let count = (n - i).min(S::LANES);
            let d = S::sub(S::load_first(x.as_ptr().add(i), count), S::splat(mean));
            let weight = S::load_first(inputs.weight.as_ptr().add(i), count);
            let x = S::mul(d, S::splat(rstd));
            let value = match inputs.bias {
                Some(bias) => S::fma(x, weight, S::load_first(bias.as_ptr().add(i), count)),
                None => S::mul(x, weight),
            };
            S::store_first(y.as_mut_ptr().add(i), count, value);
            i += count;
        }
    }
}

/// Backward to `s`: `dy` [T, H] becomes ds, which is also the residual's gradient. Where the branch
/// had dropout, its gradient (ds behind the same mask) goes to `branch`.
///
/// # Panics
/// Lengths do not fit.
pub fn layer_norm_backward(
    isa: Isa,
    s: &[f32],
    statistics: &[f32],
    weight: &[f32],
    dy: &mut [f32],
    branch: Option<(Dropout, &mut [f32])>,
) {
    let columns = weight.len();
    assert!(s.len() == dy.len() && statistics.len() * columns == s.len() * 2);
    let size = ROWS * columns;
    let block = |index: usize, dy: &mut [f32], branch: Option<(Dropout, &mut [f32])>| {
        simd::run(isa, Backward { s, statistics, weight, dy, branch, first_row: index * ROWS });
    };
    match branch {
        None => threads::for_each(dy.chunks_mut(size).enumerate(), |(i, dy)| block(i, dy, None)),
        Some((dropout, branch)) => {
            assert_eq!(branch.len(), dy.len());
            let blocks = dy.chunks_mut(size).zip(branch.chunks_mut(size));
            threads::for_each(blocks.enumerate(), |(i, (dy, branch))| {
                block(i, dy, Some((dropout, branch)));
            });
        }
    }
}

struct Backward<'a> {
    s: &'a [f32],
    statistics: &'a [f32],
    weight: &'a [f32],
    dy: &'a mut [f32],
    branch: Option<(Dropout, &'a mut [f32])>,
    first_row: usize,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let n = self.weight.len();
        for (i, dy) in self.dy.chunks_mut(n).enumerate() {
            let row = self.first_row + i;
            let s = &self.s[row * n..][..n];
            let [mean, rstd] = [self.statistics[2 * row], self.statistics[2 * row + 1]];
            // ds = rstd·(g − mean(g) − x̂·mean(g·x̂)), g = γ·dy
            // SAFETY: every access is bounded by `n`, the length of the rows.
            unsafe {
                let (mut sum, mut dot) = (S::splat(0.0), S::splat(0.0));
                let mut i = 0;
                while i < n {
                    let count = (n - i).min(S::LANES);
                    let g = S::mul(
                        S::load_first(self.weight.as_ptr().add(i), count),
                        S::load_first(dy.as_ptr().add(i), count),
                    );
                    // Lanes beyond the row: g is 0 there, so x̂ does not matter.
                    let x = S::sub(S::load_first(s.as_ptr().add(i), count), S::splat(mean));
                    sum = S::add(sum, g);
                    dot = S::fma(g, x, dot);
                    i += count;
                }
                let mean_g = S::sum(sum) / n as f32;
                let mean_gx = S::sum(dot) * rstd / n as f32;
                let mut i = 0;
                while i < n {
                    let count = (n - i).min(S::LANES);
                    let g = S::mul(
                        S::load_first(self.weight.as_ptr().add(i), count),
                        S::load_first(dy.as_ptr().add(i), count),
                    );
                    let x = S::sub(S::load_first(s.as_ptr().add(i), count), S::splat(mean));
                    let x = S::mul(x, S::splat(rstd));
                    let ds = S::sub(S::sub(g, S::splat(mean_g)), S::mul(x, S::splat(mean_gx)));
                    S::store_first(dy.as_mut_ptr().add(i), count, S::mul(ds, S::splat(rstd)));
                    i += count;
                }
            }
            if let Some((dropout, branch)) = &mut self.branch {
                let branch = &mut branch[i * n..][..n];
                // SAFETY: `simd::run` chose `S` for this processor.
                unsafe { dropout.factors::<S>(row, branch) };
                for (b, ds) in branch.iter_mut().zip(&*dy) {
                    *b *= ds;
                }
            }
        }
    }
}

/// `dγ += Σ dy·x̂`, `dβ += Σ dy` where there is β, rows in ascending order.
///
/// # Panics
/// Lengths do not fit.
pub fn layer_norm_parameter_gradients(
    s: &[f32],
    statistics: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
    dbias: Option<&mut [f32]>,
) {
    let columns = dweight.len();
    assert!(dbias.as_ref().is_none_or(|dbias| dbias.len() == columns) && s.len() == dy.len());
    assert_eq!(statistics.len() * columns, s.len() * 2);
    const STRIP: usize = 64;
    // Threads take columns, never rows: the order of each sum stays fixed.
    let mut dbias = dbias.into_iter().flat_map(|dbias| dbias.chunks_mut(STRIP));
    let strips = dweight.chunks_mut(STRIP).map(|dweight| (dweight, dbias.next())).enumerate();
    threads::for_each(strips, |(strip, (dweight, mut dbias))| {
        let first = strip * STRIP;
        for (row, statistics) in statistics.chunks(2).enumerate() {
            let at = row * columns + first;
            for j in 0..dweight.len() {
                dweight[j] += dy[at + j] * (s[at + j] - statistics[0]) * statistics[1];
                if let Some(dbias) = &mut dbias {
                    dbias[j] += dy[at + j];
                }
            }
        }
    });
}

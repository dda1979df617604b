//! Multi-head softmax attention inside each sequence of a packed batch (Vaswani et al. 2017), with
//! dropout on the probabilities.
//!
//! Sequence `b` owns query rows `cu_q[b]..cu_q[b+1]` and key rows `cu_kv[b]..cu_kv[b+1]`; they are
//! the same rows except in a last layer of which only some queries are wanted. Queries are walked
//! in blocks, whose scores against all keys live in a thread's scratch: memory is linear in length
//! and probabilities are never stored. Forward leaves each row's log-sum-exp, from which backward
//! recomputes them (as in FlashAttention, Dao et al. 2022). One thread handles one head of one
//! sequence, so sums have one order.

use crate::dropout::Dropout;
use crate::gemm::{self, Epilogue, Matrix, Output, PackedMatrix};
use crate::simd::{self, Kernel, Simd};
use crate::threads;
use crate::{Isa, Precision};
use std::cell::RefCell;

/// Query rows per block.
const BLOCK: usize = 64;

/// Shape and dropout of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// First query row of each sequence and, last, their number: [B + 1].
    pub cu_q: &'a [u32],
    /// First key row of each sequence and, last, their number: [B + 1].
    pub cu_kv: &'a [u32],
    /// Number of heads; head `h` takes columns `h·D..(h+1)·D` of the rows.
    pub heads: usize,
    /// D.
    pub head_size: usize,
    /// Factor on the scores, usually 1/√D.
    pub scale: f32,
    /// Dropout on the probabilities.
    pub dropout: Option<Dropout>,
    /// Precision of the products' inputs; softmax is f32.
    pub precision: Precision,
}

/// Queries [Q, H], keys and values [T, H], H = heads · D.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// Buffers that a thread keeps between calls.
#[derive(Default)]
struct Scratch {
    packed: [PackedMatrix; 5],
    scores: Vec<f32>,
    slopes: Vec<f32>,
    factors: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Attention<'_> {
    fn width(&self) -> usize {
        self.heads * self.head_size
    }

    fn check(&self, inputs: &AttentionInputs<'_>) {
        let (cu_q, cu_kv) = (self.cu_q, self.cu_kv);
        assert!(!cu_q.is_empty() && cu_q.len() == cu_kv.len(), "cu_q and cu_kv differ in length");
        assert!(cu_q.is_sorted() && cu_kv.is_sorted(), "sequence starts must ascend");
        let rows = |cu: &[u32]| cu[cu.len() - 1] as usize * self.width();
        assert_eq!(inputs.q.len(), rows(cu_q), "queries");
        assert_eq!(inputs.k.len(), rows(cu_kv), "keys");
        assert_eq!(inputs.v.len(), rows(cu_kv), "values");
    }

    /// Runs `f` for every head of every sequence.
    fn for_each_head(&self, f: impl Fn(Head<'_>, &mut Scratch) + Sync + Send) {
        let sequences = self.cu_q.len() - 1;
        threads::for_each(0..sequences * self.heads, |task| {
            let (sequence, head) = (task / self.heads, task % self.heads);
            let range = |cu: &[u32]| cu[sequence] as usize..cu[sequence + 1] as usize;
            let head = Head {
                attention: self,
                index: head,
                queries: range(self.cu_q),
                keys: range(self.cu_kv),
            };
            if head.queries.is_empty() || head.keys.is_empty() {
                return;
            }
            SCRATCH.with(|scratch| f(head, &mut scratch.borrow_mut()));
        });
    }
}

/// One head of one sequence.
struct Head<'a> {
    attention: &'a Attention<'a>,
    index: usize,
    queries: std::ops::Range<usize>,
    keys: std::ops::Range<usize>,
}

impl Head<'_> {
    /// This head's columns of some rows.
    fn view<'b>(&self, data: &'b [f32], rows: std::ops::Range<usize>) -> Matrix<'b> {
        let Attention { head_size, .. } = *self.attention;
        let width = self.attention.width();
        let start = rows.start * width + self.index * head_size;
        Matrix::strided(&data[start..], rows.len(), head_size, width)
    }

    /// Where this head's columns of the rows from `row` on are written.
    ///
    /// # Safety
    /// `data` points to rows of the attention's width, `row` among them.
    unsafe fn output(&self, data: Output, row: usize) -> Output {
        let offset = row * data.row_stride + self.index * self.attention.head_size;
        // SAFETY: the row exists and has columns for every head.
        Output { data: unsafe { data.data.add(offset) }, ..data }
    }

    fn blocks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let queries = self.queries.clone();
        queries.clone().step_by(BLOCK).map(move |start| start..(start + BLOCK).min(queries.end))
    }

    /// Row of the dropout mask for a query, and the mask's stream.
    fn dropout(&self) -> Option<Dropout> {
        let heads = self.attention.heads as u32;
        self.attention.dropout.map(|mut dropout| {
            dropout.stream.first_row = dropout.stream.first_row.wrapping_mul(heads);
            dropout
        })
    }

    fn dropout_row(&self, query: usize) -> usize {
        query * self.attention.heads + self.index
    }
}

/// All of `a·b` into `output`, on this thread.
///
/// # Safety
/// `output` may be written at `a.rows` rows and `b.columns()` columns.
unsafe fn product(
    isa: Isa,
    a: Matrix<'_>,
    b: &PackedMatrix,
    output: Output,
    epilogue: Epilogue<'_>,
) {
    // SAFETY: passed on to the caller.
    unsafe { gemm::block_product(isa, a, b.into(), 0..a.rows, 0..b.panels(), output, epilogue) };
}

fn scores_into(
    isa: Isa,
    head: &Head<'_>,
    q: Matrix<'_>,
    keys: &PackedMatrix,
    scores: &mut Vec<f32>,
) {
    let columns = keys.columns();
    scores.resize(scores.len().max(BLOCK * columns), 0.0);
    let output = Output { data: scores.as_mut_ptr(), row_stride: columns };
    let epilogue = Epilogue { alpha: head.attention.scale, ..Epilogue::default() };
    // SAFETY: the scratch has BLOCK rows of `columns` numbers.
    unsafe { product(isa, q, keys, output, epilogue) };
}

/// `out` [Q, H] receives the attention, `lse` [Q, heads] each row's log-sum-exp.
///
/// # Panics
/// Lengths do not fit.
pub fn attention(
    isa: Isa,
    attention: Attention<'_>,
    inputs: AttentionInputs<'_>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    attention.check(&inputs);
    assert_eq!(out.len(), inputs.q.len());
    assert_eq!(lse.len() * attention.head_size, out.len());
    let out = Output { data: out.as_mut_ptr(), row_stride: attention.width() };
    let lse = Output { data: lse.as_mut_ptr(), row_stride: attention.heads };
    attention.for_each_head(|head, scratch| {
        let Scratch { packed: [keys, values, ..], scores, factors, .. } = scratch;
        let columns = head.keys.len();
        keys.pack(isa, attention.precision, head.view(inputs.k, head.keys.clone()).transposed());
        values.pack(isa, attention.precision, head.view(inputs.v, head.keys.clone()));
        factors.resize(factors.len().max(columns), 0.0);
        for block in head.blocks() {
            scores_into(isa, &head, head.view(inputs.q, block.clone()), keys, scores);
            for (row, scores) in block.clone().zip(scores.chunks_mut(columns)) {
                let softmax = Softmax {
                    scores,
                    factors: &mut factors[..columns],
                    dropout: head.dropout().map(|dropout| (dropout, head.dropout_row(row))),
                };
                let value = simd::run(isa, softmax);
                // SAFETY: this task alone writes this row and head.
                unsafe { lse.set(row, head.index, value) };
            }
            let probabilities = Matrix::new(scores, block.len(), columns);
            // SAFETY: this task alone writes these rows of this head's columns.
            unsafe {
                let out = head.output(out, block.start);
                product(isa, probabilities, values, out, Epilogue::default());
            }
        }
    });
}

/// Scores become probabilities, dropped out; the result is the row's log-sum-exp.
struct Softmax<'a> {
    scores: &'a mut [f32],
    factors: &'a mut [f32],
    dropout: Option<(Dropout, usize)>,
}

impl Kernel for Softmax<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let n = self.scores.len();
        // SAFETY: every access is bounded by `n`; `simd::run` chose `S`.
        unsafe {
            let scores = self.scores.as_mut_ptr();
            let mut largest = S::splat(f32::NEG_INFINITY);
            let mut i = 0;
            while i + S::LANES <= n {
                largest = S::max(largest, S::load(scores.add(i)));
                i += S::LANES;
            }
            // A NaN may be passed over here; its own exponential is NaN and so is the sum.
            let max = self.scores[i..].iter().copied().fold(S::maximum(largest), f32::max);
            let mut sum = 0.0;
            let mut sums = S::splat(0.0);
            let mut i = 0;
            while i < n {
                let count = (n - i).min(S::LANES);
                let x = S::sub(S::load_first(scores.add(i), count), S::splat(max));
                S::store_first(scores.add(i), count, simd::exp::<S>(x));
                if count == S::LANES {
                    sums = S::add(sums, S::load(scores.add(i)));
                } else {
                    sum = self.scores[i..].iter().sum();
                }
                i += count;
            }
            sum += S::sum(sums);
            let inverse = 1.0 / sum;
            match self.dropout {
                Some((dropout, row)) => {
                    dropout.factors::<S>(row, self.factors);
                    for (p, factor) in self.scores.iter_mut().zip(&*self.factors) {
                        *p *= factor * inverse;
                    }
                }
                None => {
                    for p in self.scores {
                        *p *= inverse;
                    }
                }
            }
            max + sum.ln()
        }
    }
}

/// Backward: from `out`, `lse` and `dout` [Q, H] to `dq` [Q, H], `dk` and `dv` [T, H], all three
/// overwritten.
///
/// # Panics
/// Lengths do not fit.
#[expect(
    clippy::too_many_arguments,
    reason = "three inputs of forward, three of backward, three results"
)]
pub fn attention_backward(
    isa: Isa,
    attention: Attention<'_>,
    inputs: AttentionInputs<'_>,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    attention.check(&inputs);
    let queries = inputs.q.len();
    assert!(out.len() == queries && dout.len() == queries && dq.len() == queries);
    assert!(dk.len() == inputs.k.len() && dv.len() == inputs.k.len());
    assert_eq!(lse.len() * attention.head_size, queries);
    let row_stride = attention.width();
    let dq = Output { data: dq.as_mut_ptr(), row_stride };
    let dk = Output { data: dk.as_mut_ptr(), row_stride };
    let dv = Output { data: dv.as_mut_ptr(), row_stride };
    let scale = Epilogue { alpha: attention.scale, ..Epilogue::default() };
    attention.for_each_head(|head, scratch| {
        let Scratch { packed, scores, slopes, factors } = scratch;
        let [keys_t, keys, values_t, block_q, block_dout] = packed;
        let columns = head.keys.len();
        let (k, v) =
            (head.view(inputs.k, head.keys.clone()), head.view(inputs.v, head.keys.clone()));
        keys_t.pack(isa, attention.precision, k.transposed());
        keys.pack(isa, attention.precision, k);
        values_t.pack(isa, attention.precision, v.transposed());
        slopes.resize(slopes.len().max(BLOCK * columns), 0.0);
        factors.resize(factors.len().max(columns), 0.0);
        for block in head.blocks() {
            let (q, d) = (head.view(inputs.q, block.clone()), head.view(dout, block.clone()));
            let o = head.view(out, block.clone());
            scores_into(isa, &head, q, keys_t, scores);
            // dP = dO·Vᵀ
            let output = Output { data: slopes.as_mut_ptr(), row_stride: columns };
            // SAFETY: the scratch has BLOCK rows of `columns` numbers.
            unsafe { product(isa, d, values_t, output, Epilogue::default()) };
            for (i, row) in block.clone().enumerate() {
                let part = i * row_stride..i * row_stride + attention.head_size;
                let softmax = SoftmaxBackward {
                    scores: &mut scores[i * columns..][..columns],
                    slopes: &mut slopes[i * columns..][..columns],
                    factors: &mut factors[..columns],
                    lse: lse[row * attention.heads + head.index],
                    out: &o.data[part.clone()],
                    dout: &d.data[part],
                    dropout: head.dropout().map(|dropout| (dropout, head.dropout_row(row))),
                };
                simd::run(isa, softmax);
            }
            let p = Matrix::new(scores, block.len(), columns);
            let ds = Matrix::new(slopes, block.len(), columns);
            block_q.pack(isa, attention.precision, q);
            block_dout.pack(isa, attention.precision, d);
            let accumulate = block.start > head.queries.start;
            // SAFETY: this task alone writes these rows of this head's columns.
            unsafe {
                let (dk, dv) = (head.output(dk, head.keys.start), head.output(dv, head.keys.start));
                let sum = Epilogue { accumulate, ..Epilogue::default() };
                product(isa, p.transposed(), block_dout, dv, sum);
                product(isa, ds.transposed(), block_q, dk, Epilogue { accumulate, ..scale });
                product(isa, ds, keys, head.output(dq, block.start), scale);
            }
        }
    });
}

/// Scores become dropped-out probabilities; slopes dP become dS = P ∘ (mask ∘ dP − dO·O).
struct SoftmaxBackward<'a> {
    scores: &'a mut [f32],
    slopes: &'a mut [f32],
    factors: &'a mut [f32],
    lse: f32,
    out: &'a [f32],
    dout: &'a [f32],
    dropout: Option<(Dropout, usize)>,
}

impl Kernel for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.scores.len();
        // SAFETY: every access is bounded by `n` or the head's size; `simd::run` chose `S`.
        unsafe {
            let mut dots = S::splat(0.0);
            for i in (0..self.out.len()).step_by(S::LANES) {
                let count = (self.out.len() - i).min(S::LANES);
                let o = S::load_first(self.out.as_ptr().add(i), count);
                dots = S::fma(o, S::load_first(self.dout.as_ptr().add(i), count), dots);
            }
            let dot = S::splat(S::sum(dots));
            match self.dropout {
                Some((dropout, row)) => dropout.factors::<S>(row, self.factors),
                None => self.factors.fill(1.0),
            }
            let mut i = 0;
            while i < n {
                let count = (n - i).min(S::LANES);
                let scores = self.scores.as_mut_ptr().add(i);
                let slopes = self.slopes.as_mut_ptr().add(i);
                let p = simd::exp::<S>(S::sub(S::load_first(scores, count), S::splat(self.lse)));
                let mask = S::load_first(self.factors.as_ptr().add(i), count);
                let dp = S::mul(mask, S::load_first(slopes, count));
                S::store_first(slopes, count, S::mul(p, S::sub(dp, dot)));
                S::store_first(scores, count, S::mul(p, mask));
                i += count;
            }
        }
    }
}

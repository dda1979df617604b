//! Multi-head softmax attention inside each sequence of a packed batch (Vaswani et al. 2017), with
//! dropout on the probabilities.
//!
//! Sequence `b` owns query rows `cu_q[b]..cu_q[b+1]` and key rows `cu_kv[b]..cu_kv[b+1]`; they are
//! the same rows except in a last layer of which only some queries are wanted. Queries are walked
//! in blocks, whose scores against all keys live in a thread's scratch: memory is linear in length
//! and probabilities are never stored. Forward leaves each row's log-sum-exp, from which backward
//! recomputes them (as in FlashAttention, Dao et al. 2022). One thread handles one head of one
//! sequence, so sums have one order.
//!
//! Where queries do not see all keys (see [`Pattern`]), a block meets only those that some query of it
//! sees: time is linear in length, too.

use crate::dropout::{self, Dropout};
use crate::gemm::{self, After, Epilogue, Matrix, Output, PackedMatrix};
use crate::pattern::{HeadPattern, Pattern};
use crate::relative_bias::{AddBias, RelativeBias, RelativeBiasGradient, SumSlopes};
use crate::simd::{self, Kernel, Simd};
use crate::softmax::{Softmax, SoftmaxBackward};
use crate::threads;
use crate::{Isa, Precision};
use std::cell::RefCell;
use std::ops::Range;

/// Query rows per block.
pub(crate) const BLOCK: usize = 64;

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
    /// Added to the scores; a sequence's queries are then its first tokens.
    pub bias: Option<RelativeBias<'a>>,
    /// Which keys a query sees.
    pub pattern: Pattern<'a>,
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
    columns: Columns,
    scores: Vec<f32>,
    slopes: Vec<f32>,
    factors: Vec<f32>,
    /// Biases of a head by distance, and their slopes.
    biases: Vec<f32>,
    bias_slopes: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Attention<'_> {
    pub(crate) fn width(&self) -> usize {
        self.heads * self.head_size
    }

    pub(crate) fn check(&self, inputs: &AttentionInputs<'_>) {
        let (cu_q, cu_kv) = (self.cu_q, self.cu_kv);
        assert!(!cu_q.is_empty() && cu_q.len() == cu_kv.len(), "cu_q and cu_kv differ in length");
        assert!(cu_q.is_sorted() && cu_kv.is_sorted(), "sequence starts must ascend");
        let rows = |cu: &[u32]| cu[cu.len() - 1] as usize * self.width();
        assert_eq!(inputs.q.len(), rows(cu_q), "queries");
        assert_eq!(inputs.k.len(), rows(cu_kv), "keys");
        assert_eq!(inputs.v.len(), rows(cu_kv), "values");
        if let Some(bias) = &self.bias {
            bias.check(self.heads, cu_q, cu_kv);
        }
        let all = matches!(self.pattern, Pattern::All);
        assert!(all || self.bias.is_none(), "a bias where not all keys are seen");
        self.pattern.check(self.heads, cu_q, cu_kv);
    }

    /// A head of a sequence.
    pub(crate) fn head(&self, sequence: usize, index: usize) -> Head<'_> {
        let range = |cu: &[u32]| cu[sequence] as usize..cu[sequence + 1] as usize;
        let (queries, keys) = (range(self.cu_q), range(self.cu_kv));
        let pattern = self.pattern.in_head((sequence, index), self.heads, keys.len());
        Head { attention: self, sequence, index, queries, keys, pattern }
    }

    /// Runs `f` for every head of every sequence.
    fn for_each_head(&self, f: impl Fn(Head<'_>, &mut Scratch) + Sync + Send) {
        let sequences = self.cu_q.len() - 1;
        threads::for_each(0..sequences * self.heads, |task| {
            let head = self.head(task / self.heads, task % self.heads);
            if head.queries.is_empty() || head.keys.is_empty() {
                return;
            }
            SCRATCH.with(|scratch| f(head, &mut scratch.borrow_mut()));
        });
    }
}

/// One head of one sequence.
pub(crate) struct Head<'a> {
    pub(crate) attention: &'a Attention<'a>,
    sequence: usize,
    pub(crate) index: usize,
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Range<usize>,
    pub(crate) pattern: HeadPattern<'a>,
}

/// The keys that a block of queries sees.
#[derive(Default)]
struct Columns {
    /// From the sequence's start, in the order of the columns.
    spans: Vec<Range<usize>>,
    /// Those of the block before.
    before: Vec<Range<usize>>,
    /// Keys and values [columns, D] of several spans, side by side.
    gathered: [Vec<f32>; 2],
}

impl Columns {
    /// Goes on to the next block; returns whether it sees other keys than the one before.
    fn advance(&mut self, head: &Head<'_>, block: &Range<usize>) -> bool {
        std::mem::swap(&mut self.spans, &mut self.before);
        head.pattern.spans(&head.own(block), &mut self.spans);
        block.start == head.queries.start || self.spans != self.before
    }

    /// This head's keys and values.
    fn view<'b>(&'b mut self, head: &Head<'_>, inputs: AttentionInputs<'b>) -> [Matrix<'b>; 2] {
        if let [span] = &self.spans[..] {
            return [inputs.k, inputs.v].map(|data| head.view(data, head.keys_of(span)));
        }
        for (data, gathered) in [inputs.k, inputs.v].into_iter().zip(&mut self.gathered) {
            gathered.clear();
            for span in &self.spans {
                let rows = head.view(data, head.keys_of(span));
                (0..rows.rows).for_each(|row| gathered.extend_from_slice(rows.row(row)));
            }
        }
        let columns = self.spans.iter().map(Range::len).sum();
        self.gathered.each_ref().map(|data| Matrix::new(data, columns, head.attention.head_size))
    }
}

impl Head<'_> {
    /// This head's columns of some rows.
    pub(crate) fn view<'b>(&self, data: &'b [f32], rows: Range<usize>) -> Matrix<'b> {
        let Attention { head_size, .. } = *self.attention;
        let width = self.attention.width();
        let start = rows.start * width + self.index * head_size;
        Matrix::strided(&data[start..], rows.len(), head_size, width)
    }

    /// Where this head's columns of the rows from `row` on are written.
    ///
    /// # Safety
    /// `data` points to rows of the attention's width, `row` among them.
    pub(crate) unsafe fn output(&self, data: Output, row: usize) -> Output {
        let offset = row * data.row_stride + self.index * self.attention.head_size;
        // SAFETY: the row exists and has columns for every head.
        Output { data: unsafe { data.data.add(offset) }, ..data }
    }

    /// Sets this head's columns of a row to 0.
    ///
    /// # Safety
    /// As [`output`](Head::output), and no one else reads or writes them.
    pub(crate) unsafe fn clear(&self, data: Output, row: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            let Output { data, .. } = self.output(data, row);
            std::slice::from_raw_parts_mut(data, self.attention.head_size).fill(0.0);
        }
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let first = self.queries.start;
        let blocks = self.pattern.blocks(self.queries.len(), BLOCK);
        blocks.map(move |block| first + block.start..first + block.end)
    }

    /// A block's queries, counted from the sequence's start.
    pub(crate) fn own(&self, block: &Range<usize>) -> Range<usize> {
        block.start - self.queries.start..block.end - self.queries.start
    }

    /// The rows of keys that are counted from the sequence's start.
    fn keys_of(&self, span: &Range<usize>) -> Range<usize> {
        self.keys.start + span.start..self.keys.start + span.end
    }

    /// This head's biases by distance, in `biases`.
    fn biases<'f>(&self, biases: &'f mut Vec<f32>) -> Option<&'f [f32]> {
        let bias = self.attention.bias?;
        bias.by_distance(self.attention.heads, self.index, self.keys.len(), biases);
        Some(biases)
    }

    /// The mask of a block's probabilities [block, columns], in `factors`. All of a head's
    /// probabilities are one row of the mask, so that short sequences draw no more numbers than
    /// they have.
    pub(crate) fn mask<'f>(
        &self,
        isa: Isa,
        block: &Range<usize>,
        columns: usize,
        factors: &'f mut Vec<f32>,
    ) -> Option<&'f [f32]> {
        let mut dropout = self.attention.dropout.filter(|_| self.pattern.may_drop())?;
        let first_row = &mut dropout.stream.first_row;
        let sequence = first_row.wrapping_add(self.queries.start as u32);
        *first_row =
            sequence.wrapping_mul(self.attention.heads as u32).wrapping_add(self.index as u32);
        let size = block.len() * columns;
        factors.resize(factors.len().max(size), 0.0);
        let chunks = dropout::chunks(BLOCK * self.pattern.most_seen(BLOCK));
        let first = (block.start - self.queries.start) / BLOCK * chunks;
        simd::run(isa, Mask { dropout, first, factors: &mut factors[..size] });
        Some(&factors[..size])
    }
}

struct Mask<'a> {
    dropout: Dropout,
    first: usize,
    factors: &'a mut [f32],
}

impl Kernel for Mask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: `simd::run` chose `S`.
        unsafe { self.dropout.factors_from::<S>(0, self.first, self.factors) }
    }
}

/// All of `a·b` into `output`, on this thread.
///
/// # Safety
/// `output` may be written at `a.rows` rows and `b.columns()` columns.
pub(crate) unsafe fn product(
    isa: Isa,
    a: Matrix<'_>,
    b: &PackedMatrix,
    output: Output,
    epilogue: Epilogue<'_>,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let (rows, panels) = (0..a.rows, 0..b.panels());
        gemm::block_product(isa, a, b.into(), rows, panels, output, epilogue, After::Nothing);
    }
}

/// The scores of a block's queries q.
pub(crate) fn scores_into(
    isa: Isa,
    head: &Head<'_>,
    (block, q): (&Range<usize>, Matrix<'_>),
    keys: &PackedMatrix,
    biases: Option<&[f32]>,
    scores: &mut Vec<f32>,
) {
    let columns = keys.columns();
    scores.resize(scores.len().max(BLOCK * columns), 0.0);
    let output = Output { data: scores.as_mut_ptr(), row_stride: columns };
    let epilogue = Epilogue { alpha: head.attention.scale, ..Epilogue::default() };
    // SAFETY: the scratch has BLOCK rows of `columns` numbers.
    unsafe { product(isa, q, keys, output, epilogue) };
    if let Some(by_distance) = biases {
        let (first, scores) = (block.start - head.queries.start, &mut scores[..q.rows * columns]);
        simd::run(isa, AddBias { by_distance, first, columns, scores });
    }
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
        let Scratch { packed: [keys, values, ..], columns: seen, scores, factors, biases, .. } =
            scratch;
        let biases = head.biases(biases);
        for block in head.blocks() {
            if seen.advance(&head, &block) {
                let [k, v] = seen.view(&head, inputs);
                keys.pack(isa, attention.precision, k.transposed());
                values.pack(isa, attention.precision, v);
            }
            let columns = keys.columns();
            let band = head.pattern.band(&head.own(&block), columns);
            let q = head.view(inputs.q, block.clone());
            scores_into(isa, &head, (&block, q), keys, biases, scores);
            let scores = &mut scores[..block.len() * columns];
            let factors = head.mask(isa, &block, columns, factors);
            let mut sums = [0.0; BLOCK];
            simd::run(isa, Softmax { scores, band, factors, lse: &mut sums });
            for (row, sum) in block.clone().zip(sums) {
                // SAFETY: this task alone writes this row and head.
                unsafe { lse.set(row, head.index, sum) };
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

/// Backward: from `out`, `lse` and `dout` [Q, H] to `dq` [Q, H], `dk` and `dv` [T, H], all three
/// overwritten, and to the bias's gradient where it is wanted.
///
/// # Panics
/// Lengths do not fit, or a gradient is wanted of a bias that is not there.
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
    dbias: Option<RelativeBiasGradient<'_>>,
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
    let heads = attention.heads;
    let mut dbias = dbias;
    let bias_gradient = dbias.as_mut().map(|dbias| {
        let bias = attention.bias.expect("a bias, since its gradient is wanted");
        assert_eq!(dbias.table.len(), bias.table.len());
        let (sequences, buckets) = (attention.cu_q.len() - 1, bias.table.len() / heads);
        let sums = RelativeBiasGradient::partial_sums(sequences, buckets, heads);
        assert_eq!(dbias.partial.len(), sums);
        dbias.partial.fill(0.0);
        (bias, Output { data: dbias.partial.as_mut_ptr(), row_stride: buckets })
    });
    attention.for_each_head(|head, scratch| {
        let Scratch { packed, columns: seen, scores, slopes, factors, biases, bias_slopes } =
            scratch;
        let biases = head.biases(biases);
        let [keys_t, keys, values_t, block_q, block_dout] = packed;
        slopes.resize(slopes.len().max(BLOCK * head.pattern.most_seen(BLOCK)), 0.0);
        bias_slopes.clear();
        bias_slopes.resize(bias_gradient.map_or(0, |_| 2 * head.keys.len() - 1), 0.0);
        if !head.pattern.is_all() {
            // Blocks see keys of their own and of others.
            for key in head.keys.clone() {
                // SAFETY: this task alone writes these rows of this head's columns.
                unsafe { [dk, dv].into_iter().for_each(|rows| head.clear(rows, key)) };
            }
        }
        for block in head.blocks() {
            if seen.advance(&head, &block) {
                let [k, v] = seen.view(&head, inputs);
                keys_t.pack(isa, attention.precision, k.transposed());
                keys.pack(isa, attention.precision, k);
                values_t.pack(isa, attention.precision, v.transposed());
            }
            let columns = keys_t.columns();
            let (q, d) = (head.view(inputs.q, block.clone()), head.view(dout, block.clone()));
            scores_into(isa, &head, (&block, q), keys_t, biases, scores);
            // dP = dO·Vᵀ
            let output = Output { data: slopes.as_mut_ptr(), row_stride: columns };
            // SAFETY: the scratch has BLOCK rows of `columns` numbers.
            unsafe { product(isa, d, values_t, output, Epilogue::default()) };
            let softmax = SoftmaxBackward {
                scores: &mut scores[..block.len() * columns],
                slopes: &mut slopes[..block.len() * columns],
                band: head.pattern.band(&head.own(&block), columns),
                factors: head.mask(isa, &block, columns, factors),
                lse: Matrix::strided(
                    &lse[block.start * attention.heads..],
                    block.len(),
                    attention.heads,
                    attention.heads,
                ),
                head: head.index,
                out: head.view(out, block.clone()),
                dout: d,
            };
            simd::run(isa, softmax);
            if bias_gradient.is_some() {
                let (first, by_distance) = (block.start - head.queries.start, &mut bias_slopes[..]);
                let slopes = &slopes[..block.len() * columns];
                simd::run(isa, SumSlopes { by_distance, first, columns, slopes });
            }
            block_q.pack(isa, attention.precision, q);
            block_dout.pack(isa, attention.precision, d);
            let ds = Matrix::new(slopes, block.len(), columns);
            // SAFETY: this task alone writes these rows of this head's columns.
            unsafe { product(isa, ds, keys, head.output(dq, block.start), scale) };
            let accumulate = !head.pattern.is_all() || block.start > head.queries.start;
            let sum = Epilogue { accumulate, ..Epilogue::default() };
            let mut first = 0;
            for span in &seen.spans {
                let part = |numbers| Matrix::strided(numbers, block.len(), span.len(), columns);
                let (p, ds) = (part(&scores[first..]), part(&slopes[first..]));
                let row = head.keys_of(span).start;
                // SAFETY: as above.
                unsafe {
                    product(isa, p.transposed(), block_dout, head.output(dv, row), sum);
                    let scale = Epilogue { accumulate, ..scale };
                    product(isa, ds.transposed(), block_q, head.output(dk, row), scale);
                }
                first += span.len();
            }
        }
        if let Some((bias, partial)) = bias_gradient {
            let first = (head.sequence * heads + head.index) * partial.row_stride;
            // SAFETY: the partial sums of this head of this sequence, which this task alone writes.
            let by_bucket = unsafe {
                std::slice::from_raw_parts_mut(partial.data.add(first), partial.row_stride)
            };
            bias.by_bucket(head.keys.len(), bias_slopes, by_bucket);
        }
    });
    if let Some(dbias) = dbias {
        dbias.reduce(heads);
    }
}

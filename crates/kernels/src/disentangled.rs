//! Disentangled attention (He et al. 2020, DeBERTa): to the scores of contents are added those of
//! queries with keys of their relative positions, and of keys with queries of theirs:
//! `s·(qᵢ·kⱼ + qᵢ·k(i − j) + kⱼ·q(i − j))`.
//!
//! The products with positions are taken once per position, not per pair: along a row of scores the
//! position rises with the key, so that a row gathers its numbers from the [queries, positions] and
//! [keys, positions] of its block; of these only the positions that a block can meet are computed.
//! Backward sums the scores' slopes by position first, and goes through the same products.
//!
//! Positions belong to all sequences, so their gradients are sums over sequences: sequences are cut
//! into at most [`GROUPS`] groups, of which each sums for itself in their order. One thread handles
//! one head of one group, so sums have one order.

use crate::attention::{self, Attention, AttentionInputs, BLOCK, Head};
use crate::by_position::{AddByKey, AddByQuery, Among, SumByKey, SumByQuery};
use crate::gemm::{self, After, Epilogue, Matrix, Output, PackedMatrix};
use crate::rows::for_each_row;
use crate::simd;
use crate::softmax::{Softmax, SoftmaxBackward};
use crate::{Isa, threads};
use std::cell::RefCell;
use std::ops::Range;

/// Most groups of sequences.
const GROUPS: usize = 8;

/// What is known of relative positions, each a row of [P, H].
#[derive(Clone, Copy, Debug)]
pub struct RelativePositions<'a> {
    /// Their keys, which queries meet.
    pub keys: Option<&'a [f32]>,
    /// Their queries, which keys meet.
    pub queries: Option<&'a [f32]>,
    /// The row of each distance key − query from −(L − 1) to L − 1, where L is the most keys that a
    /// sequence may have: ascending [2L − 1].
    pub of_distance: &'a [u32],
}

/// Where the gradient of positions' keys or queries goes.
#[derive(Debug)]
pub struct PositionGradient<'a> {
    /// Is overwritten [P, H].
    pub gradient: &'a mut [f32],
    /// Scratch of [`partial_sums`](PositionGradient::partial_sums) numbers.
    pub partial: &'a mut [f32],
}

impl PositionGradient<'_> {
    /// How many numbers the scratch has.
    pub fn partial_sums(sequences: usize, positions: usize, width: usize) -> usize {
        groups(sequences) * positions * width
    }

    /// Adds up the groups' sums, in their order.
    fn reduce(self, width: usize) {
        let size = self.gradient.len();
        for_each_row(self.gradient, width, |row, sums| {
            sums.fill(0.0);
            for partial in self.partial.chunks_exact(size) {
                let partial = &partial[row * width..][..width];
                sums.iter_mut().zip(partial).for_each(|(sum, x)| *sum += x);
            }
        });
    }
}

fn groups(sequences: usize) -> usize {
    sequences.min(GROUPS)
}

impl<'a> RelativePositions<'a> {
    /// # Panics
    /// Rows are not of the attention's width, or there is none for a distance; a sequence has more
    /// queries than keys; or the attention has a bias or a pattern.
    fn check(&self, attention: &Attention<'_>) {
        assert!(attention.bias.is_none(), "a bias beside positions");
        let of_distance = self.of_distance;
        assert!(of_distance.len() % 2 == 1 && of_distance.is_sorted(), "positions must ascend");
        let most = of_distance[of_distance.len() - 1] as usize;
        for rows in [self.keys, self.queries].into_iter().flatten() {
            assert!(rows.len().is_multiple_of(attention.width()), "rows of positions");
            assert!(most < rows.len() / attention.width(), "no row of position {most}");
        }
        for sequence in 0..attention.cu_q.len() - 1 {
            let head = attention.head(sequence, 0);
            assert!(head.pattern.is_all(), "positions where not all keys are seen");
            let (queries, keys) = (head.queries.len(), head.keys.len());
            assert!(queries <= keys, "{queries} queries of {keys} keys");
            assert!(2 * keys <= of_distance.len() + 1, "{keys} keys have no position");
        }
    }

    /// Positions among `keys` keys.
    fn among(&self, keys: usize) -> Among<'a> {
        let zero = self.of_distance.len() / 2;
        Among { of_distance: &self.of_distance[zero + 1 - keys..zero + keys], keys }
    }
}

/// Buffers that a thread keeps between calls.
#[derive(Default)]
struct Scratch {
    keys_t: PackedMatrix,
    /// Values forward, keys backward.
    other: PackedMatrix,
    values_t: PackedMatrix,
    block_q: PackedMatrix,
    block_dout: PackedMatrix,
    /// Some positions [positions, D].
    part: PackedMatrix,
    terms: Terms,
    scores: Vec<f32>,
    slopes: Vec<f32>,
    factors: Vec<f32>,
    /// The slopes of [`Terms::by_query`] and of [`Terms::by_key`].
    by_query_slopes: Vec<f32>,
    by_key_slopes: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

/// The products of a head with positions.
#[derive(Default)]
struct Terms {
    /// The group's positions.
    window: Range<usize>,
    /// Their keys and queries [D, positions].
    keys_t: PackedMatrix,
    queries_t: PackedMatrix,
    /// Of a block's queries [BLOCK, positions].
    by_query: Vec<f32>,
    /// Of a sequence's keys [n, positions], rows [`stride`](Terms::stride) apart.
    by_key: Vec<f32>,
}

impl Terms {
    /// Reads what a head meets in a group of sequences.
    fn begin(
        &mut self,
        isa: Isa,
        positions: &RelativePositions<'_>,
        attention: &Attention<'_>,
        sequences: &Range<usize>,
        index: usize,
    ) {
        let precision = attention.precision;
        let heads = || heads(attention, sequences.clone(), index);
        let Some(head) = heads().max_by_key(|head| head.keys.len()) else { return };
        self.window = positions.among(head.keys.len()).all();
        for (rows, packed) in
            [(positions.keys, &mut self.keys_t), (positions.queries, &mut self.queries_t)]
        {
            if let Some(rows) = rows {
                packed.pack(isa, precision, head.view(rows, self.window.clone()).transposed());
            }
        }
    }

    /// Numbers between rows by key. A row of scores reads one number of each, on a slant: neighbours
    /// must not fall into the same set of a cache.
    fn stride(&self) -> usize {
        self.window.len().next_multiple_of(32) + 15
    }

    /// Products of a sequence's keys with the queries of the positions between them and its queries.
    fn meet_keys(&mut self, isa: Isa, head: &Head<'_>, among: Among<'_>, k: &[f32]) {
        let stride = self.stride();
        self.by_key.resize(self.by_key.len().max(among.keys * stride), 0.0);
        for keys in among.blocks() {
            let met = self.within(&among.between(&(0..head.queries.len()), &keys));
            let k = head.view(k, head.keys.start + keys.start..head.keys.start + keys.end);
            let output = &mut self.by_key[keys.start * stride..];
            let output = Output { data: output.as_mut_ptr(), row_stride: stride };
            // SAFETY: the scratch has a row for every key, with room for all positions.
            unsafe { part_of_product(isa, k, &self.queries_t, &met, output, head.scale()) };
        }
    }

    /// Products of a block's queries with the keys of the positions that they meet.
    fn meet_queries(&mut self, isa: Isa, head: &Head<'_>, met: &Range<usize>, q: Matrix<'_>) {
        let columns = self.window.len();
        self.by_query.resize(self.by_query.len().max(BLOCK * columns), 0.0);
        let output = Output { data: self.by_query.as_mut_ptr(), row_stride: columns };
        let met = self.within(met);
        // SAFETY: the scratch has BLOCK rows with room for all positions.
        unsafe { part_of_product(isa, q, &self.keys_t, &met, output, head.scale()) };
    }

    /// Positions, counted from the window's start.
    fn within(&self, positions: &Range<usize>) -> Range<usize> {
        positions.start - self.window.start..positions.end - self.window.start
    }
}

/// At least these columns of `a·b`, on this thread.
///
/// # Safety
/// `output` may be written at `a.rows` rows and `b.columns()` columns.
unsafe fn part_of_product(
    isa: Isa,
    a: Matrix<'_>,
    b: &PackedMatrix,
    columns: &Range<usize>,
    output: Output,
    epilogue: Epilogue<'_>,
) {
    let (rows, panels) = (0..a.rows, b.panels_of(columns));
    // SAFETY: passed on to the caller.
    unsafe { gemm::block_product(isa, a, b.into(), rows, panels, output, epilogue, After::Nothing) }
}

impl Head<'_> {
    fn scale(&self) -> Epilogue<'static> {
        Epilogue { alpha: self.attention.scale, ..Epilogue::default() }
    }
}

/// Runs `f` for every head of every group of sequences: the group's number, the head's, sequences.
fn for_each_group(
    attention: &Attention<'_>,
    f: impl Fn(usize, usize, Range<usize>, &mut Scratch) + Sync,
) {
    let (sequences, heads) = (attention.cu_q.len() - 1, attention.heads);
    let groups = groups(sequences);
    threads::for_each(0..groups * heads, |task| {
        let (group, head) = (task / heads, task % heads);
        let own = group * sequences / groups..(group + 1) * sequences / groups;
        SCRATCH.with(|scratch| f(group, head, own, &mut scratch.borrow_mut()));
    });
}

/// A head of those sequences that have queries.
fn heads<'a>(
    attention: &'a Attention<'_>,
    sequences: Range<usize>,
    index: usize,
) -> impl Iterator<Item = Head<'a>> {
    let heads = sequences.map(move |sequence| attention.head(sequence, index));
    heads.filter(|head| !head.queries.is_empty())
}

/// The scores of a block's queries `q`.
fn scores_into(
    isa: Isa,
    head: &Head<'_>,
    positions: &RelativePositions<'_>,
    (block, q): (&Range<usize>, Matrix<'_>),
    keys: &PackedMatrix,
    terms: &mut Terms,
    scores: &mut Vec<f32>,
) {
    attention::scores_into(isa, head, (block, q), keys, None, scores);
    let (among, own) = (positions.among(keys.columns()), head.own(block));
    let scores = &mut scores[..q.rows * among.keys];
    if positions.keys.is_some() {
        terms.meet_queries(isa, head, &among.between(&own, &(0..among.keys)), q);
        let (by_query, window) = (&terms.by_query, &terms.window);
        simd::run(isa, AddByQuery { among, first: own.start, by_query, window, scores });
    }
    if positions.queries.is_some() {
        let (by_key, stride, window) = (&terms.by_key, terms.stride(), &terms.window);
        simd::run(isa, AddByKey { among, first: own.start, by_key, stride, window, scores });
    }
}

/// `out` [Q, H] receives the attention, `lse` [Q, heads] each row's log-sum-exp.
///
/// # Panics
/// Lengths do not fit.
pub fn disentangled_attention(
    isa: Isa,
    attention: Attention<'_>,
    inputs: AttentionInputs<'_>,
    positions: RelativePositions<'_>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    attention.check(&inputs);
    positions.check(&attention);
    assert_eq!(out.len(), inputs.q.len());
    assert_eq!(lse.len() * attention.head_size, out.len());
    let out = Output { data: out.as_mut_ptr(), row_stride: attention.width() };
    let lse = Output { data: lse.as_mut_ptr(), row_stride: attention.heads };
    for_each_group(&attention, |_, index, sequences, scratch| {
        let Scratch { keys_t: keys, other: values, terms, scores, factors, .. } = scratch;
        terms.begin(isa, &positions, &attention, &sequences, index);
        for head in heads(&attention, sequences, index) {
            let columns = head.keys.len();
            let k = head.view(inputs.k, head.keys.clone());
            keys.pack(isa, attention.precision, k.transposed());
            values.pack(isa, attention.precision, head.view(inputs.v, head.keys.clone()));
            if positions.queries.is_some() {
                terms.meet_keys(isa, &head, positions.among(columns), inputs.k);
            }
            for block in head.blocks() {
                let q = head.view(inputs.q, block.clone());
                scores_into(isa, &head, &positions, (&block, q), keys, terms, scores);
                let scores = &mut scores[..block.len() * columns];
                let band = head.pattern.band(&head.own(&block), columns);
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
                    attention::product(isa, probabilities, values, out, Epilogue::default());
                }
            }
        }
    });
}

/// Backward: from `out`, `lse` and `dout` [Q, H] to `dq` [Q, H], `dk` and `dv` [T, H], all three
/// overwritten, and to the gradients of positions' keys and queries where they are wanted.
///
/// # Panics
/// Lengths do not fit, or a gradient is wanted of what is not there.
#[expect(
    clippy::too_many_arguments,
    reason = "four inputs of forward, three of backward, five results"
)]
pub fn disentangled_attention_backward(
    isa: Isa,
    attention: Attention<'_>,
    inputs: AttentionInputs<'_>,
    positions: RelativePositions<'_>,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    gradients: [Option<PositionGradient<'_>>; 2],
) {
    attention.check(&inputs);
    positions.check(&attention);
    let (queries, width) = (inputs.q.len(), attention.width());
    assert!(out.len() == queries && dout.len() == queries && dq.len() == queries);
    assert!(dk.len() == inputs.k.len() && dv.len() == inputs.k.len());
    assert_eq!(lse.len() * attention.head_size, queries);
    let dq = Output { data: dq.as_mut_ptr(), row_stride: width };
    let dk = Output { data: dk.as_mut_ptr(), row_stride: width };
    let dv = Output { data: dv.as_mut_ptr(), row_stride: width };
    let mut gradients = gradients;
    let mut of_positions = [positions.keys, positions.queries].into_iter();
    let [dkeys, dqueries] = gradients.each_mut().map(|gradient| {
        let rows = of_positions.next().expect("two").map_or(0, <[f32]>::len);
        gradient.as_mut().map(|PositionGradient { gradient, partial }| {
            assert!(gradient.len() == rows && rows > 0, "a gradient of {rows} numbers");
            assert_eq!(partial.len(), groups(attention.cu_q.len() - 1) * rows);
            Partial {
                output: Output { data: partial.as_mut_ptr(), row_stride: width },
                rows: rows / width,
            }
        })
    });
    for_each_group(&attention, |group, index, sequences, scratch| {
        let Scratch { keys_t, other: keys, values_t, block_q, block_dout, part, terms, .. } =
            scratch;
        let Scratch { scores, slopes, factors, by_query_slopes, by_key_slopes, .. } = scratch;
        terms.begin(isa, &positions, &attention, &sequences, index);
        let precision = attention.precision;
        // SAFETY: this task alone writes this head's columns of this group's sums.
        let [dkeys, dqueries] = unsafe {
            [dkeys, dqueries].map(|sums| sums.map(|sums| sums.cleared(&attention, group, index)))
        };
        for head in heads(&attention, sequences, index) {
            let (columns, scale) = (head.keys.len(), head.scale());
            let (among, more) = (positions.among(columns), Epilogue { accumulate: true, ..scale });
            let (k, v) =
                (head.view(inputs.k, head.keys.clone()), head.view(inputs.v, head.keys.clone()));
            keys_t.pack(isa, precision, k.transposed());
            keys.pack(isa, precision, k);
            values_t.pack(isa, precision, v.transposed());
            slopes.resize(slopes.len().max(BLOCK * columns), 0.0);
            if positions.queries.is_some() {
                terms.meet_keys(isa, &head, among, inputs.k);
                by_key_slopes.clear();
                by_key_slopes.resize(columns * terms.stride(), 0.0);
            }
            for block in head.blocks() {
                let (q, d) = (head.view(inputs.q, block.clone()), head.view(dout, block.clone()));
                scores_into(isa, &head, &positions, (&block, q), keys_t, terms, scores);
                // dP = dO·Vᵀ
                let output = Output { data: slopes.as_mut_ptr(), row_stride: columns };
                // SAFETY: the scratch has BLOCK rows of `columns` numbers.
                unsafe { attention::product(isa, d, values_t, output, Epilogue::default()) };
                let own = head.own(&block);
                let lse = &lse[block.start * attention.heads..];
                let softmax = SoftmaxBackward {
                    scores: &mut scores[..block.len() * columns],
                    slopes: &mut slopes[..block.len() * columns],
                    band: head.pattern.band(&own, columns),
                    factors: head.mask(isa, &block, columns, factors),
                    lse: Matrix::strided(lse, block.len(), attention.heads, attention.heads),
                    head: index,
                    out: head.view(out, block.clone()),
                    dout: d,
                };
                simd::run(isa, softmax);
                block_q.pack(isa, precision, q);
                block_dout.pack(isa, precision, d);
                let p = Matrix::new(scores, block.len(), columns);
                let ds = Matrix::new(slopes, block.len(), columns);
                let accumulate = own.start > 0;
                // SAFETY: this task alone writes these rows of this head's columns.
                unsafe {
                    let (dk, dv) =
                        (head.output(dk, head.keys.start), head.output(dv, head.keys.start));
                    let sum = Epilogue { accumulate, ..Epilogue::default() };
                    attention::product(isa, p.transposed(), block_dout, dv, sum);
                    let sum = Epilogue { accumulate, ..scale };
                    attention::product(isa, ds.transposed(), block_q, dk, sum);
                    attention::product(isa, ds, keys, head.output(dq, block.start), scale);
                }
                if let Some(rows) = positions.keys {
                    let met = among.between(&own, &(0..columns));
                    by_query_slopes.clear();
                    by_query_slopes.resize(block.len() * met.len(), 0.0);
                    let slopes = &slopes[..block.len() * columns];
                    let by_query = &mut by_query_slopes[..];
                    simd::run(
                        isa,
                        SumByQuery { among, first: own.start, by_query, met: &met, slopes },
                    );
                    let ds = Matrix::new(by_query_slopes, block.len(), met.len());
                    part.pack(isa, precision, head.view(rows, met.clone()));
                    // SAFETY: as above; the group's sums have a row for every position.
                    unsafe {
                        attention::product(isa, ds, part, head.output(dq, block.start), more);
                        if let Some(sums) = dkeys {
                            let sums = head.output(sums, met.start);
                            attention::product(isa, ds.transposed(), block_q, sums, more);
                        }
                    }
                }
                if positions.queries.is_some() {
                    let (stride, window) = (terms.stride(), &terms.window);
                    let slopes = &slopes[..block.len() * columns];
                    let by_key = &mut by_key_slopes[..];
                    simd::run(
                        isa,
                        SumByKey { among, first: own.start, by_key, stride, window, slopes },
                    );
                }
            }
            let Some(rows) = positions.queries else { continue };
            for own in among.blocks() {
                let met = among.between(&(0..head.queries.len()), &own);
                let keys = head.keys.start + own.start..head.keys.start + own.end;
                let first = own.start * terms.stride() + terms.within(&met).start;
                let ds =
                    Matrix::strided(&by_key_slopes[first..], own.len(), met.len(), terms.stride());
                part.pack(isa, precision, head.view(rows, met.clone()));
                // SAFETY: as above.
                unsafe {
                    attention::product(isa, ds, part, head.output(dk, keys.start), more);
                    if let Some(sums) = dqueries {
                        block_q.pack(isa, precision, head.view(inputs.k, keys));
                        let sums = head.output(sums, met.start);
                        attention::product(isa, ds.transposed(), block_q, sums, more);
                    }
                }
            }
        }
    });
    gradients.into_iter().flatten().for_each(|gradient| gradient.reduce(width));
}

/// The groups' sums of a gradient of positions [groups, P, H].
#[derive(Clone, Copy)]
struct Partial {
    output: Output,
    /// P.
    rows: usize,
}

impl Partial {
    /// A group's sums, 0 in a head's columns.
    ///
    /// # Safety
    /// No one else touches these columns of this group meanwhile.
    unsafe fn cleared(self, attention: &Attention<'_>, group: usize, index: usize) -> Output {
        let Output { data, row_stride } = self.output;
        // SAFETY: there are as many rows for each group.
        let sums = Output { data: unsafe { data.add(group * self.rows * row_stride) }, row_stride };
        let head = attention.head(0, index);
        // SAFETY: the rows exist; passed on to the caller.
        (0..self.rows).for_each(|row| unsafe { head.clear(sums, row) });
        sums
    }
}

//! The seam between networks and the machine that runs them: opaque buffers and the closed set of
//! operations that fine-tuning an encoder needs, each with its backward. Networks call these and
//! never touch numbers or assume where a buffer lives.
//!
//! Matrices are row-major f32; vectors are matrices of one row. Operations check shapes and panic
//! on a mismatch: that is a bug in a network, never bad input.

use crate::checkpoint::StoredWeight;
use kernels::{Activation, Dropout, Precision};
use std::fmt::Debug;

/// What an opaque matrix tells of itself.
pub trait Shape {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Numbers per row.
    fn columns(&self) -> usize;
}

/// A general product `C = op(A)·op(B) (+ C)`; `op` transposes where asked.
#[derive(Debug)]
pub struct Product<'a, M> {
    /// A.
    pub a: &'a M,
    /// Whether A is transposed first.
    pub transpose_a: bool,
    /// B.
    pub b: &'a M,
    /// Whether B is transposed first.
    pub transpose_b: bool,
    /// Whether it is added to what C holds.
    pub accumulate: bool,
    /// Precision of the inputs.
    pub precision: Precision,
}

/// `y = x·Wᵀ (+ bias) (+ z·Bᵀ) (+ y)` with a frozen W, or with W itself where `transposed` is false.
#[derive(Debug)]
pub struct PackedProduct<'a, M, P> {
    /// x.
    pub x: &'a M,
    /// W.
    pub weight: &'a P,
    /// Whether W is transposed.
    pub transposed: bool,
    /// One number per column [1, out].
    pub bias: Option<&'a M>,
    /// An adapter's z [T, r] and B [out, r].
    pub low_rank: Option<(&'a M, &'a M)>,
    /// Whether the product is added to what y holds.
    pub accumulate: bool,
    /// What is done with the sum.
    pub after: After<'a, M>,
}

/// What is done with a product before it is stored.
#[derive(Debug)]
pub enum After<'a, M> {
    /// It is stored as it is.
    Nothing,
    /// Its exact GELU is stored, and GELU's slope there in this matrix.
    Gelu(Option<&'a mut M>),
    /// It is multiplied by these factors, one by one: backward of GELU.
    Times(&'a M),
}

/// The affine part of a LayerNorm and its ε.
#[derive(Debug)]
pub struct Norm<'a, M> {
    /// Scale [1, H].
    pub weight: &'a M,
    /// Shift [1, H], where there is one.
    pub bias: Option<&'a M>,
    /// ε.
    pub eps: f32,
}

/// A bias of attention scores by the distance of key and query.
#[derive(Debug)]
pub struct RelativeBias<'a, M, I> {
    /// One number per bucket and head [buckets, heads].
    pub table: &'a M,
    /// The bucket of each distance key − query that there may be, from the least on; 0 is in the
    /// middle.
    pub buckets: &'a I,
}

/// Keys and queries of relative positions: see [`kernels::RelativePositions`].
#[derive(Debug)]
pub struct RelativePositions<'a, M, I> {
    /// Keys, which queries meet [P, H].
    pub keys: Option<&'a M>,
    /// Queries, which keys meet [P, H].
    pub queries: Option<&'a M>,
    /// The row of each distance key − query that there may be, from the least on; that of 0 is in
    /// the middle.
    pub of_distance: &'a I,
}

impl<'a, M, I> RelativePositions<'a, M, I> {
    /// Keys and queries, where these are wanted.
    pub(crate) fn wanted(&self, wanted: [bool; 2]) -> [Option<&'a M>; 2] {
        [self.keys.filter(|_| wanted[0]), self.queries.filter(|_| wanted[1])]
    }
}

/// Which keys of its sequence a query sees; see [`kernels::Pattern`].
#[derive(Debug)]
pub enum Pattern<'a, I> {
    /// All.
    All,
    /// Those near it.
    Window {
        /// The farthest distance at which a key is seen.
        reach: usize,
        /// Whether the sequence's first key is seen from everywhere.
        first: bool,
    },
    /// Those of some blocks; see [`kernels::Blocks`].
    Blocks {
        /// Keys per block.
        size: usize,
        /// Sequences of at most so many keys are not cut.
        whole: usize,
        /// Random blocks of each query.
        random: usize,
        /// Their numbers [rows, heads, random].
        table: &'a I,
        /// The row of each sequence's second block `[B]`.
        rows: I,
    },
}

/// Rotary positions: see [`kernels::Rotary`].
#[derive(Debug)]
pub struct Rotary<'a, M, I> {
    /// Position of each row `[T]`.
    pub positions: &'a I,
    /// Cosines and sines of a position's angles [positions, D].
    pub table: &'a M,
}

/// Where sequences begin in query and key rows, how heads cut the columns, what is added to the
/// scores and which of them there are.
#[derive(Debug)]
pub struct AttentionShape<'a, M, I> {
    /// First query row of each sequence and, last, their number: [B + 1].
    pub cu_q: &'a I,
    /// First key row of each sequence and, last, their number: [B + 1].
    pub cu_kv: &'a I,
    /// Number of heads.
    pub heads: usize,
    /// Is added to the scores; a sequence's queries are then its first tokens.
    pub bias: Option<RelativeBias<'a, M, I>>,
    /// Which keys a query sees; unless all, a sequence's queries are its first tokens and there is
    /// no bias.
    pub pattern: Pattern<'a, I>,
    /// Dropout on the probabilities.
    pub dropout: Option<Dropout>,
}

/// What forward attention leaves for backward.
#[derive(Debug)]
pub struct AttentionSaved<M> {
    /// Queries [Q, H].
    pub q: M,
    /// Keys [T, H].
    pub k: M,
    /// Values [T, H].
    pub v: M,
    /// Result [Q, H].
    pub out: M,
    /// Log-sum-exp of the scores [Q, heads].
    pub lse: M,
}

/// A machine that runs networks.
pub trait Backend: Debug {
    /// A matrix of f32, its memory returned for reuse when dropped.
    type Matrix: Shape + Debug;
    /// A list of u32: token ids, row numbers, sequence starts.
    type Indices: Debug;
    /// A frozen matrix in the layout its products like best.
    type Packed: Debug;

    /// A matrix of unspecified content.
    fn matrix(&self, rows: usize, columns: usize) -> Self::Matrix;
    /// A matrix of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Self::Matrix;
    /// A matrix with this content.
    fn upload(&self, rows: usize, columns: usize, data: &[f32]) -> Self::Matrix;
    /// Replaces a matrix's content.
    fn write(&self, matrix: &mut Self::Matrix, data: &[f32]);
    /// A matrix's content.
    fn download(&self, matrix: &Self::Matrix) -> Vec<f32>;
    /// A copy.
    fn copy(&self, matrix: &Self::Matrix) -> Self::Matrix;
    /// A list of numbers.
    fn indices(&self, values: Vec<u32>) -> Self::Indices;
    /// Every number plus `by`.
    fn shifted(&self, values: &Self::Indices, by: u32) -> Self::Indices;
    /// Packs a frozen weight [out, in] for `x·Wᵀ` and `dy·W`.
    fn pack(&self, weight: StoredWeight, out: usize, input: usize) -> Self::Packed;
    /// Precision of the products of large matrices.
    fn precision(&self) -> Precision;

    /// See [`PackedProduct`].
    fn packed_product(
        &self,
        product: PackedProduct<'_, Self::Matrix, Self::Packed>,
        y: &mut Self::Matrix,
    );
    /// See [`Product`].
    fn product(&self, product: Product<'_, Self::Matrix>, c: &mut Self::Matrix);
    /// `s·dropout(x)·Aᵀ` [T, r].
    fn lora_down(
        &self,
        x: &Self::Matrix,
        a: &Self::Matrix,
        scale: f32,
        dropout: Option<Dropout>,
    ) -> Self::Matrix;
    /// For z = [`lora_down`](Backend::lora_down) without s, given dz [T, r]: `da += ∂A`, and
    /// `dx += ∂x` where it is wanted.
    fn lora_down_backward(
        &self,
        x: &Self::Matrix,
        a: &Self::Matrix,
        dropout: Option<Dropout>,
        dz: &Self::Matrix,
        da: &mut Self::Matrix,
        dx: Option<&mut Self::Matrix>,
    );
    /// For `y += z·Bᵀ`: `db += ∂B`; returns s·∂z [T, r].
    fn lora_up_backward(
        &self,
        dy: &Self::Matrix,
        z: &Self::Matrix,
        b: &Self::Matrix,
        scale: f32,
        db: &mut Self::Matrix,
    ) -> Self::Matrix;
    /// `y[i] += bias` for every row.
    fn add_bias(&self, y: &mut Self::Matrix, bias: &Self::Matrix);
    /// `sums += Σᵢ x[i]`.
    fn sum_rows(&self, x: &Self::Matrix, sums: &mut Self::Matrix);
    /// `y[i] (+)= table[rows[i]]`.
    fn gather_rows(
        &self,
        table: &Self::Matrix,
        rows: &Self::Indices,
        accumulate: bool,
        y: &mut Self::Matrix,
    );
    /// `y[rows[i]] = values[i]`.
    fn set_rows(&self, y: &mut Self::Matrix, rows: &Self::Indices, values: &Self::Matrix);
    /// `table[rows[i]] += y[i]`.
    fn scatter_add_rows(&self, table: &mut Self::Matrix, rows: &Self::Indices, y: &Self::Matrix);

    /// `x ← dropout(x) + residual`; returns LayerNorm(x) and the rows' statistics [T, 2].
    fn layer_norm(
        &self,
        x: &mut Self::Matrix,
        residual: Option<&Self::Matrix>,
        dropout: Option<Dropout>,
        norm: Norm<'_, Self::Matrix>,
    ) -> (Self::Matrix, Self::Matrix);
    /// `dy` becomes the gradient of the normalised sum; with dropout, the branch's gradient is
    /// returned (without, it is the same).
    fn layer_norm_backward(
        &self,
        sum: &Self::Matrix,
        statistics: &Self::Matrix,
        weight: &Self::Matrix,
        dropout: Option<Dropout>,
        dy: &mut Self::Matrix,
    ) -> Option<Self::Matrix>;
    /// Adds the gradients of a LayerNorm's weight and bias.
    fn layer_norm_parameter_gradients(
        &self,
        sum: &Self::Matrix,
        statistics: &Self::Matrix,
        dy: &Self::Matrix,
        dweight: &mut Self::Matrix,
        dbias: Option<&mut Self::Matrix>,
    );
    /// `y ← f(y)`; its slope there goes to `slope`.
    fn activate(&self, f: Activation, y: &mut Self::Matrix, slope: Option<&mut Self::Matrix>);
    /// For rows a, b of `u` [T, 2F]: f(a) ∘ b [T, F]; `u` becomes the slopes by a and by b.
    fn gate(&self, f: Activation, u: &mut Self::Matrix) -> Self::Matrix;
    /// Slopes [T, 2F] become the gradient of what [`gate`](Backend::gate) was given.
    fn gate_backward(&self, slopes: &mut Self::Matrix, dy: &Self::Matrix);
    /// `y ← y + x`.
    fn add(&self, y: &mut Self::Matrix, x: &Self::Matrix);
    /// `y ← by·y`.
    fn scale(&self, y: &mut Self::Matrix, by: f32);
    /// `y ← y ∘ factors`.
    fn multiply(&self, y: &mut Self::Matrix, factors: &Self::Matrix);
    /// `x` behind a dropout mask.
    fn dropout(&self, x: &Self::Matrix, dropout: Dropout) -> Self::Matrix;
    /// Queries, keys and values [T, H] of the rows [T, 3H] that hold them side by side; queries and
    /// keys are rotated.
    fn split_rotated(
        &self,
        qkv: &Self::Matrix,
        rotary: Rotary<'_, Self::Matrix, Self::Indices>,
    ) -> [Self::Matrix; 3];
    /// The gradient of `qkv` from those of queries, keys and values.
    fn split_rotated_backward(
        &self,
        gradients: [&Self::Matrix; 3],
        rotary: Rotary<'_, Self::Matrix, Self::Indices>,
    ) -> Self::Matrix;
    /// The mean [B, H] of each sequence's rows of `x` [T, H].
    fn mean_rows(&self, x: &Self::Matrix, cu_seqlens: &Self::Indices) -> Self::Matrix;
    /// The gradient of `x`, of `rows` rows, from that of the means.
    fn mean_rows_backward(
        &self,
        dy: &Self::Matrix,
        cu_seqlens: &Self::Indices,
        rows: usize,
    ) -> Self::Matrix;
    /// Attention inside each sequence.
    fn attention(
        &self,
        shape: AttentionShape<'_, Self::Matrix, Self::Indices>,
        q: Self::Matrix,
        k: Self::Matrix,
        v: Self::Matrix,
    ) -> AttentionSaved<Self::Matrix>;
    /// Gradients of queries, keys and values; that of the bias's table is added to `dbias`.
    fn attention_backward(
        &self,
        shape: AttentionShape<'_, Self::Matrix, Self::Indices>,
        saved: &AttentionSaved<Self::Matrix>,
        dout: &Self::Matrix,
        dbias: Option<&mut Self::Matrix>,
    ) -> [Self::Matrix; 3];
    /// Attention inside each sequence whose scores tell positions too, scaled by the number of their
    /// terms; without bias and pattern.
    fn disentangled_attention(
        &self,
        shape: AttentionShape<'_, Self::Matrix, Self::Indices>,
        positions: RelativePositions<'_, Self::Matrix, Self::Indices>,
        q: Self::Matrix,
        k: Self::Matrix,
        v: Self::Matrix,
    ) -> AttentionSaved<Self::Matrix>;
    /// Gradients of queries, keys and values, and where they are wanted of positions' keys and
    /// queries.
    fn disentangled_attention_backward(
        &self,
        shape: AttentionShape<'_, Self::Matrix, Self::Indices>,
        positions: RelativePositions<'_, Self::Matrix, Self::Indices>,
        saved: &AttentionSaved<Self::Matrix>,
        dout: &Self::Matrix,
        wanted: [bool; 2],
    ) -> ([Self::Matrix; 3], [Option<Self::Matrix>; 2]);
    /// Queries, keys and values [T, H] of the rows [T, 3H] that hold them head by head.
    fn split_heads(&self, qkv: &Self::Matrix, heads: usize) -> [Self::Matrix; 3];
    /// Rows [T, 3H] that hold these [T, H] head by head: the way back, and backward.
    fn join_heads(&self, parts: [&Self::Matrix; 3], heads: usize) -> Self::Matrix;
    /// The vectors of the `size` tokens of its sequence around each token [T, H · size], zeros beyond
    /// the sequence's ends: a convolution's input.
    fn unfold(&self, x: &Self::Matrix, cu_seqlens: &Self::Indices, size: usize) -> Self::Matrix;
    /// Backward of [`unfold`](Backend::unfold): adds to `dx` [T, H].
    fn fold(
        &self,
        dy: &Self::Matrix,
        cu_seqlens: &Self::Indices,
        size: usize,
        dx: &mut Self::Matrix,
    );
    /// Weighted sum of the losses, and the gradient of the whole batch's mean by the logits.
    fn cross_entropy(
        &self,
        logits: &Self::Matrix,
        labels: &Self::Indices,
        class_weights: &[f32],
        total_weight: f32,
    ) -> (f64, Self::Matrix);
    /// Sum of the binary losses of every row and label, given targets of 0 and 1 `[B · C]`, and the
    /// gradient of the whole batch's mean, of `total` terms, by the logits.
    fn binary_cross_entropy(
        &self,
        logits: &Self::Matrix,
        targets: &Self::Indices,
        positive_weights: &[f32],
        total: f32,
    ) -> (f64, Self::Matrix);
    /// One AdamW step of one parameter: value, gradient, first and second moment.
    fn adamw(
        &self,
        step: kernels::AdamW,
        value: &mut Self::Matrix,
        gradient: &Self::Matrix,
        moments: (&mut Self::Matrix, &mut Self::Matrix),
    );
    /// Σ x².
    fn sum_of_squares(&self, x: &Self::Matrix) -> f64;
    /// Sets every number to 0.
    fn clear(&self, x: &mut Self::Matrix);
}

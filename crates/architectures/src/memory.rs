//! The memory of a training step, counted before it is run: the same network on a backend that
//! computes nothing and only counts, as the meta device of PyTorch knows shapes alone, with the allocator of the real one.

use crate::backend::{
    AttentionSaved, AttentionShape, Backend, Norm, PackedProduct, Product, RelativePositions,
    Rotary, Shape,
};
use crate::checkpoint::{Checkpoint, StoredWeight};
use crate::classifier::SequenceClassifier;
use crate::lora::Method;
use crate::pass::{Batch, Pass};
use crate::pool::{Buffer, Pool};
use crate::{Config, Error};
use kernels::{Activation, Dropout, PositionGradient, Precision, RelativeBiasGradient};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that forward and backward of these micro-batches, one after the other, take at most beyond
/// weights, gradients and optimizer. A micro-batch is the lengths of its sequences in tokens.
///
/// # Errors
/// The method does not fit the network.
pub fn step_bytes(
    config: &Config,
    labels: usize,
    method: &Method,
    gradient_checkpointing: bool,
    micro_batches: &[Vec<u32>],
) -> Result<usize, Error> {
    let meta = Meta::default();
    let checkpoint = Checkpoint::blank();
    let config = config.clone();
    let mut model = SequenceClassifier::build(&meta, config, &checkpoint, labels, method, 0)?;
    model.gradient_checkpointing = gradient_checkpointing;
    let before = meta.count.touched.load(Ordering::Relaxed);
    for lengths in micro_batches {
        let mut cu_seqlens = vec![0];
        for length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let tokens = cu_seqlens[lengths.len()] as usize;
        let batch = Batch::new(&meta, &vec![0; tokens], &cu_seqlens);
        let pass = Pass { dropout: true, ..Pass::evaluation() };
        let (logits, saved) = model.forward(&meta, &pass, &batch);
        let (_, dlogits) = meta.cross_entropy(&logits, &Vec::new(), &[], 1.0);
        model.backward(&meta, &pass, &batch, saved, &dlogits);
    }
    Ok((meta.count.most.load(Ordering::Relaxed) - before) * size_of::<f32>())
}

/// How many numbers of a network are trained, and how many are frozen, without its weights.
///
/// # Errors
/// The method does not fit the network.
pub fn parameter_counts(
    config: &Config,
    labels: usize,
    method: &Method,
) -> Result<(usize, usize), Error> {
    let (meta, blank) = (Meta::default(), Checkpoint::blank());
    let model = SequenceClassifier::build(&meta, config.clone(), &blank, labels, method, 0)?;
    Ok((model.parameters.count(), model.frozen))
}

/// A backend whose buffers hold no numbers; it counts how many they would have held at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meta {
    pool: Arc<Pool<MetaBuffer>>,
    count: Arc<Count>,
}

/// Numbers in all buffers, now and at most.
#[derive(Debug, Default)]
struct Count {
    touched: AtomicUsize,
    most: AtomicUsize,
}

/// A buffer without memory.
#[derive(Debug)]
struct MetaBuffer {
    capacity: usize,
    touched: usize,
    /// Once it is touched.
    count: Option<Arc<Count>>,
}

impl Drop for MetaBuffer {
    fn drop(&mut self) {
        if let Some(count) = &self.count {
            count.touched.fetch_sub(self.touched, Ordering::Relaxed);
        }
    }
}

impl Buffer for MetaBuffer {
    fn new(capacity: usize) -> Self {
        MetaBuffer { capacity, touched: 0, count: None }
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// A matrix without numbers.
#[derive(Debug)]
pub(crate) struct MetaMatrix {
    buffer: Option<MetaBuffer>,
    rows: usize,
    columns: usize,
    pool: Arc<Pool<MetaBuffer>>,
}

impl Drop for MetaMatrix {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give_back(buffer);
        }
    }
}

impl Shape for MetaMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

impl Meta {
    fn like(&self, other: &MetaMatrix) -> MetaMatrix {
        self.matrix(other.rows, other.columns)
    }
}

impl Backend for Meta {
    type Matrix = MetaMatrix;
    type Indices = Vec<u32>;
    type Packed = ();

    fn matrix(&self, rows: usize, columns: usize) -> MetaMatrix {
        let mut buffer = self.pool.take(rows * columns);
        let more = (rows * columns).saturating_sub(buffer.touched);
        buffer.touched += more;
        buffer.count = Some(self.count.clone());
        let touched = more + self.count.touched.fetch_add(more, Ordering::Relaxed);
        self.count.most.fetch_max(touched, Ordering::Relaxed);
        MetaMatrix { buffer: Some(buffer), rows, columns, pool: self.pool.clone() }
    }

    fn zeros(&self, rows: usize, columns: usize) -> MetaMatrix {
        self.matrix(rows, columns)
    }

    fn upload(&self, rows: usize, columns: usize, _: &[f32]) -> MetaMatrix {
        self.matrix(rows, columns)
    }

    fn write(&self, _: &mut MetaMatrix, _: &[f32]) {}

    fn download(&self, matrix: &MetaMatrix) -> Vec<f32> {
        vec![0.0; matrix.rows * matrix.columns]
    }

    fn copy(&self, matrix: &MetaMatrix) -> MetaMatrix {
        self.like(matrix)
    }

    fn indices(&self, values: Vec<u32>) -> Vec<u32> {
        values
    }

    fn shifted(&self, values: &Vec<u32>, _: u32) -> Vec<u32> {
        values.clone()
    }

    fn pack(&self, _: StoredWeight, _: usize, _: usize) {}

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn packed_product(&self, _: PackedProduct<'_, MetaMatrix, ()>, _: &mut MetaMatrix) {}

    fn product(&self, product: Product<'_, MetaMatrix>, _: &mut MetaMatrix) {
        // B is packed first; a buffer as large stands for that.
        drop(self.like(product.b));
    }

    fn lora_down(&self, x: &MetaMatrix, a: &MetaMatrix, _: f32, _: Option<Dropout>) -> MetaMatrix {
        self.matrix(x.rows, a.rows)
    }

    fn lora_down_backward(
        &self,
        x: &MetaMatrix,
        a: &MetaMatrix,
        _: Option<Dropout>,
        _: &MetaMatrix,
        _: &mut MetaMatrix,
        _: Option<&mut MetaMatrix>,
    ) {
        drop(self.matrix(1, kernels::lora_partial_sums(x.rows, a.rows, a.columns)));
    }

    fn lora_up_backward(
        &self,
        _: &MetaMatrix,
        z: &MetaMatrix,
        b: &MetaMatrix,
        _: f32,
        _: &mut MetaMatrix,
    ) -> MetaMatrix {
        drop(self.matrix(1, kernels::lora_partial_sums(z.rows, z.columns, b.rows)));
        self.like(z)
    }

    fn add_bias(&self, _: &mut MetaMatrix, _: &MetaMatrix) {}

    fn sum_rows(&self, _: &MetaMatrix, _: &mut MetaMatrix) {}

    fn gather_rows(&self, _: &MetaMatrix, _: &Vec<u32>, _: bool, _: &mut MetaMatrix) {}

    fn set_rows(&self, _: &mut MetaMatrix, _: &Vec<u32>, _: &MetaMatrix) {}

    fn scatter_add_rows(&self, _: &mut MetaMatrix, _: &Vec<u32>, _: &MetaMatrix) {}

    fn layer_norm(
        &self,
        x: &mut MetaMatrix,
        _: Option<&MetaMatrix>,
        _: Option<Dropout>,
        _: Norm<'_, MetaMatrix>,
    ) -> (MetaMatrix, MetaMatrix) {
        (self.like(x), self.matrix(x.rows, 2))
    }

    fn layer_norm_backward(
        &self,
        _: &MetaMatrix,
        _: &MetaMatrix,
        _: &MetaMatrix,
        dropout: Option<Dropout>,
        dy: &mut MetaMatrix,
    ) -> Option<MetaMatrix> {
        dropout.map(|_| self.like(dy))
    }

    fn layer_norm_parameter_gradients(
        &self,
        _: &MetaMatrix,
        _: &MetaMatrix,
        _: &MetaMatrix,
        _: &mut MetaMatrix,
        _: Option<&mut MetaMatrix>,
    ) {
    }

    fn activate(&self, _: Activation, _: &mut MetaMatrix, _: Option<&mut MetaMatrix>) {}

    fn gate(&self, _: Activation, u: &mut MetaMatrix) -> MetaMatrix {
        self.matrix(u.rows, u.columns / 2)
    }

    fn gate_backward(&self, _: &mut MetaMatrix, _: &MetaMatrix) {}

    fn add(&self, _: &mut MetaMatrix, _: &MetaMatrix) {}
    fn scale(&self, _: &mut MetaMatrix, _: f32) {}

    fn multiply(&self, _: &mut MetaMatrix, _: &MetaMatrix) {}

    fn dropout(&self, x: &MetaMatrix, _: Dropout) -> MetaMatrix {
        self.like(x)
    }

    fn split_rotated(
        &self,
        qkv: &MetaMatrix,
        _: Rotary<'_, MetaMatrix, Vec<u32>>,
    ) -> [MetaMatrix; 3] {
        [(); 3].map(|()| self.matrix(qkv.rows, qkv.columns / 3))
    }

    fn split_rotated_backward(
        &self,
        [dq, ..]: [&MetaMatrix; 3],
        _: Rotary<'_, MetaMatrix, Vec<u32>>,
    ) -> MetaMatrix {
        self.matrix(dq.rows, 3 * dq.columns)
    }

    fn mean_rows(&self, x: &MetaMatrix, cu_seqlens: &Vec<u32>) -> MetaMatrix {
        self.matrix(cu_seqlens.len() - 1, x.columns)
    }

    fn mean_rows_backward(&self, dy: &MetaMatrix, _: &Vec<u32>, rows: usize) -> MetaMatrix {
        self.matrix(rows, dy.columns)
    }

    fn attention(
        &self,
        shape: AttentionShape<'_, MetaMatrix, Vec<u32>>,
        q: MetaMatrix,
        k: MetaMatrix,
        v: MetaMatrix,
    ) -> AttentionSaved<MetaMatrix> {
        let (out, lse) = (self.like(&q), self.matrix(q.rows, shape.heads));
        AttentionSaved { q, k, v, out, lse }
    }

    fn attention_backward(
        &self,
        shape: AttentionShape<'_, MetaMatrix, Vec<u32>>,
        saved: &AttentionSaved<MetaMatrix>,
        _: &MetaMatrix,
        dbias: Option<&mut MetaMatrix>,
    ) -> [MetaMatrix; 3] {
        let sequences = shape.cu_q.len() - 1;
        drop(dbias.map(|table| {
            self.matrix(1, RelativeBiasGradient::partial_sums(sequences, table.rows, table.columns))
        }));
        [&saved.q, &saved.k, &saved.v].map(|matrix| self.like(matrix))
    }

    fn disentangled_attention(
        &self,
        shape: AttentionShape<'_, MetaMatrix, Vec<u32>>,
        _: RelativePositions<'_, MetaMatrix, Vec<u32>>,
        q: MetaMatrix,
        k: MetaMatrix,
        v: MetaMatrix,
    ) -> AttentionSaved<MetaMatrix> {
        self.attention(shape, q, k, v)
    }

    fn disentangled_attention_backward(
        &self,
        shape: AttentionShape<'_, MetaMatrix, Vec<u32>>,
        positions: RelativePositions<'_, MetaMatrix, Vec<u32>>,
        saved: &AttentionSaved<MetaMatrix>,
        dout: &MetaMatrix,
        wanted: [bool; 2],
    ) -> ([MetaMatrix; 3], [Option<MetaMatrix>; 2]) {
        let sequences = shape.cu_q.len() - 1;
        let of_positions = positions.wanted(wanted).map(|rows| {
            rows.map(|rows| {
                let sums = PositionGradient::partial_sums(sequences, rows.rows, rows.columns);
                (self.like(rows), self.matrix(1, sums))
            })
        });
        let gradients = self.attention_backward(shape, saved, dout, None);
        (gradients, of_positions.map(|gradient| gradient.map(|(gradient, _)| gradient)))
    }

    fn split_heads(&self, qkv: &MetaMatrix, _: usize) -> [MetaMatrix; 3] {
        [(); 3].map(|()| self.matrix(qkv.rows, qkv.columns / 3))
    }

    fn join_heads(&self, [q, ..]: [&MetaMatrix; 3], _: usize) -> MetaMatrix {
        self.matrix(q.rows, 3 * q.columns)
    }

    fn unfold(&self, x: &MetaMatrix, _: &Vec<u32>, size: usize) -> MetaMatrix {
        self.matrix(x.rows, x.columns * size)
    }

    fn fold(&self, _: &MetaMatrix, _: &Vec<u32>, _: usize, _: &mut MetaMatrix) {}

    fn cross_entropy(
        &self,
        logits: &MetaMatrix,
        _: &Vec<u32>,
        _: &[f32],
        _: f32,
    ) -> (f64, MetaMatrix) {
        (0.0, self.like(logits))
    }

    fn binary_cross_entropy(
        &self,
        logits: &MetaMatrix,
        _: &Vec<u32>,
        _: &[f32],
        _: f32,
    ) -> (f64, MetaMatrix) {
        (0.0, self.like(logits))
    }

    fn adamw(
        &self,
        _: kernels::AdamW,
        _: &mut MetaMatrix,
        _: &MetaMatrix,
        _: (&mut MetaMatrix, &mut MetaMatrix),
    ) {
    }

    fn sum_of_squares(&self, _: &MetaMatrix) -> f64 {
        0.0
    }

    fn clear(&self, _: &mut MetaMatrix) {}
}

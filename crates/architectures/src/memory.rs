//! The memory of a training step, counted before it is run: the same network on a backend that
//! computes nothing and only keeps books, with the allocator that the real one has.

use crate::backend::{AttentionSaved, AttentionShape, Backend, Norm, Product, Shape};
use crate::checkpoint::{Checkpoint, StoredWeight};
use crate::classifier::{Family, SequenceClassifier};
use crate::lora::Method;
use crate::pass::{Batch, Pass};
use crate::pool::{Buffer, Pool};
use crate::{Config, Error};
use kernels::{Dropout, Precision};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that forward and backward of these micro-batches, one after the other, take at most beyond
/// weights, gradients and optimizer. A micro-batch is the lengths of its sequences in tokens.
///
/// # Errors
/// The method does not fit the network.
pub fn step_bytes(
    family: Family,
    config: &Config,
    labels: usize,
    method: &Method,
    gradient_checkpointing: bool,
    micro_batches: &[Vec<u32>],
) -> Result<usize, Error> {
    let books = Books::default();
    let checkpoint = Checkpoint::blank();
    let config = config.clone();
    let mut model =
        SequenceClassifier::build(&books, family, config, &checkpoint, labels, method, 0)?;
    model.gradient_checkpointing = gradient_checkpointing;
    let before = books.count.touched.load(Ordering::Relaxed);
    for lengths in micro_batches {
        let mut cu_seqlens = vec![0];
        for length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let tokens = cu_seqlens[lengths.len()] as usize;
        let batch = Batch::new(&books, &vec![0; tokens], &cu_seqlens);
        let pass = Pass { dropout: true, ..Pass::evaluation() };
        let (logits, saved) = model.forward(&books, &pass, &batch);
        let (_, dlogits) = books.cross_entropy(&logits, &Vec::new(), &[], 1.0);
        model.backward(&books, &pass, &batch, saved, &dlogits);
    }
    Ok((books.count.most.load(Ordering::Relaxed) - before) * size_of::<f32>())
}

/// A backend that counts the numbers its buffers have held at most.
#[derive(Clone, Debug, Default)]
struct Books {
    pool: Arc<Pool<Page>>,
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
struct Page {
    capacity: usize,
    touched: usize,
    /// Once it is touched.
    count: Option<Arc<Count>>,
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Some(count) = &self.count {
            count.touched.fetch_sub(self.touched, Ordering::Relaxed);
        }
    }
}

impl Buffer for Page {
    fn new(capacity: usize) -> Self {
        Page { capacity, touched: 0, count: None }
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// A matrix without numbers.
#[derive(Debug)]
struct Entry {
    page: Option<Page>,
    rows: usize,
    columns: usize,
    pool: Arc<Pool<Page>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.pool.give_back(page);
        }
    }
}

impl Shape for Entry {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

impl Books {
    fn like(&self, other: &Entry) -> Entry {
        self.matrix(other.rows, other.columns)
    }
}

impl Backend for Books {
    type Matrix = Entry;
    type Indices = Vec<u32>;
    type Packed = ();

    fn matrix(&self, rows: usize, columns: usize) -> Entry {
        let mut page = self.pool.take(rows * columns);
        let more = (rows * columns).saturating_sub(page.touched);
        page.touched += more;
        page.count = Some(self.count.clone());
        let touched = more + self.count.touched.fetch_add(more, Ordering::Relaxed);
        self.count.most.fetch_max(touched, Ordering::Relaxed);
        Entry { page: Some(page), rows, columns, pool: self.pool.clone() }
    }

    fn zeros(&self, rows: usize, columns: usize) -> Entry {
        self.matrix(rows, columns)
    }

    fn upload(&self, rows: usize, columns: usize, _: &[f32]) -> Entry {
        self.matrix(rows, columns)
    }

    fn write(&self, _: &mut Entry, _: &[f32]) {}

    fn download(&self, matrix: &Entry) -> Vec<f32> {
        vec![0.0; matrix.rows * matrix.columns]
    }

    fn copy(&self, matrix: &Entry) -> Entry {
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

    fn packed_product(
        &self,
        _: &Entry,
        (): &(),
        _: bool,
        _: Option<&Entry>,
        _: bool,
        _: &mut Entry,
    ) {
    }

    fn product(&self, product: Product<'_, Entry>, _: &mut Entry) {
        // B is packed first; a page as large stands for that.
        drop(self.like(product.b));
    }

    fn add_assign(&self, _: &mut Entry, _: &Entry) {}

    fn add_bias(&self, _: &mut Entry, _: &Entry) {}

    fn sum_rows(&self, _: &Entry, _: &mut Entry) {}

    fn gather_rows(&self, _: &Entry, _: &Vec<u32>, _: bool, _: &mut Entry) {}

    fn scatter_add_rows(&self, _: &mut Entry, _: &Vec<u32>, _: &Entry) {}

    fn layer_norm(
        &self,
        x: &mut Entry,
        _: Option<&Entry>,
        _: Option<Dropout>,
        _: Norm<'_, Entry>,
    ) -> (Entry, Entry) {
        (self.like(x), self.matrix(x.rows, 2))
    }

    fn layer_norm_backward(
        &self,
        _: &Entry,
        _: &Entry,
        _: &Entry,
        dropout: Option<Dropout>,
        dy: &mut Entry,
    ) -> Option<Entry> {
        dropout.map(|_| self.like(dy))
    }

    fn layer_norm_parameter_gradients(
        &self,
        _: &Entry,
        _: &Entry,
        _: &Entry,
        _: &mut Entry,
        _: &mut Entry,
    ) {
    }

    fn gelu(&self, x: &Entry) -> Entry {
        self.like(x)
    }

    fn gelu_backward(&self, _: &Entry, _: &mut Entry) {}

    fn tanh(&self, _: &mut Entry) {}

    fn tanh_backward(&self, _: &Entry, _: &mut Entry) {}

    fn dropout(&self, x: &Entry, _: Dropout) -> Entry {
        self.like(x)
    }

    fn attention(
        &self,
        shape: AttentionShape<'_, Vec<u32>>,
        q: Entry,
        k: Entry,
        v: Entry,
    ) -> AttentionSaved<Entry> {
        let (out, lse) = (self.like(&q), self.matrix(q.rows, shape.heads));
        AttentionSaved { q, k, v, out, lse }
    }

    fn attention_backward(
        &self,
        _: AttentionShape<'_, Vec<u32>>,
        saved: &AttentionSaved<Entry>,
        _: &Entry,
    ) -> [Entry; 3] {
        [&saved.q, &saved.k, &saved.v].map(|matrix| self.like(matrix))
    }

    fn cross_entropy(&self, logits: &Entry, _: &Vec<u32>, _: &[f32], _: f32) -> (f64, Entry) {
        (0.0, self.like(logits))
    }

    fn adamw(&self, _: kernels::AdamW, _: &mut Entry, _: &Entry, _: (&mut Entry, &mut Entry)) {}

    fn sum_of_squares(&self, _: &Entry) -> f64 {
        0.0
    }

    fn clear(&self, _: &mut Entry) {}
}

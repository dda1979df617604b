//! The CPU backend: the `kernels` crate behind [`Backend`], with memory that is reused.

use crate::backend::{
    After, AttentionSaved, AttentionShape, Backend, Norm, PackedProduct, Pattern, Product,
    RelativePositions, Rotary, Shape,
};
use crate::checkpoint::StoredWeight;
use crate::pool::Pool;
use crate::quantized::Quantization;
use kernels::{
    Activation, Attention, AttentionInputs, Blocks, Dropout, Epilogue, Int8Matrix, Isa,
    LayerNormInputs, Lines, LowRank, Matrix, Nf4Matrix, PackedMatrix, PositionGradient, Precision,
    QuantizedMatrix, RelativeBias, RelativeBiasGradient, Right,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs on this processor, on the current [`Threads`](crate::Threads).
#[derive(Clone, Debug)]
pub struct Cpu {
    isa: Isa,
    precision: Precision,
    quantization: Quantization,
    /// Where a matrix that is not frozen is packed for its product.
    scratch: Arc<Mutex<PackedMatrix>>,
    pool: Arc<Pool<Lines>>,
}

/// A row-major matrix in main memory.
#[derive(Debug)]
pub struct CpuMatrix {
    /// As long as its capacity class; the matrix is the first `rows · columns` numbers.
    data: Lines,
    rows: usize,
    columns: usize,
    pool: Arc<Pool<Lines>>,
}

impl CpuMatrix {
    fn data(&self) -> &[f32] {
        self.data.first(self.rows * self.columns)
    }

    fn data_mut(&mut self) -> &mut [f32] {
        self.data.first_mut(self.rows * self.columns)
    }

    fn view(&self, transpose: bool) -> Matrix<'_> {
        let view = Matrix::new(self.data(), self.rows, self.columns);
        if transpose { view.transposed() } else { view }
    }
}

impl Drop for CpuMatrix {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.data));
    }
}

impl Shape for CpuMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

/// A frozen weight [out, in].
#[derive(Debug)]
pub enum CpuWeight {
    /// In the layouts of both products.
    Packed {
        /// For `x·Wᵀ`.
        transposed: PackedMatrix,
        /// For `dy·W`.
        plain: PackedMatrix,
    },
    /// In few bits, for both.
    Quantized(QuantizedMatrix),
}

impl Cpu {
    /// A backend that uses this instruction set, this precision for large products, and keeps frozen
    /// weights this way.
    pub fn new(isa: Isa, precision: Precision, quantization: Quantization) -> Self {
        Cpu { isa, precision, quantization, scratch: Arc::default(), pool: Arc::default() }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

fn attention<'a>(
    shape: &'a AttentionShape<'a, CpuMatrix, Vec<u32>>,
    q: &CpuMatrix,
    precision: Precision,
) -> Attention<'a> {
    let head_size = q.columns / shape.heads;
    Attention {
        cu_q: shape.cu_q,
        cu_kv: shape.cu_kv,
        heads: shape.heads,
        head_size,
        scale: 1.0 / (head_size as f32).sqrt(),
        bias: shape
            .bias
            .as_ref()
            .map(|bias| RelativeBias { table: bias.table.data(), buckets: bias.buckets }),
        pattern: match shape.pattern {
            Pattern::All => kernels::Pattern::All,
            Pattern::Window { reach, first } => kernels::Pattern::Window { reach, first },
            Pattern::Blocks { size, whole, random, table, ref rows } => {
                kernels::Pattern::Blocks(Blocks { size, whole, random, table, rows })
            }
        },
        dropout: shape.dropout,
        precision,
    }
}

impl<'a> RelativePositions<'a, CpuMatrix, Vec<u32>> {
    fn data(&self) -> kernels::RelativePositions<'a> {
        let [keys, queries] = [self.keys, self.queries].map(|rows| rows.map(CpuMatrix::data));
        kernels::RelativePositions { keys, queries, of_distance: self.of_distance }
    }

    /// An attention of as many terms.
    fn scaled<'b>(&self, attention: Attention<'b>) -> Attention<'b> {
        let terms = 1 + [self.keys, self.queries].iter().flatten().count();
        let scale = 1.0 / ((terms * attention.head_size) as f32).sqrt();
        Attention { scale, ..attention }
    }
}

impl<'a> Rotary<'a, CpuMatrix, Vec<u32>> {
    fn on_cpu(&self) -> kernels::Rotary<'a> {
        let Rotary { positions, table } = self;
        kernels::Rotary { positions, table: table.data(), head_size: table.columns }
    }
}

impl Backend for Cpu {
    type Matrix = CpuMatrix;
    type Indices = Vec<u32>;
    type Packed = CpuWeight;

    fn matrix(&self, rows: usize, columns: usize) -> CpuMatrix {
        CpuMatrix { data: self.pool.take(rows * columns), rows, columns, pool: self.pool.clone() }
    }

    fn zeros(&self, rows: usize, columns: usize) -> CpuMatrix {
        let mut matrix = self.matrix(rows, columns);
        matrix.data_mut().fill(0.0);
        matrix
    }

    fn upload(&self, rows: usize, columns: usize, data: &[f32]) -> CpuMatrix {
        let mut matrix = self.matrix(rows, columns);
        matrix.data_mut().copy_from_slice(data);
        matrix
    }

    fn write(&self, matrix: &mut CpuMatrix, data: &[f32]) {
        matrix.data_mut().copy_from_slice(data);
    }

    fn download(&self, matrix: &CpuMatrix) -> Vec<f32> {
        matrix.data().to_vec()
    }

    fn copy(&self, matrix: &CpuMatrix) -> CpuMatrix {
        self.upload(matrix.rows, matrix.columns, matrix.data())
    }

    fn indices(&self, values: Vec<u32>) -> Vec<u32> {
        values
    }

    fn shifted(&self, values: &Vec<u32>, by: u32) -> Vec<u32> {
        values.iter().map(|value| value + by).collect()
    }

    fn pack(&self, weight: StoredWeight, out: usize, input: usize) -> CpuWeight {
        let weight = match (self.quantization, weight) {
            (Quantization::Nf4, StoredWeight::Nf4(matrix)) => {
                return CpuWeight::Quantized(QuantizedMatrix::Nf4(matrix));
            }
            (_, weight) => weight.into_dense(),
        };
        match self.quantization {
            Quantization::None => {
                let weight = Matrix::new(&weight, out, input);
                let pack = |weight| PackedMatrix::new(self.isa, self.precision, weight);
                CpuWeight::Packed { transposed: pack(weight.transposed()), plain: pack(weight) }
            }
            Quantization::Nf4 => {
                let matrix = Nf4Matrix::quantize(&weight, input, true);
                CpuWeight::Quantized(QuantizedMatrix::Nf4(matrix))
            }
            Quantization::Int8 => {
                let matrix = Int8Matrix::quantize(self.isa, &weight, input);
                CpuWeight::Quantized(QuantizedMatrix::Int8(matrix))
            }
        }
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn packed_product(&self, product: PackedProduct<'_, CpuMatrix, CpuWeight>, y: &mut CpuMatrix) {
        let PackedProduct { x, weight, transposed, bias, low_rank, accumulate, after } = product;
        let right = match weight {
            CpuWeight::Packed { transposed: packed, .. } if transposed => Right::Packed(packed),
            CpuWeight::Packed { plain, .. } => Right::Packed(plain),
            CpuWeight::Quantized(weight) => {
                Right::Quantized { weight, transposed, precision: self.precision }
            }
        };
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let low_rank = low_rank.map(|(z, b)| {
            scratch.pack(self.isa, self.precision, b.view(true));
            LowRank { z: z.view(false), b: &scratch }
        });
        let bias = bias.map(CpuMatrix::data);
        let epilogue = Epilogue { alpha: 1.0, accumulate, bias, low_rank };
        let (isa, x, y) = (self.isa, x.view(false), y.data_mut());
        match after {
            After::Nothing => kernels::gemm(isa, x, right, y, epilogue),
            After::Gelu(slope) => {
                let slope = slope.map(CpuMatrix::data_mut);
                kernels::gemm_gelu(isa, x, right, y, epilogue, slope);
            }
            After::Times(factors) => {
                kernels::gemm_times(isa, x, right, y, epilogue, factors.data());
            }
        }
    }

    fn product(&self, product: Product<'_, CpuMatrix>, c: &mut CpuMatrix) {
        let (a, b) = (product.a.view(product.transpose_a), product.b.view(product.transpose_b));
        let epilogue = Epilogue { accumulate: product.accumulate, ..Epilogue::default() };
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let (isa, precision) = (self.isa, product.precision);
        kernels::gemm_unpacked(isa, precision, a, b, c.data_mut(), epilogue, &mut scratch);
    }

    fn lora_down(
        &self,
        x: &CpuMatrix,
        a: &CpuMatrix,
        scale: f32,
        dropout: Option<Dropout>,
    ) -> CpuMatrix {
        let mut z = self.matrix(x.rows, a.rows);
        kernels::lora_down(self.isa, x.data(), a.data(), a.rows, scale, dropout, z.data_mut());
        z
    }

    fn lora_down_backward(
        &self,
        x: &CpuMatrix,
        a: &CpuMatrix,
        dropout: Option<Dropout>,
        dz: &CpuMatrix,
        da: &mut CpuMatrix,
        dx: Option<&mut CpuMatrix>,
    ) {
        let mut partial = self.matrix(1, kernels::lora_partial_sums(x.rows, a.rows, a.columns));
        kernels::lora_down_backward(
            self.isa,
            x.data(),
            a.data(),
            a.rows,
            dropout,
            dz.data(),
            da.data_mut(),
            dx.map(CpuMatrix::data_mut),
            partial.data_mut(),
        );
    }

    fn lora_up_backward(
        &self,
        dy: &CpuMatrix,
        z: &CpuMatrix,
        b: &CpuMatrix,
        scale: f32,
        db: &mut CpuMatrix,
    ) -> CpuMatrix {
        let mut dz = self.matrix(z.rows, z.columns);
        let mut transposed = self.matrix(b.columns, b.rows);
        let mut partial = self.matrix(1, kernels::lora_partial_sums(z.rows, z.columns, b.rows));
        kernels::lora_up_backward(
            self.isa,
            dy.data(),
            z.data(),
            b.data(),
            b.columns,
            scale,
            dz.data_mut(),
            db.data_mut(),
            transposed.data_mut(),
            partial.data_mut(),
        );
        dz
    }

    fn add_bias(&self, y: &mut CpuMatrix, bias: &CpuMatrix) {
        kernels::add_bias(y.data_mut(), bias.data());
    }

    fn sum_rows(&self, x: &CpuMatrix, sums: &mut CpuMatrix) {
        kernels::sum_rows(self.isa, x.data(), sums.data_mut());
    }

    fn gather_rows(&self, table: &CpuMatrix, rows: &Vec<u32>, accumulate: bool, y: &mut CpuMatrix) {
        kernels::gather_rows(table.data(), rows, y.data_mut(), table.columns, accumulate);
    }

    fn set_rows(&self, y: &mut CpuMatrix, rows: &Vec<u32>, values: &CpuMatrix) {
        kernels::set_rows(y.data_mut(), rows, values.data(), values.columns);
    }

    fn scatter_add_rows(&self, table: &mut CpuMatrix, rows: &Vec<u32>, y: &CpuMatrix) {
        kernels::scatter_add_rows(table.data_mut(), rows, y.data(), y.columns);
    }

    fn layer_norm(
        &self,
        x: &mut CpuMatrix,
        residual: Option<&CpuMatrix>,
        dropout: Option<Dropout>,
        norm: Norm<'_, CpuMatrix>,
    ) -> (CpuMatrix, CpuMatrix) {
        let mut y = self.matrix(x.rows, x.columns);
        let mut statistics = self.matrix(x.rows, 2);
        let inputs = LayerNormInputs {
            residual: residual.map(CpuMatrix::data),
            dropout,
            weight: norm.weight.data(),
            bias: norm.bias.map(CpuMatrix::data),
            eps: norm.eps,
        };
        kernels::layer_norm(self.isa, x.data_mut(), inputs, y.data_mut(), statistics.data_mut());
        (y, statistics)
    }

    fn layer_norm_backward(
        &self,
        sum: &CpuMatrix,
        statistics: &CpuMatrix,
        weight: &CpuMatrix,
        dropout: Option<Dropout>,
        dy: &mut CpuMatrix,
    ) -> Option<CpuMatrix> {
        let mut branch = dropout.map(|dropout| (dropout, self.matrix(dy.rows, dy.columns)));
        kernels::layer_norm_backward(
            self.isa,
            sum.data(),
            statistics.data(),
            weight.data(),
            dy.data_mut(),
            branch.as_mut().map(|(dropout, branch)| (*dropout, branch.data_mut())),
        );
        branch.map(|(_, branch)| branch)
    }

    fn layer_norm_parameter_gradients(
        &self,
        sum: &CpuMatrix,
        statistics: &CpuMatrix,
        dy: &CpuMatrix,
        dweight: &mut CpuMatrix,
        dbias: Option<&mut CpuMatrix>,
    ) {
        kernels::layer_norm_parameter_gradients(
            sum.data(),
            statistics.data(),
            dy.data(),
            dweight.data_mut(),
            dbias.map(CpuMatrix::data_mut),
        );
    }

    fn activate(&self, f: Activation, y: &mut CpuMatrix, slope: Option<&mut CpuMatrix>) {
        kernels::activate(self.isa, f, y.data_mut(), slope.map(CpuMatrix::data_mut));
    }

    fn gate(&self, f: Activation, u: &mut CpuMatrix) -> CpuMatrix {
        let (rows, columns) = (u.rows, u.columns / 2);
        let mut y = self.matrix(rows, columns);
        kernels::gate(self.isa, f, u.data_mut(), y.data_mut(), columns);
        y
    }

    fn gate_backward(&self, slopes: &mut CpuMatrix, dy: &CpuMatrix) {
        kernels::gate_backward(slopes.data_mut(), dy.data(), dy.columns);
    }

    fn add(&self, y: &mut CpuMatrix, x: &CpuMatrix) {
        kernels::add(y.data_mut(), x.data());
    }

    fn scale(&self, y: &mut CpuMatrix, by: f32) {
        kernels::scale(y.data_mut(), by);
    }

    fn multiply(&self, y: &mut CpuMatrix, factors: &CpuMatrix) {
        kernels::multiply(y.data_mut(), factors.data());
    }

    fn dropout(&self, x: &CpuMatrix, dropout: Dropout) -> CpuMatrix {
        let mut y = self.matrix(x.rows, x.columns);
        kernels::dropout(self.isa, x.data(), y.data_mut(), x.columns, dropout);
        y
    }

    fn split_rotated(
        &self,
        qkv: &CpuMatrix,
        rotary: Rotary<'_, CpuMatrix, Vec<u32>>,
    ) -> [CpuMatrix; 3] {
        let [mut q, mut k, mut v] = [(); 3].map(|()| self.matrix(qkv.rows, qkv.columns / 3));
        let (isa, rotary) = (self.isa, rotary.on_cpu());
        let (to_q, to_k, to_v) = (q.data_mut(), k.data_mut(), v.data_mut());
        kernels::split_rotated(isa, qkv.data(), rotary, to_q, to_k, to_v);
        [q, k, v]
    }

    fn split_rotated_backward(
        &self,
        [dq, dk, dv]: [&CpuMatrix; 3],
        rotary: Rotary<'_, CpuMatrix, Vec<u32>>,
    ) -> CpuMatrix {
        let mut dqkv = self.matrix(dq.rows, 3 * dq.columns);
        let (isa, rotary, to) = (self.isa, rotary.on_cpu(), dqkv.data_mut());
        kernels::split_rotated_backward(isa, dq.data(), dk.data(), dv.data(), rotary, to);
        dqkv
    }

    fn mean_rows(&self, x: &CpuMatrix, cu_seqlens: &Vec<u32>) -> CpuMatrix {
        let mut y = self.matrix(cu_seqlens.len() - 1, x.columns);
        kernels::mean_rows(self.isa, x.data(), cu_seqlens, y.data_mut(), x.columns);
        y
    }

    fn mean_rows_backward(&self, dy: &CpuMatrix, cu_seqlens: &Vec<u32>, rows: usize) -> CpuMatrix {
        let mut dx = self.matrix(rows, dy.columns);
        kernels::mean_rows_backward(dy.data(), cu_seqlens, dx.data_mut(), dy.columns);
        dx
    }

    fn attention(
        &self,
        shape: AttentionShape<'_, CpuMatrix, Vec<u32>>,
        q: CpuMatrix,
        k: CpuMatrix,
        v: CpuMatrix,
    ) -> AttentionSaved<CpuMatrix> {
        let mut out = self.matrix(q.rows, q.columns);
        let mut lse = self.matrix(q.rows, shape.heads);
        let inputs = AttentionInputs { q: q.data(), k: k.data(), v: v.data() };
        let attention = attention(&shape, &q, self.precision);
        kernels::attention(self.isa, attention, inputs, out.data_mut(), lse.data_mut());
        AttentionSaved { q, k, v, out, lse }
    }

    fn attention_backward(
        &self,
        shape: AttentionShape<'_, CpuMatrix, Vec<u32>>,
        saved: &AttentionSaved<CpuMatrix>,
        dout: &CpuMatrix,
        mut dbias: Option<&mut CpuMatrix>,
    ) -> [CpuMatrix; 3] {
        let AttentionSaved { q, k, v, out, lse } = saved;
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|m| self.matrix(m.rows, m.columns));
        let inputs = AttentionInputs { q: q.data(), k: k.data(), v: v.data() };
        let sequences = shape.cu_q.len() - 1;
        let mut partial = dbias.as_ref().map(|table| {
            self.matrix(1, RelativeBiasGradient::partial_sums(sequences, table.rows, table.columns))
        });
        let dbias = dbias.as_mut().zip(partial.as_mut()).map(|(table, partial)| {
            RelativeBiasGradient { table: table.data_mut(), partial: partial.data_mut() }
        });
        kernels::attention_backward(
            self.isa,
            attention(&shape, q, self.precision),
            inputs,
            out.data(),
            lse.data(),
            dout.data(),
            dq.data_mut(),
            dk.data_mut(),
            dv.data_mut(),
            dbias,
        );
        [dq, dk, dv]
    }

    fn disentangled_attention(
        &self,
        shape: AttentionShape<'_, CpuMatrix, Vec<u32>>,
        positions: RelativePositions<'_, CpuMatrix, Vec<u32>>,
        q: CpuMatrix,
        k: CpuMatrix,
        v: CpuMatrix,
    ) -> AttentionSaved<CpuMatrix> {
        let mut out = self.matrix(q.rows, q.columns);
        let mut lse = self.matrix(q.rows, shape.heads);
        let inputs = AttentionInputs { q: q.data(), k: k.data(), v: v.data() };
        let attention = positions.scaled(attention(&shape, &q, self.precision));
        let (out_data, lse_data, positions) = (out.data_mut(), lse.data_mut(), positions.data());
        kernels::disentangled_attention(self.isa, attention, inputs, positions, out_data, lse_data);
        AttentionSaved { q, k, v, out, lse }
    }

    fn disentangled_attention_backward(
        &self,
        shape: AttentionShape<'_, CpuMatrix, Vec<u32>>,
        positions: RelativePositions<'_, CpuMatrix, Vec<u32>>,
        saved: &AttentionSaved<CpuMatrix>,
        dout: &CpuMatrix,
        wanted: [bool; 2],
    ) -> ([CpuMatrix; 3], [Option<CpuMatrix>; 2]) {
        let AttentionSaved { q, k, v, out, lse } = saved;
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|m| self.matrix(m.rows, m.columns));
        let inputs = AttentionInputs { q: q.data(), k: k.data(), v: v.data() };
        let sequences = shape.cu_q.len() - 1;
        let mut of_positions = positions.wanted(wanted).map(|rows| {
            rows.map(|rows| {
                let sums = PositionGradient::partial_sums(sequences, rows.rows, rows.columns);
                (self.matrix(rows.rows, rows.columns), self.matrix(1, sums))
            })
        });
        kernels::disentangled_attention_backward(
            self.isa,
            positions.scaled(attention(&shape, q, self.precision)),
            inputs,
            positions.data(),
            out.data(),
            lse.data(),
            dout.data(),
            dq.data_mut(),
            dk.data_mut(),
            dv.data_mut(),
            of_positions.each_mut().map(|gradient| {
                gradient.as_mut().map(|(gradient, partial)| PositionGradient {
                    gradient: gradient.data_mut(),
                    partial: partial.data_mut(),
                })
            }),
        );
        ([dq, dk, dv], of_positions.map(|gradient| gradient.map(|(gradient, _)| gradient)))
    }

    fn split_heads(&self, qkv: &CpuMatrix, heads: usize) -> [CpuMatrix; 3] {
        let width = qkv.columns / 3;
        let mut parts = [(); 3].map(|()| self.matrix(qkv.rows, width));
        let data = parts.each_mut().map(CpuMatrix::data_mut);
        kernels::split_heads(qkv.data(), data, heads, width / heads);
        parts
    }

    fn join_heads(&self, parts: [&CpuMatrix; 3], heads: usize) -> CpuMatrix {
        let width = parts[0].columns;
        let mut qkv = self.matrix(parts[0].rows, 3 * width);
        kernels::join_heads(parts.map(CpuMatrix::data), qkv.data_mut(), heads, width / heads);
        qkv
    }

    fn unfold(&self, x: &CpuMatrix, cu_seqlens: &Vec<u32>, size: usize) -> CpuMatrix {
        let mut y = self.matrix(x.rows, x.columns * size);
        kernels::unfold(x.data(), cu_seqlens, size, x.columns, y.data_mut());
        y
    }

    fn fold(&self, dy: &CpuMatrix, cu_seqlens: &Vec<u32>, size: usize, dx: &mut CpuMatrix) {
        let columns = dx.columns;
        kernels::fold(dy.data(), cu_seqlens, size, columns, dx.data_mut());
    }

    fn cross_entropy(
        &self,
        logits: &CpuMatrix,
        labels: &Vec<u32>,
        class_weights: &[f32],
        total_weight: f32,
    ) -> (f64, CpuMatrix) {
        let mut gradient = self.matrix(logits.rows, logits.columns);
        let (x, classes, dx) = (logits.data(), logits.columns, gradient.data_mut());
        let sum = kernels::cross_entropy(x, labels, classes, class_weights, total_weight, dx);
        (sum, gradient)
    }

    fn binary_cross_entropy(
        &self,
        logits: &CpuMatrix,
        targets: &Vec<u32>,
        positive_weights: &[f32],
        total: f32,
    ) -> (f64, CpuMatrix) {
        let mut gradient = self.matrix(logits.rows, logits.columns);
        let (x, labels, dx) = (logits.data(), logits.columns, gradient.data_mut());
        let sum = kernels::binary_cross_entropy(x, targets, labels, positive_weights, total, dx);
        (sum, gradient)
    }

    fn adamw(
        &self,
        step: kernels::AdamW,
        value: &mut CpuMatrix,
        gradient: &CpuMatrix,
        (m, v): (&mut CpuMatrix, &mut CpuMatrix),
    ) {
        let value = value.data_mut();
        kernels::adamw(self.isa, step, value, gradient.data(), m.data_mut(), v.data_mut());
    }

    fn sum_of_squares(&self, x: &CpuMatrix) -> f64 {
        kernels::sum_of_squares(self.isa, x.data())
    }

    fn clear(&self, x: &mut CpuMatrix) {
        x.data_mut().fill(0.0);
    }
}

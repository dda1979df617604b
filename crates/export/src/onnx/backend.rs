//! The operations of [`Backend`] as nodes of a graph. Those of training are not there.

use super::composed::cast_to;
use super::graph::Value;
use super::proto::{AttributeProto, FLOAT};
use super::trace::{ATTENTION_MASK, Content, INPUT_IDS, Indices, TOKEN_TYPE_IDS, Trace, Traced};
use super::weights::Form;
use architectures::{
    Activation, AdamW, AttentionSaved, AttentionShape, Backend, Dropout, Norm, PackedProduct,
    Precision, Product, RelativePositions, Rotary, StoredWeight,
};

/// A graph has no backward.
fn never<T>() -> T {
    unreachable!("what is exported is not trained")
}

impl Backend for Trace {
    type Matrix = Traced;
    type Indices = Indices;
    type Packed = ();

    fn matrix(&self, rows: usize, columns: usize) -> Traced {
        Traced { content: Content::Nothing, rows, columns }
    }

    fn zeros(&self, rows: usize, columns: usize) -> Traced {
        self.matrix(rows, columns)
    }

    fn upload(&self, rows: usize, columns: usize, data: &[f32]) -> Traced {
        let mut uploads = self.uploads.borrow_mut();
        uploads.push(data.iter().any(|&x| x != 0.0).then(|| data.to_vec()));
        Traced { content: Content::Uploaded(uploads.len() - 1), rows, columns }
    }

    fn write(&self, _: &mut Traced, _: &[f32]) {
        never()
    }

    fn download(&self, _: &Traced) -> Vec<f32> {
        never()
    }

    fn copy(&self, matrix: &Traced) -> Traced {
        let &Traced { rows, columns, .. } = matrix;
        Traced { content: matrix.content.clone(), rows, columns }
    }

    fn indices(&self, values: Vec<u32>) -> Indices {
        Indices::Constant(values)
    }

    fn shifted(&self, values: &Indices, by: u32) -> Indices {
        match values {
            Indices::Constant(values) => {
                Indices::Constant(values.iter().map(|value| value + by).collect())
            }
            Indices::Positions(first) => Indices::Positions(first + by),
            _ => {
                self.unsupported("counts rows that are no positions");
                values.clone()
            }
        }
    }

    fn pack(&self, _: StoredWeight, _: usize, _: usize) {
        never()
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn packed_product(&self, _: PackedProduct<'_, Traced, ()>, _: &mut Traced) {
        never()
    }

    fn product(&self, product: Product<'_, Traced>, c: &mut Traced) {
        let Product { a, transpose_a: false, b, transpose_b: true, accumulate: false, .. } =
            product
        else {
            return self.unsupported("multiplies other than by a transposed weight");
        };
        let Some((name, shape)) = self.named(b) else {
            return self.unsupported("multiplies two computed matrices");
        };
        let product = match shape[..] {
            [_, _] => self.product_with(&self.read(a), &name, &shape),
            _ => self.convolved(&self.read(a), &name, &shape),
        };
        c.content = Content::Computed(product);
    }

    fn lora_down(&self, _: &Traced, _: &Traced, _: f32, _: Option<Dropout>) -> Traced {
        never()
    }

    fn lora_down_backward(
        &self,
        _: &Traced,
        _: &Traced,
        _: Option<Dropout>,
        _: &Traced,
        _: &mut Traced,
        _: Option<&mut Traced>,
    ) {
        never()
    }

    fn lora_up_backward(
        &self,
        _: &Traced,
        _: &Traced,
        _: &Traced,
        _: f32,
        _: &mut Traced,
    ) -> Traced {
        never()
    }

    fn add_bias(&self, y: &mut Traced, bias: &Traced) {
        let sum = [&self.read(y), &self.read(bias)];
        y.content = Content::Computed(self.node("Add", &sum, &[]));
    }

    fn sum_rows(&self, _: &Traced, _: &mut Traced) {
        never()
    }

    fn gather_rows(&self, table: &Traced, rows: &Indices, accumulate: bool, y: &mut Traced) {
        let gather = |table: &Value, rows: &Value| self.node("Gather", &[table, rows], &[]);
        let found = match rows {
            Indices::InputIds => {
                let ids = INPUT_IDS.to_owned();
                match self.named(table) {
                    Some((name, shape)) if self.int8 => {
                        let codes = gather(&self.tensor(&name, &shape, Form::Codes), &ids);
                        let codes = self.node("Cast", &[&codes], &[cast_to(FLOAT)]);
                        let scales = self.tensor(&name, &shape, Form::ColumnOfScales);
                        self.node("Mul", &[&codes, &gather(&scales, &ids)], &[])
                    }
                    _ => gather(&self.read(table), &ids),
                }
            }
            Indices::Positions(first) => gather(&self.read(table), &self.positions(*first)),
            Indices::TokenTypes if self.token_types => {
                gather(&self.read(table), &TOKEN_TYPE_IDS.to_owned())
            }
            Indices::TokenTypes => gather(&self.read(table), &self.integers(&[0])), // [1, H]
            Indices::FirstTokens => {
                let first = [&self.read(table), &self.integers(&[0])];
                self.node("Gather", &first, &[AttributeProto::int("axis", 1)])
            }
            Indices::Constant(rows) => {
                let rows: Vec<i64> = rows.iter().map(|&row| i64::from(row)).collect();
                gather(&self.read(table), &self.integers(&rows))
            }
            Indices::Starts | Indices::StartsOfFirst => {
                return self.unsupported("picks rows of its own");
            }
        };
        y.content = Content::Computed(match accumulate {
            true => self.node("Add", &[&self.read(y), &found], &[]),
            false => found,
        });
    }

    fn set_rows(&self, y: &mut Traced, rows: &Indices, values: &Traced) {
        if !matches!(rows, Indices::FirstTokens) {
            return self.unsupported("replaces rows other than the first tokens'");
        }
        let (one, end) = (self.integers(&[1]), self.integers(&[i64::MAX]));
        let others = self.node("Slice", &[&self.read(y), &one, &end, &one], &[]);
        let axis = AttributeProto::int("axis", 1);
        let all = self.node("Concat", &[&self.read(values), &others], &[axis]);
        y.content = Content::Computed(all);
    }

    fn scatter_add_rows(&self, _: &mut Traced, _: &Indices, _: &Traced) {
        never()
    }

    fn layer_norm(
        &self,
        x: &mut Traced,
        residual: Option<&Traced>,
        _: Option<Dropout>,
        norm: Norm<'_, Traced>,
    ) -> (Traced, Traced) {
        if let Some(residual) = residual {
            let sum = [&self.read(x), &self.read(residual)];
            x.content = Content::Computed(self.node("Add", &sum, &[]));
        }
        let mut inputs = vec![self.read(x), self.read(norm.weight)];
        inputs.extend(norm.bias.map(|bias| self.read(bias)));
        let inputs: Vec<&Value> = inputs.iter().collect();
        let attributes =
            [AttributeProto::int("axis", -1), AttributeProto::float("epsilon", norm.eps)];
        let y = self.node("LayerNormalization", &inputs, &attributes);
        (self.matrix_of(y, x.rows, x.columns), self.matrix(x.rows, 2))
    }

    fn layer_norm_backward(
        &self,
        _: &Traced,
        _: &Traced,
        _: &Traced,
        _: Option<Dropout>,
        _: &mut Traced,
    ) -> Option<Traced> {
        never()
    }

    fn layer_norm_parameter_gradients(
        &self,
        _: &Traced,
        _: &Traced,
        _: &Traced,
        _: &mut Traced,
        _: Option<&mut Traced>,
    ) {
        never()
    }

    fn activate(&self, f: Activation, y: &mut Traced, _: Option<&mut Traced>) {
        y.content = Content::Computed(self.activated(f, &self.read(y)));
    }

    fn gate(&self, f: Activation, u: &mut Traced) -> Traced {
        let width = u.columns;
        let [a, b] = self.split(&self.read(u), width);
        let gated = self.node("Mul", &[&self.activated(f, &a), &b], &[]);
        self.matrix_of(gated, u.rows, width / 2)
    }

    fn gate_backward(&self, _: &mut Traced, _: &Traced) {
        never()
    }

    fn add(&self, y: &mut Traced, x: &Traced) {
        let sum = [&self.read(y), &self.read(x)];
        y.content = Content::Computed(self.node("Add", &sum, &[]));
    }

    fn scale(&self, y: &mut Traced, by: f32) {
        let product = [&self.read(y), &self.number(by)];
        y.content = Content::Computed(self.node("Mul", &product, &[]));
    }

    fn multiply(&self, y: &mut Traced, factors: &Traced) {
        let factors = [&self.read(y), &self.read(factors)];
        y.content = Content::Computed(self.node("Mul", &factors, &[]));
    }

    fn dropout(&self, _: &Traced, _: Dropout) -> Traced {
        never()
    }

    fn split_rotated(&self, qkv: &Traced, rotary: Rotary<'_, Traced, Indices>) -> [Traced; 3] {
        let (width, size) = (qkv.columns / 3, rotary.table.columns);
        let Indices::Positions(first) = rotary.positions else {
            self.unsupported("turns by other than positions");
            return [0; 3].map(|_| self.matrix(qkv.rows, width));
        };
        let angles = [&self.read(rotary.table), &self.positions(*first)];
        let angles = self.node("Gather", &angles, &[]);
        let angles = self.node("Unsqueeze", &[&angles, &self.integers(&[2])], &[]);
        let angles = self.split(&angles, size);
        let [q, k, v] = self.split(&self.read(qkv), 3 * width);
        let [q, k] = [q, k].map(|x| self.rotated(&x, width, size, &angles));
        [q, k, v].map(|value| self.matrix_of(value, qkv.rows, width))
    }

    fn split_rotated_backward(&self, _: [&Traced; 3], _: Rotary<'_, Traced, Indices>) -> Traced {
        never()
    }

    fn mean_rows(&self, x: &Traced, _: &Indices) -> Traced {
        let mask = ATTENTION_MASK.to_owned();
        let (one, two) = (self.integers(&[1]), self.integers(&[2]));
        let mask = self.node("Cast", &[&mask], &[cast_to(FLOAT)]);
        let mask = self.node("Unsqueeze", &[&mask, &two], &[]); // [batch, sequence, 1]
        let tokens = self.node("Mul", &[&self.read(x), &mask], &[]);
        let sum = self.node("ReduceSum", &[&tokens, &one], &[]);
        let count = self.node("ReduceSum", &[&mask, &one], &[]);
        self.matrix_of(self.node("Div", &[&sum, &count], &[]), 2, x.columns)
    }

    fn mean_rows_backward(&self, _: &Traced, _: &Indices, _: usize) -> Traced {
        never()
    }

    fn attention(
        &self,
        shape: AttentionShape<'_, Traced, Indices>,
        q: Traced,
        k: Traced,
        v: Traced,
    ) -> AttentionSaved<Traced> {
        let scores = self.content_scores(&shape, &q, &k);
        self.attended(&shape, scores, 1, q, k, v)
    }

    fn attention_backward(
        &self,
        _: AttentionShape<'_, Traced, Indices>,
        _: &AttentionSaved<Traced>,
        _: &Traced,
        _: Option<&mut Traced>,
    ) -> [Traced; 3] {
        never()
    }

    fn disentangled_attention(
        &self,
        shape: AttentionShape<'_, Traced, Indices>,
        positions: RelativePositions<'_, Traced, Indices>,
        q: Traced,
        k: Traced,
        v: Traced,
    ) -> AttentionSaved<Traced> {
        let (scores, terms) = self.disentangled_scores(&shape, &positions, &q, &k);
        self.attended(&shape, scores, terms, q, k, v)
    }

    fn disentangled_attention_backward(
        &self,
        _: AttentionShape<'_, Traced, Indices>,
        _: RelativePositions<'_, Traced, Indices>,
        _: &AttentionSaved<Traced>,
        _: &Traced,
        _: [bool; 2],
    ) -> ([Traced; 3], [Option<Traced>; 2]) {
        never()
    }

    fn split_heads(&self, qkv: &Traced, heads: usize) -> [Traced; 3] {
        let width = qkv.columns / 3;
        let cut = self.integers(&[0, 0, heads as i64, (qkv.columns / heads) as i64]);
        let qkv_of_heads = self.node("Reshape", &[&self.read(qkv), &cut], &[]);
        let parts: [Value; 3] = self.split(&qkv_of_heads, qkv.columns / heads);
        parts.map(|part| {
            let together = self.integers(&[0, 0, width as i64]);
            self.matrix_of(self.node("Reshape", &[&part, &together], &[]), qkv.rows, width)
        })
    }

    fn join_heads(&self, _: [&Traced; 3], _: usize) -> Traced {
        never()
    }

    fn unfold(&self, x: &Traced, _: &Indices, size: usize) -> Traced {
        let windows = self.windows(&self.read(x), x.columns, size);
        self.matrix_of(windows, x.rows, x.columns * size)
    }

    fn fold(&self, _: &Traced, _: &Indices, _: usize, _: &mut Traced) {
        never()
    }

    fn cross_entropy(&self, _: &Traced, _: &Indices, _: &[f32], _: f32) -> (f64, Traced) {
        never()
    }

    fn binary_cross_entropy(&self, _: &Traced, _: &Indices, _: &[f32], _: f32) -> (f64, Traced) {
        never()
    }

    fn adamw(&self, _: AdamW, _: &mut Traced, _: &Traced, _: (&mut Traced, &mut Traced)) {
        never()
    }

    fn sum_of_squares(&self, _: &Traced) -> f64 {
        never()
    }

    fn clear(&self, _: &mut Traced) {
        never()
    }
}

//! Attention as nodes, with and without relative positions, and the windows of a convolution.

use super::composed::cast_to;
use super::graph::Value;
use super::proto::{AttributeProto, FLOAT};
use super::trace::{ATTENTION_MASK, Indices, Trace, Traced};
use super::weights::Form;
use architectures::{AttentionSaved, AttentionShape, Backend, RelativePositions};

type Shape<'a> = AttentionShape<'a, Traced, Indices>;

impl Trace {
    /// q·kᵀ [batch, heads, queries, sequence].
    pub(super) fn content_scores(&self, shape: &Shape<'_>, q: &Traced, k: &Traced) -> Value {
        let queries = self.heads(q, shape.heads, [0, 2, 1, 3]);
        let keys = self.heads(k, shape.heads, [0, 2, 3, 1]);
        self.node("MatMul", &[&queries, &keys], &[])
    }

    /// [`content_scores`](Trace::content_scores) and what queries and keys score with each other's
    /// positions; and how many terms that are.
    pub(super) fn disentangled_scores(
        &self,
        shape: &Shape<'_>,
        positions: &RelativePositions<'_, Traced, Indices>,
        q: &Traced,
        k: &Traced,
    ) -> (Value, usize) {
        let mut scores = self.content_scores(shape, q, k);
        let Indices::Constant(of_distance) = positions.of_distance else {
            self.unsupported("has positions of distances that are not constant");
            return (scores, 1);
        };
        let middle = self.graph.borrow_mut().integer(of_distance.len() as i64 / 2);
        let row = self.node("Add", &[&self.distances(shape.cu_q), &middle], &[]);
        let of_distance: Vec<i64> = of_distance.iter().map(|&row| i64::from(row)).collect();
        let met = self.node("Gather", &[&self.integers(&of_distance), &row], &[]); // [queries, sequence]
        // [batch, heads, 1, 1]
        let (zero, two) = (self.integers(&[0]), self.integers(&[2]));
        let sizes = self.node("Shape", &[&scores], &[]);
        let sizes = self.node("Slice", &[&sizes, &zero, &two], &[]);
        let axis = AttributeProto::int("axis", 0);
        let sizes = self.node("Concat", &[&sizes, &self.integers(&[1, 1])], &[axis]);
        let picked = |rows: &Traced, positions: &Traced, met: &Value| {
            let rows = self.heads(rows, shape.heads, [0, 2, 1, 3]);
            let width = positions.columns / shape.heads;
            let cut = self.integers(&[-1, shape.heads as i64, width as i64]);
            let positions = self.node("Reshape", &[&self.read(positions), &cut], &[]);
            let order = AttributeProto::ints("perm", &[1, 2, 0]);
            let positions = self.node("Transpose", &[&positions], &[order]); // [heads, D, positions]
            let products = self.node("MatMul", &[&rows, &positions], &[]);
            let met = self.node("Expand", &[met, &sizes], &[]);
            self.node("GatherElements", &[&products, &met], &[AttributeProto::int("axis", 3)])
        };
        let mut terms = 1;
        if let Some(keys) = positions.keys {
            let by_query = picked(q, keys, &met);
            scores = self.node("Add", &[&scores, &by_query], &[]);
            terms += 1;
        }
        if let Some(queries) = positions.queries {
            let turned = AttributeProto::ints("perm", &[1, 0]);
            let by_key = picked(k, queries, &self.node("Transpose", &[&met], &[turned]));
            let turned = AttributeProto::ints("perm", &[0, 1, 3, 2]);
            let by_key = self.node("Transpose", &[&by_key], &[turned]);
            scores = self.node("Add", &[&scores, &by_key], &[]);
            terms += 1;
        }
        (scores, terms)
    }

    /// What scores, sums of so many terms, gather.
    pub(super) fn attended(
        &self,
        shape: &Shape<'_>,
        scores: Value,
        terms: usize,
        q: Traced,
        k: Traced,
        v: Traced,
    ) -> AttentionSaved<Traced> {
        let AttentionShape { cu_q, heads, bias, pattern, .. } = shape;
        let values = self.heads(&v, *heads, [0, 2, 1, 3]);
        let root = self.number(((terms * q.columns / heads) as f32).sqrt());
        let mut scores = self.node("Div", &[&scores, &root], &[]);
        if let Some(bias) = bias {
            scores = self.node("Add", &[&scores, &self.bias(bias, cu_q)], &[]);
        }
        let scores = self.node("Add", &[&scores, &self.mask(cu_q, pattern)], &[]);
        let last = AttributeProto::int("axis", -1);
        let probabilities = self.node("Softmax", &[&scores], &[last]);
        let context = self.node("MatMul", &[&probabilities, &values], &[]);
        let back = AttributeProto::ints("perm", &[0, 2, 1, 3]);
        let context = self.node("Transpose", &[&context], &[back]);
        let together = self.integers(&[0, 0, q.columns as i64]);
        let context = self.node("Reshape", &[&context, &together], &[]);
        let out = self.matrix_of(context, q.rows, q.columns);
        let lse = self.matrix(q.rows, *heads);
        AttentionSaved { q, k, v, out, lse }
    }

    /// The vectors of the `size` tokens around each, zeros for padding and beyond the ends [batch,
    /// sequence, width · size].
    pub(super) fn windows(&self, x: &Value, width: usize, size: usize) -> Value {
        let (half, size) = (size as i64 / 2, size as i64);
        let (one, two, three) = (self.integers(&[1]), self.integers(&[2]), self.integers(&[3]));
        let mask = self.node("Cast", &[&ATTENTION_MASK.to_owned()], &[cast_to(FLOAT)]);
        let mask = self.node("Unsqueeze", &[&mask, &two], &[]);
        let x = self.node("Mul", &[x, &mask], &[]);
        let x = self.node("Pad", &[&x, &self.integers(&[0, half, 0, 0, half, 0])], &[]);
        let taps: Vec<Value> = (0..size)
            .map(|tap| {
                let start = self.integers(&[tap]);
                let end = self.integers(&[if tap + 1 < size { tap + 1 - size } else { i64::MAX }]);
                let tap = self.node("Slice", &[&x, &start, &end, &one], &[]);
                self.node("Unsqueeze", &[&tap, &three], &[])
            })
            .collect();
        let taps: Vec<&Value> = taps.iter().collect();
        let windows = self.node("Concat", &taps, &[AttributeProto::int("axis", 3)]);
        self.node("Reshape", &[&windows, &self.integers(&[0, 0, width as i64 * size])], &[])
    }

    /// `a·Wᵀ` where W [out, in, size] is a convolution's, in f32 always.
    pub(super) fn convolved(&self, a: &Value, name: &str, shape: &[usize]) -> Value {
        let w = self.tensor(name, shape, Form::Plain);
        let flat = self.node("Reshape", &[&w, &self.integers(&[shape[0] as i64, -1])], &[]);
        let turned = AttributeProto::ints("perm", &[1, 0]);
        let w = self.node("Transpose", &[&flat], &[turned]);
        self.node("MatMul", &[a, &w], &[])
    }
}

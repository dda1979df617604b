//! What the engine has as one operation and a graph as several: products in 8 bits, positions, masks,
//! biases by distance, rotations, activations.

use super::graph::Value;
use super::proto::{AttributeProto, FLOAT, UINT8};
use super::trace::{ATTENTION_MASK, INPUT_IDS, Indices, Trace, Traced};
use super::weights::{self, Form};
use architectures::{Activation, Pattern, RelativeBias};

impl Trace {
    /// `a·Wᵀ`. With 8 bits each row of `a` has a scale, found when it is run: what shares its batch changes
    /// an answer by rounding alone, and a large number costs the precision of its own row alone.
    pub(super) fn product_with(&self, a: &Value, name: &str, shape: &[usize]) -> Value {
        let in_head = self.head.iter().any(|part| name.split('.').any(|p| p == *part));
        if !self.int8 || in_head {
            let w = self.tensor(name, shape, Form::Transposed);
            return self.node("MatMul", &[a, &w], &[]);
        }
        let (codes, scale) = self.codes_of(a);
        let w = self.tensor(name, shape, Form::TransposedCodes);
        let scales = self.tensor(name, shape, Form::Scales);
        let zero = self.graph.borrow_mut().constant(UINT8, &[], vec![weights::ZERO]);
        let sums = self.node("MatMulInteger", &[&codes, &w, &zero, &zero], &[]);
        let sums = self.node("Cast", &[&sums], &[cast_to(FLOAT)]);
        // Not the scales' product first: onnxruntime 1.32 takes that for one scale of all rows when it
        // fuses these nodes, and is wrong by more than the largest logit.
        let sums = self.node("Mul", &[&sums, &scale], &[]);
        self.node("Mul", &[&sums, &scales], &[])
    }

    /// The rows of `a` in bytes around [`weights::ZERO`], and their scales: the largest magnitude is 127.
    fn codes_of(&self, a: &Value) -> (Value, Value) {
        let attributes = [AttributeProto::ints("axes", &[-1]), AttributeProto::int("keepdims", 1)];
        let magnitudes = self.node("Abs", &[a], &[]);
        let largest = self.node("ReduceMax", &[&magnitudes], &attributes);
        let largest = self.node("Max", &[&largest, &self.number(1e-30)], &[]);
        let scale = self.node("Div", &[&largest, &self.number(127.0)], &[]);
        let whole = self.node("Div", &[a, &scale], &[]);
        let whole = self.node("Round", &[&whole], &[]);
        let whole = self.node("Add", &[&whole, &self.number(f32::from(weights::ZERO))], &[]);
        (self.node("Cast", &[&whole], &[cast_to(UINT8)]), scale)
    }

    /// Row numbers of a table, [batch, sequence].
    pub(super) fn positions(&self, first: u32) -> Value {
        let mask = ATTENTION_MASK.to_owned();
        let mut graph = self.graph.borrow_mut();
        let axis = graph.integer(1);
        let counted = graph.node("CumSum", &[&mask, &axis], &[]);
        let (less, least) = (graph.integer(i64::from(first) - 1), graph.integer(i64::from(first)));
        let positions = graph.node("Add", &[&counted, &less], &[]);
        graph.node("Max", &[&positions, &least], &[])
    }

    /// 0, 1, …, sequence − 1.
    pub(super) fn range(&self) -> Value {
        let ids = INPUT_IDS.to_owned();
        let mut graph = self.graph.borrow_mut();
        let sizes = graph.node("Shape", &[&ids], &[]);
        let (zero, one) = (graph.integer(0), graph.integer(1));
        let length = graph.node("Gather", &[&sizes, &one], &[]);
        graph.node("Range", &[&zero, &length, &one], &[])
    }

    /// key − query [queries, sequence]; queries are the first tokens.
    pub(super) fn distances(&self, queries: &Indices) -> Value {
        let keys = self.range();
        let (across, down) = (self.integers(&[0]), self.integers(&[1]));
        let first = match queries {
            Indices::StartsOfFirst => self.integers(&[0]),
            _ => keys.clone(),
        };
        let keys = self.node("Unsqueeze", &[&keys, &across], &[]);
        let queries = self.node("Unsqueeze", &[&first, &down], &[]);
        self.node("Sub", &[&keys, &queries], &[])
    }

    /// What keeps padding out of a softmax: 0 for tokens, the least f32 for padding [batch, 1, 1,
    /// sequence].
    pub(super) fn padding(&self) -> Value {
        let mask = ATTENTION_MASK.to_owned();
        let (one, two) = (self.integers(&[1]), self.integers(&[2]));
        let mask = self.node("Unsqueeze", &[&mask, &one], &[]);
        let mask = self.node("Unsqueeze", &[&mask, &two], &[]);
        let mask = self.node("Cast", &[&mask], &[cast_to(FLOAT)]);
        let padding = self.node("Sub", &[&self.number(1.0), &mask], &[]);
        self.node("Mul", &[&padding, &self.number(f32::MIN)], &[])
    }

    /// 0 for keys at most `reach` away, and where `first` for the first one, the least f32 beyond
    /// [queries, sequence].
    pub(super) fn window(&self, queries: &Indices, reach: usize, first: bool) -> Value {
        let distances = self.node("Abs", &[&self.distances(queries)], &[]);
        let reach = self.graph.borrow_mut().integer(reach as i64);
        let mut seen = self.node("LessOrEqual", &[&distances, &reach], &[]);
        if first {
            let zero = self.graph.borrow_mut().integer(0);
            let first = self.node("Equal", &[&self.range(), &zero], &[]);
            seen = self.node("Or", &[&seen, &first], &[]);
        }
        self.node("Where", &[&seen, &self.number(0.0), &self.number(f32::MIN)], &[])
    }

    /// What is added to the scores, so that no padding is seen and what the pattern hides is not.
    pub(super) fn mask(&self, queries: &Indices, pattern: &Pattern<'_, Indices>) -> Value {
        let padding = self.padding();
        match *pattern {
            Pattern::All => padding,
            Pattern::Window { reach, first } => {
                let window = self.window(queries, reach, first);
                self.node("Add", &[&padding, &window], &[])
            }
            Pattern::Blocks { size, whole, random, table, ref rows } => {
                let zeros = |indices: &Indices, count: usize| match indices {
                    Indices::Constant(numbers) => numbers.iter().take(count).all(|&n| n == 0),
                    _ => false,
                };
                if !(zeros(rows, usize::MAX) && zeros(table, random)) {
                    self.unsupported("sees blocks other than the first at random");
                }
                let blocks = self.blocks(queries, size, whole, random);
                self.node("Add", &[&padding, &blocks], &[])
            }
        }
    }

    /// What hides the keys beyond the blocks that a query sees, where the sequence has more than
    /// `whole` keys and the query is in neither its first nor its last block: those two blocks, the
    /// query's own and its neighbours are seen, and the first `random` times more [batch, 1, queries,
    /// sequence].
    pub(super) fn blocks(
        &self,
        queries: &Indices,
        size: usize,
        whole: usize,
        random: usize,
    ) -> Value {
        let (mask, integer) = (ATTENTION_MASK.to_owned(), |x: usize| self.integers(&[x as i64]));
        let (zero, one, size) = (integer(0), integer(1), integer(size));
        let length = self.node("ReduceSum", &[&mask, &one], &[]); // [batch, 1]
        let length = self.node("Unsqueeze", &[&length, &one], &[]); // [batch, 1, 1]
        let last = self.node("Sub", &[&length, &one], &[]);
        let last = self.node("Div", &[&last, &size], &[]);
        let keys = self.node("Div", &[&self.range(), &size], &[]); // [sequence]
        let own = match queries {
            Indices::StartsOfFirst => zero.clone(),
            _ => keys.clone(),
        };
        let own = self.node("Unsqueeze", &[&own, &one], &[]); // [queries, 1]
        let both = |a: &Value, b: &Value| self.node("And", &[a, b], &[]);
        let any = |a: &Value, b: &Value| self.node("Or", &[a, b], &[]);
        let inner = both(
            &self.node("Greater", &[&own, &zero], &[]),
            &self.node("Less", &[&own, &last], &[]),
        );
        let long = self.node("Greater", &[&length, &integer(whole)], &[]);
        let cut = both(&inner, &long); // [batch, queries, 1]
        let away = self.node("Abs", &[&self.node("Sub", &[&own, &keys], &[])], &[]);
        let near = self.node("LessOrEqual", &[&away, &one], &[]);
        let first = self.node("Equal", &[&keys, &zero], &[]);
        let seen = any(&near, &any(&first, &self.node("Equal", &[&keys, &last], &[])));
        let choose = |condition: &Value, yes: &Value, no: &Value| {
            self.node("Where", &[condition, yes, no], &[])
        };
        let (nothing, often) = (self.number(0.0), self.number((1.0 + random as f32).ln()));
        let weight = choose(&first, &often, &nothing);
        let hidden = choose(&seen, &weight, &self.number(f32::MIN));
        let blocks = choose(&cut, &hidden, &nothing);
        self.node("Unsqueeze", &[&blocks, &one], &[])
    }

    /// `x` cut into N equal parts along its last axis, which has this length.
    pub(super) fn split<const N: usize>(&self, x: &Value, length: usize) -> [Value; N] {
        let mut graph = self.graph.borrow_mut();
        let sizes = graph.integers(&[(length / N) as i64; N]);
        graph.outputs("Split", &[x, &sizes], &[AttributeProto::int("axis", -1)])
    }

    /// Heads [batch, sequence, heads · D] turned by angles whose cosines and sines are [batch,
    /// sequence, 1, D / 2].
    pub(super) fn rotated(
        &self,
        x: &Value,
        width: usize,
        size: usize,
        [cos, sin]: &[Value; 2],
    ) -> Value {
        let cut = self.integers(&[0, 0, (width / size) as i64, size as i64]);
        let x = self.node("Reshape", &[x, &cut], &[]);
        let [a, b] = self.split(&x, size);
        let times = |x, y| self.node("Mul", &[x, y], &[]);
        let turned = [
            self.node("Sub", &[&times(&a, cos), &times(&b, sin)], &[]),
            self.node("Add", &[&times(&b, cos), &times(&a, sin)], &[]),
        ];
        let last = AttributeProto::int("axis", -1);
        let x = self.node("Concat", &[&turned[0], &turned[1]], &[last]);
        self.node("Reshape", &[&x, &self.integers(&[0, 0, width as i64])], &[])
    }

    /// The bias of each head by distance [1, heads, queries, sequence].
    pub(super) fn bias(
        &self,
        bias: &RelativeBias<'_, Traced, Indices>,
        queries: &Indices,
    ) -> Value {
        let Indices::Constant(buckets) = bias.buckets else {
            self.unsupported("has buckets of distances that are not constant");
            return Value::new();
        };
        let middle = self.graph.borrow_mut().integer(buckets.len() as i64 / 2);
        let row = self.node("Add", &[&self.distances(queries), &middle], &[]);
        let buckets: Vec<i64> = buckets.iter().map(|&bucket| i64::from(bucket)).collect();
        let buckets = self.node("Gather", &[&self.integers(&buckets), &row], &[]);
        let table = self.read(bias.table);
        let biases = self.node("Gather", &[&table, &buckets], &[]); // [queries, sequence, heads]
        let biases =
            self.node("Transpose", &[&biases], &[AttributeProto::ints("perm", &[2, 0, 1])]);
        self.node("Unsqueeze", &[&biases, &self.integers(&[0])], &[])
    }

    /// [batch, rows, H] as heads of it, [batch, rows, heads, H / heads], its axes in this order.
    pub(super) fn heads(&self, x: &Traced, heads: usize, order: [i64; 4]) -> Value {
        let cut = [0, 0, heads as i64, (x.columns / heads) as i64];
        let x = self.node("Reshape", &[&self.read(x), &self.integers(&cut)], &[]);
        self.node("Transpose", &[&x], &[AttributeProto::ints("perm", &order)])
    }

    pub(super) fn activated(&self, f: Activation, x: &Value) -> Value {
        let half_gelu = |inner: Value| {
            let one = self.node("Add", &[&inner, &self.number(1.0)], &[]);
            let product = self.node("Mul", &[x, &one], &[]);
            self.node("Mul", &[&product, &self.number(0.5)], &[])
        };
        match f {
            Activation::Gelu => {
                let inner = self.number(std::f32::consts::SQRT_2);
                let inner = self.node("Div", &[x, &inner], &[]);
                half_gelu(self.node("Erf", &[&inner], &[]))
            }
            Activation::GeluTanh => {
                let cube = self.node("Pow", &[x, &self.number(3.0)], &[]);
                let cube = self.node("Mul", &[&cube, &self.number(0.044_715)], &[]);
                let inner = self.node("Add", &[x, &cube], &[]);
                let factor = self.number((2.0 / std::f32::consts::PI).sqrt());
                let inner = self.node("Mul", &[&inner, &factor], &[]);
                half_gelu(self.node("Tanh", &[&inner], &[]))
            }
            Activation::Relu => self.node("Relu", &[x], &[]),
            Activation::Tanh => self.node("Tanh", &[x], &[]),
        }
    }
}

pub(super) fn cast_to(kind: i32) -> AttributeProto {
    AttributeProto::int("to", i64::from(kind))
}

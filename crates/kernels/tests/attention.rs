//! Attention and its backward against plain f64 loops and finite differences.

use kernels::{
    Attention, AttentionInputs, Dropout, Isa, Pattern, RelativeBias, RelativeBiasGradient, Stream,
    Threads, attention, attention_backward,
};

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Lengths around the block of 64 queries and every vector's tail.
const LENGTHS: [u32; 8] = [1, 2, 15, 17, 63, 64, 65, 130];

struct Case {
    cu: Vec<u32>,
    heads: usize,
    head_size: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    bias: Option<Bias>,
}

/// One number per bucket and head, and the bucket of each distance among 130 keys.
struct Bias {
    table: Vec<f32>,
    buckets: Vec<u32>,
}

const BUCKETS: usize = 12;

/// A case whose scores have biases: six buckets for keys before the query, six for those behind it.
fn biased(heads: usize, head_size: usize) -> Case {
    let bucket = |distance: i32| {
        let (side, far) = (u32::from(distance > 0), distance.unsigned_abs());
        6 * side + if far < 4 { far } else { 4 + u32::from(far > 40) }
    };
    let table = numbers(BUCKETS * heads, 9).iter().map(|x| 2.0 * x).collect();
    let bias = Bias { table, buckets: (-129..=129).map(bucket).collect() };
    Case { bias: Some(bias), ..case(heads, head_size) }
}

fn case(heads: usize, head_size: usize) -> Case {
    let mut cu = vec![0];
    for length in LENGTHS {
        cu.push(cu[cu.len() - 1] + length);
    }
    let size = cu[cu.len() - 1] as usize * heads * head_size;
    let [q, k, v] = [1, 2, 3].map(|seed| numbers(size, seed));
    Case { cu, heads, head_size, q, k, v, bias: None }
}

impl Case {
    fn shape(&self, dropout: Option<Dropout>) -> Attention<'_> {
        Attention {
            cu_q: &self.cu,
            cu_kv: &self.cu,
            heads: self.heads,
            head_size: self.head_size,
            scale: 1.0 / (self.head_size as f32).sqrt(),
            bias: self.bias.as_ref().map(|bias| {
                let Bias { table, buckets } = bias;
                RelativeBias { table, buckets }
            }),
            pattern: Pattern::All,
            dropout,
            precision: kernels::Precision::F32,
        }
    }

    fn inputs(&self) -> AttentionInputs<'_> {
        AttentionInputs { q: &self.q, k: &self.k, v: &self.v }
    }

    fn forward(&self, isa: Isa, dropout: Option<Dropout>) -> (Vec<f32>, Vec<f32>) {
        let mut out = vec![f32::NAN; self.q.len()];
        let mut lse = vec![f32::NAN; self.q.len() / self.head_size];
        attention(isa, self.shape(dropout), self.inputs(), &mut out, &mut lse);
        (out, lse)
    }

    fn reference(&self) -> Vec<f64> {
        let (heads, d) = (self.heads, self.head_size);
        let width = heads * d;
        let mut out = vec![0.0; self.q.len()];
        for bounds in self.cu.windows(2) {
            for head in 0..heads {
                for i in bounds[0] as usize..bounds[1] as usize {
                    let at = |row: usize, c: usize| row * width + head * d + c;
                    let keys = bounds[0] as usize..bounds[1] as usize;
                    let scores: Vec<f64> = keys
                        .clone()
                        .map(|j| {
                            let dot: f64 = (0..d)
                                .map(|c| f64::from(self.q[at(i, c)]) * f64::from(self.k[at(j, c)]))
                                .sum();
                            dot / (d as f64).sqrt() + self.bias_of(head, i, j)
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    for (j, s) in keys.zip(&scores) {
                        for c in 0..d {
                            out[at(i, c)] += (s - max).exp() / sum * f64::from(self.v[at(j, c)]);
                        }
                    }
                }
            }
        }
        out
    }

    fn bias_of(&self, head: usize, query: usize, key: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |Bias { table, buckets }| {
            let bucket = buckets[key + 129 - query] as usize;
            f64::from(table[bucket * self.heads + head])
        })
    }

    /// Gradients of queries, keys, values and, where there are any, of the biases.
    fn backward(&self, isa: Isa, dropout: Option<Dropout>, dout: &[f32]) -> [Vec<f32>; 4] {
        let (out, lse) = self.forward(isa, dropout);
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![f32::NAN; self.q.len()]);
        let sums = RelativeBiasGradient::partial_sums(LENGTHS.len(), BUCKETS, self.heads);
        let mut partial = vec![f32::NAN; sums];
        let mut table = vec![0.0; self.bias.as_ref().map_or(0, |bias| bias.table.len())];
        let dbias = (!table.is_empty())
            .then(|| RelativeBiasGradient { table: &mut table, partial: &mut partial });
        attention_backward(
            isa,
            self.shape(dropout),
            self.inputs(),
            &out,
            &lse,
            dout,
            &mut dq,
            &mut dk,
            &mut dv,
            dbias,
        );
        [dq, dk, dv, table]
    }

    /// The input that the n-th gradient belongs to.
    fn tensor(&mut self, n: usize) -> &mut Vec<f32> {
        match n {
            0 => &mut self.q,
            1 => &mut self.k,
            2 => &mut self.v,
            _ => &mut self.bias.as_mut().expect("biases").table,
        }
    }
}

#[test]
fn forward_equals_the_f64_reference() {
    let plain = [(2, 32), (3, 10), (1, 64), (2, 7)].map(|(heads, size)| case(heads, size));
    let with_bias = [(2, 32), (3, 10)].map(|(heads, size)| biased(heads, size));
    for case in plain.into_iter().chain(with_bias) {
        let expected = case.reference();
        for isa in available() {
            let (out, _) = case.forward(isa, None);
            for (out, expected) in out.iter().zip(&expected) {
                assert!((f64::from(*out) - expected).abs() < 2e-6, "{isa}: {out} {expected}");
            }
        }
    }
}

#[test]
fn backward_is_the_slope_with_and_without_dropout() {
    let stream = Stream { seed: 5, step: 1, site: 2, first_row: 9 };
    for dropout in [None, Some(Dropout { probability: 0.2, stream })] {
        for (mut case, tensors) in [(case(2, 6), 3), (biased(2, 6), 4)] {
            let dout = numbers(case.q.len(), 4);
            for isa in available() {
                let slopes = case.backward(isa, dropout, &dout);
                for (tensor, slopes) in slopes.iter().enumerate().take(tensors) {
                    let step = slopes.len().min(331); // every one of the biases is checked
                    for index in (0..slopes.len()).step_by(if tensor == 3 { 1 } else { step }) {
                        let mut loss = |by: f32| {
                            let before = case.tensor(tensor)[index];
                            case.tensor(tensor)[index] += by;
                            let (out, _) = case.forward(isa, dropout);
                            case.tensor(tensor)[index] = before;
                            let products = out.iter().zip(&dout);
                            products.map(|(o, d)| f64::from(*o) * f64::from(*d)).sum::<f64>()
                        };
                        let slope = (loss(1e-2) - loss(-1e-2)) / 2e-2;
                        let ours = f64::from(slopes[index]);
                        assert!(
                            (slope - ours).abs() < 2e-3 * (1.0 + slope.abs()),
                            "{isa} tensor {tensor} at {index}: {ours} for {slope}"
                        );
                    }
                }
            }
        }
    }
}

/// The reference's own backward, in f64: what every row's softmax leaves for its scores, by bucket.
#[test]
fn the_gradient_of_the_biases_equals_the_f64_reference() {
    let case = biased(3, 10);
    let (heads, d, dout) = (case.heads, case.head_size, numbers(case.q.len(), 4));
    let bias = case.bias.as_ref().expect("biases");
    let mut expected = vec![0.0f64; bias.table.len()];
    let at = |row: usize, head: usize| row * heads * d + head * d..row * heads * d + (head + 1) * d;
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for bounds in case.cu.windows(2) {
        let rows = bounds[0] as usize..bounds[1] as usize;
        for (head, i) in (0..heads).flat_map(|head| rows.clone().map(move |i| (head, i))) {
            let q = &case.q[at(i, head)];
            let score = |j: usize| {
                dot(q, &case.k[at(j, head)]) / (d as f64).sqrt() + case.bias_of(head, i, j)
            };
            let exponentials: Vec<f64> = rows.clone().map(|j| score(j).exp()).collect();
            let sum: f64 = exponentials.iter().sum();
            let slope = |j: usize| dot(&dout[at(i, head)], &case.v[at(j, head)]);
            let pairs = || exponentials.iter().map(|e| e / sum).zip(rows.clone());
            let mean: f64 = pairs().map(|(p, j)| p * slope(j)).sum();
            for (p, j) in pairs() {
                let bucket = bias.buckets[j + 129 - i] as usize;
                expected[bucket * heads + head] += p * (slope(j) - mean);
            }
        }
    }
    for isa in available() {
        let [.., table] = case.backward(isa, None, &dout);
        for (ours, expected) in table.iter().zip(&expected) {
            assert!((f64::from(*ours) - expected).abs() < 2e-5, "{isa}: {ours} {expected}");
        }
    }
}

#[test]
fn one_query_per_sequence_equals_that_row_of_the_whole() {
    [case(2, 32), biased(2, 32)].iter().for_each(first_queries);
}

fn first_queries(case: &Case) {
    let width = 64;
    let first: Vec<u32> = case.cu[..case.cu.len() - 1].to_vec();
    let q: Vec<f32> =
        first.iter().flat_map(|&row| case.q[row as usize * width..][..width].to_vec()).collect();
    let cu_q: Vec<u32> = (0..case.cu.len() as u32).collect();
    for isa in available() {
        let (whole, _) = case.forward(isa, None);
        let mut out = vec![0.0; q.len()];
        let mut lse = vec![0.0; first.len() * 2];
        let shape = Attention { cu_q: &cu_q, ..case.shape(None) };
        attention(isa, shape, AttentionInputs { q: &q, ..case.inputs() }, &mut out, &mut lse);
        for (i, &row) in first.iter().enumerate() {
            assert_eq!(out[i * width..][..width], whole[row as usize * width..][..width], "{isa}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let case = biased(4, 16);
    let stream = Stream { seed: 1, step: 1, site: 1, first_row: 0 };
    let dropout = Some(Dropout { probability: 0.1, stream });
    let dout = numbers(case.q.len(), 4);
    let run = |threads| {
        let threads = Threads::new(Some(threads)).unwrap();
        threads.run(|| case.backward(Isa::detect().unwrap(), dropout, &dout))
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(3));
}

#[test]
fn a_micro_batch_draws_the_masks_of_the_whole_batch() {
    let case = case(2, 16);
    let width = 32;
    let stream = Stream { seed: 5, step: 1, site: 2, first_row: 4 };
    let dropout = Dropout { probability: 0.3, stream };
    for isa in available() {
        let (whole, _) = case.forward(isa, Some(dropout));
        // The last sequence alone.
        let start = case.cu[case.cu.len() - 2];
        let rows = start as usize * width..;
        let inputs = AttentionInputs {
            q: &case.q[rows.clone()],
            k: &case.k[rows.clone()],
            v: &case.v[rows.clone()],
        };
        let cu = [0, case.cu[case.cu.len() - 1] - start];
        let stream = Stream { first_row: stream.first_row + start, ..stream };
        let shape = case.shape(Some(Dropout { stream, ..dropout }));
        let shape = Attention { cu_q: &cu, cu_kv: &cu, ..shape };
        let mut out = vec![0.0; inputs.q.len()];
        let mut lse = vec![0.0; cu[1] as usize * 2];
        attention(isa, shape, inputs, &mut out, &mut lse);
        assert_eq!(out, whole[rows], "{isa}");
    }
}

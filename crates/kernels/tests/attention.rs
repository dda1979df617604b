//! Attention and its backward against plain f64 loops and finite differences.

use kernels::{
    Attention, AttentionInputs, Dropout, Isa, Stream, Threads, attention, attention_backward,
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
}

fn case(heads: usize, head_size: usize) -> Case {
    let mut cu = vec![0];
    for length in LENGTHS {
        cu.push(cu[cu.len() - 1] + length);
    }
    let size = cu[cu.len() - 1] as usize * heads * head_size;
    Case { cu, heads, head_size, q: numbers(size, 1), k: numbers(size, 2), v: numbers(size, 3) }
}

impl Case {
    fn shape(&self, dropout: Option<Dropout>) -> Attention<'_> {
        Attention {
            cu_q: &self.cu,
            cu_kv: &self.cu,
            heads: self.heads,
            head_size: self.head_size,
            scale: 1.0 / (self.head_size as f32).sqrt(),
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
                            dot / (d as f64).sqrt()
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

    fn backward(&self, isa: Isa, dropout: Option<Dropout>, dout: &[f32]) -> [Vec<f32>; 3] {
        let (out, lse) = self.forward(isa, dropout);
        let mut slopes = [(); 3].map(|()| vec![f32::NAN; self.q.len()]);
        let [dq, dk, dv] = &mut slopes;
        attention_backward(isa, self.shape(dropout), self.inputs(), &out, &lse, dout, dq, dk, dv);
        slopes
    }
}

#[test]
fn forward_equals_the_f64_reference() {
    for (heads, head_size) in [(2, 32), (3, 10), (1, 64), (2, 7)] {
        let case = case(heads, head_size);
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
        let mut case = case(2, 6);
        let dout = numbers(case.q.len(), 4);
        for isa in available() {
            let slopes = case.backward(isa, dropout, &dout);
            for tensor in 0..3 {
                for index in (0..case.q.len()).step_by(331) {
                    let mut loss = |by: f32| {
                        let data = [&mut case.q, &mut case.k, &mut case.v].into_iter().nth(tensor);
                        let data = data.expect("three tensors");
                        let before = data[index];
                        data[index] += by;
                        let (out, _) = case.forward(isa, dropout);
                        [&mut case.q, &mut case.k, &mut case.v][tensor][index] = before;
                        out.iter()
                            .zip(&dout)
                            .map(|(o, d)| f64::from(*o) * f64::from(*d))
                            .sum::<f64>()
                    };
                    let slope = (loss(1e-2) - loss(-1e-2)) / 2e-2;
                    let ours = f64::from(slopes[tensor][index]);
                    assert!(
                        (slope - ours).abs() < 2e-3 * (1.0 + slope.abs()),
                        "{isa} tensor {tensor} at {index}: {ours} for {slope}"
                    );
                }
            }
        }
    }
}

#[test]
fn one_query_per_sequence_equals_that_row_of_the_whole() {
    let case = case(2, 32);
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
    let case = case(4, 16);
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

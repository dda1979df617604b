//! Attention to some of a sequence's keys, and its backward, against plain f64 loops.

use kernels::{
    Attention, AttentionInputs, Blocks, Dropout, Isa, Pattern, Precision, Stream, Threads,
    attention, attention_backward,
};
use proptest::prelude::*;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

#[derive(Clone, Debug)]
enum Seen {
    Window {
        reach: usize,
        first: bool,
    },
    /// As `kernels::Blocks`; the n-th sequence's second block takes row n.
    Blocks {
        size: usize,
        whole: usize,
        random: usize,
        table: Vec<u32>,
        rows: Vec<u32>,
    },
}

#[derive(Debug)]
struct Case {
    cu: Vec<u32>,
    heads: usize,
    head_size: usize,
    seen: Seen,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Case {
    fn new(lengths: &[u32], heads: usize, head_size: usize, seen: Seen) -> Case {
        let mut cu = vec![0];
        for length in lengths {
            cu.push(cu[cu.len() - 1] + length);
        }
        let size = cu[cu.len() - 1] as usize * heads * head_size;
        let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| numbers(size, seed));
        Case { cu, heads, head_size, seen, q, k, v, dout }
    }

    fn shape(&self, dropout: Option<Dropout>) -> Attention<'_> {
        Attention {
            cu_q: &self.cu,
            cu_kv: &self.cu,
            heads: self.heads,
            head_size: self.head_size,
            scale: 1.0 / (self.head_size as f32).sqrt(),
            bias: None,
            pattern: match self.seen {
                Seen::Window { reach, first } => Pattern::Window { reach, first },
                Seen::Blocks { size, whole, random, ref table, ref rows } => {
                    Pattern::Blocks(Blocks { size, whole, random, table, rows })
                }
            },
            dropout,
            precision: Precision::F32,
        }
    }

    /// Result, and gradients of queries, keys and values.
    fn run(&self, isa: Isa, shape: Attention<'_>) -> [Vec<f32>; 4] {
        let inputs = AttentionInputs { q: &self.q, k: &self.k, v: &self.v };
        let mut out = vec![f32::NAN; self.q.len()];
        let mut lse = vec![f32::NAN; self.q.len() / self.head_size];
        attention(isa, shape, inputs, &mut out, &mut lse);
        let [mut dq, mut dk, mut dv] = [&self.q, &self.k, &self.v].map(|m| vec![f32::NAN; m.len()]);
        let (q, k, v) = (&mut dq, &mut dk, &mut dv);
        attention_backward(isa, shape, inputs, &out, &lse, &self.dout, q, k, v, None);
        [out, dq, dk, dv]
    }

    /// The keys that a query of so many in a sequence sees, repeated where they count twice.
    fn seen(&self, sequence: usize, head: usize, i: usize, keys: usize) -> Vec<usize> {
        match &self.seen {
            Seen::Window { reach, first } => {
                (0..keys).filter(|j| j.abs_diff(i) <= *reach || *first && *j == 0).collect()
            }
            Seen::Blocks { whole, .. } if keys <= *whole => (0..keys).collect(),
            Seen::Blocks { size, random, table, rows, .. } => {
                let (own, last) = (i / size, (keys - 1) / size);
                if own == 0 || own == last {
                    return (0..keys).collect();
                }
                let mut blocks = vec![0, own - 1, own, own + 1, last];
                blocks.dedup(); // neighbours that are the first or the last block
                let row = rows[sequence] as usize + own - 1;
                let chosen = &table[(row * self.heads + head) * random..][..*random];
                blocks.extend(chosen.iter().map(|&b| b as usize));
                let keys = |block: usize| block * size..(block * size + size).min(keys);
                blocks.into_iter().flat_map(keys).collect()
            }
        }
    }

    /// The same in f64.
    fn reference(&self) -> [Vec<f64>; 4] {
        let (d, width) = (self.head_size, self.heads * self.head_size);
        let scale = 1.0 / (d as f64).sqrt();
        let mut results = [(); 4].map(|()| vec![0.0; self.q.len()]);
        let [out, dq, dk, dv] = &mut results;
        for (sequence, bounds) in self.cu.windows(2).enumerate() {
            let rows = bounds[0] as usize..bounds[1] as usize;
            for (head, i) in (0..self.heads).flat_map(|h| rows.clone().map(move |i| (h, i))) {
                let at = |row: usize| row * width + head * d..row * width + head * d + d;
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                };
                let seen: Vec<usize> = self
                    .seen(sequence, head, i - rows.start, rows.len())
                    .into_iter()
                    .map(|j| rows.start + j)
                    .collect();
                let e = |j: usize| (dot(&self.q[at(i)], &self.k[at(j)]) * scale).exp();
                let sum: f64 = seen.iter().map(|&j| e(j)).sum();
                let slope = |j: usize| dot(&self.dout[at(i)], &self.v[at(j)]);
                let mean: f64 = seen.iter().map(|&j| e(j) / sum * slope(j)).sum();
                for &j in &seen {
                    let p = e(j) / sum;
                    let ds = p * (slope(j) - mean) * scale;
                    for (i, j) in at(i).zip(at(j)) {
                        out[i] += p * f64::from(self.v[j]);
                        dv[j] += p * f64::from(self.dout[i]);
                        dq[i] += ds * f64::from(self.k[j]);
                        dk[j] += ds * f64::from(self.q[i]);
                    }
                }
            }
        }
        results
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let expected = case.reference();
    for isa in available() {
        let ours = case.run(isa, case.shape(None));
        for (tensor, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
            for (i, (ours, expected)) in ours.iter().zip(expected).enumerate() {
                let error = (f64::from(*ours) - expected).abs();
                prop_assert!(error < 3e-5, "{isa} tensor {tensor} at {i}: {ours} {expected}");
            }
        }
    }
    Ok(())
}

/// A case of blocks whose random ones are a function of these numbers.
fn blocks(
    lengths: &[u32],
    [heads, head_size]: [usize; 2],
    [size, random, whole]: [usize; 3],
) -> Case {
    let (mut table, mut rows) = (Vec::<u32>::new(), Vec::new());
    for &length in lengths {
        let count = (length as usize).div_ceil(size);
        rows.push((table.len() / (heads * random).max(1)) as u32);
        let wanted = count.saturating_sub(2) * heads * random;
        table.extend((0..wanted).map(|i| (i * i + 7 * i + random) as u32 % count as u32));
    }
    Case::new(lengths, heads, head_size, Seen::Blocks { size, whole, random, table, rows })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn windows_equal_the_f64_reference(
        lengths in prop::collection::vec(1u32..210, 1..4),
        heads in 1usize..3,
        head_size in 1usize..19,
        reach in prop_oneof![0usize..5, 20usize..140],
        first: bool,
    ) {
        check(&Case::new(&lengths, heads, head_size, Seen::Window { reach, first }))?;
    }

    #[test]
    fn blocks_equal_the_f64_reference(
        lengths in prop::collection::vec(1u32..210, 1..4),
        sizes in [1usize..3, 1usize..19],
        size in prop_oneof![1usize..9, 14usize..40, Just(64), Just(70)],
        random in 0usize..4,
        whole in prop_oneof![Just(0), 1usize..150],
    ) {
        check(&blocks(&lengths, sizes, [size, random, whole]))?;
    }
}

#[test]
fn a_window_over_everything_is_none() {
    let stream = Stream { seed: 5, step: 1, site: 2, first_row: 9 };
    let case = Case::new(&[1, 70, 150], 2, 8, Seen::Window { reach: 149, first: true });
    for dropout in [None, Some(Dropout { probability: 0.2, stream })] {
        for isa in available() {
            let whole = Attention { pattern: Pattern::All, ..case.shape(dropout) };
            assert_eq!(case.run(isa, case.shape(dropout)), case.run(isa, whole), "{isa}");
        }
    }
}

#[test]
fn one_query_per_sequence_equals_that_row_of_the_whole() {
    let case = Case::new(&[1, 9, 70, 150], 2, 8, Seen::Window { reach: 21, first: false });
    let width = 16;
    let first = &case.cu[..case.cu.len() - 1];
    let of_first = |data: &[f32]| -> Vec<f32> {
        first.iter().flat_map(|&row| data[row as usize * width..][..width].to_vec()).collect()
    };
    let cu_q: Vec<u32> = (0..case.cu.len() as u32).collect();
    for isa in available() {
        let [whole, ..] = case.run(isa, case.shape(None));
        let alone = Case {
            q: of_first(&case.q),
            dout: of_first(&case.dout),
            cu: case.cu.clone(),
            k: case.k.clone(),
            v: case.v.clone(),
            seen: case.seen.clone(),
            ..case
        };
        let [out, _, dk, _] = alone.run(isa, Attention { cu_q: &cu_q, ..alone.shape(None) });
        assert_eq!(out, of_first(&whole), "{isa}");
        // Keys that no query sees.
        for (bounds, row) in case.cu.windows(2).zip(first) {
            let unseen = (row + 22).min(bounds[1]) as usize..bounds[1] as usize;
            assert!(
                dk[unseen.start * width..unseen.end * width].iter().all(|&x| x == 0.0),
                "{isa}"
            );
        }
    }
}

#[test]
fn backward_follows_the_masks_that_forward_drew() {
    let stream = Stream { seed: 5, step: 1, site: 2, first_row: 9 };
    let dropout = Some(Dropout { probability: 0.3, stream });
    let mut case = Case::new(&[150], 1, 6, Seen::Window { reach: 20, first: true });
    for isa in available() {
        let [_, slopes @ ..] = case.run(isa, case.shape(dropout));
        for (tensor, slopes) in slopes.iter().enumerate() {
            for index in (0..slopes.len()).step_by(97) {
                let mut loss = |by: f32| {
                    let tensor = |case: &mut Case, by: f32| match tensor {
                        0 => case.q[index] += by,
                        1 => case.k[index] += by,
                        _ => case.v[index] += by,
                    };
                    tensor(&mut case, by);
                    let [out, ..] = case.run(isa, case.shape(dropout));
                    tensor(&mut case, -by);
                    let products = out.iter().zip(&case.dout);
                    products.map(|(o, d)| f64::from(*o) * f64::from(*d)).sum::<f64>()
                };
                let (slope, ours) = ((loss(1e-2) - loss(-1e-2)) / 2e-2, f64::from(slopes[index]));
                let bound = 2e-3 * (1.0 + slope.abs());
                assert!((slope - ours).abs() < bound, "{isa} {tensor} {index}: {ours} for {slope}");
            }
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_micro_batches() {
    let stream = Stream { seed: 1, step: 1, site: 1, first_row: 0 };
    let dropout = Dropout { probability: 0.1, stream };
    let isa = Isa::detect().unwrap();
    let case = Case::new(&[90, 140], 4, 16, Seen::Window { reach: 30, first: true });
    let run = |threads| {
        let threads = Threads::new(Some(threads)).unwrap();
        threads.run(|| case.run(isa, case.shape(Some(dropout))))
    };
    let whole = run(1);
    assert_eq!(whole, run(3));
    let rows = 90 * 64..;
    let alone = Case {
        q: case.q[rows.clone()].to_vec(),
        k: case.k[rows.clone()].to_vec(),
        v: case.v[rows.clone()].to_vec(),
        dout: case.dout[rows.clone()].to_vec(),
        ..Case::new(&[140], 4, 16, case.seen.clone())
    };
    let dropout = Dropout { stream: Stream { first_row: 90, ..stream }, ..dropout };
    let alone = alone.run(isa, alone.shape(Some(dropout)));
    for (alone, whole) in alone.iter().zip(&whole) {
        assert_eq!(alone[..], whole[rows.clone()]);
    }
}

#[test]
fn bits_of_blocks_depend_on_neither_threads_nor_micro_batches() {
    let isa = Isa::detect().unwrap();
    let run = |case: &Case, threads| {
        let threads = Threads::new(Some(threads)).unwrap();
        threads.run(|| case.run(isa, case.shape(None)))
    };
    let case = blocks(&[90, 140], [4, 16], [16, 2, 20]);
    let whole = run(&case, 1);
    assert_eq!(whole, run(&case, 3));
    let rows = 90 * 64..;
    let alone = Case {
        q: case.q[rows.clone()].to_vec(),
        k: case.k[rows.clone()].to_vec(),
        v: case.v[rows.clone()].to_vec(),
        dout: case.dout[rows.clone()].to_vec(),
        ..blocks(&[140], [4, 16], [16, 2, 20])
    };
    for (alone, whole) in run(&alone, 2).iter().zip(&whole) {
        assert_eq!(alone[..], whole[rows.clone()]);
    }
}

#[test]
fn of_blocks_only_whole_sequences_are_dropped_out() {
    let stream = Stream { seed: 5, step: 1, site: 2, first_row: 9 };
    let dropout = Some(Dropout { probability: 0.3, stream });
    let case = blocks(&[90, 20, 140], [2, 8], [16, 2, 20]);
    let whole = 90 * 16..110 * 16;
    for isa in available() {
        let ([plain, ..], [dropped, ..]) =
            (case.run(isa, case.shape(None)), case.run(isa, case.shape(dropout)));
        for (i, (plain, dropped)) in plain.iter().zip(&dropped).enumerate() {
            assert_eq!(plain != dropped, whole.contains(&i), "{isa} at {i}");
        }
        let full = Attention { pattern: Pattern::All, ..case.shape(dropout) };
        assert_eq!(dropped[whole.clone()], case.run(isa, full)[0][whole.clone()], "{isa}");
    }
}

//! Disentangled attention and its backward against plain f64 loops, which are held against finite
//! differences.

use kernels::{
    Attention, AttentionInputs, Dropout, Isa, Pattern, PositionGradient, Precision,
    RelativePositions, Stream, Threads, attention, attention_backward, disentangled_attention,
    disentangled_attention_backward,
};
use proptest::prelude::*;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Results: what heads gather, then gradients of queries, keys, values, and of positions' keys and
/// queries.
const RESULTS: [&str; 6] = ["out", "dq", "dk", "dv", "dkeys", "dqueries"];

#[derive(Clone)]
struct Case {
    cu: Vec<u32>,
    heads: usize,
    head_size: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    keys: Option<Vec<f32>>,
    queries: Option<Vec<f32>>,
    of_distance: Vec<u32>,
}

/// How distances have positions.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Each its own.
    Exact,
    /// Those beyond this share the last.
    Clamped(i64),
    /// Beyond this three share one.
    Buckets(i64),
}

impl Case {
    /// `terms`: whether queries meet positions, and whether keys do.
    fn new(lengths: &[u32], heads: usize, head_size: usize, kind: Kind, terms: [bool; 2]) -> Case {
        let mut cu = vec![0];
        for length in lengths {
            cu.push(cu[cu.len() - 1] + length);
        }
        let tokens = cu[lengths.len()] as usize;
        let width = heads * head_size;
        // More than any sequence has.
        let most = i64::from(lengths.iter().copied().max().unwrap_or(1)) + 2;
        let signed = |distance: i64| match kind {
            Kind::Exact => distance,
            Kind::Clamped(most) => distance.clamp(-most, most - 1),
            Kind::Buckets(near) if distance.abs() > near => {
                distance.signum() * (near + (distance.abs() - near + 2) / 3)
            }
            Kind::Buckets(_) => distance,
        };
        let first = signed(-most);
        let of_distance: Vec<u32> =
            (-most..=most).map(|distance| (signed(distance) - first) as u32).collect();
        let positions = of_distance[of_distance.len() - 1] as usize + 1;
        let positions = |seed| numbers(positions * width, seed);
        let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| numbers(tokens * width, seed));
        let keys = terms[0].then(|| positions(5));
        let queries = terms[1].then(|| positions(6));
        Case { cu, heads, head_size, q, k, v, dout, keys, queries, of_distance }
    }

    fn shape(&self, dropout: Option<Dropout>) -> Attention<'_> {
        Attention {
            cu_q: &self.cu,
            cu_kv: &self.cu,
            heads: self.heads,
            head_size: self.head_size,
            scale: 1.0 / (3.0 * self.head_size as f32).sqrt(),
            bias: None,
            pattern: Pattern::All,
            dropout,
            precision: Precision::F32,
        }
    }

    fn positions(&self) -> RelativePositions<'_> {
        RelativePositions {
            keys: self.keys.as_deref(),
            queries: self.queries.as_deref(),
            of_distance: &self.of_distance,
        }
    }

    fn run(&self, isa: Isa, shape: Attention<'_>) -> [Vec<f32>; 6] {
        let (sequences, width) = (self.cu.len() - 1, self.heads * self.head_size);
        let inputs = AttentionInputs { q: &self.q, k: &self.k, v: &self.v };
        let mut out = vec![f32::NAN; self.q.len()];
        let mut lse = vec![f32::NAN; self.q.len() / self.head_size];
        disentangled_attention(isa, shape, inputs, self.positions(), &mut out, &mut lse);
        let [mut dq, mut dk, mut dv] = [&self.q, &self.k, &self.v].map(|x| vec![f32::NAN; x.len()]);
        let [mut dkeys, mut dqueries] = [&self.keys, &self.queries].map(|rows| {
            let size = rows.as_ref().map_or(0, Vec::len);
            let sums = PositionGradient::partial_sums(sequences, size / width, width);
            (vec![f32::NAN; size], vec![f32::NAN; sums])
        });
        disentangled_attention_backward(
            isa,
            shape,
            inputs,
            self.positions(),
            &out,
            &lse,
            &self.dout,
            &mut dq,
            &mut dk,
            &mut dv,
            [&mut dkeys, &mut dqueries].map(|(gradient, partial)| {
                (!gradient.is_empty()).then_some(PositionGradient { gradient, partial })
            }),
        );
        [out, dq, dk, dv, dkeys.0, dqueries.0]
    }

    fn reference(&self) -> [Vec<f64>; 6] {
        let (heads, d) = (self.heads, self.head_size);
        let scale = 1.0 / (3.0 * d as f64).sqrt();
        let row = |data: &[f32], row: usize, head: usize| -> Vec<f64> {
            data[(row * heads + head) * d..][..d].iter().map(|&x| f64::from(x)).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let zeros = |like: Option<&Vec<f32>>| vec![0.0; like.map_or(0, Vec::len)];
        let [mut out, mut dq, mut dk, mut dv] = [(); 4].map(|()| zeros(Some(&self.q)));
        let (mut dkeys, mut dqueries) = (zeros(self.keys.as_ref()), zeros(self.queries.as_ref()));
        let add = |to: &mut [f64], row: usize, head: usize, factor: f64, x: &[f64]| {
            let to = &mut to[(row * heads + head) * d..][..d];
            to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
        };
        let zero = self.of_distance.len() / 2;
        for bounds in self.cu.windows(2) {
            for head in 0..heads {
                let all = bounds[0] as usize..bounds[1] as usize;
                for i in all.clone() {
                    let q = row(&self.q, i, head);
                    let position = |j: usize| self.of_distance[zero + j - i] as usize;
                    let met = |rows: &Option<Vec<f32>>, j: usize| {
                        rows.as_ref().map_or(vec![0.0; d], |rows| row(rows, position(j), head))
                    };
                    let scores: Vec<f64> = all
                        .clone()
                        .map(|j| {
                            let k = row(&self.k, j, head);
                            let by_query = dot(&q, &met(&self.keys, j));
                            scale * (dot(&q, &k) + by_query + dot(&k, &met(&self.queries, j)))
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
                    for (j, p) in all.clone().zip(&p) {
                        add(&mut out, i, head, *p, &row(&self.v, j, head));
                    }
                    let dout = row(&self.dout, i, head);
                    let whole = dot(&dout, &out[(i * heads + head) * d..][..d]);
                    for (j, p) in all.clone().zip(&p) {
                        let ds = scale * p * (dot(&dout, &row(&self.v, j, head)) - whole);
                        let k = row(&self.k, j, head);
                        add(&mut dv, j, head, *p, &dout);
                        add(&mut dq, i, head, ds, &k);
                        add(&mut dq, i, head, ds, &met(&self.keys, j));
                        add(&mut dk, j, head, ds, &q);
                        add(&mut dk, j, head, ds, &met(&self.queries, j));
                        if self.keys.is_some() {
                            add(&mut dkeys, position(j), head, ds, &q);
                        }
                        if self.queries.is_some() {
                            add(&mut dqueries, position(j), head, ds, &k);
                        }
                    }
                }
            }
        }
        [out, dq, dk, dv, dkeys, dqueries]
    }

    /// The input that the n-th result is the gradient of.
    fn input(&mut self, n: usize) -> &mut Vec<f32> {
        match n {
            1 => &mut self.q,
            2 => &mut self.k,
            3 => &mut self.v,
            4 => self.keys.as_mut().expect("keys"),
            _ => self.queries.as_mut().expect("queries"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_equals_the_f64_reference(
        lengths in prop::collection::vec(prop_oneof![1u32..20, 60u32..140], 1..4),
        heads in 1usize..3,
        head_size in 1usize..19,
        kind in prop_oneof![
            Just(Kind::Exact),
            (1i64..90).prop_map(Kind::Clamped),
            (1i64..90).prop_map(Kind::Buckets),
        ],
        terms in prop_oneof![Just([true, true]), Just([true, false]), Just([false, true])],
    ) {
        let case = Case::new(&lengths, heads, head_size, kind, terms);
        let expected = case.reference();
        for isa in available() {
            let ours = case.run(isa, case.shape(None));
            for ((name, ours), expected) in RESULTS.iter().zip(&ours).zip(&expected) {
                let scale = expected.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
                for (i, (ours, expected)) in ours.iter().zip(expected).enumerate() {
                    let error = (f64::from(*ours) - expected).abs() / scale;
                    prop_assert!(error < 3e-5, "{isa} {name} at {i}: {ours} {expected}");
                }
            }
        }
    }
}

#[test]
fn the_reference_has_the_gradients_of_finite_differences() {
    for kind in [Kind::Exact, Kind::Clamped(2), Kind::Buckets(2)] {
        let case = Case::new(&[5, 1, 8], 2, 3, kind, [true, true]);
        let gradients = case.reference();
        for (n, gradient) in gradients.iter().enumerate().skip(1) {
            for i in (0..gradient.len()).step_by(5) {
                let loss = |by: f32| {
                    let mut moved = case.clone();
                    let x = &mut moved.input(n)[i];
                    *x += by;
                    let at = f64::from(*x);
                    let out = &moved.reference()[0];
                    let dout = moved.dout.iter().map(|&x| f64::from(x));
                    (out.iter().zip(dout).map(|(o, d)| o * d).sum::<f64>(), at)
                };
                let ((high, right), (low, left)) = (loss(1e-3), loss(-1e-3));
                let slope = (high - low) / (right - left);
                assert!((slope - gradient[i]).abs() < 1e-5, "{} at {i} {kind:?}", RESULTS[n]);
            }
        }
    }
}

#[test]
fn without_positions_it_is_plain_attention() {
    let stream = Stream { seed: 5, step: 1, site: 2, first_row: 9 };
    let case = Case::new(&[1, 70, 3, 130], 2, 8, Kind::Exact, [false, false]);
    for dropout in [None, Some(Dropout { probability: 0.2, stream })] {
        for isa in available() {
            let inputs = AttentionInputs { q: &case.q, k: &case.k, v: &case.v };
            let mut out = vec![f32::NAN; case.q.len()];
            let mut lse = vec![f32::NAN; case.q.len() / 8];
            let shape = case.shape(dropout);
            attention(isa, shape, inputs, &mut out, &mut lse);
            let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![f32::NAN; case.q.len()]);
            let dout = &case.dout;
            attention_backward(
                isa, shape, inputs, &out, &lse, dout, &mut dq, &mut dk, &mut dv, None,
            );
            assert_eq!(case.run(isa, shape), [out, dq, dk, dv, vec![], vec![]], "{isa}");
        }
    }
}

#[test]
fn one_query_per_sequence_equals_that_row_of_the_whole() {
    let case = Case::new(&[1, 9, 70, 150], 2, 8, Kind::Buckets(30), [true, true]);
    let width = 16;
    let first = &case.cu[..case.cu.len() - 1];
    let of_first = |data: &[f32]| -> Vec<f32> {
        first.iter().flat_map(|&row| data[row as usize * width..][..width].to_vec()).collect()
    };
    let cu_q: Vec<u32> = (0..case.cu.len() as u32).collect();
    // Gradients of the whole by the first rows alone.
    let mut alone = Case { dout: vec![0.0; case.dout.len()], ..case.clone() };
    for &row in first {
        let row = row as usize * width..(row as usize + 1) * width;
        alone.dout[row.clone()].copy_from_slice(&case.dout[row]);
    }
    for isa in available() {
        let whole = alone.run(isa, alone.shape(None));
        let (q, dout) = (of_first(&case.q), of_first(&case.dout));
        let few = Case { q, dout, ..case.clone() };
        let few = few.run(isa, Attention { cu_q: &cu_q, ..few.shape(None) });
        assert_eq!(few[0], of_first(&whole[0]), "{isa}");
        assert_eq!(few[1], of_first(&whole[1]), "{isa}");
        for n in 2..6 {
            let pairs = few[n].iter().zip(&whole[n]);
            let worst = pairs.fold(0.0, |m: f32, (a, b)| m.max((a - b).abs()));
            assert!(worst < 1e-5, "{isa} {} {worst}", RESULTS[n]);
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let lengths = [3, 70, 1, 5, 65, 17, 2, 90, 33, 4, 7];
    let stream = Stream { seed: 5, step: 1, site: 2, first_row: 9 };
    let dropout = Some(Dropout { probability: 0.2, stream });
    let case = Case::new(&lengths, 3, 8, Kind::Clamped(40), [true, true]);
    let isa = Isa::detect().expect("an instruction set");
    let run = |threads| {
        let threads = Threads::new(Some(threads)).expect("threads");
        threads.run(|| case.run(isa, case.shape(dropout)))
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

//! An adapter's thin products against plain f64 loops, and their bits for any number of threads.

use kernels::{
    Dropout, Isa, Stream, Threads, dropout, lora_down, lora_down_backward, lora_partial_sums,
    lora_up_backward,
};

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

const DROPOUT: Dropout =
    Dropout { probability: 0.25, stream: Stream { seed: 3, step: 7, site: 1, first_row: 11 } };
const SCALE: f32 = 4.0;

/// A layer [in → out] of rank r, and everything that goes into its passes.
struct Case {
    tokens: usize,
    input: usize,
    out: usize,
    r: usize,
    dropout: Option<Dropout>,
}

/// z, then the gradients of z, A, B and x.
#[derive(Debug, PartialEq)]
struct Results {
    z: Vec<f32>,
    dz: Vec<f32>,
    da: Vec<f32>,
    db: Vec<f32>,
    dx: Vec<f32>,
}

impl Case {
    fn x(&self) -> Vec<f32> {
        numbers(self.tokens * self.input, 1)
    }
    fn dy(&self) -> Vec<f32> {
        numbers(self.tokens * self.out, 2)
    }
    fn a(&self) -> Vec<f32> {
        numbers(self.r * self.input, 3)
    }
    fn b(&self) -> Vec<f32> {
        numbers(self.out * self.r, 4)
    }

    /// Gradients start at 1.0, to which they are added.
    fn run(&self, isa: Isa) -> Results {
        let Case { tokens, input, out, r, dropout } = *self;
        let (x, dy, a, b) = (self.x(), self.dy(), self.a(), self.b());
        let [mut z, mut dz] = [(); 2].map(|()| vec![f32::NAN; tokens * r]);
        lora_down(isa, &x, &a, r, SCALE, dropout, &mut z);
        let (mut da, mut db) = (vec![1.0; r * input], vec![1.0; out * r]);
        let mut partial = vec![f32::NAN; lora_partial_sums(tokens, r, out)];
        let mut transposed = vec![f32::NAN; b.len()];
        lora_up_backward(
            isa,
            &dy,
            &z,
            &b,
            r,
            SCALE,
            &mut dz,
            &mut db,
            &mut transposed,
            &mut partial,
        );
        let mut partial = vec![f32::NAN; lora_partial_sums(tokens, r, input)];
        let mut dx = vec![1.0; tokens * input];
        lora_down_backward(isa, &x, &a, r, dropout, &dz, &mut da, Some(&mut dx), &mut partial);
        let mut alone = vec![1.0; r * input];
        lora_down_backward(isa, &x, &a, r, dropout, &dz, &mut alone, None, &mut partial);
        assert_eq!(alone, da);
        Results { z, dz, da, db, dx }
    }

    fn check(&self, isa: Isa) {
        let Case { tokens, input, out, r, .. } = *self;
        let scale = f64::from(SCALE);
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
        let mut mask = vec![1.0; tokens * input];
        if let Some(mask_of) = self.dropout {
            dropout(Isa::Scalar, &vec![1.0; tokens * input], &mut mask, input, mask_of);
        }
        let mask = wide(mask);
        let (x, dy, a, b) = (wide(self.x()), wide(self.dy()), wide(self.a()), wide(self.b()));
        let x: Vec<f64> = x.iter().zip(&mask).map(|(x, mask)| x * mask).collect();
        let sum = |count: usize, term: &dyn Fn(usize) -> f64| (0..count).map(term).sum::<f64>();
        let z = |t: usize, k: usize| scale * sum(input, &|j| x[t * input + j] * a[k * input + j]);
        let dz = |t: usize, k: usize| scale * sum(out, &|o| dy[t * out + o] * b[o * r + k]);
        let zs: Vec<f64> = (0..tokens * r).map(|i| z(i / r, i % r)).collect();
        let dzs: Vec<f64> = (0..tokens * r).map(|i| dz(i / r, i % r)).collect();
        let da = |i: usize| {
            let (k, j) = (i / input, i % input);
            1.0 + sum(tokens, &|t| dzs[t * r + k] * x[t * input + j])
        };
        let db = |i: usize| {
            let (o, k) = (i / r, i % r);
            1.0 + sum(tokens, &|t| dy[t * out + o] * zs[t * r + k])
        };
        let dx = |i: usize| {
            let (t, j) = (i / input, i % input);
            1.0 + mask[i] * sum(r, &|k| dzs[t * r + k] * a[k * input + j])
        };
        let ours = self.run(isa);
        let close = |what: &str, ours: &[f32], expected: &dyn Fn(usize) -> f64| {
            let expected: Vec<f64> = (0..ours.len()).map(expected).collect();
            let largest = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
            for (i, (&ours, expected)) in ours.iter().zip(expected).enumerate() {
                assert!(
                    (f64::from(ours) - expected).abs() <= 1e-5 * largest,
                    "{isa} {what} of {tokens}×{input}→{out}, r {r}, at {i}: {ours} for {expected}"
                );
            }
        };
        close("z", &ours.z, &|i| zs[i]);
        close("dz", &ours.dz, &|i| dzs[i]);
        close("dA", &ours.da, &da);
        close("dB", &ours.db, &db);
        close("dx", &ours.dx, &dx);
    }
}

#[test]
fn every_pass_equals_the_f64_reference() {
    for dropout in [None, Some(DROPOUT)] {
        for (tokens, input, out, r) in [
            (1, 1, 1, 1),
            (3, 16, 32, 8),
            (17, 33, 7, 3),
            (130, 48, 50, 8),
            (20, 131, 129, 16),
            (9, 40, 20, 13),
        ] {
            let case = Case { tokens, input, out, r, dropout };
            available().for_each(|isa| case.check(isa));
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let case = Case { tokens: 300, input: 100, out: 70, r: 8, dropout: Some(DROPOUT) };
    for isa in available() {
        let run = |threads| Threads::new(Some(threads)).unwrap().run(|| case.run(isa));
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(3));
    }
}

//! What encoders with normalised inputs need beside attention: rotary positions, gated activations,
//! means of sequences; against plain f64 loops, and their backward against the slopes of those.

use kernels::{
    Activation, Isa, Rotary, Threads, add, gate, gate_backward, mean_rows, mean_rows_backward,
    rotary_table, split_rotated, split_rotated_backward,
};
use proptest::prelude::*;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn close(ours: &[f32], expected: impl Iterator<Item = f64>, bound: f64) -> bool {
    ours.iter().zip(expected).all(|(ours, expected)| (f64::from(*ours) - expected).abs() <= bound)
}

/// The rotated part of a row's number `c`, as a sum over numbers of the row: (number, factor).
fn rotation(c: usize, head_size: usize, position: u32, theta: f64) -> [(usize, f64); 2] {
    let (half, j) = (head_size / 2, c % head_size);
    let angle = f64::from(position) * theta.powf(-2.0 * (j % half) as f64 / head_size as f64);
    let (sin, cos) = angle.sin_cos();
    if j < half { [(c, cos), (c + half, -sin)] } else { [(c, cos), (c - half, sin)] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn queries_and_keys_are_rotated_and_their_gradients_rotated_back(
        positions in prop::collection::vec(0u32..90, 1..40),
        heads in 1usize..4,
        half in 1usize..20,
        theta in prop_oneof![Just(10_000.0), Just(160_000.0)],
    ) {
        let (head_size, rows) = (2 * half, positions.len());
        let width = heads * head_size;
        let qkv = numbers(3 * rows * width, 1);
        let table = rotary_table(90, head_size, theta);
        let rotary = Rotary { positions: &positions, table: &table, head_size };
        let part = |row: usize, part: usize| &qkv[(3 * row + part) * width..][..width];
        for isa in available() {
            let [mut q, mut k, mut v] = [(); 3].map(|()| vec![f32::NAN; rows * width]);
            split_rotated(isa, &qkv, rotary, &mut q, &mut k, &mut v);
            for (row, &position) in positions.iter().enumerate() {
                let rotated = |index: usize| {
                    (0..width).map(move |c| {
                        let terms = rotation(c, head_size, position, theta).into_iter();
                        terms.map(|(from, factor)| factor * f64::from(part(row, index)[from])).sum()
                    })
                };
                let own = row * width..(row + 1) * width;
                prop_assert!(close(&q[own.clone()], rotated(0), 2e-5), "{isa} queries of {row}");
                prop_assert!(close(&k[own.clone()], rotated(1), 2e-5), "{isa} keys of {row}");
                prop_assert_eq!(&v[own], part(row, 2));
            }
            // The transposed map: ⟨dq, Rq⟩ is ⟨Rᵀdq, q⟩, number by number.
            let [dq, dk, dv] = [2, 3, 4].map(|seed| numbers(rows * width, seed));
            let mut dqkv = vec![f32::NAN; qkv.len()];
            split_rotated_backward(isa, &dq, &dk, &dv, rotary, &mut dqkv);
            let mut expected = vec![0.0; qkv.len()];
            for (row, position) in positions.iter().enumerate() {
                for (c, (index, d)) in (0..width).flat_map(|c| [(c, (0, &dq)), (c, (1, &dk))]) {
                    for (from, factor) in rotation(c, head_size, *position, theta) {
                        expected[(3 * row + index) * width + from] +=
                            factor * f64::from(d[row * width + c]);
                    }
                }
                for c in 0..width {
                    expected[(3 * row + 2) * width + c] = f64::from(dv[row * width + c]);
                }
            }
            prop_assert!(close(&dqkv, expected.into_iter(), 2e-5), "{isa} gradients");
        }
    }

    #[test]
    fn a_gate_and_its_slopes(rows in 1usize..40, columns in 1usize..70) {
        let (u, dy) = (numbers(2 * rows * columns, 1), numbers(rows * columns, 2));
        let halves = |row: usize, c: usize| {
            let at = 2 * row * columns + c;
            (f64::from(3.0 * u[at]), f64::from(u[at + columns]))
        };
        let scaled: Vec<f32> = u
            .chunks(columns)
            .enumerate()
            .flat_map(|(half, x)| x.iter().map(move |x| if half % 2 == 0 { 3.0 * x } else { *x }))
            .collect();
        let gelu = |x: f64| 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2);
        let slope = |x: f64| (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5;
        for isa in available() {
            let (mut u, mut y) = (scaled.clone(), vec![f32::NAN; rows * columns]);
            gate(isa, Activation::Gelu, &mut u, &mut y, columns);
            gate_backward(&mut u, &dy, columns);
            for (i, dy) in dy.iter().enumerate() {
                let (row, c) = (i / columns, i % columns);
                let ((a, b), dy) = (halves(row, c), f64::from(*dy));
                let at = 2 * row * columns + c;
                prop_assert!((f64::from(y[i]) - gelu(a) * b).abs() < 3e-6, "{isa} value {i}");
                prop_assert!((f64::from(u[at]) - slope(a) * b * dy).abs() < 5e-6, "{isa} a {i}");
                let ours = f64::from(u[at + columns]);
                prop_assert!((ours - gelu(a) * dy).abs() < 5e-6, "{isa} b {i}");
            }
        }
    }

    #[test]
    fn means_of_sequences_and_their_shares(
        lengths in prop::collection::vec(1u32..60, 1..6),
        columns in 1usize..140,
    ) {
        let mut cu = vec![0];
        lengths.iter().for_each(|length| cu.push(cu[cu.len() - 1] + length));
        let x = numbers(cu[lengths.len()] as usize * columns, 1);
        let dy = numbers(lengths.len() * columns, 2);
        let mut dx = vec![f32::NAN; x.len()];
        mean_rows_backward(&dy, &cu, &mut dx, columns);
        for isa in available() {
            let mut y = vec![f32::NAN; dy.len()];
            mean_rows(isa, &x, &cu, &mut y, columns);
            for (i, (y, dy)) in y.iter().zip(&dy).enumerate() {
                let (sequence, c) = (i / columns, i % columns);
                let rows = cu[sequence] as usize..cu[sequence + 1] as usize;
                let count = rows.len() as f64;
                let sum: f64 = rows.clone().map(|row| f64::from(x[row * columns + c])).sum();
                prop_assert!((f64::from(*y) - sum / count).abs() < 2e-6, "{isa} mean {i}");
                let share = f64::from(*dy) / count;
                let all = rows.clone().all(|row| (f64::from(dx[row * columns + c]) - share).abs() < 1e-7);
                prop_assert!(all, "share of {i}");
            }
        }
    }
}

#[test]
fn a_gate_takes_every_activation() {
    let functions = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh];
    for (isa, f) in available().flat_map(|isa| functions.map(|f| (isa, f))) {
        let (u, columns) = (numbers(2 * 21 * 33, 1), 33);
        let (mut slopes, mut y) = (u.clone(), vec![f32::NAN; 21 * 33]);
        gate(isa, f, &mut slopes, &mut y, columns);
        for (row, u) in u.chunks(2 * columns).enumerate() {
            let (a, b) = u.split_at(columns);
            let (mut value, mut slope) = (a.to_vec(), a.to_vec());
            kernels::activate(isa, f, &mut value, Some(&mut slope));
            for j in 0..columns {
                assert_eq!(y[row * columns + j], value[j] * b[j], "{isa} {f:?}");
                assert_eq!(slopes[2 * row * columns + j], slope[j] * b[j], "{isa} {f:?}");
                assert_eq!(slopes[(2 * row + 1) * columns + j], value[j], "{isa} {f:?}");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let isa = Isa::detect().unwrap();
    let (rows, width) = (500, 64);
    let positions: Vec<u32> = (0..rows).collect();
    let qkv = numbers(3 * rows as usize * width, 1);
    let run = |threads| {
        let compute = || {
            let table = rotary_table(rows as usize, 16, 1e4);
            let rotary = Rotary { positions: &positions, table: &table, head_size: 16 };
            let [mut q, mut k, mut v] = [(); 3].map(|()| vec![0.0; qkv.len() / 3]);
            split_rotated(isa, &qkv, rotary, &mut q, &mut k, &mut v);
            let mut mean = vec![0.0; 2 * width];
            mean_rows(isa, &q, &[0, 9, rows], &mut mean, width);
            add(&mut v, &k);
            gate(isa, Activation::Gelu, &mut k, &mut v[..qkv.len() / 6], width / 2);
            [table, q, k, v, mean]
        };
        Threads::new(Some(threads)).unwrap().run(compute)
    };
    assert_eq!(run(1), run(3));
}

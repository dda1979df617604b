//! LayerNorm with residual and dropout: f64 reference, finite differences, parameter gradients.

use kernels::{
    Dropout, Isa, LayerNormInputs, Stream, layer_norm, layer_norm_backward,
    layer_norm_parameter_gradients,
};

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect()
}

struct Saved {
    sum: Vec<f32>,
    y: Vec<f32>,
    statistics: Vec<f32>,
}

fn forward(isa: Isa, x: &[f32], inputs: LayerNormInputs<'_>) -> Saved {
    let rows = x.len() / inputs.weight.len();
    let mut saved =
        Saved { sum: x.to_vec(), y: vec![f32::NAN; x.len()], statistics: vec![f32::NAN; 2 * rows] };
    layer_norm(isa, &mut saved.sum, inputs, &mut saved.y, &mut saved.statistics);
    saved
}

#[test]
fn forward_and_every_slope() {
    let stream = Stream { seed: 3, step: 7, site: 1, first_row: 0 };
    let dropout = Dropout { probability: 0.25, stream };
    for columns in [1usize, 7, 16, 40, 129] {
        let rows = 19;
        let size = rows * columns;
        let (x, residual, dy) = (numbers(size, 1), numbers(size, 2), numbers(size, 5));
        let (weight, bias) = (numbers(columns, 3), numbers(columns, 4));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let inputs = LayerNormInputs {
                residual: Some(&residual),
                dropout: Some(dropout),
                weight: &weight,
                bias: Some(&bias),
                eps: 1e-5,
            };
            let saved = forward(isa, &x, inputs);
            for (row, s) in saved.sum.chunks(columns).enumerate() {
                let n = columns as f64;
                let mean = s.iter().map(|&s| f64::from(s)).sum::<f64>() / n;
                let variance = s.iter().map(|&s| (f64::from(s) - mean).powi(2)).sum::<f64>() / n;
                for (j, &s) in s.iter().enumerate() {
                    let expected = (f64::from(s) - mean) / (variance + 1e-5).sqrt()
                        * f64::from(weight[j])
                        + f64::from(bias[j]);
                    let y = f64::from(saved.y[row * columns + j]);
                    assert!((y - expected).abs() < 1e-4, "{isa} {columns}: {y} {expected}");
                }
            }

            let (mut ds, mut dx) = (dy.clone(), vec![f32::NAN; size]);
            let branch = Some((dropout, dx.as_mut_slice()));
            layer_norm_backward(isa, &saved.sum, &saved.statistics, &weight, &mut ds, branch);
            let (mut dweight, mut dbias) = (vec![0.0; columns], vec![0.0; columns]);
            layer_norm_parameter_gradients(
                &saved.sum,
                &saved.statistics,
                &dy,
                &mut dweight,
                Some(&mut dbias),
            );
            let loss = |x: &[f32], residual: &[f32], weight: &[f32], bias: &[f32]| {
                let inputs = LayerNormInputs {
                    residual: Some(residual),
                    weight,
                    bias: Some(bias),
                    ..inputs
                };
                let y = forward(isa, x, inputs).y;
                y.iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum::<f64>()
            };
            // A row of one column has no slope to compare: its variance is 0.
            let step = if columns == 1 { continue } else { 4e-3 };
            let shifted = |data: &[f32], i: usize, by: f32| {
                let mut data = data.to_vec();
                data[i] += by;
                data
            };
            let close = |name: &str, ours: f32, plus: f64, minus: f64| {
                let slope = (plus - minus) / (2.0 * f64::from(step));
                let bound = 2e-2 * (1.0 + slope.abs());
                assert!(
                    (slope - f64::from(ours)).abs() < bound,
                    "{isa} {columns} {name}: {ours} {slope}"
                );
            };
            for i in (0..size).step_by(23) {
                let at = |by| loss(&shifted(&x, i, by), &residual, &weight, &bias);
                close("x", dx[i], at(step), at(-step));
                let at = |by| loss(&x, &shifted(&residual, i, by), &weight, &bias);
                close("residual", ds[i], at(step), at(-step));
            }
            for i in (0..columns).step_by(5) {
                let at = |by| loss(&x, &residual, &shifted(&weight, i, by), &bias);
                close("weight", dweight[i], at(step), at(-step));
                let at = |by| loss(&x, &residual, &weight, &shifted(&bias, i, by));
                close("bias", dbias[i], at(step), at(-step));
            }
        }
    }
}

#[test]
fn without_a_shift_it_is_a_shift_of_0() {
    for columns in [1usize, 7, 40, 129] {
        let (rows, size) = (19, 19 * columns);
        let (x, dy, weight) = (numbers(size, 1), numbers(size, 2), numbers(columns, 3));
        let zeros = vec![0.0; columns];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let none = LayerNormInputs {
                residual: None,
                dropout: None,
                weight: &weight,
                bias: None,
                eps: 1e-5,
            };
            let saved = forward(isa, &x, none);
            let zero = forward(isa, &x, LayerNormInputs { bias: Some(&zeros), ..none });
            assert_eq!(saved.sum, x, "what is normalised alone stays as it is");
            assert!(saved.y == zero.y && saved.statistics.len() == 2 * rows, "{isa} {columns}");
            let gradient = |dbias| {
                let mut dweight = zeros.clone();
                let Saved { sum, statistics, .. } = &saved;
                layer_norm_parameter_gradients(sum, statistics, &dy, &mut dweight, dbias);
                dweight
            };
            assert_eq!(gradient(None), gradient(Some(&mut zeros.clone())));
        }
    }
}

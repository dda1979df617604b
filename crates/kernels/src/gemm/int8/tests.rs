//! Against plain arithmetic: codes in f32, their products in i64, all else in f64.

use super::super::codes::OUTLIER;
use crate::quantized::QuantizedMatrix;
use crate::{
    Epilogue, Int8Matrix, Isa, LowRank, Matrix, PackedMatrix, Precision, Right, Threads, gemm,
    gemm_gelu, gemm_times,
};
use proptest::prelude::*;

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Numbers in −2..2; of every `outliers`-th the magnitude is 6 or more.
fn numbers(n: usize, seed: u64, outliers: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let x = (state >> 40) as f32 / (1 << 22) as f32 - 2.0;
            if outliers > 0 && (i + 3).is_multiple_of(outliers) {
                if i % 2 == 0 { x + 8.0 } else { x - 8.0 }
            } else {
                x
            }
        })
        .collect()
}

/// A row's codes, 0 for outliers, and what a step of them stands for.
fn quantized(row: &[f32], limit: f32) -> (Vec<i64>, f32) {
    let inside = |x: f32| x.abs() < limit;
    let largest = row.iter().filter(|x| inside(**x)).fold(0.0f32, |m, x| m.max(x.abs()));
    let factor = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let code = |&x: &f32| if inside(x) { (x * factor).round_ties_even() as i64 } else { 0 };
    (row.iter().map(code).collect(), largest / 127.0)
}

/// The product as it is defined, and a bound of the error of f32 sums.
fn reference(x: &[f32], w: &[f32], k: usize) -> Vec<(f64, f64)> {
    let weights: Vec<_> = w.chunks(k).map(|row| quantized(row, f32::INFINITY)).collect();
    let mut results = Vec::new();
    for row in x.chunks(k) {
        let (codes, scale) = quantized(row, OUTLIER);
        for (weight, column_scale) in &weights {
            let integers: i64 = codes.iter().zip(weight).map(|(a, b)| a * b).sum();
            let (mut sum, mut size) = (integers as f64 * f64::from(scale), 0.0);
            for (x, &code) in row.iter().zip(weight).filter(|(x, _)| x.abs() >= OUTLIER) {
                sum += f64::from(*x) * code as f64;
                size += (f64::from(*x) * code as f64).abs();
            }
            let column_scale = f64::from(*column_scale);
            results.push((sum * column_scale, 4e-7 * (sum.abs() + size) * column_scale));
        }
    }
    results
}

fn quantize(isa: Isa, w: &[f32], k: usize) -> QuantizedMatrix {
    QuantizedMatrix::Int8(Int8Matrix::quantize(isa, w, k))
}

fn right(weight: &QuantizedMatrix, precision: Precision) -> Right<'_> {
    Right::Quantized { weight, transposed: true, precision }
}

fn check(m: usize, k: usize, n: usize, seed: u64, outliers: usize) {
    let (x, w) = (numbers(m * k, seed, outliers), numbers(n * k, seed + 1, 0));
    let (bias, before) = (numbers(n, seed + 2, 0), numbers(m * n, seed + 3, 0));
    let expected = reference(&x, &w, k);
    let mut first: Option<Vec<f32>> = None;
    for isa in available() {
        let weight = quantize(isa, &w, k);
        let right = right(&weight, Precision::F32);
        let mut c = before.clone();
        let epilogue = Epilogue { alpha: 0.5, accumulate: true, bias: Some(&bias), low_rank: None };
        gemm(isa, Matrix::new(&x, m, k), right, &mut c, epilogue);
        for (i, (&c, &(sum, bound))) in c.iter().zip(&expected).enumerate() {
            let expected = 0.5 * sum + f64::from(bias[i % n]) + f64::from(before[i]);
            let error = (f64::from(c) - expected).abs();
            assert!(error <= bound + 1e-6, "{isa} {m}×{k}×{n} at {i}: {c} for {expected}");
        }
        // The same numbers, column by column in memory.
        let mut columns = vec![0.0; m * k];
        for (i, &x) in x.iter().enumerate() {
            columns[i % k * m + i / k] = x;
        }
        let mut same = before.clone();
        gemm(isa, Matrix::new(&columns, k, m).transposed(), right, &mut same, epilogue);
        assert_eq!(same, c, "{isa}");
        if outliers == 0 {
            assert_eq!(&c, first.get_or_insert(c.clone()), "{isa} and scalar");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_equals_the_reference(
        m in 1usize..40, k in 1usize..150, n in 1usize..110, seed: u32, outliers in 0usize..40,
    ) {
        check(m, k, n, u64::from(seed), outliers);
    }
}

#[test]
fn rows_and_columns_of_several_tasks() {
    check(70, 771, 101, 7, 97);
    check(70, 64, 49, 8, 0);
    check(3, 1537, 48, 9, 1); // nothing but outliers
}

/// The largest codes of all signs: no sum of pairs is cut off.
#[test]
fn the_largest_products_do_not_saturate() {
    let (m, k, n) = (9, 4099, 50);
    for (of_x, of_w) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)] {
        let sign = |period: usize| {
            move |i: usize| if (i / period).is_multiple_of(2) { 1.0 } else { -1.0f32 }
        };
        let x: Vec<f32> = (0..m * k).map(sign(of_x)).collect();
        let w: Vec<f32> = (0..n * k).map(sign(of_w)).collect();
        for isa in available() {
            let weight = quantize(isa, &w, k);
            let mut c = vec![f32::NAN; m * n];
            let right = right(&weight, Precision::F32);
            gemm(isa, Matrix::new(&x, m, k), right, &mut c, Epilogue::default());
            for (i, &c) in c.iter().enumerate() {
                let (row, column) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                let exact: f64 = row.iter().zip(column).map(|(a, b)| f64::from(a * b)).sum();
                assert!(
                    (f64::from(c) - exact).abs() <= 1e-6 * exact.abs() + 1e-9,
                    "{isa} {c} {exact}"
                );
            }
        }
    }
}

/// The widest weight there may be, every product as large as it can be: the sum fits 32 bits.
#[test]
fn the_longest_sum_fits() {
    let k = Int8Matrix::MOST_COLUMNS;
    for isa in available() {
        let weight = quantize(isa, &vec![1.0; k], k);
        let mut c = [0.0, 0.0];
        let x: Vec<f32> = (0..2 * k).map(|i| if i < k { 3.0 } else { -3.0 }).collect();
        let right = right(&weight, Precision::F32);
        gemm(isa, Matrix::new(&x, 2, k), right, &mut c, Epilogue::default());
        let sum = 3.0 * k as f32;
        assert!((c[0] - sum).abs() < 1e-6 * sum && c[1] == -c[0], "{isa} {c:?}");
    }
}

#[test]
fn not_a_number_and_infinity_stay_what_they_are() {
    let (m, k, n) = (20, 70, 50);
    let w = numbers(n * k, 2, 0);
    for (bad, isa) in [f32::NAN, f32::INFINITY, -f32::INFINITY]
        .into_iter()
        .flat_map(|bad| available().map(move |isa| (bad, isa)))
    {
        let mut x = numbers(m * k, 1, 9);
        let weight = quantize(isa, &w, k);
        let right = right(&weight, Precision::F32);
        let mut fine = vec![0.0; m * n];
        gemm(isa, Matrix::new(&x, m, k), right, &mut fine, Epilogue::default());
        x[11 * k + 33] = bad;
        let mut c = vec![0.0; m * n];
        gemm(isa, Matrix::new(&x, m, k), right, &mut c, Epilogue::default());
        for (i, row) in c.chunks(n).enumerate() {
            if i == 11 {
                assert!(row.iter().all(|x| !x.is_finite()), "{isa} {bad}: {row:?}");
            } else {
                assert_eq!(row, &fine[i * n..][..n], "{isa} {bad}");
            }
        }
    }
}

#[test]
fn rows_of_nothing_or_hardly_anything_give_nothing() {
    for isa in available() {
        let (k, w) = (19, numbers(5 * 19, 1, 0));
        let weight = quantize(isa, &w, k);
        let mut x = vec![0.0; 3 * k];
        x[k..2 * k].fill(1e-39); // 127/m is infinite
        let mut c = [f32::NAN; 15];
        let right = right(&weight, Precision::F32);
        gemm(isa, Matrix::new(&x, 3, k), right, &mut c, Epilogue::default());
        assert_eq!(c, [0.0; 15], "{isa}");
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_on_the_rows_around() {
    let (m, k, n) = (200, 300, 150);
    // Outliers are in other columns in every row.
    let (x, w) = (numbers(m * k, 1, 37), numbers(n * k, 2, 0));
    for isa in available() {
        let weight = quantize(isa, &w, k);
        let product = |threads: usize, rows: std::ops::Range<usize>| {
            let threads = Threads::new(Some(threads)).unwrap();
            let x = Matrix::new(&x[rows.start * k..], rows.len(), k);
            let mut c = vec![0.0; rows.len() * n];
            let right = right(&weight, Precision::F32);
            threads.run(|| gemm(isa, x, right, &mut c, Epilogue::default()));
            c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let whole = product(1, 0..m);
        assert_eq!(whole, product(2, 0..m), "{isa}");
        assert_eq!(whole, product(3, 0..m), "{isa}");
        assert_eq!(whole[37 * n..41 * n], product(2, 37..41), "{isa}");
    }
}

#[test]
fn what_comes_after_equals_a_pass_of_its_own() {
    let (m, k, n, r) = (70, 90, 101, 5);
    let (x, w, bias) = (numbers(m * k, 1, 50), numbers(n * k, 2, 0), numbers(n, 3, 0));
    let (z, thin) = (numbers(m * r, 4, 0), numbers(r * n, 5, 0));
    for (isa, precision) in
        available().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
    {
        let weight = quantize(isa, &w, k);
        let (x, right) = (Matrix::new(&x, m, k), right(&weight, precision));
        let packed = PackedMatrix::new(isa, precision, Matrix::new(&thin, r, n));
        let z = Matrix::new(&z, m, r);
        let low_rank = Some(LowRank { z, b: &packed });
        let epilogue = Epilogue { bias: Some(&bias), low_rank, ..Epilogue::default() };
        let mut whole = vec![0.0; m * n];
        gemm(isa, x, right, &mut whole, epilogue);

        // The low-rank product, alone.
        let [mut c, mut added] = [(); 2].map(|()| vec![0.0; m * n]);
        gemm(isa, x, right, &mut c, Epilogue { low_rank: None, ..epilogue });
        gemm(isa, z, &packed, &mut added, Epilogue::default());
        for ((whole, c), added) in whole.iter().zip(&c).zip(&added) {
            assert!((whole - c - added).abs() < 1e-4, "{isa} {precision:?}: {whole} {c} {added}");
        }

        let (mut expected, mut expected_slope) = (whole.clone(), vec![0.0; m * n]);
        let slope = Some(&mut expected_slope[..]);
        crate::activate(isa, crate::Activation::Gelu, &mut expected, slope);
        let [mut c, mut slope] = [(); 2].map(|()| vec![0.0; m * n]);
        gemm_gelu(isa, x, right, &mut c, epilogue, Some(&mut slope));
        assert!(c == expected && slope == expected_slope, "{isa} {precision:?}");

        let factors = numbers(m * n, 6, 0);
        crate::multiply(&mut whole, &factors);
        gemm_times(isa, x, right, &mut c, epilogue, &factors);
        assert_eq!(c, whole, "{isa} {precision:?}");
    }
}

/// Every part of the epilogue with every other one; the last rank is of more steps than a block has, so that
/// its product is added in a pass of its own.
#[test]
fn parts_of_the_epilogue_go_together() {
    for (m, k, n, r) in [(7, 3, 15, 2), (33, 65, 49, 8), (41, 1541, 49, 8), (9, 20, 50, 3073)] {
        let (x, w) = (numbers(m * k, 1, 23), numbers(n * k, 2, 0));
        let (bias, before) = (numbers(n, 3, 0), numbers(m * n, 4, 0));
        let (z, thin) = (numbers(m * r, 5, 0), numbers(r * n, 6, 0));
        let expected = reference(&x, &w, k);
        for (isa, precision) in
            available().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
        {
            let weight = quantize(isa, &w, k);
            let packed = PackedMatrix::new(isa, precision, Matrix::new(&thin, r, n));
            let rounded = |x: f32| match precision {
                Precision::F32 => f64::from(x),
                Precision::Bf16 => f64::from(half::bf16::from_f32(x).to_f32()),
            };
            for parts in 0..16 {
                let [scaled, accumulate, biased, low] = [1, 2, 4, 8].map(|bit| parts & bit > 0);
                let epilogue = Epilogue {
                    alpha: if scaled { 0.5 } else { 1.0 },
                    accumulate,
                    bias: biased.then_some(&bias[..]),
                    low_rank: low.then_some(LowRank { z: Matrix::new(&z, m, r), b: &packed }),
                };
                let mut c = if accumulate { before.clone() } else { vec![f32::NAN; m * n] };
                let right = right(&weight, precision);
                gemm(isa, Matrix::new(&x, m, k), right, &mut c, epilogue);
                for (at, &c) in c.iter().enumerate() {
                    let (row, column) = (at / n, at % n);
                    let product =
                        |step| rounded(z[row * r + step]) * rounded(thin[step * n + column]);
                    let mut sum = expected[at].0;
                    sum += if low { (0..r).map(product).sum() } else { 0.0 };
                    sum *= f64::from(epilogue.alpha);
                    sum += if biased { f64::from(bias[column]) } else { 0.0 };
                    sum += if accumulate { f64::from(before[at]) } else { 0.0 };
                    let bound = expected[at].1 + 1e-5 * (1.0 + r as f64).sqrt();
                    assert!(
                        (f64::from(c) - sum).abs() <= bound,
                        "{isa} {precision:?} {m}×{k}×{n} r {r} {epilogue:?} at {at}: {c} for {sum}"
                    );
                }
            }
        }
    }
}

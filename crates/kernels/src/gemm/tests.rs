use super::layout::KC;
use super::*;
use proptest::prelude::*;

/// As long as the longest block along K, that of matrix tiles.
const LONG: usize = 4 * KC;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn at(m: &Matrix<'_>, i: usize, j: usize) -> f32 {
    m.data[i * m.row_stride + j * m.column_stride]
}

/// The f64 reference: returns the product and, per element, Σ|a·b| for the error bound.
fn reference(a: &Matrix<'_>, b: &Matrix<'_>, precision: Precision) -> Vec<(f64, f64)> {
    let round = |x: f32| match precision {
        Precision::F32 => f64::from(x),
        Precision::Bf16 => f64::from(half::bf16::from_f32(x).to_f32()),
    };
    (0..a.rows * b.columns)
        .map(|index| {
            let (i, j) = (index / b.columns, index % b.columns);
            (0..a.columns).fold((0.0, 0.0), |(sum, size), k| {
                let product = round(at(a, i, k)) * round(at(b, k, j));
                (sum + product, size + product.abs())
            })
        })
        .collect()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn check(m: usize, k: usize, n: usize, seed: u64, transposed: (bool, bool)) {
    let (data_a, data_b) = (numbers(m * k, seed), numbers(k * n, seed + 1));
    let bias = numbers(n, seed + 2);
    let before = numbers(m * n, seed + 3);
    let a = if transposed.0 {
        Matrix::new(&data_a, k, m).transposed()
    } else {
        Matrix::new(&data_a, m, k)
    };
    let b = if transposed.1 {
        Matrix::new(&data_b, n, k).transposed()
    } else {
        Matrix::new(&data_b, k, n)
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let expected = reference(&a, &b, precision);
        for isa in available() {
            let mut c = before.clone();
            let epilogue =
                Epilogue { alpha: 0.5, accumulate: true, bias: Some(&bias), low_rank: None };
            gemm_unpacked(isa, precision, a, b, &mut c, epilogue, &mut PackedMatrix::default());
            for (index, (&c, &(sum, size))) in c.iter().zip(&expected).enumerate() {
                let expected = 0.5 * sum + f64::from(bias[index % n]) + f64::from(before[index]);
                let bound = 1e-6 * (size + 2.0) * (1.0 + (k as f64).sqrt() / 8.0);
                assert!(
                    (f64::from(c) - expected).abs() <= bound,
                    "{isa} {precision:?} {m}×{k}×{n} {transposed:?} at {index}: {c} for {expected}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_equals_the_f64_reference(
        m in 1usize..70, k in 1usize..50, n in 1usize..110, seed: u32, ta: bool, tb: bool,
    ) {
        check(m, k, n, u64::from(seed), (ta, tb));
    }
}

#[test]
fn several_blocks_of_every_dimension() {
    for transposed in [(false, false), (true, true)] {
        check(2 * 512 + 3, 2 * KC + 5, 101, 7, transposed);
        check(3, LONG + 1, 49, 8, transposed);
    }
}

/// Sums of products of small integers are exact in any order: no end of a tile, part or block is missed.
#[test]
fn small_integers_are_multiplied_exactly() {
    let integers = |n, seed| numbers(n, seed).iter().map(|x| (3.0 * x).round()).collect::<Vec<_>>();
    let shapes = [1, 8, 31, 32, 33, 64, 97]
        .into_iter()
        .flat_map(|m| [384, 385, 416, 769, LONG + 1].into_iter().map(move |k| (m, k, 17 + m % 32)));
    for (m, k, n) in shapes {
        let (a, b, z, thin) =
            (integers(m * k, 1), integers(k * n, 2), integers(m * 5, 3), integers(5 * n, 4));
        let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
        let (z, thin) = (Matrix::new(&z, m, 5), Matrix::new(&thin, 5, n));
        let [whole, added] = [(&a, &b), (&z, &thin)].map(|(a, b)| reference(a, b, Precision::F32));
        let expected: Vec<f32> =
            whole.iter().zip(&added).map(|(x, y)| (x.0 + y.0) as f32).collect();
        for isa in available() {
            let [packed, thin] = [b, thin].map(|b| PackedMatrix::new(isa, Precision::Bf16, b));
            let mut c = vec![f32::NAN; m * n];
            let low_rank = Some(LowRank { z, b: &thin });
            gemm(isa, a, &packed, &mut c, Epilogue { low_rank, ..Epilogue::default() });
            assert_eq!(c, expected, "{isa} {m}×{k}×{n}");
        }
    }
}

#[test]
fn no_rows_are_no_product() {
    for isa in available() {
        let (a, b) = (numbers(2 * 40, 1), numbers(40 * 20, 2));
        let packed = PackedMatrix::new(isa, Precision::Bf16, Matrix::new(&b, 40, 20));
        let mut c = vec![777.0; 64 * 20];
        // SAFETY: no row is written.
        unsafe {
            let output = Output { data: c.as_mut_ptr().add(32 * 20), row_stride: 20 };
            let (a, epilogue) = (Matrix::new(&a, 2, 40), Epilogue::default());
            block_product(isa, a, (&packed).into(), 1..1, 0..1, output, epilogue, After::Nothing);
        }
        assert!(c.iter().all(|&x| x == 777.0), "{isa}");
    }
}

#[test]
fn a_low_rank_product_is_added() {
    // The last one is of more steps than a block has.
    for (m, k, n, r) in [(70, 50, 100, 8), (41, LONG + 5, 49, 3), (5, 20, 33, LONG + 1)] {
        let (data_a, data_b) = (numbers(m * k, 1), numbers(k * n, 2));
        let (data_z, data_thin) = (numbers(m * r, 3), numbers(r * n, 4));
        let (a, b) = (Matrix::new(&data_a, m, k), Matrix::new(&data_b, k, n));
        let (z, thin) = (Matrix::new(&data_z, m, r), Matrix::new(&data_thin, r, n));
        for precision in [Precision::F32, Precision::Bf16] {
            let expected = reference(&a, &b, precision);
            let added = reference(&z, &thin, precision);
            for isa in available() {
                let [packed, thin] = [b, thin].map(|b| PackedMatrix::new(isa, precision, b));
                let low_rank = Some(LowRank { z, b: &thin });
                let mut c = vec![f32::NAN; m * n];
                gemm(isa, a, &packed, &mut c, Epilogue { low_rank, ..Epilogue::default() });
                for (i, &c) in c.iter().enumerate() {
                    let (sum, size) = (expected[i].0 + added[i].0, expected[i].1 + added[i].1);
                    let bound = 1e-6 * size * (1.0 + ((k + r) as f64).sqrt() / 8.0);
                    assert!((f64::from(c) - sum).abs() <= bound, "{isa} {precision:?} {m} {i}");
                }
            }
        }
    }
}

#[test]
fn what_comes_after_equals_a_pass_of_its_own() {
    // Several blocks of K: only the whole sum is put in.
    for (m, k, n) in [(10, 20, 53), (130, 2 * (2 * KC) + 5, 48)] {
        let (a, b, bias) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
        let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
        let epilogue = Epilogue { bias: Some(&bias), accumulate: true, ..Epilogue::default() };
        for (isa, precision) in
            available().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
        {
            let packed = PackedMatrix::new(isa, precision, b);
            let before = numbers(m * n, 4);
            let mut plain = before.clone();
            gemm(isa, a, &packed, &mut plain, epilogue);

            let (mut expected, mut expected_slope) = (plain.clone(), vec![f32::NAN; m * n]);
            let slope = Some(&mut expected_slope[..]);
            crate::activate(isa, crate::Activation::Gelu, &mut expected, slope);
            let (mut c, mut slope) = (before.clone(), vec![f32::NAN; m * n]);
            gemm_gelu(isa, a, &packed, &mut c, epilogue, Some(&mut slope));
            assert!(c == expected && slope == expected_slope, "{isa} {precision:?}");
            let mut alone = before.clone();
            gemm_gelu(isa, a, &packed, &mut alone, epilogue, None);
            assert_eq!(alone, c, "{isa} {precision:?}");

            let factors = numbers(m * n, 5);
            crate::multiply(&mut plain, &factors);
            let mut c = before;
            gemm_times(isa, a, &packed, &mut c, epilogue, &factors);
            assert_eq!(c, plain, "{isa} {precision:?}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_on_the_rows_around() {
    let (m, k, n) = (200, 500, 150);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    for isa in available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let packed = PackedMatrix::new(isa, precision, Matrix::new(&b, k, n));
            let product = |threads: usize, rows: std::ops::Range<usize>| {
                let threads = crate::Threads::new(Some(threads)).unwrap();
                let a = Matrix::new(&a[rows.start * k..], rows.len(), k);
                let mut c = vec![0.0; rows.len() * n];
                threads.run(|| gemm(isa, a, &packed, &mut c, Epilogue::default()));
                c
            };
            let whole = product(1, 0..m);
            assert_eq!(whole, product(2, 0..m), "{isa}");
            assert_eq!(whole, product(3, 0..m), "{isa}");
            assert_eq!(whole[37 * n..41 * n], product(2, 37..41), "{isa}");
        }
    }
}

#[test]
fn nan_and_infinity_pass_through() {
    for isa in available() {
        let mut a = numbers(9 * 20, 1);
        a[25] = f32::NAN;
        a[45] = f32::INFINITY;
        let b = vec![1.0; 20 * 5];
        let mut c = vec![0.0; 45];
        let (a, b) = (Matrix::new(&a, 9, 20), Matrix::new(&b, 20, 5));
        gemm_unpacked(
            isa,
            Precision::F32,
            a,
            b,
            &mut c,
            Epilogue::default(),
            &mut PackedMatrix::default(),
        );
        assert!(c[5..10].iter().all(|x| x.is_nan()), "{isa}");
        assert!(c[10..15].iter().all(|x| *x == f32::INFINITY), "{isa}");
        assert!(c[15..].iter().all(|x| x.is_finite()), "{isa}");
    }
}

#[test]
fn nothing_is_written_beyond_a_strided_output() {
    // Part of a vector, part of a panel, whole panels; rows that end inside a tile.
    for (isa, columns) in available().flat_map(|isa| [5, 16, 48, 53].map(|n| (isa, n))) {
        for precision in [Precision::F32, Precision::Bf16] {
            let (rows, k, stride) = (10, 7, columns + 4);
            let (a, b) = (numbers(rows * k, 3), numbers(k * columns, 4));
            let packed = PackedMatrix::new(isa, precision, Matrix::new(&b, k, columns));
            let mut canary = vec![777.0f32; rows * stride + stride];
            let output = Output { data: canary.as_mut_ptr(), row_stride: stride };
            // SAFETY: `rows` rows of `stride` numbers, `columns` of which are written.
            unsafe {
                block_product(
                    isa,
                    Matrix::new(&a, rows, k),
                    (&packed).into(),
                    0..rows,
                    0..packed.panels(),
                    output,
                    Epilogue::default(),
                    After::Nothing,
                );
            }
            for (i, row) in canary.chunks(stride).enumerate() {
                let written = if i < rows { columns } else { 0 };
                assert!(row[written..].iter().all(|&x| x == 777.0), "{isa} {columns}: {row:?}");
                assert!(row[..written].iter().all(|&x| x != 777.0), "{isa} {columns}: {row:?}");
            }
        }
    }
}

#[test]
fn a_quantised_matrix_multiplies_as_its_dequantised_numbers() {
    use crate::quantized::{Int8Matrix, Nf4Matrix, QuantizedMatrix};
    // Strips, panels and blocks end inside; blocks of 64 straddle rows.
    for (m, out, input) in [(5, 100, 70), (3, 49, 2 * KC + 9), (70, KC + 5, 33)] {
        let dense = numbers(out * input, 3);
        for (isa, is_nf4) in available().flat_map(|isa| [(isa, true), (isa, false)]) {
            let weight = &if is_nf4 {
                QuantizedMatrix::Nf4(Nf4Matrix::quantize(&dense, input, true))
            } else {
                QuantizedMatrix::Int8(Int8Matrix::quantize(isa, &dense, input))
            };
            let mut plain = vec![0.0; out * input];
            weight.dequantize(isa, 0..out, 0..input, &mut plain);
            let plain = Matrix::new(&plain, out, input);
            for precision in [Precision::F32, Precision::Bf16] {
                // W of integers is not dequantised for x·Wᵀ.
                for transposed in [is_nf4, false] {
                    let dense = if transposed { plain.transposed() } else { plain };
                    let a = numbers(m * dense.rows, 4);
                    let a = Matrix::new(&a, m, dense.rows);
                    let right = Right::Quantized { weight, transposed, precision };
                    let (z, thin) = (numbers(m * 8, 5), numbers(8 * dense.columns, 6));
                    let thin = Matrix::new(&thin, 8, dense.columns);
                    let thin = PackedMatrix::new(isa, precision, thin);
                    let low_rank = Some(LowRank { z: Matrix::new(&z, m, 8), b: &thin });
                    let epilogue =
                        Epilogue { alpha: 0.5, accumulate: true, low_rank, ..Epilogue::default() };
                    let [mut c, mut expected] = [(); 2].map(|()| numbers(m * dense.columns, 7));
                    gemm(isa, a, right, &mut c, epilogue);
                    let scratch = &mut PackedMatrix::default();
                    gemm_unpacked(isa, precision, a, dense, &mut expected, epilogue, scratch);
                    assert_eq!(c, expected, "{isa} {precision:?} {transposed}");
                }
            }
        }
    }
}

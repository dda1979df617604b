//! Products of 8-bit integers on AVX2, which multiplies unsigned bytes by signed ones. Of a code x therefore
//! the magnitude is one factor, and its sign moves to the other: where x is negative, a code w of W becomes
//! `!w` = −w − 1, which is one bitwise operation on any vector port. |x|·`!w` is x·w − |x|, and the |x| that is
//! missing does not depend on W: sums begin with it. Two products fit 16 bits: at most 2·127·128.
//!
//! A tile takes 12 sums, ones, the signs and magnitudes of a row and a product: all 16 registers, so that
//! columns come from memory.

use super::super::layout::ROWS;
use super::super::tile::Product;
use crate::simd::{Avx2, Simd};
use std::arch::x86_64::*;

/// Sign and magnitude apart, as [`take_signs_apart`] leaves codes of x; codes of W are signed.
pub(super) struct SignsApart;

impl Product<Avx2> for SignsApart {
    /// `a` holds magnitudes, `b` what signs made of codes of W.
    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: register arithmetic; the caller vouches for the instruction set.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_castps_si256(a), _mm256_castps_si256(b));
            let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(c), sum))
        }
    }

    #[inline(always)]
    unsafe fn tile<const MR: usize, const NV: usize>(
        mut a: *const f32,
        mut b: *const f32,
        units: usize,
        mut sums: [[__m256; NV]; MR],
    ) -> [[__m256; NV]; MR] {
        // SAFETY: `a` has `units` groups of 2·ROWS numbers and `b` as many of NV vectors; the types are the
        // same where MR and NV are.
        unsafe {
            if MR == 4 && NV == 3 {
                let sums = four_by_three_quads(a, b, units, std::mem::transmute_copy(&sums));
                return std::mem::transmute_copy(&sums);
            }
            for _ in 0..units {
                for (i, row) in sums.iter_mut().enumerate() {
                    let (signs, magnitudes) =
                        (Avx2::splat(*a.add(i)), Avx2::splat(*a.add(ROWS + i)));
                    for (v, sum) in row.iter_mut().enumerate() {
                        let column = _mm256_xor_ps(signs, Avx2::load(b.add(v * Avx2::LANES)));
                        *sum = Self::multiply_add(magnitudes, column, *sum);
                    }
                }
                a = a.add(2 * ROWS);
                b = b.add(NV * Avx2::LANES);
            }
        }
        sums
    }
}

/// `sums` plus the product of 4 rows and 3 vectors of quads.
///
/// # Safety
/// The processor has AVX2; `a` has `units` groups of 2·[`ROWS`] numbers and `b` `units` groups of 3 vectors.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn four_by_three_quads(
    a: *const f32,
    b: *const f32,
    units: usize,
    mut sums: [[__m256; 3]; 4],
) -> [[__m256; 3]; 4] {
    if units == 0 {
        return sums;
    }
    /// One row: its sums, and where its signs are and its magnitudes.
    macro_rules! row {
        ($c0:literal, $c1:literal, $c2:literal, $signs:literal, $magnitudes:literal) => {
            concat!(
                "vpbroadcastd {s}, [{a} + ",
                $signs,
                "]\n",
                "vpbroadcastd {m}, [{a} + ",
                $magnitudes,
                "]\n",
                "vpxor {x}, {s}, [{b}]\n",
                "vpmaddubsw {x}, {m}, {x}\n",
                "vpmaddwd {x}, {x}, {ones}\n",
                "vpaddd ",
                $c0,
                ", ",
                $c0,
                ", {x}\n",
                "vpxor {x}, {s}, [{b} + 32]\n",
                "vpmaddubsw {x}, {m}, {x}\n",
                "vpmaddwd {x}, {x}, {ones}\n",
                "vpaddd ",
                $c1,
                ", ",
                $c1,
                ", {x}\n",
                "vpxor {x}, {s}, [{b} + 64]\n",
                "vpmaddubsw {x}, {m}, {x}\n",
                "vpmaddwd {x}, {x}, {ones}\n",
                "vpaddd ",
                $c2,
                ", ",
                $c2,
                ", {x}",
            )
        };
    }
    // SAFETY: it reads 4 signs and 4 magnitudes of each group of `a` and the groups of `b`, and writes only
    // the registers named.
    unsafe {
        std::arch::asm!(
            "2:",
            row!("{c00}", "{c01}", "{c02}", "0", "32"),
            row!("{c10}", "{c11}", "{c12}", "4", "36"),
            row!("{c20}", "{c21}", "{c22}", "8", "40"),
            row!("{c30}", "{c31}", "{c32}", "12", "44"),
            "add {a}, {a_step}",
            "add {b}, 96",
            "dec {units}",
            "jnz 2b",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            units = inout(reg) units => _,
            a_step = const 2 * ROWS * size_of::<f32>(),
            c00 = inout(ymm_reg) sums[0][0],
            c01 = inout(ymm_reg) sums[0][1],
            c02 = inout(ymm_reg) sums[0][2],
            c10 = inout(ymm_reg) sums[1][0],
            c11 = inout(ymm_reg) sums[1][1],
            c12 = inout(ymm_reg) sums[1][2],
            c20 = inout(ymm_reg) sums[2][0],
            c21 = inout(ymm_reg) sums[2][1],
            c22 = inout(ymm_reg) sums[2][2],
            c30 = inout(ymm_reg) sums[3][0],
            c31 = inout(ymm_reg) sums[3][1],
            c32 = inout(ymm_reg) sums[3][2],
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            s = out(ymm_reg) _,
            m = out(ymm_reg) _,
            x = out(ymm_reg) _,
            options(nostack, readonly),
        );
    }
    sums
}

/// Splits a tile's codes: for every quad the signs of its [`ROWS`] rows come first (each byte 0 or −1), then
/// their magnitudes. Returns what sums of each row begin with: the magnitudes of its negative codes, added up.
///
/// # Panics
/// `codes` is not whole quads of [`ROWS`] rows, or `apart` not twice as long.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2,fma")]
pub(in crate::gemm) unsafe fn take_signs_apart(codes: &[f32], apart: &mut [f32]) -> [i32; ROWS] {
    const { assert!(ROWS == Avx2::LANES) }
    assert!(codes.len().is_multiple_of(ROWS) && apart.len() == 2 * codes.len());
    let mut starts = _mm256_setzero_si256();
    for (codes, apart) in codes.chunks_exact(ROWS).zip(apart.chunks_exact_mut(2 * ROWS)) {
        // SAFETY: both are of LANES numbers, and of twice as many.
        unsafe {
            let codes = _mm256_castps_si256(Avx2::load(codes.as_ptr()));
            let signs = _mm256_cmpgt_epi8(_mm256_setzero_si256(), codes);
            let magnitudes = _mm256_abs_epi8(codes);
            let negative = _mm256_maddubs_epi16(magnitudes, signs);
            let negative = _mm256_madd_epi16(negative, _mm256_set1_epi16(-1));
            starts = _mm256_add_epi32(starts, negative);
            Avx2::store(apart.as_mut_ptr(), _mm256_castsi256_ps(signs));
            Avx2::store(apart.as_mut_ptr().add(ROWS), _mm256_castsi256_ps(magnitudes));
        }
    }
    // SAFETY: LANES integers of 32 bits.
    unsafe { std::mem::transmute(starts) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// A quad of bytes for each number.
    fn quads(bytes: &[i8]) -> Vec<f32> {
        let quad =
            |quad: &[i8]| f32::from_ne_bytes(std::array::from_fn(|i| quad[i].cast_unsigned()));
        bytes.chunks_exact(4).map(quad).collect()
    }

    /// # Safety
    /// As [`SignsApart::tile`]'s.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const NV: usize>(
        a: *const f32,
        b: *const f32,
        units: usize,
        starts: &[i32],
    ) -> [[[i32; 8]; NV]; 4] {
        // SAFETY: passed on to the caller; a vector is 8 integers of 32 bits.
        unsafe {
            let sums: [[__m256; NV]; 4] =
                std::array::from_fn(|i| [_mm256_castsi256_ps(_mm256_set1_epi32(starts[i])); NV]);
            std::mem::transmute_copy(&SignsApart::tile::<4, NV>(a, b, units, sums))
        }
    }

    /// Both halves of a tile of rows against sums of 64 bits.
    fn check<const NV: usize>(a: &[i8], b: &[i8], units: usize) {
        let (mut apart, columns) = (vec![f32::NAN; 2 * units * ROWS], quads(b));
        // SAFETY: the caller found AVX2; `apart` has `units` groups of 2·ROWS, `columns` of NV vectors.
        let starts = unsafe { take_signs_apart(&quads(a), &mut apart) };
        for half in [0, 4] {
            let (rows, starts) = (apart.as_ptr().wrapping_add(half), &starts[half..]);
            // SAFETY: as above.
            let sums = unsafe { tile::<NV>(rows, columns.as_ptr(), units, starts) };
            for (row, sums) in sums.iter().enumerate() {
                for (column, &sum) in sums.iter().flatten().enumerate() {
                    let product = |i: usize| {
                        let (quad, byte) = (i / 4, i % 4);
                        let x = a[(quad * ROWS + half + row) * 4 + byte];
                        i64::from(x) * i64::from(b[(quad * 8 * NV + column) * 4 + byte])
                    };
                    let exact: i64 = (0..4 * units).map(product).sum();
                    assert_eq!(i64::from(sum), exact, "{units} units, {NV} vectors, row {row}");
                }
            }
        }
    }

    /// The extremes among them, and −128, which quantising never gives.
    #[test]
    fn sums_of_products_of_bytes_are_exact() {
        if !Isa::Avx2.is_available() {
            return;
        }
        for units in [0, 1, 2, 5, 193] {
            for seed in 0..64usize {
                let bytes = |count: usize, step: usize| -> Vec<i8> {
                    let byte = |i: usize| match (i * step + seed) % 7 {
                        0 => [-128, 127, -127, 0, 1, -1][i * 5 % 6],
                        _ => ((i * step + seed * 37) % 256) as u8 as i8,
                    };
                    (0..count).map(byte).collect()
                };
                let a = bytes(units * ROWS * 4, 101);
                check::<1>(&a, &bytes(units * 32, 59), units);
                check::<2>(&a, &bytes(units * 2 * 32, 83), units);
                check::<3>(&a, &bytes(units * 3 * 32, 29), units);
            }
            for (x, w) in [(-128, -128), (-128, 127), (127, -128), (127, 127), (-127, -128)] {
                check::<1>(&vec![x; units * ROWS * 4], &vec![w; units * 32], units);
                check::<3>(&vec![x; units * ROWS * 4], &vec![w; units * 3 * 32], units);
            }
        }
    }
}

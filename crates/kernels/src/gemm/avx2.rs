//! The tiles of AVX2, which has 16 registers: 12 sums of 4 rows × 3 vectors, 3 columns and one broadcast
//! take them all. The compiler begins the next broadcast early, and then keeps a sum in memory, whose
//! way there and back more than doubles the time of a step; so these are the instructions themselves.
//!
//! Bytes are multiplied unsigned by signed. Of a code of x therefore the magnitude is one factor, and its
//! sign moves to the other: a code w of W becomes `!w` = −w − 1 where x is negative, which is one bitwise
//! operation on any port, and what is 1 too few times |x| does not depend on W: sums begin with it. Two products
//! fit 16 bits: at most 2·127·128.

use super::layout::ROWS;
use super::tile::Product;
use crate::simd::{Avx2, Simd};
use std::arch::x86_64::*;

/// Tiles of 4 rows and 3 vectors.
pub(super) struct SixteenRegisters;

impl Product<Avx2> for SixteenRegisters {
    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: register arithmetic; the caller vouches for the instruction set.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn tile<const MR: usize, const NV: usize>(
        a: *const f32,
        b: *const f32,
        units: usize,
        sums: [[__m256; NV]; MR],
    ) -> [[__m256; NV]; MR] {
        const { assert!(MR == 4 && NV == 3) }
        // SAFETY: the types are the same, by the assertion; else passed on to the caller.
        unsafe {
            let sums = four_by_three(a, b, units, std::mem::transmute_copy(&sums));
            std::mem::transmute_copy(&sums)
        }
    }
}

/// `sums` plus the product of 4 rows and 3 vectors.
///
/// # Safety
/// The processor has AVX2 and FMA; `a` has `units` groups of [`ROWS`] numbers and `b` `units` groups of
/// 3 vectors.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn four_by_three(
    a: *const f32,
    b: *const f32,
    units: usize,
    mut sums: [[__m256; 3]; 4],
) -> [[__m256; 3]; 4] {
    if units == 0 {
        return sums;
    }
    // SAFETY: it reads 4 numbers of each group of `a` and the groups of `b`, and writes only the
    // registers named.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovups {b0}, [{b}]",
            "vmovups {b1}, [{b} + 32]",
            "vmovups {b2}, [{b} + 64]",
            "vbroadcastss {x}, [{a}]",
            "vfmadd231ps {c00}, {x}, {b0}",
            "vfmadd231ps {c01}, {x}, {b1}",
            "vfmadd231ps {c02}, {x}, {b2}",
            "vbroadcastss {x}, [{a} + 4]",
            "vfmadd231ps {c10}, {x}, {b0}",
            "vfmadd231ps {c11}, {x}, {b1}",
            "vfmadd231ps {c12}, {x}, {b2}",
            "vbroadcastss {x}, [{a} + 8]",
            "vfmadd231ps {c20}, {x}, {b0}",
            "vfmadd231ps {c21}, {x}, {b1}",
            "vfmadd231ps {c22}, {x}, {b2}",
            "vbroadcastss {x}, [{a} + 12]",
            "vfmadd231ps {c30}, {x}, {b0}",
            "vfmadd231ps {c31}, {x}, {b1}",
            "vfmadd231ps {c32}, {x}, {b2}",
            "add {a}, {a_step}",
            "add {b}, 96",
            "dec {units}",
            "jnz 2b",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            units = inout(reg) units => _,
            a_step = const ROWS * size_of::<f32>(),
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
            b0 = out(ymm_reg) _,
            b1 = out(ymm_reg) _,
            b2 = out(ymm_reg) _,
            x = out(ymm_reg) _,
            options(nostack, readonly),
        );
    }
    sums
}

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

/// Of a tile's signed codes, quad by quad those of its rows side by side, first all bits that are the sign (0 or
/// −1 in each byte), then the magnitudes; returns for each row what its sums begin with, the sum of
/// the magnitudes of negative codes.
///
/// # Panics
/// `apart` does not have twice the length of `codes`, whole groups of [`ROWS`].
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn take_signs_apart(codes: &[f32], apart: &mut [f32]) -> [i32; ROWS] {
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

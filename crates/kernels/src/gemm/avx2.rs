//! The tile of AVX2, which has 16 registers: 12 sums of 4 rows × 3 vectors, 3 columns and one broadcast
//! take them all. The compiler begins the next broadcast early, and then keeps a sum in memory, whose
//! way there and back more than doubles the time of a step; so these are the instructions themselves.

use super::layout::ROWS;
use super::tile::Product;
use crate::simd::Avx2;
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

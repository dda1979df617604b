//! Rounding f32 to bf16, alone and in pairs: the units that native bf16 products read.

use half::bf16;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rounds to bf16, to nearest even.
pub(super) fn round(x: &mut f32) {
    *x = bf16::from_f32(*x).to_f32();
}

/// Two bf16 in one f32-sized unit, the first in the low half.
pub(super) fn pair(low: f32, high: f32) -> f32 {
    let (low, high) = (bf16::from_f32(low).to_bits(), bf16::from_f32(high).to_bits());
    f32::from_bits(u32::from(low) | u32::from(high) << 16)
}

/// 32 neighbouring numbers as 16 units.
///
/// # Safety
/// The processor has AVX-512 bf16, and 32 numbers can be read.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn neighbours(source: *const f32) -> __m512 {
    // SAFETY: the caller vouches for 32 numbers; the transmutation is between registers of a size.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(16)));
        std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// 16 numbers of each of two rows as 16 units.
///
/// # Safety
/// The processor has AVX-512 bf16, and 16 numbers of each row can be read.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn pairs(low: *const f32, high: *const f32) -> __m512 {
    // SAFETY: the caller vouches for 16 numbers each; transmutations are between registers of a
    // size.
    unsafe {
        let low = _mm512_cvtneps_pbh(_mm512_loadu_ps(low));
        let high = _mm512_cvtneps_pbh(_mm512_loadu_ps(high));
        let low = _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(low));
        let high = _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(high));
        _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
    }
}

/// Eight numbers of each of two rows as eight units.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
pub(super) unsafe fn copy_eight_pairs(low: &[f32], high: &[f32], out: &mut [f32; 8]) {
    assert!(low.len() == 8 && high.len() == 8);
    // SAFETY: eight numbers can be read and written; transmutations are between registers of a
    // size.
    unsafe {
        let (low, high) = (_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr()));
        let low = std::mem::transmute::<__m128bh, __m128i>(_mm256_cvtneps_pbh(low));
        let high = std::mem::transmute::<__m128bh, __m128i>(_mm256_cvtneps_pbh(high));
        let first = _mm_castsi128_ps(_mm_unpacklo_epi16(low, high));
        let second = _mm_castsi128_ps(_mm_unpackhi_epi16(low, high));
        _mm_storeu_ps(out.as_mut_ptr(), first);
        _mm_storeu_ps(out.as_mut_ptr().add(4), second);
    }
}

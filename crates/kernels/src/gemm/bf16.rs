//! Rounding f32 to bf16, alone and in pairs: the units that native bf16 products read, the first
//! of a pair in the low half.

use half::bf16;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rounds to bf16, to nearest even.
pub(super) fn round(x: &mut f32) {
    *x = bf16::from_f32(*x).to_f32();
}

/// The first `count ≤ 32` of neighbouring numbers as 16 units, zeros behind them.
///
/// # Safety
/// The processor has AVX-512 bf16, and `count` numbers can be read.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn neighbours(source: *const f32, count: usize) -> __m512 {
    // SAFETY: the caller vouches for `count` numbers; the transmutation is between registers of a
    // size.
    unsafe {
        let mask = (u64::MAX >> (64 - count)) as u32;
        let low = _mm512_maskz_loadu_ps(mask as u16, source);
        let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, source.wrapping_add(16));
        std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// The first `count ≤ 16` numbers of two rows as 16 units, zeros behind them and for a row that is
/// null.
///
/// # Safety
/// The processor has AVX-512 bf16, and `count` numbers of each row can be read.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn pairs(low: *const f32, high: *const f32, count: usize) -> __m512 {
    // SAFETY: the caller vouches for `count` numbers each; transmutations are between registers of
    // a size.
    unsafe {
        let mask = (0xffff_u32 >> (16 - count)) as u16;
        let high_mask = if high.is_null() { 0 } else { mask };
        let low = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, low));
        let high = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(high_mask, high));
        let low = _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(low));
        let high = _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(high));
        _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
    }
}

/// As [`pairs`] with `count ≤ 8`, the eight units written to `out`.
///
/// # Safety
/// The processor has AVX-512 bf16, `count` numbers of each row can be read and eight be written.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
pub(super) unsafe fn eight_pairs(low: *const f32, high: *const f32, count: usize, out: *mut f32) {
    // SAFETY: the caller vouches for the numbers; transmutations are between registers of a size.
    unsafe {
        let mask = (0xff_u32 >> (8 - count)) as u8;
        let high_mask = if high.is_null() { 0 } else { mask };
        let low = _mm256_cvtneps_pbh(_mm256_maskz_loadu_ps(mask, low));
        let high = _mm256_cvtneps_pbh(_mm256_maskz_loadu_ps(high_mask, high));
        let low = std::mem::transmute::<__m128bh, __m128i>(low);
        let high = std::mem::transmute::<__m128bh, __m128i>(high);
        _mm_storeu_ps(out, _mm_castsi128_ps(_mm_unpacklo_epi16(low, high)));
        _mm_storeu_ps(out.add(4), _mm_castsi128_ps(_mm_unpackhi_epi16(low, high)));
    }
}

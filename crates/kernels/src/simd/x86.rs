//! AVX2+FMA (8 lanes) and AVX-512 (16 lanes).

use super::{Kernel, Simd};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller vouches for the features, which this function enables.
    unsafe { kernel.run::<Avx2>() }
}

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller vouches for the features, which this function enables.
    unsafe { kernel.run::<Avx512>() }
}

/// The first `n` of 8 lanes, as a mask for `maskload`/`maskstore`.
#[inline(always)]
unsafe fn first_of_8(n: usize) -> __m256i {
    // SAFETY: register arithmetic under AVX2, which the caller vouches for.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
    }
}

#[inline(always)]
fn first_of_16(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// The half bytes of the first 8 bytes, one per byte, the high half first.
#[inline(always)]
unsafe fn nibbles(bytes: __m128i) -> __m128i {
    // SAFETY: register arithmetic under SSE2.
    unsafe {
        let mask = _mm_set1_epi8(15);
        let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
        _mm_unpacklo_epi8(high, _mm_and_si128(bytes, mask))
    }
}

/// Four rows transposed within each 128-bit part.
#[inline(always)]
unsafe fn quads_256([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: register arithmetic under AVX2, which the caller vouches for.
    unsafe {
        let low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
        let low2 = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
        let high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
        let high2 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
        [
            _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2)),
            _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2)),
        ]
    }
}

/// As [`quads_256`].
#[inline(always)]
unsafe fn quads_512([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    // SAFETY: register arithmetic under AVX-512, which the caller vouches for.
    unsafe {
        let low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let low2 = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
        let high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let high2 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
        [
            _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2)),
            _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2)),
        ]
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type F = __m256;
    type U = __m256i;

    intrinsics! {
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        load(p: *const f32) -> __m256 = _mm256_loadu_ps(p);
        prefetch(p: *const f32) -> () = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        prefetch_l2(p: *const f32) -> () = _mm_prefetch::<_MM_HINT_T1>(p.cast());
        store(p: *mut f32, v: __m256) -> () = _mm256_storeu_ps(p, v);
        // Most vectors are whole ones, and masked stores are slow on Zen.
        load_first(p: *const f32, n: usize) -> __m256 = match n {
            8 => _mm256_loadu_ps(p),
            n => _mm256_maskload_ps(p, first_of_8(n)),
        };
        store_first(p: *mut f32, n: usize, v: __m256) -> () = match n {
            8 => _mm256_storeu_ps(p, v),
            n => _mm256_maskstore_ps(p, first_of_8(n), v),
        };
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        round(a: __m256) -> __m256 =
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        exp2_whole(n: __m256) -> __m256 = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(
            _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))));
        from_i32(bits: __m256) -> __m256 = _mm256_cvtepi32_ps(_mm256_castps_si256(bits));
        splat_u(x: u32) -> __m256i = _mm256_set1_epi32(x as i32);
        count_from(start: u32) -> __m256i = _mm256_add_epi32(
            _mm256_set1_epi32(start as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        xor_u(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
    }

    #[inline(always)]
    unsafe fn from_i8(p: *const i8) -> __m256 {
        // SAFETY: the caller vouches for the instruction set and for 8 readable bytes.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn from_quads(p: *const i8, byte: usize) -> __m256 {
        // SAFETY: the caller vouches for the instruction set and for 32 readable bytes.
        unsafe {
            let left = _mm_cvtsi32_si128(24 - 8 * byte as i32);
            let x = _mm256_sll_epi32(_mm256_loadu_si256(p.cast()), left);
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(x))
        }
    }
    #[inline(always)]
    unsafe fn to_quads(x: [__m256; 4], flip: u32) -> __m256 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let [a, b, c, d] = x;
            let (a, b) = (_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            let (c, d) = (_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d));
            // Packing is within 128-bit halves: their groups of four come in the order of `lanes`.
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let lanes = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(bytes, lanes);
            _mm256_castsi256_ps(_mm256_xor_si256(bytes, _mm256_set1_epi32(flip as i32)))
        }
    }
    #[inline(always)]
    unsafe fn dot_quads(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            // |a|·(±b) summed in pairs: at most 2·127², which 16 bits hold.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
            let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(c), sum))
        }
    }
    #[inline(always)]
    unsafe fn below(x: __m256, limit: f32) -> (__m256, u32) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let x = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(limit));
            (_mm256_and_ps(below, x), !_mm256_movemask_ps(below) as u32 & 0xff)
        }
    }
    #[inline(always)]
    unsafe fn lookup_nibbles(table: &[f32; 16], p: *const u8) -> __m256 {
        // SAFETY: the caller vouches for the instruction set and for 4 readable bytes.
        unsafe {
            let bytes = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
            let codes = _mm256_cvtepu8_epi32(nibbles(bytes));
            let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), codes);
            let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), codes);
            let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
            _mm256_blendv_ps(low, high, is_high)
        }
    }
    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    unsafe fn maximum(a: __m256) -> f32 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    unsafe fn store_transposed(rows: [__m256; 8], out: *mut f32, stride: usize) {
        // SAFETY: the caller vouches for the instruction set and for room for 64 numbers.
        unsafe {
            let [a, b, c, d, e, f, g, h] = rows;
            // Of four rows, groups k and k + 4 in the two halves.
            let (upper, lower) = (quads_256([a, b, c, d]), quads_256([e, f, g, h]));
            for k in 0..4 {
                let (x, y) = (upper[k], lower[k]);
                _mm256_storeu_ps(out.add(stride * k), _mm256_permute2f128_ps::<0x20>(x, y));
                _mm256_storeu_ps(out.add(stride * (k + 4)), _mm256_permute2f128_ps::<0x31>(x, y));
            }
        }
    }
    #[inline(always)]
    unsafe fn mul_wide(a: __m256i, b: u32) -> (__m256i, __m256i) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let b = _mm256_set1_epi32(b as i32);
            let even = _mm256_mul_epu32(a, b);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), b);
            (
                _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd),
                _mm256_mullo_epi32(a, b),
            )
        }
    }
    #[inline(always)]
    unsafe fn keep_halves(bits: __m256i, threshold: u32, value: __m256) -> (__m256, __m256) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let below = _mm256_set1_epi32(threshold as i32 - 1);
            let low = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff));
            let low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(low, below));
            let high = _mm256_srli_epi32::<16>(bits);
            let high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(high, below));
            (_mm256_and_ps(low, value), _mm256_and_ps(high, value))
        }
    }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type F = __m512;
    type U = __m512i;

    intrinsics! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        load(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
        prefetch(p: *const f32) -> () = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        prefetch_l2(p: *const f32) -> () = _mm_prefetch::<_MM_HINT_T1>(p.cast());
        store(p: *mut f32, v: __m512) -> () = _mm512_storeu_ps(p, v);
        load_first(p: *const f32, n: usize) -> __m512 =
            _mm512_maskz_loadu_ps(first_of_16(n), p);
        store_first(p: *mut f32, n: usize, v: __m512) -> () =
            _mm512_mask_storeu_ps(p, first_of_16(n), v);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        round(a: __m512) -> __m512 =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        exp2_whole(n: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(
            _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127))));
        sum(a: __m512) -> f32 = _mm512_reduce_add_ps(a);
        maximum(a: __m512) -> f32 = _mm512_reduce_max_ps(a);
        from_i32(bits: __m512) -> __m512 = _mm512_cvtepi32_ps(_mm512_castps_si512(bits));
        splat_u(x: u32) -> __m512i = _mm512_set1_epi32(x as i32);
        count_from(start: u32) -> __m512i = _mm512_add_epi32(
            _mm512_set1_epi32(start as i32),
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        xor_u(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
    }

    #[inline(always)]
    unsafe fn from_i8(p: *const i8) -> __m512 {
        // SAFETY: the caller vouches for the instruction set and for 16 readable bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn from_quads(p: *const i8, byte: usize) -> __m512 {
        // SAFETY: the caller vouches for the instruction set and for 64 readable bytes.
        unsafe {
            let left = _mm_cvtsi32_si128(24 - 8 * byte as i32);
            let x = _mm512_sll_epi32(_mm512_loadu_si512(p.cast()), left);
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(x))
        }
    }
    #[inline(always)]
    unsafe fn to_quads(x: [__m512; 4], flip: u32) -> __m512 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let [a, b, c, d] = x;
            let (a, b) = (_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            let (c, d) = (_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
            // Packing is within 128-bit quarters: their groups of four come in the order of `lanes`.
            let bytes = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = _mm512_permutexvar_epi32(lanes, bytes);
            _mm512_castsi512_ps(_mm512_xor_si512(bytes, _mm512_set1_epi32(flip as i32)))
        }
    }
    #[inline(always)]
    unsafe fn dot_quads(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            // |a|·(±b) summed in pairs: at most 2·127², which 16 bits hold.
            let signed = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(a), signed);
            let sum = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(c), sum))
        }
    }
    #[inline(always)]
    unsafe fn below(x: __m512, limit: f32) -> (__m512, u32) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let x = _mm512_abs_ps(x);
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_set1_ps(limit));
            (_mm512_maskz_mov_ps(below, x), u32::from(!below))
        }
    }
    #[inline(always)]
    unsafe fn lookup_nibbles(table: &[f32; 16], p: *const u8) -> __m512 {
        // SAFETY: the caller vouches for the instruction set and for 8 readable bytes.
        unsafe {
            let codes = _mm512_cvtepu8_epi32(nibbles(_mm_loadl_epi64(p.cast())));
            _mm512_permutexvar_ps(codes, _mm512_loadu_ps(table.as_ptr()))
        }
    }
    #[inline(always)]
    unsafe fn store_transposed(rows: [__m512; 8], out: *mut f32, stride: usize) {
        // SAFETY: the caller vouches for the instruction set and for room for 128 numbers.
        unsafe {
            let [a, b, c, d, e, f, g, h] = rows;
            // Of four rows, groups k, k + 4, k + 8 and k + 12 in the four quarters.
            let (upper, lower) = (quads_512([a, b, c, d]), quads_512([e, f, g, h]));
            for k in [0, 2] {
                let even = _mm512_shuffle_f32x4::<0x88>(upper[k], lower[k]);
                let odd = _mm512_shuffle_f32x4::<0xdd>(upper[k], lower[k]);
                let even_next = _mm512_shuffle_f32x4::<0x88>(upper[k + 1], lower[k + 1]);
                let odd_next = _mm512_shuffle_f32x4::<0xdd>(upper[k + 1], lower[k + 1]);
                let quarters = [
                    _mm512_shuffle_f32x4::<0x88>(even, even_next),
                    _mm512_shuffle_f32x4::<0x88>(odd, odd_next),
                    _mm512_shuffle_f32x4::<0xdd>(even, even_next),
                    _mm512_shuffle_f32x4::<0xdd>(odd, odd_next),
                ];
                for (quarter, groups) in quarters.into_iter().enumerate() {
                    let out = out.add(stride * (4 * quarter + k));
                    if stride == 8 {
                        _mm512_storeu_ps(out, groups);
                    } else {
                        _mm256_storeu_ps(out, _mm512_castps512_ps256(groups));
                        let second = _mm512_extractf32x8_ps::<1>(groups);
                        _mm256_storeu_ps(out.add(stride), second);
                    }
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn mul_wide(a: __m512i, b: u32) -> (__m512i, __m512i) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let b = _mm512_set1_epi32(b as i32);
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), b);
            let high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(even), odd);
            let low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd));
            (high, low)
        }
    }
    #[inline(always)]
    unsafe fn keep_halves(bits: __m512i, threshold: u32, value: __m512) -> (__m512, __m512) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let threshold = _mm512_set1_epi32(threshold as i32);
            let low = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff));
            let high = _mm512_srli_epi32::<16>(bits);
            (
                _mm512_maskz_mov_ps(_mm512_cmpge_epi32_mask(low, threshold), value),
                _mm512_maskz_mov_ps(_mm512_cmpge_epi32_mask(high, threshold), value),
            )
        }
    }
}

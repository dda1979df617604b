//! NEON (4 lanes, 32 registers), which every AArch64 target of Rust's standard library has: code
//! needs no feature enabled to inline these operations.
//!
//! bf16 products are absent: Rust has no stable intrinsics for them.

use super::Simd;
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub(crate) struct Neon;

type F = float32x4_t;
type U = uint32x4_t;

/// The transpose of four rows.
#[inline(always)]
unsafe fn transposed([a, b, c, d]: [F; 4]) -> [F; 4] {
    // SAFETY: register arithmetic under NEON, which the caller vouches for.
    unsafe {
        let even = vreinterpretq_f64_f32(vtrn1q_f32(a, b));
        let even2 = vreinterpretq_f64_f32(vtrn1q_f32(c, d));
        let odd = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
        let odd2 = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
        [
            vreinterpretq_f32_f64(vtrn1q_f64(even, even2)),
            vreinterpretq_f32_f64(vtrn1q_f64(odd, odd2)),
            vreinterpretq_f32_f64(vtrn2q_f64(even, even2)),
            vreinterpretq_f32_f64(vtrn2q_f64(odd, odd2)),
        ]
    }
}

/// `value` where `mask` is all ones, 0 where it is 0.
#[inline(always)]
unsafe fn masked(mask: U, value: F) -> F {
    // SAFETY: register arithmetic under NEON, which the caller vouches for.
    unsafe { vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(value))) }
}

impl Simd for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    type F = F;
    type U = U;

    intrinsics! {
        splat(x: f32) -> F = vdupq_n_f32(x);
        load(p: *const f32) -> F = vld1q_f32(p);
        store(p: *mut f32, v: F) -> () = vst1q_f32(p, v);
        add(a: F, b: F) -> F = vaddq_f32(a, b);
        sub(a: F, b: F) -> F = vsubq_f32(a, b);
        mul(a: F, b: F) -> F = vmulq_f32(a, b);
        div(a: F, b: F) -> F = vdivq_f32(a, b);
        fma(a: F, b: F, c: F) -> F = vfmaq_f32(c, a, b);
        // vmaxq and vminq would give NaN where either is NaN.
        max(a: F, b: F) -> F = vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a: F, b: F) -> F = vbslq_f32(vcltq_f32(a, b), a, b);
        sqrt(a: F) -> F = vsqrtq_f32(a);
        round(a: F) -> F = vrndnq_f32(a);
        exp2_whole(n: F) -> F = vreinterpretq_f32_s32(vshlq_n_s32::<23>(
            vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127))));
        // The scalar variant's order.
        sum(a: F) -> f32 = vaddv_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a)));
        maximum(a: F) -> f32 = vmaxnmvq_f32(a);
        from_i32(bits: F) -> F = vcvtq_f32_s32(vreinterpretq_s32_f32(bits));
        splat_u(x: u32) -> U = vdupq_n_u32(x);
        count_from(start: u32) -> U = vaddq_u32(vdupq_n_u32(start), vld1q_u32([0, 1, 2, 3].as_ptr()));
        xor_u(a: U, b: U) -> U = veorq_u32(a, b);
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> F {
        // SAFETY: the caller vouches for `n` readable numbers; no others are read.
        unsafe {
            let zero = vdup_n_f32(0.0);
            match n {
                0 => vdupq_n_f32(0.0),
                1 => vcombine_f32(vld1_lane_f32::<0>(p, zero), zero),
                2 => vcombine_f32(vld1_f32(p), zero),
                3 => vcombine_f32(vld1_f32(p), vld1_lane_f32::<0>(p.add(2), zero)),
                _ => vld1q_f32(p),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: F) {
        // SAFETY: the caller vouches for `n` writable numbers; no others are written.
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f32::<0>(p, v),
                2 => vst1_f32(p, vget_low_f32(v)),
                3 => {
                    vst1_f32(p, vget_low_f32(v));
                    vst1q_lane_f32::<2>(p.add(2), v);
                }
                _ => vst1q_f32(p, v),
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        // The intrinsic is not stable.
        // SAFETY: a hint, which changes nothing that the program sees and cannot fault.
        unsafe {
            std::arch::asm!(
                "prfm pldl1keep, [{p}]",
                p = in(reg) p,
                options(readonly, nostack, preserves_flags),
            );
        }
    }
    #[inline(always)]
    unsafe fn prefetch_l2(p: *const f32) {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!(
                "prfm pldl2keep, [{p}]",
                p = in(reg) p,
                options(readonly, nostack, preserves_flags),
            );
        }
    }
    #[inline(always)]
    unsafe fn store_transposed(rows: [F; 8], out: *mut f32, stride: usize) {
        // SAFETY: the caller vouches for the instruction set and for room for 32 numbers.
        unsafe {
            let [a, b, c, d, e, f, g, h] = rows;
            let (upper, lower) = (transposed([a, b, c, d]), transposed([e, f, g, h]));
            for k in 0..4 {
                vst1q_f32(out.add(stride * k), upper[k]);
                vst1q_f32(out.add(stride * k + 4), lower[k]);
            }
        }
    }
    #[inline(always)]
    unsafe fn from_i8(p: *const i8) -> F {
        // SAFETY: the caller vouches for the instruction set and for 4 readable bytes.
        unsafe {
            let bytes = vcreate_s8(u64::from(p.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn from_quads(p: *const i8, byte: usize) -> F {
        // SAFETY: the caller vouches for the instruction set and for 16 readable bytes.
        unsafe {
            let x = vreinterpretq_s32_s8(vld1q_s8(p));
            let x = vshlq_s32(x, vdupq_n_s32(24 - 8 * byte as i32));
            vcvtq_f32_s32(vshrq_n_s32::<24>(x))
        }
    }
    #[inline(always)]
    unsafe fn to_quads(x: [F; 4], flip: u32) -> F {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let [a, b, c, d] = x;
            let (a, b) = (vmovn_s32(vcvtnq_s32_f32(a)), vmovn_s32(vcvtnq_s32_f32(b)));
            let (c, d) = (vmovn_s32(vcvtnq_s32_f32(c)), vmovn_s32(vcvtnq_s32_f32(d)));
            let bytes = vcombine_s8(vmovn_s16(vcombine_s16(a, b)), vmovn_s16(vcombine_s16(c, d)));
            vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_s8(bytes), vdupq_n_u32(flip)))
        }
    }
    #[inline(always)]
    unsafe fn dot_quads(a: F, b: F, c: F) -> F {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let (a, b) = (vreinterpretq_s8_f32(a), vreinterpretq_s8_f32(b));
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            // Pairs: at most 2·127², which 16 bits hold.
            let pairs = vpaddq_s16(low, vmull_high_s8(a, b));
            vreinterpretq_f32_s32(vpadalq_s16(vreinterpretq_s32_f32(c), pairs))
        }
    }
    #[inline(always)]
    unsafe fn below(x: F, limit: f32) -> (F, u32) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let x = vabsq_f32(x);
            let below = vcltq_f32(x, vdupq_n_f32(limit));
            let bits = vbicq_u32(vld1q_u32([1, 2, 4, 8].as_ptr()), below);
            (masked(below, x), vaddvq_u32(bits))
        }
    }
    #[inline(always)]
    unsafe fn lookup_nibbles(table: &[f32; 16], p: *const u8) -> F {
        // SAFETY: the caller vouches for the instruction set and for 2 readable bytes; the table
        // has the 64 bytes that are read of it.
        unsafe {
            let bytes = vdupq_n_u32(u32::from(p.cast::<u16>().read_unaligned()));
            // Negative counts shift to the right.
            let codes = vshlq_u32(bytes, vld1q_s32([-4, 0, -12, -8].as_ptr()));
            let codes = vandq_u32(codes, vdupq_n_u32(15));
            // Bytes 4·code to 4·code + 3 of the table.
            let bytes = vmlaq_u32(vdupq_n_u32(0x0302_0100), codes, vdupq_n_u32(0x0404_0404));
            let table = vld1q_u8_x4(table.as_ptr().cast());
            vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn mul_wide(a: U, b: u32) -> (U, U) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let first = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(a), b));
            let second = vreinterpretq_u32_u64(vmull_high_n_u32(a, b));
            (vuzp2q_u32(first, second), vuzp1q_u32(first, second))
        }
    }
    #[inline(always)]
    unsafe fn keep_halves(bits: U, threshold: u32, value: F) -> (F, F) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let threshold = vdupq_n_u32(threshold);
            let low = vandq_u32(bits, vdupq_n_u32(0xffff));
            let high = vshrq_n_u32::<16>(bits);
            (masked(vcgeq_u32(low, threshold), value), masked(vcgeq_u32(high, threshold), value))
        }
    }
}

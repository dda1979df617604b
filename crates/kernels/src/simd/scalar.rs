//! Four lanes of plain Rust.

use super::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type F = [f32; 4];
type U = [u32; 4];

/// Fused where the baseline has the instruction; elsewhere `mul_add` would be a library call.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// 1.5·2²³. Adding it rounds |a| < 2²² to even, without a library call, and leaves the integer in the
/// low bits.
const MAGIC: f32 = 12_582_912.0;

// SAFETY of every block below: pointers are valid for the lanes touched, as `Simd` demands.
impl Simd for Scalar {
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    type F = F;
    type U = U;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn from_i8(p: *const i8) -> F {
        // SAFETY: see above.
        unsafe { p.cast::<[i8; 4]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn from_i32(bits: F) -> F {
        bits.map(|x| x.to_bits() as i32 as f32)
    }
    #[inline(always)]
    unsafe fn from_quads(p: *const i8, byte: usize) -> F {
        // SAFETY: see above.
        std::array::from_fn(|lane| f32::from(unsafe { *p.add(4 * lane + byte) }))
    }
    #[inline(always)]
    unsafe fn to_quads(x: [F; 4], flip: u32) -> F {
        x.map(|four| {
            let bytes = four.map(|x| (x + MAGIC).to_bits() as u8);
            f32::from_bits(u32::from_le_bytes(bytes) ^ flip)
        })
    }
    #[inline(always)]
    unsafe fn dot_quads(a: F, b: F, c: F) -> F {
        let bytes = |x: f32| x.to_bits().to_le_bytes().map(|byte| i32::from(byte as i8));
        std::array::from_fn(|i| {
            let (a, b, c) = (bytes(a[i]), bytes(b[i]), c[i].to_bits() as i32);
            let sum = a[0] * b[0] + a[1] * b[1] + (a[2] * b[2] + a[3] * b[3]);
            f32::from_bits(c.wrapping_add(sum) as u32)
        })
    }
    #[inline(always)]
    unsafe fn below(x: F, limit: f32) -> (F, u32) {
        let mut others = 0;
        let magnitudes = std::array::from_fn(|i| {
            if x[i].abs() < limit {
                x[i].abs()
            } else {
                others |= 1 << i;
                0.0
            }
        });
        (magnitudes, others)
    }
    #[inline(always)]
    unsafe fn lookup_nibbles(table: &[f32; 16], p: *const u8) -> F {
        // SAFETY: see above.
        let [a, b] = unsafe { p.cast::<[u8; 2]>().read_unaligned() };
        [a >> 4, a & 15, b >> 4, b & 15].map(|code| table[usize::from(code)])
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    #[inline(always)]
    unsafe fn prefetch_l2(_: *const f32) {}
    #[inline(always)]
    unsafe fn store_transposed(rows: [F; 8], out: *mut f32, stride: usize) {
        for (i, row) in rows.iter().enumerate() {
            for (k, &x) in row.iter().enumerate() {
                // SAFETY: see above; `out` has room for 4 groups of 8.
                unsafe { *out.add(stride * k + i) = x };
            }
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: see above.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: see above.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> F {
        // SAFETY: see above; only the first `n` are read.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: F) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: see above; only the first `n` are written.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| multiply_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sqrt(a: F) -> F {
        std::array::from_fn(|i| a[i].sqrt())
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        std::array::from_fn(|i| (a[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: F) -> F {
        std::array::from_fn(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    unsafe fn maximum(a: F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn splat_u(x: u32) -> U {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn count_from(start: u32) -> U {
        std::array::from_fn(|i| start.wrapping_add(i as u32))
    }
    #[inline(always)]
    unsafe fn xor_u(a: U, b: U) -> U {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    unsafe fn mul_wide(a: U, b: u32) -> (U, U) {
        let wide: [u64; 4] = std::array::from_fn(|i| u64::from(a[i]) * u64::from(b));
        (std::array::from_fn(|i| (wide[i] >> 32) as u32), std::array::from_fn(|i| wide[i] as u32))
    }
    #[inline(always)]
    unsafe fn keep_halves(bits: U, threshold: u32, value: F) -> (F, F) {
        let keep = |half: u32, v: f32| if half >= threshold { v } else { 0.0 };
        (
            std::array::from_fn(|i| keep(bits[i] & 0xffff, value[i])),
            std::array::from_fn(|i| keep(bits[i] >> 16, value[i])),
        )
    }
}

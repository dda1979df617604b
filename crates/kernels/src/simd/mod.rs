//! One vocabulary of vector operations, so that a kernel is written once and compiled per
//! instruction set. A kernel is a [`Kernel`] value; [`run`] picks the variant at run time.
//!
//! Every method is `unsafe` because it may use instructions that the processor lacks; [`run`] is
//! the one place that checks. Kernels and helpers must be `#[inline(always)]`, or their code would
//! be compiled without the instruction set's features.

/// Defines trait methods that are one expression of intrinsics each.
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) -> $out {
            // SAFETY: the caller vouches for the instruction set and, where there is a pointer,
            // for the lanes it reaches.
            unsafe { $body }
        }
    )*};
}

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::Isa;

/// Vectors of `LANES` f32 (`F`) or u32 (`U`) numbers and what the kernels do with them.
pub(crate) trait Simd: Copy + 'static {
    const LANES: usize;
    /// Vector registers that a kernel may count on.
    const REGISTERS: usize;
    type F: Copy;
    type U: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Reads `n ≤ LANES` numbers; the other lanes are 0.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::F;
    /// Writes the first `n ≤ LANES` lanes.
    unsafe fn store_first(p: *mut f32, n: usize, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`, with one rounding where the instruction set has it.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each pair; `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair; `b` where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sqrt(a: Self::F) -> Self::F;
    unsafe fn round(a: Self::F) -> Self::F;
    /// 2ⁿ for whole `n` in −126..=127.
    unsafe fn exp2_whole(n: Self::F) -> Self::F;
    /// The sum of all lanes, in an order that depends on nothing but `LANES`.
    unsafe fn sum(a: Self::F) -> f32;
    unsafe fn maximum(a: Self::F) -> f32;

    /// Asks for the cache line at `p`, which need not be readable.
    unsafe fn prefetch(p: *const f32);
    /// As [`prefetch`](Simd::prefetch), no nearer than the L2 cache.
    unsafe fn prefetch_l2(p: *const f32);
    /// Writes `LANES` groups of 8 numbers, `stride` apart: the `k`-th holds lane `k` of each of the 8
    /// vectors.
    unsafe fn store_transposed(rows: [Self::F; 8], out: *mut f32, stride: usize);

    /// `LANES` integers as numbers.
    unsafe fn from_i8(p: *const i8) -> Self::F;
    /// The integers whose bits the lanes hold, as numbers.
    unsafe fn from_i32(bits: Self::F) -> Self::F;
    /// Integer `byte < 4` of each of `LANES` groups of four, as numbers.
    unsafe fn from_quads(p: *const i8, byte: usize) -> Self::F;
    /// Bits of 4·LANES numbers in −127..=127, rounded to nearest even: four neighbours in each lane,
    /// the first in the lowest byte; bits of `flip` are inverted in every lane. Numbers out of range
    /// give any integer.
    unsafe fn to_quads(x: [Self::F; 4], flip: u32) -> Self::F;
    /// Lane by lane the bits of `c + Σ aᵢ·bᵢ` over the four integers of a lane, none of them −128; `c`
    /// and the result are 32-bit integers, exact where they do not overflow.
    unsafe fn dot_quads(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The magnitudes below `limit`, 0 in the other lanes, NaN's too, which are the set bits.
    unsafe fn below(x: Self::F, limit: f32) -> (Self::F, u32);
    /// Table entries by the `LANES` half bytes from `p` on, the high half of a byte first.
    unsafe fn lookup_nibbles(table: &[f32; 16], p: *const u8) -> Self::F;

    unsafe fn splat_u(x: u32) -> Self::U;
    /// `start, start + 1, …`
    unsafe fn count_from(start: u32) -> Self::U;
    unsafe fn xor_u(a: Self::U, b: Self::U) -> Self::U;
    /// High and low halves of the 64-bit products.
    unsafe fn mul_wide(a: Self::U, b: u32) -> (Self::U, Self::U);
    /// `value` where bits 0..16 are at least `threshold`, else 0; the same for bits 16..32.
    unsafe fn keep_halves(bits: Self::U, threshold: u32, value: Self::F) -> (Self::F, Self::F);
}

/// Code to be compiled for, and run on, one instruction set.
pub(crate) trait Kernel {
    type Output;
    /// # Safety
    /// Only [`run`] calls it, on a processor that has `S`'s instructions.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `kernel` compiled for `isa`.
///
/// # Panics
/// This processor lacks `isa`.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.is_available(), "this processor has no {isa}");
    match isa {
        // SAFETY: the scalar variant uses no special instructions.
        Isa::Scalar => unsafe { kernel.run::<scalar::Scalar>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the assertion above.
        Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => unsafe {
            x86::run_avx512(kernel)
        },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { kernel.run::<neon::Neon>() },
        _ => unreachable!("{isa} is another architecture's"),
    }
}

#[cfg(test)]
pub(crate) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// How a vector is read and written of which `count` numbers exist.
pub(crate) trait Access<S: Simd> {
    unsafe fn load(p: *const f32, count: usize) -> S::F;
    unsafe fn store(p: *mut f32, count: usize, v: S::F);
}

/// All lanes exist, whatever `count` says.
pub(crate) struct Whole;
/// The first `count ≤ LANES` lanes exist.
pub(crate) struct First;

impl<S: Simd> Access<S> for Whole {
    #[inline(always)]
    unsafe fn load(p: *const f32, _: usize) -> S::F {
        // SAFETY: the caller vouches for LANES numbers and for `S`.
        unsafe { S::load(p) }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, _: usize, v: S::F) {
        // SAFETY: as above.
        unsafe { S::store(p, v) }
    }
}

impl<S: Simd> Access<S> for First {
    #[inline(always)]
    unsafe fn load(p: *const f32, count: usize) -> S::F {
        // SAFETY: the caller vouches for `count` numbers and for `S`.
        unsafe { S::load_first(p, count) }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, count: usize, v: S::F) {
        // SAFETY: as above.
        unsafe { S::store_first(p, count, v) }
    }
}

/// eˣ with a relative error below 2⁻²², 0 towards −∞ (to 1.2·10⁻³⁸), NaN for NaN.
///
/// Range reduction by ln 2 in two parts and a degree-6 Taylor–minimax polynomial, as in Cephes
/// `expf` (Moshier 1992).
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: register arithmetic only; the caller vouches for the instruction set.
    unsafe {
        let x = S::min(S::splat(88.0), S::max(S::splat(-87.3), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_2e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let p = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        S::mul(p, S::exp2_whole(n))
    }
}

/// erf(x) with an absolute error below 4·10⁻⁷: the rational approximation on [−4, 4] that Eigen
/// and XLA use in f32.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::F) -> S::F {
    const ODD: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const EVEN: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    // SAFETY: register arithmetic only; the caller vouches for the instruction set.
    unsafe {
        let x = S::min(S::splat(4.0), S::max(S::splat(-4.0), x));
        let x2 = S::mul(x, x);
        S::div(S::mul(x, horner::<S>(&ODD, x2)), horner::<S>(&EVEN, x2))
    }
}

/// The polynomial with these coefficients, highest power first, at `x`.
#[inline(always)]
unsafe fn horner<S: Simd>(coefficients: &[f32], x: S::F) -> S::F {
    // SAFETY: register arithmetic only; the caller vouches for the instruction set.
    unsafe {
        let mut p = S::splat(coefficients[0]);
        for &c in &coefficients[1..] {
            p = S::fma(p, x, S::splat(c));
        }
        p
    }
}

#[cfg(test)]
mod tests;

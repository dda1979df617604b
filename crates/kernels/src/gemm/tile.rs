//! The innermost loops: 8 rows × up to 3 vectors of C held in registers (4 rows at a time where
//! there are only 16 registers), one broadcast of A and one load of B per product.

use super::pack::Panel;
use crate::Isa;
use crate::simd::{self, Kernel, Simd};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows of A per tile.
pub(super) const ROWS: usize = 8;
/// Row stride that says: A is copied tile by tile, the rows of a tile beside each other.
pub(super) const TILED: usize = usize::MAX;

/// A block of A's rows and where its product goes; the same for all panels.
pub(super) struct Call<'a> {
    pub(super) a: *const f32,
    pub(super) row_stride: usize,
    pub(super) rows: usize,
    pub(super) units: usize,
    pub(super) c: *mut f32,
    pub(super) row_stride_c: usize,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
    pub(super) bias: Option<&'a [f32]>,
}

/// # Safety
/// `call.a` covers `rows` rounded up to whole tiles, `panel` was packed for `isa`, and C may be
/// written at `rows` rows and at the panel's columns.
pub(super) unsafe fn panel_product(isa: Isa, call: &Call<'_>, panel: Panel) {
    #[cfg(target_arch = "x86_64")]
    if panel.paired {
        // SAFETY: pairs are packed only for a processor that has AVX-512 bf16.
        return unsafe { panel_bf16(call, &panel) };
    }
    simd::run(isa, PanelProduct { call, panel });
}

struct PanelProduct<'a> {
    call: &'a Call<'a>,
    panel: Panel,
}

impl Kernel for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: `panel_product`'s contract; `simd::run` chose `S` for this processor.
        unsafe {
            match (S::LANES, self.panel.vectors) {
                (16, 1) => rows::<S, F32, 8, 1>(self.call, &self.panel),
                (16, 2) => rows::<S, F32, 8, 2>(self.call, &self.panel),
                (16, _) => rows::<S, F32, 8, 3>(self.call, &self.panel),
                (_, 1) => rows::<S, F32, 4, 1>(self.call, &self.panel),
                (_, 2) => rows::<S, F32, 4, 2>(self.call, &self.panel),
                (_, _) => rows::<S, F32, 4, 3>(self.call, &self.panel),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn panel_bf16(call: &Call<'_>, panel: &Panel) {
    use crate::simd::Avx512;
    // SAFETY: `panel_product`'s contract.
    unsafe {
        match panel.vectors {
            1 => rows::<Avx512, Bf16Pair, 8, 1>(call, panel),
            2 => rows::<Avx512, Bf16Pair, 8, 2>(call, panel),
            _ => rows::<Avx512, Bf16Pair, 8, 3>(call, panel),
        }
    }
}

/// How two units are multiplied and added.
trait Product<S: Simd> {
    unsafe fn multiply_add(a: S::F, b: S::F, c: S::F) -> S::F;
}

struct F32;

impl<S: Simd> Product<S> for F32 {
    #[inline(always)]
    unsafe fn multiply_add(a: S::F, b: S::F, c: S::F) -> S::F {
        // SAFETY: register arithmetic; the caller vouches for the instruction set.
        unsafe { S::fma(a, b, c) }
    }
}

/// Each unit is a pair of bf16; products of pairs are summed in f32.
#[cfg(target_arch = "x86_64")]
struct Bf16Pair;

#[cfg(target_arch = "x86_64")]
impl Product<crate::simd::Avx512> for Bf16Pair {
    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: same-size register reinterpretation; the caller vouches for AVX-512 bf16.
        unsafe {
            let (a, b) = (
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            );
            _mm512_dpbf16_ps(c, a, b)
        }
    }
}

/// Rounds 32 f32 to nearest even and stores them as 16 units of two.
///
/// # Safety
/// The processor has AVX-512 bf16; 32 numbers can be read and 16 units written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn round_32(source: *const f32, out: *mut f32) {
    // SAFETY: the caller vouches for 32 readable numbers and 16 writable units.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(16)));
        let pairs = std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
        _mm512_storeu_ps(out, pairs);
    }
}

/// All tiles of the row block against one panel.
#[inline(always)]
unsafe fn rows<S: Simd, P: Product<S>, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
) {
    // SAFETY: rows `i..i + MR` lie in the copy, which is padded to whole tiles of `ROWS`, a
    // multiple of MR.
    unsafe {
        let mut i = 0;
        while i < call.rows {
            if call.row_stride == TILED {
                let a = call.a.add(i / ROWS * ROWS * call.units + i % ROWS);
                tile::<S, P, MR, NV>(call, panel, a, 1, ROWS, i);
            } else {
                let a = call.a.add(i * call.row_stride);
                tile::<S, P, MR, NV>(call, panel, a, call.row_stride, 1, i);
            }
            i += MR;
        }
    }
}

/// MR rows from `row` on × NV vectors.
#[inline(always)]
unsafe fn tile<S: Simd, P: Product<S>, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    mut a: *const f32,
    row_stride: usize,
    step_stride: usize,
    row: usize,
) {
    // SAFETY: `panel_product`'s contract: A has MR rows of `units` units from here, the panel
    // `units` rows of NV vectors, C the valid rows and columns.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        let mut b = panel.data;
        for _ in 0..call.units {
            let mut columns = [S::splat(0.0); NV];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.add(v * S::LANES));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = S::splat(*a.add(i * row_stride));
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = P::multiply_add(x, column, *sum);
                }
            }
            a = a.add(step_stride);
            b = b.add(NV * S::LANES);
        }
        let valid = (call.rows - row).min(MR);
        // A constant bound, so that the sums stay in registers.
        for (i, row_sums) in sums.iter().enumerate() {
            if i >= valid {
                break;
            }
            let c = call.c.add((row + i) * call.row_stride_c + panel.column);
            for (v, &sum) in row_sums.iter().enumerate() {
                let first = v * S::LANES;
                if first >= panel.columns {
                    break;
                }
                let count = (panel.columns - first).min(S::LANES);
                let mut x = S::mul(S::splat(call.alpha), sum);
                if let Some(bias) = call.bias {
                    x = S::add(x, S::load_first(bias.as_ptr().add(panel.column + first), count));
                }
                if call.accumulate {
                    x = S::add(x, S::load_first(c.add(first), count));
                }
                S::store_first(c.add(first), count, x);
            }
        }
    }
}

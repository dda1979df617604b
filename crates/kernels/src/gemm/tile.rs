//! The innermost loops: 8 rows × up to 3 vectors of C held in registers (4 rows at a time where
//! there are only 16 registers), one broadcast of A and one load of B per product.

use super::After;
use super::layout::{PanelColumns, ROWS};
use crate::Isa;
use crate::activation::{gelu_and_slope, gelu_of};
use crate::simd::{self, Access, First, Kernel, Simd, Whole};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// One panel of one block of K.
pub(super) struct Panel {
    /// `vectors · lanes` units per step: of the product, and of the low-rank one behind it.
    pub(super) data: [*const f32; 2],
    pub(super) columns: PanelColumns,
    /// Units are pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    pub(super) paired: bool,
}

/// A block of A's rows and where its product goes; the same for all panels.
pub(super) struct Call<'a> {
    /// Tile after tile; a tile holds, unit by unit, one number of each of its rows. Two, as the
    /// panel's data; the second may have no units.
    pub(super) a: [*const f32; 2],
    pub(super) rows: usize,
    pub(super) units: [usize; 2],
    pub(super) c: *mut f32,
    /// Of C, where the block begins.
    pub(super) first_row: usize,
    pub(super) row_stride_c: usize,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) after: After,
}

/// # Safety
/// `call.a` covers `rows` rounded up to whole tiles, `panel` was packed for `isa`, and C may be
/// written, and what is beside it used, at the block's rows and at the panel's columns.
pub(super) unsafe fn panel_product(isa: Isa, call: &Call<'_>, panel: Panel) {
    #[cfg(target_arch = "x86_64")]
    if panel.paired {
        // SAFETY: pairs are packed only for a processor that has AVX-512 bf16, in tiles where it has AMX.
        return unsafe {
            match isa.has_tiles() {
                true => super::amx::panel_product(call, &panel),
                false => panel_bf16(call, &panel),
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 {
        // SAFETY: the caller's panel was packed for AVX2, which packing found to be there.
        return unsafe { panel_avx2(call, &panel) };
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
            match (S::REGISTERS, self.panel.columns.vectors) {
                (32, 1) => rows::<S, F32, 8, 1>(self.call, &self.panel),
                (32, 2) => rows::<S, F32, 8, 2>(self.call, &self.panel),
                (32, _) => rows::<S, F32, 8, 3>(self.call, &self.panel),
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
        match panel.columns.vectors {
            1 => rows::<Avx512, Bf16Pair, 8, 1>(call, panel),
            2 => rows::<Avx512, Bf16Pair, 8, 2>(call, panel),
            _ => rows::<Avx512, Bf16Pair, 8, 3>(call, panel),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn panel_avx2(call: &Call<'_>, panel: &Panel) {
    use super::avx2::SixteenRegisters;
    use crate::simd::Avx2;
    // SAFETY: `panel_product`'s contract.
    unsafe {
        match panel.columns.vectors {
            1 => rows::<Avx2, F32, 4, 1>(call, panel),
            2 => rows::<Avx2, F32, 4, 2>(call, panel),
            _ => rows::<Avx2, SixteenRegisters, 4, 3>(call, panel),
        }
    }
}

/// How two units are multiplied and added, and with them a tile.
pub(super) trait Product<S: Simd> {
    unsafe fn multiply_add(a: S::F, b: S::F, c: S::F) -> S::F;

    /// `sums` plus the product of MR rows and NV vectors, in registers.
    #[inline(always)]
    unsafe fn tile<const MR: usize, const NV: usize>(
        mut a: *const f32,
        mut b: *const f32,
        units: usize,
        mut sums: [[S::F; NV]; MR],
    ) -> [[S::F; NV]; MR] {
        // SAFETY: `panel_product`'s contract: `a` has `units` groups of ROWS numbers, of which MR are
        // read, and `b` `units` groups of NV vectors.
        unsafe {
            for _ in 0..units {
                let mut columns = [S::splat(0.0); NV];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = S::load(b.add(v * S::LANES));
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = S::splat(*a.add(i));
                    for (sum, &column) in row.iter_mut().zip(&columns) {
                        *sum = Self::multiply_add(x, column, *sum);
                    }
                }
                a = a.add(ROWS);
                b = b.add(NV * S::LANES);
            }
            sums
        }
    }
}

pub(super) struct F32;

impl<S: Simd> Product<S> for F32 {
    #[inline(always)]
    unsafe fn multiply_add(a: S::F, b: S::F, c: S::F) -> S::F {
        // SAFETY: register arithmetic; the caller vouches for the instruction set.
        unsafe { S::fma(a, b, c) }
    }
}

/// Each unit is a pair of bf16; products of pairs are summed in f32.
#[cfg(target_arch = "x86_64")]
pub(super) struct Bf16Pair;

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

/// All tiles of the row block against one panel.
#[inline(always)]
unsafe fn rows<S: Simd, P: Product<S>, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
) {
    // SAFETY: rows `i..i + MR` lie in A's copy, which is padded to whole tiles of `ROWS`, a
    // multiple of MR.
    unsafe {
        let mut i = 0;
        while i < call.rows {
            let at = |part: usize| {
                let units = call.units[part];
                call.a[part].wrapping_add(i / ROWS * ROWS * units + i % ROWS)
            };
            fetch_targets::<S, MR, NV>(call, panel, i);
            let mut sums = [[S::splat(0.0); NV]; MR];
            sums = P::tile::<MR, NV>(at(0), panel.data[0], call.units[0], sums);
            if call.units[1] > 0 {
                sums = P::tile::<MR, NV>(at(1), panel.data[1], call.units[1], sums);
            }
            finish::<S, MR, NV>(call, panel, i, &sums);
            i += MR;
        }
    }
}

/// Does with a tile's sums what comes after, and stores them.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    row: usize,
    sums: &[[S::F; NV]; MR],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        // One loop for each: a choice per vector would cost a per cent.
        match call.after {
            After::Nothing => store::<S, MR, NV>(call, panel, row, sums, Plain),
            After::Times { factors } => {
                store::<S, MR, NV>(call, panel, row, sums, Times { factors })
            }
            After::Gelu { slope } if slope.is_null() => {
                store::<S, MR, NV>(call, panel, row, sums, Gelu)
            }
            After::Gelu { slope } => {
                store::<S, MR, NV>(call, panel, row, sums, GeluAndSlope { slope })
            }
        }
    }
}

/// Asks for what the tile at `row` will be stored to and combined with, while its sums are computed:
/// stores that wait for memory would hold up the next tile.
#[inline(always)]
pub(super) unsafe fn fetch_targets<S: Simd, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    row: usize,
) {
    let beside = match call.after {
        After::Gelu { slope } => slope.cast_const(),
        After::Times { factors } => factors,
        After::Nothing => std::ptr::null(),
    };
    for i in row..(row + MR).min(call.rows) {
        let at = (call.first_row + i) * call.row_stride_c + panel.columns.first;
        for v in 0..NV {
            let at = at + v * S::LANES;
            // SAFETY: prefetching reads nothing; the caller vouches for `S`.
            unsafe {
                S::prefetch_l2(call.c.wrapping_add(at));
                if !beside.is_null() {
                    S::prefetch_l2(beside.wrapping_add(at));
                }
            }
        }
    }
}

/// What is done with a vector of C, whose place is `at`, before it is stored.
trait Finish<S: Simd>: Copy {
    unsafe fn finish<A: Access<S>>(self, at: usize, count: usize, x: S::F) -> S::F;
}

#[derive(Clone, Copy)]
struct Plain;
#[derive(Clone, Copy)]
struct Times {
    factors: *const f32,
}
#[derive(Clone, Copy)]
struct Gelu;
#[derive(Clone, Copy)]
struct GeluAndSlope {
    slope: *mut f32,
}

impl<S: Simd> Finish<S> for Plain {
    #[inline(always)]
    unsafe fn finish<A: Access<S>>(self, _: usize, _: usize, x: S::F) -> S::F {
        x
    }
}

impl<S: Simd> Finish<S> for Times {
    #[inline(always)]
    unsafe fn finish<A: Access<S>>(self, at: usize, count: usize, x: S::F) -> S::F {
        // SAFETY: `panel_product`'s contract.
        unsafe { S::mul(x, A::load(self.factors.add(at), count)) }
    }
}

impl<S: Simd> Finish<S> for Gelu {
    #[inline(always)]
    unsafe fn finish<A: Access<S>>(self, _: usize, _: usize, x: S::F) -> S::F {
        // SAFETY: register arithmetic; the caller vouches for `S`.
        unsafe { gelu_of::<S>(x) }
    }
}

impl<S: Simd> Finish<S> for GeluAndSlope {
    #[inline(always)]
    unsafe fn finish<A: Access<S>>(self, at: usize, count: usize, x: S::F) -> S::F {
        // SAFETY: `panel_product`'s contract.
        unsafe {
            let (value, slope) = gelu_and_slope::<S>(x);
            A::store(self.slope.add(at), count, slope);
            value
        }
    }
}

/// Stores what exists of a tile.
#[inline(always)]
unsafe fn store<S: Simd, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    row: usize,
    sums: &[[S::F; NV]; MR],
    after: impl Finish<S>,
) {
    let rows = (call.rows - row).min(MR);
    // SAFETY: passed on to the caller.
    unsafe {
        if rows == MR && panel.columns.count == NV * S::LANES {
            store_whole::<S, MR, NV>(call, panel, row, sums, after);
        } else {
            store_part::<S, MR, NV>(call, panel, row, rows, sums, after);
        }
    }
}

/// Stores a tile whose rows and columns all exist.
#[inline(always)]
unsafe fn store_whole<S: Simd, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    row: usize,
    sums: &[[S::F; NV]; MR],
    after: impl Finish<S>,
) {
    // SAFETY: `panel_product`'s contract; the bias has the panel's columns.
    unsafe {
        let alpha = S::splat(call.alpha);
        let mut bias = [S::splat(0.0); NV];
        if let Some(numbers) = call.bias {
            for (v, x) in bias.iter_mut().enumerate() {
                *x = S::load(numbers.as_ptr().add(panel.columns.first + v * S::LANES));
            }
        }
        for (i, row_sums) in sums.iter().enumerate() {
            let at = (call.first_row + row + i) * call.row_stride_c + panel.columns.first;
            for (v, &sum) in row_sums.iter().enumerate() {
                let at = at + v * S::LANES;
                let mut x = S::add(S::mul(alpha, sum), bias[v]);
                if call.accumulate {
                    x = S::add(x, S::load(call.c.add(at)));
                }
                let x = after.finish::<Whole>(at, S::LANES, x);
                S::store(call.c.add(at), x);
            }
        }
    }
}

/// As [`store_whole`], for the rows and columns that exist.
#[inline(always)]
unsafe fn store_part<S: Simd, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    row: usize,
    rows: usize,
    sums: &[[S::F; NV]; MR],
    after: impl Finish<S>,
) {
    // SAFETY: `panel_product`'s contract; columns beyond the panel's are masked.
    unsafe {
        for (i, row_sums) in sums.iter().enumerate().take(rows) {
            let at = (call.first_row + row + i) * call.row_stride_c + panel.columns.first;
            for (v, &sum) in row_sums.iter().enumerate() {
                let first = v * S::LANES;
                if first >= panel.columns.count {
                    break;
                }
                let count = (panel.columns.count - first).min(S::LANES);
                let bias = match call.bias {
                    Some(bias) => {
                        S::load_first(bias.as_ptr().add(panel.columns.first + first), count)
                    }
                    None => S::splat(0.0),
                };
                let at = at + first;
                let mut x = S::add(S::mul(S::splat(call.alpha), sum), bias);
                if call.accumulate {
                    x = S::add(x, S::load_first(call.c.add(at), count));
                }
                let x = after.finish::<First>(at, count, x);
                S::store_first(call.c.add(at), count, x);
            }
        }
    }
}

//! `x·Wᵀ` in 8-bit integers, as LLM.int8() computes it (Dettmers et al. 2022): codes of x's rows (see
//! `codes.rs`) by codes of W's, summed exactly in 32 bits, times the scales of row and column; the
//! outliers of x by dequantised columns of W are added in f32. An element is
//!
//! `(Σ codes·codes · sₓ + Σ outliers·codes) · s_w`, and behind that the epilogue's.
//!
//! Rows do not depend on each other, and no sum on the cut into blocks: the same bits for any
//! number of threads and any rows around; without outliers, on any instruction set.
//!
//! Where the processor multiplies unsigned by signed bytes natively (VNNI), x's codes are offset by
//! 128, and sums begin at −128 times the column's sum of codes. Matrix tiles (see `amx.rs`) multiply
//! signed bytes. Elsewhere signs are moved to W's codes, so that two products fit 16 bits; on AVX2 that is
//! prepared (see `signs_apart.rs`).

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use super::avx2::SixteenRegisters;
use super::codes::{Codes, Outlier};
use super::layout::ROWS;
#[cfg(target_arch = "x86_64")]
use super::tile::Bf16Pair;
use super::tile::{self, Call, F32, Panel, Product};
use crate::quantized::{Int8Matrix, QUAD};
use crate::simd::{self, Kernel, Simd};
use crate::{Isa, Precision};
#[cfg(target_arch = "x86_64")]
use signs_apart::SignsApart;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// What is flipped in the codes of x: signs, where an offset of 128 is wanted.
pub(super) fn flip(isa: Isa) -> u32 {
    if isa.has_vnni() && !isa.has_tiles() { 0x8080_8080 } else { 0 }
}

/// Whether signs of x's codes are apart from their magnitudes.
pub(super) fn has_signs_apart(isa: Isa) -> bool {
    isa == Isa::Avx2
}

/// The integers of one panel.
pub(super) struct Integers<'a> {
    pub(super) codes: &'a Codes,
    pub(super) weight: &'a Int8Matrix,
    /// Of the low-rank product.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only x86-64 has products of bf16 pairs")
    )]
    pub(super) precision: Precision,
}

/// As [`tile::panel_product`], with `integers` in place of the first of the two products.
///
/// # Safety
/// `call.a[1]`, `panel` and C are as there; `integers` holds the call's rows and this panel, made
/// for `isa`.
pub(super) unsafe fn panel_product(
    isa: Isa,
    call: &Call<'_>,
    panel: Panel,
    integers: &Integers<'_>,
) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_vnni() {
        // SAFETY: passed on to the caller; `isa` has the instructions.
        return unsafe {
            if isa.has_tiles() {
                amx::integer_panel_product(call, &panel, integers)
            } else if isa.has_bf16() && integers.precision == Precision::Bf16 {
                vnni_bf16(call, &panel, integers)
            } else {
                vnni(call, &panel, integers)
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    if has_signs_apart(isa) {
        // SAFETY: passed on to the caller; the codes were made for AVX2, which `simd::run` then found.
        return unsafe { avx2(call, &panel, integers) };
    }
    simd::run(isa, PanelProduct { call, panel, integers });
}

struct PanelProduct<'a> {
    call: &'a Call<'a>,
    panel: Panel,
    integers: &'a Integers<'a>,
}

impl Kernel for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let PanelProduct { call, panel, integers } = &self;
        // SAFETY: `panel_product`'s contract; `simd::run` chose `S` for this processor.
        unsafe {
            match (S::REGISTERS, panel.columns.vectors) {
                (32, 1) => rows::<S, Signed, F32, 8, 1>(call, panel, integers),
                (32, 2) => rows::<S, Signed, F32, 8, 2>(call, panel, integers),
                (32, _) => rows::<S, Signed, F32, 8, 3>(call, panel, integers),
                (_, 1) => rows::<S, Signed, F32, 4, 1>(call, panel, integers),
                (_, 2) => rows::<S, Signed, F32, 4, 2>(call, panel, integers),
                (_, _) => rows::<S, Signed, F32, 4, 3>(call, panel, integers),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(call: &Call<'_>, panel: &Panel, integers: &Integers<'_>) {
    use crate::simd::Avx2;
    // SAFETY: `panel_product`'s contract.
    unsafe {
        match panel.columns.vectors {
            1 => rows::<Avx2, SignsApart, F32, 4, 1>(call, panel, integers),
            2 => rows::<Avx2, SignsApart, F32, 4, 2>(call, panel, integers),
            _ => rows::<Avx2, SignsApart, SixteenRegisters, 4, 3>(call, panel, integers),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn vnni(call: &Call<'_>, panel: &Panel, integers: &Integers<'_>) {
    use crate::simd::Avx512;
    // SAFETY: `panel_product`'s contract.
    unsafe {
        match panel.columns.vectors {
            1 => rows::<Avx512, Vnni, F32, 8, 1>(call, panel, integers),
            2 => rows::<Avx512, Vnni, F32, 8, 2>(call, panel, integers),
            _ => rows::<Avx512, Vnni, F32, 8, 3>(call, panel, integers),
        }
    }
}

/// As [`vnni`], where the low-rank product is of pairs of bf16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma")]
unsafe fn vnni_bf16(call: &Call<'_>, panel: &Panel, integers: &Integers<'_>) {
    use crate::simd::Avx512;
    // SAFETY: `panel_product`'s contract.
    unsafe {
        match panel.columns.vectors {
            1 => rows::<Avx512, Vnni, Bf16Pair, 8, 1>(call, panel, integers),
            2 => rows::<Avx512, Vnni, Bf16Pair, 8, 2>(call, panel, integers),
            _ => rows::<Avx512, Vnni, Bf16Pair, 8, 3>(call, panel, integers),
        }
    }
}

/// How units of four integers are multiplied and added.
trait Quads<S: Simd>: Product<S> {
    /// Units that a quad of x takes.
    const UNITS: usize = 1;

    /// What the sums of MR rows of x, from `row` on, and NV vectors of columns, from `column` on, begin with.
    unsafe fn starts<const MR: usize, const NV: usize>(
        integers: &Integers<'_>,
        row: usize,
        column: usize,
    ) -> [[S::F; NV]; MR];
}

/// Both factors are signed.
struct Signed;

impl<S: Simd> Product<S> for Signed {
    #[inline(always)]
    unsafe fn multiply_add(a: S::F, b: S::F, c: S::F) -> S::F {
        // SAFETY: register arithmetic; the caller vouches for the instruction set.
        unsafe { S::dot_quads(a, b, c) }
    }
}

impl<S: Simd> Quads<S> for Signed {
    #[inline(always)]
    unsafe fn starts<const MR: usize, const NV: usize>(
        _: &Integers<'_>,
        _: usize,
        _: usize,
    ) -> [[S::F; NV]; MR] {
        // SAFETY: the caller vouches for `S`.
        unsafe { [[S::splat(0.0); NV]; MR] }
    }
}

#[cfg(target_arch = "x86_64")]
impl Quads<crate::simd::Avx2> for SignsApart {
    const UNITS: usize = 2;

    #[inline(always)]
    unsafe fn starts<const MR: usize, const NV: usize>(
        integers: &Integers<'_>,
        row: usize,
        _: usize,
    ) -> [[__m256; NV]; MR] {
        let starts = &integers.codes.starts(row)[..MR];
        // SAFETY: the caller vouches for AVX2.
        std::array::from_fn(|i| unsafe { [_mm256_castsi256_ps(_mm256_set1_epi32(starts[i])); NV] })
    }
}

/// Those of x are offset by 128, which makes them unsigned.
#[cfg(target_arch = "x86_64")]
struct Vnni;

#[cfg(target_arch = "x86_64")]
impl Quads<crate::simd::Avx512> for Vnni {
    #[inline(always)]
    unsafe fn starts<const MR: usize, const NV: usize>(
        integers: &Integers<'_>,
        _: usize,
        column: usize,
    ) -> [[__m512; NV]; MR] {
        let offsets = &integers.weight.offsets()[column..][..NV * 16];
        // SAFETY: 16 offsets for each vector; the caller vouches for AVX-512.
        let columns =
            std::array::from_fn(|v| unsafe { _mm512_loadu_ps(offsets[v * 16..].as_ptr().cast()) });
        [columns; MR]
    }
}

#[cfg(target_arch = "x86_64")]
impl Product<crate::simd::Avx512> for Vnni {
    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: register arithmetic; the caller vouches for AVX-512 VNNI.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(c), a, b))
        }
    }
}

/// All tiles of the row block against one panel. Q multiplies integers, P the low-rank product.
#[inline(always)]
unsafe fn rows<S: Simd, Q: Quads<S>, P: Product<S>, const MR: usize, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    integers: &Integers<'_>,
) {
    let Integers { codes, weight, .. } = integers;
    let quads = call.units[0];
    // SAFETY: rows `i..i + MR` lie in A's copies, which are padded to whole tiles of `ROWS`, a
    // multiple of MR; offsets and scales of W are padded to whole vectors.
    unsafe {
        let first = panel.columns.first;
        let scales = weight.scales()[first..][..NV * S::LANES].as_ptr();
        let mut i = 0;
        while i < call.rows {
            let (tile, within) = (i / ROWS * ROWS, i % ROWS);
            tile::fetch_targets::<S, MR, NV>(call, panel, i);
            let a = codes.tile(tile, quads * Q::UNITS).wrapping_add(within);
            let starts = Q::starts::<MR, NV>(integers, i, first);
            let sums = Q::tile::<MR, NV>(a, panel.data[0], quads, starts);
            let rows = (*codes, tile, within);
            let mut sums = scaled::<S, MR, NV>(sums, rows, (panel.data[0], scales));
            if call.units[1] > 0 {
                let units = call.units[1];
                let a = call.a[1].wrapping_add(tile * units + within);
                sums = P::tile::<MR, NV>(a, panel.data[1], units, sums);
            }
            tile::finish::<S, MR, NV>(call, panel, i, &sums);
            i += MR;
        }
    }
}

/// Sums of integers as numbers, scaled, with the products of outliers: of MR rows from `within` the tile
/// on, and the columns of a panel with its scales.
#[inline(always)]
pub(super) unsafe fn scaled<S: Simd, const MR: usize, const NV: usize>(
    sums: [[S::F; NV]; MR],
    (codes, tile, within): (&Codes, usize, usize),
    (panel, scales): (*const f32, *const f32),
) -> [[S::F; NV]; MR] {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sums = times_rows::<S, MR, NV>(sums, &codes.scales(tile)[within..]);
        let outliers = codes.outliers(tile);
        if !outliers.is_empty() {
            sums = add_outliers::<S, MR, NV>(sums, outliers, within, panel);
        }
        times_columns::<S, MR, NV>(sums, scales)
    }
}

/// Integers as numbers, times the scales of their rows.
#[inline(always)]
unsafe fn times_rows<S: Simd, const MR: usize, const NV: usize>(
    mut sums: [[S::F; NV]; MR],
    scales: &[f32],
) -> [[S::F; NV]; MR] {
    let scales = &scales[..MR];
    for (row, &scale) in sums.iter_mut().zip(scales) {
        for sum in row {
            // SAFETY: register arithmetic; the caller vouches for `S`.
            *sum = unsafe { S::mul(S::from_i32(*sum), S::splat(scale)) };
        }
    }
    sums
}

/// `sums` plus the products of a tile's outliers and the codes of their columns of W. A row that has
/// no outlier there adds 0, which changes no bit.
#[inline(always)]
unsafe fn add_outliers<S: Simd, const MR: usize, const NV: usize>(
    mut sums: [[S::F; NV]; MR],
    outliers: &[Outlier],
    within: usize,
    panel: *const f32,
) -> [[S::F; NV]; MR] {
    for outlier in outliers {
        let (quad, byte) = (outlier.column / QUAD, outlier.column % QUAD);
        let x = &outlier.x[within..within + MR];
        // SAFETY: the panel has NV vectors of quads for every four of A's columns; the caller
        // vouches for `S`.
        unsafe {
            let mut columns = [S::splat(0.0); NV];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = S::from_quads(panel.add((quad * NV + v) * S::LANES).cast(), byte);
            }
            for (row, &x) in sums.iter_mut().zip(x) {
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = S::fma(S::splat(x), column, *sum);
                }
            }
        }
    }
    sums
}

/// `sums` times the scales of their columns.
#[inline(always)]
unsafe fn times_columns<S: Simd, const MR: usize, const NV: usize>(
    mut sums: [[S::F; NV]; MR],
    scales: *const f32,
) -> [[S::F; NV]; MR] {
    // SAFETY: the caller vouches for NV vectors of scales and for `S`.
    unsafe {
        for row in &mut sums {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = S::mul(*sum, S::load(scales.add(v * S::LANES)));
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
pub(super) mod signs_apart;
#[cfg(test)]
mod tests;

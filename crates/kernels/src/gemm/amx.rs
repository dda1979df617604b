//! Products on Intel's matrix tiles (AMX): a tile holds 16 rows of 64 bytes, and one instruction
//! multiplies 16 × 32 bf16 numbers by 32 × 16, or 16 × 64 integers by 64 × 16. The sums of 32 rows and
//! a panel's 32 columns stay in four tiles; the other four take what is multiplied, from A's copy and
//! from B's panel as they lie there, each for two products. (Six tiles of sums would read less, but leave
//! one for A and one for B: every product would wait for a load of its own.)
//!
//! A's copy is of tiles too: of each 32 rows, step after step along K, the upper tile and the lower one,
//! 16 rows × [`UNITS`] units each. Both factors are filled up with zeros to whole tiles along K (see
//! `layout.rs`), so that there is one shape of tiles.

use super::Matrix;
use super::bf16::{neighbours, pairs};
use super::int8::{self, Integers};
use super::layout::{self, Layout, TILE_ROWS as ROWS, TILE_UNITS as UNITS, TILE_VECTORS};
use super::tile::{self, Call, Panel};
use crate::Lines;
use crate::simd::{Avx512, Simd};
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of one tile.
const HALF: usize = ROWS / 2;
/// Numbers of a row of sums.
const WIDTH: usize = TILE_VECTORS * 16;

/// As [`copy_rows`](super::copy::copy_rows), into pairs of tiles; rows up to a multiple of [`ROWS`] hold
/// anything.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn copy_rows(
    a: Matrix<'_>,
    layout: Layout,
    first: usize,
    count: usize,
    steps: Range<usize>,
    copy: &mut Lines,
) {
    let units = layout.units(&steps);
    let copy = copy.take(count.next_multiple_of(ROWS) * units);
    for (index, tile) in copy.chunks_exact_mut(HALF * UNITS).enumerate() {
        let (pair, half) = (index / 2, index % 2);
        let along_k = units / UNITS;
        let (block, step) = (pair / along_k, steps.start + pair % along_k * 2 * UNITS);
        let from = block * ROWS + half * HALF;
        let valid = count.saturating_sub(from).min(HALF);
        let (from, numbers) = (first + from, (steps.end - step).min(2 * UNITS));
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            if a.column_stride == 1 {
                copy_tile(a, from, valid, step..step + numbers, tile);
            } else if valid > 0 {
                // Rows are neighbours in memory.
                assert_eq!(a.row_stride, 1, "one stride of a matrix is 1");
                copy_columns(a, from, valid, step..step + numbers, tile);
            }
        }
    }
}

/// One tile of `valid` dense rows.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn copy_tile(
    a: Matrix<'_>,
    first: usize,
    valid: usize,
    steps: Range<usize>,
    tile: &mut [f32],
) {
    for (i, units) in tile.chunks_exact_mut(UNITS).enumerate().take(valid) {
        let row = &a.data[(first + i) * a.row_stride + steps.start..][..steps.len()];
        // SAFETY: as many numbers as there are steps are read, UNITS written; the caller vouches for the
        // instruction set.
        unsafe {
            // What this row's next tile but one is made from.
            Avx512::prefetch(row.as_ptr().wrapping_add(4 * UNITS));
            Avx512::prefetch(row.as_ptr().wrapping_add(5 * UNITS));
            Avx512::store(units.as_mut_ptr(), neighbours(row.as_ptr(), steps.len()));
        }
    }
}

/// One tile of `valid` rows that are neighbours in memory.
///
/// # Safety
/// The processor has AVX-512 bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn copy_columns(
    a: Matrix<'_>,
    first: usize,
    valid: usize,
    steps: Range<usize>,
    tile: &mut [f32],
) {
    assert!(tile.len() == HALF * UNITS && valid <= HALF);
    let column = |step: usize| match step < steps.end {
        true => a.data[step * a.column_stride + first..][..valid].as_ptr(),
        false => std::ptr::null(),
    };
    for half in [0, UNITS / 2] {
        // SAFETY: `column` checks `valid` numbers; eight units of each of the tile's rows are written;
        // the caller vouches for the instruction set.
        unsafe {
            let mut vectors = [_mm512_setzero_ps(); 8];
            for (unit, vector) in vectors.iter_mut().enumerate() {
                let step = steps.start + 2 * (half + unit);
                if step < steps.end {
                    *vector = pairs(column(step), column(step + 1), valid);
                }
            }
            Avx512::store_transposed(vectors, tile.as_mut_ptr().add(half), UNITS);
        }
    }
}

/// As [`tile::panel_product`].
///
/// # Safety
/// As there, with A's copies by [`copy_rows`], on a processor that has AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn panel_product(call: &Call<'_>, panel: &Panel) {
    // SAFETY: passed on to the caller.
    unsafe {
        match panel.columns.vectors {
            1 => rows::<1>(call, panel),
            _ => rows::<2>(call, panel),
        }
    }
}

/// Room for the sums of [`ROWS`] rows: numbers, or bits of integers.
#[repr(align(64))]
struct Sums(MaybeUninit<[[f32; WIDTH]; ROWS]>);

impl Sums {
    /// Eight rows of NV vectors.
    ///
    /// # Safety
    /// Sums were stored here; the processor has AVX-512.
    #[inline(always)]
    unsafe fn load<const NV: usize>(&self, first: usize) -> [[__m512; NV]; layout::ROWS] {
        // SAFETY: `store` writes all of them; NV vectors lie in a row; the caller vouches for the rest.
        unsafe {
            let rows = &self.0.assume_init_ref()[first..first + layout::ROWS];
            std::array::from_fn(|i| {
                std::array::from_fn(|v| Avx512::load(rows[i][16 * v..].as_ptr()))
            })
        }
    }
}

#[inline(always)]
unsafe fn rows<const NV: usize>(call: &Call<'_>, panel: &Panel) {
    let mut sums = Sums(MaybeUninit::uninit());
    // SAFETY: A's copies cover the rows, rounded up to ROWS, and whole tiles along K, as the panels do.
    unsafe {
        configure();
        for row in (0..call.rows).step_by(ROWS) {
            tile::fetch_targets::<Avx512, ROWS, NV>(call, panel, row);
            clear();
            for part in 0..2 {
                let units = call.units[part];
                if units > 0 {
                    let a = call.a[part].wrapping_add(row * units);
                    accumulate::<NV>(a, panel.data[part], units / UNITS);
                }
            }
            store(&mut sums);
            for first in eights(call, row) {
                let sums = sums.load::<NV>(first);
                tile::finish::<Avx512, { layout::ROWS }, NV>(call, panel, row + first, &sums);
            }
        }
        release();
    }
}

/// Where eight rows begin that exist, counted from `row`.
fn eights(call: &Call<'_>, row: usize) -> impl Iterator<Item = usize> + use<> {
    (0..ROWS.min(call.rows - row)).step_by(layout::ROWS)
}

/// As [`int8::panel_product`].
///
/// # Safety
/// As there, on a processor that has AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn integer_panel_product(
    call: &Call<'_>,
    panel: &Panel,
    integers: &Integers<'_>,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        match panel.columns.vectors {
            1 => integer_rows::<1>(call, panel, integers),
            _ => integer_rows::<2>(call, panel, integers),
        }
    }
}

#[inline(always)]
unsafe fn integer_rows<const NV: usize>(call: &Call<'_>, panel: &Panel, integers: &Integers<'_>) {
    let Integers { codes, weight, .. } = integers;
    let [quads, thin_units] = call.units;
    let scales = weight.scales()[panel.columns.first..][..NV * 16].as_ptr();
    let [mut sums, mut thin] = [(); 2].map(|()| Sums(MaybeUninit::uninit()));
    // SAFETY: as in `rows`; there are NV vectors of scales.
    unsafe {
        configure();
        for row in (0..call.rows).step_by(ROWS) {
            tile::fetch_targets::<Avx512, ROWS, NV>(call, panel, row);
            clear();
            accumulate_integers::<NV>(codes.tile(row, quads), panel.data[0], quads / UNITS);
            store(&mut sums);
            if thin_units > 0 {
                clear();
                let a = call.a[1].wrapping_add(row * thin_units);
                accumulate::<NV>(a, panel.data[1], thin_units / UNITS);
                store(&mut thin);
            }
            for first in eights(call, row) {
                let (rows, panel_of_codes) = ((*codes, row + first, 0), (panel.data[0], scales));
                let sums = sums.load::<NV>(first);
                let mut sums =
                    int8::scaled::<Avx512, { layout::ROWS }, NV>(sums, rows, panel_of_codes);
                if thin_units > 0 {
                    let thin = thin.load::<NV>(first);
                    for (sum, thin) in sums.iter_mut().flatten().zip(thin.iter().flatten()) {
                        *sum = Avx512::add(*sum, *thin);
                    }
                }
                tile::finish::<Avx512, { layout::ROWS }, NV>(call, panel, row + first, &sums);
            }
        }
        release();
    }
}

/// What `ldtilecfg` reads: the palette, the bytes of each tile's rows, their number.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight tiles, all of the largest shape.
static SHAPES: Shapes = {
    let (mut bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < 8 {
        (bytes[tile], rows[tile]) = (64, 16);
        tile += 1;
    }
    Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes, rows }
};

// The compiler makes no code of its own that touches tiles: they keep their shapes and numbers from one
// of the following to the next. Those of sums are 0 and 1 for the upper rows, 2 and 3 for the lower.

/// # Safety
/// The processor has AMX; likewise below.
#[inline(always)]
unsafe fn configure() {
    // SAFETY: `SHAPES` is what the instruction reads.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(readonly, nostack, preserves_flags));
    }
}

#[inline(always)]
unsafe fn release() {
    // SAFETY: no tile is in use.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
}

#[inline(always)]
unsafe fn clear() {
    // SAFETY: tiles are configured.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}

#[inline(always)]
unsafe fn store(sums: &mut Sums) {
    let upper = sums.0.as_mut_ptr().cast::<f32>();
    // SAFETY: 32 rows of 128 bytes are written.
    unsafe {
        asm!(
            "tilestored [{upper} + 1*{width}], tmm0",
            "tilestored [{upper} + 1*{width} + 64], tmm1",
            "tilestored [{lower} + 1*{width}], tmm2",
            "tilestored [{lower} + 1*{width} + 64], tmm3",
            upper = in(reg) upper,
            lower = in(reg) upper.add(HALF * WIDTH),
            width = in(reg) WIDTH * size_of::<f32>(),
            options(nostack, preserves_flags),
        );
    }
}

/// A loop over tiles along K with these instructions for each.
macro_rules! along_k {
    ($vectors:literal, $a:ident, $b:ident, $steps:ident, $($step:expr),*) => {
        asm!(
            "2:",
            $($step,)*
            "add {a}, 2048",
            "add {b}, {next}",
            "dec {steps}",
            "jnz 2b",
            a = inout(reg) $a => _,
            b = inout(reg) $b => _,
            steps = inout(reg) $steps => _,
            next = in(reg) 64 * UNITS * $vectors,
            row = in(reg) 64usize * $vectors,
            line = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack),
        )
    };
}

/// Defines a function that adds to the sums the products, by this instruction, of `steps ≥ 1` tiles along K:
/// `a` has 2 × `steps` of them, `b` 16 × `steps` rows of NV vectors.
#[rustfmt::skip]
macro_rules! accumulate {
    ($name:ident, $dot:literal) => {
        #[inline(always)]
        unsafe fn $name<const NV: usize>(a: *const f32, b: *const f32, steps: usize) {
            // SAFETY: the caller vouches for what is read, and that tiles are configured.
            unsafe {
                match NV {
                    1 => along_k!(1, a, b, steps,
                        "tileloadd tmm4, [{a} + 1*{line}]",
                        "tileloadd tmm6, [{b} + 1*{row}]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm5, [{a} + 1*{line} + 1024]",
                        concat!($dot, " tmm2, tmm5, tmm6")
                    ),
                    _ => along_k!(2, a, b, steps,
                        "tileloadd tmm4, [{a} + 1*{line}]",
                        "tileloadd tmm6, [{b} + 1*{row}]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{b} + 1*{row} + 64]",
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{a} + 1*{line} + 1024]",
                        concat!($dot, " tmm2, tmm5, tmm6"),
                        concat!($dot, " tmm3, tmm5, tmm7")
                    ),
                }
            }
        }
    };
}

accumulate!(accumulate, "tdpbf16ps");
accumulate!(accumulate_integers, "tdpbssd");

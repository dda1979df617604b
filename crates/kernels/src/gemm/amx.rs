//! Products on Intel's matrix tiles (AMX): a tile holds 16 rows of 64 bytes, and one instruction
//! multiplies 16 × 32 bf16 numbers by 32 × 16, or 16 × 64 integers by 64 × 16. The sums of a strip, 32 rows
//! and a panel's 32 columns, stay in four tiles; the other four take what is multiplied, from A's copy and
//! from B's panel as they lie there, each for two products. (Six tiles of sums would read less, but leave
//! one for A and one for B: every product would wait for a load of its own.)
//!
//! A's copy is of tiles too, of 16 rows × [`UNITS`] units (see `amx/copy.rs`). Both factors are filled up
//! with zeros to whole tiles along K (see `layout.rs`), so that there is one shape of tiles.
//!
//! Products are so fast that everything beside them counts. Along K a panel is cut into parts that stay in
//! the L1 cache, and strips' sums go from part to part as tiles. What comes after the last product is done
//! with one strip's sums while the next strip's are computed.

mod copy;
mod tiles;

pub(super) use copy::copy_rows;

use super::int8::{self, Integers};
use super::layout::{self, TILE_ROWS as ROWS, TILE_UNITS as UNITS, TILE_VECTORS};
use super::tile::{self, Call, Panel};
use crate::Lines;
use crate::simd::{Avx512, Simd};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of one tile.
const HALF: usize = ROWS / 2;
/// Numbers of a row of sums.
const WIDTH: usize = TILE_VECTORS * 16;
/// Units along K that all strips are multiplied by before the next ones: 24 KiB of a panel.
const PART: usize = 192;
const _: () = assert!(PART.is_multiple_of(UNITS), "parts are of whole tiles");

/// As [`tile::panel_product`].
///
/// # Safety
/// As there, with A's copies by [`copy_rows`], on a processor that has AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn panel_product(call: &Call<'_>, panel: &Panel) {
    // SAFETY: passed on to the caller.
    unsafe {
        match panel.columns.vectors {
            1 => strips::<Numbers, 1>(call, panel, call.a[0], &Numbers),
            _ => strips::<Numbers, 2>(call, panel, call.a[0], &Numbers),
        }
    }
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
    let a = integers.codes.tile(0, call.units[0]);
    // SAFETY: passed on to the caller.
    unsafe {
        match panel.columns.vectors {
            1 => strips::<Integers<'_>, 1>(call, panel, a, integers),
            _ => strips::<Integers<'_>, 2>(call, panel, a, integers),
        }
    }
}

/// Room for the sums of a strip: numbers, or bits of integers.
#[repr(align(64))]
struct Sums(MaybeUninit<[[f32; WIDTH]; ROWS]>);

impl Sums {
    /// # Safety
    /// Tiles are configured.
    #[inline(always)]
    unsafe fn store(&mut self) {
        // SAFETY: 32 rows of 128 bytes are written.
        unsafe { tiles::store(self.0.as_mut_ptr().cast()) }
    }

    /// Eight rows of NV vectors.
    ///
    /// # Safety
    /// Sums were stored here; the processor has AVX-512.
    #[inline(always)]
    unsafe fn eight<const NV: usize>(&self, first: usize) -> [[__m512; NV]; layout::ROWS] {
        // SAFETY: `store` writes all of them; NV vectors lie in a row; the caller vouches for the rest.
        unsafe {
            let rows = &self.0.assume_init_ref()[first..first + layout::ROWS];
            std::array::from_fn(|i| {
                std::array::from_fn(|v| Avx512::load(rows[i][16 * v..].as_ptr()))
            })
        }
    }
}

/// The sums of a strip, of both products where they lie apart.
struct Strip {
    sums: Sums,
    thin: Sums,
}

impl Strip {
    fn new() -> Strip {
        let [sums, thin] = [(); 2].map(|()| Sums(MaybeUninit::uninit()));
        Strip { sums, thin }
    }
}

/// What is multiplied, and what its sums are.
trait Kind {
    /// Whether sums are of another kind than those of the low-rank product, which lie apart then.
    const THIN_APART: bool;

    /// Adds to the sums, as [`tiles`] has it.
    unsafe fn accumulate<const NV: usize>(a: *const f32, b: *const f32, steps: usize);

    /// What the sums of eight rows, `row` the first of them, stand for.
    unsafe fn numbers<const NV: usize>(
        &self,
        panel: &Panel,
        row: usize,
        sums: [[__m512; NV]; layout::ROWS],
    ) -> [[__m512; NV]; layout::ROWS];
}

/// Pairs of bf16, summed up as numbers.
struct Numbers;

impl Kind for Numbers {
    const THIN_APART: bool = false;

    #[inline(always)]
    unsafe fn accumulate<const NV: usize>(a: *const f32, b: *const f32, steps: usize) {
        // SAFETY: passed on to the caller.
        unsafe { tiles::accumulate_bf16::<NV>(a, b, steps) }
    }

    #[inline(always)]
    unsafe fn numbers<const NV: usize>(
        &self,
        _: &Panel,
        _: usize,
        sums: [[__m512; NV]; layout::ROWS],
    ) -> [[__m512; NV]; layout::ROWS] {
        sums
    }
}

impl Kind for Integers<'_> {
    const THIN_APART: bool = true;

    #[inline(always)]
    unsafe fn accumulate<const NV: usize>(a: *const f32, b: *const f32, steps: usize) {
        // SAFETY: passed on to the caller.
        unsafe { tiles::accumulate_integers::<NV>(a, b, steps) }
    }

    #[inline(always)]
    unsafe fn numbers<const NV: usize>(
        &self,
        panel: &Panel,
        row: usize,
        sums: [[__m512; NV]; layout::ROWS],
    ) -> [[__m512; NV]; layout::ROWS] {
        let scales = self.weight.scales()[panel.columns.first..][..NV * 16].as_ptr();
        let (rows, columns) = ((self.codes, row, 0), (panel.data[0], scales));
        // SAFETY: there are NV vectors of scales; the rest is passed on to the caller.
        unsafe { int8::scaled::<Avx512, { layout::ROWS }, NV>(sums, rows, columns) }
    }
}

impl Strip {
    /// Adds the low-rank product, if there is one, to the sums of the strip at `row`, and stores them.
    #[inline(always)]
    unsafe fn complete<K: Kind, const NV: usize>(
        &mut self,
        call: &Call<'_>,
        panel: &Panel,
        row: usize,
    ) {
        let units = call.units[1];
        let a = call.a[1].wrapping_add(row * units);
        // SAFETY: passed on to the caller.
        unsafe {
            if units == 0 {
                return self.sums.store();
            }
            if K::THIN_APART {
                self.sums.store();
                tiles::clear();
            }
            tiles::accumulate_bf16::<NV>(a, panel.data[1], units / UNITS);
            if K::THIN_APART { &mut self.thin } else { &mut self.sums }.store();
        }
    }

    /// Does what comes after with eight rows of the strip at `row`, the first of them `within` it.
    #[inline(always)]
    unsafe fn finish<K: Kind, const NV: usize>(
        &self,
        call: &Call<'_>,
        panel: &Panel,
        kind: &K,
        (row, within): (usize, usize),
    ) {
        let row = row + within;
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sums = kind.numbers::<NV>(panel, row, self.sums.eight::<NV>(within));
            if K::THIN_APART && call.units[1] > 0 {
                let thin = self.thin.eight::<NV>(within);
                for (sum, thin) in sums.iter_mut().flatten().zip(thin.iter().flatten()) {
                    *sum = Avx512::add(*sum, *thin);
                }
            }
            tile::finish::<Avx512, { layout::ROWS }, NV>(call, panel, row, &sums);
        }
    }
}

/// All strips of the row block, whose copy is `a`, against one panel.
#[inline(always)]
unsafe fn strips<K: Kind, const NV: usize>(
    call: &Call<'_>,
    panel: &Panel,
    a: *const f32,
    kind: &K,
) {
    let units = call.units[0];
    let last = (units - 1) / PART * PART;
    let mut kept = if last > 0 { SUMS.take() } else { Lines::default() };
    let rows = if last > 0 { call.rows.next_multiple_of(ROWS) } else { 0 };
    let sums = kept.take(rows * WIDTH).as_mut_ptr();
    // SAFETY: A's copies cover the rows, rounded up to whole strips, and whole tiles along K, as the panels
    // do; `sums` has room for all strips, and those of one part along K are read by the next.
    unsafe {
        tiles::configure();
        for first in (0..units).step_by(PART) {
            let part = Part {
                a: a.wrapping_add(first * ROWS),
                b: panel.data[0].wrapping_add(first * NV * 16),
                stride: units,
                steps: (units - first).min(PART) / UNITS,
                before: (first > 0).then_some(sums.cast_const()),
            };
            if first < last {
                for row in (0..call.rows).step_by(ROWS) {
                    part.begin(row);
                    part.accumulate::<K, NV>(row, 0..part.steps);
                    tiles::store(sums.add(row * WIDTH));
                }
            } else {
                part.end::<K, NV>(call, panel, kind);
            }
        }
        tiles::release();
    }
    if last > 0 {
        SUMS.set(kept);
    }
}

thread_local! {
    /// All strips' sums on their way from part to part, as tiles; kept, so that the hot loop does not allocate.
    static SUMS: RefCell<Lines> = RefCell::default();
}

/// Some units along K of a panel and of a row block's copy.
struct Part {
    a: *const f32,
    b: *const f32,
    /// Units of a row.
    stride: usize,
    /// Tiles along K.
    steps: usize,
    /// The sums of the parts before, strip by strip.
    before: Option<*const f32>,
}

impl Part {
    /// Sets the sums to what the strip at `row` begins with.
    #[inline(always)]
    unsafe fn begin(&self, row: usize) {
        // SAFETY: the part before stored what is read.
        unsafe {
            match self.before {
                None => tiles::clear(),
                Some(sums) => tiles::load(sums.add(row * WIDTH)),
            }
        }
    }

    /// Adds the products of these tiles along K, if any, for the strip at `row`.
    #[inline(always)]
    unsafe fn accumulate<K: Kind, const NV: usize>(&self, row: usize, steps: Range<usize>) {
        if !steps.is_empty() {
            let a = self.a.wrapping_add(row * self.stride + steps.start * UNITS * ROWS);
            let b = self.b.wrapping_add(steps.start * UNITS * NV * 16);
            // SAFETY: passed on to the caller.
            unsafe { K::accumulate::<NV>(a, b, steps.len()) };
        }
    }

    /// The last part's products, eight rows of the strip before finished behind each quarter of them.
    #[inline(always)]
    unsafe fn end<K: Kind, const NV: usize>(&self, call: &Call<'_>, panel: &Panel, kind: &K) {
        const QUARTERS: usize = ROWS / layout::ROWS;
        let mut strips = [Strip::new(), Strip::new()];
        // SAFETY: passed on to the caller; `complete` stores what `finish` reads.
        unsafe {
            for row in (0..call.rows).step_by(ROWS) {
                let [even, odd] = &mut strips;
                let (strip, before) =
                    if (row / ROWS).is_multiple_of(2) { (even, &*odd) } else { (odd, &*even) };
                self.begin(row);
                for quarter in 0..QUARTERS {
                    let within = quarter * layout::ROWS;
                    tile::fetch_targets::<Avx512, { layout::ROWS }, NV>(call, panel, row + within);
                    let until = |quarter: usize| self.steps * quarter / QUARTERS;
                    self.accumulate::<K, NV>(row, until(quarter)..until(quarter + 1));
                    if row > 0 {
                        before.finish::<K, NV>(call, panel, kind, (row - ROWS, within));
                    }
                }
                strip.complete::<K, NV>(call, panel, row);
            }
            if let Some(row) = (0..call.rows).step_by(ROWS).next_back() {
                let strip = &strips[row / ROWS % 2];
                for within in (0..call.rows - row).step_by(layout::ROWS) {
                    strip.finish::<K, NV>(call, panel, kind, (row, within));
                }
            }
        }
    }
}

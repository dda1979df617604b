//! `C = α·A·B (+ bias) (+ C)` with B packed into panels: once at load for frozen weights, into
//! scratch for everything else.
//!
//! Layout of a packed B: K is cut into blocks; each block holds panels of `NR` columns
//! (3 vectors, on matrix tiles 2; the last panel as few vectors as it needs), each panel one row of `NR` units
//! per step of K. A unit is one f32, or for native bf16 a pair of bf16 from neighbouring rows. A is
//! read through a copy of one row block in tiles of 8 rows, the 8 units of a step side by side;
//! matrix tiles have another copy (see `amx.rs`).
//!
//! A quantised B stays as it is: each task dequantises a panel at a time and packs it the same way.
//! But `x·Wᵀ` with a W of 8-bit integers is computed in integers (see `int8.rs`).
//!
//! An element of C is summed in one order (K ascending, block by block) whatever the shape around
//! it, the thread that computes it or their number: results are bit-equal for any thread count and
//! for any grouping of rows into batches.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod bf16;
mod codes;
mod copy;
mod int8;
mod layout;
mod matrix;
mod pack;
mod right;
mod tile;

pub use matrix::Matrix;
pub use pack::PackedMatrix;
pub use right::Right;

pub(crate) use layout::Layout;

use crate::{Int8Matrix, Isa, Lines, Precision, threads};
use codes::Codes;
use layout::{TILE_COPY, TILE_ROWS};
use right::Unpacked;
use std::cell::RefCell;
use std::ops::Range;

/// Fewest rows of A per block.
const MC_LEAST: usize = 64;

/// Most rows of A per block. A block passes over all of B, which comes from L3 or memory, or is dequantised:
/// the more rows, the less that costs. Of 384 units 256 rows take 384 KiB, beside the panel in L2. Where B is
/// dequantised, and with AVX2, whose blocks are of 768, more rows cost less even though they reach into L3.
/// Matrix tiles are so fast that the copy has to stay in L2, and it may fill that: panels are in L1.
fn most_rows(layout: Layout, is_dequantized: bool) -> usize {
    if layout.has_tiles() && !is_dequantized {
        let units = layout.units(&(0..layout.rows)).min(layout.block_units());
        return (TILE_COPY / units / TILE_ROWS * TILE_ROWS).max(TILE_ROWS);
    }
    match (layout.lanes, is_dequantized) {
        (8, _) => 512,
        (_, false) => 256,
        (_, true) => 1024,
    }
}

/// What is done with the product before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Factor on the product.
    pub alpha: f32,
    /// Whether the product is added to what C holds.
    pub accumulate: bool,
    /// One number per column, added to every row.
    pub bias: Option<&'a [f32]>,
    /// A second product of the same shape, added before `alpha` is applied.
    pub low_rank: Option<LowRank<'a>>,
}

/// `z·B` of low rank: z [M, r], B [r, N] packed for the same instruction set and precision. Its r
/// steps are appended to the K of the product it is added to, whose sums stay in registers, where panels
/// of both have the same columns.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// z.
    pub z: Matrix<'a>,
    /// B.
    pub b: &'a PackedMatrix,
}

impl LowRank<'_> {
    /// Copies rows of z into tiles; returns their units.
    fn copy_rows(&self, isa: Isa, rows: &Range<usize>, copy: &mut Lines) -> usize {
        let (steps, layout) = (0..self.z.columns, self.b.layout);
        copy::copy_rows(isa, self.z, layout, rows.start, rows.len(), steps.clone(), copy);
        layout.units(&steps)
    }
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue { alpha: 1.0, accumulate: false, bias: None, low_rank: None }
    }
}

/// `C = α·A·B (+ bias) (+ C)` on the current [`Threads`](crate::Threads).
///
/// `a` is [M, K], `b` [K, N] packed, `c` [M, N] dense row-major.
///
/// # Panics
/// Shapes do not fit, or B was packed for another instruction set.
pub fn gemm<'b>(
    isa: Isa,
    a: Matrix<'_>,
    b: impl Into<Right<'b>>,
    c: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    product(isa, a, b.into(), c, epilogue, After::Nothing);
}

/// `C = GELU(U)` where U is what [`gemm`] computes; GELU′(U) [M, N] goes to `slope` where it is given.
///
/// # Panics
/// As [`gemm`], or `slope` is not M × N.
pub fn gemm_gelu<'b>(
    isa: Isa,
    a: Matrix<'_>,
    b: impl Into<Right<'b>>,
    c: &mut [f32],
    epilogue: Epilogue<'_>,
    slope: Option<&mut [f32]>,
) {
    assert!(
        slope.as_ref().is_none_or(|slope| slope.len() == c.len()),
        "slope is not as large as C"
    );
    let slope = slope.map_or(std::ptr::null_mut(), <[f32]>::as_mut_ptr);
    product(isa, a, b.into(), c, epilogue, After::Gelu { slope });
}

/// `C = U ∘ F` where U is what [`gemm`] computes and F [M, N] `factors`: the backward of an
/// elementwise function.
///
/// # Panics
/// As [`gemm`], or `factors` is not M × N.
pub fn gemm_times<'b>(
    isa: Isa,
    a: Matrix<'_>,
    b: impl Into<Right<'b>>,
    c: &mut [f32],
    epilogue: Epilogue<'_>,
    factors: &[f32],
) {
    assert_eq!(factors.len(), c.len(), "factors are not as many as C");
    product(isa, a, b.into(), c, epilogue, After::Times { factors: factors.as_ptr() });
}

/// What is done with an element of C once it is summed up. Matrices beside C have its shape.
#[derive(Clone, Copy)]
pub(crate) enum After {
    Nothing,
    /// Its GELU is stored, and the slope there unless this is null.
    Gelu {
        slope: *mut f32,
    },
    Times {
        factors: *const f32,
    },
}

// SAFETY: tasks that share these pointers use them at the elements of C that they alone write.
unsafe impl Send for After {}
// SAFETY: as above.
unsafe impl Sync for After {}

fn product(
    isa: Isa,
    a: Matrix<'_>,
    b: Right<'_>,
    c: &mut [f32],
    epilogue: Epilogue<'_>,
    after: After,
) {
    assert!(isa.is_available(), "this processor has no {isa}");
    let layout = b.layout(isa);
    let (m, n) = (a.rows, layout.columns);
    assert!(layout.rows > 0, "the inner dimension is 0");
    assert_eq!(a.columns, layout.rows, "inner dimensions differ");
    let expected = Layout::new(isa, layout.precision, layout.rows, n);
    assert_eq!(layout, expected, "B was packed for another instruction set than {isa}");
    if let Some((weight, _)) = b.integers() {
        let expected = Layout::of_quads(isa, layout.rows, n);
        assert_eq!(weight.layout(), expected, "B was quantised for another instruction set");
    }
    assert_eq!(c.len(), m * n, "C is not {m} × {n}");
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), n, "bias does not have {n} columns");
    }
    if m == 0 || n == 0 {
        return;
    }
    if let Some(LowRank { z, b: thin }) = epilogue.low_rank {
        let expected = Layout::new(isa, layout.precision, z.columns, n);
        assert_eq!(thin.layout, expected, "the second B does not fit the first");
        assert_eq!(z.rows, m, "z does not have {m} rows");
        let in_one =
            b.integers().is_none_or(|(weight, _)| weight.layout().has_panels_of(&thin.layout));
        if thin.layout.blocks().count() > 1 || !in_one {
            // Not of low rank after all, or of other panels.
            gemm(isa, a, b, c, Epilogue { low_rank: None, ..epilogue });
            let alpha = epilogue.alpha;
            let epilogue = Epilogue { alpha, accumulate: true, ..Epilogue::default() };
            return product(isa, z, thin.into(), c, epilogue, after);
        }
    }
    // Where integers are multiplied, their panels count.
    let in_panels = b.integers().map_or(layout, |(weight, _)| weight.layout());
    let panels = in_panels.panels();
    // As many tasks for each thread, of as many rows each; where rows are few, columns are cut too.
    // Which thread computes an element does not change its bits.
    let wanted = 2 * threads::count();
    let is_dequantized = matches!(b, Right::Quantized { .. }) && b.integers().is_none();
    let row_blocks = m.div_ceil(most_rows(in_panels, is_dequantized)).next_multiple_of(wanted);
    let block_rows = m.div_ceil(row_blocks).next_multiple_of(in_panels.tile_rows()).max(MC_LEAST);
    let row_blocks = m.div_ceil(block_rows);
    let column_parts = wanted.div_ceil(row_blocks).clamp(1, panels);
    let small = m * n * layout.rows < 1 << 18;
    let output = Output { data: c.as_mut_ptr(), row_stride: n };
    let task = |index: usize| {
        let (block, part) = (index / column_parts, index % column_parts);
        let rows = block * block_rows..((block + 1) * block_rows).min(m);
        let panels = part * panels / column_parts..(part + 1) * panels / column_parts;
        // SAFETY: tasks cover disjoint blocks of C, which is borrowed mutably for this call.
        unsafe {
            match b.integers() {
                Some(b) => integer_product(isa, a, b, rows, panels, output, epilogue, after),
                None => block_product(isa, a, b, rows, panels, output, epilogue, after),
            }
        }
    };
    let tasks = row_blocks * column_parts;
    if small {
        (0..tasks).for_each(task);
    } else {
        threads::for_each(0..tasks, task);
    }
}

/// `C = α·A·B (+ bias) (+ C)` where B is packed into `scratch` first.
///
/// `a` is [M, K], `b` [K, N], `c` [M, N] dense row-major.
///
/// # Panics
/// Shapes do not fit.
pub fn gemm_unpacked(
    isa: Isa,
    precision: Precision,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    epilogue: Epilogue<'_>,
    scratch: &mut PackedMatrix,
) {
    scratch.pack(isa, precision, b);
    gemm(isa, a, &*scratch, c, epilogue);
}

/// Where a product goes: rows of C start `row_stride` numbers apart.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) data: *mut f32,
    pub(crate) row_stride: usize,
}

impl Output {
    /// # Safety
    /// The element exists and no one else touches it meanwhile.
    pub(crate) unsafe fn set(&self, row: usize, column: usize, value: f32) {
        // SAFETY: passed on to the caller.
        unsafe { *self.data.add(row * self.row_stride + column) = value };
    }
}

// SAFETY: tasks that share an `Output` write disjoint elements.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// Buffers that a thread keeps between calls, so that the hot loop does not allocate.
#[derive(Default)]
struct Scratch {
    rows: Lines,
    thin_rows: Lines,
    unpacked: Unpacked,
    codes: Codes,
}

fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
    SCRATCH.with(|scratch| f(&mut scratch.borrow_mut()))
}

/// One block of rows times some panels, on this thread.
///
/// # Safety
/// `output` and the matrix of `after` have these rows and the columns of these panels, and no one
/// else touches them there meanwhile.
#[expect(clippy::too_many_arguments, reason = "three matrices, a part of them, and what is done")]
pub(crate) unsafe fn block_product(
    isa: Isa,
    a: Matrix<'_>,
    b: Right<'_>,
    rows: Range<usize>,
    panels: Range<usize>,
    output: Output,
    epilogue: Epilogue<'_>,
    after: After,
) {
    let layout = b.layout(isa);
    let mut scratch = with_scratch(std::mem::take);
    let Scratch { rows: copy, thin_rows, unpacked, .. } = &mut scratch;
    let last = layout.blocks().count() - 1;
    let thin_units = epilogue.low_rank.map_or(0, |thin| thin.copy_rows(isa, &rows, thin_rows));
    for (block, steps) in layout.blocks() {
        copy::copy_rows(isa, a, layout, rows.start, rows.len(), steps.clone(), copy);
        let thin = epilogue.low_rank.filter(|_| block == last);
        let call = tile::Call {
            a: [copy.at(0), thin_rows.at(0)],
            rows: rows.len(),
            units: [layout.units(&steps), thin.map_or(0, |_| thin_units)],
            c: output.data,
            first_row: rows.start,
            row_stride_c: output.row_stride,
            alpha: epilogue.alpha,
            accumulate: epilogue.accumulate || block > 0,
            bias: if block == 0 { epilogue.bias } else { None },
            after: if block == last { after } else { After::Nothing },
        };
        for panel in panels.clone() {
            let panel = tile::Panel {
                data: [
                    b.panel(isa, (block, &steps), panel, unpacked),
                    thin.map_or(std::ptr::null(), |thin| thin.b.panel(0, panel)),
                ],
                columns: layout.panel(panel),
                #[cfg(target_arch = "x86_64")]
                paired: layout.pair == 2,
            };
            // SAFETY: the copy covers the rows, rounded up to whole tiles; the panel is packed for
            // this instruction set; the caller vouches for C.
            unsafe { tile::panel_product(isa, &call, panel) };
        }
    }
    with_scratch(|kept| *kept = scratch);
}

/// As [`block_product`], in integers.
///
/// # Safety
/// As there.
#[expect(clippy::too_many_arguments, reason = "three matrices, a part of them, and what is done")]
unsafe fn integer_product(
    isa: Isa,
    a: Matrix<'_>,
    (weight, precision): (&Int8Matrix, Precision),
    rows: Range<usize>,
    panels: Range<usize>,
    output: Output,
    epilogue: Epilogue<'_>,
    after: After,
) {
    let layout = weight.layout();
    let mut scratch = with_scratch(std::mem::take);
    let Scratch { thin_rows, codes, .. } = &mut scratch;
    codes.fill(isa, a, rows.clone(), int8::flip(isa));
    let thin = epilogue.low_rank;
    let thin_units = thin.map_or(0, |thin| thin.copy_rows(isa, &rows, thin_rows));
    let call = tile::Call {
        a: [std::ptr::null(), thin_rows.at(0)],
        rows: rows.len(),
        units: [layout.units(&(0..layout.rows)), thin_units],
        c: output.data,
        first_row: rows.start,
        row_stride_c: output.row_stride,
        alpha: epilogue.alpha,
        accumulate: epilogue.accumulate,
        bias: epilogue.bias,
        after,
    };
    let integers = int8::Integers { codes, weight, precision };
    for panel in panels {
        let panel = tile::Panel {
            data: [
                weight.panel(panel),
                thin.map_or(std::ptr::null(), |thin| thin.b.panel(0, panel)),
            ],
            columns: layout.panel(panel),
            #[cfg(target_arch = "x86_64")]
            paired: false,
        };
        // SAFETY: codes and copy cover the rows, rounded up to whole tiles; the panels are packed
        // for this instruction set; the caller vouches for C.
        unsafe { int8::panel_product(isa, &call, panel, &integers) };
    }
    with_scratch(|kept| *kept = scratch);
}

#[cfg(test)]
mod tests;

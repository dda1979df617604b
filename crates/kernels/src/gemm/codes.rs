//! A block of A's rows as 8-bit integers, as LLM.int8() takes activations (Dettmers et al. 2022): each
//! row is divided by its largest magnitude m and multiplied by 127, rounded to nearest even.
//!
//! Outliers, numbers of magnitude [`OUTLIER`] or more, do not count for m: their code is 0, and they
//! are kept as they are, to be multiplied apart in f32. NaN and infinity are outliers too, and so
//! reach the result as they would in f32.
//!
//! Which numbers are outliers is decided row by row, as bitsandbytes decides for a single token. For
//! several tokens it takes a feature that is an outlier of one as an outlier of all, and a text's
//! answer would depend on the texts beside it. Nor are rows rounded to f16 first.

use super::Matrix;
#[cfg(target_arch = "x86_64")]
use super::int8::signs_apart;
use super::layout::{ROWS, TILE_ROWS, TILE_UNITS};
use crate::quantized::QUAD;
use crate::simd::{self, Kernel, Simd};
use crate::{Isa, Lines};
use std::ops::Range;

/// `llm_int8_threshold` of Transformers.
pub(super) const OUTLIER: f32 = 6.0;

/// Rows in codes, tile after tile of [`ROWS`].
#[derive(Default)]
pub(super) struct Codes {
    /// In a tile, quad after quad, those of its rows side by side; zeros fill up the last quad. For matrix
    /// tiles as `amx.rs` has them: of 32 rows, row after row, sixteen quads, then the next sixteen. For AVX2
    /// twice as many, signs and magnitudes (see `signs_apart.rs`).
    quads: Lines,
    /// A tile whose signs are not apart yet.
    signed: Lines,
    /// What each row's sums of integers begin with, where signs are apart.
    starts: Vec<i32>,
    /// What a step of each row's codes stands for: m/127.
    scales: Vec<f32>,
    /// Of all tiles, and how many there are up to each tile's end.
    outliers: Vec<Outlier>,
    ends: Vec<usize>,
    /// Where outliers of a tile are, as column and row.
    places: Vec<(u32, u32)>,
    /// Rows that are not contiguous, made so.
    dense: Vec<f32>,
}

/// A column of A in a tile: the outliers that are there, 0 for the other rows.
#[derive(Clone, Copy)]
pub(super) struct Outlier {
    pub(super) column: usize,
    pub(super) x: [f32; ROWS],
}

impl Codes {
    /// Fills this with rows of A. Bits of `flip` are inverted in every quad.
    pub(super) fn fill(&mut self, isa: Isa, a: Matrix<'_>, rows: Range<usize>, flip: u32) {
        let order = if isa.has_tiles() { Order::AlongK } else { Order::Across };
        let quads = match order {
            Order::Across => a.columns.div_ceil(QUAD),
            Order::AlongK => a.columns.div_ceil(QUAD).next_multiple_of(TILE_UNITS),
        };
        let tiles = rows.len().div_ceil(ROWS);
        let apart = super::int8::has_signs_apart(isa);
        let units = if apart { 2 * quads } else { quads };
        let codes = self.quads.take(rows.len().next_multiple_of(TILE_ROWS) * units);
        self.scales.resize(self.scales.len().max(tiles * ROWS), 0.0);
        self.starts.resize(self.starts.len().max(tiles * ROWS), 0);
        self.outliers.clear();
        self.ends.clear();
        for index in 0..tiles {
            let first = rows.start + index * ROWS;
            let valid = (rows.end - first).min(ROWS);
            let (data, stride) = if a.column_stride == 1 {
                (&a.data[first * a.row_stride..], a.row_stride)
            } else {
                self.dense.clear();
                for row in first..first + valid {
                    let row = a.data[row * a.row_stride..].iter().step_by(a.column_stride);
                    self.dense.extend(row.take(a.columns));
                }
                (&self.dense[..], a.columns)
            };
            // Rows beyond the last one repeat it; no one reads their results.
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|i| &data[i.min(valid - 1) * stride..][..a.columns]);
            let start = order.start(index, quads);
            let (tile, split) = if apart {
                let units = quads * ROWS;
                (self.signed.take(units), Some(&mut codes[2 * start..][..2 * units]))
            } else {
                (&mut codes[start..], None)
            };
            self.places.clear();
            let places = &mut self.places;
            let next = if a.column_stride == 1 { ROWS * stride } else { 0 };
            let scales = &mut self.scales[index * ROWS..][..ROWS];
            simd::run(isa, Tile { rows, valid, next, flip, order, tile, scales, places });
            self.places.sort_unstable();
            for of_column in self.places.chunk_by(|a, b| a.0 == b.0) {
                let column = of_column[0].0 as usize;
                let mut x = [0.0; ROWS];
                for &(_, row) in of_column {
                    x[row as usize] = rows[row as usize][column];
                    // An outlier's code is 0.
                    let quad = &mut tile[order.place(column / QUAD, row as usize)];
                    let bits = 0xff << (8 * (column % QUAD));
                    *quad = f32::from_bits(quad.to_bits() & !bits | flip & bits);
                }
                self.outliers.push(Outlier { column, x });
            }
            if let Some(split) = split {
                let starts = take_signs_apart(tile, split);
                self.starts[index * ROWS..][..ROWS].copy_from_slice(&starts);
            }
            self.ends.push(self.outliers.len());
        }
    }

    /// Quads of the tile of rows that begins at `row`, a multiple of [`ROWS`] beyond
    /// the first, or of [`TILE_ROWS`] for matrix tiles; `units` of each row, twice the quads where signs
    /// are apart.
    pub(super) fn tile(&self, row: usize, units: usize) -> *const f32 {
        self.quads.at(row * units)
    }

    /// What sums of each row of the tile at `row` begin with, where signs are apart.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only AVX2 has signs apart")
    )]
    pub(super) fn starts(&self, row: usize) -> &[i32] {
        &self.starts[row..]
    }

    /// What a step of each row of the tile at `row` stands for.
    pub(super) fn scales(&self, row: usize) -> &[f32] {
        &self.scales[row..]
    }

    /// Outliers of the tile at `row`, columns ascending.
    pub(super) fn outliers(&self, row: usize) -> &[Outlier] {
        let tile = row / ROWS;
        let start = if tile == 0 { 0 } else { self.ends[tile - 1] };
        &self.outliers[start..self.ends[tile]]
    }
}

/// See `signs_apart.rs`; only AVX2 has them so.
#[cfg(target_arch = "x86_64")]
fn take_signs_apart(codes: &[f32], apart: &mut [f32]) -> [i32; ROWS] {
    // SAFETY: the codes are of a kernel that `simd::run` ran on AVX2.
    unsafe { signs_apart::take_signs_apart(codes, apart) }
}

#[cfg(not(target_arch = "x86_64"))]
fn take_signs_apart(_: &[f32], _: &mut [f32]) -> [i32; ROWS] {
    unreachable!("AVX2 is another architecture's")
}

/// How quads of [`ROWS`] rows lie.
#[derive(Clone, Copy)]
enum Order {
    /// Those of all rows side by side.
    Across,
    /// Of each row in turn [`TILE_UNITS`], which are a row of a matrix tile.
    AlongK,
}

impl Order {
    /// Where tile `index` begins, of `quads` a row.
    fn start(self, index: usize, quads: usize) -> usize {
        match self {
            Order::Across => index * ROWS * quads,
            Order::AlongK => {
                let (block, within) = (index * ROWS / TILE_ROWS, index * ROWS % TILE_ROWS);
                block * TILE_ROWS * quads + within * TILE_UNITS
            }
        }
    }

    /// Where a quad is in its tile.
    fn place(self, quad: usize, row: usize) -> usize {
        match self {
            Order::Across => quad * ROWS + row,
            Order::AlongK => {
                let (step, within) = (quad / TILE_UNITS, quad % TILE_UNITS);
                (step * TILE_ROWS + row) * TILE_UNITS + within
            }
        }
    }
}

/// One tile of rows; outliers get any code.
struct Tile<'a> {
    rows: [&'a [f32]; ROWS],
    valid: usize,
    /// How far the next tile's rows are behind these.
    next: usize,
    flip: u32,
    order: Order,
    tile: &'a mut [f32],
    scales: &'a mut [f32],
    places: &'a mut Vec<(u32, u32)>,
}

impl Kernel for Tile<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Tile { rows, valid, next, flip, order, tile, scales, places } = self;
        let columns = rows[0].len();
        let mut inverses = [0.0; ROWS];
        for (i, row) in rows.iter().enumerate().take(valid) {
            // SAFETY: `simd::run` chose `S`.
            let largest = unsafe { survey::<S>(row, next, i as u32, places) };
            // Where even 127/m is infinite, all codes are 0.
            let inverse = 127.0 / largest;
            (inverses[i], scales[i]) =
                if inverse.is_finite() { (inverse, largest / 127.0) } else { (0.0, 0.0) };
        }
        let step = QUAD * S::LANES;
        for first in (0..columns).step_by(step) {
            let count = (columns - first).min(step);
            // SAFETY: `count` numbers of each row from `first` on are read, and their quads written;
            // `simd::run` chose `S`.
            unsafe {
                let mut vectors = [S::splat(0.0); ROWS];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    let x = rows[i].as_ptr().add(first);
                    let four = if count == step { four::<S>(x) } else { first_four::<S>(x, count) };
                    *vector = S::to_quads(scaled::<S>(four, inverses[i]), flip);
                }
                let tile = &mut tile[order.place(first / QUAD, 0)..];
                if let Order::AlongK = order {
                    for (vector, row) in vectors.into_iter().zip(tile.chunks_mut(TILE_UNITS)) {
                        S::store(row[..S::LANES].as_mut_ptr(), vector);
                    }
                    continue;
                }
                let tile = &mut tile[..count.div_ceil(QUAD) * ROWS];
                if count == step {
                    S::store_transposed(vectors, tile.as_mut_ptr(), ROWS);
                } else {
                    let mut spare = [0.0; ROWS * MOST_LANES];
                    S::store_transposed(vectors, spare.as_mut_ptr(), ROWS);
                    tile.copy_from_slice(&spare[..tile.len()]);
                }
            }
        }
    }
}

/// Lanes of the widest vectors.
const MOST_LANES: usize = 16;

/// The largest magnitude of a row but for outliers, whose places are noted.
#[inline(always)]
unsafe fn survey<S: Simd>(
    row: &[f32],
    next: usize,
    number: u32,
    places: &mut Vec<(u32, u32)>,
) -> f32 {
    let whole = row.len() / S::LANES * S::LANES;
    // SAFETY: LANES numbers from each step on, or as many as there are, lie in the row; the caller
    // vouches for `S`.
    unsafe {
        let mut largest = S::splat(0.0);
        for first in (0..row.len()).step_by(S::LANES) {
            let p = row.as_ptr().add(first);
            S::prefetch(p.wrapping_add(next));
            let x = if first < whole { S::load(p) } else { S::load_first(p, row.len() - first) };
            let (magnitudes, others) = S::below(x, OUTLIER);
            largest = S::max(magnitudes, largest);
            if others != 0 {
                note(others, first, number, places);
            }
        }
        S::maximum(largest)
    }
}

/// Notes the outliers among the lanes of a vector.
#[cold]
fn note(mut lanes: u32, first: usize, number: u32, places: &mut Vec<(u32, u32)>) {
    while lanes != 0 {
        places.push((first as u32 + lanes.trailing_zeros(), number));
        lanes &= lanes - 1;
    }
}

#[inline(always)]
unsafe fn four<S: Simd>(p: *const f32) -> [S::F; 4] {
    // SAFETY: passed on to the caller.
    unsafe {
        [
            S::load(p),
            S::load(p.add(S::LANES)),
            S::load(p.add(2 * S::LANES)),
            S::load(p.add(3 * S::LANES)),
        ]
    }
}

/// As [`four`], of which the first `count` numbers exist; the others are 0.
#[inline(always)]
unsafe fn first_four<S: Simd>(p: *const f32, count: usize) -> [S::F; 4] {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut vectors = [S::splat(0.0); 4];
        for (i, vector) in vectors.iter_mut().enumerate() {
            let first = i * S::LANES;
            if first < count {
                *vector = S::load_first(p.add(first), (count - first).min(S::LANES));
            }
        }
        vectors
    }
}

#[inline(always)]
unsafe fn scaled<S: Simd>([a, b, c, d]: [S::F; 4], factor: f32) -> [S::F; 4] {
    // SAFETY: register arithmetic; the caller vouches for `S`.
    unsafe {
        let factor = S::splat(factor);
        [S::mul(a, factor), S::mul(b, factor), S::mul(c, factor), S::mul(d, factor)]
    }
}

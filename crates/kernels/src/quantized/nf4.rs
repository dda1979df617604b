//! 4-bit NormalFloat (Dettmers et al. 2023, "QLoRA"), bit for bit as bitsandbytes 0.50 stores it:
//! the weight, row after row, is cut into blocks of 64; a block keeps its largest magnitude and, of
//! each number divided by it, the nearest of 16 values. Two codes share a byte, the first in the
//! high half. With double quantisation the magnitudes, less their mean, are kept in 8 bits.

use super::dynamic;
use crate::Isa;
use crate::simd::{self, Kernel, Simd};
use half::{bf16, f16};
use std::ops::Range;

/// The values of the 16 codes.
pub const NF4_CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Numbers per block.
const BLOCK: usize = 64;
/// Magnitudes per block of double quantisation.
const NESTED_BLOCK: usize = 256;

/// The type a weight had before it was quantised: dequantised numbers are rounded to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// `float32`.
    F32,
    /// `bfloat16`.
    Bf16,
    /// `float16`.
    F16,
}

/// The largest magnitudes of all blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Nf4Absmax {
    /// As they are.
    Plain(Vec<f32>),
    /// `map[codes[i]]·absmax[i / block] + offset`.
    Nested {
        /// One per block of the weight.
        codes: Vec<u8>,
        /// One per block of codes.
        absmax: Vec<f32>,
        /// Values of the codes.
        map: Box<[f32; 256]>,
        /// Codes per block.
        block: usize,
        /// Mean of the magnitudes.
        offset: f32,
    },
}

impl Nf4Absmax {
    /// Keeps magnitudes in 8 bits.
    fn nested(plain: &[f32]) -> Self {
        let mean = plain.iter().map(|&x| f64::from(x)).sum::<f64>() / plain.len().max(1) as f64;
        let (offset, map) = (mean as f32, Box::new(dynamic::code()));
        let (mut codes, mut absmax) = (Vec::with_capacity(plain.len()), Vec::new());
        for block in plain.chunks(NESTED_BLOCK) {
            let largest = block.iter().fold(0.0f32, |m, x| m.max((x - offset).abs()));
            absmax.push(largest);
            let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
            codes.extend(block.iter().map(|x| dynamic::nearest(&map, (x - offset) * inverse)));
        }
        Nf4Absmax::Nested { codes, absmax, map, block: NESTED_BLOCK, offset }
    }

    fn len(&self) -> usize {
        match self {
            Nf4Absmax::Plain(values) => values.len(),
            Nf4Absmax::Nested { codes, .. } => codes.len(),
        }
    }

    #[inline(always)]
    fn get(&self, index: usize) -> f32 {
        match self {
            Nf4Absmax::Plain(values) => values[index],
            Nf4Absmax::Nested { codes, absmax, map, block, offset } => {
                map[usize::from(codes[index])] * absmax[index / block] + offset
            }
        }
    }
}

/// A weight [out, in] in 4 bits a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4Matrix {
    codes: Vec<u8>,
    absmax: Nf4Absmax,
    block: usize,
    rows: usize,
    columns: usize,
    stored: StoredType,
}

impl Nf4Matrix {
    /// Quantises a dense weight of `columns` numbers a row.
    ///
    /// # Panics
    /// `weight` is not whole rows of `columns` numbers.
    pub fn quantize(weight: &[f32], columns: usize, double: bool) -> Self {
        assert!(columns > 0 && weight.len().is_multiple_of(columns), "not whole rows");
        let thresholds: [f32; 15] = std::array::from_fn(|i| {
            ((f64::from(NF4_CODE[i]) + f64::from(NF4_CODE[i + 1])) / 2.0) as f32
        });
        let mut absmax = Vec::with_capacity(weight.len().div_ceil(BLOCK));
        let mut codes = vec![0u8; weight.len().div_ceil(2)];
        for (index, block) in weight.chunks(BLOCK).enumerate() {
            let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            absmax.push(largest);
            let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
            for (i, x) in block.iter().enumerate() {
                let x = x * inverse;
                let code = thresholds.iter().filter(|&&threshold| x > threshold).count() as u8;
                let at = index * BLOCK + i;
                codes[at / 2] |= if at.is_multiple_of(2) { code << 4 } else { code };
            }
        }
        let absmax = if double { Nf4Absmax::nested(&absmax) } else { Nf4Absmax::Plain(absmax) };
        let rows = weight.len() / columns;
        Nf4Matrix { codes, absmax, block: BLOCK, rows, columns, stored: StoredType::F32 }
    }

    /// A weight as bitsandbytes stored it; `None` where its parts do not fit each other.
    pub fn from_parts(
        codes: Vec<u8>,
        absmax: Nf4Absmax,
        block: usize,
        (rows, columns): (usize, usize),
        stored: StoredType,
    ) -> Option<Self> {
        let size = rows.checked_mul(columns).filter(|&size| size > 0)?;
        let nested_fits = match &absmax {
            Nf4Absmax::Plain(_) => true,
            Nf4Absmax::Nested { codes, absmax, block, .. } => {
                *block > 0 && absmax.len() == codes.len().div_ceil(*block)
            }
        };
        let fits = block > 0
            && block.is_multiple_of(2)
            && codes.len() == size.div_ceil(2)
            && absmax.len() == size.div_ceil(block);
        let finite = |absmax: &Nf4Absmax| (0..absmax.len()).all(|i| absmax.get(i).is_finite());
        (fits && nested_fits && finite(&absmax)).then_some(Nf4Matrix {
            codes,
            absmax,
            block,
            rows,
            columns,
            stored,
        })
    }

    /// Codes, two a byte.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Codes, two a byte, of a matrix no longer needed.
    pub fn into_codes(self) -> Vec<u8> {
        self.codes
    }

    /// The type it had before, to which dequantised numbers are rounded.
    pub fn stored(&self) -> StoredType {
        self.stored
    }

    /// Numbers per block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The blocks' magnitudes.
    pub fn absmax(&self) -> &Nf4Absmax {
        &self.absmax
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers per row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.len()
            + match &self.absmax {
                Nf4Absmax::Plain(values) => size_of_val(&values[..]),
                Nf4Absmax::Nested { codes, absmax, .. } => codes.len() + size_of_val(&absmax[..]),
            }
    }

    pub(super) fn dequantize(
        &self,
        isa: Isa,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        simd::run(isa, Dequantize { matrix: self, rows, columns, out });
        match self.stored {
            StoredType::F32 => {}
            StoredType::Bf16 => out.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
            StoredType::F16 => out.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        }
    }
}

struct Dequantize<'a> {
    matrix: &'a Nf4Matrix,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Nf4Matrix { codes, absmax, block, columns, .. } = self.matrix;
        for (row, out) in self.rows.zip(self.out.chunks_exact_mut(self.columns.len())) {
            let mut at = row * columns + self.columns.start;
            let mut left = out;
            while !left.is_empty() {
                let index = at / block;
                let count = ((index + 1) * block - at).min(left.len());
                let (now, later) = left.split_at_mut(count);
                let codes = &codes[at / 2..(at + count).div_ceil(2)];
                // SAFETY: `simd::run` chose `S`.
                unsafe { part_of_block::<S>(codes, at % 2, absmax.get(index), now) };
                at += count;
                left = later;
            }
        }
    }
}

/// Numbers of one block; the first is number `odd` of the first byte.
#[inline(always)]
unsafe fn part_of_block<S: Simd>(codes: &[u8], odd: usize, absmax: f32, out: &mut [f32]) {
    let whole = if odd == 0 { out.len() / S::LANES * S::LANES } else { 0 };
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: LANES / 2 bytes from `i / 2` on and LANES numbers from `i` on lie inside the
        // slices; the caller vouches for `S`.
        unsafe {
            let x = S::lookup_nibbles(&NF4_CODE, codes.as_ptr().add(i / 2));
            S::store(out.as_mut_ptr().add(i), S::mul(x, S::splat(absmax)));
        }
    }
    for (i, x) in out.iter_mut().enumerate().skip(whole) {
        let byte = codes[(i + odd) / 2];
        let code = if (i + odd).is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        *x = NF4_CODE[usize::from(code)] * absmax;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37) % 101) as f32 * 0.004 - 0.2).collect()
    }

    /// The bits that bitsandbytes' table has.
    #[test]
    fn the_code_book_is_the_published_one() {
        let bits = [
            0xbf80_0000u32,
            0xbf32_39b1,
            0xbf06_6b30,
            0xbeca_32a0,
            0xbe91_a24d,
            0xbe3d_353f,
            0xbdba_7871,
            0,
            0x3da2_faff,
            0x3e24_cae3,
            0x3e7c_04dd,
            0x3ead_033a,
            0x3ee1_a4b8,
            0x3f10_07ab,
            0x3f39_13b3,
            0x3f80_0000,
        ];
        assert_eq!(NF4_CODE.map(f32::to_bits), bits);
    }

    #[test]
    fn every_range_of_a_row_is_the_codes_value_times_the_magnitude() {
        let (rows, columns) = (3, 150); // blocks begin and end inside rows
        let weight = numbers(rows * columns);
        for double in [false, true] {
            let matrix = Nf4Matrix::quantize(&weight, columns, double);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                for range in [0..150, 1..150, 5..6, 63..65, 17..100, 64..128] {
                    for row in 0..rows {
                        let mut out = vec![f32::NAN; range.len()];
                        matrix.dequantize(isa, row..row + 1, range.clone(), &mut out);
                        for (x, column) in out.into_iter().zip(range.clone()) {
                            let at = row * columns + column;
                            let byte = matrix.codes[at / 2];
                            let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                            let exact = NF4_CODE[usize::from(code)] * matrix.absmax.get(at / BLOCK);
                            assert_eq!(x, exact, "{isa} {at}");
                            // The widest gap of the code book, and what double quantisation adds.
                            let bound = 0.16 * 0.2 + if double { 0.01 } else { 0.0 };
                            assert!((x - weight[at]).abs() <= bound, "{x} {}", weight[at]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_block_of_zeros_has_the_middle_code() {
        let matrix = Nf4Matrix::quantize(&[0.0; 5], 5, false);
        assert_eq!(matrix.codes, [0x77, 0x77, 0x70]);
    }

    #[test]
    fn half_a_byte_and_little_more_per_number() {
        let matrix = Nf4Matrix::quantize(&numbers(768 * 768), 768, true);
        assert!(matrix.bytes() as f64 / (768.0 * 768.0) < 0.517);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let parts = |codes, absmax, block| {
            let absmax = Nf4Absmax::Plain(vec![1.0; absmax]);
            Nf4Matrix::from_parts(vec![0; codes], absmax, block, (2, 64), StoredType::F32)
        };
        assert!(parts(64, 2, 64).is_some());
        assert!(parts(63, 2, 64).is_none());
        assert!(parts(64, 1, 64).is_none());
        assert!(parts(64, 2, 0).is_none());
        let infinite = Nf4Absmax::Plain(vec![1.0, f32::INFINITY]);
        let shape = (2, 64);
        assert!(Nf4Matrix::from_parts(vec![0; 64], infinite, 64, shape, StoredType::F32).is_none());
        let huge = (usize::MAX, 2);
        let plain = Nf4Absmax::Plain(vec![]);
        assert!(Nf4Matrix::from_parts(vec![], plain, 64, huge, StoredType::F32).is_none());
    }
}

//! The forms in which weights are written, and how a tensor becomes them.
//!
//! Whole: f32. In 8 bits: matrices per output, embeddings per row, symmetric around 0 as
//! `w ≈ q·scale`, with the scale such that the largest magnitude of a row of W is 127. Matrices are
//! written as unsigned bytes around 128: with signed ones onnxruntime's products saturate on processors
//! with AVX2 or AVX-512 and no VNNI, and are wrong by half of the largest logit (measured on 1.32).

use super::proto::{FLOAT, INT8, UINT8};

/// The byte that stands for 0 in [`Form::TransposedCodes`].
pub(crate) const ZERO: u8 = 128;

/// What is made of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// A matrix [out, in] as [in, out], which a product reads without transposing it first.
    Transposed,
    /// A matrix [out, in] in 8 bits, as [in, out].
    TransposedCodes,
    /// A table [rows, columns] in 8 bits.
    Codes,
    /// The scales of either's rows, one a row.
    Scales,
    /// The same as a column [rows, 1].
    ColumnOfScales,
}

impl Form {
    /// What follows the tensor's name.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Form::Plain => "",
            Form::Transposed => ".transposed",
            Form::TransposedCodes => ".transposed.uint8",
            Form::Codes => ".int8",
            Form::Scales | Form::ColumnOfScales => ".scale",
        }
    }

    /// Type and shape of a tensor of this shape in this form.
    pub(crate) fn kind(self, shape: &[usize]) -> (i32, Vec<usize>) {
        let transposed = || shape.iter().rev().copied().collect();
        match self {
            Form::Plain => (FLOAT, shape.to_vec()),
            Form::Transposed => (FLOAT, transposed()),
            Form::TransposedCodes => (UINT8, transposed()),
            Form::Codes => (INT8, shape.to_vec()),
            Form::Scales => (FLOAT, shape[..1].to_vec()),
            Form::ColumnOfScales => (FLOAT, vec![shape[0], 1]),
        }
    }

    /// The bytes of a tensor of this shape in this form.
    pub(crate) fn bytes(self, data: &[f32], shape: &[usize]) -> Vec<u8> {
        let columns = shape.last().copied().unwrap_or(1);
        let floats =
            |data: &mut dyn Iterator<Item = f32>| data.flat_map(f32::to_le_bytes).collect();
        match self {
            Form::Plain => floats(&mut data.iter().copied()),
            Form::Transposed => floats(&mut transposed(data, columns)),
            Form::TransposedCodes => {
                let codes = codes(data, columns);
                transposed(&codes, columns).map(|code| code.wrapping_add(ZERO)).collect()
            }
            Form::Codes => codes(data, columns),
            Form::Scales | Form::ColumnOfScales => {
                floats(&mut data.chunks_exact(columns).map(scale))
            }
        }
    }
}

fn transposed<T: Copy>(data: &[T], columns: usize) -> impl Iterator<Item = T> {
    (0..columns).flat_map(move |column| data.iter().skip(column).step_by(columns).copied())
}

/// The scale of a row; 1 where all are 0.
fn scale(row: &[f32]) -> f32 {
    match row.iter().fold(0.0, |most: f32, x| most.max(x.abs())) {
        0.0 => 1.0,
        most => most / 127.0,
    }
}

fn codes(data: &[f32], columns: usize) -> Vec<u8> {
    let row = |row: &[f32]| -> Vec<u8> {
        let scale = scale(row);
        row.iter().map(|x| (x / scale).round_ties_even() as i8 as u8).collect()
    };
    data.chunks_exact(columns).flat_map(row).collect()
}
